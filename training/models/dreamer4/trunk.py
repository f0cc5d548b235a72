"""
The block-causal space/time transformer under tokenizer and dynamics.

The tokens of a frame come in groups, each a tensor (B, T, S, width) of its own.  A spatial layer
mixes the tokens of one frame, where a group sees the groups it names; a temporal layer mixes each
token with its own past.  Groups are separate tensors rather than rows under one mask: every
attention is then unmasked (and fused), and what a group does not see cannot touch it, not even in
the last bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn, Tensor
from torch.utils.checkpoint import checkpoint

from .attention import attend, Heads, LayerWeights, Norm, Turn, turn_of
from .config import TrunkConfig
from .memory import Memory, Ring, Sequence

Tokens = dict[str, Tensor]


@dataclass(frozen=True)
class Group:
    """
    Tokens that are treated alike.

    ``sees`` names the groups of the same frame that its queries see, ``stream`` the weights it
    uses.  In the last ``drop`` layers it is left out, and in the layer before them it is only
    seen: nothing would read what it becomes.
    """

    name: str
    size: int
    sees: tuple[str, ...]
    stream: int = 0
    drop: int = 0


class Layer(nn.Module):
    """Attention in space or time, then an MLP, for the groups that are given."""

    def __init__(
        self, config: TrunkConfig, groups: Collection[Group], ends: Collection[str]
    ) -> None:
        """
        Build a layer.

        :param ends: the groups that are only seen here and not returned.
        """
        super().__init__()
        self.groups, self.ends = {group.name: group for group in groups}, frozenset(ends)
        self.soft_cap = config.soft_cap
        weights = {}
        for stream in sorted({group.stream for group in groups}):
            goes_on = any(g.stream == stream and g.name not in self.ends for g in groups)
            weights[str(stream)] = LayerWeights(config, ends=not goes_on)
        self.weights = nn.ModuleDict(weights)

    def of(self, name: str) -> LayerWeights:
        """Return the weights that a group uses."""
        weights = self.weights[str(self.groups[name].stream)]
        assert isinstance(weights, LayerWeights)
        return weights

    def forward(
        self,
        tokens: Tokens,
        turns: Mapping[str, Turn],
        memory: Memory | None = None,
        layer: int = 0,
        read: Collection[str] | None = None,
    ) -> Tokens:
        """
        Advance all groups.

        :param memory: how frames reach others in the ``layer``-th temporal layer; a spatial layer
            has none.
        :param read: the groups to advance, all that go on when left out; the others are only seen
            and remembered.
        """
        heads = {name: self.of(name).project(x, turns[name]) for name, x in tokens.items()}
        done = {}
        for name, x in tokens.items():
            if name in self.ends or (read is not None and name not in read):
                if memory is not None:
                    memory.store(layer, name, heads[name])
                continue
            if memory is None:
                mixed = self._space(name, heads)
            else:
                mixed = memory.attend(layer, name, heads[name])
            done[name] = self.of(name).finish(x, mixed)
        return done

    def _space(self, name: str, heads: Mapping[str, Heads]) -> Tensor:
        """Mix a group (B, T, S, heads, 64) with what it sees of its own frame."""
        query = heads[name].query
        seen = [heads[other] for other in self.groups[name].sees if other in heads]
        key, value = seen[0].key, seen[0].value
        if len(seen) > 1:
            key = torch.cat([other.key for other in seen], dim=2)
            value = torch.cat([other.value for other in seen], dim=2)
        rows = [x.flatten(0, 1).transpose(1, 2) for x in (query, key, value)]
        mixed = attend(rows[0], rows[1], rows[2], soft_cap=self.soft_cap)
        return mixed.transpose(1, 2).unflatten(0, query.shape[:2])


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Tell the matrices inside layers, by their names in any module: what Muon may optimise."""
    return parameter.ndim == 2 and '.weights.' in name and name.endswith('.weight')


class Trunk(nn.Module):
    """A stack of layers; layer i (from 1) is temporal where ``time_every`` divides i."""

    def __init__(self, config: TrunkConfig, groups: Collection[Group]) -> None:
        super().__init__()
        self.config, self.groups = config, tuple(groups)
        self.depth = {group.name: self._depth(group) for group in groups}
        self.places: dict[tuple[torch.device, bool], dict[str, Turn]] = {}
        self.layers = nn.ModuleList()
        for index in range(config.layers):
            present = [group for group in groups if index < self.depth[group.name]]
            ends = [g.name for g in present if g.drop and index == self.depth[g.name] - 1]
            self.layers.append(Layer(config, present, ends))
        self.norm = Norm(config.width) if config.final_norm else nn.Identity()

    def _depth(self, group: Group) -> int:
        """Return how many layers have the group; nothing is seen of it in a temporal one."""
        depth = self.config.layers - group.drop
        while group.drop and depth > 0 and depth % self.config.time_every == 0:
            depth -= 1
        return depth

    def forward(
        self,
        tokens: Tokens,
        memory: Memory | None = None,
        read: Collection[str] | None = None,
    ) -> Tokens:
        """
        Advance groups (B, T, S, width); returns those that are not dropped.

        :param tokens: the groups by name; one that is left out is simply not seen.
        :param memory: how frames reach others; left out, the T frames see each other.
        :param read: the groups to return, if not all of them are wanted.
        """
        first = next(iter(tokens.values()))
        if memory is None:
            memory = Sequence(self.config, first.shape[1], first.device, first.dtype)
        space = self._places(first.device, first.dtype == torch.float64)
        time, last = dict.fromkeys(tokens, memory.turn), len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            wanted = read if index == last else None
            temporal, rest = divmod(index + 1, self.config.time_every)
            if rest:
                tokens = self._run(layer, tokens, space, None, 0, wanted)
            else:
                tokens = self._run(layer, tokens, time, memory, temporal - 1, wanted)
        return {name: self.norm(x) for name, x in tokens.items()}

    def _run(self, layer: nn.Module, *given: object) -> Tokens:
        if self.config.recompute and torch.is_grad_enabled():
            again: Tokens = checkpoint(layer, *given, use_reentrant=False)
            return again
        return layer(*given)

    def _places(self, device: torch.device, exact: bool) -> dict[str, Turn]:
        """Return the rotation of every group's places within a frame; it never changes."""
        known = self.places.get((device, exact))
        if known is None:
            known, start = {}, 0
            with torch.inference_mode(False):  # training has to be able to use them later
                for group in self.groups:
                    place = torch.arange(start, start + group.size, device=device)
                    known[group.name] = turn_of(place, exact)
                    start += group.size
            self.places[device, exact] = known
        return known

    def ring(self, batch: int, chunk: int = 1, without: Collection[str] = ()) -> Ring:
        """Reserve a ring for ``batch`` rows, on the device and in the type of the weights."""
        every = self.config.time_every
        if every > self.config.layers:
            raise ValueError(
                f'time_every is {every} of {self.config.layers} layers: none attends along time, '
                'so there is nothing to remember; make it smaller'
            )
        sizes = {
            group.name: (group.size, self.depth[group.name] // every)
            for group in self.groups
            if group.name not in without
        }
        sample = next(self.parameters())
        # The fused kernels of GPUs copy a mask whose rows are not aligned.
        align = 16 if sample.device.type == 'cuda' else 1
        return Ring(self.config, sizes, batch, chunk, sample.device, sample.dtype, align)
