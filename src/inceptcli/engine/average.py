"""The weights averaged over the last steps: what is validated and saved.

An exponential moving average (Polyak and Juditsky, 1992; Szegedy et al., 2016, section 8) is
better and steadier than the weights of any one step. Batch-norm statistics are averaged with it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """A second network that follows the trained one.

    Args:
        model: The trained network; it is copied.
        steps: About how many steps the average reaches back; 0: there is none, and ``model``
            itself is the one to validate and save.

    Attributes:
        network: The one to validate and save.
    """

    def __init__(self, model: nn.Module, *, steps: float) -> None:
        self._model = model
        self._decay = 1 - 1 / max(1.0, steps)
        self._follows = steps > 0
        self.network = copy.deepcopy(model) if self._follows else model

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the optimizer's ``step``, which counts from 0.

        The average reaches back a tenth of the training so far at most, so that the random
        weights of the beginning do not stay in it.
        """
        if not self._follows:
            return
        share = 1 - min(self._decay, (step + 1) / (step + 10))
        pairs = [
            pair
            for pair in zip(_tensors(self.network), _tensors(self._model), strict=True)
            if pair[0].is_floating_point()
        ]
        averaged, latest = map(list, zip(*pairs, strict=True))
        torch._foreach_lerp_(averaged, latest, share)  # one call for all, fast on GPUs

    def state_dict(self) -> dict[str, Any]:
        """What to save beside the trained network; empty when there is no average."""
        return self.network.state_dict() if self._follows else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave; of none, from the trained network's weights."""
        if self._follows:
            self.network.load_state_dict(state or self._model.state_dict())


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
