"""
Ways through the room: the robot's around what stands in it, and the cube's to where it is wanted.

What is in the way are discs and bars (a bar is a segment with a margin), so that "how near does a
straight line come to it" is one formula for all.
"""

from __future__ import annotations

import math

import numpy as np

from .push_cube_scene import Room

BODY = 0.38  # m: a circle around the robot, whichever way it turns
CORNER = 0.285  # m: half a cube's diagonal
SLACK = 0.04  # m that posts lie outside what they lead around
BERTHS = (0.0, 0.0, 0.15)  # m more that cube and robot keep from the goal's sides, the pillar
FLANK = 0.165  # m: half the robot's width, and a little
FOLLOW = 0.5  # m from the cube's centre to the robot's when it has pushed
WALK = 1.5  # m of pushing that turning half around and pushing back costs, halved
BEHIND = 0.72  # m from the cube's centre to the robot's when it begins to push


def from_segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distances (...,) of points (..., 2) from segments (..., 2) to (..., 2)."""
    way = end - start
    square = np.maximum((way * way).sum(axis=-1), 1e-12)
    share = np.clip(((points - start) * way).sum(axis=-1) / square, 0.0, 1.0)
    gap: np.ndarray = np.linalg.norm(points - start - share[..., None] * way, axis=-1)
    return gap


def between(a: np.ndarray, b: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distances (...,) between segments a-b (..., 2) and one segment start-end."""
    ends = [from_segment(p, start, end) for p in (a, b)]
    ends += [from_segment(np.broadcast_to(q, a.shape), a, b) for q in (start, end)]
    apart = np.minimum.reduce(ends)
    way = end - start

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        u, v = q - p, r - p
        cross: np.ndarray = u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]
        return cross

    first = side(start, start + way, a) * side(start, start + way, b) < 0
    second = side(a, b, start) * side(a, b, end) < 0
    return np.where(first & second, 0.0, apart)


class Routes:
    """The ways of one room."""

    def __init__(self, room: Room) -> None:
        self.room = room
        line, back, wide = room.goal_line, room.kerb, room.goal_half
        pillar = np.array(room.pillar)
        self.bars = [
            (np.array([line, -wide]), np.array([back, -wide]), 0.04),
            (np.array([line, wide]), np.array([back, wide]), 0.04),
            (pillar, pillar, room.pillar_radius),
        ]
        self.posts = np.concatenate([_around(*bar, BODY + SLACK) for bar in self.bars])
        self.posts = self.posts[(np.abs(self.posts) < room.half - BODY).all(axis=1)]
        grid = np.linspace(-1.35, 1.35, 7)
        self.places = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
        self.places = self.places[self._lane_free(self.places, self.places)]

    # ------------------------------------------------------------------ the robot's way
    def next(self, start: np.ndarray, end: np.ndarray, cube: np.ndarray) -> np.ndarray:
        """Return where (2,) the robot goes straight to on its way from ``start`` to ``end``."""
        bars = [*self.bars, (cube, cube, CORNER)]
        if self._free(start[None], end[None], bars)[0]:
            return end
        posts = np.concatenate([self.posts, _around(cube, cube, CORNER, BODY + SLACK)])
        nodes = np.concatenate([start[None], end[None], posts])
        closed = (np.abs(nodes) > self.room.half - BODY + 0.02).any(axis=1)
        for side, other, radius in bars:
            closed |= from_segment(nodes, side, other) < radius + BODY
        closed[:2] = False
        a, b = np.broadcast_arrays(nodes[:, None], nodes[None])
        gaps = np.where(self._free(a, b, bars), np.linalg.norm(a - b, axis=-1), np.inf)
        gaps[closed] = gaps[:, closed] = np.inf
        via = _first_step(gaps)
        return end if via is None else nodes[via]

    def _free(
        self, a: np.ndarray, b: np.ndarray, bars: list[tuple[np.ndarray, np.ndarray, float]]
    ) -> np.ndarray:
        """Tell which lines (...,) come no nearer to anything than their ends do, or not near."""
        free = np.ones(a.shape[:-1], dtype=bool)
        for start, end, radius in bars:
            here = np.minimum(from_segment(a, start, end), from_segment(b, start, end))
            need = np.minimum(radius + BODY, here - 1e-6)
            free &= between(a, b, start, end) >= need
        return free

    # ------------------------------------------------------------------ the cube's way
    def aim(self, cube: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return where (2,) to push the cube straight to on its way to ``target``."""
        if self._pushable(cube[None], target[None])[0]:
            return target
        places = self.places[np.linalg.norm(self.places - cube, axis=1) > 0.3]
        first = self._pushable(np.broadcast_to(cube, places.shape), places)
        then = self._pushable(places, np.broadcast_to(target, places.shape))
        out, on = places - cube, target - places
        lengths = np.linalg.norm(out, axis=1), np.linalg.norm(on, axis=1)
        bend = 1.0 - (out * on).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-9)
        cost = lengths[0] + lengths[1] + WALK * bend  # at a bend the robot walks around the cube
        cost = np.where(first & then, cost, np.where(first, 10 + cost, np.inf))
        best = int(np.argmin(cost))
        return places[best] if np.isfinite(cost[best]) else target

    def keeps(self, cube: np.ndarray, via: np.ndarray, target: np.ndarray) -> bool:
        """Tell whether ``via`` (2,) is still a good next place on the cube's way to ``target``."""
        there = np.linalg.norm(via - cube) < 0.15 and not np.array_equal(via, target)
        return not there and bool(self._pushable(cube[None], via[None])[0])

    def _pushable(self, cube: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Tell which pushes (...,) are free for the cube, with room for the robot behind it."""
        way = target - cube
        length = np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-9)
        back = cube - way / length * BEHIND
        last = target - way / length * FOLLOW
        free = self._lane_free(cube, target)
        for (start, end, radius), berth in zip(self.bars, BERTHS):
            free &= between(back, last, start, end) > radius + berth + FLANK
        return free & (np.abs(back) < self.room.half - 0.33).all(axis=-1)

    def _lane_free(self, cube: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Tell along which lines (...,) the cube comes past the pillar and the goal's sides."""
        free = np.ones(cube.shape[:-1], dtype=bool)
        for (start, end, radius), berth in zip(self.bars, BERTHS):
            need = np.minimum(radius + CORNER + berth, from_segment(cube, start, end) - 1e-6)
            free &= between(cube, target, start, end) >= need
        return free


def _around(start: np.ndarray, end: np.ndarray, radius: float, margin: float) -> np.ndarray:
    """Return points (8, 2) around a bar that lead past it."""
    angles = np.arange(8) * math.pi / 4 + math.pi / 8
    # The octagon's sides, not its corners, keep the margin.
    reach = (radius + margin) / math.cos(math.pi / 8)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * reach
    return np.where(ring[:, :1] > 0, np.maximum(start, end), np.minimum(start, end)) + ring


def _first_step(gaps: np.ndarray) -> int | None:
    """Return the first node on the shortest way from node 0 to node 1 (Dijkstra); None: none."""
    count = len(gaps)
    best, first = np.full(count, np.inf), np.full(count, -1)
    best[0] = 0.0
    todo = np.ones(count, dtype=bool)
    for _ in range(count):
        at = int(np.argmin(np.where(todo, best, np.inf)))
        if at == 1 or not np.isfinite(best[at]):
            break
        todo[at] = False
        through = best[at] + gaps[at]
        better = through < best
        best[better] = through[better]
        first[better] = np.flatnonzero(better) if at == 0 else first[at]
    return int(first[1]) if np.isfinite(best[1]) and first[1] >= 0 else None
