"""
Latents on disk: every frame is encoded once, and the tokenizer leaves the dynamics' training.

A frame of push_cube is 49 kB as an image and 8 kB as latents.  A cache belongs to one tokenizer
and names it by a hash; another tokenizer's is refused.  An episode is encoded as one stream, chunk
by chunk with the encoder's memory, so that no seam shows; where frames are invalid it starts anew.
"""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from dmo_ros.core.episode import Episode
import numpy as np
import torch
from torch import Tensor

from .memory import Append
from .tokenizer import Tokenizer
from ...data import DataError, PlayDataset, valid_runs
from ...engine import atomic_write

CHUNK = 16


class LatentSegment(NamedTuple):
    """
    A batch of pieces of play as the dynamics sees them.

    ``latent`` (B, L, N, D) float32; ``action`` (B, L, A), the one that led to each frame, and
    ``known`` (B, L) bool, False where there is none; ``intent`` (B, L) uint8; ``uniform`` (B,)
    bool, False for pieces that were drawn for the label they hold.
    """

    latent: Tensor
    action: Tensor
    known: Tensor
    intent: Tensor
    uniform: Tensor


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return a hash of everything that latents depend on."""
    digest = hashlib.sha256(repr(tokenizer.config).encode())
    state = tokenizer.state_dict()
    for name in sorted(name for name in state if not name.startswith(('decoder.', 'scale.'))):
        tensor = state[name]
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def encode_stream(tokenizer: Tokenizer, frames: np.ndarray, proprio: np.ndarray) -> np.ndarray:
    """
    Encode consecutive frames (T, H, W, 3) with their whole past in view.

    :param proprio: (T, P), unused where the tokenizer reads none.
    :returns: latents (T, N, D) float16; in (-1, 1) that is finer than bfloat16.
    """
    ring = tokenizer.encoder.trunk.ring(1, CHUNK)
    device, parts = ring.length.device, []
    for begin in range(0, len(frames), CHUNK):
        piece = torch.from_numpy(np.array(frames[begin : begin + CHUNK]))[None].to(device)
        own = None
        if tokenizer.config.proprio_size:
            own = torch.from_numpy(np.array(proprio[begin : begin + CHUNK]))[None].to(device)
        memory = Append(ring, piece.shape[1])
        parts.append(tokenizer.encode(piece, own, memory)[0].half().cpu().numpy())
        memory.commit()
    return np.concatenate(parts)


def build(tokenizer: Tokenizer, episodes: Sequence[Episode], folder: Path) -> list[np.ndarray]:
    """
    Encode episodes into ``folder``, or open what is there; returns memory maps (T, N, D).

    A build that was interrupted goes on; latents of another tokenizer are refused.
    """
    claim(tokenizer, episodes, folder)
    return encode(tokenizer, episodes, folder)


def claim(tokenizer: Tokenizer, episodes: Sequence[Episode], folder: Path) -> None:
    """Write down whose latents the folder holds; DataError when they are another tokenizer's."""
    note = folder / 'latents.json'
    if note.is_file() and not belongs(tokenizer, episodes, folder):
        raise DataError(
            f'{folder} holds latents of another tokenizer or dataset; give another folder, or '
            'delete it'
        )
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(note, json.dumps(_mark(tokenizer, episodes)).encode())


def belongs(tokenizer: Tokenizer, episodes: Sequence[Episode], folder: Path) -> bool:
    """Tell whether a folder holds latents of these episodes and of this tokenizer."""
    note = folder / 'latents.json'
    return note.is_file() and json.loads(note.read_text()) == _mark(tokenizer, episodes)


def _mark(tokenizer: Tokenizer, episodes: Sequence[Episode]) -> dict[str, Any]:
    return {'tokenizer': fingerprint(tokenizer), 'episodes': len(episodes)}


def encode(
    tokenizer: Tokenizer,
    episodes: Sequence[Episode],
    folder: Path,
    own: slice = slice(None),
) -> list[np.ndarray]:
    """
    Encode into a folder that was claimed, or open what is there; returns memory maps (T, N, D).

    :param own: which of the episodes; several processes can share the work.
    """
    tokenizer.eval()
    return [
        _one(tokenizer, episodes[number], folder / f'{number:06d}.npy')
        for number in range(len(episodes))[own]
    ]


def _one(tokenizer: Tokenizer, episode: Episode, path: Path) -> np.ndarray:
    if not path.is_file():
        size = tokenizer.config
        made = np.zeros((len(episode), size.latents, size.bottleneck), np.float16)
        for run in valid_runs(episode.valid):
            made[run] = encode_stream(tokenizer, episode.frames[run], episode.proprio[run])
        part = path.with_name(f'.{path.name}.part')
        with open(part, 'wb') as stream:
            np.save(stream, made, allow_pickle=False)
        part.replace(path)
    found = np.load(path, mmap_mode='r', allow_pickle=False)
    if len(found) != len(episode):
        raise DataError(
            f'{path} holds {len(found)} frames, its episode has {len(episode)}; delete the folder '
            'and encode again'
        )
    return found


class LatentPlay:
    """Play as latents: windows drawn uniformly, or half of them for a label they hold."""

    def __init__(self, dataset: PlayDataset, latents: Sequence[np.ndarray]) -> None:
        """Pair the arrays of :func:`build` with ``dataset.episodes()``."""
        self.dataset = dataset
        self.latents = {
            id(episode): array for episode, array in zip(dataset.episodes(), latents, strict=True)
        }
        self._labelled: dict[tuple[int, bool], np.ndarray] = {}

    def sample(
        self,
        rng: np.random.Generator,
        batch: int,
        length: int,
        held_out: bool = False,
        labelled: float = 0.0,
        share: slice = slice(None),
    ) -> LatentSegment:
        """
        Draw windows of ``length`` valid frames.

        :param labelled: the share of rows whose window holds an intent or a milestone.  The
            dynamics' loss belongs on the ``uniform`` rows only.
        :param share: the rows of the batch to read and return; all of them are drawn.
        """
        starts = self.dataset.starts(length, held_out)
        picks = starts[rng.integers(len(starts), size=batch)]
        chosen = round(labelled * batch)
        if chosen:
            special = self._holding_a_label(length, held_out)
            picks[:chosen] = special[rng.integers(len(special), size=chosen)]
        episodes = self.dataset.held_out if held_out else self.dataset.train
        uniform = torch.arange(batch) >= chosen
        places = [(episodes[e], int(t)) for e, t in picks[share]]
        return self._cut(places, length, uniform[share])

    def _cut(
        self, places: list[tuple[Episode, int]], length: int, uniform: Tensor
    ) -> LatentSegment:
        def gather(pieces: list[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.stack(pieces))

        came = [led(episode, t, length) for episode, t in places]
        return LatentSegment(
            gather([self.latents[id(e)][t : t + length] for e, t in places]).float(),
            gather([action for action, _ in came]).float(),
            gather([known for _, known in came]),
            gather([np.asarray(e.intent[t : t + length]) for e, t in places]),
            uniform,
        )

    def _holding_a_label(self, length: int, held_out: bool) -> np.ndarray:
        """List the (episode, start) whose window holds a frame with an intent or a milestone."""
        if (length, held_out) not in self._labelled:
            episodes = self.dataset.held_out if held_out else self.dataset.train
            counts = [np.concatenate(([0], np.cumsum(e.intent > 0))) for e in episodes]
            starts = self.dataset.starts(length, held_out)
            holds = np.array([counts[e][t + length] > counts[e][t] for e, t in starts])
            if not holds.any():
                raise DataError(
                    'no window of play holds an intent or a milestone, so there is nothing to '
                    'learn a reward from; press the intent button while playing, or `dmo relabel`'
                )
            self._labelled[length, held_out] = starts[holds]
        return self._labelled[length, held_out]


def led(episode: Episode, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the actions that led to frames (L, A) and whether there was one (L,)."""
    before = np.arange(start - 1, start + length - 1)
    known = (before >= 0) & np.asarray(episode.valid)[np.maximum(before, 0)].astype(bool)
    action = np.asarray(episode.action)[np.maximum(before, 0)]
    return np.where(known[:, None], action, 0).astype(np.float32), known
