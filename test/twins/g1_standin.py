"""
A twin of a few lines for the G1's peer, and the peer as a process of its own: PeerProcess.

``python g1_standin.py DOMAIN [lockstep]`` serves until its input ends.  It reads lines:
``mute 1``, ``freeze 1``, ``drop 3``, ``fault``, ``boot``, and ``tell``, which it answers with a
line of JSON.
"""

import json
import os
import subprocess
import sys
import threading
import time

from dmo_ros.core.tasks import get_task
import numpy as np

SPEC = get_task('grab_box')
QUICK = 0.04  # s: time constant of a joint


class Standin:
    """First-order joints, and a base that has the velocity it is told."""

    def __init__(self):
        self.spec = SPEC
        self.joint_position = np.array([[field.rest for field in SPEC.actions[:19]]])
        self.joint_velocity = np.zeros((1, 19))
        self.base, self.base_velocity = np.zeros((1, 3)), np.zeros((1, 3))
        self.actions = []

    def advance(self, action, seconds):
        assert action.shape == (1, 22) and np.isfinite(action).all()
        self.actions.append((time.monotonic(), seconds, action[0].copy()))
        before = self.joint_position
        share = 1 - np.exp(-seconds / QUICK)
        self.joint_position = before + share * (action[:, :19] - before)
        self.joint_velocity = (self.joint_position - before) / seconds
        yaw = self.base[0, 2]
        vx, vy, wz = action[0, 19:]
        world = (np.cos(yaw) * vx - np.sin(yaw) * vy, np.sin(yaw) * vx + np.cos(yaw) * vy, wz)
        self.base = self.base + seconds * np.array([world])
        self.base_velocity = action[:, 19:].copy()


class Running:
    """Gives a peer its time, 10 ms every 10 ms, in a thread."""

    def __init__(self, peer):
        self.peer = peer
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        due = time.monotonic()
        while not self.ended.is_set():
            self.peer.advance(0.01)
            due = max(due + 0.01, time.monotonic() - 0.1)
            self.ended.wait(max(0.0, due - time.monotonic()))

    def close(self):
        self.ended.set()
        self.thread.join(5.0)
        self.peer.stop()


class PeerProcess:
    """This file as a process, in the ROS domain of the environment."""

    def __init__(self, *words):
        self.process = subprocess.Popen(
            [sys.executable, __file__, os.environ['ROS_DOMAIN_ID'], *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == 'ready\n'

    def say(self, line):
        self.process.stdin.write(f'{line}\n')
        self.process.stdin.flush()

    def tell(self):
        self.say('tell')
        return json.loads(self.process.stdout.readline())

    def kill(self):
        self.process.kill()
        self.process.wait(5.0)

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(10.0)
            except subprocess.TimeoutExpired:
                self.kill()


def tell(peer):
    twin = peer.twin
    came, records = {}, list(peer.records)  # a copy: others come meanwhile
    for record in records[-4000:]:
        mode = record.data.mode if record.kind == 'planner' else None
        came.setdefault(record.kind, []).append((record.at, mode))
    moving = [at for at, _, action in list(twin.actions[-600:]) if action[19:].any()]
    return {
        'state': peer.sonic.state,
        'counts': dict(peer.sonic.counts),
        'dds': dict(peer.dds.counts),
        'joints': twin.joint_position[0].tolist(),
        'base': twin.base[0].tolist(),
        'velocity': twin.base_velocity[0].tolist(),
        'came': came,
        'moved': max(moving, default=0.0),
        'loco': [record.data for record in records if record.kind == 'loco'],
        'upper': peer.sonic.plan is not None,
        'now': time.monotonic(),
    }


def main():
    from dmo_ros.twins.g1_peer import G1Peer

    domain = int(sys.argv[1])
    os.environ['ROS_DOMAIN_ID'] = str(domain)
    peer = G1Peer(Standin(), domain, lockstep='lockstep' in sys.argv)
    peer.start()
    running = Running(peer)
    print('ready', flush=True)
    for line in sys.stdin:
        word, *number = line.split()
        if word == 'tell':
            print(json.dumps(tell(peer)), flush=True)
        elif number:
            setattr(peer, word, int(number[0]))
        else:
            getattr(peer, word)()
    running.close()


if __name__ == '__main__':
    main()
