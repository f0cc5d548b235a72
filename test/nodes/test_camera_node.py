"""The camera as a process: what it passes on, what it refuses and counts."""

from diagnostic_msgs.msg import DiagnosticArray
from dmo_ros.core.tasks import get_task
from dmo_ros.nodes import convert, qos
from dmo_ros.nodes.calibration import load_calibration
from dmo_ros.nodes.camera import CameraConfig, open_source
from dmo_ros.nodes.parameters import ParameterError
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header


class Driver:
    """Somebody's camera driver: publishes pictures and hears what becomes of them."""

    def __init__(self, probe, topic):
        self.probe, self.topic = probe, topic
        self.out = probe.publisher(Image, topic, qos.SENSOR)
        self.rng = np.random.default_rng(0)
        for kind, name in (
            (Image, 'image_raw'),
            (CameraInfo, 'camera_info'),
            (DiagnosticArray, 'diagnostics'),
        ):
            if name not in probe.heard:
                probe.listen(kind, name)
            probe.heard[name].clear()

    def ready(self):
        self.probe.until(lambda: self.out.get_subscription_count() == 1)
        self.probe.until(lambda: self.probe.node.count_publishers('image_raw') == 1)
        # A first frame has to come through before one may be missed.
        self.send(self.picture(), 1.0)
        while not self.probe.heard['image_raw']:
            self.probe.spin(0.1)
            self.send(self.picture(), 1.0)
        self.probe.spin(0.7)  # over the frame time-out, a new order begins
        self.probe.heard['image_raw'].clear()

    def picture(self, encoding='rgb8', height=24):
        return self.rng.integers(0, 256, (height, 32, 3), dtype=np.uint8)

    def send(self, picture, seconds, encoding='rgb8', **changes):
        header = Header(stamp=convert.to_time(int(seconds * 1e9)))
        message = convert.to_image(picture, encoding, header)
        for name, value in changes.items():
            setattr(message, name, value)
        self.out.publish(message)
        self.probe.spin(0.03)

    def got(self):
        return [message for _, message in self.probe.heard['image_raw']]

    def counts(self):
        self.probe.heard['diagnostics'].clear()
        self.probe.until(lambda: self.probe.heard['diagnostics'])
        status = self.probe.last('diagnostics').status[0]
        return {pair.key: float(pair.value) for pair in status.values}, status.message


@pytest.fixture
def driver(probe, start):
    made = []

    def build(**parameters):
        made.append(Driver(probe, 'driver/image'))
        start('camera', source='topic', topic='driver/image', **parameters)
        made[0].ready()
        return made[0]

    yield build
    for driver in made:
        probe.node.destroy_publisher(driver.out)


def test_disorder_is_refused_and_counted(driver):
    camera = driver(frozen_after=0, future_tolerance=0.0)
    before, _ = camera.counts()  # its first frames are sent until one comes through
    for seconds in (10.0, 10.2, 10.2, 10.1, 10.4, 0.0, 10.6):
        camera.send(camera.picture(), seconds)
    camera.probe.until(lambda: len(camera.got()) == 4)
    stamps = [convert.nanoseconds(message.header.stamp) * 1e-9 for message in camera.got()]
    assert stamps == pytest.approx([10.0, 10.2, 10.4, 10.6])
    assert {m.header.frame_id for m in camera.got()} == {'board_camera_optical_frame'}
    info = camera.probe.last('camera_info')
    assert (info.width, info.height) == (32, 24) and info.header == camera.got()[-1].header
    counts, _ = camera.counts()
    kinds = ('duplicate', 'reordered', 'unstamped')
    assert [counts[kind] - before.get(kind, 0) for kind in kinds] == [1, 1, 1]


def test_frozen_future_and_malformed_frames_are_refused_and_a_halt_is_told(driver):
    camera = driver(frozen_after=3, future_tolerance=0.05)
    same = camera.picture()
    for step in range(6):
        camera.send(same, 20.0 + step)
    camera.send(camera.picture(), 2e9)
    camera.send(camera.picture(), 27.0, encoding='rgb8', height=400)
    camera.send(camera.picture(), 28.0, encoding='rgb8', step=5)
    camera.send(camera.picture()[..., 0], 29.0, encoding='mono8')
    camera.probe.until(lambda: len(camera.got()) == 3)
    np.testing.assert_array_equal(convert.to_rgb(camera.got()[0]), same)
    assert camera.got()[-1].encoding == 'rgb8', 'mono8 is turned into what the task names'
    counts, _ = camera.counts()
    assert counts['frozen'] == 4 and counts['future'] == 1
    camera.probe.spin(0.6)
    assert camera.counts()[1], 'nothing comes any more'


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    cv2 = pytest.importorskip('cv2')
    path = tmp_path_factory.mktemp('video') / 'board.avi'
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 25, (64, 48))
    for step in range(96):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:, :, 2] = 2 * step  # red in OpenCV's order
        out.write(frame)
    out.release()
    return path


def test_a_video_file_plays_in_order_with_its_colours(probe, start, video):
    for kind, name in ((Image, 'image_raw'), (DiagnosticArray, 'diagnostics')):
        if name not in probe.heard:
            probe.listen(kind, name)
        probe.heard[name].clear()
    start('camera', source='file', path=str(video), rate_hz=30.0, frozen_after=0)
    probe.until(
        lambda: (
            probe.heard['diagnostics'] and 'over' in probe.last('diagnostics').status[0].message
        )
    )
    messages = [message for _, message in probe.heard['image_raw']]
    reds = [int(convert.to_rgb(message)[24, 32, 0]) for message in messages]
    assert len(reds) >= 5 and reds == sorted(reds) and reds[-1] == pytest.approx(190, abs=6)
    stamps = [convert.nanoseconds(message.header.stamp) for message in messages]
    assert all(before < after for before, after in zip(stamps, stamps[1:]))


@pytest.mark.parametrize(
    'config, text',
    [
        (CameraConfig(source='device'), 'needs the parameter path'),
        (CameraConfig(source='device', path='/dev/v4l/by-id/none'), 'cannot be opened'),
        (CameraConfig(source='file', path='/no/such.avi'), 'cannot be opened'),
    ],
)
def test_what_cannot_be_opened_is_named(config, text):
    pytest.importorskip('cv2')
    with pytest.raises(ParameterError, match=text):
        open_source(config, get_task(config.task))


def test_bytes_that_are_no_image_are_survived(driver):
    camera = driver(frozen_after=0, future_tolerance=0.0)
    rng = np.random.default_rng(3)
    for length in (0, 3, 7, 40, 4000):
        noise = b'\x00\x01\x00\x00' + rng.integers(0, 256, length, np.uint8).tobytes()
        camera.out.publish(noise)
        camera.probe.spin(0.05)
    camera.send(camera.picture(), 50.0)
    camera.probe.until(lambda: camera.got() and camera.got()[-1].header.stamp.sec == 50)


def test_a_slow_camera_and_its_lost_frames_are_told(driver):
    camera = driver(frozen_after=0, future_tolerance=0.0, rate_hz=30.0)
    seconds = 100.0
    for step in range(20):
        seconds += 0.3 if step == 12 else 0.1
        camera.send(camera.picture(), seconds)
    told = camera.probe.heard['diagnostics']
    told.clear()
    while not any('instead of 30' in array.status[0].message for _, array in told):
        seconds += 0.1
        camera.send(camera.picture(), seconds)
    counts = {pair.key: float(pair.value) for pair in told[-1][1].status[0].values}
    assert counts['lost'] == 2 and counts['rate_hz'] == pytest.approx(10.0, rel=0.05)


CALIBRATION = """
image_width: 32
image_height: 24
camera_name: top
camera_matrix: {rows: 3, cols: 3, data: [50.0, 0.0, 16.0, 0.0, 50.0, 12.0, 0.0, 0.0, 1.0]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0.0, 0.0, 0.0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [50, 0, 16, 0, 0, 50, 12, 0, 0, 0, 1, 0]}
"""


def test_a_calibration_reaches_camera_info_and_one_of_another_size_does_not(driver, tmp_path):
    file = tmp_path / 'top.yaml'
    file.write_text(CALIBRATION)
    camera = driver(frozen_after=0, future_tolerance=0.0, calibration=str(file))
    camera.send(camera.picture(), 70.0)
    camera.probe.until(
        lambda: camera.got() and camera.probe.last('camera_info').header.stamp.sec == 70
    )
    info = camera.probe.last('camera_info')
    assert info.k[0] == 50.0 and info.d[1] == -0.2 and info.header == camera.got()[-1].header
    camera.send(camera.picture(height=30), 71.0)
    camera.probe.until(lambda: camera.probe.last('camera_info').header.stamp.sec == 71)
    assert camera.probe.last('camera_info').k[0] == 0.0
    assert 'is for 32x24' in camera.counts()[1]


@pytest.mark.parametrize(
    'change, text',
    [
        (lambda text: text.replace('image_width: 32\n', ''), 'image_width'),
        (lambda text: text.replace('12.0, 0.0, 0.0, 1.0', '12.0'), 'camera_matrix has 6'),
        (lambda text: text.replace('-0.2', '.nan'), 'finite'),
        (lambda text: 'a: [', 'malformed'),
        (lambda text: '3', 'malformed'),
    ],
)
def test_a_calibration_that_is_none_is_named(change, text, tmp_path):
    file = tmp_path / 'bad.yaml'
    file.write_text(change(CALIBRATION))
    with pytest.raises(ParameterError, match=text):
        load_calibration(file)
    with pytest.raises(ParameterError, match='cannot be read'):
        load_calibration(tmp_path / 'none.yaml')
