"""The G1's peer: what it accepts, what it refuses, and what it does when nobody speaks."""

import json
import math
import os
import struct
import time

from dmo_ros.core.addresses import twin_dds_domain, twin_port
from dmo_ros.core.tasks import get_task
from dmo_ros.robots.g1_joints import UPPER_BODY
from dmo_ros.robots.sonic import pack, pack_command, pack_planner, Plan, read_feedback
import numpy as np
import pytest

zmq = pytest.importorskip('zmq')
msgpack = pytest.importorskip('msgpack')

from dmo_ros.robots import unitree
from dmo_ros.robots.base import RobotError

try:
    unitree.sdk()
except RobotError as error:
    pytest.skip(str(error), allow_module_level=True)

from dmo_ros.twins import g1_sonic_peer
from dmo_ros.twins.g1_peer import G1Peer
from dmo_ros.twins.g1_sonic_peer import parse, read_plan, Sonic

PATIENCE = 30.0
REST = [field.rest for field in get_task('grab_box').actions[:17]]
PLAN = pack_planner(Plan(1, (0.6, 0.8), (0.0, 1.0), 0.25), REST, [0.0] * 17)


# ---------------------------------------------------------------------- its parser
def test_what_we_pack_is_what_it_reads():
    plan = read_plan(PLAN)
    assert (plan.mode, plan.speed) == (1, pytest.approx(0.25))
    assert plan.movement == pytest.approx((0.6, 0.8)) and plan.facing == pytest.approx((0, 1))
    assert plan.upper == pytest.approx(REST)
    flags = {name: int(value[0]) for name, value in parse('command', pack_command(True)).items()}
    assert flags == {'start': 1, 'stop': 0, 'planner': 1}


def test_its_order_of_joints_is_ours():
    assert g1_sonic_peer.ORDER == UPPER_BODY


def planner(**changed):
    """Return our message with one of its fields of another type, size or value; None drops it."""
    fields = {
        'mode': ('i32', (0,)),
        'movement': ('f32', (0.0,) * 3),
        'facing': ('f32', (1.0, 0.0, 0.0)),
        'speed': ('f32', (-1.0,)),
        'height': ('f32', (-1.0,)),
        'upper_body_position': ('f32', REST),
        'upper_body_velocity': ('f32', [0.0] * 17),
    }
    fields.update(changed)
    return pack('planner', [(name, *entry) for name, entry in fields.items() if entry])


MUTATIONS = {
    'another topic': PLAN.replace(b'planner', b'planned'),
    'a header of 1024 bytes': PLAN[: 7 + 1024] + PLAN[7 + 1280 :],
    'a header that is no JSON': PLAN.replace(b'{"v":1', b'{"v";1'),
    'fields that are not called fields': PLAN.replace(b'"fields"', b'"Fields"'),
    'a misspelt mode': PLAN.replace(b'"mode"', b'"mood"'),
    'an unknown type': PLAN.replace(b'"i32"', b'"i33"'),
    'wider numbers than it carries': PLAN.replace(b'"f32"', b'"f64"'),
    'bytes the wrong way round': PLAN.replace(b'"le"', b'"be"'),
    'a byte too few': PLAN[:-1],
    'no movement': planner(movement=None),
    'no facing': planner(facing=None),
    'a movement of two': planner(movement=('f32', (0.0, 0.0))),
    'sixteen joints': planner(upper_body_position=('f32', REST[:16])),
    'eighteen joints': planner(upper_body_position=('f32', [*REST, 0.0])),
    'sixteen velocities': planner(upper_body_velocity=('f32', [0.0] * 16)),
    'an unknown mode': planner(mode=('i32', (27,))),
    'a negative mode': planner(mode=('i32', (-1,))),
    'a joint that is NaN': PLAN[:-136] + struct.pack('<f', math.nan) + PLAN[-132:],
    'a velocity that is inf': PLAN[:-4] + struct.pack('<f', math.inf),
    'three-point targets': planner(vr_position=('f32', [0.0] * 9)),
}


@pytest.mark.parametrize('name', MUTATIONS)
def test_each_mutation_that_matters_is_refused(name):
    seen = []
    sonic = Sonic(lambda kind, data: seen.append(kind), state=g1_sonic_peer.CONTROL)
    assert sonic.read(PLAN) is not None
    assert MUTATIONS[name] != PLAN
    assert sonic.read(MUTATIONS[name]) is None
    assert seen == ['planner', 'refused'] and sonic.counts['refused'] == 1


def test_padding_that_is_not_zero_is_no_harm_and_a_target_outside_the_range_is_counted():
    sonic = Sonic(lambda kind, data: None, state=g1_sonic_peer.CONTROL)
    too_far = [3.0, *REST[1:]]
    assert sonic.read(planner(upper_body_position=('f32', too_far))) is not None
    assert sonic.counts['violations'] == 1
    sonic.read(PLAN)
    assert sonic.counts['violations'] == 1


# ---------------------------------------------------------------------- its state machine
@pytest.fixture
def sonic():
    made = Sonic(lambda kind, data: None)
    made.take_command(pack_command(start=True))
    made.update(0.0)
    return made


def test_it_waits_until_it_is_started_and_does_not_keep_plans_from_before():
    sonic = Sonic(lambda kind, data: None)
    sonic.follow(sonic.read(PLAN), 0.0)
    sonic.take_command(pack_command())
    assert not sonic.update(0.0) and sonic.state == 'WAIT_FOR_CONTROL' and sonic.plan is None
    sonic.take_command(pack_command(start=True))
    sonic.take_command(pack_command())  # what follows does not take the start back
    assert sonic.update(0.02) and sonic.state == 'CONTROL'


def test_a_stop_wins_over_a_start_and_is_the_end(sonic):
    sonic.take_command(pack_command(stop=True))
    sonic.take_command(pack_command(start=True))
    sonic.update(0.02)
    assert sonic.state == 'ENDED'
    sonic.take_command(pack_command(start=True))
    sonic.update(0.04)
    assert sonic.state == 'ENDED'


def test_after_one_silent_second_it_stands_and_drops_the_upper_body(sonic):
    sonic.follow(sonic.read(PLAN), 10.0)
    assert math.hypot(*sonic.velocity(0.0)[:2]) == pytest.approx(0.25)
    sonic.update(10.98)
    assert sonic.plan is not None
    sonic.update(11.0)
    assert sonic.plan is None and sonic.velocity(0.0) == (0.0, 0.0, 0.0)
    assert sonic.counts['timeouts'] == 1


def test_outside_planner_mode_plans_are_not_followed(sonic):
    sonic.take_command(pack_command(planner=False))
    sonic.update(0.02)
    sonic.follow(sonic.read(PLAN), 0.02)
    assert sonic.plan is None


def test_directions_are_in_its_world_and_velocities_in_the_body(sonic):
    east = pack_planner(Plan(1, (1.0, 0.0), (0.0, 1.0), 0.25), REST, [0.0] * 17)
    sonic.facing = math.pi / 2
    sonic.follow(sonic.read(east), 0.0)
    vx, vy, wz = sonic.velocity(math.pi / 2)
    assert (vx, vy, wz) == pytest.approx((0.0, -0.25, 0.0), abs=1e-6)
    assert sonic.velocity(math.pi / 2 - 0.1)[2] == pytest.approx(0.2, abs=1e-6)


def test_it_turns_as_fast_as_the_facing_does(sonic):
    for k in range(1, 11):
        facing = (math.cos(0.006 * k), math.sin(0.006 * k))
        turning = pack_planner(Plan(1, (0.0, 0.0), facing, 0.0), REST, [0.0] * 17)
        sonic.follow(sonic.read(turning), 0.02 * k)
        assert sonic.velocity(0.006 * k)[2] == pytest.approx(0.3, abs=1e-4) or k == 1


# ---------------------------------------------------------------------- over its sockets
class Driver:
    """Our side, by hand."""

    def __init__(self, domain):
        self.context = zmq.Context()
        self.out = self.context.socket(zmq.PUB)
        self.out.setsockopt(zmq.LINGER, 0)
        self.out.bind(f'tcp://127.0.0.1:{twin_port(domain, "sonic_command")}')
        self.back = self.context.socket(zmq.SUB)
        self.back.setsockopt(zmq.SUBSCRIBE, b'')
        self.back.connect(f'tcp://127.0.0.1:{twin_port(domain, "sonic_feedback")}')

    def hear(self, seconds=0.0):
        """Return (topic, fields) of the next message, None when there is none."""
        if not self.back.poll(1000 * seconds):
            return None
        message = self.back.recv()
        topic = b'g1_debug' if message.startswith(b'g1_debug') else b'robot_config'
        return topic.decode(), msgpack.unpackb(message[len(topic) :])

    def newest(self):
        found = None
        while (heard := self.hear(0.0)) is not None:
            found = heard if heard[0] == 'g1_debug' else found
        return found

    def close(self):
        for socket in (self.out, self.back):
            socket.close(0)
        self.context.term()


@pytest.fixture
def make(g1_standin):
    made = []

    def build(lockstep=False):
        domain = int(os.environ['ROS_DOMAIN_ID'])
        unitree.open_channel(twin_dds_domain(domain))
        peer = G1Peer(g1_standin.Standin(), domain, lockstep=lockstep)
        driver = Driver(domain)
        peer.start()
        made.extend([driver, peer])
        return peer, driver

    yield build
    for item in made:
        item.stop() if isinstance(item, G1Peer) else item.close()


def step_until(peer, condition, send=None, seconds=0.02):
    """Let the robot's time pass, by hand, until the condition holds."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, condition
        if send is not None:
            send()
        peer.advance(seconds)
        time.sleep(0.005)


def start(peer, driver):
    step_until(
        peer,
        lambda: peer.sonic.state == 'CONTROL',
        lambda: driver.out.send(pack_command(start=True)),
    )


def test_only_in_control_does_it_publish_what_it_does(make):
    peer, driver = make()
    heard = []

    def listen():
        message = driver.hear()
        if message is not None:
            heard.append(message)
        return bool(heard)

    step_until(peer, listen)
    assert heard[0][0] == 'robot_config'
    start(peer, driver)
    step_until(peer, lambda: driver.newest() is not None)


def test_its_feedback_can_be_read_and_follows_the_targets(make):
    peer, driver = make()
    start(peer, driver)
    target = [value + 0.1 for value in REST]
    message = pack_planner(Plan(), target, [0.0] * 17)

    def there():
        heard = driver.newest()
        q = None if heard is None else read_feedback(heard[1]).q
        return q is not None and np.allclose([q[k] for k in UPPER_BODY], target, atol=1e-3)

    step_until(peer, there, lambda: driver.out.send(message))
    assert peer.sonic.counts['violations'] == peer.sonic.counts['refused'] == 0


def test_it_counts_its_periods_at_fifty_hertz(make):
    peer, driver = make()
    start(peer, driver)
    before = peer.sonic.index
    for _ in range(100):
        peer.advance(0.01)
    assert peer.sonic.index - before == 50


def test_silence_drops_the_upper_body_after_a_second_of_its_time(make):
    peer, driver = make()
    start(peer, driver)
    message = pack_planner(Plan(1, (1.0, 0.0), (1.0, 0.0), 0.2), [0.1] * 17, [0.0] * 17)
    step_until(peer, lambda: peer.sonic.plan is not None, lambda: driver.out.send(message))
    step_until(peer, lambda: not peer.pending)
    time.sleep(0.2)
    peer.advance(0.9)
    assert peer.twin.base_velocity[0, 0] == pytest.approx(0.2)
    peer.advance(0.2)
    assert not peer.twin.base_velocity.any() and peer.sonic.plan is None


def test_in_lockstep_each_plan_is_obeyed_for_its_part_of_the_period(make):
    peer, driver = make(lockstep=True)
    start(peer, driver)
    sent = [[value + 0.01 * k for value in REST] for k in range(1, 6)]
    first = pack_planner(Plan(), sent[0], [0.0] * 17)
    step_until(peer, lambda: peer.sonic.plan is not None, lambda: driver.out.send(first))
    time.sleep(0.2)
    peer.reset()
    peer.twin.actions.clear()
    for target in sent:
        driver.out.send(pack_planner(Plan(), target, [0.0] * 17))
    until = time.monotonic() + PATIENCE
    while peer.pending < peer.burst and time.monotonic() < until:
        time.sleep(0.01)
    assert peer.pending == peer.burst == 5
    peer.advance(0.1)
    assert peer.pending == 0
    assert [round(seconds, 6) for _, seconds, _ in peer.twin.actions] == [0.02] * 5
    assert np.allclose([action[:17] for _, _, action in peer.twin.actions], sent)


def test_a_lockstep_peer_is_heard_while_its_time_stands_still(make):
    peer, driver = make(lockstep=True)
    start(peer, driver)
    now = peer.now
    indices = set()
    until = time.monotonic() + PATIENCE
    while len(indices) < 3 and time.monotonic() < until:
        heard = driver.hear(0.5)
        if heard is not None and heard[0] == 'g1_debug':
            indices.add(heard[1]['index'])
    assert len(indices) >= 3 and peer.now == now


def test_mute_freeze_and_fault_are_heard_as_what_they_are(make):
    peer, driver = make()
    start(peer, driver)
    step_until(peer, lambda: driver.newest() is not None)
    peer.mute = True
    time.sleep(0.2)
    driver.newest()
    peer.advance(0.5)
    time.sleep(0.2)
    assert driver.newest() is None
    peer.mute, peer.freeze = False, True
    step_until(peer, lambda: driver.newest() is not None)
    told = []
    step_until(peer, lambda: told.append(driver.newest()) or sum(map(bool, told)) > 3)
    assert len({heard[1]['index'] for heard in told if heard}) == 1
    peer.freeze = False
    peer.fault()
    time.sleep(0.2)
    driver.newest()
    peer.advance(0.5)
    time.sleep(0.2)
    assert driver.newest() is None and peer.sonic.state == 'ENDED'


def test_a_reset_forgets_the_plan_and_stays_where_the_twin_was_put(make):
    peer, driver = make()
    start(peer, driver)
    message = pack_planner(Plan(1, (1.0, 0.0), (0.0, 1.0), 0.2), [0.1] * 17, [0.0] * 17)
    step_until(peer, lambda: peer.sonic.plan is not None, lambda: driver.out.send(message))
    time.sleep(0.2)
    peer.twin.joint_position[:] = 0.3
    peer.twin.base[:] = (1.0, 2.0, -0.7)
    peer.reset()
    peer.advance(0.2)
    assert np.allclose(peer.twin.joint_position, 0.3)
    assert np.allclose(peer.twin.base, (1.0, 2.0, -0.7))
    step_until(peer, lambda: peer.sonic.plan is not None, lambda: driver.out.send(message))
    assert abs(peer.sonic.velocity(peer._heading())[2]) < 1e-5  # it already faces where it should


def test_it_ends_without_threads_or_sockets_and_can_be_ended_twice(make, g1_standin):
    peer, _ = make()
    peer.advance(0.02)
    peer.kill()
    peer.stop()
    again = G1Peer(g1_standin.Standin(), peer.ros_domain)
    again.start()
    again.stop()


def test_records_say_what_came(make):
    peer, driver = make()
    start(peer, driver)
    step_until(peer, lambda: peer.sonic.counts['planner'] >= 3, lambda: driver.out.send(PLAN))
    kinds = [record.kind for record in list(peer.records)]
    assert kinds.count('planner') >= 3 and 'command' in kinds
    assert json.dumps([record.data for record in list(peer.records) if record.kind == 'command'])
