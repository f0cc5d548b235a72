"""
Measure the G1's links on this machine: ``python test/robots/g1_measure.py [seconds]``.

The peer runs in a process of its own, so every figure crosses two processes over loopback; both
read the same steady clock.  Prints the table of docs/results/g1_link.md.
"""

import importlib.util
import os
from pathlib import Path
import sys
import threading
import time

import numpy as np

HERE = Path(__file__).parent
DOMAIN = os.environ.setdefault('ROS_DOMAIN_ID', '42')
RUNS = 10


def load(file):
    found = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


standin = load(HERE.parent / 'twins' / 'g1_standin.py')
tests = load(HERE / 'conftest.py')


class Sending:
    """Ticks at 50 Hz from a thread, and how long each took."""

    def __init__(self, robot):
        self.robot, self.values, self.took = robot, tests.Bench.command(), []
        self.on, self.ended = threading.Event(), threading.Event()
        self.on.set()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        due = time.monotonic()
        while not self.ended.is_set():
            if self.on.is_set():
                began = time.perf_counter()
                self.robot.command(self.values)
                self.robot.tick(0.02)
                self.took.append(1e3 * (time.perf_counter() - began))
            due = max(due + 0.02, time.monotonic())
            self.ended.wait(due - time.monotonic())

    def end(self):
        self.ended.set()
        self.thread.join(5.0)


def show(what, values, unit='ms'):
    values = np.sort(np.array(values, float))
    if len(values) > 1:
        middle, tail = np.median(values), np.percentile(values, 99)
        text = (
            f'median {middle:.2f}, p99 {tail:.2f}, max {values[-1]:.2f} {unit} (n={len(values)})'
        )
    else:
        text = f'{values[0]:.1f} {unit}'
    print(f'| {what} | {text} |', flush=True)


def wait(condition, patience=20.0):
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)
    return time.monotonic()


def stream(path, robot, peer, seconds):
    """Measure a stream of setpoints while arms move and it walks."""
    sent = []
    if path == 'sonic':
        send = robot.way.link.send

        def noted(message):
            sent.append(time.monotonic())
            send(message)

        robot.way.link.send = noted
    sending = Sending(robot)
    sending.values = tests.Bench.command(upper=0.1, walk=(0.2, 0.0, 0.0))
    time.sleep(1.0)
    kind, key = ('planner', 'plans') if path == 'sonic' else ('arm_sdk', 'targets')
    counts = 'counts' if path == 'sonic' else 'dds'

    def both():
        return peer.tell()[counts][kind], robot.way.values()[key]

    before = both()
    cpu, sent[:] = time.process_time(), []
    began, sending.took = time.monotonic(), []
    time.sleep(seconds)
    cpu = (time.process_time() - cpu) / (time.monotonic() - began)
    came, left = (after - earlier for after, earlier in zip(both(), before))
    sending.end()
    told = peer.tell()
    arrived = np.array([at for at, _ in told['came'][kind] if at > began])
    show(f'{path}: one command and tick on our side', sending.took)
    show(f'{path}: between two arrivals of 50 Hz', 1e3 * np.diff(arrived))
    if path == 'sonic':
        moments = np.array(sent)
        first = moments[np.searchsorted(moments, arrived, side='right') - 1]
        show('sonic: from our send to the peer', 1e3 * (arrived - first))
    print(
        f'| {path}: arrived of sent (read one after the other, so one may be on its way) '
        f'| {came} of {left} |'
    )
    print(f'| {path}: our side, of one core | {100 * cpu:.0f} % |')


def stops(path, robot, peer):
    """Measure the ways to stand still, ten times each."""
    told, ceased, confirmed = [], [], []
    for run in range(2 * RUNS):
        sending = Sending(robot)
        sending.values = tests.Bench.command(walk=(0.3, 0.0, 0.0))
        wait(lambda: peer.tell()['velocity'][0] > 0.29)
        time.sleep(0.05 + 0.007 * run)
        sending.end()
        began = time.monotonic()
        if run % 2:
            robot.stop()
            confirmed.append(1e3 * (time.monotonic() - began))
        wait(lambda: not any(peer.tell()['velocity']))
        (told if run % 2 else ceased).append(1e3 * max(0.0, peer.tell()['moved'] - began))
    show(f'{path}: stop() returned', confirmed)
    show(f'{path}: from stop() to the last moving step of the robot', told)
    show(f'{path}: from the last tick of a dead sender to that step', ceased)


def silences(path, robot, peer):
    """Measure how long a mute robot is believed."""
    seen = []
    for run in range(RUNS):
        wait(lambda: robot.health().ok)
        time.sleep(0.1 + 0.007 * run)
        began = time.monotonic()
        peer.say('mute 1')
        seen.append(1e3 * (wait(lambda: not robot.health().ok) - began))
        peer.say('mute 0')
    show(f'{path}: from silence of the robot to not ok', seen)
    wait(lambda: robot.health().ok)


def gone(path, robot, peer):
    """Measure what the robot does after our process is gone, as kill -9 leaves it."""
    seen = []
    for _ in range(RUNS):
        sending = Sending(robot)
        sending.values = tests.Bench.command(walk=(0.3, 0.0, 0.0))
        wait(lambda: peer.tell()['velocity'][0] > 0.29)
        link = robot.way.link if path == 'sonic' else robot.way.loco
        name = 'send' if path == 'sonic' else '_call'
        speak = getattr(link, name)
        setattr(link, name, lambda *words: None)
        began = time.monotonic()
        sending.end()
        wait(lambda: not any(peer.tell()['velocity']))
        seen.append(1e3 * (peer.tell()['moved'] - began))
        setattr(link, name, speak)
        robot.stop()
        time.sleep(0.2)
    show(f'{path}: from our last word to the last moving step', seen)


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    print(
        f'load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n\n| what | measured |\n|---|---|'
    )
    for path in ('sonic', 'arm_sdk'):
        peer = standin.PeerProcess()
        began = time.monotonic()
        robot = tests.G1(tests.Bench.config(path, ramp=0.3), tests.SPEC)
        try:
            robot.connect()
            connected = time.monotonic()
            robot.engage()
            show(f'{path}: connect', [connected - began], 's')
            show(
                f'{path}: engage (0.3 s are the ramp of arm_sdk)',
                [time.monotonic() - connected],
                's',
            )
            for measure in (silences, stops, gone):
                measure(path, robot, peer)
            stream(path, robot, peer, seconds)
            told = peer.tell()
            print(
                f'| {path}: refused, outside the range, wrong checksum | '
                f'{told["counts"].get("refused", 0)}, {told["counts"].get("violations", 0)}, '
                f'{told["dds"].get("bad_crc", 0)} |'
            )
        finally:
            robot.close()
            peer.close()


if __name__ == '__main__':
    main()
