"""All figures of a classifier from its logits: one confusion matrix and the probabilities.

A figure that the data cannot define (the recall of a class without images, the precision of one
never predicted) is None, never NaN and never 0. All arithmetic is float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from inceptcli.engine.calibration import (
    Floats,
    Labels,
    calibration,
    checked,
    cross_entropy,
    log_probabilities,
)
from inceptcli.engine.figures import BinaryFigures, ClassFigures, Figures
from inceptcli.engine.intervals import (
    FEW_GROUPS,
    Bools,
    Interval,
    effective_size,
    from_resamples,
    group_ids,
    positive_mean,
    proportion,
    resample,
)
from inceptcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inceptcli.engine.figures import Intervals

TOP_K = (2, 3, 5)


class Curve(NamedTuple):
    """One class against all others at every threshold on its probability, descending.

    Row 0 is the threshold that nothing reaches. Rates are NaN where undefined.
    """

    thresholds: Floats  # inf, then each value that occurs
    recall: Floats  # true positive rate
    false_positive_rate: Floats
    precision: Floats


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What all figures are made from."""

    names: tuple[str, ...]
    labels: Labels  # (N,)
    predicted: Labels  # (N,) outputs
    losses: Floats  # (N,)
    ranks: Floats  # (N, C), see ``placements``
    ids: Labels  # (N,) groups from 0 on


def score(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    classes: Sequence[str],
    outputs: Sequence[str] = (),
    groups: npt.ArrayLike | None = None,
    temperature: float = 1.0,
    positive: str | None = None,
    seed: int = 0,
    intervals: bool = True,
) -> Figures:
    """Every figure of one model on one set of images.

    Args:
        logits: (N, outputs), as many outputs as classes or more. Of equal logits the first wins.
        labels: (N,) indices into ``classes``.
        classes: Class names, in the order of the outputs.
        outputs: A name for each output; the classes unless there are more.
        groups: (N,) equal for images that show the same thing; None: each its own.
        temperature: What logits are divided by for probabilities (AUC and calibration).
        positive: The class that a test is for; of two classes the second unless named.
        seed: Of the bootstrap.
        intervals: False leaves them out, since they take most of the time.

    Raises:
        DataError: There is no image.
        DivergedError: A logit is NaN or infinite.
        UsageError: ``positive`` is not a class.
        ValueError: Shapes or labels do not fit.
    """
    scores, truth = checked(logits, labels)
    case = _case(scores, truth, tuple(classes), groups=groups, temperature=temperature)
    names, number = tuple(outputs) or case.names, int(case.ids.max()) + 1
    confusion = confusion_matrix(
        truth, case.predicted, classes=len(classes), outputs=scores.shape[1]
    )
    per_class = _class_figures(case, confusion)
    figures = Figures(
        images=truth.size,
        groups=number,
        few_groups=number < FEW_GROUPS,
        accuracy=float(np.diagonal(confusion).sum() / truth.size),
        balanced_accuracy=_mean_present(per_class, "recall"),
        loss=float(case.losses.mean()),
        macro_f1=_mean_present(per_class, "f1"),
        auc=_known(_mean(_areas(case))),
        classes=per_class,
        absent=tuple(of_class.name for of_class in per_class if not of_class.support),
        outputs=names,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        top_k=_top_k(scores, truth, classes=len(classes)),
        binary=_binary(case, positive, intervals=intervals),
        calibration=calibration(scores, truth, temperature=temperature),
    )
    return _with_intervals(figures, case, seed=seed) if intervals else figures


def confusion_matrix(
    labels: Labels, predicted: Labels, *, classes: int, outputs: int
) -> npt.NDArray[np.int64]:
    """(classes, outputs) int64: images by true class (row) and predicted output (column)."""
    cells = np.bincount(labels * outputs + predicted, minlength=classes * outputs)
    return cells.reshape(classes, outputs).astype(np.int64)


def placements(probabilities: Floats, labels: Labels) -> Floats:
    """Where each image stands among those of the other kind, one column a class.

    In column c, for an image of c: the share of other images with a smaller probability of c;
    for another image: the share of c's images with a larger one; equal ones count half. The mean
    over either kind is the area under the ROC curve (Mann-Whitney), and the column is what each
    image adds to it (DeLong et al., Biometrics 44, 1988, equation 5). NaN where a kind is empty.
    """
    ranks = np.full(probabilities.shape, np.nan)
    for index in range(probabilities.shape[1]):
        is_class = labels == index
        ours, others = probabilities[is_class, index], probabilities[~is_class, index]
        if ours.size and others.size:
            ranks[is_class, index] = _below(others, ours) / others.size
            ranks[~is_class, index] = 1 - _below(ours, others) / ours.size
    return ranks


def mistakes(probabilities: Floats, labels: Labels, *, most: int) -> npt.NDArray[np.int64]:
    """Indices of the wrong predictions, the most confident first, at most ``most``."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:most]


def curve(probabilities: npt.ArrayLike, is_class: npt.ArrayLike) -> Curve:
    """ROC and precision-recall points of one class.

    Args:
        probabilities: (N,) of the class.
        is_class: (N,) bool, whether the image is of the class.
    """
    scores, ours = np.asarray(probabilities, dtype=np.float64), np.asarray(is_class, dtype=bool)
    values, first, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    hits = np.cumsum(np.bincount(first, weights=ours, minlength=values.size))
    hits, called = np.append(0, hits), np.append(0, np.cumsum(counts))
    return Curve(
        thresholds=np.append(np.inf, -values),
        recall=_ratio(hits, np.full_like(hits, ours.sum())),
        false_positive_rate=_ratio(called - hits, np.full_like(hits, (~ours).sum())),
        precision=_ratio(hits, called),
    )


def _case(
    logits: Floats,
    labels: Labels,
    names: tuple[str, ...],
    *,
    groups: npt.ArrayLike | None,
    temperature: float,
) -> _Case:
    if logits.shape[1] < len(names) or labels.max() >= len(names):
        raise ValueError(f"{len(names)} classes, {logits.shape[1]} outputs, label {labels.max()}")
    probabilities = np.exp(log_probabilities(logits, temperature=temperature))
    return _Case(
        names=names,
        labels=labels,
        predicted=logits.argmax(axis=1),
        losses=cross_entropy(logits, labels),
        ranks=placements(probabilities[:, : len(names)], labels),
        ids=group_ids(groups, images=labels.size),
    )


def _below(values: Floats, among: Floats) -> Floats:
    """For each of ``among``, how many ``values`` are smaller, equal ones counting half."""
    ordered = np.sort(values)
    smaller = np.searchsorted(ordered, among, side="left")
    return (smaller + np.searchsorted(ordered, among, side="right")) / 2


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Floats:
    """``part / whole``, NaN where the whole is 0."""
    undefined = np.full(np.shape(whole), np.nan)
    result: Floats = np.divide(part, whole, out=undefined, where=whole > 0)
    return result


def _mean(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN when nothing is left."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))


def _mean_present(classes: tuple[ClassFigures, ...], rate: str) -> float:
    """Mean of a rate over the classes that have images."""
    return float(np.mean([getattr(of_class, rate) for of_class in classes if of_class.support]))


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _class_figures(case: _Case, confusion: npt.NDArray[np.int64]) -> tuple[ClassFigures, ...]:
    hits, support = np.diagonal(confusion), confusion.sum(axis=1)
    called = confusion.sum(axis=0)[: len(case.names)]
    others = case.labels.size - support
    precision, recall = _ratio(hits, called), _ratio(hits, support)
    specificity = _ratio(others - called + hits, others)
    f1, areas = _ratio(2 * hits, support + called), _areas(case)
    return tuple(
        ClassFigures(
            name=name,
            support=int(support[index]),
            groups=np.unique(case.ids[case.labels == index]).size,
            predicted=int(called[index]),
            precision=_known(precision[index]),
            recall=_known(recall[index]),
            specificity=_known(specificity[index]),
            f1=_known(f1[index]),
            auc=_known(areas[index]),
        )
        for index, name in enumerate(case.names)
    )


def _areas(case: _Case) -> Floats:
    """Area under the ROC curve of each class, (C,)."""
    ours = case.labels[:, None] == np.arange(len(case.names))
    return _ratio(np.where(ours, case.ranks, 0).sum(axis=0), ours.sum(axis=0))


def _top_k(logits: Floats, labels: Labels, *, classes: int) -> dict[int, float]:
    """For each k below the number of classes; of equal logits the earlier output is the larger."""
    outputs = np.arange(logits.shape[1])
    of_truth = logits[np.arange(labels.size), labels][:, None]
    ahead = (logits > of_truth) | ((logits == of_truth) & (outputs < labels[:, None]))
    place = ahead.sum(axis=1)
    return {k: float((place < k).mean()) for k in TOP_K if k < classes}


def check_positive(name: str | None, classes: Sequence[str]) -> None:
    """Refuse a positive class that there is not.

    Raises:
        UsageError: It is none of the classes.
    """
    if name is not None and name not in classes:
        choices = ", ".join(repr(known) for known in classes)
        raise UsageError(f"--positive {name!r} is not a class; the classes are {choices}")


def _binary(case: _Case, positive: str | None, *, intervals: bool) -> BinaryFigures | None:
    if positive is None and len(case.names) != 2:
        return None
    name = case.names[1] if positive is None else positive
    check_positive(name, case.names)
    shares = _shares(case, case.names.index(name))
    words = {
        "sensitivity": "recall",
        "specificity": "specificity",
        "ppv": "precision",
        "npv": "npv",
    }
    known = {word: _interval(case, *shares[rate]) for word, rate in words.items()}
    return BinaryFigures(
        positive=name,
        sensitivity=_rate(*shares["recall"]),
        specificity=_rate(*shares["specificity"]),
        ppv=_rate(*shares["precision"]),
        npv=_rate(*shares["npv"]),
        intervals=known if intervals else {},
    )


def _shares(case: _Case, index: int) -> dict[str, tuple[Bools, Bools]]:
    """Rates of one class that are plain shares: among which images, and which of all count."""
    ours, called = case.labels == index, case.predicted == index
    return {
        "precision": (called, ours),
        "recall": (ours, called),
        "specificity": (~ours, ~called),
        "npv": (~called, ~ours),
        "overlap": (ours | called, ours & called),
    }


def _rate(among: Bools, counts: Bools) -> float | None:
    return float(counts[among].mean()) if among.any() else None


def _interval(case: _Case, among: Bools, counts: Bools) -> Interval | None:
    return proportion(counts[among], case.ids[among])


def _balanced_size(case: _Case, right: Bools, *, among: list[Bools]) -> float:
    """The sample size of a mean over kinds of images, at most that of all images together."""
    sizes = [effective_size(right[kind], case.ids[kind]) for kind in among]
    mean_over_kinds = len(sizes) ** 2 / sum(1 / size for size in sizes)
    return min(mean_over_kinds, effective_size(right, case.ids))


def _with_intervals(figures: Figures, case: _Case, *, seed: int) -> Figures:
    """The same figures with 95 % intervals.

    Shares of images have Wilson's; so has F1, which rises with the overlap J of predicted and
    true: F1 = 2 J / (1 + J). The others are bootstrapped over groups, and none is believed more
    precise than the shares of the classes that it is made of.
    """
    samples, groups = _resampled(case, seed=seed), figures.groups
    right = case.predicted == case.labels
    present = [case.labels == index for index in np.unique(case.labels)]
    size = _balanced_size(case, right, among=present)
    overall: Intervals = {
        "accuracy": proportion(right, case.ids),
        "loss": positive_mean(figures.loss, samples["loss"], groups=groups),
    }
    for name in ("balanced_accuracy", "macro_f1", "auc"):
        value = getattr(figures, name)
        overall[name] = from_resamples(value, samples[name], size=size, groups=groups)
    classes = tuple(
        replace(of_class, intervals=_class_intervals(case, index, of_class.auc, samples["areas"]))
        for index, of_class in enumerate(figures.classes)
    )
    return replace(figures, classes=classes, intervals=overall)


def _class_intervals(case: _Case, index: int, auc: float | None, areas: Floats) -> Intervals:
    shares = _shares(case, index)
    known: Intervals = {
        rate: _interval(case, *shares[rate]) for rate in ("precision", "recall", "specificity")
    }
    overlap = _interval(case, *shares["overlap"])
    known["f1"] = overlap and Interval(*(2 * end / (1 + end) for end in overlap))
    known["auc"] = None
    if auc is not None:
        ours, called = shares["recall"]
        size = _balanced_size(case, ours == called, among=[ours, ~ours])
        groups = int(case.ids.max()) + 1
        known["auc"] = from_resamples(auc, areas[:, index], size=size, groups=groups)
    return known


def _resampled(case: _Case, *, seed: int) -> dict[str, Floats]:
    """The bootstrapped figures over groups, each (B,); ``areas`` is AUC by class, (B, C).

    The area is taken as linear in the images' placements (Obuchowski, Biometrics 53, 1997).
    """
    sums = resample(_columns(case), case.ids, seed=seed)
    hits, support, called, above, below = np.moveaxis(
        sums[:, 2:].reshape(len(sums), -1, 5), 2, 0
    )  # each (B, C)
    images, losses = sums[:, :1], sums[:, 1]
    f1 = np.where(support > 0, _ratio(2 * hits, support + called), np.nan)
    areas = _ratio(above, support) + _ratio(below, images - support) - _areas(case)
    return {
        "balanced_accuracy": _mean(_ratio(hits, support)),
        "macro_f1": _mean(f1),
        "auc": _mean(areas),
        "areas": areas,
        "loss": losses / images[:, 0],
    }


def _columns(case: _Case) -> Iterator[npt.NDArray[Any]]:
    """What each image adds to the sums that ``_resampled`` reads, in its order."""
    yield np.ones(case.labels.size)
    yield case.losses
    for index in range(len(case.names)):
        ours, called = case.labels == index, case.predicted == index
        yield from (ours & called, ours, called)
        ranks = case.ranks[:, index]
        yield from (np.where(ours, ranks, 0), np.where(ours, 0, ranks))
