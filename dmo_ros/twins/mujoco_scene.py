"""
What the MuJoCo twins share: one model, a batch of worlds, and pictures without a screen.

MuJoCo chooses its OpenGL when it is imported, so this module is the one place that imports it.
Pictures are made in software on most machines; shadows and multisampling would make them a
hundred times slower, which is why :func:`visual` turns both off.
"""

from __future__ import annotations

import os
from typing import Any, TYPE_CHECKING
import weakref

import numpy as np

if TYPE_CHECKING:
    import mujoco

os.environ.setdefault('MUJOCO_GL', 'egl')  # before anybody imports mujoco; no screen is needed

PACKAGES = (
    'install it (Debian, Ubuntu: sudo apt install libegl1 libegl-mesa0 libgl1-mesa-dri), or '
    'install libosmesa6 and set MUJOCO_GL=osmesa'
)


class TwinError(RuntimeError):
    """A simulated robot that cannot run here, and what to do about it."""


def load() -> Any:
    """
    Import MuJoCo.

    :raises TwinError: it is not installed, or the OpenGL it was told to use is not there.
    """
    try:
        import mujoco
    except ImportError as error:
        raise TwinError(
            f"this twin needs MuJoCo ({error}); install it with pip install 'dmo_ros[sim]'"
        ) from error
    except Exception as error:  # PyOpenGL fails in its own ways where the library is absent
        raise TwinError(_no_opengl(error)) from error
    return mujoco


def _no_opengl(error: Exception) -> str:
    chosen = os.environ.get('MUJOCO_GL', '')
    return (
        f'this twin cannot draw: MUJOCO_GL={chosen} gives no OpenGL here '
        f'({type(error).__name__}: {error}); {PACKAGES}'
    )


def visual(width: int, height: int) -> str:
    """Return the MJCF that makes pictures of this size (pixels) cheap; goes below <mujoco>."""
    return (
        f'<visual><global offwidth="{width}" offheight="{height}"/>'
        '<quality shadowsize="0" offsamples="0"/>'
        '<headlight ambient="0.55 0.55 0.55" diffuse="0.4 0.4 0.4" specular="0 0 0"/>'
        '<map znear="0.005"/></visual>'
    )


class Scene:
    """
    A batch of independent worlds of one MJCF model.

    Physics may run in any one thread; all pictures have to be made in one thread, that of the
    first picture, which owns the OpenGL context from then on.
    """

    def __init__(self, xml: str, batch: int) -> None:
        self.mujoco = load()
        self.model: mujoco.MjModel = self.mujoco.MjModel.from_xml_string(xml)
        self.data: list[mujoco.MjData] = [self.mujoco.MjData(self.model) for _ in range(batch)]
        self._renderer: Any = None
        self._release: weakref.finalize | None = None

    def place(self, row: int, qpos: np.ndarray) -> None:
        """Begin world ``row`` anew, at rest, with these joint positions (nq,)."""
        data = self.data[row]
        self.mujoco.mj_resetData(self.model, data)
        data.qpos[:] = qpos
        self.mujoco.mj_forward(self.model, data)

    def advance(self, row: int, ticks: int) -> None:
        """Let ``ticks`` of the model's time steps pass in world ``row``."""
        self.mujoco.mj_step(self.model, self.data[row], ticks)

    def picture(self, row: int, camera: str) -> np.ndarray:
        """
        Return what ``camera`` sees of world ``row``: (h, w, 3) uint8 RGB, row 0 on top.

        :raises TwinError: there is no OpenGL to draw with; names what to install.
        """
        if self._renderer is None:
            self._renderer = self._make_renderer()
            # Before the interpreter takes OpenGL apart: its context cannot be freed after that.
            self._release = weakref.finalize(self, self._renderer.close)
        # What is drawn follows qpos, and a step leaves the derived poses one tick behind.
        self.mujoco.mj_kinematics(self.model, self.data[row])
        self.mujoco.mj_camlight(self.model, self.data[row])
        self._renderer.update_scene(self.data[row], camera=camera)
        image: np.ndarray = self._renderer.render()
        return image

    def _make_renderer(self) -> Any:
        size = self.model.vis.global_
        chosen = self.mujoco.GLContext.__module__
        if chosen.endswith('glfw') and not {'DISPLAY', 'WAYLAND_DISPLAY'} & set(os.environ):
            raise TwinError(  # GLFW would abort the whole process
                'this twin cannot draw: MuJoCo was imported with MUJOCO_GL=glfw (its default), '
                'which needs a screen, and there is none; set MUJOCO_GL=egl first'
            )
        try:
            return self.mujoco.Renderer(self.model, size.offheight, size.offwidth)
        except Exception as error:  # each OpenGL has its own
            raise TwinError(_no_opengl(error)) from error

    def close(self) -> None:
        """Free the OpenGL context; the next picture makes a new one."""
        if self._release is not None:
            self._release()
        self._renderer = self._release = None
