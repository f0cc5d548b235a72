"""Reward, local model and policy, one on the other: resume equals no stop, refusals name why."""

from dataclasses import replace
import json
import shutil

from dmo_ros.core.episode import EpisodeError, write_meta
from dmo_ros.core.intent import MILESTONE
from dmo_ros.core.tasks import get_task, TaskError
from dmo_ros.twins.pusher import PusherTwin
from dmo_training import train_local, train_policy, train_reward
from dmo_training.data import DataError, PlayDataset
from dmo_training.engine import CheckpointError, load_checkpoint
from dmo_training.models.rewards import RewardConfig
from dmo_training.models.rssm import RssmConfig
from dmo_training.rl.agent import DmoSapoConfig
from dmo_training.twin_world import TwinWorld
from dmo_training.world import Context
import numpy as np
import pytest
import torch

SPEC = get_task('pusher')
REWARD = RewardConfig(frame_size=32, channels=2, units=8, goals=2, milestone_weight=1.0)
LOCAL = RssmConfig(
    frame_size=32,
    recurrent=8,
    groups=2,
    classes=4,
    units=8,
    multiplier=2,
    mlp_layers=1,
    reward_bins=11,
    motion_weight=2.0,
    action_noise=0.1,
)
AGENT = DmoSapoConfig(
    actors=4,
    horizon=3,
    episode_length=4,
    epochs=10,
    mini_epochs=2,
    mini_batch=8,
    actor_hidden=(8,),
    critic_hidden=(8,),
)


@pytest.fixture(name='data', scope='module')
def fixture_data(tmp_path_factory, write_play):
    return write_play(tmp_path_factory.mktemp('play') / 'dataset')


def reward_config(data, out):
    return train_reward.Config('pusher', data, out, model=REWARD, updates=10, batch=4, log_every=1)


def local_config(data, reward, out):
    return train_local.Config(
        'pusher',
        data,
        reward,
        out,
        model=LOCAL,
        updates=10,
        batch=2,
        length=5,
        final_rate=0.5,
        log_every=1,
    )


@pytest.fixture(name='reward', scope='module')
def fixture_reward(data, tmp_path_factory):
    return train_reward.train(reward_config(data, tmp_path_factory.mktemp('reward')))


@pytest.fixture(name='local', scope='module')
def fixture_local(data, reward, tmp_path_factory):
    return train_local.train(local_config(data, reward, tmp_path_factory.mktemp('local')))


def all_configs(data, reward, local, folder):
    return {
        'reward': reward_config(data, folder / 'reward'),
        'local': local_config(data, reward, folder / 'local'),
        'policy': train_policy.Config(
            'pusher',
            data,
            folder / 'global.safetensors',
            reward,
            local,
            folder / 'policy',
            agent=AGENT,
            forward='twin',
            model_updates=2,
            model_batch=4,
            model_length=5,
            replay=80,
            evaluate_every=3,
            evaluate_episodes=4,
        ),
    }


STAGES = {'reward': train_reward.train, 'local': train_local.train, 'policy': train_policy.train}


@pytest.fixture(name='configs')
def fixture_configs(data, reward, local, tmp_path):
    """The configuration of each stage, by its name."""
    return all_configs(data, reward, local, tmp_path)


@pytest.fixture(name='whole', scope='module')
def fixture_whole(data, reward, local, tmp_path_factory):
    """Each stage trained without a stop: its configuration, by its name."""
    configs = all_configs(data, reward, local, tmp_path_factory.mktemp('whole'))
    for stage, config in configs.items():
        STAGES[stage](config)
    return configs


def figures(folder):
    """What a run logged, without the wall time."""
    lines = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
    return [{name: value for name, value in line.items() if name != 'seconds'} for line in lines]


# Resume -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('stage', STAGES)
def test_five_and_five_steps_are_ten(stage, whole, tmp_path, differences):
    """Bit for bit: weights, optimisers, generators, actors, replay, worlds, and every figure."""
    train, config = STAGES[stage], whole[stage]
    cut = replace(config, out=tmp_path / 'cut')
    whole = load_checkpoint(config.out / f'{stage}.safetensors')
    half = load_checkpoint(train(cut, until=5))
    torch.manual_seed(12345)  # another process would not have our generator's state
    resumed = load_checkpoint(train(cut, resume=True))
    assert differences(whole.pop('config'), resumed.pop('config')) == ['.out']
    assert differences(whole, half), 'the second half changed nothing'
    assert differences(whole, resumed) == []
    for one, two in zip(figures(config.out), figures(cut.out), strict=True):
        assert one == pytest.approx(two, nan_ok=True, rel=0, abs=0)


@pytest.mark.parametrize('stage', STAGES)
def test_a_finished_run_resumed_stays_as_it_is(stage, whole, tmp_path, differences):
    again = replace(whole[stage], out=shutil.copytree(whole[stage].out, tmp_path / 'again'))
    before = load_checkpoint(again.out / f'{stage}.safetensors')
    after = load_checkpoint(STAGES[stage](again, resume=True))
    assert differences(before | {'config': 0}, after | {'config': 0}) == []


@pytest.mark.parametrize('stage', STAGES)
def test_steps_lost_in_a_kill_are_taken_again(stage, whole, tmp_path, differences):
    """Killed at step 7 after a checkpoint at 5: the same end, and no figure twice."""
    train, config = STAGES[stage], whole[stage]
    whole = load_checkpoint(config.out / f'{stage}.safetensors')
    cut = replace(config, out=tmp_path / 'cut')
    checkpoint = train(cut, until=5).read_bytes()
    path = train(cut, resume=True, until=7)
    path.write_bytes(checkpoint)
    resumed = load_checkpoint(train(cut, resume=True))
    assert differences(whole | {'config': 0}, resumed | {'config': 0}) == []
    assert len(figures(cut.out)) == len(figures(config.out))


def test_a_replay_on_disk_resumes_as_well(configs, tmp_path, monkeypatch, differences):
    """As long as it has not gone round; frames stay out of the checkpoint."""
    monkeypatch.setattr(train_policy, 'IN_MEMORY', 10)
    config = replace(configs['policy'], replay=400, evaluate_every=0)
    cut = replace(config, out=tmp_path / 'cut')
    whole = load_checkpoint(train_policy.train(config))
    train_policy.train(cut, until=5)
    resumed = load_checkpoint(train_policy.train(cut, resume=True))
    assert 'frames' not in whole['training']['replay']
    assert differences(whole | {'config': 0}, resumed | {'config': 0}) == []


def test_seeds_differ(configs):
    """Another seed is another actor from the beginning, not only other noise."""
    actors = [
        train_policy.Training(replace(configs['policy'], seed=seed)).agent.actor for seed in (0, 1)
    ]
    first, second = (actor.net[0].weight for actor in actors)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ('stage', 'change', 'words'),
    [
        ('reward', {'learning_rate': 1e-4}, 'learning_rate: 0.0001 here, 0.001 there'),
        ('reward', {'model': replace(REWARD, goals=3)}, r'model\.goals: 3 here, 2 there'),
        ('local', {'length': 6}, 'length: 6 here, 5 there'),
        ('local', {'model': replace(LOCAL, units=9)}, r'model\.units: 9 here, 8 there'),
        ('policy', {'seed': 4}, 'seed: 4 here, 0 there'),
        ('policy', {'agent': replace(AGENT, gamma=0.5)}, r'agent\.gamma: 0\.5 here, 0\.99 there'),
    ],
)
def test_resuming_with_another_configuration_is_refused(stage, change, words, configs):
    train, config = STAGES[stage], configs[stage]
    train(config, until=1)
    before = {path.name: path.read_bytes() for path in config.out.iterdir() if path.is_file()}
    with pytest.raises(CheckpointError, match=f'another configuration .*{words}'):
        train(replace(config, **change), resume=True)
    after = {path.name: path.read_bytes() for path in config.out.iterdir() if path.is_file()}
    assert before == after, 'the refusal touched the run'


@pytest.mark.parametrize('stage', STAGES)
def test_resuming_from_another_stage_or_a_damaged_file_is_refused(stage, configs, reward, local):
    train, config = STAGES[stage], configs[stage]
    path = config.out / f'{stage}.safetensors'
    path.parent.mkdir()
    path.write_bytes((local if stage == 'reward' else reward).read_bytes())
    with pytest.raises(CheckpointError, match='is a checkpoint of stage'):
        train(config, resume=True)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match='damaged'):
        train(config, resume=True)


# What a stage takes -----------------------------------------------------------------------------


@pytest.mark.parametrize('stage', STAGES)
def test_every_stage_names_its_task_and_its_settings(stage, configs):
    state = load_checkpoint(STAGES[stage](configs[stage], until=1))
    assert state['stage'] == stage and state['task'] == SPEC.to_dict()
    assert state['config']['task'] == 'pusher'
    written = json.loads((configs[stage].out / 'config.json').read_text())
    assert written['config'] == state['config']


@pytest.mark.parametrize('stage', STAGES)
def test_a_dataset_that_is_not_there_empty_or_of_another_task_is_refused(stage, configs, tmp_path):
    train, config = STAGES[stage], configs[stage]
    with pytest.raises(EpisodeError, match='is no dataset'):
        train(replace(config, data=tmp_path / 'nowhere'))
    empty = tmp_path / 'empty'
    empty.mkdir()
    write_meta(empty, SPEC)
    with pytest.raises(EpisodeError, match='holds no episode; record more play'):
        train(replace(config, data=empty))
    other = tmp_path / 'other'
    other.mkdir()
    write_meta(other, get_task('push_t'))
    with pytest.raises(TaskError, match=r'dataset .* was made for another task .*actions'):
        train(replace(config, data=other))
    with pytest.raises(TaskError, match="no task 'pushr'; choose one of pusher, push_t"):
        train(replace(config, task='pushr'))
    assert not config.out.exists(), 'a refused run leaves nothing behind'


@pytest.mark.parametrize(
    ('stage', 'field', 'given', 'words'),
    [
        ('local', 'reward', 'missing', 'no checkpoint .*; train that stage first'),
        ('local', 'reward', 'local', r"of stage 'local'; give the reward\.safetensors"),
        ('policy', 'reward', 'missing', 'no checkpoint .*; train that stage first'),
        ('policy', 'reward', 'local', r"of stage 'local'; give the reward\.safetensors"),
        ('policy', 'local_model', 'missing', 'no checkpoint .*; train that stage first'),
        ('policy', 'local_model', 'reward', r"of stage 'reward'; give the local\.safetensors"),
        ('policy', 'global_model', 'missing', 'no checkpoint .*; train that stage first'),
        ('policy', 'global_model', 'reward', r"of stage 'reward'; give the global\.safetensors"),
    ],
)
def test_a_missing_checkpoint_or_one_of_another_stage_is_refused(
    stage, field, given, words, configs, reward, local
):
    paths = {'missing': reward.parent / 'x.safetensors', 'reward': reward, 'local': local}
    config = replace(configs[stage], **{field: paths[given]})
    if field == 'global_model':
        config = replace(config, forward='global')
    with pytest.raises(CheckpointError, match=words):
        STAGES[stage](config)


def relabelled(path, folder, **changes):
    """A copy of a checkpoint that says something else."""
    from dmo_training.engine import save_checkpoint

    save_checkpoint(folder / 'other.safetensors', load_checkpoint(path) | changes)
    return folder / 'other.safetensors'


@pytest.mark.parametrize(
    ('stage', 'field'), [('local', 'reward'), ('policy', 'reward'), ('policy', 'local_model')]
)
def test_a_checkpoint_of_another_task_is_refused(stage, field, configs, tmp_path):
    other = SPEC.to_dict() | {'rate_hz': 10.0}
    path = relabelled(getattr(configs[stage], field), tmp_path, task=other)
    with pytest.raises(TaskError, match=r'other\.safetensors was made for another task .*rate_hz'):
        STAGES[stage](replace(configs[stage], **{field: path}))


def test_a_global_model_of_another_task_is_refused(configs, reward, tmp_path):
    other = SPEC.to_dict() | {'frame_size': 64}
    path = relabelled(reward, tmp_path, stage='global', task=other)
    config = replace(configs['policy'], global_model=path, forward='global')
    with pytest.raises(TaskError, match=r'other\.safetensors was made for another .*frame_size'):
        train_policy.train(config)


def test_an_unfinished_reward_is_refused(configs):
    """It has no goals yet; the zeros in their place would score without a word."""
    path = train_reward.train(configs['reward'], until=5)
    with pytest.raises(CheckpointError, match='unfinished: 5 of 10 updates and no goals yet'):
        train_local.train(replace(configs['local'], reward=path))


@pytest.mark.parametrize(
    ('stage', 'change', 'words'),
    [
        ('reward', {'model': replace(REWARD, frame_size=64)}, 'takes frames of 64 pixels'),
        ('local', {'model': replace(LOCAL, frame_size=64)}, 'takes frames of 64 pixels'),
        ('local', {'model': replace(LOCAL, actions=3)}, '3 actions and 0 .* has .* 2 act'),
        ('policy', {'forward': 'simulator'}, "'global' or 'twin', not 'simulator'"),
    ],
)
def test_sizes_and_words_that_do_not_fit_are_refused(stage, change, words, configs):
    with pytest.raises(ValueError, match=words):
        STAGES[stage](replace(configs[stage], **change))


def test_the_twin_is_no_world_of_other_tasks(configs):
    with pytest.raises(TaskError, match="'twin' is there for task 'pusher', not for 'push_t'"):
        train_policy.make_world(replace(configs['policy'], task='push_t'))


def test_play_without_milestones_has_no_goal(configs, tmp_path, write_play):
    data = write_play(tmp_path / 'play', 30, milestones=False)
    with pytest.raises(DataError, match='no goal to rank towards; press the milestone key'):
        train_reward.train(replace(configs['reward'], data=data))


def test_too_short_play_is_refused_before_the_training(configs, tmp_path, write_play):
    """Also where only the evaluation at the end needs more."""
    data = write_play(tmp_path / 'play', 18)
    with pytest.raises(DataError, match='no stretch of 19 valid frames'):
        train_local.train(replace(configs['local'], data=data))
    gaps = write_play(tmp_path / 'gaps', 21, invalid=(3, 7, 11, 15, 18))
    with pytest.raises(DataError, match='no stretch of 5 valid frames'):
        train_reward.train(replace(configs['reward'], data=gaps))


# What the stages do -----------------------------------------------------------------------------


def test_triplets_keep_their_order_within_one_bout_of_valid_frames(configs, tmp_path, write_play):
    """earlier < later, both between start and goal, never across an invalid frame."""
    data = write_play(tmp_path / 'play', 40, invalid=(13, 26))
    config = replace(configs['reward'], data=data, batch=64, shift=0)
    play = train_reward.Play(PlayDataset.open(data, SPEC), config)
    frames, labels, targets, left = play.splits[0]
    assert len(frames) == len(labels) == len(targets) == len(left) == 3 * 38
    episode, time = np.divmod(np.arange(3 * 38), 38)
    number = torch.from_numpy(100 * episode + time + (time >= 13) + (time >= 25))
    marked = torch.zeros(3 * 38, 32, 32, 3, dtype=torch.uint8)
    marked[..., 0, 0, 0], marked[..., 0, 0, 1] = number // 100, number % 100
    play.splits[0] = (marked, labels, targets, left)
    pixels = torch.stack(play.triplets(np.random.default_rng(0)))[:, :, :, 0, 0]
    values = ((pixels + 0.5) * 255).round().long()
    (source, when) = values[..., 0], values[..., 1]
    earlier, later, start, goal = when
    assert bool((source == source[0]).all())
    assert bool((start <= earlier).all() and (earlier < later).all() and (later <= goal).all())
    assert int((goal - start).min()) >= config.shortest
    for gap in (13, 26):
        assert not bool(((start <= gap) & (gap <= goal)).any())


def test_the_reward_chooses_goals_among_milestones(reward, data):
    model = train_reward.load_reward(reward, SPEC)
    dataset = PlayDataset.open(data, SPEC)
    milestones = [
        train_reward.to_pixels(torch.from_numpy(e.frames[e.intent == MILESTONE]))
        for e in dataset.train
    ]
    for goal in model.goals:
        assert any(torch.equal(goal, frame) for frame in torch.cat(milestones))
    assert not any(p.requires_grad for p in model.parameters())
    assert not torch.equal(model.spread, torch.ones_like(model.spread))


def test_a_reward_of_labels_alone_needs_no_goal(configs, tmp_path, write_play):
    model = replace(REWARD, energy_weight=0.0, milestone_weight=0.0, intent_weight=1.0)
    data = write_play(tmp_path / 'play', 30, milestones=False)
    path = train_reward.train(replace(configs['reward'], model=model, data=data))
    assert float(train_reward.load_reward(path).goals.abs().max()) == 0
    assert 'rank_accuracy' not in figures(path.parent)[-1]


def test_labels_are_the_rewards_of_the_frames(reward, data):
    model, dataset = train_reward.load_reward(reward), PlayDataset.open(data, SPEC)
    train_reward.label_dataset(model, dataset, batch=7)
    segment = dataset.sample(np.random.default_rng(0), 5, 3)
    scored = model(segment.frames.flatten(0, 1)).view(5, 3)
    assert torch.allclose(segment.reward, scored, atol=1e-5)


def test_the_local_models_figures_compare_with_repeating_the_last_frame(local):
    last = figures(local.parent)[-1]
    assert last['step'] == 10
    for name in ('frame_error_1', 'copy_error_1', 'reward_error_15', 'reward_spread'):
        assert last[name] > 0


def test_an_update_that_is_not_finite_is_not_taken(differences):
    model = train_local.Rssm(LOCAL)
    trainer = train_local.LocalTrainer(model, 1e-3, 1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    segment = train_local.Segment(
        torch.zeros(2, 4, 32, 32, 3, dtype=torch.uint8),
        torch.full((2, 4, 2), torch.nan),
        torch.zeros(2, 4),
        torch.zeros(2, 4),
    )
    assert not np.isfinite(trainer.update(segment)['grad_norm'])
    assert differences(before, dict(model.state_dict())) == []


def test_the_replay_holds_what_the_actors_saw(configs):
    """
    Rewards belong to their frames.

    An episode's first frame is the end of a context of real play and has no score yet; inside an
    episode every slot's frame follows from the slot before by the stored action.
    """
    training = train_policy.Training(configs['policy'])
    for _ in range(4):
        training.epoch()
    segment, first = training.replay.sample(np.random.default_rng(0), 32, 6)
    assert bool(first.any()) and not bool(first.all())
    assert torch.equal(segment.reward.isnan(), first)
    reward = train_reward.load_reward(configs['policy'].reward)
    scored = reward(segment.frames.flatten(0, 1)).view(32, 6)
    assert torch.allclose(segment.reward[~first], scored[~first], atol=1e-5)
    assert bool((first.long().argmax(1) < 4).all()), 'an episode is longer than four steps'


def test_play_and_dreams_are_mixed_as_asked(configs):
    config = configs['policy']
    training = train_policy.Training(replace(config, play_share=0.25))
    segment, first = training._model_batch()
    assert segment.length == 5 and len(segment.frames) == 4, 'before there is a replay: play'
    for _ in range(2):
        training.actors.rollout(training.agent.actor, 4, training.agent.generator)
    segment, first = training._model_batch()
    assert len(segment.frames) == len(segment.reward) == len(first) == 4
    assert not bool(first[:1].any()), 'play comes first and begins nowhere'
    assert bool(first[1:].any(dim=1).all()), 'dreams of four steps, segments of five'
    for share, dreams in ((0.0, 4), (1.0, 0)):
        training.config = replace(config, play_share=share)
        first = training._model_batch()[1]
        assert int(first.any(dim=1).sum()) == dreams


# The twin as a world ----------------------------------------------------------------------------


def contexts(states, length=4):
    twin = PusherTwin(len(states))
    twin.reset(state=states)
    frame = torch.from_numpy(twin.render())
    return Context(
        frame[:, None].expand(-1, length, -1, -1, -1), torch.zeros(len(states), length - 1, 2)
    )


def test_the_twin_starts_where_the_frames_show_it():
    states = PusherTwin(8, seed=3).state
    world = TwinWorld(8, lambda frames: frames.float().mean((1, 2, 3)))
    world.reset(contexts(states))
    assert np.abs(world.twin.state - states).max() < 0.02
    rows = torch.tensor([True, False] * 4)
    kept = world.twin.state.copy()
    world.reset(contexts(states[::-1].copy()[:4]), rows)
    assert np.array_equal(world.twin.state[1::2], kept[1::2])
    assert np.abs(world.twin.state[::2] - states[::-1][:4]).max() < 0.02


def test_a_frame_that_shows_nothing_leaves_its_row_where_it_was():
    world = TwinWorld(2, lambda frames: frames.float().mean((1, 2, 3)))
    kept = world.twin.state.copy()
    blank = torch.full((2, 4, 32, 32, 3), 226, dtype=torch.uint8)
    world.reset(Context(blank, torch.zeros(2, 3, 2)))
    assert np.array_equal(world.twin.state, kept)


def test_the_twin_as_a_world_is_saved_and_carried_on(tmp_path):
    from dmo_training.engine import save_checkpoint

    world, other = (
        TwinWorld(3, lambda frames: frames.float().mean((1, 2, 3)), seed=s) for s in (0, 9)
    )
    world.reset(contexts(PusherTwin(3, seed=5).state))
    world.step(torch.ones(3, 2))
    save_checkpoint(tmp_path / 'x.safetensors', {'world': world.state_dict()})
    other.load_state_dict(load_checkpoint(tmp_path / 'x.safetensors')['world'])
    for _ in range(3):
        one, two = world.step(-torch.ones(3, 2)), other.step(-torch.ones(3, 2))
        assert torch.equal(one.observation, two.observation)
        assert torch.equal(one.reward, two.reward)
    world.twin.reset()
    other.twin.reset()
    assert np.array_equal(world.twin.state, other.twin.state)
