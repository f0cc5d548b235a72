"""Presets are fields of the stages' configurations, and fit every task of their kind."""

import importlib

from dmo_ros.core.tasks import get_task, TASKS
from dmo_training.command import needs, STAGES
from dmo_training.models.dreamer4.config import Dreamer4Config
from dmo_training.presets import preset, presets
import pytest

CASES = [
    (task, stage, name)
    for task in TASKS
    for stage, named in presets(get_task(task)).items()
    for name in named
]


def build(task, stage, name, folder):
    script = importlib.import_module(f'dmo_training.train_{stage}')
    if hasattr(script, 'script'):
        script = script.script(task)
    paths = dict.fromkeys(('data', 'out', *needs(stage, task)), folder)
    return script.Config(task=task, **paths, **preset(stage, name, task))


@pytest.mark.parametrize(('task', 'stage', 'name'), CASES)
def test_a_preset_is_a_configuration_of_its_stage(task, stage, name, tmp_path):
    build(task, stage, name, tmp_path)


@pytest.mark.parametrize('task', TASKS)
def test_a_task_has_every_stage_of_its_kind_at_three_sizes(task):
    known = presets(get_task(task))
    stages = set(STAGES) - ({'ppo'} if 'tokenizer' in known else {'tokenizer'})
    assert set(known) == stages
    for stage, named in known.items():
        for size in ('smoke', 'demo', 'paper'):
            assert stage == 'ppo' or any(name.startswith(size) for name in named)


@pytest.mark.parametrize('name', ['smoke', 'demo'])
@pytest.mark.parametrize('task', TASKS)
def test_models_fit_each_other_and_the_task(task, name, tmp_path):
    spec = get_task(task)
    local, policy = (build(task, stage, name, tmp_path) for stage in ('local', 'policy'))
    sizes = (spec.policy_size, len(spec.actions), len(spec.proprioception))
    assert (local.model.frame_size, local.model.actions, local.model.proprio) == sizes
    assert policy.replay >= policy.agent.actors * policy.model_length
    assert policy.agent.episode_length >= policy.agent.horizon
    world, reward = (build(task, stage, name, tmp_path) for stage in ('global', 'reward'))
    if spec.global_model == 'diamond':
        assert world.denoiser.network.action_size == len(spec.actions)
        assert reward.model.frame_size == spec.frame_size
        return
    tokenizer = build(task, 'tokenizer', name, tmp_path).model
    assert tokenizer.proprio_size == len(spec.proprioception)
    assert world.model.action_size == len(spec.actions)
    Dreamer4Config(tokenizer, world.model, reward.head)  # refuses sizes that do not meet


def test_the_paper_sizes_are_the_columns_of_its_table(tmp_path):
    for task, image, bottleneck, rows in (('push_cube', 128, 16, 240), ('grab_box', 256, 32, 256)):
        tokenizer = build(task, 'tokenizer', 'paper', tmp_path).model
        world = build(task, 'global', 'paper', tmp_path)
        assert (tokenizer.image_size, tokenizer.bottleneck) == (image, bottleneck)
        assert (world.model.trunk.width, world.model.trunk.layers) == (1536, 24)
        assert world.batch * world.accumulate == rows


@pytest.mark.parametrize(
    ('stage', 'name', 'words'),
    [
        ('local', 'nano', "stage 'local' of task 'pusher' has no preset 'nano'; choose one of "),
        ('global', 'nano', 'choose one of demo, .*paper_text'),
        ('world', 'demo', 'choose one of global, reward, local, policy'),
        ('tokenizer', 'demo', "task 'pusher' has no preset 'demo'; choose one of global"),
    ],
)
def test_an_unknown_preset_lists_the_known_ones(stage, name, words):
    with pytest.raises(ValueError, match=words):
        preset(stage, name)


def test_a_preset_is_a_copy():
    preset('local', 'demo').clear()
    assert preset('local', 'demo')
