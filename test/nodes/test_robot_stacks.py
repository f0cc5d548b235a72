"""The three robots' graphs as `dmo up` starts them: they come up, work, and end whole."""

import importlib.util
import signal
import subprocess
import sys
import time

from diagnostic_msgs.msg import DiagnosticStatus
from dmo_ros.core.tasks import get_task
from dmo_ros.doctor_robots import check_gl
from dmo_ros.lifecycle import change, LifecycleError, main
from dmo_ros.nodes import qos
from dmo_ros.nodes.convert import command_type
from dmo_ros.up import running
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import pytest
import rclpy
from sensor_msgs.msg import Image

NEEDED = {
    'push_t': ('mujoco',),
    'push_cube': ('mujoco', 'unitree_sdk2py'),
    'grab_box': ('mujoco', 'unitree_sdk2py', 'zmq', 'msgpack'),
}
DRY = {'robot': 'real', 'sink': 'dry_run', 'camera': 'driver/image'}


@pytest.fixture
def probe(new_probe):
    rclpy.init()
    made = new_probe()
    yield made
    made.node.destroy_node()
    rclpy.try_shutdown()


def need(task):
    absent = [name for name in NEEDED[task] if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f'not installed: {", ".join(absent)}')
    gl = check_gl()
    if gl.state != 'ok':
        pytest.skip(f'{gl.detail}; {gl.fix}')


def state(messages):
    pairs = messages[-1][1].values if messages else ()
    return next((pair.value for pair in pairs if pair.key == 'state'), '')


TASKS = ['push_cube', *(pytest.param(t, marks=pytest.mark.slow) for t in ('push_t', 'grab_box'))]


@pytest.mark.parametrize('task', TASKS)
def test_a_robots_graph_comes_up_is_driven_recorded_and_ends_whole(probe, task, tmp_path):
    need(task)
    spec = get_task(task)
    images = probe.listen(Image, 'image_raw')
    commands = probe.listen(command_type(spec), 'cmd')
    gate = probe.listen(DiagnosticStatus, 'gate/status', qos.LATCHED)
    bridge = probe.listen(DiagnosticStatus, 'bridge/status', qos.LATCHED)
    bag = tmp_path / 'bag'
    with running(task, {'operator': 'play', 'record': str(bag)}) as graph:
        graph.wait_ready(120)
        probe.until(lambda: state(gate) == 'ACTIVE')
        probe.until(lambda: state(bridge) == 'active')
        probe.until(lambda: len(images) > 10 and len(commands) > 50)
        assert images[-1][1].header.frame_id == spec.camera.frame_id
        graph.check()
        graph.stop()
        codes = {name: child.code for name, child in graph.children.items()}
    assert set(codes.values()) == {0}, codes
    assert (bag / 'metadata.yaml').is_file(), 'the recording is whole'


def test_a_person_leads_a_real_robots_bridge_through_its_states(probe, capsys):
    bridge = probe.listen(DiagnosticStatus, 'bridge/status', qos.LATCHED)
    with running('push_cube', DRY) as graph:
        graph.wait_ready(60)
        probe.until(lambda: state(bridge) == 'unconfigured')
        assert change('go2_bridge', 'get', 40) == (True, 'unconfigured')
        assert change('go2_bridge', 'activate', 40) == (False, 'unconfigured')
        assert main(['go2_bridge', 'activate']) == 1
        assert 'activate is for a node that is inactive' in capsys.readouterr().out
        for action, expected in (
            ('configure', 'inactive'),
            ('activate', 'active'),
            ('deactivate', 'inactive'),
            ('cleanup', 'unconfigured'),
        ):
            assert change('go2_bridge', action, 40) == (True, expected)
        probe.until(lambda: state(bridge) == 'unconfigured')
        assert main(['go2_bridge', 'configure']) == 0
        assert 'go2_bridge is inactive' in capsys.readouterr().out


def test_a_transition_at_the_wrong_time_ends_nothing(probe):
    bridge = probe.listen(DiagnosticStatus, 'bridge/status', qos.LATCHED)
    client = probe.node.create_client(ChangeState, 'go2_bridge/change_state')
    with running('push_cube', DRY) as graph:
        graph.wait_ready(60)
        assert client.wait_for_service(40)
        wrong = Transition(id=Transition.TRANSITION_ACTIVATE)
        client.call_async(ChangeState.Request(transition=wrong))
        probe.until(lambda: any('asked for' in x for x in graph.children['go2_bridge'].lines))
        bridge.clear()
        probe.until(lambda: state(bridge) == 'unconfigured')
        graph.check()


def test_a_node_that_is_not_there_is_named(probe):
    with pytest.raises(LifecycleError, match='nobody serves nobody/get_state'):
        change('nobody', 'get', find=0.3)


def test_an_interrupted_runner_stops_its_graph(tmp_path):
    """A terminal's Ctrl-C reaches `dmo up` alone; it ends its nodes in order."""
    words = [f'{name}:={value}' for name, value in DRY.items()]
    log = tmp_path / 'log'
    with log.open('w') as out:
        line = [sys.executable, '-m', 'dmo_ros.up', 'push_cube', *words]
        up = subprocess.Popen(line, stdout=out, stderr=out, start_new_session=True)
        try:
            end = time.monotonic() + 60
            while log.read_text().count(': ready') < 4 and time.monotonic() < end:
                time.sleep(0.1)
            up.send_signal(signal.SIGINT)
            assert up.wait(40) == 0, log.read_text()
        finally:
            up.kill()
