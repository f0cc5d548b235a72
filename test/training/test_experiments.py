"""The benchmarks' parts, and the slow gate on the RSSM's gradient."""

import copy

import pytest

pytest.importorskip('stable_baselines3')

from dmo_training.experiments import pendulum_biased, pusher_contact, rssm_grad
from dmo_training.experiments.figures import first_at, markdown, samples_text
from dmo_training.experiments.pusher_play import DEFAULT, evaluate, PlayStarts, record_play
from dmo_training.experiments.pusher_rewards import anticipation
from dmo_training.experiments.state_training import StateReplay, StateTraining
from dmo_training.models.state_model import StateModel
from dmo_training.rl.agent import DmoSapo, DmoSapoConfig
from dmo_training.rl.window import Actors
import torch


def test_anticipation_counts_the_steps_to_the_next_label():
    label = torch.tensor([[0, 0, 2, 0, 0, 0], [0, 0, 0, 0, 0, 1]], dtype=torch.uint8)
    seen = anticipation(label, (2,), 0.5, horizon=10, restart=100)
    assert seen.tolist() == [[0.25, 0.5, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    either = anticipation(label, (1, 2), 0.5, horizon=2, restart=100)
    assert either[1].tolist() == [0, 0, 0, 0.25, 0.5, 1]
    apart = anticipation(label, (2,), 0.5, horizon=10, restart=2)
    assert apart[0].tolist() == [0, 0, 1, 0, 0, 0]


def test_play_moves_the_object_and_bears_every_label():
    play = record_play(DEFAULT, streams=8, steps=40)
    assert play.moved > 0.05 and set(play.label.unique().tolist()) == {0, 1, 2}
    state, action, following = play.flat()
    assert len(state) == play.transitions == 8 * 39
    assert torch.equal(following[0], state[1]) and action.abs().max() <= 1


def test_standing_still_solves_nothing():
    assert evaluate(DEFAULT, lambda state: torch.zeros(len(state), 2), 16) == (0.0, 0.0)


def test_the_replay_knows_where_each_transition_began():
    play = record_play(DEFAULT, streams=4, steps=20)
    reward = pusher_contact.hand_made(DEFAULT)
    replay = StateReplay()
    world = pusher_contact.TwinWorld(DEFAULT, 4, reward)
    model = StateModel(DEFAULT.features, 4, 2, hidden=(8,))
    agent = DmoSapo(model.width, 2, DmoSapoConfig(actor_hidden=(8,), critic_hidden=(8,)))
    Actors(world, model, PlayStarts(play), 3, replay).rollout(agent.actor, 8, agent.generator)
    state, action, following, value = replay.all()
    twin = DEFAULT.twin(len(state), 0)
    twin.reset(state=state.double().numpy())
    twin.step(action.double().numpy() * twin.spec.actions[0].high)
    assert torch.allclose(torch.as_tensor(twin.state).float(), following, atol=1e-6)
    assert torch.allclose(reward(following), value)


@pytest.mark.parametrize('own', [False, True])
def test_the_pendulum_trains_a_little(own, monkeypatch):
    monkeypatch.setattr(
        pendulum_biased,
        'DMO',
        DmoSapoConfig(
            actors=4,
            horizon=4,
            episode_length=8,
            actor_hidden=(8,),
            critic_hidden=(8,),
            mini_epochs=1,
        ),
    )
    tiny = StateTraining(
        samples=128 + 64, evaluate_every=32, pretrain_updates=2, model_updates=1, model_batch=8
    )
    curve = pendulum_biased.dmo(0, tiny, own=own)
    assert [point['samples'] for point in curve] == [160, 192]
    again = pendulum_biased.dmo(0, tiny, own=own)
    assert [p['return'] for p in curve] == [p['return'] for p in again]


def test_resumed_actors_carry_on_in_the_middle_of_their_episodes():
    def fresh():
        torch.manual_seed(0)
        world, starts = pendulum_biased.Pendulum(4), pendulum_biased.Starts(0)
        model = StateModel(pendulum_biased.features, 2, 1, hidden=(8,))
        agent = DmoSapo(
            model.width,
            1,
            DmoSapoConfig(epochs=10, actor_hidden=(8,), critic_hidden=(8,), mini_epochs=1),
        )
        return agent, Actors(world, model, starts, 6)

    def advance(agent, actors):
        for _ in range(5):
            agent.update(actors.rollout(agent.actor, 4, agent.generator))

    whole, actors = fresh()
    advance(whole, actors)
    kept = copy.deepcopy(
        (
            whole.state_dict(),
            actors.state_dict(),
            actors.world.state,
            actors.contexts.generator.get_state(),
        )
    )
    advance(whole, actors)
    resumed, again = fresh()
    resumed.load_state_dict(kept[0])
    again.load_state_dict(kept[1])
    again.world.state = kept[2]
    again.contexts.generator.set_state(kept[3])
    advance(resumed, again)
    for a, b in zip(
        [*whole.actor.parameters(), *whole.critics.parameters()],
        [*resumed.actor.parameters(), *resumed.critics.parameters()],
    ):
        assert torch.equal(a, b)
    assert torch.equal(actors.latent, again.latent) and torch.equal(actors.elapsed, again.elapsed)


def test_the_biased_model_is_biased_by_a_constant():
    torch.manual_seed(0)
    model = pendulum_biased.BiasedModel(pendulum_biased.features, 2, 1, hidden=(8,))
    state, action = torch.randn(5, 2), torch.randn(5, 1)
    honest = StateModel.predict(model, state, action)
    error = model.predict(state, action) - honest
    assert torch.allclose(error, torch.tensor([0.0, pendulum_biased.BIAS]), atol=1e-6)


def test_tables_say_never():
    curve = [{'samples': 1000.0, 'strict': 0.2}, {'samples': 3000.0, 'strict': 0.9}]
    assert samples_text(first_at(curve, 'strict', 0.8)) == '3k'
    assert samples_text(first_at(curve, 'strict', 0.95)) == 'never'
    assert markdown(['a'], [[1]]) == '| a |\n| --- |\n| 1 |'


def test_routes_through_the_rssm_have_equal_values():
    """Only the gradient tells them apart, so no test of returns could."""
    torch.manual_seed(0)
    model = rssm_grad.VectorRssm(recurrent=8, groups=2, classes=4).requires_grad_(False)
    _, seen, action, _ = rssm_grad.random_play(6, 0)
    latent = model.begin(rssm_grad.Context(seen[:, :4], action[:, :3]))
    values = [
        rssm_grad.route_gradient(model, latent, seen[:, 4:8], action[:, 3:7], route, 5)[1]
        for route in rssm_grad.ROUTES
    ]
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])


@pytest.mark.slow
def test_the_prior_carries_the_gradient_and_the_posterior_does_not():
    routes = rssm_grad.benchmark(updates=1200)
    assert routes['prior']['cosine'] > rssm_grad.GATE
    assert routes['prior']['cosine'] > routes['posterior']['cosine'] + rssm_grad.MARGIN
