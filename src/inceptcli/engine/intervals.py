"""How far a figure can be trusted: 95 % intervals.

Copies of one photograph are not independent observations, so everything here takes ``groups``:
(N,) names or numbers, equal for images that show the same thing; None means that every image is
a group of its own. Below ``FEW_GROUPS`` groups no interval is precise, and that should be said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FEW_GROUPS = 30
RESAMPLES = 1000
MOST_RESAMPLED = 2000  # groups; more are put together at random, see ``resample``
Z = NormalDist().inv_cdf(0.975)


class Interval(NamedTuple):
    """A 95 % interval, both ends included. Never of zero width."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Pooled:
    """One accuracy from several folds or repeats.

    Attributes:
        folds: Number of them.
        mean, std: Over the folds' accuracies; std has n - 1 below, None for one fold.
        accuracy: Over all their images.
        interval: Of ``accuracy``.
    """

    folds: int
    mean: float
    std: float | None
    accuracy: float
    interval: Interval


def group_ids(groups: npt.ArrayLike | None, *, images: int) -> Ints:
    """Groups as numbers 0 to G - 1, (N,) int64."""
    if groups is None:
        return np.arange(images, dtype=np.int64)
    names = np.asarray(groups)
    if names.shape != (images,):
        raise ValueError(f"{images} images need {images} groups, not {names.shape}")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def count_by_group(ids: Ints, values: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Size of each group that occurs, and its sum of ``values``."""
    sizes, sums = np.bincount(ids), np.bincount(ids, weights=values)
    return sizes[sizes > 0].astype(np.float64), sums[sizes > 0].astype(np.float64)


def proportion(right: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Interval | None:
    """Interval of the share of True in ``right``, (N,) bool; None without images.

    Wilson's score interval (JASA 22, 1927) when every group is one image, else the same on the
    effective sample size.
    """
    hits = np.asarray(right, dtype=bool)
    if hits.size == 0:
        return None
    size = effective_size(hits, group_ids(groups, images=hits.size))
    return wilson(float(hits.mean()), size)


def wilson(value: float, size: float) -> Interval:
    """Wilson's interval for a share ``value`` of ``size`` (effective) observations."""
    square = Z**2 / size
    centre = (value + square / 2) / (1 + square)
    half = math.sqrt(square * (value * (1 - value) + square / 4)) / (1 + square)
    return Interval(max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value)))


def effective_size(right: Bools, ids: Ints) -> float:
    """How many independent images tell as much about the share of True as these do.

    N / design effect; the design effect is the variance of the share between groups (ratio
    estimate, linearised: Cochran, Sampling Techniques, 1977, section 9A.9) over the binomial one.
    """
    sizes, hits = count_by_group(ids, right)
    images, groups = right.size, sizes.size
    if groups == images:
        return float(images)
    share = float(right.mean())
    variance = _between(hits - share * sizes) / images**2
    size = share * (1 - share) / variance if variance > 0 else math.inf
    mixed = min(int((hits > 0).sum()), int((hits < sizes).sum()))
    return _steadied(min(size, images), mixed=mixed, alike=alike_size(sizes))


def from_resamples(
    value: float | None, samples: Floats, *, size: float, groups: int
) -> Interval | None:
    """Interval of a figure between 0 and 1 from its bootstrap over groups.

    Wilson's form on the sample size that the bootstrap's variance amounts to: it stays within
    0 and 1, leans the right way near the ends, and keeps a width when all resamples are equal.

    Args:
        value: The figure; the interval of None is None.
        samples: (B,) its resamples; NaN where one lacks a class.
        size: The largest sample size to believe in.
        groups: Number of groups.
    """
    if value is None:
        return None
    spread = variance_of(samples, groups=groups)
    if spread > 0 and 0 < value < 1:
        size = min(size, value * (1 - value) / spread)
    return wilson(value, size)


def positive_mean(value: float, samples: Floats, *, groups: int) -> Interval | None:
    """Interval of a mean above 0 (a loss): Student's, on the scale of logarithms.

    None where the images cannot tell: a single group, or all of exactly the same value.
    """
    error = math.sqrt(variance_of(samples, groups=groups))
    if not error > 1e-9 * value > 0:  # less is only rounding
        return None
    factor = math.exp(student(groups - 1) * error / value)
    return Interval(value / factor, value * factor)


def resample(
    columns: Iterable[npt.NDArray[Any]], ids: Ints, *, seed: int, times: int = RESAMPLES
) -> Floats:
    """Bootstrap over groups (Davison and Hinkley, Bootstrap Methods, 1997, section 3.8).

    Whole groups are drawn with replacement, as many as there are; a figure that is a function
    of sums over images is then the same function of each row returned. More than
    ``MOST_RESAMPLED`` groups are first put together at random into that many, which leaves the
    variance right and its error small (Wolter, Introduction to Variance Estimation, 2007, ch. 2).

    Args:
        columns: K arrays (N,), what each image adds to each sum.
        ids: (N,) groups from 0 on.
        seed: Same seed, same resamples.
        times: Number of resamples B.

    Returns:
        (B, K) sums of each resample.
    """
    random = np.random.default_rng(seed)
    groups = int(ids.max()) + 1
    if groups > MOST_RESAMPLED:
        ids = random.permutation(groups)[ids] % MOST_RESAMPLED
        groups = MOST_RESAMPLED
    sums = np.stack([np.bincount(ids, weights=column, minlength=groups) for column in columns], 1)
    draws = random.multinomial(groups, np.full(groups, 1 / groups), size=times)
    result: Floats = draws.astype(np.float64) @ sums
    return result


def pool(rights: Sequence[npt.ArrayLike], groups: Sequence[npt.ArrayLike]) -> Pooled:
    """Accuracy over folds or repeats, each with its own images (bool) and their groups.

    Folds share training images, so the spread of their figures is no measure of certainty
    (Bengio and Grandvalet, JMLR 5, 2004). The interval is that of all images together, an image
    that several repeats saw being one group.
    """
    hits = [np.asarray(right, dtype=bool) for right in rights]
    together = np.concatenate(hits or [np.zeros(0, dtype=bool)])
    interval = proportion(together, np.concatenate([np.zeros(0), *map(np.asarray, groups)]))
    if interval is None or not all(right.size for right in hits):
        raise ValueError("pooling needs at least one fold, and an image in each")
    shares = [float(right.mean()) for right in hits]
    return Pooled(
        folds=len(shares),
        mean=fmean(shares),
        std=stdev(shares) if len(shares) > 1 else None,
        accuracy=float(together.mean()),
        interval=interval,
    )


def variance_of(samples: Floats, *, groups: int) -> float:
    """Variance of a figure from its resamples, those that are NaN left out; 0 without any."""
    known = samples[~np.isnan(samples)]
    if known.size < 2 or groups < 2:
        return 0.0
    return float(known.var(ddof=1)) * groups / (groups - 1)


def _between(residuals: Floats) -> float:
    """Variance of the sum of independent group residuals; 0 for a single group."""
    groups = residuals.size
    return float((residuals**2).sum()) * groups / (groups - 1) if groups > 1 else 0.0


def alike_size(sizes: Floats) -> float:
    """Number of independent images if those of a group are wholly alike (Kish 1965, 11.7)."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _steadied(size: float, *, mixed: int, alike: float) -> float:
    """An effective sample size that does not trust a handful of mistakes too far.

    When one or two groups hold all the mistakes, how alike copies are cannot be told from them,
    and by chance the design effect comes out too small. So one group whose images are wholly
    alike is put beside the ``mixed`` groups that speak: those with a mistake or, if fewer, with
    a right answer. Without any, groups are counted, not images. Our own remedy; the simulation
    in tests/test_intervals.py shows what it is for.
    """
    return (mixed + 1) / (mixed / size + 1 / alike)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # a tenth of a second

    return float(stdtrit(max(freedom, 1), 0.975))
