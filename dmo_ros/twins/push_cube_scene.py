"""The room of push_cube: its sizes, what overlaps what, and its MJCF."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from .mujoco_scene import visual

PICTURE = (320, 180)  # pixels, width and height
CAMERA = (0.26, 0.42, math.radians(10.0))  # m ahead of the body's centre, m high, rad down
TIME_STEP = 0.005  # s, of the physics


@dataclass(frozen=True)
class Room:
    """Sizes in metres; the goal's mouth is in the plane x = goal_line, its net at x = kerb."""

    half: float = 3.0  # walls at +-half
    kerb: float = 2.1  # the cube stays within +-kerb
    goal_line: float = 1.3
    goal_half: float = 0.7  # half the goal's width
    goal_height: float = 0.8
    cube: float = 0.4
    length: float = 0.66  # of the robot
    width: float = 0.3
    pillar: tuple[float, float] = (-0.7, 1.35)
    pillar_radius: float = 0.15

    @property
    def net(self) -> tuple[float, float]:
        """Where the middle of the net is: what the distance to the goal is measured from."""
        return self.kerb, 0.0


def corners(pose: np.ndarray, length: float, width: float) -> np.ndarray:
    """Return the corners (4, 2) of a rectangle at ``pose`` (3,): x, y, yaw."""
    cos, sin = math.cos(pose[2]), math.sin(pose[2])
    local = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) * (length / 2, width / 2)
    placed: np.ndarray = local @ np.array([[cos, sin], [-sin, cos]]) + pose[:2]
    return placed


def solids(room: Room) -> dict[str, list[np.ndarray]]:
    """Return the outlines of what stands in the way, by name."""
    middle, depth = (room.goal_line + room.kerb) / 2, room.kerb - room.goal_line
    sides = [
        corners(np.array([middle, side * room.goal_half, 0.0]), depth, 0.06) for side in (-1, 1)
    ]
    angles = np.linspace(0, 2 * math.pi, 12, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], -1) * room.pillar_radius + room.pillar
    return {'goal': sides, 'pillar': [circle]}


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return by how much (m) two convex outlines (N, 2) overlap; negative when they do not."""
    least = math.inf
    for shape in (first, second):
        edges = np.roll(shape, -1, axis=0) - shape
        for normal in np.stack([edges[:, 1], -edges[:, 0]], -1):
            axis = normal / np.linalg.norm(normal)
            a, b = first @ axis, second @ axis
            least = min(least, float(min(a.max() - b.min(), b.max() - a.min())))
    return least


def camera_quaternion(pitch: float) -> np.ndarray:
    """Return the (4,) w, x, y, z of a camera that looks ahead and ``pitch`` rad down."""
    # Right is -y, up is z, and MuJoCo's camera looks along its own -z; then down about its x.
    cos, sin = math.cos(-pitch / 2), math.sin(-pitch / 2)
    w, x, y, z = 0.5, 0.5, -0.5, -0.5
    return np.array([w * cos - x * sin, w * sin + x * cos, y * cos + z * sin, z * cos - y * sin])


def mjcf(room: Room) -> str:
    """Write the room; bits of contact: 1 the cube, 2 the robot, 4 these two."""
    return f"""
<mujoco model="push_cube">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIME_STEP}" gravity="0 0 0" integrator="implicitfast"/>
  {visual(*PICTURE)}
  <asset>
    <texture name="floor" type="2d" builtin="checker" width="64" height="64"
             rgb1=".33 .50 .36" rgb2=".38 .56 .41"/>
    <material name="floor" texture="floor" texrepeat="6 6"/>
  </asset>
  <default>
    <geom solref="0.01 1" solimp="0.98 0.99 0.001" friction="0.5 0 0" contype="0" conaffinity="0"/>
    <default class="wall"><geom type="box" contype="3" conaffinity="3"/></default>
    <default class="kerb">
      <geom type="box" rgba=".93 .93 .9 1"/>
    </default>
    <default class="stop">
      <geom type="box" contype="1" conaffinity="1" group="4" friction="0.1 0 0"/>
    </default>
    <default class="net"><geom type="box" rgba=".80 .82 .86 1"/></default>
  </default>
  <worldbody>
    <geom type="box" size="{room.half} {room.half} 0.01" pos="0 0 -0.01" material="floor"/>
    {_walls(room)}{_kerb(room)}{_goal(room)}
    <geom class="wall" type="cylinder" size="{room.pillar_radius} 0.4"
          pos="{room.pillar[0]} {room.pillar[1]} 0.4" rgba=".25 .30 .55 1"/>
    {_dog(room)}{_cube(room)}
  </worldbody>
  <actuator>
    <velocity joint="dog_x" kv="300" forcerange="-60 60"/>
    <velocity joint="dog_y" kv="300" forcerange="-60 60"/>
    <velocity joint="dog_yaw" kv="30" forcerange="-15 15"/>
  </actuator>
</mujoco>
"""


SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1))


def _walls(room: Room) -> str:
    """Four walls of different shades, so that a picture tells where one looks, and a ceiling."""
    shades = ('.72 .76 .80 1', '.80 .74 .62 1', '.62 .70 .80 1', '.76 .66 .66 1')
    away, long, high = room.half + 0.2, room.half + 0.4, 1.2
    walls = ''.join(
        f'<geom class="wall" pos="{x * away} {y * away} {high}" '
        f'size="{0.2 + abs(y) * long} {0.2 + abs(x) * long} {high}" rgba="{shade}"/>'
        for (x, y), shade in zip(SIDES, shades)
    )
    ceiling = f'<geom type="box" size="{long} {long} 0.01" pos="0 0 {2 * high}" '
    return walls + ceiling + 'rgba=".9 .9 .88 1"/>'


def _kerb(room: Room) -> str:
    """A low white kerb, and what stops the cube at it: too thick to be jumped over."""
    thick, stop = 0.025, 0.4
    return ''.join(
        f'<geom class="kerb" pos="{x * (room.kerb + thick)} {y * (room.kerb + thick)} 0.02" '
        f'size="{thick + abs(y) * (room.kerb + thick)} {thick + abs(x) * (room.kerb + thick)} '
        '0.02"/>'
        f'<geom class="stop" pos="{x * (room.kerb + stop)} {y * (room.kerb + stop)} 0.2" '
        f'size="{stop + abs(y) * room.half} {stop + abs(x) * room.half} 0.1"/>'
        for x, y in SIDES
    )


def _goal(room: Room) -> str:
    """White posts and bar, a net on both sides, and at the back one that ends above the robot."""
    line, back, wide, high = room.goal_line, room.kerb, room.goal_half, room.goal_height
    middle, depth = (line + back) / 2, back - line
    parts = [
        f'<geom type="capsule" fromto="{line} {-wide} {high} {line} {wide} {high}" size="0.035" '
        'rgba="1 1 1 1"/>',
        f'<geom class="net" pos="{line} 0 0.003" size="0.025 {wide} 0.003"/>',
    ]
    for side in (-wide, wide):
        parts.append(
            f'<geom type="cylinder" pos="{line} {side} {high / 2}" size="0.035 {high / 2}" '
            'rgba="1 1 1 1"/>'
            f'<geom class="wall" pos="{middle} {side} 0.2" size="{depth / 2} 0.03 0.2" '
            'rgba="0 0 0 0" group="4"/>'
        )
        for share in np.linspace(0.2, 1.0, 5):
            parts.append(
                f'<geom class="net" pos="{line + share * depth} {side} {high / 2}" '
                f'size="0.01 0.01 {high / 2}"/>'
                f'<geom class="net" pos="{middle} {side} {share * high}" '
                f'size="{depth / 2} 0.01 0.01"/>'
            )
    low = 0.46
    for share in np.linspace(-0.8, 0.8, 7):
        parts.append(
            f'<geom class="net" pos="{back} {share * wide} {(low + high) / 2}" '
            f'size="0.01 0.01 {(high - low) / 2}"/>'
        )
    for height in np.linspace(low, high, 4):
        parts.append(f'<geom class="net" pos="{back} 0 {height}" size="0.01 {wide} 0.01"/>')
    return ''.join(parts)


def _dog(room: Room) -> str:
    """One box that touches things; trunk, head, snout and legs to be seen."""
    long, wide = room.length / 2, room.width / 2
    legs = ''.join(
        f'<geom type="capsule" fromto="{x} {y} 0.25 {x + 0.03} {y} 0.03" size="0.03" '
        'rgba=".2 .2 .22 1"/>'
        for x in (-0.24, 0.22)
        for y in (-0.12, 0.12)
    )
    pitch = CAMERA[2]
    return f"""
    <body name="dog">
      <joint name="dog_x" type="slide" axis="1 0 0"/>
      <joint name="dog_y" type="slide" axis="0 1 0"/>
      <joint name="dog_yaw" type="hinge" axis="0 0 1"/>
      <geom type="box" size="{long} {wide} 0.1" pos="0 0 0.25" mass="12"
            contype="6" conaffinity="6" group="4"/>
      <geom type="box" size="0.25 0.1 0.06" pos="-0.05 0 0.29" rgba=".62 .64 .66 1"/>
      <geom type="box" size="0.05 0.07 0.04" pos="0.22 0 0.32" rgba=".3 .31 .33 1"/>
      <geom type="ellipsoid" size="0.055 0.045 0.03" pos="0.28 0 0.325" rgba=".2 .2 .23 1"/>
      {legs}
      <camera name="front" pos="{CAMERA[0]} 0 {CAMERA[1]}" fovy="90"
              xyaxes="0 -1 0 {math.sin(pitch)} 0 {math.cos(pitch)}"/>
    </body>"""


def _cube(room: Room) -> str:
    """A cube that stands as soon as nobody pushes, with lighter edges on top to see its turn."""
    half, mass, stop = room.cube / 2, 1.5, 0.05  # m, kg, s
    shift = mass / stop
    turn = shift * (0.383 * room.cube) ** 2  # mean distance of a square's points from its centre
    return f"""
    <body name="cube">
      <joint name="cube_x" type="slide" axis="1 0 0" damping="{shift}"/>
      <joint name="cube_y" type="slide" axis="0 1 0" damping="{shift}"/>
      <joint name="cube_yaw" type="hinge" axis="0 0 1" damping="{turn}"/>
      <geom type="box" size="{half} {half} {half}" pos="0 0 {half}" mass="{mass}"
            contype="5" conaffinity="5" rgba=".86 .22 .14 1"/>
      <geom type="box" size="{0.7 * half} {0.7 * half} 0.002" pos="0 0 {2 * half}"
            rgba=".96 .62 .2 1"/>
    </body>"""
