from pathlib import Path

from dmo_ros.core.intent import INTENT, IntentButtons, MILESTONE, PadError, PadMap, PLAY, read_pad
from dmo_ros.core.tasks import TASKS
from hypothesis import given
from hypothesis import strategies as st
import pytest
import yaml

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


# ---------------------------------------------------------------------- more of a pad
BODY = TASKS['grab_box']
LAYERS = PadMap(
    axes=(1, 0),
    signs=(1.0, 1.0),
    fields=('vx', 'vy'),
    scale=0.5,
    turbo=1,
    shift=2,
    shift_axes=(1, 5),
    shift_signs=(-1.0, 1.0),
    shift_fields=('waist_pitch', 'right_hand'),
    trigger_axes=(5,),
)


def spread(axes, *buttons):
    pad = read_pad(axes, pressed(*buttons), LAYERS)
    values = dict(zip((field.name for field in BODY.actions), LAYERS.spread(pad, BODY)))
    return {name: value for name, value in values.items() if value}


def test_two_layers_drive_different_fields():
    LAYERS.check(BODY)
    axes = [0.0, 0.8, 1.0, 0.0, 0.0, 1.0]
    assert spread(axes) == {'vx': pytest.approx(0.4)}
    assert spread(axes, 2) == {'waist_pitch': pytest.approx(-0.4)}


def test_turbo_is_full_speed():
    assert spread([1.0, 0.0, 1.0, 0.0, 0.0, 1.0], 1) == {'vy': 1.0}


@pytest.mark.parametrize('rest', [1.0, -1.0])
def test_a_trigger_gives_how_far_it_is_pressed(rest):
    pad = PadMap(axes=(0, 5), trigger_axes=(5,), trigger_rest=rest)
    sticks = [read_pad([0.0] * 5 + [v * rest], BUTTONS, pad).stick[1] for v in (1, 0, -1)]
    assert sticks == [0.0, 0.5, 1.0]


def test_a_pad_with_other_numbers_is_renumbered():
    pad = PadMap(axes=(1, 0, 3), signs=(1.0,) * 3, renumber=(0, 1, -1, 2, 3))
    assert read_pad([0.1, 0.2, 0.3], BUTTONS, pad).stick == (0.2, 0.1, 0.3)
    with pytest.raises(PadError, match='needs 3'):
        read_pad([0.1, 0.2], BUTTONS, pad)
    with pytest.raises(PadError, match='but has'):
        PadMap(axes=(2, 0, 3), signs=(1.0,) * 3, renumber=(0, 1, -1, 2, 3))


@pytest.mark.parametrize(
    'wrong, text',
    [
        ({'fields': ('vx',)}, 'one field per axis'),
        ({'fields': ('vx', 'vx')}, 'each once'),
        ({'scale': 0.0}, 'scale'),
        ({'turbo': 4}, 'different buttons'),
        ({'shift': 3}, 'second layer'),
        ({'shift': 3, 'shift_axes': (2,)}, 'second layer'),
        ({'shift_axes': (2,), 'shift_fields': ('vx',)}, 'second layer'),
        ({'trigger_rest': 0.0}, 'trigger'),
        ({'axes': (0, -2)}, 'negative axis'),
        ({'renumber': (0,)}, 'but has'),
    ],
)
def test_a_map_that_contradicts_itself_is_named(wrong, text):
    with pytest.raises(PadError, match=text):
        PadMap(**wrong)


def test_a_map_for_another_task_is_refused_with_the_field():
    with pytest.raises(PadError, match='right_hand'):
        LAYERS.check(TASKS['push_cube'])
    with pytest.raises(PadError, match='22 fields'):
        PadMap().check(BODY)


@pytest.mark.parametrize('name', ['xbox', 'dualsense', 'switch_pro', 'unitree'])
@pytest.mark.parametrize('task', ['pusher', 'push_t', 'push_cube'])
def test_every_pad_drives_every_twist_task(name, task):
    pad = merged(f'{task}.yaml', f'joy_{name}.yaml')
    pad.check(TASKS[task])


@pytest.mark.parametrize('more', ['joy_xbox', 'joy_dualsense', 'grab_box_operator'])
def test_a_body_has_its_maps(more):
    merged('grab_box.yaml', f'{more}.yaml').check(BODY)


def merged(*names):
    values = {}
    for name in names:
        tree = yaml.safe_load((Path(__file__).parents[2] / 'config' / name).read_text())
        values.update(tree['/**/gate']['ros__parameters']['pad'])
    return PadMap(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
