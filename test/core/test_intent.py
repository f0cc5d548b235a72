from dmo_ros.core.intent import INTENT, IntentButtons, MILESTONE, PadError, PadMap, PLAY, read_pad
from hypothesis import given
from hypothesis import strategies as st
import pytest

MAP = PadMap(axes=(0, 1), signs=(-1.0, 1.0))
BUTTONS = [0] * 8


def pressed(*indices):
    return [int(index in indices) for index in range(8)]


def test_held_means_intent_and_the_key_means_milestone():
    buttons = IntentButtons()
    assert buttons.update(0.0, False, False) == PLAY
    assert buttons.update(0.1, True, False) == INTENT
    assert buttons.update(0.2, True, True) == MILESTONE
    assert buttons.update(0.3, False, True) == MILESTONE
    assert buttons.update(0.4, False, False) == PLAY


def test_toggled_changes_on_each_press_only():
    buttons = IntentButtons('toggle')
    labels = [
        buttons.update(0.1 * step, held, False)
        for step, held in enumerate([False, True, True, False, False, True, False])
    ]
    assert labels == [PLAY, INTENT, INTENT, INTENT, INTENT, PLAY, PLAY]


@pytest.mark.parametrize('which', [(True, False), (False, True)])
def test_a_stuck_button_says_nothing_until_it_moves(which):
    buttons = IntentButtons(stuck_after=30.0)
    assert buttons.update(1.0, *which) != PLAY
    assert buttons.update(30.9, *which) != PLAY and not buttons.stuck
    assert buttons.update(31.1, *which) == PLAY and buttons.stuck
    assert buttons.update(31.2, False, False) == PLAY and not buttons.stuck
    assert buttons.update(31.3, *which) != PLAY


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match='hold or toggle'):
        IntentButtons('sticky')


def test_the_map_names_axes_signs_and_buttons():
    pad = read_pad([0.5, -0.25], pressed(MAP.deadman, MAP.intent), MAP)
    assert pad.stick == (-0.5, -0.25)
    assert (pad.deadman, pad.intent, pad.milestone, pad.arm) == (True, True, False, False)


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=2))
def test_a_stick_is_bounded_and_exact_outside_the_dead_zone(axes):
    stick = read_pad(axes, BUTTONS, MAP).stick
    assert all(-1 <= value <= 1 for value in stick)
    inside = (min(1, max(-1, axes[0])) ** 2 + min(1, max(-1, axes[1])) ** 2) ** 0.5
    if inside >= MAP.deadzone + 1e-9:
        assert stick == (min(1.0, max(-1.0, -axes[0])), min(1.0, max(-1.0, axes[1])))
    elif inside < MAP.deadzone - 1e-9:
        assert not any(stick)


@pytest.mark.parametrize('axes, buttons', [([0.0], BUTTONS), ([0.0, 0.0], [0] * 7), ([], [])])
def test_a_pad_too_small_for_its_map_is_named(axes, buttons):
    with pytest.raises(PadError, match='config/joy_'):
        read_pad(axes, buttons, MAP)


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_an_axis_that_is_not_finite_is_refused(bad):
    with pytest.raises(PadError, match='not finite'):
        read_pad([bad, 0.0], BUTTONS, MAP)


@pytest.mark.parametrize(
    'wrong',
    [{'axes': (0,)}, {'signs': (1.0, 2.0)}, {'deadzone': 0.9}, {'deadman': 5}, {'arm': -1}],
)
def test_a_contradictory_map_is_refused(wrong):
    with pytest.raises(PadError):
        PadMap(**wrong)
