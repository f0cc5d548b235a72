import copy
import dataclasses
import json

from dmo_ros.core.tasks import Field, get_task, require_same, TaskError, TASKS, TaskSpec
import pytest

ALL = pytest.mark.parametrize('spec', TASKS.values(), ids=TASKS)


@ALL
def test_a_specification_survives_json(spec):
    plain = json.loads(json.dumps(spec.to_dict()))
    again = TaskSpec.from_dict(plain)
    assert again == spec and again.difference(spec) is None
    require_same(spec, again, 'the copy')


@ALL
def test_every_changed_field_is_named(spec):
    for field in dataclasses.fields(spec):
        plain = spec.to_dict()
        value = plain[field.name]
        if isinstance(value, (int, float)):
            plain[field.name] = value + 1
        elif isinstance(value, str):
            plain[field.name] = value + 'x'
        else:
            continue
        other = TaskSpec.from_dict(plain)
        assert field.name in (spec.difference(other) or '')
        with pytest.raises(TaskError, match=field.name):
            require_same(spec, other, 'a file')


@ALL
def test_every_missing_or_unknown_field_is_named(spec):
    for field in dataclasses.fields(spec):
        plain = spec.to_dict()
        del plain[field.name]
        with pytest.raises(TaskError, match=f"misses field '{field.name}'"):
            TaskSpec.from_dict(plain)
    with pytest.raises(TaskError, match='surprise'):
        TaskSpec.from_dict({**spec.to_dict(), 'surprise': 1})


@ALL
@pytest.mark.parametrize('name', ['camera', 'actions', 'limits', 'success'])
def test_a_malformed_part_is_a_task_error(spec, name):
    for wrong in (None, 3, 'text', [1], {'a': 1}):
        with pytest.raises(TaskError):
            TaskSpec.from_dict({**copy.deepcopy(spec.to_dict()), name: wrong})


@ALL
def test_what_the_stages_count_on(spec):
    assert spec.period == pytest.approx(1 / spec.rate_hz)
    assert [field.name for field in spec.driven] == list(spec.policy_actions)
    assert len(spec.limits.acceleration) == len(spec.actions)
    assert spec.policy_size <= spec.frame_size <= min(spec.camera.width, spec.camera.height)
    assert spec.frame_stack >= 1 and spec.context_length >= spec.frame_stack
    assert spec.limits.command_timeout >= 2.5 * spec.period - 1e-9
    assert spec.success.hold_steps < spec.success.episode_steps
    names = [field.name for field in spec.actions]
    assert len(set(names)) == len(names)


def test_an_unknown_task_lists_the_ones_there_are():
    with pytest.raises(TaskError, match='pusher, push_t, push_cube, grab_box'):
        get_task('fly')


@pytest.mark.parametrize('low,high', [(1, 1), (2, 1), (float('nan'), 1)])
def test_an_empty_range_is_refused(low, high):
    with pytest.raises(TaskError, match='below'):
        Field('vx', 'm/s', low, high)


def test_a_policy_drives_only_fields_that_exist():
    with pytest.raises(TaskError, match='wz'):
        dataclasses.replace(get_task('pusher'), policy_actions=('vx', 'wz'))
    limits = dataclasses.replace(get_task('pusher').limits, acceleration=(8.0,))
    with pytest.raises(TaskError, match='acceleration'):
        dataclasses.replace(get_task('pusher'), limits=limits)


def test_numbers_of_the_tasks_are_those_of_the_paper():
    sizes = {
        name: (spec.rate_hz, len(spec.actions), len(spec.driven), spec.frame_size)
        for name, spec in TASKS.items()
    }
    assert sizes == {
        'pusher': (5, 2, 2, 32),
        'push_t': (5, 2, 2, 64),
        'push_cube': (5, 3, 3, 128),
        'grab_box': (10, 22, 11, 256),
    }
