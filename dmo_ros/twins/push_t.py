"""
Push-T: a disc tool pushes a T over a board, seen from above (paper, section 4.1.1).

The frame ``world`` is the board's: its origin is the board's centre, x to the right and y up in
the picture, z out of the board.  The tool's centre moves in a square of half a metre around the
origin, which a Rizon-10S reaches anywhere on the table in front of it; where the board lies in the
arm's own base frame is the peer's (and the real installation's) business.

The T lies on the board with friction that acts like a viscous one: under a push it then moves as
the ellipsoidal limit surface of dry friction says, at any speed, and it stops within a centimetre
when the tool stops.  A low rail keeps the T far enough from the tool's own limits that the tool,
which glides above the rail, can always get behind it.

Pictures are a quarter of the camera's 640x480 in either direction; the one image function crops
and resizes them as it does the camera's.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from .mujoco_scene import Scene, visual
from ..core.tasks import TASKS

TICK = 0.01  # s, between two looks of the tool's servo at its command
TIME_STEP = 0.0025  # s, of the physics
GIVE = 0.004  # m by which things that are pressed against each other may overlap
PICTURE = (160, 120)  # pixels, width and height


@dataclass(frozen=True)
class Geometry:
    """Sizes in metres, about the T's centre of mass: its origin, and that of its pose."""

    unit: float = 0.04  # width of bar and stem
    bar: float = 0.16  # length of the bar
    stem: float = 0.12  # length of the stem below the bar
    tool_radius: float = 0.02
    reach: float = 0.25  # the tool's centre stays within +-reach
    rail: float = 0.21  # the T stays within +-rail
    goal: tuple[float, float, float] = (0.0, 0.0, 0.0)  # x, y, yaw
    start_error: float = 0.08  # a start is at least so far (corner error) from the goal
    friction: float = 0.4  # between tool and T
    pressure_radius: float = 0.055  # torque to turn it over force to shift it, of board friction

    @property
    def bar_y(self) -> float:
        """Where the bar's centre lies above the centre of mass."""
        stem, bar = self.stem, self.bar
        return stem * (self.unit + stem) / (2 * (bar + stem))

    @property
    def boxes(self) -> np.ndarray:
        """Bar and stem as (2, 4): centre x, y and half sizes, in the T's frame."""
        half = self.unit / 2
        stem_y = self.bar_y - half - self.stem / 2
        return np.array(
            [
                [0.0, self.bar_y, self.bar / 2, half],
                [0.0, stem_y, half, self.stem / 2],
            ]
        )

    @property
    def outline(self) -> np.ndarray:
        """The T's eight corners (8, 2) in its own frame, counter-clockwise."""
        half, top, mid = self.unit / 2, self.bar_y + self.unit / 2, self.bar_y - self.unit / 2
        wide, low = self.bar / 2, self.bar_y - self.unit / 2 - self.stem
        right = [(half, low), (half, mid), (wide, mid), (wide, top)]
        return np.array(right + [(-x, y) for x, y in reversed(right)])


def place(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Return points (P, 2) of a body at ``pose`` (..., 3) in the world: (..., P, 2)."""
    cos, sin = np.cos(pose[..., 2]), np.sin(pose[..., 2])
    turn = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    placed: np.ndarray = points @ np.swapaxes(turn, -1, -2) + pose[..., None, :2]
    return placed


def outside(points: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the distance (...,) of points (..., 2) in the T's frame to the T, 0 within."""
    boxes = geometry.boxes
    beyond = np.abs(points[..., None, :] - boxes[:, :2]) - boxes[:, 2:]
    distance: np.ndarray = np.linalg.norm(np.maximum(beyond, 0.0), axis=-1).min(axis=-1)
    return distance


class PushTTwin:
    """
    A batch of boards; ``state`` is (B, 5) float64: tool x, y, and the T's x, y (m) and yaw (rad).

    The yaw is the hinge's angle and is not wrapped: as placed, plus what it has turned since.
    """

    names = ('tool_x', 'tool_y', 't_x', 't_y', 't_yaw')

    def __init__(self, batch: int = 1, seed: int = 0, geometry: Geometry | None = None) -> None:
        self.spec = TASKS['push_t']
        self.geometry = geometry or Geometry()
        self.rng = np.random.default_rng(seed)
        self.scene = Scene(_mjcf(self.geometry), batch)
        self.state = np.zeros((batch, 5))
        self.reset()

    def reset(self, rows: np.ndarray | None = None, state: np.ndarray | None = None) -> None:
        """Put ``rows`` (all, when left out) at ``state`` (n, 5), at rest, or at random starts."""
        index = np.arange(len(self.state)) if rows is None else np.flatnonzero(rows)
        starts = self._random_starts(len(index)) if state is None else np.asarray(state, float)
        self.state = self.state.copy()
        self.state[index] = starts
        for row in index:
            self.scene.place(int(row), self.state[row])

    def _random_starts(self, count: int) -> np.ndarray:
        """Draw starts: the T anywhere but at the goal, the tool anywhere beside it."""
        g, starts = self.geometry, np.empty((0, 5))
        while len(starts) < count:
            drawn = self.rng.uniform(-1.0, 1.0, (4 * count + 8, 5))
            drawn *= (g.reach, g.reach, g.rail, g.rail, math.pi)
            good = (np.abs(place(g.outline, drawn[:, 2:])) < g.rail - 0.005).all(axis=(1, 2))
            good &= self.distance(drawn) > g.start_error
            good &= self._tool_gap(drawn) > g.tool_radius + 0.015
            starts = np.concatenate([starts, drawn[good]])
        return starts[:count]

    def _tool_gap(self, state: np.ndarray) -> np.ndarray:
        """Return the distance (B,) between the tool's centre and the T."""
        away = state[:, :2] - state[:, 2:4]
        cos, sin = np.cos(state[:, 4]), np.sin(state[:, 4])
        local = np.stack(
            [cos * away[:, 0] + sin * away[:, 1], cos * away[:, 1] - sin * away[:, 0]], axis=-1
        )
        return outside(local, self.geometry)

    def step(self, action: np.ndarray) -> None:
        """Apply tool velocities (B, 2) in m/s for one control period."""
        self.advance(action, self.spec.period)

    def advance(self, action: np.ndarray, seconds: float) -> None:
        """Apply tool velocities (B, 2) in m/s for another time, a multiple of 0.01 s."""
        low, high = self.spec.actions[0].low, self.spec.actions[0].high
        wanted, reach = np.clip(action, low, high), self.geometry.reach
        state = np.empty_like(self.state)
        for row, data in enumerate(self.scene.data):
            for _ in range(round(seconds / TICK)):
                here = data.qpos[:2]
                data.ctrl[:] = np.clip(wanted[row], (-reach - here) / TICK, (reach - here) / TICK)
                self.scene.advance(row, round(TICK / TIME_STEP))
            state[row] = data.qpos
        self.state = state

    def distance(self, state: np.ndarray | None = None) -> np.ndarray:
        """Return how far (B,) the worst corner of the T is from its place in the goal, metres."""
        state = self.state if state is None else state
        return corner_error(state[:, 2:], np.array(self.geometry.goal), self.geometry)

    def check(self, state: np.ndarray) -> str:
        """Say what is wrong with a start (5,), '' for nothing."""
        g = self.geometry
        if (np.abs(state[:2]) > g.reach + GIVE).any():
            return f'the tool lies outside its workspace (-{g.reach} to {g.reach} m)'
        if (np.abs(place(g.outline, state[2:])) > g.rail + GIVE).any():
            return f'the T sticks out of the rail (-{g.rail} to {g.rail} m)'
        if self._tool_gap(state[None])[0] < g.tool_radius - 2 * GIVE:
            return 'the tool stands in the T'
        return ''

    def render(self) -> np.ndarray:
        """Return the top views, (B, 120, 160, 3) uint8 RGB; x to the right, y up."""
        return np.stack([self.scene.picture(row, 'top') for row in range(len(self.state))])

    def close(self) -> None:
        """Free what drawing needs."""
        self.scene.close()


def corner_error(poses: np.ndarray, goal: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the largest distance (...,) of a T's corners at ``poses`` from those at ``goal``."""
    apart = place(geometry.outline, poses) - place(geometry.outline, goal)
    error: np.ndarray = np.linalg.norm(apart, axis=-1).max(axis=-1)
    return error


def _mjcf(g: Geometry) -> str:
    """Write the board as MJCF: tool (mask 2) and rail (mask 1) meet only the T (mask 3)."""
    mass, stop = 0.5, 0.03  # kg; s in which the T comes to rest
    shift = mass / stop
    turn = shift * g.pressure_radius**2
    fov = 2 * math.degrees(math.atan((g.reach + 0.03) / 1.2))
    area = g.unit * (g.bar + g.stem)
    parts = ''.join(
        f'<geom class="t" pos="{x} {y} 0.012" size="{w} {h} 0.01" '
        f'mass="{mass * 4 * w * h / area}"/>'
        for x, y, w, h in g.boxes
    )
    goal = ''.join(
        f'<geom class="flat" pos="{x} {y} 0.0004" size="{w} {h} 0.0004" rgba=".50 .76 .50 1"/>'
        for x, y, w, h in g.boxes
    )
    rails = ''.join(
        f'<geom class="rail" pos="{x * (g.rail + 0.003)} {y * (g.rail + 0.003)} 0.002" '
        f'size="{0.003 + abs(y) * g.rail} {0.003 + abs(x) * g.rail} 0.002"/>'
        f'<geom class="stop" pos="{x * (g.rail + 0.5)} {y * (g.rail + 0.5)} 0.012" '
        f'size="{0.5 + abs(y)} {0.5 + abs(x)} 0.03"/>'
        for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))
    )
    gx, gy, yaw = g.goal
    return f"""
<mujoco model="push_t">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIME_STEP}" gravity="0 0 0" integrator="implicitfast" cone="elliptic"/>
  {visual(*PICTURE)}
  <default>
    <geom solref="0.005 1" solimp="0.99 0.99 0.001" friction="{g.friction} 0 0"/>
    <default class="t">
      <geom type="box" contype="3" conaffinity="3" rgba=".77 .25 .19 1"/>
    </default>
    <default class="flat"><geom type="box" contype="0" conaffinity="0"/></default>
    <default class="rail">
      <geom type="box" contype="0" conaffinity="0" rgba=".55 .53 .48 1"/>
    </default>
    <default class="stop">
      <geom type="box" contype="1" conaffinity="1" group="4" friction="0.1 0 0"/>
    </default>
  </default>
  <worldbody>
    <camera name="top" pos="0 0 1.2" fovy="{fov}"/>
    <geom class="flat" size="2 2 0.01" pos="0 0 -0.012" rgba=".30 .31 .33 1"/>
    <geom class="flat" size="{g.reach + 0.02} {g.reach + 0.02} 0.001" pos="0 0 -0.001"
          rgba=".89 .87 .82 1"/>
    <body pos="{gx} {gy} 0" euler="0 0 {yaw}">{goal}</body>
    {rails}
    <body name="tool">
      <joint name="tool_x" type="slide" axis="1 0 0"/>
      <joint name="tool_y" type="slide" axis="0 1 0"/>
      <geom type="cylinder" size="{g.tool_radius} 0.02" pos="0 0 0.03" mass="0.2"
            contype="2" conaffinity="2" rgba=".16 .28 .66 1"/>
    </body>
    <body name="t">
      <joint name="t_x" type="slide" axis="1 0 0" damping="{shift}"/>
      <joint name="t_y" type="slide" axis="0 1 0" damping="{shift}"/>
      <joint name="t_yaw" type="hinge" axis="0 0 1" damping="{turn}"/>
      {parts}
    </body>
  </worldbody>
  <actuator>
    <velocity joint="tool_x" kv="300" forcerange="-8 8"/>
    <velocity joint="tool_y" kv="300" forcerange="-8 8"/>
  </actuator>
</mujoco>
"""
