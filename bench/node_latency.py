"""
Latency of the policy node, image in to command out over DDS, beside the bare onnxruntime call.

    python bench/node_latency.py [policy.onnx ...]      (needs the ROS wheels or a sourced ROS)

Without files, untrained policies are exported: the pusher's at demo size, and Push-T's at the
paper's size fed with 640x480 camera images.  One frame is under way at a time; times are wall time
on this machine as it is, so its load is printed too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import os
from pathlib import Path
import sys
import tempfile
import time
from typing import Any

from dmo_ros.core.policy import Policy
from dmo_ros.core.tasks import get_task, TaskSpec
from dmo_ros.stacks import environment, Process
from dmo_ros.up import Child
import numpy as np

PATIENCE = 30.0


def untrained(task: str, folder: Path, **sizes: Any) -> Path:
    """Export a policy with random weights: latency does not depend on what it has learned."""
    from dmo_training.deploy import RssmPolicy
    from dmo_training.export import export
    from dmo_training.models.actor_critic import Actor
    from dmo_training.models.rssm import Rssm, RssmConfig

    spec = get_task(task)
    rssm = Rssm(RssmConfig(frame_size=spec.policy_size, actions=len(spec.actions), **sizes))
    path = folder / f'{task}.onnx'
    export(
        RssmPolicy(rssm, Actor(rssm.features_width, len(spec.driven))),
        spec,
        path,
        provenance={'untrained': True},
        parity_steps=10,
    )
    return path


def frames(spec: TaskSpec, count: int = 20) -> np.ndarray:
    """Return camera images (N, H, W, 3) uint8 of the task's camera."""
    size = count, spec.camera.height, spec.camera.width, 3
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


def bare(path: Path, count: int) -> dict[str, np.ndarray]:
    """Time the graph alone, and the whole step with its resizing, in this process (ms)."""
    policy = Policy.load(path, None)
    seen = frames(policy.spec)
    step = clock(lambda index: policy.step(seen[index % len(seen)]), count)
    inside: list[float] = []
    loop = policy.loop()
    infer = policy.infer

    def timed(*tensors: Any) -> Any:
        begin = time.perf_counter()
        answer = infer(*tensors)
        inside.append((time.perf_counter() - begin) * 1e3)
        return answer

    loop._infer = timed
    size = policy.spec.policy_size
    small = np.zeros((1, size, size, 3), np.uint8)
    clock(lambda index: loop.step(small), count)
    return {'onnxruntime alone': np.array(inside[10:]), 'Policy.step': step}


def clock(call: Callable[[int], Any], count: int) -> np.ndarray:
    """Return the wall times of ``count`` calls in ms, after ten that do not count."""
    times = []
    for index in range(count + 10):
        begin = time.perf_counter()
        call(index)
        times.append((time.perf_counter() - begin) * 1e3)
    return np.array(times[10:])


def through_node(path: Path, count: int, rate: float) -> np.ndarray:
    """Return the times in ms from publishing an image to receiving its command."""
    import rclpy

    spec = Policy.load(path, None).spec
    process = Process(
        'policy',
        '/',
        (),
        {'task': spec.name, 'path': str(path), 'autostart': True},
        {},
        required=True,
    )
    child = Child(process, None)
    rclpy.init()
    try:
        return _measure(spec, child, count, rate)
    finally:
        rclpy.try_shutdown()
        child.popen.terminate()
        child.popen.wait(10)


def _measure(spec: TaskSpec, child: Child, count: int, rate: float) -> np.ndarray:
    from dmo_ros.nodes import qos
    from dmo_ros.nodes.convert import nanoseconds, to_image, to_time
    from geometry_msgs.msg import TwistStamped
    import rclpy
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    node, answered = rclpy.create_node('latency'), [0]
    images = node.create_publisher(Image, 'image_raw', qos.STREAM)
    node.create_subscription(
        TwistStamped,
        'cmd_policy',
        lambda message: answered.__setitem__(0, nanoseconds(message.header.stamp)),
        qos.COMMAND_IN,
    )
    seen, times, stamp = frames(spec), [], 10**9
    deadline = time.monotonic() + PATIENCE
    while len(times) < count + 10:
        if child.code is not None or time.monotonic() > deadline:
            raise SystemExit(f'the policy node does not answer: {child.story()}')
        stamp += round(spec.period * 1e9)
        message = to_image(seen[stamp % len(seen)], 'rgb8', Header(stamp=to_time(stamp)))
        begin = time.perf_counter()
        images.publish(message)
        while answered[0] != stamp and time.perf_counter() - begin < 1.0:
            rclpy.spin_once(node, timeout_sec=0.1)
        if answered[0] == stamp:
            times.append((time.perf_counter() - begin) * 1e3)
            deadline = time.monotonic() + PATIENCE
        time.sleep(max(0.0, 1 / rate - (time.perf_counter() - begin)))
    return np.array(times[10:])


def figures(times: np.ndarray) -> dict[str, float]:
    """Return median, 99th percentile and maximum in ms."""
    p50, p99 = np.percentile(times, [50, 99])
    return {
        'p50': round(float(p50), 2),
        'p99': round(float(p99), 2),
        'max': round(float(times.max()), 2),
    }


def main() -> int:
    """Measure, print a Markdown table or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').strip().splitlines()[0])
    parser.add_argument('policies', nargs='*', type=Path)
    parser.add_argument('--count', type=int, default=300)
    parser.add_argument('--rate', type=float, default=50.0, help='images a second, at most')
    parser.add_argument('--json', action='store_true')
    given = parser.parse_args()
    os.environ.update(environment())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = given.policies or [
            untrained(
                'pusher',
                Path(folder),
                recurrent=256,
                groups=16,
                classes=16,
                units=256,
                multiplier=16,
            ),
            untrained('push_t', Path(folder)),
        ]
        for path in paths:
            measured = bare(path, given.count)
            measured['node: image in, command out'] = through_node(path, given.count, given.rate)
            rows += [
                {
                    'policy': path.name,
                    'megabytes': round(path.stat().st_size / 1e6, 1),
                    'what': what,
                    **figures(times),
                }
                for what, times in measured.items()
            ]
    load = round(os.getloadavg()[0], 1)
    if given.json:
        print(json.dumps({'load': load, 'rows': rows}, indent=1))
        return 0
    print('| policy | MB | what | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|---|')
    for row in rows:
        print('| ' + ' | '.join(map(str, row.values())) + ' |')
    print(f'\nload average {load}, {os.cpu_count()} cores, {given.count} frames a row')
    return 0


if __name__ == '__main__':
    sys.exit(main())
