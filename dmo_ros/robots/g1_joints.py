"""
The G1's joints as its own software numbers them (29 degrees of freedom, 14 of them the arms').

Numbers and ranges are those of the vendor's 29-DoF description (hardware reference, 6.1); the
ranges of the upper body stand once, in the task's action fields.
"""

from __future__ import annotations

_LEG = ('hip_pitch', 'hip_roll', 'hip_yaw', 'knee', 'ankle_pitch', 'ankle_roll')
_ARM = (
    'shoulder_pitch',
    'shoulder_roll',
    'shoulder_yaw',
    'elbow',
    'wrist_roll',
    'wrist_pitch',
    'wrist_yaw',
)

# The name of motor i, in the order of every message of the robot itself.
MOTORS = (
    *(f'left_{joint}' for joint in _LEG),
    *(f'right_{joint}' for joint in _LEG),
    *(f'waist_{axis}' for axis in ('yaw', 'roll', 'pitch')),
    *(f'left_{joint}' for joint in _ARM),
    *(f'right_{joint}' for joint in _ARM),
)

# The 17 joints above the legs as motor numbers, in the order of SONIC's upper-body targets
# (section 7): the waist, then left and right in turn.  The task's first fields are in this order.
UPPER_BODY = (12, 13, 14, *(motor for left in range(15, 22) for motor in (left, left + 7)))

WEIGHT = 29  # motor of rt/arm_sdk whose q says how much of it is obeyed (6.2)
WRISTS = frozenset(i for i, name in enumerate(MOTORS) if 'wrist' in name)
