"""
The room of the G1's task as MJCF, from primitives only: robot, table, box with a flexible handle.

Joint axes, ranges and their order are the task's (29-DoF description, hardware reference 6.1);
the links' lengths are the G1's to the centimetre.  Legs are drawn, not simulated: the pelvis
slides on the floor and turns.  Arms and torso do collide with each other, the upper arms, which
lie against the torso, do not.
"""

from __future__ import annotations

from math import cos, sin

from .mujoco_scene import visual
from ..core.tasks import Field, TASKS

WIDTH, HEIGHT = 384, 288  # the task's 4:3
TIMESTEP = 0.002
ROAM = 1.5  # m that the robot may walk away from where it stands before the table
PELVIS = 0.78  # m above the floor, standing
TABLE = 0.72  # m, its top
TABLE_X, TABLE_SIZE = 0.52, (0.30, 0.55)  # centre and half sizes, m
BOX = (0.07, 0.09, 0.06)  # half sizes, m
HANDLE = 0.08  # m, its bar above the box's lid
FINGER, TIP, THUMB = 1.45, 1.5, 1.3  # rad of a closed hand (BrainCo: 1.47, hardware reference 6.4)

SPEC = TASKS['grab_box']
JOINTS: tuple[Field, ...] = SPEC.actions[:17]
HANDLE_JOINTS = ('handle_swing', 'handle_near', 'handle_bar', 'handle_far')


def _kind(name: str) -> str:
    """Return a joint's name without its side."""
    return name.removeprefix('left_').removeprefix('right_')


# kind of joint -> kp, kd, effort: xr_teleoperate's gains, the vendor's efforts (6.1, 6.2)
_SERVO = {
    'waist_yaw': (300.0, 10.0, 88.0),
    'waist_roll': (300.0, 10.0, 50.0),
    'waist_pitch': (300.0, 10.0, 50.0),
    'wrist_roll': (40.0, 1.5, 25.0),
    'wrist_pitch': (40.0, 1.5, 5.0),
    'wrist_yaw': (40.0, 1.5, 5.0),
}
_ARM_SERVO = (80.0, 3.0, 25.0)

# The vendor's ceilings in rad/s (6.1); hands: the task's own, in closures per second.
_CEILING = {'waist_yaw': 32.0, 'wrist_pitch': 22.0, 'wrist_yaw': 22.0}
SPEED = (
    *(_CEILING.get(_kind(field.name), 37.0) for field in JOINTS),
    *(4.0, 4.0),
)

# Bits of contact: what a geom is, and what may touch it.
_TABLE, _BOX, _TORSO, _LEFT, _RIGHT = 1, 2, 4, 8, 16


def _touch(kind: int) -> str:
    """Return the contact bits of a geom of this kind."""
    others = {
        _TABLE: 0,
        _BOX: _TABLE,
        _TORSO: _TABLE | _BOX,
        _LEFT: _TABLE | _BOX | _TORSO | _RIGHT,
        _RIGHT: _TABLE | _BOX | _TORSO | _LEFT,
    }
    return f'contype="{kind}" conaffinity="{others[kind]}"'


_GHOST = 'contype="0" conaffinity="0"'


# A joint's end gives little.
_STOP = 'solreflimit="0.004 1" solimplimit="0.98 0.999 0.002"'


def _joint(name: str, axis: str) -> str:
    field = next(field for field in JOINTS if field.name == name)
    return (
        f'<joint name="{name}" axis="{axis}" range="{field.low} {field.high}" '
        f'armature="0.02" damping="0.3" {_STOP}/>'
    )


def _capsule(start: str, end: str, radius: float, look: str, bits: str, mass: float) -> str:
    return (
        f'<geom type="capsule" fromto="{start} {end}" size="{radius}" material="{look}" '
        f'{bits} mass="{mass}"/>'
    )


def _hand(side: str, sign: int) -> str:
    """Return a hand: a palm, four fingers that bend as one, a thumb; its palm looks inwards."""
    bits = _touch(_LEFT if sign > 0 else _RIGHT)
    rows = (-0.027, -0.009, 0.009, 0.027)
    first = ''.join(_capsule(f'0 {y} 0', f'0.045 {y} 0', 0.008, 'skin', bits, 0.012) for y in rows)
    last = ''.join(_capsule(f'0 {y} 0', f'0.033 {y} 0', 0.0075, 'skin', bits, 0.008) for y in rows)
    hinge = f'armature="0.001" damping="0.03" {_STOP}'
    return f"""
    <body name="{side}_hand_link" pos="0.04 0 0" euler="{-sign * 1.5707963} 0 0" gravcomp="1">
      <geom type="box" pos="0.05 0 0" size="0.045 0.036 0.012" material="dark" {bits} mass="0.3"/>
      <site name="{side}_grip" pos="0.079 0 -0.032" size="0.004" rgba="0 0 0 0"/>
      <body name="{side}_finger" pos="0.097 0 -0.004" gravcomp="1">
        <joint name="{side}_finger" axis="0 1 0" range="0 {FINGER}" {hinge}/>{first}
        <body name="{side}_tip" pos="0.045 0 0" gravcomp="1">
          <joint name="{side}_tip" axis="0 1 0" range="0 {TIP}" {hinge}/>{last}
        </body>
      </body>
      <body name="{side}_thumb" pos="0.052 0 -0.018" gravcomp="1">
        <joint name="{side}_thumb" axis="0 -1 0" range="0 {THUMB}" {hinge}/>
        {_capsule('0 0 0', '-0.038 0 0', 0.009, 'skin', bits, 0.02)}
      </body>
    </body>"""


def _arm(side: str, sign: int) -> str:
    """Return an arm below the torso; at zero the upper arm hangs and the forearm points ahead."""
    bits = _touch(_LEFT if sign > 0 else _RIGHT)

    def joint(name: str, axis: str) -> str:
        return _joint(f'{side}_{name}', axis)

    return f"""
    <body pos="0.004 {sign * 0.1002} 0.2478" euler="{sign * 0.2793} 0 0" gravcomp="1">
      {joint('shoulder_pitch', '0 1 0')}
      {_capsule('0 0 0', f'0 {sign * 0.035} 0', 0.04, 'dark', _GHOST, 0.7)}
      <body pos="0 {sign * 0.038} -0.0138" euler="{-sign * 0.2793} 0 0" gravcomp="1">
        {joint('shoulder_roll', '1 0 0')}
        {_capsule('0 0 0', f'0 {sign * 0.006} -0.07', 0.036, 'shell', _GHOST, 0.7)}
        <body pos="0 {sign * 0.0062} -0.1032" gravcomp="1">
          {joint('shoulder_yaw', '0 0 1')}
          {_capsule('0 0 0', '0.012 0 -0.075', 0.034, 'shell', _GHOST, 0.7)}
          <body pos="0.0158 0 -0.0805" gravcomp="1">
            {joint('elbow', '0 1 0')}
            {_capsule('0 0 0', '0.09 0 -0.008', 0.032, 'dark', bits, 0.6)}
            <body pos="0.1 {sign * 0.0019} -0.01" gravcomp="1">
              {joint('wrist_roll', '1 0 0')}
              {_capsule('0 0 0', '0.036 0 0', 0.03, 'shell', bits, 0.2)}
              <body pos="0.038 0 0" gravcomp="1">
                {joint('wrist_pitch', '0 1 0')}
                {_capsule('0.005 0 0', '0.04 0 0', 0.026, 'dark', bits, 0.2)}
                <body pos="0.046 0 0" gravcomp="1">
                  {joint('wrist_yaw', '0 0 1')}
                  {_capsule('0.005 0 0', '0.04 0 0', 0.022, 'dark', bits, 0.1)}
                  {_hand(side, sign)}
                </body>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>"""


def _robot() -> str:
    torso = _touch(_TORSO)
    tilt = 0.83  # rad the head's camera looks down (the vendor's mount of the D435)
    return f"""
    <body name="pelvis" pos="0 0 {PELVIS}" gravcomp="1">
      <joint name="base_x" type="slide" axis="1 0 0" range="-{ROAM} {ROAM}"/>
      <joint name="base_y" type="slide" axis="0 1 0" range="-{ROAM} {ROAM}"/>
      <joint name="base_yaw" axis="0 0 1" limited="false" armature="1"/>
      <geom type="box" size="0.07 0.09 0.05" material="dark" {torso} mass="20"/>
      {_capsule('0 0.1 -0.1', '0.02 0.11 -0.4', 0.055, 'shell', _GHOST, 2)}
      {_capsule('0 -0.1 -0.1', '0.02 -0.11 -0.4', 0.055, 'shell', _GHOST, 2)}
      {_capsule('0.02 0.11 -0.42', '0 0.11 -0.72', 0.042, 'dark', _GHOST, 1)}
      {_capsule('0.02 -0.11 -0.42', '0 -0.11 -0.72', 0.042, 'dark', _GHOST, 1)}
      <body gravcomp="1">
        {_joint('waist_yaw', '0 0 1')}
        <geom type="sphere" size="0.05" material="dark" {_GHOST} mass="0.3"/>
        <body pos="-0.004 0 0.044" gravcomp="1">
          {_joint('waist_roll', '1 0 0')}
          <geom type="sphere" size="0.05" material="dark" {_GHOST} mass="0.3"/>
          <body name="torso" gravcomp="1">
            {_joint('waist_pitch', '0 1 0')}
            <geom type="box" pos="0 0 0.17" size="0.06 0.075 0.12" material="shell" {torso}
              mass="7"/>
            <geom type="sphere" pos="0 0 0.42" size="0.07" material="dark" {_GHOST} mass="0.5"/>
            <camera name="head" pos="0.075 0.0175 0.43" fovy="58"
              xyaxes="0 -1 0 {sin(tilt)} 0 {cos(tilt)}"/>
            {_arm('left', 1)}{_arm('right', -1)}
          </body>
        </body>
      </body>
    </body>"""


def _box() -> str:
    """
    Return the box, 0.4 kg, most of it lying on its floor: it does not topple at a touch.

    The handle's far end is tied to it by a `connect`, see :func:`_ties`.
    """
    x, y, z = BOX
    solid, bar = _touch(_BOX), f'contype="{_BOX}" conaffinity="0"'
    hinge = 'type="hinge" stiffness="0.25" damping="0.01" armature="0.0002"'
    foot, rise = y - 0.015, f'0 0.02 {HANDLE}'
    return f"""
    <body name="box" pos="{TABLE_X} 0 {TABLE + z}">
      <freejoint name="box"/>
      <geom type="box" size="{x} {y} {z}" material="card" {solid} mass="0.1"/>
      <geom type="box" pos="0 0 {-0.75 * z}" size="{x - 0.01} {y - 0.01} 0.01" material="card"
        {_GHOST} mass="0.3"/>
      <geom type="box" size="{x + 0.0005} 0.022 {z + 0.0005}" material="tape" {_GHOST} mass="0"/>
      <body name="handle_near" pos="0 {-foot} {z}">
        <joint name="handle_swing" axis="0 1 0" range="-1.3 1.3" {hinge}/>
        <joint name="handle_near" axis="1 0 0" range="-1 1" {hinge}/>
        {_capsule('0 0 0.008', rise, 0.0075, 'handle', bar, 0.01)}
        <body name="handle_bar" pos="{rise}">
          <joint name="handle_bar" axis="1 0 0" range="-1 1" {hinge}/>
          {_capsule('0 0 0', f'0 {2 * foot - 0.04} 0', 0.0085, 'handle', bar, 0.015)}
          <site name="handle" pos="0 {foot - 0.02} 0" size="0.004" rgba="0 0 0 0"/>
          <body name="handle_far" pos="0 {2 * foot - 0.04} 0">
            <joint name="handle_far" axis="1 0 0" range="-1 1" {hinge}/>
            {_capsule('0 0 0', f'0 0.02 {0.008 - HANDLE}', 0.0075, 'handle', bar, 0.01)}
          </body>
        </body>
      </body>
    </body>"""


def _room() -> str:
    bits, (length, width) = _touch(_TABLE), TABLE_SIZE
    ends, thick, high = ((length, 0), (-length, 0), (0, width), (0, -width)), 0.01, 0.035
    rims = ''.join(
        f'<geom type="box" pos="{TABLE_X + x} {y} {TABLE + 0.005}" material="edge" {bits} '
        f'size="{thick if x else length} {thick if y else width + thick} {high}"/>'
        for x, y in ends
    )
    legs = ''.join(
        f'<geom type="box" pos="{TABLE_X + a * (length - 0.04)} {b * (width - 0.04)} '
        f'{TABLE / 2 - 0.02}" size="0.025 0.025 {TABLE / 2 - 0.02}" material="edge" {_GHOST}/>'
        for a in (-1, 1)
        for b in (-1, 1)
    )
    return f"""
    <light pos="0 0 3" dir="0.3 0.2 -1" directional="true" diffuse="0.35 0.35 0.35"
      specular="0 0 0" castshadow="false"/>
    <geom type="plane" size="4 4 0.1" material="floor" {bits}/>
    <geom type="box" pos="2.4 0 1.5" size="0.05 3 1.5" material="wall" {_GHOST}/>
    <geom type="box" pos="0 3 1.5" size="2.4 0.05 1.5" material="side" {_GHOST}/>
    <geom type="box" pos="0 -3 1.5" size="2.4 0.05 1.5" material="side" {_GHOST}/>
    <geom type="box" pos="-2.4 0 1.5" size="0.05 3 1.5" material="wall" {_GHOST}/>
    <geom name="table" type="box" pos="{TABLE_X} 0 {TABLE - 0.015}"
      size="{length} {width} 0.015" material="wood" {bits}/>
    {rims}{legs}"""


def _servos() -> str:
    """Return the actuators in the order: 17 joints, 2 hands, 3 of the base."""
    text = ''
    for field in JOINTS:
        kp, kd, effort = _SERVO.get(_kind(field.name), _ARM_SERVO)
        text += (
            f'<position joint="{field.name}" kp="{kp}" kv="{kd}" forcerange="{-effort} {effort}"/>'
        )
    for side in ('left', 'right'):
        text += f'<position joint="{side}_finger" kp="4" kv="0.1" forcerange="-2 2"/>'
    for name, gain, force in (('x', 4000, 600), ('y', 4000, 600), ('yaw', 400, 150)):
        text += f'<velocity joint="base_{name}" kv="{gain}" forcerange="{-force} {force}"/>'
    return text


def _ties() -> str:
    """Return the hands' linkages, and the knot that closes the handle's loop."""
    text = ''.join(
        f'<joint joint1="{side}_{part}" joint2="{side}_finger" '
        f'polycoef="0 {angle / FINGER} 0 0 0" solref="0.008 1"/>'
        for side in ('left', 'right')
        for part, angle in (('tip', TIP), ('thumb', THUMB))
    )
    knot = f'<connect body1="handle_far" body2="box" anchor="0 0.02 {-HANDLE}" solref="0.006 1"/>'
    return text + knot


def xml() -> str:
    """Return the MJCF of the room with the robot in it."""
    colours = {
        'floor': '0.42 0.45 0.48',
        'wall': '0.80 0.82 0.83',
        'side': '0.70 0.74 0.77',
        'wood': '0.83 0.74 0.60',
        'edge': '0.62 0.50 0.36',
        'card': '0.72 0.53 0.33',
        'tape': '0.90 0.85 0.70',
        'handle': '0.85 0.12 0.10',
        'shell': '0.90 0.91 0.93',
        'dark': '0.16 0.17 0.20',
        'skin': '0.36 0.40 0.47',
    }
    looks = ''.join(
        f'<material name="{name}" rgba="{rgb} 1" specular="0" shininess="0"/>'
        for name, rgb in colours.items()
    )
    return f"""<mujoco model="grab_box">
    <compiler angle="radian" autolimits="true"/>
    <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="5"/>
    {visual(WIDTH, HEIGHT)}
    <default><geom friction="0.8 0.01 0.001" solref="0.006 1" condim="4"/></default>
    <asset>{looks}</asset>
    <worldbody>{_room()}{_robot()}{_box()}</worldbody>
    <equality>{_ties()}</equality>
    <actuator>{_servos()}</actuator>
    </mujoco>"""
