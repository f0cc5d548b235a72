"""
The frame stack a policy or a world model sees.

After a reset the first frame fills every slot: with depth 4 and frames a, b, the stack reads
``a a a a`` and then ``a a a b``.  Training cuts its stacks the same way at an episode's start, so
a policy meets nothing new in its first steps on the robot.
"""

from __future__ import annotations

import numpy as np


class FrameStack:
    """The newest ``depth`` frames, oldest first."""

    def __init__(self, depth: int) -> None:
        if depth < 1:
            raise ValueError(f'a frame stack needs at least one frame, not {depth}')
        self.depth = depth
        self._frames: list[np.ndarray] = []

    def reset(self) -> None:
        """Forget everything; the next frame fills every slot."""
        self._frames.clear()

    def push(self, frame: np.ndarray) -> np.ndarray:
        """Add a frame (H, W, 3) and return the stack (depth, H, W, 3)."""
        missing = self.depth - len(self._frames)
        self._frames += [frame] * max(missing, 1)
        del self._frames[: -self.depth]
        return np.stack(self._frames)


def stack_indices(length: int, depth: int) -> np.ndarray:
    """Return (length, depth) frame numbers of an episode's stacks, back-filled with frame 0."""
    offsets = np.arange(1 - depth, 1)
    return np.maximum(np.arange(length)[:, None] + offsets[None], 0)
