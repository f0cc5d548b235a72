"""
The G1 at a table: grasp a box by its flexible handle and lift it, seen from the robot's head.

MuJoCo with the upper body's real joint order, ranges, efforts and speed ceilings; the joints obey
as behind arm_sdk (position servo with damping), walking is a first-order lag of the commanded
velocity.  Between two control steps targets move on a straight line, as the bridge sends them.

The grasp is contact alone: no weld, no adhesion.  The closed hand is a hook, palm above, fingers
below, thumb behind the handle's bar, so the load hangs in the hand's shape and friction (elliptic
cone, impratio 5) only has to keep the bar from sliding along.  A squeeze by friction alone was
the fragile way; with the hook nothing has to be switched on by hand, and nothing lifts the box
that a real hand would not lift.
"""

from __future__ import annotations

import numpy as np

from . import grab_box_scene as room
from .mujoco_scene import Scene
from ..core.tasks import TASKS

TICK = 0.01  # s, what commands are resolved to
LIFT = 0.15  # m above the table; a box above LIFT - threshold is lifted
WALK_LAG = 0.25  # s, of the body velocity behind the commanded one
BOX_STATE = ('box_x', 'box_y', 'box_z', 'box_qw', 'box_qx', 'box_qy', 'box_qz')

# Shares of the starts, and the box's places on the table (m, rad); docs/results says what is seen.
TURNED, BEHIND_ARM = 0.12, 0.12


class GrabBoxTwin:
    """
    A batch of rooms; ``state`` is (B, 33) float64, see ``names``: rad, m, closure 0 to 1.

    Proprioception comes first, under the task's names: 17 joints, 2 hands; then the base, the
    box and the handle's hinges.  Velocities are not part of it: what is set up stands still.
    """

    names = (
        *(field.name for field in TASKS['grab_box'].proprioception),
        *('base_x', 'base_y', 'base_yaw'),
        *BOX_STATE,
        *room.HANDLE_JOINTS,
    )

    def __init__(self, batch: int = 1, seed: int = 0) -> None:
        self.spec = TASKS['grab_box']
        self.rng = np.random.default_rng(seed)
        self.scene = Scene(room.xml(), batch)
        self.map = QposMap(self.scene)
        self.low, self.high = (
            np.array([getattr(field, end) for field in self.spec.actions])
            for end in ('low', 'high')
        )
        self.rest = np.array([field.rest for field in self.spec.actions[:19]])
        self._reach = np.array(room.SPEED) * TICK
        self._command, self._setpoint = np.tile(self.rest, (2, batch, 1))
        self._walk = np.zeros((batch, 3))
        self.state = np.zeros((batch, len(self.names)))
        self.reset()

    # ------------------------------------------------------------------ starts
    def reset(self, rows: np.ndarray | None = None, state: np.ndarray | None = None) -> None:
        """Put ``rows`` (all, when left out) at ``state`` (n, 33) or at random starts, at rest."""
        index = np.arange(len(self.state)) if rows is None else np.flatnonzero(rows)
        starts = self._random_starts(len(index)) if state is None else np.array(state, float)
        for row, start in zip(index, starts):
            self.scene.place(int(row), self.map.qpos(start))
        self._command[index] = self._setpoint[index] = starts[:, :19]
        self._walk[index] = 0.0
        self.state = self._read()

    def _random_starts(self, count: int) -> np.ndarray:
        """Draw starts: the robot ready before the table, a box that its right arm can reach."""
        rng, kind = self.rng, self.rng.random(count)
        turned, behind = kind < TURNED, (kind >= TURNED) & (kind < TURNED + BEHIND_ARM)
        base = rng.uniform((-0.03, -0.03, -0.1), (0.03, 0.03, 0.1), (count, 3))
        aside = rng.uniform(0.8, 1.2, count) * rng.choice((-1, 1), count)
        base[:, 2] += np.where(turned, aside, 0.0)
        place = rng.uniform((0.34, -0.22, -0.5), (0.44, 0.02, 0.5), (count, 3))
        hidden = rng.uniform((0.40, -0.36, -0.4), (0.50, -0.26, 0.4), (count, 3))
        place = np.where(behind[:, None], hidden, place)
        start = np.zeros((count, len(self.names)))
        start[:, :19] = self.rest
        start[:, 19:22] = base
        start[:, 22:24] = place[:, :2]
        start[:, 24] = room.TABLE + room.BOX[2]
        start[:, 25], start[:, 28] = np.cos(place[:, 2] / 2), np.sin(place[:, 2] / 2)
        return start

    def check(self, state: np.ndarray) -> str:
        """Say what is wrong with a start (33,), '' for nothing."""
        value = dict(zip(self.names, state))
        for field in self.spec.proprioception:
            if not field.low - 1e-3 <= value[field.name] <= field.high + 1e-3:
                return f'{field.name} lies outside its range ({field.low} to {field.high})'
        (x, y), (length, width) = state[22:24] - (room.TABLE_X, 0.0), room.TABLE_SIZE
        if abs(x) > length or abs(y) > width or not room.TABLE < state[24] < room.TABLE + 1:
            return 'the box is not over the table'
        if abs(np.linalg.norm(state[25:29]) - 1) > 1e-3:
            return 'box_qw, box_qx, box_qy, box_qz are no unit quaternion'
        return '' if np.abs(state[19:21]).max() < room.ROAM else 'the robot is outside its room'

    # ------------------------------------------------------------------ time
    def step(self, action: np.ndarray) -> None:
        """Apply targets and velocities (B, 22) for one control period, targets on a line."""
        ticks = round(self.spec.period / TICK)
        before, after = self._command, self._checked(action)
        for tick in range(1, ticks + 1):
            self._tick(before + (after[:, :19] - before) * (tick / ticks), after[:, 19:])
        self.state = self._read()

    def advance(self, action: np.ndarray, seconds: float) -> None:
        """Apply targets and velocities (B, 22) for another time, a multiple of 0.01 s."""
        action = self._checked(action)
        for _ in range(round(seconds / TICK)):
            self._tick(action[:, :19], action[:, 19:])
        self.state = self._read()

    def _checked(self, action: np.ndarray) -> np.ndarray:
        if not np.isfinite(action).all():
            raise ValueError('a command to the G1 is not finite; the gate never sends one')
        return np.clip(action, self.low, self.high)

    def _tick(self, target: np.ndarray, velocity: np.ndarray) -> None:
        self._command = target
        reach = np.clip(target - self._setpoint, -self._reach, self._reach)
        self._setpoint = self._setpoint + reach
        self._walk = self._walk + (velocity - self._walk) * (TICK / (WALK_LAG + TICK))
        for row, data in enumerate(self.scene.data):
            data.ctrl[:19] = self._setpoint[row] * self.map.scale
            data.ctrl[19:] = turned(self._walk[row], data.qpos[self.map.base[2]])
            self.scene.advance(row, round(TICK / room.TIMESTEP))

    # ------------------------------------------------------------------ what is to be seen
    def _read(self) -> np.ndarray:
        return np.array([self.map.state(data.qpos) for data in self.scene.data])

    @property
    def joint_position(self) -> np.ndarray:
        """Return where the joints (rad) and hands (closure) are: (B, 19), in the task's order."""
        return self.state[:, :19].copy()

    @property
    def joint_velocity(self) -> np.ndarray:
        """Return their velocities: (B, 19) in rad/s and closures per second."""
        return np.array([d.qvel[self.map.joint_speeds] / self.map.scale for d in self.scene.data])

    @property
    def base(self) -> np.ndarray:
        """Return the base's pose (B, 3) in the room: x, y in m, yaw in rad."""
        return self.state[:, 19:22].copy()

    @property
    def base_velocity(self) -> np.ndarray:
        """Return the base's velocity (B, 3) in its own frame: vx, vy in m/s, wz in rad/s."""
        rows = [turned(d.qvel[self.map.base_speeds], -d.qpos[self.map.base[2]]) for d in self.data]
        return np.array(rows)

    @property
    def data(self) -> list:
        """Return MuJoCo's data of each room."""
        return self.scene.data

    def distance(self, state: np.ndarray | None = None) -> np.ndarray:
        """Return how far (B,) in metres the box is below the lifted height, now or in states."""
        state = self.state if state is None else state
        return np.maximum(0.0, LIFT - (state[..., 24] - room.TABLE - room.BOX[2]))

    def render(self) -> np.ndarray:
        """Return what the head sees: (B, 288, 384, 3) uint8 RGB."""
        return np.stack([self.scene.picture(row, 'head') for row in range(len(self.state))])


class QposMap:
    """Where a state's columns are in MuJoCo's joint positions, which hold the linkages too."""

    def __init__(self, scene: Scene) -> None:
        model = scene.model

        def address(names: tuple[str, ...] | list[str], kind: str = 'jnt_qposadr') -> np.ndarray:
            return np.array([getattr(model, kind)[model.joint(name).id] for name in names])

        joints = [field.name for field in room.JOINTS] + ['left_finger', 'right_finger']
        bases = ['base_x', 'base_y', 'base_yaw']
        box = address(['box'])[0] + np.arange(7)
        self.base, self.base_speeds = address(bases), address(bases, 'jnt_dofadr')
        self.joint_speeds = address(joints, 'jnt_dofadr')
        self.columns = np.concatenate(
            [address(joints), self.base, box, address(room.HANDLE_JOINTS)]
        )
        self.linked = address(['left_tip', 'right_tip', 'left_thumb', 'right_thumb'])
        self.scale = np.array([1.0] * 17 + [room.FINGER] * 2)  # rad a unit of the state
        self._rest = model.qpos0.copy()

    def qpos(self, state: np.ndarray) -> np.ndarray:
        """Return MuJoCo's joint positions of a state (33,)."""
        qpos = self._rest.copy()
        qpos[self.columns] = state
        qpos[self.columns[:19]] *= self.scale
        qpos[self.linked] = np.tile(state[17:19], 2) * np.repeat((room.TIP, room.THUMB), 2)
        return qpos

    def state(self, qpos: np.ndarray) -> np.ndarray:
        """Return the state (33,) of MuJoCo's joint positions."""
        state = qpos[self.columns]
        state[:19] /= self.scale
        return state


def turned(velocity: np.ndarray, yaw: float) -> np.ndarray:
    """Return a planar velocity (vx, vy, wz) in a frame that is turned back by ``yaw`` (rad)."""
    c, s = np.cos(yaw), np.sin(yaw)
    vx, vy, wz = velocity
    return np.array([c * vx - s * vy, s * vx + c * vy, wz])
