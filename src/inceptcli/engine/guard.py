"""Divergence is noticed at the step at which it happens, and never reaches a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from inceptcli.errors import DivergedError

ADVICE = (
    "what was saved before is intact; try a lower --lr, a longer --warmup-epochs "
    "or --precision fp32"
)
MAX_SKIPPED = 20  # fp16: steps in a row that may overflow while the scale is being found


class Guard:
    """Looks at the loss of every step, without waiting for the device at each.

    Args:
        precision: With "fp16" up to ``MAX_SKIPPED`` steps in a row may be not finite, since the
            scaler skips such a step and halves its scale; otherwise none may.
        most: The largest of a number over all processes, so that they end together.
    """

    def __init__(self, precision: str, most: Callable[[int], int] = int) -> None:
        self._most = most
        self._patience = MAX_SKIPPED if precision == "fp16" else 0
        self._bad_in_a_row = 0
        self._unseen: list[tuple[int, int, Tensor]] = []

    def note(self, epoch: int, step: int, loss: Tensor) -> None:
        """Remember a step's loss; ``check`` looks at it."""
        self._unseen.append((epoch, step, loss))

    def check(self) -> None:
        """Look at the losses since the last look.

        Raises:
            DivergedError: One is not finite; the message names epoch and step.
        """
        text = self._look()
        if self._most(int(bool(text))):
            raise DivergedError(text or f"training diverged in another process; {ADVICE}")

    def _look(self) -> str:
        if not self._unseen:
            return ""
        finite = torch.stack([loss for _, _, loss in self._unseen]).isfinite().tolist()
        for (epoch, step, loss), good in zip(self._unseen, finite, strict=True):
            self._bad_in_a_row = 0 if good else self._bad_in_a_row + 1
            if self._bad_in_a_row > self._patience:
                value = float(loss)
                return f"training diverged: loss {value} at epoch {epoch}, step {step}; {ADVICE}"
        self._unseen.clear()
        return ""


def check_finite(tensors: dict[str, Any], *, what: str, when: str) -> None:
    """Refuse to save numbers that are not finite.

    Args:
        tensors: Tensors by name, in dictionaries and lists of any depth.
        what: "weights" or "optimizer".
        when: The position, for the message.

    Raises:
        DivergedError: A floating-point tensor holds a NaN or an infinity.
    """
    for name, tensor in _tensors(tensors, ""):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DivergedError(
                f"training diverged: {what} {name} is not finite at {when}; {ADVICE}"
            )


def _tensors(value: object, name: str) -> Iterable[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _tensors(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _tensors(part, f"{name}.{index}")
