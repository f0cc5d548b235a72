"""
A toy world with an occluder: only memory and actions tell where what is hidden comes out.

A red square moves as it is told (velocity commands, clipped at the border) on a floor with a
marked zone.  A wall as high as the picture hides it for as long as the scripted operator stays
behind it, and the operator goes on moving there.  No frame behind the wall shows anything of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SIDE = 32  # pixels
HALF = 3.0  # half the object's side
SPEED = 2.0  # pixels a frame at an action of 1
WALL = (11.0, 21.0)  # columns
HIDDEN = (WALL[0] + HALF, WALL[1] - HALF)  # centres at which nothing is seen
ZONE = (6.0, 2.0, 26.0, 13.0)  # left, top, right, bottom; it goes on behind the wall
LOW, HIGH = HALF, SIDE - HALF
COLOURS = {
    'floor': (206, 200, 190),
    'zone': (150, 190, 158),
    'wall': (72, 78, 96),
    'object': (204, 52, 44),
}
FOUND = 0.4  # of a pixel's way from what lies under it to the object's colour


class Play(NamedTuple):
    """
    Episodes of the operator's.

    ``frames`` (E, T, H, W, 3) uint8; ``action`` (E, T, 2) in [-1, 1], the one after each frame;
    ``place`` (E, T, 2) the object's centre in pixels, x right and y down; ``label`` (E, T) bool,
    whether it lies in the zone, seen or hidden; ``hidden`` (E, T) bool, whether none of it shows.
    """

    frames: np.ndarray
    action: np.ndarray
    place: np.ndarray
    label: np.ndarray
    hidden: np.ndarray

    def rows(self, chosen: slice | np.ndarray) -> Play:
        """Return some of the episodes."""
        return Play(*(part[chosen] for part in self))


@dataclass(frozen=True)
class PlayConfig:
    """What the operator does: stays hidden for 1 to ``longest`` frames or a bit more."""

    episodes: int = 400
    length: int = 96
    longest: int = 26
    noise: float = 0.15
    seed: int = 0


def cover(place: np.ndarray) -> np.ndarray:
    """Return the share of each pixel that the object covers, the wall left aside (..., H, W)."""
    edges = np.arange(SIDE + 1, dtype=np.float64)
    spans = []
    for axis in (1, 0):
        low, high = place[..., axis, None] - HALF, place[..., axis, None] + HALF
        inside = np.clip(edges, low, high)
        spans.append(np.diff(inside, axis=-1))
    return spans[0][..., :, None] * spans[1][..., None, :]


def background() -> np.ndarray:
    """Return the picture without the object (H, W, 3) in 0..255."""
    picture = np.empty((SIDE, SIDE, 3), np.float32)
    picture[:] = COLOURS['floor']
    left, top, right, bottom = map(int, ZONE)
    picture[top:bottom, left:right] = COLOURS['zone']
    picture[:, _wall()] = COLOURS['wall']
    return picture


def _wall() -> slice:
    return slice(int(WALL[0]), int(WALL[1]))


def draw(place: np.ndarray) -> np.ndarray:
    """Return frames (..., H, W, 3) uint8 of the object's centres (..., 2)."""
    shown = cover(place).astype(np.float32)
    shown[..., _wall()] = 0
    under = background()
    made = under + (np.array(COLOURS['object'], np.float32) - under) * shown[..., None]
    return np.rint(made).astype(np.uint8)


def move(place: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Return the next centres (..., 2)."""
    return np.clip(place + SPEED * np.clip(action, -1, 1), LOW, HIGH)


def hidden(place: np.ndarray) -> np.ndarray:
    """Tell where none of the object shows (...)."""
    return (place[..., 0] >= HIDDEN[0]) & (place[..., 0] <= HIDDEN[1])


def labelled(place: np.ndarray) -> np.ndarray:
    """Tell where the object's centre lies in the zone, seen or hidden (...)."""
    left, top, right, bottom = ZONE
    x, y = place[..., 0], place[..., 1]
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)


def play(config: PlayConfig) -> Play:
    """Let the operator play."""
    rng = np.random.default_rng(config.seed)
    operator = _Operator(config, rng)
    places, actions = [operator.place], []
    for _ in range(config.length):
        actions.append(operator.act())
        places.append(operator.place)
    place = np.stack(places[:-1], axis=1)
    frames = np.stack([draw(row) for row in place])  # all at once would take gigabytes
    return Play(frames, np.stack(actions, axis=1), place, labelled(place), hidden(place))


class _Operator:
    """Turns: some frames on one side of the wall, some behind it, then out on either side."""

    def __init__(self, config: PlayConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        count = config.episodes
        self.place = rng.uniform(LOW, HIGH, (count, 2))
        self.inside = np.zeros(count, bool)  # whether it wants to be hidden
        self.left = rng.random(count) < 0.5
        self.stay = rng.integers(4, 15, count)
        self.target = np.zeros((count, 2))
        self.target_age = np.zeros(count, int)
        self._aim(np.ones(count, bool))

    def act(self) -> np.ndarray:
        """Move towards the targets; returns the actions (E, 2) float32."""
        self._turn()
        self._aim(self.target_age <= 0)
        wanted = (self.target - self.place) / SPEED
        noise = self.config.noise * self.rng.standard_normal(wanted.shape)
        action = np.clip(wanted + noise, -1, 1).astype(np.float32)
        self.place = move(self.place, action)
        self.target_age -= 1
        return action

    def _turn(self) -> None:
        """Count the frames where one wanted to be, and go to the other side when done."""
        there = hidden(self.place) == self.inside
        self.stay -= there
        done = self.stay <= 0
        self.inside ^= done
        count = len(done)
        outside = self.rng.integers(4, 15, count)
        behind = self.rng.integers(1, self.config.longest + 1, count)
        self.stay = np.where(done, np.where(self.inside, behind, outside), self.stay)
        self.left = np.where(done & ~self.inside, self.rng.random(count) < 0.5, self.left)
        self._aim(done)

    def _aim(self, rows: np.ndarray) -> None:
        """Draw new targets."""
        count = len(rows)
        behind = self.rng.uniform(HIDDEN[0] + 0.4, HIDDEN[1] - 0.4, count)
        reach = self.rng.uniform(LOW, WALL[0] - HALF - 0.5, count)
        beside = np.where(self.left, reach, SIDE - reach)
        x = np.where(self.inside, behind, beside)
        # Beyond the border now and then: commands that the border stops.
        y = self.rng.uniform(LOW - 1, HIGH + 1, count)
        self.target = np.where(rows[:, None], np.stack((x, y), axis=-1), self.target)
        self.target_age = np.where(rows, self.rng.integers(3, 13, count), self.target_age)


def find(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Return where the object's visible part lies and how much of it shows.

    Every pixel outside the wall votes with its way from the background towards the object's
    colour, from ``FOUND`` on, so half-covered pixels count by their share.

    :returns: centroids (..., 2) in pixels, NaN where nothing shows; areas (...) in pixels.
    """
    under = background()
    way = np.array(COLOURS['object'], np.float32) - under
    share = ((frames.astype(np.float32) - under) * way).sum(-1) / np.square(way).sum(-1)
    share = np.where(share >= FOUND, np.minimum(share, 1), 0)
    share[..., _wall()] = 0
    area = share.sum((-2, -1))
    middle = np.arange(SIDE) + 0.5
    x, y = (share.sum(-2) * middle).sum(-1), (share.sum(-1) * middle).sum(-1)
    with np.errstate(invalid='ignore'):
        return np.stack((x, y), -1) / np.where(area > 0, area, np.nan)[..., None], area
