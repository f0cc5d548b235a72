"""Local model and policy of the ego-centric tasks: every preset fits its task and itself."""

from dmo_ros.core.tasks import get_task
from dmo_training import train_local, train_policy
from dmo_training.models.dreamer4.rollout import RolloutConfig
from dmo_training.models.rssm import Rssm
from dmo_training.presets import preset, presets
import pytest
import torch

EGO = ('push_cube', 'grab_box')
NAMES = ('smoke', 'demo', 'mid', 'paper')


@pytest.mark.parametrize('task', EGO)
@pytest.mark.parametrize('name', NAMES)
def test_every_preset_fits_its_task_and_itself(task, name, tmp_path):
    spec = get_task(task)
    runs = dict.fromkeys(('data', 'reward', 'out'), tmp_path)
    local = train_local.Config(task=task, **runs, **preset('local', name, task))
    train_local.check_sizes(local.model, spec)
    runs |= dict.fromkeys(('global_model', 'local_model'), tmp_path)
    policy = train_policy.Config(task=task, **runs, **preset('policy', name, task))
    RolloutConfig(policy.denoising_steps)
    assert policy.replay // policy.agent.actors >= policy.model_length
    assert policy.agent.episode_length % policy.agent.horizon == 0
    assert policy.evaluate_every <= policy.agent.epochs


@pytest.mark.parametrize('task', EGO)
def test_all_stages_have_the_same_names(task):
    for stage in presets(get_task(task)).values():
        assert set(NAMES) <= stage.keys()


def test_the_papers_local_model_and_budget_are_table_4s():
    """Column 'Push Cube & G1 Grab Box', and the four million samples of Figure 8."""
    with torch.device('meta'):
        model = Rssm(preset('local', 'paper', 'push_cube')['model'])
    config = model.config
    assert (config.recurrent, config.groups, config.units) == (4096, 32, 1024)
    assert (config.multiplier, config.mlp_layers, config.frame_size) == (96, 5, 64)
    agent = preset('policy', 'paper', 'push_cube')['agent']
    assert (agent.actors, agent.horizon) == (128, 16)
    assert agent.actors * agent.horizon * agent.epochs == pytest.approx(4e6, rel=1e-3)
    assert preset('policy', 'paper', 'push_cube')['denoising_steps'] == 4
