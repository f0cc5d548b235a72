"""
Inverse kinematics of the twin's right hand over waist and arm, by damped least squares.

Buss, Introduction to inverse kinematics with Jacobian transpose, pseudoinverse and damped least
squares methods (2004), section 6, with a posture task in the null space.  MuJoCo's own site
Jacobian on a private copy of the room; a state's numbers go in, rates come out.
"""

from __future__ import annotations

import numpy as np

from . import grab_box_scene as room
from .grab_box import QposMap
from .mujoco_scene import Scene

RIGHT = tuple(
    i for i, field in enumerate(room.JOINTS) if field.name.startswith(('waist_', 'right_'))
)
DAMPING = 0.05  # m/rad; keeps rates small near a stretched arm
POSTURE = 0.8  # 1/s, the pull back to the ready posture where the hand does not mind
# The trunk moves less than the arm where both could.
EASE = np.array([0.35, 0.15, 0.35] + [1.0] * 7)


class ArmKinematics:
    """Look at one state at a time: where hand and handle are, and how the hand can be moved."""

    def __init__(self) -> None:
        self.scene = Scene(room.xml(), 1)
        self.map = QposMap(self.scene)
        model, self.data = self.scene.model, self.scene.data[0]
        self._mujoco, self._model = self.scene.mujoco, model
        names = [room.JOINTS[i].name for i in RIGHT]
        self._dofs = np.array([model.jnt_dofadr[model.joint(name).id] for name in names])
        self.posture = np.array([room.JOINTS[i].rest for i in RIGHT])
        self.low = np.array([room.JOINTS[i].low for i in RIGHT]) + 0.02
        self.high = np.array([room.JOINTS[i].high for i in RIGHT]) - 0.02
        self._jacobian = np.zeros((6, model.nv))
        self.joints, self.base = self.posture, np.zeros(3)

    def look(self, state: np.ndarray) -> None:
        """Take a state (33,)."""
        self.data.qpos[:] = self.map.qpos(state)
        self._mujoco.mj_kinematics(self._model, self.data)
        self._mujoco.mj_comPos(self._model, self.data)
        site = self._model.site('right_grip').id
        self._mujoco.mj_jacSite(
            self._model, self.data, self._jacobian[:3], self._jacobian[3:], site
        )
        self.joints, self.base = state[list(RIGHT)], state[19:22]

    @property
    def hand(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the grip's place (3,) and the hand's axes (3, 3): fingers, bar, back."""
        site = self.data.site('right_grip')
        return site.xpos.copy(), site.xmat.reshape(3, 3).copy()

    @property
    def bar(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the middle of the handle's bar (3,) and its direction (3,)."""
        site = self.data.site('handle')
        return site.xpos.copy(), site.xmat.reshape(3, 3)[:, 1].copy()

    @property
    def bearing(self) -> float:
        """Return where the bar is seen from the base: rad to the left of straight ahead."""
        place, _ = self.bar
        angle = np.arctan2(place[1] - self.base[1], place[0] - self.base[0]) - self.base[2]
        return float(np.arctan2(np.sin(angle), np.cos(angle)))

    def rates(self, velocity: np.ndarray, spin: np.ndarray, speed: np.ndarray) -> np.ndarray:
        """
        Return the rates (10,) of waist and right arm that move the grip.

        :param velocity: (3,) m/s; ``spin``: (3,) rad/s, both in the room's frame.
        :param speed: (10,) most rad/s of each joint; the vector is shrunk as a whole.
        """
        jacobian = self._jacobian[:, self._dofs]
        wish = POSTURE * (self.posture - self.joints)
        free = np.ones(10)
        for _ in range(3):  # a joint at its end is taken out, the others do its part
            J = jacobian * (EASE * free)
            inverse = (
                (EASE * free)[:, None]
                * J.T
                @ np.linalg.inv(
                    jacobian @ (EASE[:, None] * free[:, None] * J.T) + DAMPING**2 * np.eye(6)
                )
            )
            twist = np.concatenate([velocity, spin])
            rates = inverse @ (twist - jacobian @ wish) + wish
            out = ((self.joints <= self.low) & (rates < 0)) | (
                (self.joints >= self.high) & (rates > 0)
            )
            if not (out & (free > 0)).any():
                break
            free[out] = 0.0
            wish[out] = 0.0
        rates[free == 0] = 0.0
        return rates / max(1.0, float(np.max(np.abs(rates) / speed)))
