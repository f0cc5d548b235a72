"""What the occluder's model is asked: where things come out, whether it obeys, what it knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from .occluder_training import led
from .occluder_world import find, Play
from ..global_metrics import psnr
from ..models.dreamer4.model import Dreamer4
from ..models.dreamer4.objective import Batch, Objective
from ..models.dreamer4.reward import auroc, judge
from ..models.dreamer4.rollout import Rollout, RolloutConfig
from ..models.dreamer4.shortcut import ShortcutConfig

SHOWN = 18.0  # pixels: half of the object; with less of it a frame is not judged
VANISHED = 0.4  # of the true area


@dataclass(frozen=True)
class JudgeConfig:
    """
    How much is asked.

    ``before`` real frames precede a passage behind the wall, ``context`` any other piece: as many
    as the tasks have; where an object is that is hidden in all of them, nobody can know.
    """

    before: int = 8
    context: int = 32
    cut: int = 4
    after: int = 4
    hidden_for: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24)
    passages: int = 24
    rows: int = 128
    horizon: int = 24
    horizons: tuple[int, ...] = (1, 2, 4, 8, 16, 24)
    few: int = 48  # rows for the many denoising passes
    passes: tuple[int, ...] = (1, 2, 4, 64)
    passes_horizon: int = 12
    calibrated_on: int = 60  # episodes; the head is judged on twice as many others


class Passages(NamedTuple):
    """Episodes (n,), first hidden and first shown frame (n,), and the frame to judge (n,)."""

    row: np.ndarray
    hides: np.ndarray
    comes: np.ndarray
    shown: np.ndarray


def passages(play: Play, frames: int, config: JudgeConfig) -> Passages:
    """Find where the object is hidden for exactly ``frames`` frames and then comes out."""
    _, area = find(play.frames)
    found = []
    for row, hidden in enumerate(play.hidden):
        edges = np.diff(hidden.astype(int))
        for begin in np.flatnonzero(edges == 1) + 1:
            end = begin + frames
            if begin < config.before or end + config.after > len(hidden):
                continue
            if not hidden[begin:end].all() or hidden[end]:
                continue
            if area[row, begin - config.before : begin].max() < SHOWN:
                continue  # it only peeped out: nobody could tell where it was
            seen = np.flatnonzero(area[row, end : end + config.after] >= SHOWN)
            if len(seen):
                found.append((row, begin, end, end + seen[0]))
    return Passages(*np.array(found[: config.passages], int).reshape(-1, 4).T)


class Imaginer:
    """Imagines pieces of play from its real beginnings."""

    def __init__(self, model: Dreamer4, play: Play, latent: np.ndarray, steps: int = 4) -> None:
        self.model, self.play, self.latent, self.steps = model, play, latent, steps
        self.action, self.known = led(play)

    def run(
        self,
        rows: np.ndarray,
        first: np.ndarray,
        context: np.ndarray,
        count: int,
        driver: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Imagine ``count`` frames from frame ``first`` on, after ``context`` real ones, (n,) each.

        :param driver: the episodes whose actions drive; their own, when left out.
        :returns: frames (n, count, H, W, 3) and rewards (n, count).
        """
        rollout = Rollout(self.model, len(rows), RolloutConfig(self.steps, prefill_rows=64))
        for length in np.unique(context):
            there = np.flatnonzero(context == length)
            at = rows[there, None], first[there, None] + np.arange(-length, 0)
            parts = (torch.from_numpy(x[at]) for x in (self.latent, self.action, self.known))
            latent, action, known = parts
            rollout.begin(latent.float(), action, known, torch.from_numpy(there))
        driver = rows if driver is None else driver
        frames, rewards = [], []
        last = self.action.shape[1] - 1
        for step in range(count):
            # Rows that reach their episode's end go on with its last action; nobody judges them.
            action = self.action[driver, np.minimum(first + step, last)]
            made = rollout.step(torch.from_numpy(action)[:, None])
            assert made.frames is not None
            frames.append(made.frames.numpy())
            rewards.append(made.reward.numpy())
        return np.concatenate(frames, 1), np.concatenate(rewards, 1)


def _placed(made: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Compare where the object shows in frames (n, H, W, 3); errors are in pixels."""
    (here, area), (there, whole) = find(made), find(truth)
    gone = area < VANISHED * whole
    error = np.linalg.norm(here - there, axis=-1)[~gone]
    return {
        'cases': len(made),
        'vanished': float(gone.mean()) if len(gone) else None,
        'error': float(error.mean()) if len(error) else None,
        'median': float(np.median(error)) if len(error) else None,
    }


def judge_memory(imaginer: Imaginer, config: JudgeConfig) -> list[dict[str, Any]]:
    """
    Ask where the object comes out, for every number of hidden frames.

    ``through``: the hidden frames are imagined too.  ``seen``: they are real, and only the last
    frames are imagined.  ``cut``: the same, but only ``cut`` real frames are given.  ``stays``:
    the guess that it is where it was last seen.
    """
    play, found = imaginer.play, []
    for frames in config.hidden_for:
        at = passages(play, frames, config)
        if not len(at.row):
            continue
        truth, pick = play.frames[at.row, at.shown], np.arange(len(at.row))
        figures: dict[str, Any] = {'hidden_for': frames, 'cases': len(at.row)}
        whole = np.full(len(at.row), config.before)
        arms = {
            'through': (at.hides, whole),
            'seen': (at.comes, whole + frames),
            'cut': (at.comes, np.full(len(at.row), config.cut)),
        }
        for name, (first, context) in arms.items():
            count = int((at.shown - first).max()) + 1
            made, _ = imaginer.run(at.row, first, context, count)
            figures[name] = _placed(made[pick, at.shown - first], truth)
        gap = play.place[at.row, at.shown] - play.place[at.row, at.hides - 1]
        figures['stays'] = {'error': float(np.linalg.norm(gap, axis=-1).mean())}
        found.append(figures)
    return found


def _pieces(play: Play, rows: int, config: JudgeConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return episodes and first frames to imagine from, spread over the play."""
    room = play.label.shape[1] - config.horizon - config.context
    first = config.context + np.random.default_rng(7).integers(room + 1, size=rows)
    return np.arange(rows) % len(play.label), first


def judge_horizons(imaginer: Imaginer, config: JudgeConfig) -> dict[str, Any]:
    """Compare imagined frames with the truth, a copy of the last real one, and foreign actions."""
    play = imaginer.play
    rows, first = _pieces(play, config.rows, config)
    context, ahead = np.full(config.rows, config.context), np.arange(config.horizon)
    truth = play.frames[rows[:, None], first[:, None] + ahead]
    copy = np.broadcast_to(play.frames[rows, first - 1][:, None], truth.shape)
    own, reward = imaginer.run(rows, first, context, config.horizon)
    foreign, _ = imaginer.run(rows, first, context, config.horizon, np.roll(rows, 1))
    place, last = play.place[rows[:, None], first[:, None] + ahead], play.place[rows, first - 1]
    (_, area), table = find(truth), []
    for horizon in config.horizons:
        t = horizon - 1
        shown = area[:, t] >= SHOWN
        still = np.linalg.norm(place[shown, t] - last[shown], axis=-1)
        table.append(
            {
                'horizon': horizon,
                'psnr': _psnr(own[:, t], truth[:, t]),
                'psnr_copy': _psnr(copy[:, t], truth[:, t]),
                'psnr_foreign': _psnr(foreign[:, t], truth[:, t]),
                'copy': {'error': float(still.mean())},
                **_placed(own[shown, t], truth[shown, t]),
                'foreign': _placed(foreign[shown, t], truth[shown, t]),
            }
        )
    label = play.label[rows[:, None], first[:, None] + ahead]
    errors = [_square(made, truth) for made in (own, foreign, copy)]
    return {
        'by_horizon': table,
        'gain_db': float(10 * np.log10(errors[2] / errors[0])),
        'shuffled_ratio': errors[1] / errors[0],
        'imagined_reward_auroc': auroc(reward.ravel(), label.ravel().astype(float)),
    }


def judge_passes(imaginer: Imaginer, config: JudgeConfig) -> list[dict[str, Any]]:
    """Compare numbers of denoising passes on the same pieces."""
    play, count = imaginer.play, config.passes_horizon
    rows, first = _pieces(play, config.few, config)
    truth = play.frames[rows[:, None], first[:, None] + np.arange(count)]
    shown, table = find(truth)[1] >= SHOWN, []
    for steps in config.passes:
        other = Imaginer(imaginer.model, play, imaginer.latent, steps)
        made, _ = other.run(rows, first, np.full(config.few, config.context), count)
        figures = {'passes': steps, 'psnr': _psnr(made, truth)}
        table.append({**figures, **_placed(made[shown], truth[shown])})
    return table


def _square(made: np.ndarray, truth: np.ndarray) -> float:
    return float(np.square(made.astype(np.float32) - truth).mean())


def _psnr(made: np.ndarray, truth: np.ndarray) -> float:
    """Return the PSNR in dB over all rows and frames together."""
    flat = (x.reshape(-1, 1, *x.shape[-3:]) for x in (made, truth))
    return float(psnr(*flat)[0])


def judge_tokenizer(model: Dreamer4, play: Play) -> dict[str, Any]:
    """Tell what encoding and decoding keeps of the picture and of the object."""
    with torch.no_grad():
        latent = model.tokenizer.encode(torch.from_numpy(play.frames))
        made = model.tokenizer.decode(latent)[0].numpy()
    _, area = find(play.frames)
    shown, away = area >= SHOWN, area == 0
    inside = np.abs(play.frames[shown].astype(np.float32) - made[shown]).mean(-1)
    red = find_object(play.frames[shown])
    return {
        'psnr': _psnr(made, play.frames),
        'object_levels': float(inside[red].mean()),
        'ghosts': float((find(made[away])[1] > 4).mean()),
        'latent_deviation': float(latent.std((0, 1)).mean()),
        **_placed(made[shown], play.frames[shown]),
    }


def find_object(frames: np.ndarray) -> np.ndarray:
    """Tell the pixels that are mostly the object's (..., H, W)."""
    return (frames[..., 0].astype(int) - frames[..., 1]) > 75


def judge_head(
    model: Dreamer4, fit: tuple[Play, np.ndarray], held: tuple[Play, np.ndarray]
) -> dict[str, Any]:
    """Calibrate the head on some held-out episodes and judge it on others."""
    raw, label = _raw(model, *fit), fit[0].label
    before = torch.sigmoid(_raw(model, *held)).numpy()
    model.head.calibrate(raw, torch.from_numpy(label).float())
    play, _ = held
    chance = (_raw(model, *held) * model.head.slope + model.head.offset).sigmoid().numpy()
    parts = {'all': np.ones_like(play.hidden), 'seen': ~play.hidden, 'hidden': play.hidden}
    made: dict[str, Any] = {
        name: judge(chance[rows], play.label[rows].astype(float)) for name, rows in parts.items()
    }
    truth = play.label.astype(float)
    made['uncalibrated'] = judge(before.ravel(), truth.ravel())
    made['reliability'] = _reliability(chance.ravel(), truth.ravel())
    return made


@torch.no_grad()
def _raw(model: Dreamer4, play: Play, latent: np.ndarray) -> torch.Tensor:
    """Return the head's logits (E, T) of real frames, read as in a rollout."""
    objective = Objective(model.dynamics, ShortcutConfig(), model.head).eval()
    action, known = led(play)
    generator = torch.Generator().manual_seed(0)
    parts = []
    for rows in np.array_split(np.arange(len(action)), max(1, len(action) // 50)):
        batch = Batch(*(torch.from_numpy(x[rows]) for x in (latent, action, known)))
        parts.append(model.head.raw(objective.as_context(batch, generator)))
    return torch.cat(parts).float()


def _reliability(chance: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    """Return predicted and found frequency in tenths of the prediction."""
    which = np.minimum((chance * 10).astype(int), 9)
    return [
        {
            'predicted': float(chance[which == tenth].mean()),
            'found': float(truth[which == tenth].mean()),
            'share': float((which == tenth).mean()),
        }
        for tenth in np.unique(which)
    ]
