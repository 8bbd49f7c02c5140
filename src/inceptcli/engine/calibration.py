"""Whether probabilities mean what they say, one number that mends them, and when to abstain.

All arithmetic is float64. ``logits`` are (N, outputs), ``labels`` (N,) int64; a network may have
more outputs than there are classes, and a prediction there is simply wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from inceptcli.errors import DataError, DivergedError

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


class Bin(NamedTuple):
    """One bar of a reliability diagram: the images whose confidence is in (low, high]."""

    low: float
    high: float
    images: int
    confidence: float | None  # mean; None without images
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Temperature:
    """What logits are divided by before the softmax; ``note`` says why it could not be fitted."""

    value: float
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far probabilities can be taken at their word; smaller is better.

    Attributes:
        ece: Expected calibration error, 0 to 1.
        brier: Multi-class Brier score, 0 to 2.
        loss: Mean cross-entropy, nats an image.
    """

    ece: float
    brier: float
    loss: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The same logits taken at temperature 1 and at the fitted one."""

    temperature: float
    before: Reliability
    after: Reliability


@dataclass(frozen=True, slots=True)
class Abstention:
    """What is left when predictions below a confidence are marked uncertain.

    Attributes:
        threshold: Least confidence that counts as an answer.
        coverage: Share of images answered, 0 to 1.
        precision: Share of answers that are right; None when nothing is answered.
        answered: Number of images answered.
        images: Number of images in all.
    """

    threshold: float
    coverage: float
    precision: float | None
    answered: int
    images: int


def checked(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Labels]:
    """Logits as float64 (N, outputs) and labels as int64 (N,), or an error.

    Raises:
        DataError: There is no image.
        DivergedError: A logit is NaN or infinite.
        ValueError: The shapes do not fit, or a label has no output.
    """
    scores = np.asarray(logits, dtype=np.float64)
    truth = np.asarray(labels)
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(f"logits {scores.shape} and labels {truth.shape} do not fit")
    if truth.size == 0:
        raise DataError("there are no images to score; give a folder or role that has some")
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise ValueError(f"labels must be whole numbers from 0 to {scores.shape[1] - 1}")
    broken = int((~np.isfinite(scores)).any(axis=1).sum())
    if broken:
        raise DivergedError(
            f"the network gave NaN or infinite logits for {broken} of {truth.size} images; "
            "train again with a lower learning rate or --precision fp32"
        )
    return scores, truth.astype(np.int64)


def log_probabilities(logits: Floats, *, temperature: float = 1.0) -> Floats:
    """Log-softmax of ``logits / temperature`` over the outputs, (N, outputs), all <= 0."""
    if not temperature > 0:
        raise ValueError(f"a temperature is above 0, not {temperature}")
    shifted = (logits - logits.max(axis=1, keepdims=True)) / temperature
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def cross_entropy(logits: Floats, labels: Labels) -> Floats:
    """Loss of each image in nats, (N,), never below 0."""
    return np.abs(log_probabilities(logits)[np.arange(labels.size), labels])  # no -0.0


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Temperature:
    """The temperature that makes the cross-entropy of these images least.

    One number, so neither the predicted class nor accuracy changes (Guo et al., "On Calibration
    of Modern Neural Networks", ICML 2017, section 4.2). The loss is convex in 1 / temperature,
    whose zero of the slope is found by Newton's method kept inside a bracket. Where the images
    cannot tell a temperature it is 1, with a note.
    """
    if np.size(labels) == 0:
        return Temperature(1.0, "no validation images to fit a temperature on")
    scores, truth = checked(logits, labels)
    note = _unfit(scores, truth)
    if note:
        return Temperature(1.0, note)
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    for bound, side in ((low, 1), (high, -1)):
        if side * _slope(scores, truth, bound)[0] >= 0:
            return Temperature(1 / bound, f"the best temperature is beyond the bound {1 / bound:g}")
    inverse = 1.0
    for _ in range(100):
        slope, curvature = _slope(scores, truth, inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        following = inverse - slope / curvature if curvature > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - inverse) <= 1e-13 * inverse:
            break
        inverse = following
    return Temperature(1 / inverse)


def _unfit(logits: Floats, labels: Labels) -> str | None:
    """Why no temperature can be told from these images, if so."""
    if (labels == labels[0]).all():
        return "the validation images are all of one class: no temperature can be told"
    if (logits.argmax(axis=1) == labels).all():
        return "every validation image is classified right: no temperature can be told"
    if np.ptp(logits, axis=1).max() == 0:
        return "every validation image has equal logits: no temperature can be told"
    return None


def _slope(logits: Floats, labels: Labels, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean cross-entropy by 1 / temperature."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(log_probabilities(logits, temperature=1 / inverse))
    expected = (probabilities * shifted).sum(axis=1)
    of_truth = shifted[np.arange(labels.size), labels]
    spread = (probabilities * (shifted - expected[:, None]) ** 2).sum(axis=1)
    return float((expected - of_truth).mean()), float(spread.mean())


def calibration(logits: npt.ArrayLike, labels: npt.ArrayLike, *, temperature: float) -> Calibration:
    """Calibration error, Brier score and loss without and with the temperature."""
    scores, truth = checked(logits, labels)
    before, after = (
        _measure(log_probabilities(scores, temperature=t), truth) for t in (1.0, temperature)
    )
    return Calibration(temperature=temperature, before=before, after=after)


def _measure(log_p: Floats, labels: Labels) -> Reliability:
    """Brier score: G. W. Brier, Monthly Weather Review 78 (1950), equation 2."""
    probabilities, rows = np.exp(log_p), np.arange(labels.size)
    bins = reliability(probabilities, labels)
    probabilities[rows, labels] -= 1
    return Reliability(
        ece=calibration_error(bins),
        brier=float((probabilities**2).sum(axis=1).mean()),
        loss=float(np.abs(log_p[rows, labels]).mean()),
    )


def reliability(probabilities: Floats, labels: Labels) -> list[Bin]:
    """Confidence against accuracy in bins of equal width (Guo et al. 2017, section 2).

    The confidence of an image is the probability of its predicted output; bin m of M holds the
    confidences in ((m - 1) / M, m / M].
    """
    confidence, right = _answers(probabilities, labels)
    edges = np.linspace(0, 1, BINS + 1)
    where = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    images = np.bincount(where, minlength=BINS)
    means = [
        np.bincount(where, weights=values, minlength=BINS) / np.maximum(images, 1)
        for values in (confidence, right)
    ]
    rows = zip(edges[:-1].tolist(), edges[1:].tolist(), images.tolist(), *means, strict=True)
    return [
        Bin(low, high, count, float(sure), float(share)) if count else Bin(low, high, 0, None, None)
        for low, high, count, sure, share in rows
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Expected calibration error: the mean over images of |accuracy - confidence| of their bin.

    Guo et al. 2017, equation 3, with their 15 bins of equal width.
    """
    gaps = [
        b.images * abs(b.accuracy - b.confidence)
        for b in bins
        if b.accuracy is not None and b.confidence is not None
    ]
    return float(sum(gaps) / sum(b.images for b in bins))


def find_threshold(probabilities: Floats, labels: Labels, *, min_precision: float) -> float | None:
    """The smallest confidence from which on at least ``min_precision`` of the answers are right.

    To be found on val and judged on other images: on val itself the precision is flattered,
    since the threshold was chosen there. 0 when nothing need be withheld.

    Returns:
        A threshold on the confidence (answer when >= threshold), or None when none reaches it.
    """
    if not 0 < min_precision <= 1:
        raise ValueError(f"a precision is above 0 and at most 1, not {min_precision}")
    thresholds, _, precision = precision_by_threshold(probabilities, labels)
    reached = np.flatnonzero(precision >= min_precision)
    if reached.size == 0:
        return None
    return 0.0 if reached[0] == 0 else float(thresholds[reached[0]])


def precision_by_threshold(probabilities: Floats, labels: Labels) -> tuple[Floats, Floats, Floats]:
    """At every confidence that occurs, ascending: threshold, coverage and precision, each (M,)."""
    confidence, right = _answers(probabilities, labels)
    order = np.argsort(confidence)
    thresholds, first = np.unique(confidence[order], return_index=True)
    answered = labels.size - first
    precision = np.cumsum(right[order][::-1])[::-1][first] / answered
    return thresholds, answered / labels.size, precision


def abstention(probabilities: Floats, labels: Labels, *, threshold: float) -> Abstention:
    """Coverage and precision when confidences below ``threshold`` are marked uncertain."""
    confidence, right = _answers(probabilities, labels)
    answered = confidence >= threshold
    count = int(answered.sum())
    return Abstention(
        threshold=threshold,
        coverage=count / labels.size if labels.size else 0.0,
        precision=float(right[answered].mean()) if count else None,
        answered=count,
        images=labels.size,
    )


def _answers(probabilities: Floats, labels: Labels) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Confidence of each prediction, and whether it is right."""
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
