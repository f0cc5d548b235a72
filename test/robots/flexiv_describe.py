"""
Describe an SDK of Flexiv's as plain JSON: run by an interpreter that has the real one.

``test_flexiv_conformance.py`` runs it there and loads it here, for the stand-in.
"""

import json
import sys
import time

ENUMS = ('Mode', 'OperationalStatus', 'CoordType', 'JointGroup')
NOT_OURS = ('Level', 'level', 'timestamp')  # of RobotEvent
STRUCTS = ('RobotStates', 'RobotInfo', 'NrtCartesianCmd')


def names(thing):
    return sorted(name for name in dir(thing) if not name.startswith('_'))


def trouble(call):
    """Name the exception that a call raises; '' for none."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return ''


def describe(sdk, wrong):
    """Describe enumerations, structs, and what is said to ``wrong`` arguments of a command."""
    found = {}
    for name in ENUMS:
        if hasattr(sdk, name):
            kind = getattr(sdk, name)
            found[name] = {
                'members': {key: int(value.value) for key, value in kind.__members__.items()},
                'equal to an int': kind(0) == 0,
                'text': str(kind(0)),
            }
    for name in STRUCTS:
        empty = getattr(sdk, name)()
        found[name] = {field: getattr(empty, field) for field in names(empty)}
        found[f'{name}.other'] = trouble(lambda empty=empty: setattr(empty, 'other', 1))
    event = sdk.RobotEvent()
    fields = [name for name in names(event) if name not in NOT_OURS]
    found['RobotEvent'] = {field: getattr(event, field) for field in fields}
    found['pose_d'] = trouble(lambda: setattr(sdk.NrtCartesianCmd(), 'pose_d', [1.0]))
    found['wrong'] = [trouble(lambda args=args: sdk.NrtCartesianCmd(*args)) for args in wrong]
    return found


def absent(sdk, serial):
    """Return how long a robot is looked for that is not there, and what is said then."""
    began = time.monotonic()
    try:
        sdk.Robot(serial, ['127.0.0.1'], False)
    except RuntimeError as error:
        return [time.monotonic() - began, str(error)]
    return [0.0, '']


def main():
    import flexivrdk as sdk

    given = json.loads(sys.stdin.read())
    found = describe(sdk, given['wrong'])
    found['version'] = sdk.__version__
    robot = sdk.Robot
    found['docs'] = {n: getattr(robot, n).__doc__ or '' for n in dir(robot) if hasattr(robot, n)}
    found['serials'] = [
        trouble(lambda serial=serial: robot(serial, ['127.0.0.1'], False))
        for serial in given['serials']
    ]
    found['absent'] = [absent(sdk, serial) for serial in given['absent']]
    still = [0.0] * 6
    command = sdk.NrtCartesianCmd(given['pose'], still, still, *given['limits'])
    found['command'] = {name: getattr(command, name) for name in names(command)}
    print('DESCRIBED' + json.dumps(found))


if __name__ == '__main__':
    main()
