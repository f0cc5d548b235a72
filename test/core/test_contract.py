import copy
import dataclasses
import json

from dmo_ros.core.contract import Contract
from dmo_ros.core.policy import Policy
from dmo_ros.core.seal import check_hash, ContractError, seal, sign, unseal
from dmo_ros.core.tasks import get_task, TaskError, TaskSpec
import numpy as np
import pytest


def leaves(value, path=()):
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def changed(value):
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return value + 'x' if isinstance(value, str) else ['x']


def replace(plain, path, value):
    plain = copy.deepcopy(plain)
    place = plain
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return plain


def load(tiny, folder, plain):
    path = folder / 'policy.onnx'
    path.write_bytes(seal(tiny.graph, json.dumps(plain)))
    return Policy.load(path, tiny.spec)


@pytest.fixture(params=['tiny', 'body'])
def either(request):
    """A task without proprioception, and one with."""
    return request.getfixturevalue(request.param)


def test_a_contract_survives_json_exactly(either):
    text = either.contract.to_json()
    again = Contract.from_json(text)
    assert again.to_json() == text
    assert TaskSpec.from_dict(again.task) == either.spec
    for name in ('frames', 'actions', 'proprio'):
        golden, other = (getattr(made.golden, name) for made in (again, either.contract))
        np.testing.assert_array_equal(golden, other)


def test_without_proprioception_a_contract_is_written_as_it_always_was(tiny, body):
    golden = {'frames', 'shape', 'first', 'actions'}
    assert set(json.loads(tiny.contract.to_json())['golden']) == golden
    assert set(json.loads(body.contract.to_json())['golden']) == golden | {'proprio'}
    assert [tensor.name for tensor in tiny.contract.inputs] == [
        *('image', 'prev_action', 'is_first', 'h'),
    ]


def test_a_graph_that_feels_nothing_is_refused_where_the_task_has_proprioception(body, tmp_path):
    plain = json.loads(body.contract.to_json())
    plain['inputs'] = [tensor for tensor in plain['inputs'] if tensor['name'] != 'proprio']
    blind = body.build(body.stack, 64, width=11)
    path = tmp_path / 'policy.onnx'
    path.write_bytes(seal(blind, json.dumps(plain)))
    with pytest.raises(ContractError, match=r"inputs: \['image'.* instead of .*'proprio', 'h'\]"):
        Policy.load(path, body.spec)


def test_golden_proprioception_goes_with_the_task(tiny, body, tmp_path):
    plain = json.loads(body.contract.to_json())
    rows = plain['golden']['proprio']
    for wrong in (rows[:-1], [row[:-1] for row in rows], [], None):
        with pytest.raises(ContractError, match='golden.proprio'):
            load(body, tmp_path, replace(plain, ('golden', 'proprio'), wrong))
    del plain['golden']['proprio']
    with pytest.raises(ContractError, match='golden.proprio'):
        load(body, tmp_path, plain)
    plain = json.loads(tiny.contract.to_json())
    plain['golden']['proprio'] = [[0.0]] * len(plain['golden']['actions'])
    with pytest.raises(ContractError, match='golden.proprio'):
        load(tiny, tmp_path, plain)


def test_other_golden_proprioception_is_refused(body, tmp_path):
    golden = dataclasses.replace(
        body.contract.golden, proprio=body.contract.golden.proprio + np.float32(0.1)
    )
    other = dataclasses.replace(body.contract, golden=golden)
    with pytest.raises(ContractError, match='golden'):
        load(body, tmp_path, json.loads(other.to_json()))


def test_a_contract_refuses_nan():
    with pytest.raises(ValueError, match='JSON'):
        broken = {'provenance': {'loss': float('nan')}}
        Contract(get_task('pusher').to_dict(), 1, (), (), (), _no_golden(), **broken).to_json()


def _no_golden():
    from dmo_ros.core.contract import Golden

    return Golden(np.zeros((1, 1, 1, 3), np.uint8), (0,), np.zeros((1, 2), np.float32))


def test_every_single_field_mutation_is_refused_by_name(tiny, tmp_path):
    plain = json.loads(tiny.contract.to_json())
    count = 0
    for path, value in leaves({key: plain[key] for key in plain if key != 'provenance'}):
        wrong = changed(value)
        with pytest.raises((ContractError, TaskError)) as caught:
            load(tiny, tmp_path, replace(plain, path, wrong))
        name = '.'.join(map(str, path)) if path[0] == 'task' else path[0]
        assert name in str(caught.value), (path, str(caught.value))
        count += 1
    assert count > 80


def test_every_missing_and_every_unknown_field_is_refused_by_name(tiny, tmp_path):
    plain = json.loads(tiny.contract.to_json())
    for key in plain:
        short = {name: value for name, value in plain.items() if name != key}
        with pytest.raises(ContractError, match=key):
            load(tiny, tmp_path, short)
    for key in plain['task']:
        short = {name: value for name, value in plain['task'].items() if name != key}
        with pytest.raises(ContractError, match=key):
            load(tiny, tmp_path, {**plain, 'task': short})
    with pytest.raises(ContractError, match='surprise'):
        load(tiny, tmp_path, {**plain, 'surprise': 1})


@pytest.mark.parametrize(
    'field', ['task', 'golden', 'inputs', 'states', 'provenance', 'frame_stack', 'version']
)
@pytest.mark.parametrize('value', [None, 3.5, 'text', [], {}, [1], {'a': 1}])
def test_fields_of_any_other_type_are_refused(tiny, tmp_path, field, value):
    plain = json.loads(tiny.contract.to_json())
    if field == 'provenance' and isinstance(value, dict):
        pytest.skip('provenance is free')
    with pytest.raises(ContractError, match=field):
        load(tiny, tmp_path, {**plain, field: value})


def test_other_golden_frames_are_refused(tiny, tmp_path):
    golden = dataclasses.replace(tiny.contract.golden, frames=255 - tiny.contract.golden.frames)
    other = dataclasses.replace(tiny.contract, golden=golden)
    with pytest.raises(ContractError, match='golden'):
        load(tiny, tmp_path, json.loads(other.to_json()))


def test_a_golden_bomb_is_refused(tiny, tmp_path):
    plain = json.loads(tiny.contract.to_json())
    with pytest.raises(ContractError, match='golden.shape'):
        load(tiny, tmp_path, replace(plain, ('golden', 'shape'), [2**20, 2**10, 2**10, 3]))


@pytest.mark.parametrize('task', ['push_t', 'push_cube', 'grab_box'])
def test_another_task_is_refused(tiny, tmp_path, task):
    path = tmp_path / 'policy.onnx'
    path.write_bytes(tiny.sealed)
    with pytest.raises(ContractError, match=rf"task.name: '{task}' here, 'pusher' there"):
        Policy.load(path, get_task(task))


def test_no_flipped_bit_is_accepted(tiny):
    unseal(tiny.sealed)
    rng = np.random.default_rng(0)
    size = len(tiny.sealed)
    tail = [(byte, bit) for byte in range(size - 80, size) for bit in range(8)]
    spread = [(int(rng.integers(size)), int(rng.integers(8))) for _ in range(300)]
    for byte, bit in tail + spread:
        data = bytearray(tiny.sealed)
        data[byte] ^= 1 << bit
        with pytest.raises(ContractError):
            unseal(bytes(data))


def test_no_truncation_and_no_appendix_is_accepted(tiny):
    size = len(tiny.sealed)
    for length in [*np.linspace(0, size - 1, 64).astype(int), size - 80, size - 79]:
        with pytest.raises(ContractError):
            unseal(tiny.sealed[:length])
    for extra in (b'\0', tiny.sealed[-80:], tiny.sealed):
        with pytest.raises(ContractError):
            unseal(tiny.sealed + extra)


def test_a_second_contract_is_refused_although_its_hash_is_right(tiny):
    import hashlib

    from dmo_ros.core import seal as module

    body = tiny.sealed[:-80] + module._entry(module.CONTRACT_KEY, tiny.contract.to_json())
    twice = body + module._entry(module.HASH_KEY, hashlib.sha256(body).hexdigest())
    check_hash(twice)
    with pytest.raises(ContractError, match='entries'):
        unseal(twice)


def test_a_sealed_file_is_not_sealed_twice(tiny):
    with pytest.raises(ContractError, match='already'):
        seal(tiny.sealed, '{}')


@pytest.mark.parametrize('data', [b'', b'no model', b'\x80' * 200, b'PK\3\4' + b'\0' * 500])
def test_something_else_is_no_policy(data):
    with pytest.raises(ContractError, match='no policy|cut short'):
        unseal(data)


def test_onnx_reads_a_sealed_file(tiny):
    onnx = pytest.importorskip('onnx')
    model = onnx.load_from_string(tiny.sealed)
    onnx.checker.check_model(model)
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found['dmo_contract'] == tiny.contract.to_json()
    assert found['dmo_sha256'] == check_hash(tiny.sealed)


def test_a_file_rewritten_by_another_tool_is_refused(tiny):
    onnx = pytest.importorskip('onnx')
    model = onnx.load_from_string(tiny.sealed)
    model.producer_name = 'someone'
    with pytest.raises(ContractError, match='damaged'):
        unseal(model.SerializeToString())


def test_signatures(tiny, tmp_path):
    pytest.importorskip('cryptography')
    from dmo_ros.core.signature import SignatureError, SigningKey

    mine, other = (SigningKey.generate(tmp_path / name) for name in ('mine', 'other'))
    assert SigningKey.read(tmp_path / 'mine').public == mine.public
    assert (tmp_path / 'mine').stat().st_mode & 0o077 == 0
    with pytest.raises(SignatureError, match='not overwritten'):
        SigningKey.generate(tmp_path / 'mine')
    signed = sign(tiny.sealed, mine)
    assert signed == seal(tiny.graph, tiny.contract.to_json(), mine)
    assert unseal(signed, [mine.public]).trust.endswith('trusted')
    assert unseal(signed, [other.public, mine.public.upper()]).trust.endswith('trusted')
    assert unseal(signed).trust.endswith('not checked')
    with pytest.raises(ContractError, match='trusted keys'):
        unseal(signed, [other.public])
    with pytest.raises(ContractError, match='trusted keys'):
        unseal(signed, [], allow_unsigned=True)
    with pytest.raises(ContractError, match='not signed'):
        unseal(tiny.sealed, [mine.public])
    assert unseal(tiny.sealed, [mine.public], allow_unsigned=True).trust == 'unsigned'
    again = sign(signed, other)
    assert unseal(again, [other.public]).contract == tiny.contract.to_json()


def test_a_foreign_signature_is_refused_although_its_hash_is_right(tiny, tmp_path):
    pytest.importorskip('cryptography')
    import hashlib

    from dmo_ros.core import seal as module
    from dmo_ros.core.signature import SigningKey

    key = SigningKey.generate(tmp_path / 'key')
    body = tiny.graph + module._entry(module.CONTRACT_KEY, tiny.contract.to_json())
    for message in (b'another file', hashlib.sha256(body + b'x').digest()):
        forged = body + module._entry(module.SIGNATURE_KEY, key.sign(message))
        forged += module._entry(module.HASH_KEY, hashlib.sha256(forged).hexdigest())
        with pytest.raises(ContractError, match='signature'):
            unseal(forged, [key.public])
