"""
What the number of processes must not change: random draws, and means over a global batch.

Each process of a distributed training holds equally many rows of the global batch, in the order of
its ranks, and gradients are averaged over processes.  Without a process group all of this is the
plain thing.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import distributed, Tensor


def rank_and_size() -> tuple[int, int]:
    """Return which process this is, and of how many."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def own_rows(draw: Callable[[int], Tensor], rows: int, shared: bool = True) -> Tensor:
    """
    Draw for the rows of the global batch and return this process's.

    :param draw: returns random numbers for so many rows, from a generator that is in the same
        state on all processes.
    :param rows: how many are this process's.
    :param shared: False where the generator is this process's own; then only its rows are drawn.
    """
    rank, size = rank_and_size() if shared else (0, 1)
    return draw(rows * size)[rank * rows : (rank + 1) * rows]


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum of a tensor without gradient; all processes have to call this."""
    if rank_and_size()[1] > 1:
        value = value.clone()
        distributed.all_reduce(value)
    return value


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a tensor without gradient; all processes have to call this."""
    return sum_over_processes(value) / rank_and_size()[1]


def mean_of_rows(error: Tensor, rows: Tensor) -> Tensor:
    """
    Return the mean (), over the rows of the global batch that count; zero where none does.

    A process may hold more of these rows than another, so its result is scaled such that the mean
    over processes, which is what becomes of gradients, is the mean over all rows.

    :param error: (B, T).
    :param rows: which count (B,) bool.
    """
    counted = sum_over_processes(rows.sum()) * error.shape[1]
    return (error * rows[:, None]).sum() * rank_and_size()[1] / counted.clamp(min=1)
