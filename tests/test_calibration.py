"""Temperature, calibration error, Brier score and the right to abstain."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss

from inceptcli.engine import calibration as cal
from inceptcli.errors import DataError, DivergedError


def overconfident(
    *, images: int = 4000, outputs: int = 4, sharpness: float = 3.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax would be true were they divided by ``sharpness``."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 1.5, (images, outputs))
    chances = softmax(honest, axis=1)
    labels = (chances.cumsum(axis=1) > random.random((images, 1))).argmax(axis=1)
    return honest * sharpness, labels


def loss_at(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return -log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean()


def test_log_probabilities_equal_scipy_even_far_out():
    logits = np.array([[1.0, 2.0, 3.0], [1e4, -1e4, 0.0], [-800.0, -800.0, -801.0]])
    for temperature in (0.05, 1.0, 20.0):
        ours = cal.log_probabilities(logits, temperature=temperature)
        np.testing.assert_allclose(ours, log_softmax(logits / temperature, axis=1), rtol=1e-13)


def test_the_loss_equals_scikit_learn_and_is_never_minus_zero():
    logits, labels = overconfident(images=300)
    ours = cal.cross_entropy(logits, labels).mean()
    assert ours == pytest.approx(log_loss(labels, softmax(logits, axis=1)), rel=1e-12)
    assert str(cal.cross_entropy(np.array([[900.0, 0.0]]), np.array([0]))[0]) == "0.0"


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 3.0, 15.0])
def test_the_temperature_is_where_an_independent_search_finds_the_least_loss(sharpness):
    logits, labels = overconfident(sharpness=sharpness)
    fitted = cal.fit_temperature(logits, labels)
    search = minimize_scalar(
        lambda inverse: loss_at(logits, labels, 1 / inverse),
        bounds=(0.05, 20),
        method="bounded",
        options={"xatol": 1e-12},
    )
    assert fitted.note is None
    assert fitted.value == pytest.approx(1 / search.x, rel=1e-6)
    assert fitted.value == pytest.approx(sharpness, rel=0.1)
    for other in (fitted.value * 0.999, fitted.value * 1.001, 1.0):
        assert loss_at(logits, labels, fitted.value) <= loss_at(logits, labels, other)


def test_the_temperature_mends_overconfidence_and_changes_no_prediction():
    logits, labels = overconfident()
    temperature = cal.fit_temperature(logits, labels).value
    fresh, truth = overconfident(seed=1)
    both = cal.calibration(fresh, truth, temperature=temperature)
    assert both.temperature == temperature
    assert both.after.ece < both.before.ece / 4
    assert both.after.brier < both.before.brier
    assert both.after.loss < both.before.loss
    cooled = cal.log_probabilities(fresh, temperature=temperature)
    assert (cooled.argmax(axis=1) == fresh.argmax(axis=1)).all()


@pytest.mark.parametrize(
    ("logits", "labels", "why"),
    [
        (np.zeros((0, 3)), [], "no validation images"),
        ([[2.0, 1.0], [0.0, 3.0]], [0, 1], "every validation image is classified right"),
        ([[2.0, 1.0], [0.0, 3.0]], [0, 0], "all of one class"),
        ([[5.0], [4.0]], [0, 0], "all of one class"),
        ([[1.0, 1.0], [2.0, 2.0]], [0, 1], "equal logits"),
    ],
)
def test_where_no_temperature_can_be_told_it_is_one_and_says_why(logits, labels, why):
    fitted = cal.fit_temperature(logits, labels)
    assert fitted.value == 1.0
    assert why in fitted.note


@pytest.mark.parametrize(
    ("logits", "labels", "bound"),
    [
        ([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]], [1, 1, 0], cal.MAX_TEMPERATURE),  # all wrong
        ([[1e-6, 0.0]] * 9 + [[0.0, 1e-6]] * 9, [0] * 8 + [1] * 10, cal.MIN_TEMPERATURE),
    ],
)
def test_a_temperature_beyond_the_bounds_stops_there_and_says_so(logits, labels, bound):
    fitted = cal.fit_temperature(logits, labels)
    assert fitted.value == bound
    assert "beyond the bound" in fitted.note


def test_calibration_error_by_hand():
    """15 bins of equal width, the upper edge belongs to the bin, and 0 to the first."""
    probabilities = np.array([[0.6, 0.4], [0.62, 0.38], [0.2, 0.8], [0.9, 0.1], [1.0, 0.0]])
    labels = np.array([0, 1, 1, 1, 0])
    bins = cal.reliability(probabilities, labels)
    filled = {round(b.high * 15): (b.images, b.confidence, b.accuracy) for b in bins if b.images}
    assert filled == {
        9: (1, 0.6, 1.0),  # 9 / 15 = 0.6 exactly: the edge below belongs here
        10: (1, 0.62, 0.0),
        12: (1, 0.8, 1.0),
        14: (1, 0.9, 0.0),
        15: (1, 1.0, 1.0),
    }
    assert len(bins) == 15
    assert bins[0] == (0.0, 1 / 15, 0, None, None)
    assert cal.calibration_error(bins) == pytest.approx((0.4 + 0.62 + 0.2 + 0.9 + 0.0) / 5)


def test_calibration_error_equals_a_loop_over_images():
    logits, labels = overconfident(images=500)
    probabilities = softmax(logits, axis=1)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.sum() / 500 * gap
    both = cal.calibration(logits, labels, temperature=2.0)
    assert both.before.ece == pytest.approx(expected, abs=1e-12)


def test_brier_score_equals_its_definition():
    logits, labels = overconfident(images=200)
    both = cal.calibration(logits, labels, temperature=3.0)
    for score, temperature in ((both.before, 1.0), (both.after, 3.0)):
        wrong = softmax(logits / temperature, axis=1) - np.eye(4)[labels]
        assert score.brier == pytest.approx((wrong**2).sum(axis=1).mean(), rel=1e-12)
    worst = cal.calibration([[800.0, 0.0]], [1], temperature=1.0)
    assert worst.before.brier == 2.0


def brute_threshold(confidence: np.ndarray, right: np.ndarray, wanted: float) -> float | None:
    for threshold in [0.0, *np.unique(confidence)]:
        answered = confidence >= threshold
        if right[answered].mean() >= wanted:
            return float(threshold)
    return None


@pytest.mark.parametrize("wanted", [0.3, 0.6, 0.8, 0.95, 1.0])
def test_the_threshold_is_the_smallest_that_reaches_the_precision(wanted):
    for seed in range(30):
        logits, labels = overconfident(images=40, sharpness=1.0, seed=seed)
        probabilities = softmax(logits, axis=1).round(2)  # with ties
        right = probabilities.argmax(axis=1) == labels
        expected = brute_threshold(probabilities.max(axis=1), right, wanted)
        found = cal.find_threshold(probabilities, labels, min_precision=wanted)
        assert found == expected
        if found is not None:
            left = cal.abstention(probabilities, labels, threshold=found)
            assert left.precision >= wanted
            assert left.coverage == left.answered / 40


def test_a_precision_out_of_reach_gives_no_threshold():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert cal.find_threshold(probabilities, np.array([1, 1]), min_precision=0.99) is None
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        cal.find_threshold(probabilities, np.array([1, 1]), min_precision=1.5)


def test_when_all_is_withheld_the_precision_is_unknown():
    left = cal.abstention(np.array([[0.6, 0.4]]), np.array([0]), threshold=0.99)
    assert (left.coverage, left.precision, left.answered) == (0.0, None, 0)


def test_bad_logits_are_refused_by_name():
    with pytest.raises(DivergedError, match="NaN or infinite logits for 1 of 2 images"):
        cal.checked([[1.0, np.nan], [0.0, 0.0]], [0, 1])
    with pytest.raises(DataError, match="no images to score"):
        cal.checked(np.zeros((0, 2)), np.zeros(0, dtype=np.int64))
    for labels in ([0, 2], [-1, 0], [0.0, 1.0], [0]):
        with pytest.raises(ValueError, match="labels"):
            cal.checked([[1.0, 0.0], [0.0, 0.0]], labels)
    with pytest.raises(ValueError, match="temperature"):
        cal.log_probabilities(np.zeros((1, 2)), temperature=0.0)
