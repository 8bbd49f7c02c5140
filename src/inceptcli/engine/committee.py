"""Several answers made one: views of a picture, several networks, the folds of a run.

For networks m with temperatures T_m and views v of a picture, each network's logits z give

    p = 1 / (M V)  sum over m and v of  softmax(z_mv / T_m)

so each answer is calibrated before the mean. The temperatures were fitted on single networks and
single views; nothing is fitted to the mean, which tends to be less certain than it is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from inceptcli.data.fingerprints import Memory, join_fingerprints
from inceptcli.errors import UsageError
from inceptcli.files import printable

if TYPE_CHECKING:
    from inceptcli.config import Tta
    from inceptcli.engine.infer import Loaded

CROP = 7 / 8  # side of a crop, of the picture's


class Committee(nn.Module):
    """Networks whose answers to all views are averaged; it answers the logarithm of the mean.

    A softmax of that gives the mean itself, so whatever takes logits can take it.

    Args:
        networks: Each answers logits.
        temperatures: What each network's logits are divided by.
        orders: For each output of the committee, its index among the network's.
        tta: Which views.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        *,
        temperatures: Sequence[float],
        orders: Sequence[Sequence[int]],
        tta: Tta,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.temperatures = tuple(temperatures)
        self.orders = [list(order) for order in orders]
        self.tta = tta

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, S, S) float -> logarithms of probabilities (N, C) float32."""
        answers = [
            functional.softmax(network(view).float() / temperature, dim=1)[:, order]
            for view in views(images, self.tta)
            for network, temperature, order in zip(
                self.networks, self.temperatures, self.orders, strict=True
            )
        ]
        mean = torch.stack(answers).mean(dim=0)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


def views(images: Tensor, tta: Tta) -> Iterator[Tensor]:
    """The views of images (N, 3, S, S), each of the same shape.

    "none": they themselves. "flips": and mirrored left to right. "crops": the four corners and
    the middle, seven eighths of the side, enlarged to S, and these mirrored (Krizhevsky et al.,
    "ImageNet Classification with Deep Convolutional Neural Networks", 2012, section 4.1).
    """
    chosen = _crops(images) if tta == "crops" else iter([images])
    for view in chosen:
        yield view
        if tta != "none":
            yield view.flip(-1)


def _crops(images: Tensor) -> Iterator[Tensor]:
    size = images.shape[-1]
    side = round(CROP * size)
    far, middle = size - side, round((size - side) / 2)
    for top, left in ((0, 0), (0, far), (far, 0), (far, far), (middle, middle)):
        part = images[..., top : top + side, left : left + side]
        yield functional.interpolate(part, size=(size, size), mode="bilinear", align_corners=False)


def average(members: Sequence[Loaded], tta: Tta) -> Loaded:
    """One network that answers the mean of the members' answers to all views.

    Classes are aligned by name, in the order of the first. What any member was trained on counts
    as trained on; where one does not say, that is unknown. A threshold stored in a file was
    chosen for one network and one view, so there is none here.

    Raises:
        UsageError: The members have other classes, or see pictures otherwise.
    """
    first = members[0]
    if len(members) == 1 and tta == "none":
        return first
    for other in members[1:]:
        _check_alike(first, other)
    committee = Committee(
        [member.model for member in members],
        temperatures=[member.temperature for member in members],
        orders=[[member.outputs.index(name) for name in first.outputs] for member in members],
        tta=tta,
    )
    return replace(
        first,
        model=committee,
        temperature=1.0,
        threshold=0.0,
        memory=_memory(members),
    )


def _check_alike(first: Loaded, other: Loaded) -> None:
    one, two = (printable(str(each.weights.path)) for each in (first, other))
    if set(first.outputs) != set(other.outputs):
        odd = sorted(set(first.outputs) ^ set(other.outputs))
        shown = ", ".join(printable(name) for name in odd[:5])
        raise UsageError(f"{one} and {two} have other classes ({shown}); average those of one task")
    if first.spec != other.spec:
        sizes = [f"{each.spec.image_size} px, {each.spec.resize}" for each in (first, other)]
        raise UsageError(
            f"{one} sees pictures of {sizes[0]}, {two} of {sizes[1]}; average networks of one size"
        )


def _memory(members: Sequence[Loaded]) -> Memory | None:
    joined = b""
    for member in members:
        if member.weights.fingerprints is None:
            return None
        joined = join_fingerprints(joined, member.weights.fingerprints)
    return Memory(joined)
