"""Laws of the scene that the MuJoCo twins share."""

import builtins

from dmo_ros.twins import mujoco_scene  # first: it says which OpenGL MuJoCo is to use
from dmo_ros.twins.mujoco_scene import Scene, TwinError, visual
import numpy as np
import pytest

pytest.importorskip('mujoco', reason='not installed: mujoco')

WORLD = f"""
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  {visual(48, 32)}
  <worldbody>
    <camera name="top" pos="0 0 2" fovy="45"/>
    <body>
      <joint name="x" type="slide" axis="1 0 0"/>
      <geom type="box" size="0.2 0.2 0.1" rgba="1 0 0 1"/>
    </body>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def scene():
    scene = Scene(WORLD, 2)
    yield scene
    scene.close()


def picture(scene, row=0):
    try:
        return scene.picture(row, 'top')
    except TwinError as error:
        pytest.skip(str(error))


def red(image):
    """Return the mean column of red pixels."""
    return np.argwhere(image[..., 0] > image[..., 1].astype(int) + 40)[:, 1].mean()


def test_a_picture_shows_where_things_are_now(scene):
    scene.place(0, np.array([0.4]))
    scene.place(1, np.array([-0.4]))
    images = [picture(scene, row) for row in (0, 1)]
    assert images[0].shape == (32, 48, 3) and images[0].dtype == np.uint8
    assert red(images[0]) > 24 + 5 and red(images[1]) < 24 - 5


def test_a_picture_follows_the_last_tick(scene):
    scene.place(0, np.array([0.0]))
    scene.data[0].qvel[0] = 40.0  # one tick is 0.4 m
    scene.advance(0, 1)
    assert red(picture(scene)) > 24 + 5


def test_rows_are_worlds_of_their_own(scene):
    scene.place(0, np.array([0.1]))
    scene.place(1, np.array([0.2]))
    scene.data[0].qvel[0] = 1.0
    scene.advance(0, 10)
    assert scene.data[0].qpos[0] == pytest.approx(0.2)
    assert scene.data[1].qpos[0] == 0.2 and scene.data[1].time == 0.0


def test_placing_forgets_all_motion(scene):
    scene.data[0].qvel[0] = 1.0
    scene.advance(0, 10)
    scene.place(0, np.array([0.3]))
    scene.advance(0, 100)
    assert scene.data[0].qpos[0] == 0.3


def test_pictures_go_on_after_close(scene):
    before = picture(scene)
    scene.close()
    scene.close()
    np.testing.assert_array_equal(picture(scene), before)


def test_without_opengl_the_packages_are_named(scene, monkeypatch):
    def refuse(*args):
        raise RuntimeError('Cannot initialize a EGL device display')

    monkeypatch.setenv('MUJOCO_GL', 'egl')
    monkeypatch.setattr(scene.mujoco, 'Renderer', refuse)
    with pytest.raises(TwinError, match='libegl1 libegl-mesa0 libgl1-mesa-dri.*MUJOCO_GL=osmesa'):
        scene.picture(0, 'top')


def test_a_screen_that_is_not_there_is_said_and_not_died_of(scene, monkeypatch):
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    screen = type('GLContext', (), {'__module__': 'mujoco.glfw'})
    monkeypatch.setattr(scene.mujoco, 'GLContext', screen)
    with pytest.raises(TwinError, match='needs a screen.*MUJOCO_GL=egl'):
        scene.picture(0, 'top')


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (ModuleNotFoundError("No module named 'mujoco'"), r'pip install .dmo_ros\[sim\]'),
        (AttributeError("'NoneType' object has no attribute 'eglQueryString'"), 'libegl1'),
    ],
)
def test_a_mujoco_that_cannot_be_imported_says_why(monkeypatch, error, said):
    plain = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == 'mujoco':
            raise error
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', refuse)
    with pytest.raises(TwinError, match=said):
        mujoco_scene.load()
