"""
What tests of the learning side share.

The twin's play, as bags by rosbags' own writer, without any of our nodes, and as datasets; and
processes that train together.
"""

import multiprocessing
import runpy
import socket

from dmo_ros.core.episode import Episode, write_meta
from dmo_ros.core.intent import MILESTONE
from dmo_ros.core.tasks import TASKS
from dmo_ros.twins.pusher import PusherTwin
from dmo_ros.twins.pusher_operator import PusherOperator
import numpy as np
import pytest

SPEC = TASKS['pusher']
PERIOD = 200_000_000
LABEL = """builtin_interfaces/Time stamp
uint8 label
string source
"""


class BagMaker:
    """Writes stamped images, commands and labels; every method takes its stamp in ns."""

    def __init__(self, path):
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import get_types_from_msg, get_typestore, Stores

        self.path = path
        self.store = get_typestore(Stores.ROS2_JAZZY)
        self.store.register(get_types_from_msg(LABEL, 'dmo_ros/msg/IntentLabel'))
        self.writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
        self.writer.open()
        self.connections = {}

    def time(self, stamp):
        return self.make('builtin_interfaces/msg/Time', sec=stamp // 10**9, nanosec=stamp % 10**9)

    def make(self, kind, **fields):
        return self.store.types[kind](**fields)

    def header(self, stamp):
        return self.make('std_msgs/msg/Header', stamp=self.time(stamp), frame_id='board')

    def write(self, topic, message, log):
        kind = message.__msgtype__
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=self.store)
        self.writer.write(self.connections[topic], log, self.store.serialize_cdr(message, kind))

    def image(self, stamp, frame, log=None, topic='/image_raw', encoding='rgb8'):
        height, width = frame.shape[:2]
        self.write(
            topic,
            self.make(
                'sensor_msgs/msg/Image',
                header=self.header(stamp),
                height=height,
                width=width,
                encoding=encoding,
                is_bigendian=0,
                step=width * 3,
                data=frame.ravel(),
            ),
            stamp if log is None else log,
        )

    def command(self, stamp, velocity, log=None, topic='/cmd'):
        def vector(x=0.0, y=0.0):
            return self.make('geometry_msgs/msg/Vector3', x=float(x), y=float(y), z=0.0)

        twist = self.make('geometry_msgs/msg/Twist', linear=vector(*velocity), angular=vector())
        self.write(
            topic,
            self.make('geometry_msgs/msg/TwistStamped', header=self.header(stamp), twist=twist),
            stamp if log is None else log,
        )

    def label(self, stamp, label, log=None):
        self.write(
            '/intent',
            self.make(
                'dmo_ros/msg/IntentLabel', stamp=self.time(stamp), label=int(label), source='joy'
            ),
            stamp if log is None else log,
        )

    def close(self):
        self.writer.close()
        return self.path


@pytest.fixture
def bag_maker(tmp_path):
    """Return a function that opens a new bag of the given name."""
    return lambda name='bag': BagMaker(tmp_path / name)


@pytest.fixture
def twin_bag(bag_maker):
    """Return a function that records the scripted operator: path, states, actions, labels."""

    def record(length=100, name='bag', lag=0, skip=(), start=0, seed=0):
        """``lag`` stamps commands that many steps too late; ``skip`` drops those images."""
        twin, operator = PusherTwin(1, seed=seed), PusherOperator(1, seed=seed)
        maker, states, actions, labels = bag_maker(name), [], [], []
        for step in range(length):
            stamp = start + step * PERIOD
            action, label = operator.act(twin.state)
            states.append(twin.state[0].copy())
            actions.append(action[0])
            labels.append(label[0])
            if step not in skip:
                maker.image(stamp, twin.render()[0])
            maker.label(stamp, label[0])
            maker.command(stamp + lag * PERIOD, action[0], log=stamp)
            twin.step(action)
        return maker.close(), np.array(states), np.array(actions), np.array(labels)

    return record


@pytest.fixture(scope='session')
def write_play():
    """Return a function that writes four episodes of the scripted operator as a dataset."""

    def write(folder, length=60, invalid=(), milestones=True):
        """``invalid`` names frames of every episode; milestones come every 20 frames, or never."""
        twin, operator = PusherTwin(4, seed=1), PusherOperator(4, seed=2)
        frames, actions, labels = [], [], []
        for step in range(length):
            action, label = operator.act(twin.state)
            frames.append(twin.render())
            actions.append((action / SPEC.actions[0].high).astype(np.float32))
            labels.append(np.where(step % 20 == 19, MILESTONE, label) * milestones)
            twin.step(action)
        valid = ~np.isin(np.arange(length), invalid)
        for row in range(4):
            Episode(
                frames=np.stack(frames)[:, row],
                action=np.stack(actions)[:, row],
                intent=np.stack(labels)[:, row].astype(np.uint8),
                valid=valid,
                stamp=np.arange(length) * SPEC.period,
                proprio=np.zeros((length, 0), np.float32),
                info={'task': SPEC.to_dict()},
            ).save(folder / 'episodes' / f'{row:06d}')
        write_meta(folder, SPEC)
        return folder

    return write


@pytest.fixture(scope='session')
def differences():
    """Return a function that names the places where nested checkpoints differ in a single bit."""

    def places(left, right, path=''):
        if isinstance(left, dict):
            missing = [f'{path}.{key}' for key in left.keys() ^ right.keys()]
            shared = left.keys() & right.keys()
            return missing + [d for k in shared for d in places(left[k], right[k], f'{path}.{k}')]
        if isinstance(left, (list, tuple)):
            pairs = enumerate(zip(left, right, strict=True))
            return [d for i, (a, b) in pairs for d in places(a, b, f'{path}.{i}')]
        if hasattr(left, 'numpy') or isinstance(left, np.ndarray):
            return [] if np.asarray(left).tobytes() == np.asarray(right).tobytes() else [path]
        return [] if left == right else [path]

    return places


# The ego-centric tasks ---------------------------------------------------------------------------


@pytest.fixture(scope='session')
def write_ego_play():
    """Return a function that writes three episodes of an ego-centric task as a dataset."""

    def write(folder, task, length=60, seed=0):
        """A square wanders over noise; joints and actions wander too; labels come in bouts."""
        spec, rng = TASKS[task], np.random.default_rng(seed)
        for row in range(3):
            size, time = spec.frame_size, np.arange(length)
            frames = np.repeat(rng.integers(60, 90, (1, size, size, 3)), length, 0)
            for t, x in enumerate((size // 3 + size // 4 * np.sin(time / 5 + row)).astype(int)):
                frames[t, x : x + size // 8, 2 * x // 3 : x + size // 8] = 220
            joints = np.cumsum(rng.normal(0, 0.02, (length, len(spec.proprioception))), 0)
            action = np.cumsum(rng.normal(0, 0.1, (length, len(spec.actions))), 0)
            Episode(
                frames=frames.astype(np.uint8),
                action=np.sin(action).astype(np.float32),
                intent=np.where(time % 30 < 20, (time % 30 > 10).astype(int), 2).astype(np.uint8),
                valid=np.ones(length, bool),
                stamp=time * spec.period,
                proprio=joints.astype(np.float32),
                info={'task': spec.to_dict()},
            ).save(folder / 'episodes' / f'{row:06d}')
        write_meta(folder, spec)
        return folder

    return write


@pytest.fixture(scope='session')
def write_dreamer4():
    """Return a function that writes an untrained, tiny global model as a finished reward stage."""

    def write(path, task, seed=0):
        from dmo_training.engine import save_checkpoint
        from dmo_training.models.dreamer4 import config as sizes
        from dmo_training.models.dreamer4.model import Dreamer4
        import torch

        spec = TASKS[task]
        trunk = sizes.TrunkConfig(16, 2, 2, time_every=2, window=8)
        config = sizes.Dreamer4Config(
            sizes.TokenizerConfig(
                16, 8, 3, 4, trunk, drop=1, perceptual='none',
                proprio_size=len(spec.proprioception),
            ),
            sizes.DynamicsConfig(len(spec.actions), 3, 4, trunk, registers=1, levels=16),
            sizes.HeadConfig(hidden=8, ahead=2),
        )  # fmt: skip
        torch.manual_seed(seed)
        model = Dreamer4(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        state = {
            'stage': 'reward',
            'task': spec.to_dict(),
            'step': 1,
            'config': {'task': task, 'updates': 1},
            'model': model.describe(),
        }
        save_checkpoint(path, state)
        return path

    return write


@pytest.fixture(scope='session')
def start_team():
    """
    Return a function that starts processes which find each other through torchrun's variables.

    They are forked from a server that has imported torch once.  They run the test's own file under
    the name ``worker`` with ``CALL = (job, arguments, environment)``; none outlives the tests.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(
        ['dmo_training.models.dreamer4.objective', 'torch.distributed.fsdp', 'torch.profiler',
         'torch.distributed.checkpoint', 'torch._dynamo', 'dmo_training.distributed', 'pytest']
    )  # fmt: skip
    started = []

    def start(path, job, *arguments, size=2):
        with socket.create_server(('127.0.0.1', 0)) as free:
            port = free.getsockname()[1]
        shared = {'WORLD_SIZE': str(size), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
        processes = []
        for rank in range(size):
            environ = {**shared, 'RANK': str(rank), 'LOCAL_RANK': str(rank)}
            given = (path, {'CALL': (job, arguments, environ)}, 'worker')
            process = context.Process(target=runpy.run_path, args=given, daemon=True)
            process.start()
            processes.append(process)
        started.extend(processes)
        return processes

    yield start
    for process in started:
        process.kill()
        process.join()
