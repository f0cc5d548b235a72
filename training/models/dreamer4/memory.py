"""
What temporal attention remembers: a whole sequence, or a ring of keys and values.

A :class:`Ring` holds the last frames of every row of a batch.  Rows have lengths of their own; the
frame with absolute index n lies in slot n mod capacity, and what a slot holds follows from the
row's length alone.  Keys are stored already rotated by their absolute index: scores depend on
differences of positions only, and softmax does not care in which order keys lie, so nothing is
ever shifted.

A capacity of ``window + chunk - 1`` or more lets a chunk be appended at once: its last frame must
not evict what its first one still sees.  Denoising passes write the new frame's slots again and
again and do not advance the length; only ``commit`` does.  So tensors keep their shapes and their
places, which is what CUDA graphs need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from .attention import attend, Heads, hide, Turn, turn_of, window_mask
from .config import HEAD_SIZE, TrunkConfig


class Memory(Protocol):
    """How temporal layers reach other frames."""

    turn: Turn  # (B or 1, T, 1, 1, 64), the rotation of the frames that are given

    def store(self, layer: int, group: str, heads: Heads) -> None:
        """Remember keys and values of the ``layer``-th temporal layer."""

    def attend(self, layer: int, group: str, heads: Heads) -> Tensor:
        """Remember them, and mix (B, T, S, heads, 64) along time."""


class Sequence:
    """Frames that see each other and nothing else: training, and reading a clip at once."""

    def __init__(
        self, trunk: TrunkConfig, frames: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.soft_cap = trunk.soft_cap
        position = torch.arange(frames, device=device)
        self.turn = turn_of(position[None, :, None], dtype == torch.float64)
        # Without a mask the fused kernels are faster; short batches need none.
        longer = frames > trunk.window
        self.mask = window_mask(frames, trunk.window, device, dtype) if longer else None

    def store(self, layer: int, group: str, heads: Heads) -> None:
        """Remember nothing."""

    def attend(self, layer: int, group: str, heads: Heads) -> Tensor:
        """Mix along time, causally and within the window."""
        self.store(layer, group, heads)
        batch = heads.query.shape[0]
        query, key, value = (x.permute(0, 2, 3, 1, 4).flatten(0, 1) for x in heads)
        mask = None if self.mask is None else self.mask.to(query.dtype)
        mixed = attend(query, key, value, mask, mask is None, self.soft_cap)
        return mixed.unflatten(0, (batch, -1)).permute(0, 3, 1, 2, 4)


class Ring:
    """
    Keys and values of the last frames of every row.

    ``key[group][layer]`` and ``value[group][layer]`` are (B, S, key-value heads, capacity, 64),
    ``length`` is (B,) int64: how many frames a row has seen.  ``extent`` slots are read, all of
    them unless whoever knows the lengths without asking the device narrows it: until a ring is
    full, most of what it costs is reading slots that hold nothing.  Where that tells that all rows
    write the same slot, ``shared`` is its number, and it is written as one block.
    """

    extent: int
    shared: int | None

    def __init__(
        self,
        trunk: TrunkConfig,
        sizes: Mapping[str, tuple[int, int]],
        batch: int,
        chunk: int,
        device: torch.device,
        dtype: torch.dtype,
        align: int = 1,
    ) -> None:
        """
        Reserve an empty ring.

        :param sizes: tokens and temporal layers of each group.
        :param chunk: the most frames that are appended at once.
        :param align: capacity and extent are multiples of this; slots beyond the window are not
            seen.
        """
        self.trunk, self.chunk, self.align = trunk, chunk, align
        self.window = trunk.window
        self.capacity = -(-(trunk.window + chunk - 1) // align) * align
        self.widen()

        def slots(tokens: int, layers: int) -> list[Tensor]:
            shape = (batch, tokens, trunk.key_heads, self.capacity, HEAD_SIZE)
            return [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]

        self.key = {name: slots(*counts) for name, counts in sizes.items()}
        self.value = {name: slots(*counts) for name, counts in sizes.items()}
        self.length = torch.zeros(batch, dtype=torch.int64, device=device)
        self.row = torch.arange(batch, device=device)

    @property
    def tensors(self) -> list[Tensor]:
        """Return all keys and values."""
        parts = (*self.key.values(), *self.value.values())
        return [tensor for layers in parts for tensor in layers]

    def narrow(self, length: Tensor) -> None:
        """
        Read no slots but those that hold a frame, for the next append.

        :param length: of the rows with the new frames (B,) int64, on the host.
        """
        shortest, longest = int(length.min()), int(length.max())
        self.extent = min(self.capacity, -(-longest // self.align) * self.align)
        self.shared = (longest - 1) % self.capacity if shortest == longest else None

    def widen(self) -> None:
        """Read all slots, and ask the device where each row writes."""
        self.extent, self.shared = self.capacity, None

    def empty(self, rows: Tensor) -> None:
        """Forget rows (int64), their numbers too: one bad value must not outlive a reset."""
        self.length[rows] = 0
        for tensor in self.tensors:
            tensor[rows] = 0

    def state_dict(self) -> dict[str, Any]:
        """Return everything, for a checkpoint."""
        return {'length': self.length, 'key': self.key, 'value': self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back, in place."""
        self.length.copy_(state['length'])
        for name in self.key:
            for here, there in ((self.key, state['key']), (self.value, state['value'])):
                for tensor, stored in zip(here[name], there[name], strict=True):
                    tensor.copy_(stored)


class Prefill(Sequence):
    """A sequence from the beginning of some rows, which the ring remembers."""

    def __init__(self, ring: Ring, rows: Tensor, frames: int) -> None:
        """
        Forget what the rows held and start them anew.

        :param rows: int64, which rows of the ring the batch stands for.
        """
        sample = ring.tensors[0]
        super().__init__(ring.trunk, frames, sample.device, sample.dtype)
        self.ring, self.rows, self.frames = ring, rows[:, None], frames
        self.kept = min(frames, ring.capacity)
        newest = torch.arange(frames - self.kept, frames, device=sample.device)
        self.slot = (newest % ring.capacity)[None]
        ring.empty(rows)

    def store(self, layer: int, group: str, heads: Heads) -> None:
        """Keep the newest keys and values."""
        for store, new in ((self.ring.key, heads.key), (self.ring.value, heads.value)):
            tensor = store[group][layer]
            tensor[self.rows, :, :, self.slot] = new[:, -self.kept :].to(tensor.dtype)

    def commit(self) -> None:
        """Count the frames as seen."""
        self.ring.length[self.rows[:, 0]] = self.frames


class Append:
    """The next frames of every row: they see what the ring remembers, and each other causally."""

    def __init__(self, ring: Ring, frames: int) -> None:
        if frames > ring.chunk:
            raise ValueError(
                f'{frames} frames are to be appended at once, the ring was made for chunks of '
                f'{ring.chunk}; make it with a larger chunk'
            )
        self.ring, self.frames = ring, frames
        device = ring.length.device
        position = ring.length[:, None] + torch.arange(frames, device=device)
        self.slot = position % ring.capacity
        self.turn = turn_of(position[:, :, None], ring.tensors[0].dtype == torch.float64)
        self.mask = self._mask(position)[:, None]

    def _mask(self, position: Tensor) -> Tensor:
        """Return (B, T, extent), what each new frame sees of each slot."""
        capacity, newest = self.ring.capacity, position[:, -1:]
        slot = torch.arange(self.ring.extent, device=newest.device)
        held = newest - (newest - slot) % capacity  # absolute index, negative where still empty
        gap = position[:, :, None] - held[:, None]
        seen = (gap >= 0) & (gap < self.ring.window) & (held >= 0)[:, None]
        return hide(seen, self.ring.tensors[0].dtype)

    def store(self, layer: int, group: str, heads: Heads) -> None:
        """Write the new keys and values into their slots."""
        for store, new in ((self.ring.key, heads.key), (self.ring.value, heads.value)):
            tensor = store[group][layer]
            if self.frames == 1 and self.ring.shared is not None:
                tensor[..., self.ring.shared, :] = new.squeeze(1)
            else:
                tensor[self.ring.row[:, None], :, :, self.slot] = new.to(tensor.dtype)

    def attend(self, layer: int, group: str, heads: Heads) -> Tensor:
        """Store, and mix over the ring; tokens count as heads, so that nothing is copied."""
        self.store(layer, group, heads)
        stores = self.ring.key[group][layer], self.ring.value[group][layer]
        key, value = (store[..., : self.ring.extent, :] for store in stores)
        query = heads.query.permute(0, 2, 3, 1, 4)
        mixed = attend(
            query.flatten(1, 2), key.flatten(1, 2), value.flatten(1, 2), self.mask,
            soft_cap=self.ring.trunk.soft_cap,
        )  # fmt: skip
        return mixed.view(query.shape).permute(0, 3, 1, 2, 4)

    def commit(self) -> None:
        """Count the frames as seen: what they wrote stays."""
        self.ring.length += self.frames
