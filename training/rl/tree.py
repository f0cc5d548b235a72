"""Latents are tensors or nested tuples and dicts of them; these functions treat them alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def tree_map(function: Callable[..., torch.Tensor], first: Any, *rest: Any) -> Any:
    """Apply ``function`` to the tensors at the same place of one or more equal structures."""
    if isinstance(first, torch.Tensor):
        return function(first, *rest)
    if isinstance(first, dict):
        return {
            key: tree_map(function, first[key], *(tree[key] for tree in rest)) for key in first
        }
    if isinstance(first, tuple):
        parts = [tree_map(function, *items) for items in zip(first, *rest)]
        return type(first)(*parts) if hasattr(first, '_fields') else tuple(parts)
    raise TypeError(
        f'a latent is made of tensors, tuples and dicts, not of {type(first).__name__}'
    )


def detach(tree: Any) -> Any:
    """Return the same values without their history."""
    return tree_map(torch.Tensor.detach, tree)


def replace_rows(tree: Any, rows: torch.Tensor, fresh: Any) -> Any:
    """
    Put ``fresh`` (n, ...) into the n ``rows`` (bool (B,)) of ``tree`` (B, ...).

    The other rows keep their value and their gradient; the replaced ones have the gradient of
    ``fresh`` alone.
    """

    def one(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        filled = torch.zeros_like(old).index_put((rows.nonzero()[:, 0],), new.to(old.dtype))
        return torch.where(rows.view(-1, *[1] * (old.dim() - 1)), filled, old)

    return tree_map(one, tree, fresh)


def nbytes(tree: Any) -> int:
    """Return the bytes of all tensors in nested dicts, lists and tuples."""
    if isinstance(tree, torch.Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, dict):
        return sum(map(nbytes, tree.values()))
    return sum(map(nbytes, tree)) if isinstance(tree, (list, tuple)) else 0
