import dataclasses

from dmo_ros.core.images import crop_center, ImageError, to_observation
from dmo_ros.core.tasks import get_task, TASKS
import numpy as np
import pytest

pytest.importorskip('cv2')


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize('spec', TASKS.values(), ids=TASKS)
@pytest.mark.parametrize('shape', [(480, 640), (720, 1280), (640, 480), (31, 47), (16, 16)])
def test_the_result_is_square_uint8_and_contiguous(spec, shape):
    for size in (None, spec.policy_size):
        seen = to_observation(noise(*shape), spec, size)
        assert seen.shape == (size or spec.frame_size,) * 2 + (3,)
        assert seen.dtype == np.uint8 and seen.flags.c_contiguous


def test_a_frame_of_the_right_size_is_unchanged():
    spec = get_task('pusher')
    frame = noise(32, 32)
    np.testing.assert_array_equal(to_observation(frame, spec), frame)


@pytest.mark.parametrize('colour', [(0, 0, 0), (255, 255, 255), (10, 200, 77)])
def test_a_plain_colour_stays_that_colour(colour):
    frame = np.full((480, 640, 3), colour, np.uint8)
    seen = to_observation(frame, get_task('push_t'))
    assert (seen == colour).all()


def test_a_shrunk_pixel_is_the_mean_of_what_it_covers():
    frame = noise(128, 128)
    blocks = frame.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(to_observation(frame, get_task('push_t')), blocks, atol=0.51)


def test_shrinking_does_not_alias():
    board = (np.indices((480, 480)).sum(axis=0) % 2 * 255).astype(np.uint8)
    seen = to_observation(np.repeat(board[..., None], 3, axis=2), get_task('push_t'))
    assert seen.std() < 20 and abs(seen.mean() - 127.5) < 2


def test_the_crop_is_the_centred_square():
    frame = noise(10, 16)
    np.testing.assert_array_equal(crop_center(frame), frame[:, 3:13])
    np.testing.assert_array_equal(
        crop_center(frame.transpose(1, 0, 2)), frame.transpose(1, 0, 2)[3:13]
    )
    np.testing.assert_array_equal(crop_center(noise(7, 7)), noise(7, 7))


def test_without_a_crop_the_whole_frame_is_seen():
    spec = get_task('pusher')
    spec = dataclasses.replace(spec, camera=dataclasses.replace(spec.camera, crop='none'))
    frame = np.zeros((64, 128, 3), np.uint8)
    frame[:, :32] = 255
    assert (to_observation(frame, spec)[:, :8] == 255).all()
    assert (to_observation(frame, get_task('pusher'))[:, 1:] == 0).all()


def test_an_unknown_crop_is_refused():
    spec = get_task('pusher')
    spec = dataclasses.replace(spec, camera=dataclasses.replace(spec.camera, crop='left'))
    with pytest.raises(ImageError, match='left'):
        to_observation(noise(32, 32), spec)


@pytest.mark.parametrize(
    'frame',
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 3)),
        np.zeros((0, 0, 3), np.uint8),
    ],
    ids=lambda frame: f'{frame.shape} {frame.dtype}',
)
def test_anything_but_rgb_bytes_is_refused(frame):
    with pytest.raises(ImageError, match='rgb8'):
        to_observation(frame, get_task('pusher'))


def test_the_camera_keeps_its_frame():
    frame = noise(480, 640)
    before = frame.copy()
    to_observation(frame, get_task('push_t'))[:] = 0
    np.testing.assert_array_equal(frame, before)
