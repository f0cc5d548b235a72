"""Cameras that are not there, go away, come back, or give something else than was asked for."""

import threading
import time

from dmo_ros.nodes import camera_sources
from dmo_ros.nodes.camera_sources import (
    Capture,
    Grabber,
    is_stable,
    Multicast,
    Polled,
    SourceEndedError,
    SourceError,
)
import numpy as np
import pytest

cv2 = pytest.importorskip('cv2')
PATIENCE = 20.0


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.005)


class Scripted:
    """A source that does what a list says: a frame's number, None, or an error to raise."""

    def __init__(self, *script):
        self.script, self.opens, self.closes = list(script), 0, 0
        self.opened_at = []

    def open(self):
        self.opens += 1
        self.opened_at.append(time.monotonic())
        if self.script and self.script[0] == 'absent':
            self.script.pop(0)
            raise SourceError('it is not there')

    def read(self):
        if not self.script:
            threading.Event().wait(0.01)
            return None
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return None if step is None else (np.full((2, 2, 3), step, np.uint8), time.monotonic())

    def close(self):
        self.closes += 1


@pytest.fixture
def grab(monkeypatch):
    monkeypatch.setattr(camera_sources, 'FIRST_WAIT', 0.02)
    monkeypatch.setattr(camera_sources, 'LONGEST_WAIT', 0.08)
    made = []

    def build(source, opened=False):
        heard, ready = [], threading.Event()

        def hear():
            ready.wait(PATIENCE)
            heard.append(made[0].take())

        made.append(Grabber(source, hear, opened))
        ready.set()
        return made[0], heard

    yield build
    for grabber in made:
        grabber.stop()
        assert not grabber._thread.is_alive()


def numbers(heard):
    return [int(frame[0][0, 0, 0]) for frame in heard if frame is not None]


def test_a_lost_camera_is_opened_again_and_what_was_lost_is_counted(grab):
    source = Scripted(1, 2, SourceError('unplugged'), 'absent', 'absent', 3, None, 4)
    grabber, heard = grab(source)
    until(lambda: numbers(heard)[-1:] == [4])
    assert numbers(heard) == [1, 2, 3, 4], 'in order, none twice'
    assert grabber.reconnects == 1 and grabber.undecoded >= 1 and not grabber.error
    assert all(0 <= age < PATIENCE for _, age in filter(None, heard))


def test_patience_grows_between_attempts_up_to_its_end(grab):
    source = Scripted(*['absent'] * 6, 1)
    _, heard = grab(source)
    until(lambda: numbers(heard) == [1])
    waits = np.diff(source.opened_at)
    assert (waits >= [0.02, 0.04, 0.08, 0.08, 0.08, 0.08]).all()


def test_the_published_patience_is_half_a_second_to_five():
    assert (camera_sources.FIRST_WAIT, camera_sources.LONGEST_WAIT) == (0.5, 5.0)


def test_while_it_is_away_the_reason_is_told_and_no_old_frame_given_again(grab):
    source = Scripted(1, SourceError('unplugged'), *['absent'] * 1000)
    grabber, heard = grab(source)
    until(lambda: 'not there' in grabber.error)
    assert 'trying again' in grabber.error and numbers(heard) == [1]
    assert grabber.take() is None


def test_what_cannot_get_better_is_not_tried_again(grab):
    source = Scripted(1, SourceEndedError('the video is over'))
    grabber, _ = grab(source)
    until(lambda: grabber.error)
    grabber.stop()
    assert grabber.error == 'the video is over' and source.opens == 1 and source.closes == 1


def test_a_source_that_fails_in_an_unknown_way_is_told_not_silent(grab):
    grabber, _ = grab(Scripted(ZeroDivisionError('odd')))
    until(lambda: grabber.error)
    assert 'ZeroDivisionError' in grabber.error


class Device:
    """OpenCV's VideoCapture of a V4L2 device that has one mode."""

    size, good, age, made = (640, 480), True, 0.03, []

    def __init__(self, path, backend):
        self.path, self.backend, self.asked, self.released = path, backend, {}, False
        Device.made.append(self)

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return self.good

    def set(self, name, value):
        self.asked[name] = value

    def get(self, name):
        if name == cv2.CAP_PROP_POS_MSEC:
            return (time.monotonic() - self.age) * 1e3
        return self.size[name == cv2.CAP_PROP_FRAME_HEIGHT]

    def grab(self):
        return self.good

    def retrieve(self):
        frame = np.zeros((480, 640, 3), np.uint8)
        frame[..., 2] = 200  # red in OpenCV's order
        return True, frame

    def release(self):
        self.released = True


@pytest.fixture
def device(monkeypatch):
    kind = type('Device', (Device,), {})
    Device.made = []
    monkeypatch.setattr(cv2, 'VideoCapture', kind)
    return kind


def test_a_device_is_asked_for_the_newest_frame_of_the_tasks_mode(device):
    source = Capture('/dev/v4l/by-id/usb', 30.0, (640, 480))
    source.open()
    asked = Device.made[0].asked
    assert Device.made[0].backend == cv2.CAP_V4L2
    assert asked[cv2.CAP_PROP_BUFFERSIZE] == 1 and asked[cv2.CAP_PROP_FPS] == 30.0
    frame, taken = source.read()
    assert frame[0, 0].tolist() == [200, 0, 0], 'RGB'
    assert time.monotonic() - taken >= 0.03, "the driver's time, not the time it was read"
    source.close()
    source.close()
    assert Device.made[0].released


def test_a_driver_without_a_sensible_clock_is_not_believed(device):
    device.age = 1e6
    source = Capture('/dev/v4l/by-id/usb', 30.0, (640, 480))
    source.open()
    began = time.monotonic()
    assert source.read()[1] >= began


def test_another_mode_than_was_asked_for_is_refused(device):
    device.size = (640, 360)
    with pytest.raises(SourceEndedError, match='640x360 instead of the 640x480'):
        Capture('/dev/v4l/by-id/usb', 30.0, (640, 480)).open()
    assert Device.made[0].released


def test_a_device_that_is_absent_or_unplugged_may_come_back(device):
    source = Capture('/dev/v4l/by-id/usb', 30.0, (640, 480))
    source.open()
    device.good = False
    with pytest.raises(SourceError, match='plugged in'):
        source.read()
    source.close()
    with pytest.raises(SourceError, match='cannot be opened'):
        source.open()


class RobotCamera:
    """A robot's camera with a thread of its own."""

    def __init__(self):
        self.frames, self.closed = [(np.ones((2, 2, 3), np.uint8), 0.1)], False

    def take(self):
        return self.frames.pop() if self.frames else None

    def close(self):
        self.closed = True


def test_a_robots_camera_gives_each_frame_once_with_its_age(monkeypatch):
    monkeypatch.setattr(Polled, 'PATIENCE', 0.05)
    camera = RobotCamera()
    source = Polled(lambda: camera)
    source.open()
    frame, taken = source.read()
    assert frame.shape == (2, 2, 3) and time.monotonic() - taken >= 0.1
    with pytest.raises(SourceError, match='no pictures'):
        source.read()
    source.close()
    assert camera.closed


def test_a_robot_that_is_not_there_yet_is_asked_again():
    def make():
        raise RuntimeError('no Go2 is heard')

    with pytest.raises(SourceError, match='no Go2'):
        Polled(make).open()


def test_the_multicast_stream_needs_gstreamer_and_an_interface(monkeypatch):
    monkeypatch.setattr(cv2, 'getBuildInformation', lambda: '    GStreamer:   NO\n')
    with pytest.raises(SourceEndedError, match='no GStreamer'):
        Multicast('eth0', 14.0).open()
    monkeypatch.setattr(cv2, 'getBuildInformation', lambda: '    GStreamer:   YES (1.20)\n')
    with pytest.raises(SourceEndedError, match='interface'):
        Multicast('', 14.0).open()


def test_a_device_number_is_no_stable_name(tmp_path):
    assert is_stable('/dev/v4l/by-id/usb-cam') and not is_stable('/dev/video0')
