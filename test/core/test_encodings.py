"""The one conversion of camera bytes, against an independent oracle."""

from dmo_ros.core.encodings import decode, ENCODINGS
from dmo_ros.core.images import ImageError
import numpy as np
import pytest

HEIGHT, WIDTH = 6, 5
CHANNELS = {'rgba8': 4, 'bgra8': 4, '8UC4': 4, 'mono8': 1, '8UC1': 1, 'mono16': 1}


def picture(encoding, padding=0, big_endian=False):
    """Return an image message's fields with random pixels, rows padded with 0xAA."""
    rng = np.random.default_rng(3)
    wide = encoding.endswith('16')
    shape = (HEIGHT, WIDTH * CHANNELS.get(encoding, 3))
    pixels = rng.integers(0, 65536 if wide else 256, shape).astype(
        ('>u2' if big_endian else '<u2') if wide else 'u1'
    )
    rows = pixels.view(np.uint8).reshape(HEIGHT, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAA)
    return rows.tobytes(), rows.shape[1]


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8'])
def test_the_usual_encodings_equal_the_oracle(encoding):
    image = pytest.importorskip('rosbags.image')
    typestore = pytest.importorskip('rosbags.typesys')
    store = typestore.get_typestore(typestore.Stores.ROS2_JAZZY).types
    data, step = picture(encoding)
    header = store['std_msgs/msg/Header'](
        stamp=store['builtin_interfaces/msg/Time'](sec=0, nanosec=0), frame_id=''
    )
    message = store['sensor_msgs/msg/Image'](
        header=header,
        height=HEIGHT,
        width=WIDTH,
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=np.frombuffer(data, dtype=np.uint8),
    )
    wanted = image.message_to_cvimage(message, 'rgb8')
    np.testing.assert_array_equal(decode(data, HEIGHT, WIDTH, encoding, step), wanted)


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_padded_rows_give_the_same_frame(encoding):
    tight, _ = picture(encoding)
    padded, step = picture(encoding, padding=6)
    np.testing.assert_array_equal(
        decode(padded, HEIGHT, WIDTH, encoding, step), decode(tight, HEIGHT, WIDTH, encoding)
    )


@pytest.mark.parametrize('encoding', ['rgb16', 'bgr16', 'mono16'])
def test_sixteen_bits_keep_their_upper_half_in_either_byte_order(encoding):
    little, _ = picture(encoding)
    big, _ = picture(encoding, big_endian=True)
    frame = decode(little, HEIGHT, WIDTH, encoding)
    np.testing.assert_array_equal(frame, decode(big, HEIGHT, WIDTH, encoding, big_endian=True))
    assert frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8
    first = np.frombuffer(little, dtype='<u2')[0] >> 8
    assert frame[0, 0, 2 if encoding == 'bgr16' else 0] == first


def test_rgb8_is_a_view_and_not_a_copy():
    data = bytearray(picture('rgb8')[0])
    frame = decode(data, HEIGHT, WIDTH, 'rgb8')
    data[0] ^= 255
    assert frame[0, 0, 0] == data[0]


@pytest.mark.parametrize(
    'fields',
    [
        {'encoding': 'jpeg'},
        {'height': HEIGHT + 1},
        {'width': WIDTH + 5},
        {'step': 3},
        {'height': 0},
    ],
)
def test_what_does_not_fit_is_refused(fields):
    data, step = picture('rgb8')
    good = {'height': HEIGHT, 'width': WIDTH, 'encoding': 'rgb8', 'step': step}
    decode(data, **good)
    with pytest.raises(ImageError, match=r'not known here|does not fit'):
        decode(data, **{**good, **fields})
