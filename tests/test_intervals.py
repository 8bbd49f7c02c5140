"""Intervals: against scipy, and by how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from inceptcli.engine import intervals, metrics

COPIES = 14


def copies_right(
    *, accuracy: float, alike: float, groups: int, copies: int, seed: int, times: int
) -> np.ndarray:
    """(times, groups, copies) bool; each group has its own chance of being right.

    The chance is drawn from a beta distribution whose mean is the accuracy; ``alike`` is the
    correlation of two copies, from 0 (independent) to 1 (all right or all wrong).
    """
    random = np.random.default_rng(seed)
    if alike == 1:
        chance = (random.random((times, groups)) < accuracy).astype(float)
    else:
        weight = (1 - alike) / alike
        chance = random.beta(accuracy * weight, (1 - accuracy) * weight, (times, groups))
    return random.random((times, groups, copies)) < chance[..., None]


def coverage(*, accuracy: float, alike: float, groups: int, seed: int, times: int) -> float:
    """Share of simulated test sets whose interval holds the true accuracy."""
    drawn = copies_right(
        accuracy=accuracy, alike=alike, groups=groups, copies=COPIES, seed=seed, times=times
    )
    names = np.repeat(np.arange(groups), COPIES)
    found = [intervals.proportion(right.ravel(), names) for right in drawn]
    return float(np.mean([low <= accuracy <= high for low, high in found]))


@pytest.mark.parametrize("images", [30, 60, 100, 300, 1000])
def test_single_images_are_covered_as_promised(images):
    """Exact, not simulated: the chance of each count times whether its interval holds the truth.

    A count is a whole number, so single accuracies come out between 0.93 and 0.98; their mean
    must be right.
    """
    counts = np.arange(images + 1)
    ends = np.array([intervals.proportion(np.arange(images) < count) for count in counts])
    accuracies = np.linspace(0.6, 0.95, 71)
    covered = [
        binom.pmf(counts, images, p)[(ends[:, 0] <= p) & (p <= ends[:, 1])].sum()
        for p in accuracies
    ]
    assert 0.94 <= np.mean(covered) <= 0.96
    assert min(covered) > 0.92


@pytest.mark.parametrize(
    ("groups", "accuracy", "alike"),
    [(30, 0.6, 0.9), (30, 0.8, 0.5), (30, 0.9, 0.8), (60, 0.95, 0.7), (60, 0.7, 0.3)],
)
def test_copies_are_covered_as_promised(groups, accuracy, alike):
    """The short form of the sweep below; 0.005 on either side for 2,000 drawn sets."""
    covered = coverage(accuracy=accuracy, alike=alike, groups=groups, seed=1, times=2000)
    assert 0.925 <= covered <= 0.975


@pytest.mark.slow
@pytest.mark.parametrize("groups", [30, 60, 150])
@pytest.mark.parametrize("alike", [0.1, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("accuracy", [0.6, 0.7, 0.8, 0.9, 0.95])
def test_copies_are_covered_everywhere(groups, accuracy, alike):
    """Never too narrow; with 30 groups and an accuracy of 0.95 a little too wide at times."""
    covered = coverage(accuracy=accuracy, alike=alike, groups=groups, seed=2, times=8000)
    assert 0.925 <= covered <= (0.99 if groups == 30 and accuracy == 0.95 else 0.978)


def test_without_groups_the_same_copies_would_be_covered_far_too_seldom():
    """What the groups are for: Wilson on 14 copies each covers half as often as it says."""
    drawn = copies_right(accuracy=0.8, alike=0.9, groups=40, copies=COPIES, seed=3, times=500)
    found = [intervals.proportion(right.ravel()) for right in drawn]
    assert np.mean([low <= 0.8 <= high for low, high in found]) < 0.6


def latent(*, groups: int, copies: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of two classes whose copies share seven tenths of their noise."""
    random = np.random.default_rng(seed)
    labels = np.repeat(random.permutation(np.arange(groups) % 2), copies)
    shared = np.repeat(random.normal(size=(groups, 2)), copies, axis=0)
    own = random.normal(size=(groups * copies, 2))
    logits = np.sqrt(0.7) * shared + np.sqrt(0.3) * own
    logits[np.arange(labels.size), labels] += 1.5
    return logits, labels, np.repeat(np.arange(groups), copies)


def covered_figures(*, groups: int, copies: int, times: int) -> dict[str, float]:
    logits, labels, _ = latent(groups=100_000, copies=1, seed=99)
    truth = metrics.score(logits, labels, classes=["a", "b"], intervals=False)
    held = dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1", "auc", "loss"), 0)
    for seed in range(times):
        logits, labels, names = latent(groups=groups, copies=copies, seed=seed)
        found = metrics.score(logits, labels, classes=["a", "b"], groups=names, seed=seed)
        for name in held:
            low, high = found.intervals[name]
            held[name] += low <= getattr(truth, name) <= high
    return {name: count / times for name, count in held.items()}


def test_bootstrapped_figures_are_covered():
    """200 drawn sets tell a coverage to 0.03 either way; the slow form is sharper."""
    for name, share in covered_figures(groups=60, copies=COPIES, times=200).items():
        assert 0.90 <= share <= 0.99, name


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "copies"), [(30, 1), (30, COPIES), (100, 1), (100, COPIES)])
def test_bootstrapped_figures_are_covered_everywhere(groups, copies):
    """A skewed loss is the hardest: from 30 images its mean is covered 0.92 of the time."""
    for name, share in covered_figures(groups=groups, copies=copies, times=1000).items():
        assert (0.895 if name == "loss" else 0.92) <= share <= 0.985, name


@pytest.mark.parametrize(("hits", "images"), [(0, 5), (5, 5), (7, 10), (99, 100), (1, 1)])
def test_single_images_have_the_interval_of_wilson(hits, images):
    expected = binomtest(hits, images).proportion_ci(method="wilson")
    ours = intervals.proportion(np.arange(images) < hits)
    assert ours == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert ours == intervals.proportion(np.arange(images) < hits, [f"g{i}" for i in range(images)])


def test_copies_that_are_wholly_alike_count_as_their_originals():
    right = np.arange(100) < 83
    originals = intervals.proportion(right)
    copied = intervals.proportion(np.repeat(right, COPIES), np.repeat(np.arange(100), COPIES))
    assert copied == pytest.approx(originals, abs=0.002)


def test_the_effective_size_follows_kish_for_independent_and_alike_copies():
    random = np.random.default_rng(4)
    ids = np.repeat(np.arange(2000), 10)
    independent = intervals.effective_size(random.random(20_000) < 0.8, ids)
    alike = intervals.effective_size(np.repeat(random.random(2000) < 0.8, 10), ids)
    assert independent == pytest.approx(20_000, rel=0.05)
    assert alike == pytest.approx(2000, rel=0.01)


def test_all_right_counts_groups_and_not_images():
    right, names = np.ones(420, dtype=bool), np.repeat(np.arange(30), COPIES)
    assert intervals.proportion(right, names) == intervals.proportion(np.ones(30, dtype=bool))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40))
def test_an_interval_holds_its_figure_and_is_never_of_zero_width(answers):
    right, names = (np.array(column) for column in zip(*answers, strict=True))
    low, high = intervals.proportion(right, names)
    assert 0 <= low <= right.mean() <= high <= 1
    assert high - low > 0.05


def test_no_images_no_interval():
    assert intervals.proportion([]) is None


@pytest.mark.parametrize("groups", [50, 5000])
def test_resamples_spread_as_theory_says(groups):
    """Also where groups are put together first: the mean of N draws has sd / sqrt(N)."""
    values = np.random.default_rng(0).exponential(size=groups)
    sums = intervals.resample((values, np.ones(groups)), np.arange(groups), seed=0, times=4000)
    means = sums[:, 0] / sums[:, 1]
    found = np.sqrt(intervals.variance_of(means, groups=groups))
    assert found == pytest.approx(values.std(ddof=1) / np.sqrt(groups), rel=0.06)
    assert means.mean() == pytest.approx(values.mean(), rel=0.01)


def test_a_loss_has_an_interval_above_zero_or_none():
    samples = np.array([0.9, 1.0, 1.1, np.nan])
    low, high = intervals.positive_mean(1.0, samples, groups=50)
    assert 0 < low < 1 < high
    assert low * high == pytest.approx(1)
    assert intervals.positive_mean(1.0, np.ones(9), groups=50) is None
    assert intervals.positive_mean(1.0, samples, groups=1) is None


def test_folds_are_pooled_over_all_their_images():
    rights = [np.arange(20) < 15, np.arange(30) < 27, np.arange(10) < 8]
    groups = [np.arange(20), np.arange(30) + 20, np.arange(10) + 50]
    pooled = intervals.pool(rights, groups)
    assert (pooled.folds, pooled.accuracy) == (3, 50 / 60)
    assert pooled.mean == pytest.approx((0.75 + 0.9 + 0.8) / 3)
    assert pooled.std == pytest.approx(np.std([0.75, 0.9, 0.8], ddof=1))
    assert pooled.interval == intervals.proportion(np.concatenate(rights))


def test_a_repeat_of_the_same_images_makes_the_pooled_interval_no_narrower():
    right, groups = np.arange(100) < 80, np.arange(100)
    once, thrice = (intervals.pool([right] * n, [groups] * n) for n in (1, 3))
    assert once.std is None
    assert thrice.std == 0
    assert thrice.interval == pytest.approx(once.interval, abs=0.002)


def test_pooling_nothing_is_refused():
    for rights, groups in (([], []), ([[True], []], [[1], []])):
        with pytest.raises(ValueError, match="at least one fold"):
            intervals.pool(rights, groups)
