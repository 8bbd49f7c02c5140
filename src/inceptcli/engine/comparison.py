"""Whether two models differ on the same images, and by how much.

As in ``intervals``, ``groups`` is (N,), equal for images that show the same thing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inceptcli.engine.intervals import (
    FEW_GROUPS,
    Floats,
    Interval,
    Ints,
    alike_size,
    count_by_group,
    group_ids,
    resample,
    student,
    variance_of,
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        accuracy_a, accuracy_b: Share of images each has right, 0 to 1.
        difference: ``accuracy_b - accuracy_a``.
        interval: Of the difference.
        p_value: Of the hypothesis that neither is better.
        test: Name of the test.
        differ: Indices of the images that only one of the two has right, ascending.
        groups: Number of groups.
        few_groups: Whether they are too few for a precise interval.
    """

    accuracy_a: float
    accuracy_b: float
    difference: float
    interval: Interval
    p_value: float
    test: str
    differ: Ints
    groups: int
    few_groups: bool


def compare(
    right_a: npt.ArrayLike,
    right_b: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
) -> Comparison:
    """Two models on the same images; ``right_a`` and ``right_b`` are (N,) bool.

    The interval of the difference comes from a paired bootstrap over groups, widened by one
    group on which the models differ, so that equal predictions do not pass for certainty.
    """
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"two models need the same images, at least one: {a.shape}, {b.shape}")
    ids = group_ids(groups, images=a.size)
    step = b.astype(np.float64) - a
    sizes, steps = count_by_group(ids, step)
    sums = resample((step, np.ones(a.size)), ids, seed=seed)
    spread = variance_of(sums[:, 0] / sums[:, 1], groups=sizes.size)
    spread += 1 / (sizes.size * alike_size(sizes))
    difference = float(step.mean())
    half = student(sizes.size - 1) * math.sqrt(spread)
    single = sizes.size == a.size
    return Comparison(
        accuracy_a=float(a.mean()),
        accuracy_b=float(b.mean()),
        difference=difference,
        interval=Interval(max(-1.0, difference - half), min(1.0, difference + half)),
        p_value=flip_test(steps.astype(np.int64)),
        test="McNemar's exact test" if single else "exact sign-flip test over groups",
        differ=np.flatnonzero(a != b),
        groups=sizes.size,
        few_groups=sizes.size < FEW_GROUPS,
    )


def flip_test(steps: Ints) -> float:
    """Chance of a total at least as far from 0 if each group's sign were a coin's throw.

    Two-sided and exact for any number of groups: sums of whole numbers have few values, and
    their distribution is a product of binomial ones, one for each size of step. Fisher, The
    Design of Experiments, 1935, section 21; with single images it is McNemar's exact test
    (Psychometrika 12, 1947).

    Args:
        steps: (G,) int64, by how many images the one model leads in each group.
    """
    sizes, counts = np.unique(np.abs(steps[steps != 0]), return_counts=True)
    chances = np.ones(1)  # of each sum of the steps taken upwards, from 0 on
    for size, count in zip(sizes, counts, strict=True):
        spaced = np.zeros(size * count + 1)
        spaced[::size] = _coin_throws(int(count))
        chances = _convolve(chances, spaced)
    reach = chances.size - 1
    sums = 2 * np.arange(reach + 1) - reach
    chance = float(chances[np.abs(sums) >= abs(steps.sum())].sum())
    least = math.ldexp(2.0, -min(int(counts.sum()), 1000))  # all signs alike, either way
    return min(1.0, max(chance, least))


def _coin_throws(count: int) -> Floats:
    """Chance of 0 to ``count`` heads in as many throws."""
    from scipy.special import gammaln  # type: ignore[import-untyped]

    heads = np.arange(count + 1)
    ways = gammaln(count + 1) - gammaln(heads + 1) - gammaln(count - heads + 1)
    chances: Floats = np.exp(ways - count * math.log(2))
    return chances


def _convolve(a: Floats, b: Floats) -> Floats:
    """Distribution of a sum of two; by Fourier transform (to 1e-15) where that pays."""
    if a.size * b.size < 10**8:
        return np.convolve(a, b)
    length = a.size + b.size - 1
    product = np.fft.irfft(np.fft.rfft(a, length) * np.fft.rfft(b, length), length)
    return np.maximum(product, 0.0)
