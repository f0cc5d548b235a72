"""What the tests of the twins share: play in a world, and its pictures where there is OpenGL."""

from collections import namedtuple

from dmo_ros.twins.base import moved
from dmo_ros.twins.mujoco_scene import TwinError  # before MuJoCo: it says which OpenGL
import numpy as np
import pytest

Play = namedtuple('Play', 'states motions commands labels')


@pytest.fixture(scope='session')
def roll():
    """Return a function that lets an operator drive for some steps and gives the Play."""

    def drive(twin, operator, steps):
        """States (T + 1, B, S); motions and commands (T, B, A), SI units; labels (T, B)."""
        states, motions, commands, labels = [twin.state], [], [], []
        command = np.tile([field.rest for field in twin.spec.actions], (len(twin.state), 1))
        for _ in range(steps):
            motion, label = operator.act(twin.state)
            command = moved(command, motion, twin.spec)
            twin.step(command)
            states.append(twin.state)
            motions.append(motion)
            commands.append(command)
            labels.append(label)
        return Play(*map(np.stack, (states, motions, commands, labels)))

    return drive


@pytest.fixture(scope='session')
def pictures():
    """Return a function that renders a twin, and skips its test where nothing can draw."""

    def draw(twin):
        try:
            return twin.render()
        except TwinError as error:
            pytest.skip(str(error))

    return draw
