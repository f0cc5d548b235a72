"""
The door to Unitree's SDK: what it promises about types, checksums, channels and services.

One process has one DDS domain; what needs another one runs in a process of its own.
"""

from functools import partial
import importlib.util
import os
from pathlib import Path
import random
import re
import shutil
import subprocess
import sys
import threading
import time

from dmo_ros.core.addresses import twin_dds_domain
from dmo_ros.robots import unitree
from dmo_ros.robots.base import RobotError
import pytest

PATIENCE = 20.0

try:
    KIT = unitree.sdk()
except RobotError as error:
    pytest.skip(str(error), allow_module_level=True)

# Size of a serialised sample, and of the robot's own layout where it carries a checksum.
SIZES = {
    ('go', 'LowCmd_'): (812, 812),
    ('go', 'LowState_'): (1180, 1180),
    ('go', 'SportModeState_'): (516, None),
    ('hg', 'LowCmd_'): (1004, 1004),
    ('hg', 'LowState_'): (2092, 2092),
}
# Hashes of the complete types, as the vendor's C++ headers carry them (unitree_sdk2, commit
# 21d0a3b): who announces another one is not heard by a robot.
HASHES = {
    ('api', 'Request_'): 'c47a4429fcbf539486498753c48f',
    ('api', 'Response_'): 'd1c32cc02214901a464a6c51325d',
    ('go', 'BmsState_'): '2ed857ecb6b30579808c15fd143d',
    ('go', 'IMUState_'): 'c4ecb49cd7b225d22628b6b764cc',
    ('go', 'LowCmd_'): '52cc8eb0d427d692aa2b20a90540',
    ('go', 'LowState_'): '08f239c471d3a27e67e7c7723184',
    ('go', 'MotorCmds_'): '2ea87a3ac222ec386596036ece43',
    ('go', 'MotorStates_'): 'b90aca9286ab4e3eae7638ef5ca9',
    ('go', 'SportModeState_'): 'e59749630fff75cc170afb238783',
    ('go', 'WirelessController_'): 'e9686fe76f7b08f92cb24943ac72',
    ('hg', 'HandCmd_'): '5c45f9f8b1e1c279a659521332b0',
    ('hg', 'HandState_'): 'b9f2806966060fc0f913a47b8ab9',
    ('hg', 'IMUState_'): '7d4166754177d86fa27cd25b0403',
    ('hg', 'LowCmd_'): '42b0283aa7e1bb592ec898a0dbed',
    ('hg', 'LowState_'): '2be9706c9587e8d8afd8bfc6de7b',
}


def zeros(package, name):
    return getattr(KIT.default, f'unitree_{package}_msg_dds__{name}')()


def until(condition, patience=PATIENCE):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, condition
        time.sleep(0.01)


@pytest.fixture
def channel():
    return unitree.open_channel(twin_dds_domain(int(os.environ['ROS_DOMAIN_ID'])))


@pytest.fixture
def service(channel):
    """A service that answers 7 with the request's own JSON, and a client of it."""

    def handle(api_id, parameter):
        if api_id == 7:
            return unitree.Answer(data=parameter)
        if api_id == 8:
            raise ValueError('no such thing')
        return unitree.Answer(unitree.NOT_IMPLEMENTED)

    server = unitree.Service('test_service', '2.0.0.0', handle)
    client = unitree.make_client('test_service', '2.0.0.0', (7, 8, 9), timeout=1.0)
    until(partial(unitree.client_matched, client))
    yield server, client
    unitree.close_client(client)
    server.close()


# ---------------------------------------------------------------------- types on the wire
@pytest.mark.parametrize(('kind', 'size'), SIZES.items())
def test_samples_have_the_sizes_that_robots_send(kind, size):
    message = zeros(*kind)
    assert len(message.serialize()) == size[0]
    if size[1] is not None:
        assert len(unitree.pack(message)) == size[1]


@pytest.mark.parametrize(('kind', 'expected'), HASHES.items())
def test_types_are_announced_as_the_robots_announce_them(kind, expected):
    package, name = kind
    found = getattr(getattr(KIT, package), name).__idl__.get_type_id()
    assert bytes(found.equivalence_hash).hex() == expected


# ---------------------------------------------------------------------- checksums
def slow_crc(data):
    """CRC-32 of little-endian words, one bit after the other, as the vendor documents it."""
    crc = 0xFFFFFFFF
    for start in range(0, len(data), 4):
        word = int.from_bytes(data[start : start + 4], 'little')
        for bit in range(31, -1, -1):
            carry = crc >> 31
            crc = (crc << 1) & 0xFFFFFFFF
            if carry:
                crc ^= 0x04C11DB7
            if word >> bit & 1:
                crc ^= 0x04C11DB7
    return crc


def scramble(message, chance):
    """Fill the fields of a message that are easy to tell with arbitrary values."""
    for motor in message.motor_cmd if hasattr(message, 'motor_cmd') else message.motor_state:
        motor.mode = chance.randrange(256)
        motor.q, motor.dq = chance.uniform(-3, 3), chance.uniform(-30, 30)
    message.crc = chance.randrange(2**32)  # of no influence on itself
    if hasattr(message, 'wireless_remote'):
        message.wireless_remote = [chance.randrange(256) for _ in range(40)]


@pytest.mark.parametrize('kind', [k for k, size in SIZES.items() if size[1]])
@pytest.mark.parametrize('seed', range(3))
def test_the_checksum_equals_the_one_made_bit_by_bit(kind, seed):
    message = zeros(*kind)
    scramble(message, random.Random(seed))
    assert unitree.crc32(message) == slow_crc(unitree.pack(message)[:-4])


def test_the_checksum_is_the_same_after_a_journey():
    sent = zeros('go', 'LowState_')
    scramble(sent, random.Random(5))
    sent.crc = unitree.crc32(sent)
    came = KIT.go.LowState_.deserialize(sent.serialize())
    assert isinstance(came.wireless_remote, bytes) or len(came.wireless_remote) == 40
    assert came.crc == unitree.crc32(came)
    came.motor_state[11].q += 0.5
    assert came.crc != unitree.crc32(came)


def test_what_has_no_checksum_is_refused():
    with pytest.raises(TypeError, match='SportModeState_'):
        unitree.crc32(zeros('go', 'SportModeState_'))


# ---------------------------------------------------------------------- the channel
def test_a_second_channel_is_refused_and_the_same_one_is_not(channel):
    domain = twin_dds_domain(int(os.environ['ROS_DOMAIN_ID']))
    assert unitree.open_channel(domain, 'lo') is channel
    with pytest.raises(RobotError, match='another'):
        unitree.open_channel(domain + 1, 'lo')
    with pytest.raises(RobotError, match='eth7'):
        unitree.open_channel(domain, 'eth7')


def in_another_process(text, domain='30'):
    code = (
        f'from dmo_ros.robots import unitree\nfrom dmo_ros.robots.base import RobotError\n{text}'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'ROS_DOMAIN_ID': domain},
        capture_output=True,
        text=True,
        timeout=60.0,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


REFUSED = 'try:\n  unitree.open_channel({})\nexcept RobotError as error:\n  print(error)'


def test_ros_own_domain_is_refused():
    said = in_another_process(REFUSED.format('0, "lo"'), domain='0')
    assert 'ROS_DOMAIN_ID is 0' in said


def test_an_interface_that_is_not_there_is_refused_with_those_that_are():
    said = in_another_process(REFUSED.format('80, "eth7"'))
    assert "'eth7'" in said and 'lo' in said


def test_a_channel_leaves_no_log_for_all_to_share(tmp_path):
    log = Path('/tmp/cdds.LOG')
    before = log.stat().st_mtime if log.exists() else None
    in_another_process('unitree.open_channel(80)')
    assert (log.stat().st_mtime if log.exists() else None) == before


def test_a_process_ends_well_with_all_left_open():
    text = """
kit = unitree.open_channel(80)
def note(sample): pass
readers = [unitree.Subscription('rt/lowstate', kit.go.LowState_, note) for _ in range(3)]
server = unitree.Service('left_open', '1', lambda api_id, parameter: unitree.Answer())
client = unitree.make_client('left_open', '1', (7,))
print('ready')
"""
    assert 'ready' in in_another_process(text)


def test_nothing_of_the_sdk_is_imported_before_a_robot_is_connected():
    modules = 'robots.go2 robots.go2_camera robots.go2_remote twins.go2_peer twins.go2_process'
    text = f"""
import importlib, sys
for name in '{modules}'.split():
    importlib.import_module('dmo_ros.' + name)
print(sorted(n for n in sys.modules if n.split('.')[0] in ('unitree_sdk2py', 'cyclonedds')))
"""
    assert in_another_process(text).strip() == '[]'


@pytest.mark.parametrize('missing', ['unitree_sdk2py', 'cyclonedds'])
def test_a_missing_library_is_one_sentence_with_the_command(missing, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == missing else find(name)
    )
    with pytest.raises(RobotError, match=r"pip install 'dmo_ros\[go2\]'") as caught:
        unitree.sdk.__wrapped__()
    by_hand = 'pip install --no-deps unitree-sdk2==1.0.1'
    assert (by_hand in str(caught.value)) == (sys.version_info >= (3, 11))


# ---------------------------------------------------------------------- services
def test_a_service_answers_in_json_and_with_the_codes_of_a_robot(service):
    _, client = service
    assert client.GetServerApiVersion() == (0, '2.0.0.0')
    assert client._Call(7, '{"a": 1}') == (0, '{"a": 1}')
    assert client._Call(8, '{}')[0] == unitree.BAD_PARAMETER
    assert client._Call(9, '{}')[0] == unitree.NOT_IMPLEMENTED


def test_a_mute_service_hears_and_says_nothing(service):
    server, client = service
    client.SetTimeout(0.2)
    server.faults.mute = True
    assert client._Call(7, '{}')[0] == unitree.TIMED_OUT
    assert [request.api_id for request in server.requests] == [7]
    server.faults.mute = False
    client.SetTimeout(PATIENCE)
    assert client._Call(7, '{}')[0] == unitree.OK


def test_every_nth_request_can_be_lost(service):
    server, client = service
    server.faults.drop = 2
    codes = [client._CallNoReply(7, f'{{"n": {n}}}') for n in range(6) if not time.sleep(0.02)]
    assert codes == [0] * 6
    until(lambda: len(server.requests) == 3)
    assert all(request.noreply for request in server.requests)


def test_a_delayed_answer_comes_late(service):
    server, client = service
    server.faults.delay = 0.15
    client.SetTimeout(PATIENCE)
    began = time.monotonic()
    assert client._Call(7, '{}')[0] == unitree.OK
    assert time.monotonic() - began >= 0.15


def test_a_timed_out_call_leaves_nothing_behind(service):
    server, client = service
    client.SetTimeout(0.05)
    server.faults.mute = True
    for _ in range(5):
        client._Call(7, '{}')
    queue = client._ClientBase__stub._ClientStub__futureQueue
    assert not queue._RequestFutureQueue__data


def test_closing_ends_every_thread(channel):
    before = set(threading.enumerate())
    server = unitree.Service('short_lived', '1', lambda api_id, parameter: unitree.Answer())
    client = unitree.make_client('short_lived', '1', (7,))
    unitree.close_client(client)
    unitree.close_client(client)
    server.close()
    server.close()
    assert set(threading.enumerate()) == before


# ---------------------------------------------------------------------- what leaves the machine
def test_nothing_is_sent_beyond_loopback(tmp_path):
    """Every address a twin's DDS ever names to the kernel, and the interface of its multicast."""
    tracer, log = shutil.which('strace'), tmp_path / 'calls'
    if tracer is None:
        pytest.skip('not installed: strace')
    code = """
from dmo_ros.robots import unitree
kit = unitree.open_channel(80)
server = unitree.Service('sport', '1', lambda api_id, parameter: unitree.Answer())
client = unitree.open_client(kit.SportClient, 5.0)
assert client.StopMove() == 0
"""
    names = 'trace=sendmsg,sendto,sendmmsg,connect,setsockopt'
    done = subprocess.run(
        [tracer, '-f', '-qq', '-e', names, '-o', str(log), sys.executable, '-c', code],
        env={**os.environ, 'ROS_DOMAIN_ID': '30'},
        capture_output=True,
        text=True,
        timeout=120.0,
    )
    if done.returncode and 'ptrace' in done.stderr:
        pytest.skip('strace may not trace here')
    assert done.returncode == 0, done.stderr
    calls = log.read_text()
    assert set(re.findall(r'inet_addr\("([\d.]+)"\)', calls)) == {'127.0.0.1', '239.255.0.1'}
    loopback = str(int.from_bytes(bytes((127, 0, 0, 1)), sys.byteorder))
    assert set(re.findall(r'IP_MULTICAST_IF, \[(\d+)\]', calls)) == {loopback}
