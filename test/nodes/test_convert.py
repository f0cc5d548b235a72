import array
import sys

from dmo_ros.core.images import ImageError
from dmo_ros.core.tasks import get_task
from dmo_ros.nodes import convert
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import Header

SHAPES = {
    'rgb8': (np.uint8, 3),
    'bgr8': (np.uint8, 3),
    'mono8': (np.uint8, 1),
    'rgba8': (np.uint8, 4),
    'bgra8': (np.uint8, 4),
    '16UC1': (np.uint16, 1),
    '32FC1': (np.float32, 1),
}


def picture(encoding, height=5, width=7, seed=0):
    kind, count = SHAPES[encoding]
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 256, (height, width, count)).astype(kind)
    if encoding == '16UC1':
        numbers = numbers * 257 + 3
    return numbers[..., 0] if count == 1 else numbers


@pytest.mark.parametrize('encoding', SHAPES)
def test_there_and_back_is_exact(encoding):
    there = convert.to_image(picture(encoding), encoding, Header())
    np.testing.assert_array_equal(convert.to_array(there), picture(encoding))


@pytest.mark.parametrize('encoding', SHAPES)
def test_the_view_agrees_with_rosbags_image(encoding):
    oracle = pytest.importorskip('rosbags.image')
    message = convert.to_image(picture(encoding), encoding, Header())
    np.testing.assert_array_equal(convert.to_array(message), oracle.message_to_cvimage(message))


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'mono8', 'rgba8', 'bgra8'])
def test_rgb_agrees_with_rosbags_image(encoding):
    oracle = pytest.importorskip('rosbags.image')
    message = convert.to_image(picture(encoding), encoding, Header())
    expected = oracle.message_to_cvimage(message, 'rgb8')
    np.testing.assert_array_equal(convert.to_rgb(message), expected)


@pytest.mark.parametrize('encoding', SHAPES)
@pytest.mark.parametrize('padding', [0, 3, 16])
def test_padded_rows_are_skipped(encoding, padding):
    plain = picture(encoding)
    row = plain.reshape(len(plain), -1).view(np.uint8)
    padded = np.pad(row, ((0, 0), (0, padding)), constant_values=99)
    message = Image(
        height=5,
        width=7,
        encoding=encoding,
        step=padded.shape[1],
        data=array.array('B', padded.tobytes()),
    )
    np.testing.assert_array_equal(convert.to_array(message), plain)


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1'])
def test_big_endian_numbers_are_read_as_such(encoding):
    plain = picture(encoding)
    message = convert.to_image(plain, encoding, Header())
    message.data = array.array('B', plain.astype(plain.dtype.newbyteorder('>')).tobytes())
    message.is_bigendian = 1
    np.testing.assert_array_equal(convert.to_array(message), plain)


def test_the_view_shares_the_message_memory():
    message = convert.to_image(picture('rgb8'), 'rgb8', Header())
    convert.to_array(message)[2, 3, 1] = 200
    assert message.data[(2 * 7 + 3) * 3 + 1] == 200
    assert convert.to_rgb(message)[2, 3, 1] == 200


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(0, 9),
    width=st.integers(0, 9),
    step=st.integers(0, 40),
    length=st.integers(0, 300),
    encoding=st.sampled_from([*SHAPES, 'yuv422', '', 'bayer_rg8']),
)
def test_what_a_driver_claims_is_read_in_bounds_or_refused(height, width, step, length, encoding):
    message = Image(
        height=height,
        width=width,
        step=step,
        encoding=encoding,
        data=array.array('B', bytes(length)),
    )
    for read in (convert.to_array, convert.to_rgb):
        try:
            result = read(message)
        except ImageError:
            continue
        assert result.shape[:2] == (height, width)
        assert result.sum() == 0, 'touches every pixel: out of bounds would crash or be garbage'


def test_a_rare_encoding_needs_cv_bridge_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    with pytest.raises(ImageError, match='cv_bridge'):
        convert.to_array(Image(height=2, width=2, encoding='yuv422', step=4))


@pytest.mark.parametrize(
    'wrong',
    [
        np.zeros((4, 4)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((4, 4, 3), np.int16),
    ],
)
def test_pixels_that_do_not_fit_the_encoding_are_refused(wrong):
    with pytest.raises(ImageError, match='rgb8'):
        convert.to_image(wrong, 'rgb8', Header())


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_survive(stamp):
    assert convert.nanoseconds(convert.to_time(stamp)) == stamp


@pytest.mark.parametrize('task', ['pusher', 'push_t', 'push_cube'])
def test_velocities_survive_and_carry_frame_and_stamp(task):
    spec = get_task(task)
    values = tuple(0.1 * (index + 1) for index in range(len(spec.driven)))
    message = convert.to_command(values, spec, 1_200_000_000)
    assert convert.from_command(message, spec) == values
    assert message.header.frame_id == spec.command_frame
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1, 200_000_000)


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('part, axis', [('linear', 'x'), ('linear', 'z'), ('angular', 'y')])
def test_one_bad_number_anywhere_spoils_the_command(bad, part, axis):
    spec = get_task('pusher')
    message = convert.to_command((0.1, 0.2), spec, 1)
    setattr(getattr(message.twist, part), axis, bad)
    assert all(value != value for value in convert.from_command(message, spec))


def test_a_whole_body_command_is_the_fields_in_their_order():
    spec = get_task('grab_box')
    values = tuple(float(number) for number in range(len(spec.actions)))
    message = convert.to_command(values, spec, 1_200_000_000)
    assert isinstance(message, convert.command_type(spec))
    assert message.task == 'grab_box' and len(message.upper_body) == 19
    assert convert.from_command(message, spec) == values
    message.locomotion[1] = float('nan')
    assert all(value != value for value in convert.from_command(message, spec))
    message.task = 'push_cube'
    assert convert.from_command(message, spec) == ()
