"""
``dmo``: every step from play data to a robot that acts, as one command each.

Nothing heavy is imported until a command needs it.  Exit codes: 0 done, 1 done and the news is bad
(a check that fails), 2 it could not be done (one sentence says why and what to do), 130
interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import json
import os
import sys
from typing import Any

HELP = """usage: dmo COMMAND [...]

  doctor                     what works on this machine, what is missing, and the fix
  demo                       the whole loop on a simulated robot; ends with a table
  up GRAPH [name:=value ...] a graph of ROS 2 nodes: a task's, or record_play
  keyboard [NAMESPACE]       this terminal's keys as a pad
  lifecycle NODE ACTION      lead policy or bridge on: configure, activate, deactivate, get
  security make DIR --task T a DDS-Security keystore of least privilege

  record TASK -o BAG         record play data        recover BAG      rescue a cut recording
  check BAG|DATASET          is it fit to learn?     convert BAG -o DATASET
  relabel DATASET -o DATASET change intent labels

  train STAGE                tokenizer | global | reward | local | policy | ppo
  export RUN -o FILE.onnx    the deployable policy   verify FILE.onnx its contract and hash
  eval POLICY                success with intervals, batched or through the graph

`dmo COMMAND --help` describes one of them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ('-h', '--help', 'help'):
        print(HELP)
        return 0 if words else 2
    command = COMMANDS.get(words[0])
    if command is None:
        import difflib

        near = difflib.get_close_matches(words[0], COMMANDS, 1)
        hint = f'; did you mean {near[0]!r}?' if near else ''
        print(
            f'dmo: there is no command {words[0]!r}{hint} (dmo --help lists them)', file=sys.stderr
        )
        return 2
    try:
        return command(words[1:])
    except BrokenPipeError:  # `dmo ... | head`: nobody reads on, and that is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f'dmo {words[0]}: interrupted', file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(
            f'dmo {words[0]}: {error.name} is not installed here; `dmo doctor` names the extra '
            'that brings it',
            file=sys.stderr,
        )
        return 2
    except (ValueError, RuntimeError, OSError) as error:
        print(f'dmo {words[0]}: {error}', file=sys.stderr)
        return 2


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f'dmo {name}', description=description)


def _print(facts: dict[str, Any], as_json: bool) -> None:
    """Show facts as JSON, or one to a line."""
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        if value not in (None, {}, []):
            print(f'{name:>16}  {value}')


def _doctor(words: Sequence[str]) -> int:
    from . import doctor

    return doctor.main(words)


def _up(words: Sequence[str]) -> int:
    from . import up

    return up.main(words)


def _lifecycle(words: Sequence[str]) -> int:
    from . import lifecycle

    return lifecycle.main(words)


def _keyboard(words: Sequence[str]) -> int:
    parser = _parser('keyboard', "This terminal's keys as a pad, for a graph with pad:=xbox.")
    parser.add_argument('namespace', nargs='?', default='', help='of the graph')
    given = parser.parse_args(words)
    from .graph import environment
    from .nodes import keyboard

    os.environ.update(environment())
    place = ['-r', f'__ns:=/{given.namespace.strip("/")}']
    return keyboard.main(['--ros-args', *place])


def _security(words: Sequence[str]) -> int:
    from . import security

    return security.main(words)


def _demo(words: Sequence[str]) -> int:
    from . import demo

    return demo.main(words)


def _record(words: Sequence[str]) -> int:
    parser = _parser('record', 'Run a graph and record play until there is enough, or Ctrl-C.')
    parser.add_argument('task')
    parser.add_argument('-o', '--out', required=True, help='a new folder for the recording')
    parser.add_argument('--frames', type=int, default=20000, help='0: no limit')
    parser.add_argument('--seconds', type=float, default=0.0, help='wall time; 0: no limit')
    parser.add_argument('--speed', type=float, default=100.0, help='of a twin, times real time')
    parser.add_argument('--operator', default='play', help='play, expert, random, watch or none')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--json', action='store_true')
    given = parser.parse_args(words)
    from . import record

    return record.main(
        given.task,
        given.out,
        given.json,
        frames=given.frames,
        speed=given.speed,
        operator=given.operator,
        seed=given.seed,
        seconds=given.seconds,
    )


def _recover(words: Sequence[str]) -> int:
    parser = _parser('recover', 'Make a recording that was cut readable again.')
    parser.add_argument('bag')
    parser.add_argument('--json', action='store_true')
    given = parser.parse_args(words)
    from .core.rosbag import recover

    facts = recover(given.bag)
    if not given.json:
        for inner in ('custom', 'whole', 'end'):
            facts.pop(inner, None)
    _print(facts, given.json)
    return 0


def _check(words: Sequence[str]) -> int:
    parser = _parser('check', 'Judge a recording or a dataset: gaps, drops, labels, alignment.')
    parser.add_argument('path')
    parser.add_argument('--task')
    parser.add_argument('--picture', help='write a picture of the findings here (PNG)')
    parser.add_argument('--json', action='store_true')
    given = parser.parse_args(words)
    from dmo_training import check

    return check.main(given.path, given.task, given.json, given.picture)


def _convert(words: Sequence[str]) -> int:
    parser = _parser('convert', 'Turn recordings into a dataset on the control grid.')
    parser.add_argument('bag', nargs='+')
    parser.add_argument('-o', '--out', required=True)
    parser.add_argument('--task', default='pusher')
    parser.add_argument('--append', action='store_true', help='add to a dataset that exists')
    parser.add_argument('--json', action='store_true')
    given = parser.parse_args(words)
    from dmo_training.convert import convert

    _print(convert(given.bag, given.out, given.task, append=given.append), given.json)
    return 0


def _relabel(words: Sequence[str]) -> int:
    parser = _parser('relabel', 'Copy a dataset with other labels; frames are shared.')
    parser.add_argument('dataset')
    parser.add_argument('-o', '--out', required=True)
    parser.add_argument('--task')
    parser.add_argument('--shift', type=int, default=0, help='move labels earlier, in frames')
    parser.add_argument('--reach', type=int, default=0, help='let milestones begin earlier')
    parser.add_argument('--ignore', type=int, default=0, help='leave out frames at each switch')
    parser.add_argument('--json', action='store_true')
    given = parser.parse_args(words)
    from dmo_training.relabel import relabel, RelabelConfig

    config = RelabelConfig(given.shift, given.reach, given.ignore)
    _print(relabel(given.dataset, given.out, config, given.task), given.json)
    return 0


def _train(words: Sequence[str]) -> int:
    from dmo_training import command

    given = command.parser('dmo train').parse_args(words)
    print(command.train_as_given(given.stage, given))
    return 0


def _export(words: Sequence[str]) -> int:
    from dmo_training import export

    return export.main(words)


def _verify(words: Sequence[str]) -> int:
    parser = _parser('verify', 'Check a policy file: hash, contract, golden outputs, signature.')
    parser.add_argument('policy')
    parser.add_argument('--task', help='refuse a policy of another task')
    parser.add_argument('--json', action='store_true')
    given = parser.parse_args(words)
    from .core.policy import verify
    from .core.tasks import get_task

    _print(verify(given.policy, get_task(given.task) if given.task else None), given.json)
    return 0


def _eval(words: Sequence[str]) -> int:
    from dmo_training import evaluate

    return evaluate.main(words)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    'doctor': _doctor,
    'demo': _demo,
    'up': _up,
    'keyboard': _keyboard,
    'lifecycle': _lifecycle,
    'security': _security,
    'record': _record,
    'recover': _recover,
    'check': _check,
    'convert': _convert,
    'relabel': _relabel,
    'train': _train,
    'export': _export,
    'verify': _verify,
    'eval': _eval,
}


if __name__ == '__main__':
    sys.exit(main())
