"""Tokenizer, dynamics and reward head as one model: what a finished training hands over."""

from __future__ import annotations

from collections.abc import Mapping
import copy
from dataclasses import asdict
import json
from typing import Any

import torch
from torch import nn

from .attention import LayerWeights
from .config import Dreamer4Config, restore
from .dynamics import Dynamics
from .reward import RewardHead
from .tokenizer import Tokenizer


class Dreamer4(nn.Module):
    """A global model; its parts are trained one after the other and used together."""

    def __init__(self, config: Dreamer4Config) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer(config.tokenizer)
        self.dynamics = Dynamics(config.dynamics)
        self.head = RewardHead(config.head, config.dynamics.trunk.width)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.dynamics.base_action.device

    def frozen(self, dtype: torch.dtype = torch.float32) -> Dreamer4:
        """
        Return a copy for inference with its transformers, and so its rings, in ``dtype``.

        The reward head and the statistics of proprioception stay float32: they are small, and
        255 bins would fall together in bfloat16.
        """
        twin = copy.deepcopy(self).eval().requires_grad_(False)
        for module in twin.modules():
            if isinstance(module, LayerWeights):
                module.fold()
        for part in (twin.tokenizer.encoder, twin.tokenizer.decoder, twin.dynamics):
            part.to(dtype)
        return twin

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the model: its config as JSON types, its weights."""
        return {
            'config': json.loads(json.dumps(asdict(self.config))),
            'weights': dict(self.state_dict()),
        }

    @classmethod
    def rebuild(cls, state: Mapping[str, Any]) -> Dreamer4:
        """
        Undo :meth:`describe`.

        :raises ValueError: it was written by another version.
        """
        model = cls(restore(Dreamer4Config, state['config']))
        try:
            model.load_state_dict(state['weights'])
        except RuntimeError as error:
            raise ValueError(
                f'the stored weights do not fit their own config ({error}); they were written by '
                'another version: train the model again'
            ) from error
        return model
