"""Laws of the tokenizer: who sees whom, masking, streams, causality, and what training needs."""

from dataclasses import replace

from dmo_training.models.dreamer4.config import TokenizerConfig, TrunkConfig
from dmo_training.models.dreamer4.losses import GradMsSsim, Lpips, perceptual, RunningRms
from dmo_training.models.dreamer4.memory import Append
from dmo_training.models.dreamer4.pixels import resize, to_frames, to_images, to_patches
from dmo_training.models.dreamer4.tokenizer import Hidden, Tokenizer
import pytest
from safetensors.torch import save_file
import torch

WINDOW, PROPRIO = 4, 3
CONFIG = TokenizerConfig(
    16, 4, 5, 4, TrunkConfig(16, 4, 2, time_every=2, window=WINDOW), drop=1,
    proprio_size=PROPRIO, perceptual='none',
)  # fmt: skip


def make(seed=0, **changes):
    torch.manual_seed(seed)
    tokenizer = Tokenizer(replace(CONFIG, **changes))
    torch.nn.init.normal_(tokenizer.decoder.patch.weight, std=0.1)  # it begins at zero
    tokenizer.mean, tokenizer.spread = torch.arange(3.0), torch.tensor([0.5, 1.0, 2.0])
    return tokenizer.requires_grad_(False)


def clip(frames=6, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, frames, 16, 16, 3)
    pictures = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return pictures, torch.randn(batch, frames, PROPRIO, generator=generator)


def test_every_pixel_survives_being_cut_into_patches():
    frames, _ = clip()
    assert torch.equal(to_frames(to_patches(frames, 4), 4), frames)
    row = to_patches(frames, 4)[0, 0]
    expected = frames[0, 0, 4:8, 8:12].float() / 127.5 - 1  # second row, third column
    assert torch.equal(row[6].view(4, 4, 3), expected)


def test_frames_are_brought_to_size_by_area():
    frames, _ = clip()
    small = resize(frames, 8)
    mean = frames[0, 0, 2:4, 6:8].float().mean(dim=(0, 1))
    assert (small[0, 0, 1, 3].float() - mean).abs().max() <= 0.5
    assert resize(frames, 16) is frames


def test_a_learned_place_tells_patches_apart_also_where_they_are_masked():
    tokenizer, (frames, proprio) = make(places=True), clip()
    hidden = Hidden(torch.ones(2, 6, CONFIG.patches, dtype=torch.bool), torch.ones(2, 6).bool())
    patches, own = tokenizer.patches(frames), tokenizer.normalise(proprio)
    before = tokenizer.encoder(patches, own, hidden)
    tokenizer.encoder.place[3] += 1
    assert not torch.equal(tokenizer.encoder(patches, own, hidden), before)


@pytest.mark.parametrize('streams', [1, 2])
def test_latents_see_both_modalities_and_stay_within_the_tanh(streams):
    tokenizer, (frames, proprio) = make(streams=streams), clip()
    latent = tokenizer.encode(frames, proprio)
    assert latent.shape == (2, 6, 5, 4)
    assert latent.abs().max() < 1
    assert not torch.equal(latent, tokenizer.encode(frames, proprio + 1))
    assert not torch.equal(latent, tokenizer.encode(255 - frames, proprio))


def test_a_modality_sees_only_itself_and_reaches_others_through_the_latents():
    """In the encoder patches do not see proprioception; in the decoder they see it in latents."""
    tokenizer, (frames, proprio) = make(), clip()
    encoder, seen = tokenizer.encoder, []

    def spy(_, inputs, outputs):
        seen.append({name: x.clone() for name, x in outputs.items()})

    handles = [layer.register_forward_hook(spy) for layer in encoder.trunk.layers[:2]]
    for change in (0.0, 1.0):
        tokenizer.encode(frames, proprio + change)
    for handle in handles:
        handle.remove()
    for before, after in zip(seen[:2], seen[2:]):
        assert torch.equal(before['patch'], after['patch'])
        assert not torch.equal(before['latent'], after['latent'])
        assert not torch.equal(before['proprio'], after['proprio'])


def test_no_frame_depends_on_a_later_one():
    tokenizer, (frames, proprio) = make(), clip()
    other = torch.cat((frames[:, :4], 255 - frames[:, 4:]), dim=1)
    moved = torch.cat((proprio[:, :4], proprio[:, 4:] + 1), dim=1)
    one, two = tokenizer.encode(frames, proprio), tokenizer.encode(other, moved)
    assert torch.equal(one[:, :4], two[:, :4])
    assert not torch.equal(one[:, 4:], two[:, 4:])
    for made, again in zip(tokenizer.decode(one), tokenizer.decode(two), strict=True):
        assert torch.equal(made[:, :4], again[:, :4])


@pytest.mark.parametrize('streams', [1, 2])
@pytest.mark.parametrize('chunk', [1, 3])
def test_coding_frame_by_frame_equals_coding_the_clip(chunk, streams):
    """Until after the rings have wrapped."""
    tokenizer, (frames, proprio) = make(streams=streams), clip(12)
    latent = tokenizer.encode(frames, proprio)
    decoded = tokenizer.decoder(latent)
    rings = [part.trunk.ring(2, chunk) for part in (tokenizer.encoder, tokenizer.decoder)]
    for begin in range(0, 12, chunk):
        now = slice(begin, begin + chunk)
        coding, reading = (Append(ring, chunk) for ring in rings)
        found = tokenizer.encode(frames[:, now], proprio[:, now], coding)
        torch.testing.assert_close(found, latent[:, now], rtol=0, atol=1e-5)
        made = tokenizer.decoder(latent[:, now], reading)
        for one, whole in zip(made, decoded):
            torch.testing.assert_close(one, whole[:, now], rtol=0, atol=1e-5)
        coding.commit()
        reading.commit()


def test_what_is_masked_is_not_seen():
    tokenizer, (frames, proprio) = make(), clip()
    patch = torch.zeros(2, 6, CONFIG.patches, dtype=torch.bool)
    patch[:, :, 5] = True
    hidden = Hidden(patch, torch.ones(2, 6, dtype=torch.bool))
    latents = []
    for change in (0, 1):
        patches = tokenizer.patches(frames)
        patches[:, :, 5] += change
        own = tokenizer.normalise(proprio + change)
        latents.append(tokenizer.encoder(patches, own, hidden))
    assert torch.equal(*latents)
    assert not torch.equal(latents[0], tokenizer.encode(frames, proprio))


def test_each_frame_hides_a_share_of_its_own_up_to_the_most():
    tokenizer = make(image_size=64)
    hidden = tokenizer.hide(torch.zeros(40, 50, 1), torch.Generator().manual_seed(0))
    share = hidden.patch.float().mean(dim=-1)
    assert float(share.mean()) == pytest.approx(0.45, abs=0.02)
    assert float(share.std()) == pytest.approx(0.9 / 12**0.5, abs=0.02)
    assert float(hidden.proprio.float().mean()) == pytest.approx(0.45, abs=0.05)


def test_the_losses_of_a_perfect_copy_vanish():
    images = to_images(make().patches(clip()[0]), 4).flatten(0, 1).movedim(-1, 1)
    assert float(GradMsSsim()(images, images)) == pytest.approx(0, abs=1e-5)
    assert float(GradMsSsim()(images, -images)) > 0.1


def test_the_perceptual_term_has_a_gradient_everywhere_and_no_hole():
    """Also where made and real have nothing in common: a power of something negative is none."""
    real = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for made in (-real, torch.zeros_like(real), real.clone()):
        made.requires_grad_()
        (gradient,) = torch.autograd.grad(GradMsSsim()(made, real), made)
        assert gradient.isfinite().all()


@pytest.mark.parametrize('drop', [1, 2, 3])
def test_every_weight_has_a_gradient(drop):
    """What nothing reads is not built; distributed training would stumble over it."""
    tokenizer = make(drop=drop, places=drop == 1).requires_grad_().train()
    frames, proprio = clip()
    tokenizer(frames, proprio, torch.Generator().manual_seed(3))['total'].backward()
    idle = [name for name, p in tokenizer.named_parameters() if p.grad is None]
    assert idle == []


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    tokenizer = Tokenizer(replace(CONFIG, perceptual='grad_msssim'), GradMsSsim())
    optimiser = torch.optim.AdamW(tokenizer.parameters(), 3e-3)
    frames, proprio = clip(2, 1)
    frames = resize(resize(frames, 2), 16)  # smooth
    first = last = None
    for _ in range(40):
        terms = tokenizer(frames, proprio)
        optimiser.zero_grad()
        terms['total'].backward()
        optimiser.step()
        last = terms['pixel']
        first = last if first is None else first
    assert set(terms) == {'total', 'pixel', 'perceptual', 'proprio'}
    assert float(last) < 0.3 * float(first)


def test_terms_are_divided_by_their_running_rms():
    scale = RunningRms(decay=0.5)
    assert float(scale(torch.tensor(4.0))) == pytest.approx(1)
    assert float(scale(torch.tensor(2.0))) == pytest.approx(2 / 10**0.5)  # (16 + 4) / 2
    stored = {name: value.clone() for name, value in scale.state_dict().items()}
    again = RunningRms(decay=0.5)
    again.load_state_dict(stored)
    assert float(again(torch.tensor(2.0))) == float(scale(torch.tensor(2.0)))
    scale.eval()
    square = scale.square.clone()
    scale(torch.tensor(100.0))
    assert torch.equal(scale.square, square)
    scale.train()(torch.tensor(torch.nan))
    assert torch.equal(scale.square, square)


def test_no_gradient_flows_into_the_scale():
    scale, loss = RunningRms(), torch.tensor(3.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(scale(loss), loss)
    assert float(gradient) == pytest.approx(1 / 3)


def test_standardised_patches_have_no_mean_and_unit_variance():
    """And go back to the pixels they came from."""
    tokenizer, (frames, proprio) = make(), clip(8, 20)
    tokenizer.standardise(frames, proprio + 5)
    patches = tokenizer.patches(frames)
    assert patches.mean(dim=(0, 1)).abs().max() < 1e-5
    assert float(patches.square().mean()) == pytest.approx(1, abs=1e-4)
    assert torch.equal(to_frames(tokenizer.pixels(patches), 4), frames)
    own = tokenizer.normalise(proprio + 5)
    torch.testing.assert_close(own.mean(dim=(0, 1)), torch.zeros(3), rtol=0, atol=1e-5)


def test_an_untrained_tokenizer_shows_the_mean_image():
    torch.manual_seed(0)
    tokenizer, (frames, proprio) = Tokenizer(CONFIG), clip()
    tokenizer.standardise(frames, proprio)
    made, _ = tokenizer.decode(tokenizer.encode(frames, proprio))
    mean = frames.float().mean(dim=(0, 1))
    assert (made.float() - mean).abs().max() <= 1


def test_proprioception_is_decoded_in_its_own_units():
    tokenizer, (frames, proprio) = make(), clip()
    torch.testing.assert_close(
        tokenizer.normalise(proprio), (proprio - tokenizer.mean) / tokenizer.spread
    )
    bare = tokenizer.decoder(tokenizer.encode(frames, proprio)).proprio
    _, own = tokenizer.decode(tokenizer.encode(frames, proprio))
    torch.testing.assert_close(own, bare * tokenizer.spread + tokenizer.mean)
    with pytest.raises(ValueError, match='proprioceptive'):
        tokenizer.encode(frames)


def test_a_robot_without_proprioception_needs_none():
    tokenizer, (frames, _) = make(proprio_size=0), clip()
    assert tokenizer.decode(tokenizer.encode(frames))[1] is None


def vgg(path, leave_out=''):
    """A file with the names torchvision and lpips use, and small random weights."""
    tensors, index, before = {}, 0, 3
    for stage, widths in enumerate(Lpips.STAGES):
        for width in widths:
            tensors[f'features.{index}.weight'] = torch.randn(width, before, 3, 3) * 0.05
            tensors[f'features.{index}.bias'] = torch.zeros(width)
            index, before = index + 2, width
        index += 1
        tensors[f'lin{stage}.model.1.weight'] = torch.rand(1, before, 1, 1)
    tensors.pop(leave_out, None)
    save_file(tensors, path)
    return path


def test_lpips_takes_the_users_weights_and_names_what_is_missing(tmp_path):
    term = perceptual('lpips', vgg(tmp_path / 'vgg.safetensors'))
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    assert float(term(images, images)) == 0
    assert float(term(images, -images)) > 0
    assert not any(parameter.requires_grad for parameter in term.parameters())
    with pytest.raises(ValueError, match='features.28.weight'):
        perceptual('lpips', vgg(tmp_path / 'cut.safetensors', 'features.28.weight'))
    with pytest.raises(ValueError, match='grad_msssim'):
        perceptual('lpips')
    assert perceptual('none') is None
