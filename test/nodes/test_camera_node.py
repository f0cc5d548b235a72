"""The camera as a process: what it passes on, what it refuses and counts."""

from diagnostic_msgs.msg import DiagnosticArray
from dmo_ros.nodes import convert, qos
from dmo_ros.nodes.camera import CameraConfig, open_capture
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
        return {pair.key: int(pair.value) for pair in status.values}, status.message


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
    for seconds in (10.0, 10.2, 10.2, 10.1, 10.4, 0.0, 10.6):
        camera.send(camera.picture(), seconds)
    camera.probe.until(lambda: len(camera.got()) == 4)
    stamps = [convert.nanoseconds(message.header.stamp) * 1e-9 for message in camera.got()]
    assert stamps == pytest.approx([10.0, 10.2, 10.4, 10.6])
    assert {m.header.frame_id for m in camera.got()} == {'board_camera_optical_frame'}
    info = camera.probe.last('camera_info')
    assert (info.width, info.height) == (32, 24) and info.header == camera.got()[-1].header
    counts, _ = camera.counts()
    assert (counts['duplicate'], counts['reordered'], counts['unstamped']) == (1, 1, 1)


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
        open_capture(config)
