"""
What the G1's twin and its scripted person are worth: success, speed, what starts show, play.

    python bench/grab_box.py [--starts 60] [--seed 3] [--sheet contact_sheet.png]

Without ROS; the person's motions become commands as its pad's would (twins.base.moved).  Success
is the task's strict criterion (box lifted for 10 steps in a row) and the relaxed one (once).
"""

from __future__ import annotations

import argparse
from pathlib import Path
import time
from typing import Any

import cv2
from dmo_ros.core.intent import INTENT, MILESTONE, PLAY
from dmo_ros.core.metrics import SuccessTracker, wilson
from dmo_ros.twins import grab_box_scene as room
from dmo_ros.twins.base import moved
from dmo_ros.twins.grab_box import GrabBoxTwin
from dmo_ros.twins.grab_box_operator import GrabBoxOperator
import numpy as np

DELAY = 2  # steps between a frame and the motion it caused, in the third row


def drive(
    twin: GrabBoxTwin,
    operator: GrabBoxOperator,
    steps: int,
    delay: int = 0,
    judged: bool = False,
) -> dict[str, Any]:
    """Let the person drive; with a delay its rates are limited like the gate's, too."""
    spec, batch = twin.spec, len(twin.state)
    command = np.zeros((batch, 22))
    command[:, :19] = twin.rest
    rate, reach = np.zeros((batch, 22)), np.array(spec.limits.acceleration) * spec.period
    waiting, counter = [rate] * delay, SuccessTracker(spec.success, batch)
    states, labels = [twin.state], []
    for _ in range(steps):
        motion, label = operator.act(twin.state)
        waiting.append(motion)
        motion = waiting.pop(0)
        rate = rate + np.clip(motion - rate, -reach, reach) if delay else motion
        command = moved(command, rate, spec)
        twin.step(command)
        counter.update(twin.distance())
        states.append(twin.state)
        labels.append(label)
        if judged and counter.strict.all():  # no step more could change the figures
            break
    return {'states': np.stack(states), 'labels': np.stack(labels), 'counter': counter}


def success(starts: int, seed: int) -> None:
    """Print the success table."""
    steps = GrabBoxTwin(1).spec.success.episode_steps
    print('| person | starts | strict | relaxed | median steps to strict |\n|---|---|---|---|---|')
    for name, skill, delay in (
        ('expert', 'expert', 0),
        (f'expert, {DELAY} steps late, acceleration limited', 'expert', DELAY),
        ('random', 'random', 0),
    ):
        twin = GrabBoxTwin(starts, seed)
        run = drive(twin, GrabBoxOperator(starts, seed, skill=skill), steps, delay, judged=True)
        counter = run['counter']
        strict, relaxed, when = counter.strict, counter.relaxed, counter.steps_to_success
        median = f'{np.median(when[strict]):.0f}' if strict.any() else '-'
        cells = [
            f'{hit.mean():.0%} [{low:.0%}, {high:.0%}]'
            for hit in (strict, relaxed)
            for low, high in [wilson(int(hit.sum()), starts)]
        ]
        print(f'| {name} | {starts} | {cells[0]} | {cells[1]} | {median} |', flush=True)


def speed() -> None:
    """Print how fast it is, per second of CPU time of this process."""
    twin, operator = GrabBoxTwin(1, 1), GrabBoxOperator(1, 2, skill='expert')
    command = np.append(twin.rest, np.zeros(3))[None]
    before = time.process_time()
    for _ in range(100):
        operator.act(twin.state)
    thought = time.process_time() - before
    command[0, :19] = drive(twin, operator, 30)['states'][-1, 0, :19]  # the box in the hand
    before = time.process_time()
    for _ in range(300):
        twin.step(command)
    physics = time.process_time() - before
    twin.render()
    before = time.process_time()
    for _ in range(100):
        twin.render()
    pictures = time.process_time() - before
    print(
        f'\n{300 / physics:.0f} control steps, {100 / pictures:.0f} images, '
        f"{100 / thought:.0f} of the person's decisions a CPU-second"
    )


def view(count: int = 400) -> None:
    """Print how much of the box and its handle the head sees at random starts."""
    twin = GrabBoxTwin(1, 7)
    twin.render()
    scene = twin.scene
    scene._renderer.enable_segmentation_rendering()
    root, model = scene.model.body_rootid, scene.model
    box = model.body('box').id
    whole = np.flatnonzero(root[model.geom_bodyid] == root[box])
    handle = [geom for geom in whole if model.geom_bodyid[geom] != box]
    seen = []
    for _ in range(count):
        twin.reset()
        names = scene.picture(0, 'head')[..., 0]
        seen.append([np.isin(names, geoms).sum() for geoms in (whole, handle)])
    scene._renderer.disable_segmentation_rendering()
    box_seen, handle_seen = np.array(seen).T
    usual = np.median(handle_seen)
    print(
        f'\n{count} starts: box out of view in {(box_seen < 30).mean():.0%}, handle in '
        f'{(handle_seen < 10).mean():.0%}, less than half of the handle in '
        f'{(handle_seen < usual / 2).mean():.0%} (median {usual:.0f} pixels)'
    )


def play(rooms: int = 6, seconds: int = 120) -> None:
    """Print what play consists of."""
    run = drive(GrabBoxTwin(rooms, 11), GrabBoxOperator(rooms, 12), seconds * 10)
    labels, z = run['labels'], run['states'][..., 24]
    shares = [(labels == label).mean() for label in (PLAY, INTENT, MILESTONE)]
    lifts = ((labels[1:] == MILESTONE) & (labels[:-1] != MILESTONE)).sum()
    print(
        f'\n{rooms * seconds / 60:.0f} minutes of play: {lifts} lifts; play, intent, milestone '
        f'{", ".join(f"{share:.0%}" for share in shares)}; the box left the table in '
        f'{(z < 0.7).any(axis=0).sum()} of {rooms} rooms'
    )


def sheet(path: Path, seed: int = 35, every: int = 4) -> None:
    """Draw an expert episode: twelve frames with time, label and the box's height."""
    twin, operator = GrabBoxTwin(1, seed), GrabBoxOperator(1, seed, skill='expert')
    command = np.append(twin.rest, np.zeros(3))[None]
    frames = []
    for step in range(12 * every):
        motion, label = operator.act(twin.state)
        if step % every == 0:
            word = {PLAY: 'play', INTENT: 'intent', MILESTONE: 'milestone'}[int(label[0])]
            height = 100 * max(0.0, twin.state[0, 24] - room.TABLE - room.BOX[2])
            frames.append(_captioned(twin.render()[0], f'{step / 10:.1f} s   {word}', height))
        command = moved(command, motion, twin.spec)
        twin.step(command)
    rows = [np.hstack(frames[first : first + 4]) for first in (0, 4, 8)]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _captioned(picture: np.ndarray, words: str, height: float) -> np.ndarray:
    """Return the picture with a strip of text below it and a thin frame."""
    strip = np.full((26, picture.shape[1], 3), 250, np.uint8)
    face, grey = cv2.FONT_HERSHEY_SIMPLEX, (40, 40, 40)
    cv2.putText(strip, words, (8, 18), face, 0.48, grey, 1, cv2.LINE_AA)
    cv2.putText(strip, f'box {height:4.0f} cm up', (258, 18), face, 0.48, grey, 1, cv2.LINE_AA)
    whole = np.vstack([picture, strip])
    return cv2.copyMakeBorder(whole, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=(250, 250, 250))


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--starts', type=int, default=60)
    parser.add_argument('--seed', type=int, default=3)
    parser.add_argument('--sheet', type=Path, help='draw an expert episode into this PNG only')
    arguments = parser.parse_args()
    if arguments.sheet:
        sheet(arguments.sheet)
        return
    speed()
    view()
    play()
    success(arguments.starts, arguments.seed)


if __name__ == '__main__':
    main()
