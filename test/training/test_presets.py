"""Presets are fields of the stages' configurations, and the demo's fit the pusher."""

from dmo_ros.core.tasks import get_task
from dmo_training import train_global, train_local, train_policy, train_ppo, train_reward
from dmo_training.presets import preset, PRESETS, STAGES
import pytest

CONFIGS = {
    'global': train_global.Config,
    'reward': train_reward.Config,
    'local': train_local.Config,
    'policy': train_policy.Config,
    'ppo': train_ppo.Config,
}
PATHS = {
    'global': (),
    'reward': (),
    'local': ('reward',),
    'policy': ('global_model', 'reward', 'local_model'),
    'ppo': ('global_model', 'reward'),
}


def build(stage, name, folder):
    paths = dict.fromkeys(('data', 'out', *PATHS[stage]), folder)
    return CONFIGS[stage](task='pusher', **paths, **preset(stage, name))


@pytest.mark.parametrize('stage', STAGES)
@pytest.mark.parametrize('name', ['demo', 'paper'])
def test_every_stage_has_a_demo_and_a_paper_preset(stage, name, tmp_path):
    known = PRESETS.get(stage, train_global.PRESETS)
    names = [name] if stage != 'global' else [n for n in known if n.startswith(name)]
    assert names
    for one in names:
        build(stage, one, tmp_path)


def test_the_demos_models_fit_each_other_and_the_task(tmp_path):
    spec = get_task('pusher')
    reward, local = build('reward', 'demo', tmp_path), build('local', 'demo', tmp_path)
    policy = build('policy', 'demo', tmp_path)
    assert reward.model.frame_size == local.model.frame_size == spec.frame_size
    assert local.model.actions == len(spec.actions)
    assert policy.replay >= policy.agent.actors * policy.model_length
    assert policy.agent.episode_length >= policy.agent.horizon


@pytest.mark.parametrize(
    ('stage', 'name', 'words'),
    [
        ('local', 'nano', "stage 'local' has no preset 'nano'; choose one of demo, paper"),
        (
            'global',
            'nano',
            "stage 'global' has no preset 'nano'; choose one of demo, .*paper_text",
        ),
        ('world', 'demo', 'choose one of global, reward, local, policy'),
    ],
)
def test_an_unknown_preset_lists_the_known_ones(stage, name, words):
    with pytest.raises(ValueError, match=words):
        preset(stage, name)


def test_a_preset_is_a_copy():
    preset('local', 'demo').clear()
    assert preset('local', 'demo')
