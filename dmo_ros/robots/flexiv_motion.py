"""
From a tool's velocity to a stream of pose targets: pure, time is an argument.

The arm has no Cartesian velocity mode.  A target runs ahead of the tool at the commanded velocity,
stays in the workspace box, and is never further from the tool than a bounded lead: when commands
cease, when the link is cut or when the tool is blocked, that lead is all that is left to go
(hardware.md 8.2).
"""

from __future__ import annotations

from dataclasses import dataclass
import math

from .base import RobotError

Pair = tuple[float, float]
SLACK = 0.005  # m, by which a servo may miss the box
JUMP = 0.02  # m, beyond what its speed allows: then the tool was moved, not driven


@dataclass(frozen=True)
class Workspace:
    """
    Where the tool may be, and where the task's frame lies.

    ``low``, ``high``: corners of the box, m, in the task's frame.  ``board``: x, y (m) and yaw
    (rad) of that frame in the arm's own world frame.
    """

    low: Pair = (-0.25, -0.25)
    high: Pair = (0.25, 0.25)
    board: tuple[float, float, float] = (0.6, 0.0, 0.0)

    def __post_init__(self) -> None:
        numbers = (*self.low, *self.high, *self.board)
        if not all(math.isfinite(number) for number in numbers):
            raise RobotError(f'the workspace {numbers} has a number that is not finite')
        for name, low, high in zip('xy', self.low, self.high):
            if not low + 2 * SLACK < high:
                raise RobotError(
                    f'the workspace is empty: {name} from {low:g} to {high:g} m; give the lower '
                    'number first, and a centimetre of room at least'
                )

    def clip(self, point: Pair) -> Pair:
        """Return the nearest point of the box."""
        x, y = (min(max(p, a), b) for p, a, b in zip(point, self.low, self.high))
        return x, y

    def misses(self, point: Pair) -> float:
        """Return how far a point is outside the box, m."""
        return math.dist(point, self.clip(point))

    def turned(self, vector: Pair) -> Pair:
        """Return a vector of the arm's frame in the task's."""
        return _turn(vector, -self.board[2])

    def to_task(self, point: Pair) -> Pair:
        """Return a point of the arm's frame in the task's."""
        return self.turned((point[0] - self.board[0], point[1] - self.board[1]))

    def to_arm(self, point: Pair) -> Pair:
        """Return a point of the task's frame in the arm's."""
        x, y = _turn(point, self.board[2])
        return x + self.board[0], y + self.board[1]


class Target:
    """
    The point that the tool follows, in the task's frame.

    At an edge of the box it slides along: the part of the velocity that points out is lost, the
    part along the edge is kept as it was commanded.

    :param speed: m/s; a faster command is scaled, its direction kept.
    :param lead: m, the furthest it may be from the tool.
    """

    def __init__(self, workspace: Workspace, speed: float, lead: float) -> None:
        if not (0 < speed < math.inf and 0 < lead < math.inf):
            raise RobotError(f'speed {speed:g} m/s and lead {lead:g} m must be above 0')
        self.workspace, self.speed, self.lead = workspace, speed, lead
        self.point: Pair = (0.0, 0.0)
        self.limited = {'speed': 0, 'lead': 0, 'box': 0, 'jump': 0}
        self._seen: tuple[Pair, float] | None = None

    def rest(self, tool: Pair, stamp: float) -> None:
        """Begin where the tool is (as near as the box allows)."""
        self.point, self._seen = self.workspace.clip(tool), (tool, stamp)

    def advance(self, velocity: Pair, dt: float, tool: Pair, stamp: float) -> Pair:
        """
        Move on by ``dt`` (s) and return the point.

        ``tool`` (m) was measured at ``stamp`` (s, the robot's clock); a tool that jumped was put
        there by somebody, and then the target begins anew where it is.
        """
        before, at = self._seen or (tool, stamp)
        if math.dist(tool, before) > self.speed * max(stamp - at, 0.0) + JUMP:
            self.limited['jump'] += 1
            self.point = tool
        self._seen = (tool, stamp)
        vx, vy = self._scaled(velocity)
        wished = (self.point[0] + vx * dt, self.point[1] + vy * dt)
        self.point = self._boxed(self._led(wished, tool))
        return self.point

    def _scaled(self, velocity: Pair) -> Pair:
        size = math.hypot(*velocity)
        if size <= self.speed:
            return velocity
        self.limited['speed'] += 1
        return velocity[0] * self.speed / size, velocity[1] * self.speed / size

    def _led(self, point: Pair, tool: Pair) -> Pair:
        ahead = math.dist(point, tool)
        if ahead <= self.lead:
            return point
        self.limited['lead'] += 1
        share = self.lead / ahead
        return tool[0] + share * (point[0] - tool[0]), tool[1] + share * (point[1] - tool[1])

    def _boxed(self, point: Pair) -> Pair:
        """Last, and safe there: the nearest point of a box that holds the tool is no further."""
        inside = self.workspace.clip(point)
        self.limited['box'] += inside != point
        return inside


def _turn(vector: Pair, angle: float) -> Pair:
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]


def yaw(quaternion: tuple[float, ...]) -> float:
    """Return where the x axis of a pose (w, x, y, z) points in the plane, rad."""
    w, x, y, z = quaternion
    return math.atan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))
