"""
The planar pusher: a disc tool pushes a disc to a goal on a one-metre board, seen from above.

Quasi-static and batched: contact moves the object out of the tool along the normal, and it stops
with the tool.  The board frame has x to the right and y up in the picture.  The object is kept one
contact distance away from where the tool's walls are, so the tool can always get behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.tasks import TASKS


@dataclass(frozen=True)
class Geometry:
    """Sizes in metres.  A step of 0.08 is 0.57 of the contact distance, the tool 3.2 pixels."""

    tool_radius: float = 0.05
    object_radius: float = 0.09
    goal: tuple[float, float] = (0.5, 0.5)
    wall: float = 0.04
    substeps: int = 4
    start_distance: float = 0.15

    @property
    def contact(self) -> float:
        """Distance between the centres when tool and object touch."""
        return self.tool_radius + self.object_radius


BOARD, GOAL, OBJECT, TOOL = (
    np.array(colour, dtype=np.float32)
    for colour in ((226, 222, 210), (120, 190, 120), (196, 64, 48), (40, 72, 168))
)


class PusherTwin:
    """A batch of boards; ``state`` is (B, 4) float64: tool x, y and object x, y in metres."""

    names = ('tool_x', 'tool_y', 'object_x', 'object_y')

    def __init__(self, batch: int = 1, seed: int = 0, geometry: Geometry | None = None) -> None:
        self.spec = TASKS['pusher']
        self.geometry = geometry or Geometry()
        self.goal = np.array(self.geometry.goal)
        self.rng = np.random.default_rng(seed)
        self.state = np.zeros((batch, 4))
        self._pixels = _pixel_centres(self.spec.frame_size)
        self.reset()

    def reset(self, rows: np.ndarray | None = None, state: np.ndarray | None = None) -> None:
        """Put ``rows`` (all, when left out) at ``state`` (n, 4) or at random starts."""
        index = np.arange(len(self.state)) if rows is None else np.flatnonzero(rows)
        placed = self.state.copy()  # those who were handed the old state keep it
        placed[index] = self._random_starts(len(index)) if state is None else state
        self.state = placed

    def _random_starts(self, count: int) -> np.ndarray:
        """Draw starts with the object away from the goal and the tool away from the object."""
        g, starts = self.geometry, np.empty((0, 4))
        while len(starts) < count:
            tool = self.rng.uniform(g.wall, 1 - g.wall, (4 * count, 2))
            thing = self.rng.uniform(g.wall + g.contact, 1 - g.wall - g.contact, (4 * count, 2))
            good = np.linalg.norm(thing - self.goal, axis=1) > g.start_distance
            good &= np.linalg.norm(thing - tool, axis=1) > g.contact + 0.02
            starts = np.concatenate([starts, np.hstack([tool, thing])[good]])
        return starts[:count]

    def step(self, action: np.ndarray) -> None:
        """Apply tool velocities (B, 2) in m/s for one control period."""
        self.advance(action, self.spec.period)

    def advance(self, action: np.ndarray, seconds: float) -> None:
        """Apply tool velocities (B, 2) in m/s for at most one control period."""
        low, high = self.spec.actions[0].low, self.spec.actions[0].high
        move = np.clip(action, low, high) * seconds / self.geometry.substeps
        for _ in range(self.geometry.substeps):
            self.state = _substep(self.state, move, self.geometry)

    def distance(self, state: np.ndarray | None = None) -> np.ndarray:
        """Return the distance (B,) between object and goal in metres, now or in ``state``."""
        state = self.state if state is None else state
        return np.linalg.norm(state[:, 2:] - self.goal, axis=1)

    def check(self, state: np.ndarray) -> str:
        """Say what is wrong with a start (4,), '' for nothing."""
        return '' if ((state > 0) & (state < 1)).all() else 'it lies outside the board (0 to 1 m)'

    def render(self) -> np.ndarray:
        """Return the top views, (B, S, S, 3) uint8 RGB, anti-aliased over one pixel."""
        g, pixels = self.geometry, self._pixels
        image = np.broadcast_to(BOARD, (len(self.state), *pixels.shape[:2], 3))
        goal = np.broadcast_to(self.goal, (len(self.state), 2))
        for centre, radius, colour in (
            (goal, self.spec.success.threshold, GOAL),
            (self.state[:, 2:], g.object_radius, OBJECT),
            (self.state[:, :2], g.tool_radius, TOOL),
        ):
            cover = _disc_cover(pixels, centre, radius)[..., None]
            image = image + cover * (colour - image)
        return np.rint(image).astype(np.uint8)


def locate(frames: np.ndarray) -> np.ndarray:
    """
    Return the states (B, 4) in metres that frames (B, S, S, 3) uint8 show, by colour centroids.

    A disc that is not to be seen gives NaN.
    """
    centres = _pixel_centres(frames.shape[1])
    pixels = frames.astype(np.float32)
    shares = []
    for colour, others in ((TOOL, (BOARD, GOAL, OBJECT)), (OBJECT, (BOARD, GOAL, TOOL))):
        own = np.square(pixels - colour).sum(axis=-1)
        nearest = np.min([np.square(pixels - other).sum(axis=-1) for other in others], axis=0)
        weight = np.where(own < nearest, 1.0, 0.0)
        total = weight.sum(axis=(1, 2))
        with np.errstate(invalid='ignore', divide='ignore'):
            shares.append(np.einsum('bhw,hwc->bc', weight, centres) / total[:, None])
    return np.hstack(shares)


def _substep(state: np.ndarray, move: np.ndarray, g: Geometry) -> np.ndarray:
    """Move the tool, push the object out of it, stop the tool where the object cannot yield."""
    tool = np.clip(state[:, :2] + move, g.wall, 1 - g.wall)
    gap = state[:, 2:] - tool
    distance = np.linalg.norm(gap, axis=1, keepdims=True)
    normal = gap / np.maximum(distance, 1e-9)
    push = np.maximum(g.contact - distance, 0.0)
    margin = g.wall + g.contact
    thing = np.clip(state[:, 2:] + push * normal, margin, 1 - margin)
    gap = thing - tool
    distance = np.linalg.norm(gap, axis=1, keepdims=True)
    overlap = np.maximum(g.contact - distance, 0.0)
    tool = np.clip(tool - overlap * gap / np.maximum(distance, 1e-9), g.wall, 1 - g.wall)
    return np.hstack([tool, thing])


def _pixel_centres(size: int) -> np.ndarray:
    """Return board coordinates (size, size, 2) of pixel centres; row 0 is the far edge (y = 1)."""
    along = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return np.stack(np.broadcast_arrays(along[None, :], 1 - along[:, None]), axis=-1)


def _disc_cover(pixels: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Return how much of each pixel a disc covers, (B, S, S) float32, with a one-pixel ramp."""
    size = pixels.shape[0]
    gap = pixels[None] - centre[:, None, None].astype(np.float32)
    distance = np.sqrt((gap * gap).sum(axis=-1))
    return np.clip((radius - distance) * size + 0.5, 0.0, 1.0)
