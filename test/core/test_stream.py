from dmo_ros.core.stream import FrameWatch, StampOrder
from hypothesis import given
from hypothesis import strategies as st

SECOND = 10**9


@given(st.lists(st.integers(-2, 50), max_size=60))
def test_accepted_stamps_strictly_increase_while_the_stream_lives(stamps):
    watch, accepted = FrameWatch(timeout=1.0), []
    for index, stamp in enumerate(stamps):
        if not watch.accept(stamp, now=0.01 * index):
            accepted.append(stamp)
    assert all(before < after for before, after in zip(accepted, accepted[1:]))
    assert watch.counts.total() == len(stamps)
    assert all(stamp > 0 for stamp in accepted)


def test_faults_are_told_apart():
    watch = FrameWatch(timeout=1.0, future=0.05)
    clock = 10 * SECOND
    assert watch.accept(0, 0.0, clock) == 'unstamped'
    assert watch.accept(clock, 0.0, clock) == ''
    assert watch.accept(clock, 0.1, clock) == 'duplicate'
    assert watch.accept(clock - 1, 0.1, clock) == 'reordered'
    assert watch.accept(clock + 51_000_000, 0.1, clock) == 'future'
    assert watch.accept(clock + 49_000_000, 0.1, clock) == ''


def test_a_source_that_starts_again_costs_one_time_out():
    watch = FrameWatch(timeout=0.5)
    watch.accept(100 * SECOND, 0.0)
    assert watch.accept(1 * SECOND, 0.4) == 'reordered'
    assert not watch.stale(0.5) and watch.stale(0.51)
    assert watch.accept(1 * SECOND, 0.6) == ''


def test_refused_frames_do_not_keep_a_stream_alive():
    watch = FrameWatch(timeout=0.5)
    watch.accept(SECOND, 0.0)
    for step in range(1, 10):
        watch.accept(SECOND, 0.1 * step)
    assert watch.order.heard_at == 0.1 * 6  # taken as new once, after the time-out


def test_a_frozen_camera_is_noticed_and_noise_is_not():
    watch = FrameWatch(timeout=0.5, frozen_after=5)
    verdicts = [watch.accept(index + 1, 0.1 * index, digest='same') for index in range(6)]
    assert verdicts == ['', '', '', '', 'frozen', 'frozen']
    assert watch.accept(7, 0.7, digest='other') == ''
    assert not any(watch.accept(8 + index, 0.8, digest=index) for index in range(20))
    off = FrameWatch(timeout=0.5, frozen_after=0)
    assert not any(off.accept(index + 1, 0.0, digest='same') for index in range(20))


def test_an_order_may_allow_repeats():
    order = StampOrder(silence=1.0)
    order.accept(5, 0.0)
    assert order.judge(5, 0.1) == 'duplicate' and order.judge(5, 0.1, repeats=True) == ''
    assert order.judge(0, 0.1) == '', 'an unstamped command has no order'
