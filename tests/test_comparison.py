"""Two models on the same images, against enumeration and scipy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from inceptcli.engine import comparison


def test_single_images_have_mcnemars_exact_test():
    random = np.random.default_rng(0)
    for images in (1, 9, 80, 3000):
        a, b = random.random(images) < 0.8, random.random(images) < 0.85
        found = comparison.compare(a, b)
        only_b, only_a = int((b & ~a).sum()), int((a & ~b).sum())
        expected = binomtest(only_b, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert found.p_value == pytest.approx(expected, rel=1e-9)
        assert found.test.startswith("McNemar")
        assert found.differ.tolist() == np.flatnonzero(a != b).tolist()
        assert found.difference == pytest.approx(b.mean() - a.mean())
        assert (found.accuracy_a, found.accuracy_b) == (a.mean(), b.mean())


def test_flipping_whole_groups_equals_trying_every_sign():
    random = np.random.default_rng(1)
    for groups in range(1, 12):
        steps = random.integers(-5, 6, groups)
        totals = [abs(np.dot(signs, steps)) for signs in product((-1, 1), repeat=groups)]
        expected = np.mean(np.array(totals) >= abs(steps.sum()))
        assert comparison.flip_test(steps) == pytest.approx(expected, rel=1e-12)


def test_the_test_is_the_same_by_fourier_transform():
    random = np.random.default_rng(2)
    a, b = random.random(4000), random.random(30_000)
    np.testing.assert_allclose(comparison._convolve(a, b), np.convolve(a, b), rtol=1e-10)


def test_many_groups_agree_with_the_normal_distribution():
    steps = np.random.default_rng(3).integers(-14, 15, 20_000) + (np.arange(20_000) % 100 == 0)
    z = abs(steps.sum()) / np.sqrt((steps.astype(float) ** 2).sum())
    assert comparison.flip_test(steps) == pytest.approx(2 * norm.sf(z), rel=0.02)


def test_a_group_of_copies_is_one_observation():
    """Fourteen images won in one group prove nothing; in fourteen groups they do."""
    worse, better = np.zeros(28, dtype=bool), np.arange(28) < 14
    together = comparison.compare(worse, better, np.arange(28) // 14)
    apart = comparison.compare(worse, better)
    assert together.p_value == 1.0
    assert together.few_groups
    assert "sign-flip" in together.test
    assert apart.p_value == pytest.approx(2 / 2**14)


def test_models_that_agree_everywhere_are_not_proved_equal():
    right = np.arange(100) < 90
    same = comparison.compare(right, right)
    assert (same.difference, same.p_value, same.differ.size) == (0.0, 1.0, 0)
    assert same.interval.low < -0.01
    assert same.interval.high > 0.01


def test_swapping_the_models_turns_the_difference_round():
    random = np.random.default_rng(4)
    a, b, groups = random.random(200) < 0.7, random.random(200) < 0.8, np.arange(200) // 4
    one, other = comparison.compare(a, b, groups), comparison.compare(b, a, groups)
    assert one.difference == -other.difference
    assert one.interval == pytest.approx((-other.interval.high, -other.interval.low))
    assert one.p_value == other.p_value


def test_the_test_is_seldom_wrong_and_the_interval_mostly_right():
    """Two equally good models on 40 groups of 14 copies, 400 times."""
    held = rejected = 0
    for seed in range(400):
        random = np.random.default_rng(seed)
        hard = np.repeat(random.normal(size=40), 14)
        a, b = (
            0.8
            + 0.6 * hard
            + 0.6 * np.repeat(random.normal(size=40), 14)
            + 0.5 * random.normal(size=560)
            > 0
            for _ in range(2)
        )
        found = comparison.compare(a, b, np.repeat(np.arange(40), 14), seed=seed)
        held += found.interval.low <= 0 <= found.interval.high
        rejected += found.p_value <= 0.05
    assert rejected / 400 < 0.08
    assert 0.93 < held / 400 < 0.995


def test_models_on_different_images_cannot_be_compared():
    for a, b in (([True], [True, False]), ([], [])):
        with pytest.raises(ValueError, match="same images"):
            comparison.compare(a, b)
