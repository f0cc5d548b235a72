import json
import os
import subprocess
import sys

from dmo_ros.core.actions import bounds
from dmo_ros.core.images import ImageError, to_observation, to_policy_observation
from dmo_ros.core.policy import ClosedLoop, Policy, PolicyError, verify
from dmo_ros.core.proprioception import ProprioceptionError
from dmo_ros.core.seal import ContractError, seal
from dmo_ros.core.tasks import get_task
import numpy as np
import pytest

pytest.importorskip('onnxruntime')


@pytest.fixture
def path(tiny, tmp_path):
    file = tmp_path / 'policy.onnx'
    file.write_bytes(tiny.sealed)
    return file


@pytest.fixture
def body_path(body, tmp_path):
    file = tmp_path / 'body.onnx'
    file.write_bytes(body.sealed)
    return file


def frames(count, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_a_good_file_loads_and_tells_what_it_is(tiny, path):
    policy = Policy.load(path, tiny.spec)
    assert policy.golden_error < 1e-6
    assert policy.provider == 'CPUExecutionProvider'
    assert policy.trust == 'unsigned'
    assert policy.contract.provenance == {'commit': 'abc', 'seed': 1}
    assert Policy.load(path, None).spec == tiny.spec


def test_verify_describes_a_file_as_json(tiny, path):
    found = json.loads(json.dumps(verify(path), allow_nan=False))
    assert found['task'] == 'pusher' and found['trust'] == 'unsigned'
    assert found['inputs']['image'] == ['uint8', 'batch', tiny.stack, 32, 32, 3]
    assert found['golden_error'] < 1e-6 and len(found['digest']) == 64
    assert found['proprioception'] == found['at_rest'] == {}
    assert found['drives'] == {'vx': 'm/s', 'vy': 'm/s'}
    path.write_bytes(tiny.sealed[:-1])
    with pytest.raises(ContractError, match='cut short'):
        verify(path)


def test_verify_tells_what_a_whole_bodys_policy_feels_and_leaves_at_rest(body, body_path):
    found = json.loads(json.dumps(verify(body_path), allow_nan=False))
    names = [field.name for field in body.spec.proprioception]
    assert found['inputs']['proprio'] == ['float32', 'batch', 19]
    assert list(found['inputs']) == ['image', 'prev_action', 'is_first', 'proprio', 'h']
    assert list(found['proprioception']) == names
    assert found['proprioception']['right_hand'] == '1'
    assert len(found['drives']) == len(found['at_rest']) == 11
    assert found['at_rest']['vx'] == [0.0, 'm/s']
    assert found['at_rest']['left_wrist_yaw'] == [-0.8, 'rad']


def postures(body, count, seed=0):
    low, high = bounds(body.spec.proprioception)
    return np.random.default_rng(seed).uniform(low, high, (count, len(low))).astype(np.float32)


def test_proprioception_goes_into_the_graph(body, body_path):
    policy = Policy.load(body_path, body.spec)
    loop = ClosedLoop(body.oracle, 11, body.stack, [(11,)], 1, body.spec.proprioception)
    pictures, felt = frames(40, 64), postures(body, 40)
    for frame, row in zip(pictures, felt, strict=True):
        action = policy.step(frame, row)
        assert action.shape == (11,)
        seen = to_policy_observation(frame, body.spec)
        np.testing.assert_allclose(action, loop.step(seen[None], row[None])[0], atol=1e-5)
    policy.reset()
    first = policy.step(pictures[0], felt[0])
    policy.reset()
    assert np.abs(policy.step(pictures[0], felt[1]) - first).max() > 1e-3, 'it does feel'


def test_a_batch_of_bodies_is_its_rows(body, body_path):
    policy = Policy.load(body_path, body.spec)
    loop, seen = policy.loop(3), frames(30, 64).reshape(10, 3, 64, 64, 3)
    felt = postures(body, 30).reshape(10, 3, -1)
    together = np.stack([loop.step(*moment) for moment in zip(seen, felt, strict=True)])
    for index in range(3):
        loop = policy.loop()
        alone = [loop.step(seen[t, [index]], felt[t, [index]])[0] for t in range(10)]
        np.testing.assert_allclose(together[:, index], alone, atol=1e-6)


@pytest.mark.parametrize(
    'spoil,match',
    [
        (lambda row: None, 'needs proprioception'),
        (lambda row: row[:-1], 'has 19 numbers'),
        (lambda row: row * np.float32(np.nan), 'not finite in waist_yaw, waist_roll'),
        (lambda row: np.where(np.arange(19) == 10, np.inf, row), 'not finite in right_elbow;'),
        (lambda row: row.astype(float) * 1e300, 'not finite'),
    ],
)
def test_bad_proprioception_is_refused_and_leaves_no_trace(body, body_path, spoil, match):
    policy, other = Policy.load(body_path, body.spec), Policy.load(body_path, body.spec)
    pictures, felt = frames(6, 64), postures(body, 6)
    for frame, row in zip(pictures, felt, strict=True):
        with pytest.raises(ProprioceptionError, match=match):
            policy.step(frame, spoil(row))
        np.testing.assert_array_equal(policy.step(frame, row), other.step(frame, row))


def test_a_task_without_proprioception_takes_none(tiny, path):
    with pytest.raises(ProprioceptionError, match='has no proprioception'):
        Policy.load(path, tiny.spec).step(frames(1)[0], np.zeros(19, np.float32))


def test_a_step_feeds_back_states_action_and_stack(tiny, path):
    policy = Policy.load(path, tiny.spec)
    loop = ClosedLoop(tiny.oracle, 2, tiny.stack, [(2,)])
    for frame in frames(50):
        action = policy.step(frame)
        assert action.shape == (2,) and action.dtype == np.float32
        np.testing.assert_allclose(action, loop.step(frame[None])[0], atol=1e-6)


def test_a_reset_forgets_everything(tiny, path):
    policy = Policy.load(path, tiny.spec)
    first = [policy.step(frame) for frame in frames(5)]
    policy.reset()
    np.testing.assert_array_equal(first, [policy.step(frame) for frame in frames(5)])
    fresh = Policy.load(path, tiny.spec)
    np.testing.assert_array_equal(first, [fresh.step(frame) for frame in frames(5)])


def test_a_returned_action_is_not_the_memory(tiny, path):
    policy, other = Policy.load(path, tiny.spec), Policy.load(path, tiny.spec)
    for frame in frames(4):
        action = policy.step(frame)
        np.testing.assert_array_equal(action, other.step(frame))
        action[:] = 9


@pytest.mark.parametrize('shape', [(32, 32), (48, 64), (480, 640), (16, 16), (33, 31)])
def test_any_camera_size_is_seen_through_the_one_image_function(tiny, path, shape):
    frame = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    policy, other = Policy.load(path, tiny.spec), Policy.load(path, tiny.spec)
    np.testing.assert_array_equal(policy.step(frame), other.step(to_observation(frame, tiny.spec)))


@pytest.mark.parametrize(
    'shape,dtype',
    [
        ((32, 32), np.uint8),
        ((32, 32, 4), np.uint8),
        ((3, 32, 32), np.uint8),
        ((0, 4, 3), np.uint8),
        ((32, 32, 3), np.float32),
        ((32, 32, 3), np.int8),
        ((1, 32, 32, 3), np.uint8),
    ],
)
def test_no_other_encoding_or_dtype_is_a_frame(tiny, path, shape, dtype):
    with pytest.raises(ImageError, match='uint8'):
        Policy.load(path, tiny.spec).step(np.zeros(shape, dtype))


def test_a_batch_is_its_rows(tiny, path):
    policy = Policy.load(path, tiny.spec)
    loop, seen = policy.loop(batch=3), frames(30).reshape(10, 3, 32, 32, 3)
    together = np.stack([loop.step(row) for row in seen])
    for index in range(3):
        policy.reset()
        alone = np.stack([policy.step(frame) for frame in seen[:, index]])
        np.testing.assert_allclose(together[:, index], alone, atol=1e-6)


def test_a_not_finite_action_is_refused_and_nothing_of_it_stays(tiny, tmp_path):
    path = tmp_path / 'policy.onnx'
    path.write_bytes(seal(tiny.build(tiny.stack, nan_on_black=True), tiny.contract.to_json()))
    policy = Policy.load(path, tiny.spec)
    first = [policy.step(frame) for frame in frames(3)]
    policy.reset()
    with pytest.raises(PolicyError, match='not finite'):
        policy.step(np.zeros((32, 32, 3), np.uint8))
    np.testing.assert_array_equal(first, [policy.step(frame) for frame in frames(3)])


@pytest.mark.parametrize(
    'action,state,match',
    [
        (np.nan, 0.0, 'action that is not finite'),
        (np.inf, 0.0, 'action that is not finite'),
        (0.5, np.nan, 'state that is not finite'),
        (1.5, 0.0, 'outside'),
        (-1.01, 0.0, 'outside'),
    ],
)
def test_a_closed_loop_refuses_what_must_not_reach_a_robot(action, state, match):
    loop = ClosedLoop(
        lambda *_: (np.float32([[0.1, action]]), np.float32([[state]])), 2, 1, [(1,)]
    )
    with pytest.raises(PolicyError, match=match):
        loop.step(frames(1))


def test_a_closed_loop_feeds_back_exactly_what_it_got():
    seen, answers = [], np.random.default_rng(0).uniform(-1, 1, (6, 1, 2)).astype(np.float32)

    def infer(image, prev_action, is_first, *states):
        seen.append(
            (
                image[0, :, 0, 0, 0].tolist(),
                prev_action[0].tolist(),
                is_first.tolist(),
                [state.tolist() for state in states],
            )
        )
        count = len(seen)
        return answers[count - 1], np.full((1, 3), count, np.float32)

    loop, zeros = ClosedLoop(infer, 2, 3, [(3,)]), [0.0] * 3
    for value in range(6):
        if value == 4:
            loop.reset()
        loop.step(np.full((1, 2, 2, 3), value, np.uint8))
    before = answers[:, 0].tolist()
    assert seen[0] == ([0, 0, 0], [0, 0], [[1]], [[zeros]])
    assert seen[1] == ([0, 0, 1], before[0], [[0]], [[[1.0] * 3]])
    assert seen[3] == ([1, 2, 3], before[2], [[0]], [[[3.0] * 3]])
    assert seen[4] == ([4, 4, 4], [0, 0], [[1]], [[zeros]])
    assert seen[5] == ([4, 4, 5], before[4], [[0]], [[[5.0] * 3]])


def test_a_rounding_error_beyond_one_is_clipped():
    loop = ClosedLoop(lambda *_: (np.float32([[1 + 1e-6, -1 - 1e-6]]),), 2, 1, [])
    np.testing.assert_array_equal(loop.step(frames(1)), [[1, -1]])


def test_no_flipped_bit_reaches_onnxruntime(tiny, path):
    rng = np.random.default_rng(7)
    for _ in range(100):
        data = bytearray(tiny.sealed)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))
        with pytest.raises(ContractError):
            Policy.load(path, tiny.spec)


@pytest.mark.parametrize('name', ['missing.onnx', '.'])
def test_a_missing_file_is_a_sentence(tiny, tmp_path, name):
    with pytest.raises(ContractError, match='cannot be read'):
        Policy.load(tmp_path / name, tiny.spec)


@pytest.mark.parametrize('data', [b'', b'no model at all', b'\0' * 4096])
def test_not_an_onnx_file(tiny, tmp_path, data):
    path = tmp_path / 'policy.onnx'
    path.write_bytes(data)
    with pytest.raises(ContractError, match='dmo export'):
        Policy.load(path, tiny.spec)


def test_a_sealed_file_without_a_graph_is_refused(tiny, tmp_path):
    path = tmp_path / 'policy.onnx'
    path.write_bytes(seal(b'', tiny.contract.to_json()))
    with pytest.raises(PolicyError, match='cannot open the graph'):
        Policy.load(path, tiny.spec)


@pytest.mark.parametrize(
    'stack,size,match', [(3, 32, 'inputs.image.shape'), (4, 64, 'inputs.image.shape')]
)
def test_a_graph_of_another_shape_is_refused(tiny, tmp_path, stack, size, match):
    path = tmp_path / 'policy.onnx'
    path.write_bytes(seal(tiny.build(stack, size), tiny.contract.to_json()))
    with pytest.raises(ContractError, match=match):
        Policy.load(path, tiny.spec)


def test_a_graph_with_other_weights_is_refused(tiny, tmp_path):
    w = np.random.default_rng(3).normal(size=(12, 2)).astype(np.float32)
    other = tiny.graph.replace(w.tobytes(), (w * 1.1).tobytes())
    assert other != tiny.graph
    path = tmp_path / 'policy.onnx'
    path.write_bytes(seal(other, tiny.contract.to_json()))
    with pytest.raises(ContractError, match='golden'):
        Policy.load(path, tiny.spec)


def test_a_policy_that_agrees_with_itself_but_not_with_the_task_is_refused(tiny, tmp_path):
    path = tmp_path / 'policy.onnx'
    path.write_bytes(
        seal(
            tiny.build(tiny.stack, 64),
            tiny.contract.to_json().replace(
                '"shape":["batch",4,32,32,3]', '"shape":["batch",4,64,64,3]'
            ),
        )
    )
    with pytest.raises(ContractError, match='inputs.image.shape'):
        Policy.load(path, tiny.spec)


def test_a_policy_may_see_fewer_frames_than_its_task_offers(tiny, tmp_path):
    path = tmp_path / 'policy.onnx'
    path.write_bytes(seal(tiny.build(1), tiny.promise(tiny.spec, 1).to_json()))
    assert Policy.load(path, tiny.spec).contract.frame_stack == 1


def test_a_provider_that_is_not_there_is_refused(tiny, path):
    import onnxruntime

    if 'CUDAExecutionProvider' in onnxruntime.get_available_providers():
        pytest.skip('this machine has the provider')
    with pytest.raises(PolicyError, match='CUDAExecutionProvider'):
        Policy.load(path, tiny.spec, providers=['CUDAExecutionProvider', 'CPUExecutionProvider'])


@pytest.mark.filterwarnings('ignore:Specified provider')
def test_a_silent_fall_back_is_refused(tiny, path, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime,
        'get_available_providers',
        lambda: ['CUDAExecutionProvider', 'CPUExecutionProvider'],
    )
    with pytest.raises(PolicyError, match='was asked for'):
        Policy.load(path, tiny.spec, providers=['CUDAExecutionProvider'])


def test_an_unsigned_file_is_refused_where_keys_are_trusted(tiny, path):
    with pytest.raises(ContractError, match='not signed'):
        Policy.load(path, tiny.spec, trusted_keys=['00' * 32])
    assert Policy.load(path, tiny.spec, trusted_keys=['00' * 32], allow_unsigned=True)


def test_the_robot_needs_neither_torch_nor_onnx_and_hears_what_it_lacks(path):
    code = """
import sys
class Nothing:
    def find_spec(self, name, *_):
        if name.split('.')[0] in ('torch', 'onnx', 'onnxruntime', 'cv2', 'rclpy', 'cryptography'):
            raise ImportError('no module named ' + name)
sys.meta_path.insert(0, Nothing())
from dmo_ros.core.policy import Policy, PolicyError
from dmo_ros.core.tasks import get_task
try:
    Policy.load(sys.argv[1], get_task('pusher'))
except PolicyError as error:
    print(error)
"""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    done = subprocess.run(
        [sys.executable, '-c', code, str(path)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "pip install 'dmo_ros[deploy]'" in done.stdout


def test_the_larger_task_is_seen_by_way_of_the_world_models_frame():
    spec = get_task('push_cube')
    frame = np.random.default_rng(2).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    seen = []

    class Spy(Policy):
        def __init__(self):
            self.spec = spec
            self._loop = ClosedLoop(self.look, 3, 1, [])

        def look(self, image, *_):
            seen.append(image[0, 0])
            return (np.zeros((1, 3), np.float32),)

    Spy().step(frame)
    np.testing.assert_array_equal(
        seen[0], to_observation(to_observation(frame, spec), spec, spec.policy_size)
    )
