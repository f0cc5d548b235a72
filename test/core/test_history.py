from dmo_ros.core.history import FrameStack, stack_indices
import numpy as np
import pytest


@pytest.mark.parametrize('depth', [1, 2, 4, 7])
def test_a_stack_is_the_newest_frames_back_filled_with_the_first(depth):
    stack, frames = FrameStack(depth), np.arange(20)[:, None, None, None] * np.ones((2, 2, 3))
    for index, frame in enumerate(frames):
        expected = [max(0, index - depth + 1 + slot) for slot in range(depth)]
        np.testing.assert_array_equal(stack.push(frame)[:, 0, 0, 0], expected)


@pytest.mark.parametrize('depth', [1, 4])
def test_a_reset_forgets(depth):
    stack = FrameStack(depth)
    for value in range(3):
        stack.push(np.full((2, 2, 3), value))
    stack.reset()
    np.testing.assert_array_equal(stack.push(np.full((2, 2, 3), 9)), np.full((depth, 2, 2, 3), 9))


@pytest.mark.parametrize('length,depth', [(1, 4), (3, 4), (10, 4), (10, 1)])
def test_training_cuts_the_stacks_that_deployment_builds(length, depth):
    frames = np.random.default_rng(0).integers(0, 256, (length, 2, 2, 3), dtype=np.uint8)
    stack = FrameStack(depth)
    np.testing.assert_array_equal(
        frames[stack_indices(length, depth)], np.stack([stack.push(frame) for frame in frames])
    )


def test_a_stack_is_a_copy():
    stack, frame = FrameStack(2), np.zeros((1, 1, 3))
    out = stack.push(frame)
    out[:] = 7
    np.testing.assert_array_equal(stack.push(np.ones((1, 1, 3)))[:, 0, 0, 0], [0, 1])


@pytest.mark.parametrize('depth', [0, -1])
def test_a_stack_holds_something(depth):
    with pytest.raises(ValueError, match='at least one'):
        FrameStack(depth)
