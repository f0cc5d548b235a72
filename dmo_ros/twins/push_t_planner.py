"""
Where to push a T, and how to get there without touching it.

The T yields to a push as the ellipsoidal limit surface of its friction says (Lynch, Maekawa and
Tanie 1992): while the tool sticks at a contact, the T turns about a fixed point of its own frame,
so the outcome of a push of any length is known in closed form.  A plan is the push that leaves the
T, after one more push if need be, nearest to its place, the tool's walk to it taken into account.

Everything here is in the T's frame but the poses of the T, which are in the goal's.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from .push_t import Geometry, outside, place

LENGTHS = np.array([0.002, 0.004, 0.008, 0.012, 0.02, 0.03, 0.04, 0.055, 0.07, 0.09, 0.12, 0.15])
SLANTS = (0.0, -0.3, 0.3)  # rad off the normal
BEAM = 120  # first pushes that are thought through to the second
CLEAR = 0.007  # m between tool and T on the way
WALK = 0.04  # how much nearer a push must bring the T per metre that the tool walks to it
SECOND = 0.004  # m: what a second push has to bring more than a single one
ROOM = 0.06  # m between the rail and where a second push may bring the T's origin
NEAR = 0.012  # m: so near to a contact, the tool is there


@dataclass(frozen=True)
class Push:
    """One push of ``length`` metres; ``twist`` is the T's, per metre that the tool moves."""

    contact: np.ndarray  # (2,) m, the tool's centre when it touches
    approach: np.ndarray  # (2,) m, from where a straight line to the contact is free
    twist: np.ndarray  # (3,) vx, vy (m), turn (rad)
    length: float
    outcome: float  # m, corner error that it leads to


class Planner:
    """The pushes of one geometry."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        contacts, normals = _contacts(geometry)
        self.posts = _posts(geometry)
        approaches = np.array([retreat(point, geometry) for point in contacts])
        self.way = self._ways(approaches)
        feet = contacts - normals * geometry.tool_radius
        self.which, self.twists = _pushes(feet, normals, geometry)
        self.contacts, self.approaches = contacts, approaches
        self.moves = exponential(self.twists[:, None] * LENGTHS[:, None])  # (P, L, 3)
        straight = np.arange(0, len(contacts), 2)
        self.second = self.moves[np.isin(self.which, straight)][:, 1::2].reshape(-1, 3)

    def _ways(self, approaches: np.ndarray) -> np.ndarray:
        """Return the walk (posts, contacts) in metres from every post to every approach."""
        between = _shortest(self._straight(self.posts, self.posts))
        last = self._straight(self.posts, approaches)
        self.between = between
        ways: np.ndarray = (between[:, :, None] + last[None]).min(axis=1)
        return ways

    def _straight(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return the distances (S, E) between points in sight of each other, infinity else."""
        a, b = np.broadcast_arrays(start[:, None], end[None])
        distance = np.linalg.norm(a - b, axis=-1)
        return np.where(free(a, b, self.geometry), distance, np.inf)

    def error(self, poses: np.ndarray) -> np.ndarray:
        """Return the corner error (...,) of the T at ``poses`` (..., 3) in the goal's frame."""
        cos, sin = np.cos(poses[..., 2, None]) - 1.0, np.sin(poses[..., 2, None])
        x, y = self.geometry.outline.T
        dx = poses[..., 0, None] + cos * x - sin * y
        dy = poses[..., 1, None] + sin * x + cos * y
        worst: np.ndarray = np.sqrt((dx * dx + dy * dy).max(axis=-1))
        return worst

    def plan(
        self, tool: np.ndarray, pose: np.ndarray, goal: np.ndarray, avoid: np.ndarray
    ) -> Push | None:
        """
        Choose the next push; None when none brings the T nearer.

        :param tool: (2,) in the T's frame; ``pose``: (3,) in the goal's; ``goal``: (3,) in world.
        :param avoid: (2,) contact that has led nowhere; NaN for none.
        """
        walks = self.walks(tool)
        walks[np.linalg.norm(self.contacts - avoid, axis=1) < 2 * NEAR] = np.inf
        walk = WALK * walks[self.which]  # (P,)
        after = compose(pose, self.moves)  # (P, L, 3)
        blocked = ~self._inside(compose(goal, after)) | np.isinf(walk)[:, None]
        cost = self.error(after) + walk[:, None]
        cost[blocked] = np.inf
        order = np.argsort(cost, axis=None)
        some = np.concatenate([order[: BEAM // 2], _spread(blocked, BEAM // 2)])
        ends = after.reshape(-1, 3)[some]
        later = compose(ends[:, None], self.second[None])
        twice = self.error(later)
        middle = turned(later[..., :2], float(goal[2])) + goal[:2]
        twice[(np.abs(middle) > self.geometry.rail - ROOM).any(axis=-1)] = np.inf
        both = twice.min(axis=1) + SECOND + walk[some // len(LENGTHS)]
        best, best_two = order[0], int(np.argmin(both))
        if both[best_two] < cost.flat[best]:
            return self._push(some[best_two], float(both[best_two]), pose)
        return self._push(best, float(cost.flat[best]), pose)

    def _push(self, index: int, outcome: float, pose: np.ndarray) -> Push | None:
        if not outcome < self.error(pose):
            return None
        row, length = divmod(int(index), len(LENGTHS))
        at = self.which[row]
        return Push(
            self.contacts[at], self.approaches[at], self.twists[row], LENGTHS[length], outcome
        )

    def _inside(self, poses: np.ndarray) -> np.ndarray:
        """Tell which poses (..., 3) in the world keep the T off the rail."""
        corners = place(self.geometry.outline[[0, 2, 3, 4, 5, 7]], poses)
        inside: np.ndarray = (np.abs(corners) < self.geometry.rail - 0.002).all(axis=(-1, -2))
        return inside

    def walks(self, tool: np.ndarray) -> np.ndarray:
        """Return the tool's walk (contacts,) in metres to each contact."""
        start = retreat(tool, self.geometry)
        direct = self._straight(start[None], self.approaches)[0]
        around = (self._straight(start[None], self.posts)[0][:, None] + self.way).min(axis=0)
        walk = np.linalg.norm(tool - start) + np.minimum(direct, around)
        there = np.linalg.norm(self.contacts - tool, axis=1)
        return np.where(there < NEAR, there, walk)

    def waypoint(self, tool: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return where to go straight (2,) on the way from ``tool`` to a free ``target``."""
        start = retreat(tool, self.geometry)
        if np.linalg.norm(start - tool) > 1e-3:
            return start
        if free(tool, target, self.geometry):
            return target
        out = self._straight(tool[None], self.posts)[0]
        back = self._straight(self.posts, target[None])[:, 0]
        total = out + (self.between + back[None]).min(axis=1)
        # A post that has been reached is in sight of itself: go on to the next one.
        total[out < 2e-3] = np.inf
        at = int(np.argmin(total))
        return self.posts[at] if np.isfinite(total[at]) else target


def compose(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Return poses (..., 3): ``then`` is seen from ``first``."""
    cos, sin = np.cos(first[..., 2]), np.sin(first[..., 2])
    x, y, turn = then[..., 0], then[..., 1], then[..., 2]
    return np.stack(
        [
            first[..., 0] + cos * x - sin * y,
            first[..., 1] + sin * x + cos * y,
            first[..., 2] + turn,
        ],
        axis=-1,
    )


def relative(pose: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return ``pose`` (3,) as seen from ``goal`` (3,), the yaw within +-pi."""
    seen = to_frame(pose[:2], goal)
    turn = (pose[2] - goal[2] + math.pi) % (2 * math.pi) - math.pi
    return np.array([*seen, turn])


def to_frame(point: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Return a point (2,) of the world in the frame of a body at ``pose`` (3,)."""
    return turned(point - pose[:2], -float(pose[2]))


def turned(vector: np.ndarray, angle: float) -> np.ndarray:
    """Return vectors (..., 2) turned by ``angle`` (rad)."""
    cos, sin = math.cos(angle), math.sin(angle)
    return vector @ np.array([[cos, sin], [-sin, cos]])


def exponential(twist: np.ndarray) -> np.ndarray:
    """Return the poses (..., 3) after following twists (..., 3) of one's own frame."""
    turn = twist[..., 2]
    small = np.abs(turn) < 1e-6
    safe = np.where(small, 1.0, turn)
    along = np.where(small, 1.0, np.sin(safe) / safe)
    across = np.where(small, turn / 2, (1 - np.cos(safe)) / safe)
    x, y = twist[..., 0], twist[..., 1]
    return np.stack([along * x - across * y, across * x + along * y, turn], axis=-1)


def free(start: np.ndarray, end: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Tell whether the tool can go straight (..., 2) -> (..., 2) without touching the T."""
    boxes = geometry.boxes
    half = boxes[:, 2:] + geometry.tool_radius + CLEAR
    start, way = start[..., None, :] - boxes[:, :2], (end - start)[..., None, :]
    way = np.where(np.abs(way) < 1e-12, 1e-12, way)
    near = (-np.sign(way) * half - start) / way
    far = (np.sign(way) * half - start) / way
    enters, leaves = near.max(axis=-1), far.min(axis=-1)
    hits = (enters < leaves - 1e-9) & (leaves > 0) & (enters < 1)
    clear: np.ndarray = ~hits.any(axis=-1)
    return clear


def retreat(point: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the nearest point (2,) found from which the tool can walk freely; maybe itself."""
    boxes = geometry.boxes
    half = boxes[:, 2:] + geometry.tool_radius + CLEAR
    for _ in range(6):
        depth = half - np.abs(point - boxes[:, :2])
        within = (depth > 0).all(axis=1)
        if not within.any():
            return point
        box = int(np.argmax(within))
        axis = int(np.argmin(depth[box]))
        point = point.copy()
        side = 1.0 if point[axis] >= boxes[box, axis] else -1.0
        point[axis] = boxes[box, axis] + side * (half[box, axis] + 5e-4)
    return point


def _contacts(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return where the tool's centre may stand to touch one side, and the sides' normals."""
    outline = geometry.outline
    centres, normals = [], []
    for start, end in zip(outline, np.roll(outline, -1, axis=0)):
        way = end - start
        length = float(np.linalg.norm(way))
        normal = np.array([way[1], -way[0]]) / length
        for share in np.linspace(0.006, length - 0.006, max(3, round(length / 0.01))):
            centre = start + way * share / length + normal * geometry.tool_radius
            if outside(centre, geometry) > geometry.tool_radius - 1e-6:
                centres.append(centre)
                normals.append(normal)
    return np.array(centres), np.array(normals)


def _pushes(
    feet: np.ndarray, normals: np.ndarray, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """Return contact (P,) and twist (P, 3) of the pushes at which the tool sticks."""
    which, twists = [], []
    cone = 0.9 * math.atan(geometry.friction)
    for index, (foot, normal) in enumerate(zip(feet, normals)):
        for slant in SLANTS:
            way = turned(-normal, slant)
            lever = np.array([-foot[1], foot[0]])
            mobility = np.eye(2) + np.outer(lever, lever) / geometry.pressure_radius**2
            force = np.linalg.solve(mobility, way)
            off = math.acos(min(1.0, float(-force @ normal / np.linalg.norm(force))))
            if off < cone:
                which.append(index)
                twists.append([*force, lever @ force / geometry.pressure_radius**2])
    return np.array(which), np.array(twists)


def _posts(geometry: Geometry) -> np.ndarray:
    """Return the points (6, 2) around which a walk around the T turns."""
    margin = geometry.tool_radius + CLEAR + 1e-3
    bar, stem = geometry.boxes
    signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
    around_bar = bar[:2] + signs * (bar[2:] + margin)
    below_stem = stem[:2] + signs[2:] * (stem[2:] + margin)
    return np.concatenate([around_bar, below_stem])


def _shortest(gaps: np.ndarray) -> np.ndarray:
    """Return all shortest distances (N, N) of a graph (Floyd and Warshall)."""
    best = gaps.copy()
    np.fill_diagonal(best, 0.0)
    for via in range(len(best)):
        best = np.minimum(best, best[:, via, None] + best[None, via])
    return best


def _spread(blocked: np.ndarray, count: int) -> np.ndarray:
    """Return about ``count`` flat indices of pushes that can be done, evenly spread."""
    possible = np.flatnonzero(~blocked)
    return possible[:: max(1, len(possible) // count)]
