"""The ring against a plain list: what is in it, what is drawn, what a resume brings back."""

from dmo_training.engine import load_checkpoint, save_checkpoint
from dmo_training.rl.replay import Replay
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

SIZE, ACTIONS = 2, 2


class Lists:
    """A deque of numbered steps: what a ring of the same length has to be equal to."""

    def __init__(self, slots):
        self.slots, self.steps = slots, []

    def add(self, number, first):
        self.steps = [*self.steps, (number, first)][-self.slots :]

    def segments(self, length):
        return {tuple(self.steps[i : i + length]) for i in range(len(self.steps) - length + 1)}


def write(replay, number, first=False):
    """Step ``number`` of every actor; the actor's index is the tens of thousands of the reward."""
    actors = replay.actors
    frames = torch.full((actors, SIZE, SIZE, 3), number % 256, dtype=torch.uint8)
    reward = 10_000.0 * torch.arange(actors) + number
    replay.add(
        frames, torch.full((actors, ACTIONS), number / 100), reward, torch.full((actors,), first)
    )


def draw(replay, length, batch=64, seed=0):
    return replay.sample(np.random.default_rng(seed), batch, length)


def seen(replay, length):
    """All segments that draws return, as (number, first) of one actor each; everything agrees."""
    segment, first = draw(replay, length, batch=200)
    assert segment.frames.shape == (200, length, SIZE, SIZE, 3)
    assert segment.action.shape == (200, length, ACTIONS) and first.dtype == torch.bool
    number = segment.reward % 10_000
    assert bool((segment.frames[..., 0, 0, 0] == number % 256).all())
    assert torch.allclose(segment.action[..., 0], number / 100)
    actor = (segment.reward / 10_000).floor()
    assert bool((actor == actor[:, :1]).all()), 'a segment mixes actors'
    assert len(set(actor[:, 0].tolist())) == replay.actors, 'some actors are never drawn'
    return {tuple(zip(map(int, row), map(bool, starts))) for row, starts in zip(number, first)}


@given(st.integers(2, 9), st.lists(st.booleans(), max_size=40), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_the_ring_is_the_tail_of_a_list(slots, firsts, length):
    """Every drawn segment is a run of steps still in the list: none crosses the head."""
    replay, lists = Replay(3 * slots + 2, 3, SIZE, ACTIONS), Lists(slots)
    for number, first in enumerate(firsts):
        write(replay, number, first)
        lists.add(number, first)
    assert len(replay) == 3 * len(lists.steps)
    assert replay.ready(length) == (len(lists.steps) >= length)
    if replay.ready(length):
        assert seen(replay, length) == lists.segments(length)
    else:
        with pytest.raises(ValueError, match=f'less than a segment of {length}'):
            draw(replay, length)


@pytest.mark.parametrize('stop', [3, 7, 16])
def test_a_resumed_ring_goes_on_as_if_it_had_not_stopped(tmp_path, stop):
    """Before it is full (3), when it just is (7), and after it went round (16)."""
    whole, cut = Replay(14, 2, SIZE, ACTIONS), Replay(14, 2, SIZE, ACTIONS)
    for number in range(stop):
        write(whole, number, number % 4 == 0)
        write(cut, number, number % 4 == 0)
    save_checkpoint(tmp_path / 'x.safetensors', {'replay': cut.state_dict()})
    cut = Replay(14, 2, SIZE, ACTIONS)
    cut.load_state_dict(load_checkpoint(tmp_path / 'x.safetensors')['replay'])
    for number in range(stop, stop + 5):
        write(whole, number)
        write(cut, number)
        for (one, first), (two, second) in [(draw(whole, 2), draw(cut, 2))]:
            assert torch.equal(first, second) and torch.equal(one.frames, two.frames)
            assert torch.equal(one.reward, two.reward) and torch.equal(one.action, two.action)


def on_disk(folder, numbers=()):
    replay = Replay(14, 2, SIZE, ACTIONS, folder)
    for number in numbers:
        write(replay, number, number % 4 == 0)
    return replay


def test_frames_on_disk_stay_out_of_the_checkpoint_and_come_back(tmp_path):
    state = on_disk(tmp_path, range(5)).state_dict()
    assert not any(isinstance(value, np.ndarray) for value in state.values())
    resumed = on_disk(tmp_path)
    resumed.load_state_dict(state)
    assert seen(resumed, 5) == {tuple((n, n % 4 == 0) for n in range(5))}


@given(st.integers(1, 25), st.integers(0, 12), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_ring_on_disk_forgets_what_was_written_over(tmp_path_factory, before, lost, after):
    """
    Killed ``lost`` steps after its checkpoint and resumed.

    What is drawn is consecutive, was there at the checkpoint or written since the resume, and as
    much as can be.
    """
    folder = tmp_path_factory.mktemp('ring')
    replay = on_disk(folder, range(before))
    state = replay.state_dict()
    for number in range(lost):
        write(replay, 5000 + number)
    resumed = on_disk(folder)
    resumed.load_state_dict(state)
    for number in range(before, before + after):
        write(resumed, number, number % 4 == 0)
    kept = max(0, min(before, 7) - max(0, lost - (7 - min(before, 7))))
    numbers = range(before + after)[-min(7, kept + after) :] if kept + after else range(0)
    assert resumed.filled == len(numbers)
    if len(numbers) >= 2:
        expected = {((a, a % 4 == 0), (a + 1, (a + 1) % 4 == 0)) for a in numbers[:-1]}
        assert seen(resumed, 2) == expected


def test_a_ring_whose_files_are_gone_is_refused(tmp_path):
    state = on_disk(tmp_path / 'one', range(5)).state_dict()
    with pytest.raises(ValueError, match='replay are older than the checkpoint or are gone'):
        on_disk(tmp_path / 'two').load_state_dict(state)


def test_a_new_run_in_an_old_folder_begins_empty(tmp_path):
    on_disk(tmp_path, range(9))
    assert len(on_disk(tmp_path)) == 0
    other = Replay(40, 2, SIZE, ACTIONS, tmp_path)  # another size: the old files do not fit
    write(other, 1)
    assert seen(other, 1) == {((1, False),)}


def test_a_ring_too_small_for_its_actors_is_refused():
    with pytest.raises(ValueError, match='less than two for each of the 8 actors; raise capacity'):
        Replay(15, 8, SIZE, ACTIONS)


@pytest.mark.parametrize('where', ['memory', 'disk'])
def test_joints_stay_with_their_frames(tmp_path, where):
    """Round the ring, through a checkpoint, in memory and on disk."""
    folder = tmp_path / 'ring' if where == 'disk' else None

    def ring():
        return Replay(14, 2, SIZE, ACTIONS, folder, proprio=3)

    def add(replay, number):
        frames = torch.full((2, SIZE, SIZE, 3), number, dtype=torch.uint8)
        nothing = torch.zeros(2)
        joints = torch.full((2, 3), number / 10) + torch.arange(3)
        replay.add(frames, torch.zeros(2, ACTIONS), nothing, nothing.bool(), joints)

    replay = ring()
    for number in range(9):
        add(replay, number)
    save_checkpoint(tmp_path / 'x.safetensors', {'replay': replay.state_dict()})
    resumed = ring()
    resumed.load_state_dict(load_checkpoint(tmp_path / 'x.safetensors')['replay'])
    add(resumed, 9)
    segment, _ = draw(resumed, 3)
    number = segment.frames[..., 0, 0, 0].float()
    assert torch.allclose(segment.proprio, number[..., None] / 10 + torch.arange(3))
    assert set(number.flatten().tolist()) == set(range(3, 10))


def test_a_ring_without_a_place_for_joints_refuses_them_and_the_other_way_round():
    """A global model that does not imagine what the robot feels would train a blind policy."""
    joints = torch.zeros(2, 3)
    for places, own in ((0, joints), (3, None)):
        replay = Replay(14, 2, SIZE, ACTIONS, proprio=places)
        frames, nothing = torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8), torch.zeros(2)
        with pytest.raises(ValueError, match='differ in whether there is proprioception'):
            replay.add(frames, torch.zeros(2, ACTIONS), nothing, nothing.bool(), own)


def test_a_ring_without_joints_gives_none():
    replay = Replay(14, 2, SIZE, ACTIONS)
    write(replay, 1)
    assert draw(replay, 1)[0].proprio is None
