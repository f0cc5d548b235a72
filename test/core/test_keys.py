from dmo_ros.core.intent import PadMap, read_pad
from dmo_ros.core.keys import KeyPad, KeyTimes, split
from hypothesis import given
from hypothesis import strategies as st
import pytest

MAP = PadMap(axes=(1, 0, 3), signs=(1.0, 1.0, 1.0))  # config/push_cube.yaml with joy_xbox.yaml


def pad(keys, now):
    return read_pad(*keys.read(now), MAP)


def test_a_held_key_pushes_until_its_repeats_cease():
    keys = KeyPad(speed=0.5)
    keys.press(0.0, 'up')
    assert pad(keys, 0.4).stick == (0.5, 0.0, 0.0)
    for step in range(20):  # the terminal repeats
        keys.press(0.5 + 0.03 * step, 'up')
    assert pad(keys, 1.2).stick == (0.5, 0.0, 0.0)
    assert pad(keys, 1.3).neutral


def test_a_tap_ends_by_itself_and_keys_add_up():
    keys = KeyPad()
    keys.press(0.0, 'W')
    keys.press(0.1, 'a')
    assert pad(keys, 0.2).stick == (1.0, 1.0, 0.0)
    keys.press(0.3, 's')
    assert pad(keys, 0.3).stick == (-1.0, 1.0, 0.0), 'the opposite key counts at once'
    assert pad(keys, 1.0).neutral


def test_the_space_bar_stops_at_once():
    keys = KeyPad()
    keys.press(0.0, 'h')
    keys.press(0.1, 'up')
    assert pad(keys, 0.2).deadman
    keys.press(0.2, ' ')
    assert pad(keys, 0.2).neutral and not pad(keys, 0.2).deadman


def test_the_dead_man_falls_when_nobody_types():
    keys = KeyPad(times=KeyTimes(deadman=3.0))
    keys.press(0.0, 'h')
    keys.press(2.0, 'up')
    assert pad(keys, 4.9).deadman
    assert not pad(keys, 5.1).deadman
    keys.press(6.0, 'up')
    assert not pad(keys, 6.0).deadman, 'another key does not take it again'


def test_a_late_key_does_not_save_a_dead_man_that_nobody_looked_at():
    keys = KeyPad()
    keys.press(0.0, 'h')
    keys.press(60.0, 'up')
    assert not pad(keys, 60.0).deadman


def test_arm_and_milestone_are_pulses_and_intent_is_a_toggle():
    keys = KeyPad()
    for key in 'gmi':
        keys.press(0.0, key)
    assert pad(keys, 0.1).arm and pad(keys, 0.1).milestone and pad(keys, 0.1).intent
    assert not pad(keys, 0.4).arm and not pad(keys, 0.4).milestone and pad(keys, 0.4).intent
    keys.press(0.5, 'i')
    assert not pad(keys, 0.5).intent


def test_times_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match='positive'):
        KeyTimes(first=0.1, repeat=0.2)


@given(st.lists(st.tuples(st.sampled_from('hgim wasdqerfz'), st.floats(0, 5)), max_size=30))
def test_nothing_moves_for_long_without_keys(typed):
    keys, now = KeyPad(), 0.0
    for key, pause in typed:
        now += pause
        keys.press(now, key)
    left = pad(keys, now + 3.1)
    assert left.neutral and not left.deadman and not left.arm


def test_arrows_and_plain_keys_are_told_apart_even_when_cut():
    assert split(b'w\x1b[A\x1bOB h\r') == (['w', 'up', 'down', ' ', 'h'], b'')
    assert split(b'd\x1b[') == (['d'], b'\x1b[')
    assert split(b'\x1b[' + b'D') == (['left'], b'')
    assert split(b'\x1b[Zx') == (['x'], b'')


@given(st.binary(max_size=40))
def test_no_bytes_confuse_it(typed):
    keys, rest = split(typed)
    assert len(rest) <= 2 and len(keys) <= len(typed)
    assert split(typed[:7])[0] + split(split(typed[:7])[1] + typed[7:])[0] == keys
