"""
Push cube: a walking robot pushes a cube into a goal, seen from its own head (section 4.1.2).

The frame of the state is the room's: origin on the floor in its middle, x towards the goal, y to
the left, z up; yaw turns from x to y.  The robot is a planar body with trunk, head and legs that
follows body velocities (x forward, y to its left, turn to the left) with the lag of its
locomotion controller.  A kerb on the floor, which the robot steps over and the cube does not pass,
keeps the cube so far from the walls that the robot can always get behind it; the goal stands on
the kerb, its net hangs above the robot's back, so that a cube can be pushed out again from behind.
A pillar stands in the room: what is behind it is hidden.

The cube's friction is that of push_t: it goes as the limit surface says, and stops at once.

Pictures are a quarter of the camera's 1280x720 in either direction; the one image function crops
and resizes them as it does the camera's.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from .mujoco_scene import Scene
from .push_cube_scene import (
    CAMERA,
    camera_quaternion,
    corners,
    mjcf,
    overlap,
    Room,
    solids,
    TIME_STEP,
)
from ..core.tasks import TASKS

TICK = 0.01  # s, of the controller that turns velocity commands into steps
TRIES = 500
GIVE = 0.02  # m by which things that are pressed against each other may overlap
STARTS = {'seen': 0.4, 'behind': 0.25, 'anywhere': 0.2, 'hidden': 0.15}
RESPONSES = ('first_order', 'locomotion')


@dataclass(frozen=True)
class Gait:
    """
    How a locomotion controller answers velocity commands.

    ``lag``: time constant in s. ``delay``: s before it hears. ``gain``: per axis, what becomes of
    a command. ``sway``: m/s sideways and rad/s at step frequency ``hertz`` at full speed.
    ``bob``: rad by which the head nods at full speed.
    """

    lag: float = 0.12
    delay: int = 0  # ticks of 0.01 s
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sway: tuple[float, float] = (0.0, 0.0)
    hertz: float = 2.5
    bob: float = 0.0


class PushCubeTwin:
    """
    A batch of rooms; ``state`` is (B, 6) float64: the robot's and the cube's x, y (m), yaw (rad).

    Yaws are not wrapped: as placed, plus what has been turned since.  ``response`` is the
    controller that walks: 'first_order', or 'locomotion', another one than play was recorded with
    (paper, appendix: robustness): gains, delay and lag drawn anew at each start, sway and a
    nodding head.
    """

    names = ('dog_x', 'dog_y', 'dog_yaw', 'cube_x', 'cube_y', 'cube_yaw')

    def __init__(
        self,
        batch: int = 1,
        seed: int = 0,
        room: Room | None = None,
        response: str = 'first_order',
    ) -> None:
        if response not in RESPONSES:
            raise ValueError(f'a response is one of {", ".join(RESPONSES)}, not {response!r}')
        self.spec = TASKS['push_cube']
        self.room = room or Room()
        self.response = response
        self.rng = np.random.default_rng(seed)
        self.scene = Scene(mjcf(self.room), batch)
        self.limits = np.array([field.high for field in self.spec.actions])
        self.state = np.zeros((batch, 6))
        self.velocity = np.zeros((batch, 3))  # what the controller makes the body do
        self.gaits = [Gait()] * batch
        self._heard: list[list[np.ndarray]] = [[] for _ in range(batch)]
        self._ticks = np.zeros(batch, dtype=int)
        self.reset()

    # ------------------------------------------------------------------ starts
    def reset(self, rows: np.ndarray | None = None, state: np.ndarray | None = None) -> None:
        """Put ``rows`` (all, when left out) at ``state`` (n, 6), at rest, or at random starts."""
        index = np.arange(len(self.state)) if rows is None else np.flatnonzero(rows)
        if state is None:
            starts = np.array([self.random_start() for _ in index]).reshape(-1, 6)
        else:
            starts = np.asarray(state, dtype=float)
        self.state = self.state.copy()
        self.state[index] = starts
        self.velocity[index] = 0.0
        self._ticks[index] = 0
        for row in map(int, index):
            self.scene.place(row, self.state[row])
            self._heard[row] = []
            if self.response == 'locomotion':
                self.gaits[row] = _draw_gait(self.rng)

    def random_start(self, kind: str = '') -> np.ndarray:
        """
        Draw a start (6,) of a kind of :data:`STARTS`; without one, in their shares.

        seen: the cube is in the picture; behind: it is behind the robot, out of the picture;
        hidden: the pillar covers some of it; anywhere: as it comes.
        """
        kind = kind or str(self.rng.choice(list(STARTS), p=list(STARTS.values())))
        for _ in range(TRIES):
            state = self._draw(kind)
            if not self.check(state) and self._fair(state) and self._is(kind, state):
                return state
        return self.random_start('anywhere')  # a room in which nothing can be hidden, say

    def _draw(self, kind: str) -> np.ndarray:
        room, turn = self.room, self.rng.uniform(-math.pi, math.pi, 2)
        cube = self.rng.uniform(-1, 1, 2) * (room.kerb - 0.4)
        dog = self.rng.uniform(-1, 1, 2) * (room.half - 0.6)
        if kind == 'hidden':  # in the pillar's shadow, near the line through it
            away = np.array(room.pillar) - dog
            away /= max(float(np.linalg.norm(away)), 1e-9)
            side = np.array([-away[1], away[0]])
            cube = np.array(room.pillar) + away * self.rng.uniform(0.45, 1.0)
            cube = cube + side * self.rng.uniform(-0.3, 0.3)
            turn[0] = math.atan2(away[1], away[0]) + self.rng.uniform(-0.3, 0.3)
        return np.array([*dog, turn[0], *cube, turn[1]])

    def _fair(self, state: np.ndarray) -> bool:
        """Tell whether the cube is not in the goal yet and is off the kerb, the robot off both."""
        room, cube = self.room, state[3:5]
        off = (np.abs(cube) < room.kerb - 0.35).all()
        in_front = cube[0] < room.goal_line - 0.35
        apart = np.linalg.norm(state[:2] - cube) > 0.8
        return bool(off and in_front and apart)

    def _is(self, kind: str, state: np.ndarray) -> bool:
        bearing, _ = sight(state)
        if kind == 'anywhere':
            return True
        if kind == 'behind':
            return abs(bearing) > math.pi / 2
        if abs(bearing) > math.radians(32.0):
            return False
        return self.hidden(state) == (kind == 'hidden')

    def hidden(self, state: np.ndarray) -> bool:
        """Tell whether the pillar covers some of the cube of a state (6,)."""
        eye = eye_of(state)
        to_cube, to_pillar = state[3:5] - eye, np.array(self.room.pillar) - eye
        far, near = float(np.linalg.norm(to_cube)), float(np.linalg.norm(to_pillar))
        between = math.atan2(
            to_cube[0] * to_pillar[1] - to_cube[1] * to_pillar[0], float(to_cube @ to_pillar)
        )
        width = math.atan2(self.room.pillar_radius, near) + math.atan2(0.15, far)
        return near < far and abs(between) < width

    def check(self, state: np.ndarray) -> str:
        """Say what is wrong with a start (6,), '' for nothing."""
        room = self.room
        cube = corners(state[3:], room.cube, room.cube)
        dog = corners(state[:3], room.length, room.width)
        if (np.abs(dog) > room.half + GIVE).any():
            return f'the robot sticks in a wall (the room is -{room.half} to {room.half} m)'
        if (np.abs(cube) > room.kerb + GIVE).any():
            return f'the cube lies outside the kerb (-{room.kerb} to {room.kerb} m)'
        for what, shapes in solids(room).items():
            for name, body in (('robot', dog), ('cube', cube)):
                if max(overlap(shape, body) for shape in shapes) > GIVE:
                    return f'the {name} stands in the {what}'
        return 'the robot stands in the cube' if overlap(dog, cube) > GIVE else ''

    # ------------------------------------------------------------------ motion
    def step(self, action: np.ndarray) -> None:
        """Apply body velocities (B, 3): vx, vy in m/s, wz in rad/s, for one control period."""
        self.advance(action, self.spec.period)

    def advance(self, action: np.ndarray, seconds: float) -> None:
        """Apply body velocities (B, 3) for another time, a multiple of 0.01 s."""
        wanted = np.clip(action, -self.limits, self.limits)
        state = np.empty_like(self.state)
        for row, data in enumerate(self.scene.data):
            for _ in range(round(seconds / TICK)):
                data.ctrl[:] = self._walk(row, wanted[row], data.qpos[2])
                self.scene.advance(row, round(TICK / TIME_STEP))
            state[row] = data.qpos
        self.state = state

    def _walk(self, row: int, wanted: np.ndarray, yaw: float) -> np.ndarray:
        """Return the velocity (3,) of the body in the room, one tick later."""
        gait, heard = self.gaits[row], self._heard[row]
        heard.append(wanted)
        target = heard.pop(0) * gait.gain if len(heard) > gait.delay else np.zeros(3)
        velocity = self.velocity[row]
        velocity += (target - velocity) * (1.0 - math.exp(-TICK / gait.lag))
        self._ticks[row] += 1
        vx, vy, wz = velocity
        beat = self._beat(row)
        if beat:
            vy, wz = vy + gait.sway[0] * beat, wz + gait.sway[1] * beat
        cos, sin = math.cos(yaw), math.sin(yaw)
        return np.array([cos * vx - sin * vy, sin * vx + cos * vy, wz])

    def _beat(self, row: int) -> float:
        """Return where in its step the robot is, -1 to 1, times how fast it goes; 0 at rest."""
        gait = self.gaits[row]
        if not any(gait.sway) and not gait.bob:
            return 0.0
        speed = min(1.0, float(np.abs(self.velocity[row] / self.limits).max()))
        return speed * math.sin(2 * math.pi * gait.hertz * TICK * self._ticks[row])

    # ------------------------------------------------------------------ what is seen and judged
    def distance(self, state: np.ndarray | None = None) -> np.ndarray:
        """
        Return the distance (B,) of the cube's centre from the middle of the net, in metres.

        The net is 0.8 m behind the goal line: at 0.6 m the cube is past the line as a whole.
        """
        state = self.state if state is None else state
        gap: np.ndarray = np.linalg.norm(state[:, 3:5] - self.room.net, axis=1)
        return gap

    def render(self) -> np.ndarray:
        """Return the robot's views, (B, 180, 320, 3) uint8 RGB."""
        return np.stack([self._picture(row) for row in range(len(self.state))])

    def _picture(self, row: int) -> np.ndarray:
        nod = self.gaits[row].bob * self._beat(row)
        self.scene.model.cam_quat[0] = camera_quaternion(CAMERA[2] + nod)
        return self.scene.picture(row, 'front')

    def close(self) -> None:
        """Free what drawing needs."""
        self.scene.close()


def eye_of(state: np.ndarray) -> np.ndarray:
    """Return where (2,) the camera of a state (6,) is, in the room."""
    return state[:2] + CAMERA[0] * np.array([math.cos(state[2]), math.sin(state[2])])


def sight(state: np.ndarray) -> tuple[float, float]:
    """Return the bearing (rad, to the left) and distance (m) of the cube from the camera."""
    x, y = state[3:5] - eye_of(state)
    bearing = math.atan2(y, x) - state[2]
    return (bearing + math.pi) % (2 * math.pi) - math.pi, math.hypot(x, y)


def _draw_gait(rng: np.random.Generator) -> Gait:
    """Draw another locomotion controller, as different as two trained ones are (a guess)."""
    return Gait(
        lag=float(rng.uniform(0.1, 0.3)),
        delay=int(rng.integers(0, 9)),
        gain=tuple(rng.uniform(0.7, 1.15, 3)),
        sway=(float(rng.uniform(0.03, 0.08)), float(rng.uniform(0.05, 0.2))),
        hertz=float(rng.uniform(2.0, 3.5)),
        bob=float(rng.uniform(0.01, 0.04)),
    )
