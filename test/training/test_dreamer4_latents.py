"""Laws of the latents on disk: no seams, no mixed-up tokenizers, aligned actions, windows."""

from dmo_ros.core.tasks import TASKS
from dmo_training.data import DataError, PlayDataset
from dmo_training.models.dreamer4.config import TokenizerConfig, TrunkConfig
from dmo_training.models.dreamer4.latents import build, fingerprint, LatentPlay
from dmo_training.models.dreamer4.tokenizer import Tokenizer
import numpy as np
import pytest
import torch

TRUNK = TrunkConfig(16, 2, 2, time_every=2, window=4)
CONFIG = TokenizerConfig(32, 16, 3, 4, TRUNK, drop=1, perceptual='none')


@pytest.fixture(name='tokenizer', scope='module')
def fixture_tokenizer():
    torch.manual_seed(0)
    return Tokenizer(CONFIG).eval()


@pytest.fixture(name='dataset', scope='module')
def fixture_dataset(write_play, tmp_path_factory):
    folder = write_play(tmp_path_factory.mktemp('play'), length=60, invalid=(30, 31))
    return PlayDataset.open(folder, TASKS['pusher'])


@pytest.fixture(name='latents', scope='module')
def fixture_latents(tokenizer, dataset, tmp_path_factory):
    return build(tokenizer, dataset.episodes(), tmp_path_factory.mktemp('latents'))


def test_a_stream_shows_no_seam_and_starts_anew_after_invalid_frames(tokenizer, dataset, latents):
    episode = dataset.episodes()[0]
    for run in (slice(0, 30), slice(32, 60)):
        with torch.no_grad():
            whole = tokenizer.encode(torch.from_numpy(np.array(episode.frames[run]))[None])[0]
        torch.testing.assert_close(
            torch.from_numpy(np.array(latents[0][run])).float(), whole, rtol=0, atol=1e-3
        )
    assert not latents[0][30:32].any()


def test_a_build_that_was_cut_goes_on_and_one_of_another_tokenizer_is_refused(
    tokenizer, dataset, tmp_path
):
    first = build(tokenizer, dataset.episodes()[:4], tmp_path)
    (tmp_path / '000002.npy').unlink()
    stamp = (tmp_path / '000001.npy').stat().st_mtime_ns
    again = build(tokenizer, dataset.episodes()[:4], tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert (tmp_path / '000001.npy').stat().st_mtime_ns == stamp
    torch.manual_seed(1)
    other = Tokenizer(CONFIG)
    assert fingerprint(other) != fingerprint(tokenizer)
    with pytest.raises(DataError, match='another tokenizer'):
        build(other, dataset.episodes()[:4], tmp_path)


def test_an_action_stands_at_the_frame_it_led_to(dataset, latents):
    play = LatentPlay(dataset, latents)
    episode = dataset.train[0]
    segment = play._cut([(episode, 0), (episode, 5), (episode, 32)], 4, torch.ones(3).bool())
    assert segment.known.tolist() == [[False, True, True, True], [True] * 4, [False] + [True] * 3]
    expected = torch.from_numpy(np.asarray(episode.action))
    assert torch.equal(segment.action[0, 1:], expected[:3])
    assert torch.equal(segment.action[1], expected[4:8])
    assert not segment.action[0, 0].any()
    index = next(i for i, e in enumerate(dataset.episodes()) if e is episode)
    assert np.array_equal(segment.latent[1].half().numpy(), latents[index][5:9])


def test_half_of_a_balanced_batch_holds_a_label(dataset, latents):
    play, rng = LatentPlay(dataset, latents), np.random.default_rng(0)
    segment = play.sample(rng, 16, 6, labelled=0.5)
    assert segment.latent.shape == (16, 6, 3, 4)
    assert segment.uniform.tolist() == [False] * 8 + [True] * 8
    assert (segment.intent[:8] > 0).any(dim=1).all()


def test_play_without_a_label_cannot_be_balanced(write_play, tokenizer, tmp_path):
    dataset = PlayDataset.open(
        write_play(tmp_path / 'play', length=30, milestones=False), TASKS['pusher']
    )
    play = LatentPlay(dataset, build(tokenizer, dataset.episodes(), tmp_path / 'latents'))
    if any((episode.intent > 0).any() for episode in dataset.train):
        pytest.skip('the scripted operator marked an intent')
    with pytest.raises(DataError, match='intent'):
        play.sample(np.random.default_rng(0), 4, 6, labelled=0.5)
