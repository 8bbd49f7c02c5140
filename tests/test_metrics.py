"""The figures of a classifier, against scikit-learn, brute force and cases done by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from inceptcli.engine import metrics
from inceptcli.engine.calibration import log_probabilities
from inceptcli.errors import DataError, DivergedError, UsageError


def case(
    *, images: int, classes: int, outputs: int | None = None, seed: int = 0, digits: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Logits with many ties that are right more often than not, and every class present."""
    random = np.random.default_rng(seed)
    labels = np.append(np.arange(classes), random.integers(0, classes, images - classes))
    logits = random.normal(size=(images, outputs or classes))
    logits[np.arange(images), labels] += 1
    return logits.round(digits), labels


def names(count: int) -> list[str]:
    return [f"kind {index}" for index in range(count)]


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_every_figure_equals_scikit_learn(classes, temperature):
    logits, labels = case(images=400, classes=classes)
    figures = metrics.score(
        logits, labels, classes=names(classes), temperature=temperature, intervals=False
    )
    predicted = logits.argmax(axis=1)
    probabilities = np.exp(log_probabilities(logits, temperature=temperature))
    assert figures.accuracy == sk.accuracy_score(labels, predicted)
    assert figures.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert figures.macro_f1 == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert figures.loss == pytest.approx(sk.log_loss(labels, softmax(logits, axis=1)), rel=1e-12)
    assert figures.confusion == tuple(map(tuple, sk.confusion_matrix(labels, predicted).tolist()))
    areas = [sk.roc_auc_score(labels == c, probabilities[:, c]) for c in range(classes)]
    assert figures.auc == pytest.approx(np.mean(areas), rel=1e-12)
    each = sk.precision_recall_fscore_support(labels, predicted)
    for index, of_class in enumerate(figures.classes):
        expected = [*(column[index] for column in each), areas[index]]
        ours = [of_class.precision, of_class.recall, of_class.f1, of_class.support, of_class.auc]
        assert ours == pytest.approx(expected, rel=1e-12)
        assert of_class.specificity == sk.recall_score(labels != index, predicted != index)
        assert of_class.predicted == (predicted == index).sum()
    for k, share in figures.top_k.items():
        assert k < classes
        distinct = logits - 1e-9 * np.arange(classes)  # of equal logits the first is the larger
        assert share == sk.top_k_accuracy_score(labels, distinct, k=k)
    assert list(figures.top_k) == [k for k in (2, 3, 5) if k < classes]


def test_the_area_under_the_curve_counts_ties_half():
    """Brute force over all pairs, on probabilities of which most are equal."""
    random = np.random.default_rng(3)
    probabilities = random.integers(0, 4, (60, 2)) / 4
    labels = random.integers(0, 2, 60)
    ranks = metrics.placements(probabilities, labels)
    for index in (0, 1):
        ours = probabilities[labels == index, index][:, None]
        others = probabilities[labels != index, index][None, :]
        wins = (ours > others) + 0.5 * (ours == others)
        assert ranks[labels == index, index] == pytest.approx(wins.mean(axis=1))
        assert ranks[labels != index, index] == pytest.approx(wins.mean(axis=0))
        area = sk.roc_auc_score(labels == index, probabilities[:, index])
        assert ranks[labels == index, index].mean() == pytest.approx(area)


def test_a_figure_that_the_data_cannot_define_is_none_and_the_means_leave_it_out():
    """Kind 2 has no image; kind 1 is never predicted."""
    logits = np.array([[3.0, 0.0, 1.0], [2.0, 0.0, 1.0], [1.0, 0.0, 2.0], [4.0, 3.0, 2.0]])
    figures = metrics.score(logits, [0, 0, 1, 1], classes=names(3))
    zero, one, two = figures.classes
    assert figures.absent == ("kind 2",)
    assert (two.support, two.groups, two.predicted) == (0, 0, 1)
    assert (two.recall, two.auc, two.precision, two.f1) == (None, None, 0.0, 0.0)
    assert (two.intervals["recall"], two.intervals["auc"]) == (None, None)
    assert (one.precision, one.intervals["precision"], one.recall, one.f1) == (None, None, 0.0, 0.0)
    assert zero.precision == 2 / 3
    assert figures.balanced_accuracy == 0.5
    assert figures.macro_f1 == pytest.approx((0.8 + 0.0) / 2)
    assert figures.auc == (zero.auc + one.auc) / 2


def test_a_set_of_one_class_has_no_area_and_no_specificity():
    figures = metrics.score([[2.0, 1.0], [0.0, 1.0]], [0, 0], classes=names(2))
    assert figures.auc is None
    assert figures.intervals["auc"] is None
    assert figures.classes[0].specificity is None
    assert figures.balanced_accuracy == figures.accuracy == 0.5
    assert figures.binary.sensitivity is None
    assert figures.binary.npv == 1.0


def test_an_output_without_a_class_is_an_error_with_a_column_of_its_own():
    """The tutorial's network: four outputs, two classes."""
    logits = np.array([[9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0], [0, 0, 0, 9.0]])
    outputs = ("Monkeypox", "Others", "output 2 (no class)", "output 3 (no class)")
    figures = metrics.score(logits, [0, 1, 1, 0], classes=outputs[:2], outputs=outputs)
    assert figures.outputs == outputs
    assert figures.confusion == ((1, 0, 0, 1), (0, 1, 1, 0))
    assert figures.accuracy == figures.balanced_accuracy == 0.5
    assert [of_class.precision for of_class in figures.classes] == [1.0, 1.0]
    assert figures.top_k == {}


def test_the_words_of_medicine():
    """Hand-computed: of 5 sick 4 found, of 10 well 7 found, among three named classes."""
    labels = np.array([1] * 5 + [0] * 10)
    predicted = np.array([1, 1, 1, 1, 2] + [0] * 6 + [2] + [1] * 3)
    logits = np.eye(3)[predicted]
    binary = metrics.score(logits, labels, classes=["well", "sick", "odd"], positive="sick").binary
    assert binary.positive == "sick"
    assert (binary.sensitivity, binary.specificity) == (4 / 5, 7 / 10)
    assert (binary.ppv, binary.npv) == (4 / 7, 7 / 8)
    for word, interval in binary.intervals.items():
        assert 0 <= interval.low < getattr(binary, word) < interval.high <= 1
    assert metrics.score(logits, labels, classes=["well", "sick", "odd"]).binary is None
    two = metrics.score(logits[:, :2], labels, classes=["well", "sick"], intervals=False).binary
    assert two.positive == "sick"
    assert two.intervals == {}


def test_an_unknown_positive_class_is_a_mistake_of_usage():
    with pytest.raises(UsageError, match="'kit' is not a class; the classes are 'cat', 'dog'"):
        metrics.score([[1.0, 0.0]], [0], classes=["cat", "dog"], positive="kit")


def test_figures_are_the_same_as_json_that_any_reader_takes():
    logits, labels = case(images=60, classes=4)
    figures = metrics.score(logits, labels, classes=names(4), positive="kind 3")
    plain = figures.to_json()
    assert plain == json.loads(json.dumps(plain, allow_nan=False))
    wanted = "images accuracy balanced_accuracy loss macro_f1 auc classes confusion intervals"
    assert set(wanted.split()) | {"top_k", "binary", "calibration", "outputs"} <= set(plain)
    assert plain["top_k"] == {"2": figures.top_k[2], "3": figures.top_k[3]}
    assert plain["classes"][0]["name"] == "kind 0"
    assert plain["intervals"]["accuracy"] == list(figures.intervals["accuracy"])
    assert plain["confusion"] == [list(row) for row in figures.confusion]


@pytest.mark.parametrize("groups", [None, np.arange(200) // 5])
def test_every_figure_has_an_interval_around_it(groups):
    logits, labels = case(images=200, classes=3)
    figures = metrics.score(logits, labels, classes=names(3), groups=groups)
    everything = [(figures, figures.intervals)]
    everything += [(of_class, of_class.intervals) for of_class in figures.classes]
    seen = 0
    for owner, intervals in everything:
        for name, interval in intervals.items():
            assert interval.low < getattr(owner, name) < interval.high
            seen += 1
    assert seen == 5 + 3 * 5


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_an_interval_has_a_width_even_when_all_is_right_or_all_is_wrong(classes):
    labels = np.arange(40) % classes
    for predicted in (labels, (labels + 1) % max(classes, 2)):
        logits = 5 * np.eye(max(classes, 2))[predicted]
        figures = metrics.score(logits, labels, classes=names(classes), groups=np.arange(40) // 4)
        assert figures.few_groups
        for name in ("accuracy", "balanced_accuracy", "macro_f1"):
            interval = figures.intervals[name]
            assert interval.high - interval.low > 0.2
            assert interval.low <= getattr(figures, name) <= interval.high
        assert figures.intervals["loss"] is None  # all losses are equal: nothing can be told


def test_a_class_of_few_groups_keeps_the_mean_over_classes_uncertain():
    """Three right answers in a small class do not make the balanced accuracy sure."""
    labels = np.array([0] * 1000 + [1] * 3)
    predicted = labels.copy()
    predicted[:100] = 1
    figures = metrics.score(5 * np.eye(2)[predicted], labels, classes=names(2))
    balanced, plain = figures.intervals["balanced_accuracy"], figures.intervals["accuracy"]
    assert balanced.high - balanced.low > 5 * (plain.high - plain.low)


def naive_resamples(
    logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, *, times: int
) -> dict[str, np.ndarray]:
    """Images of resampled groups copied out one by one and scored by scikit-learn."""
    random = np.random.default_rng(1)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    values: dict[str, list[float]] = {"balanced_accuracy": [], "macro_f1": [], "auc": []}
    for _ in range(times):
        drawn = random.integers(0, len(members), len(members))
        rows = np.concatenate([members[group] for group in drawn])
        truth, scores = labels[rows], softmax(logits[rows], axis=1)
        called = logits[rows].argmax(axis=1)
        values["balanced_accuracy"].append(sk.balanced_accuracy_score(truth, called))
        values["macro_f1"].append(sk.f1_score(truth, called, average="macro"))
        values["auc"].append(sk.roc_auc_score(truth, scores, multi_class="ovr"))
    return {name: np.array(column) for name, column in values.items()}


def test_the_vectorised_bootstrap_equals_a_naive_one():
    """Same means and spreads as resampling image by image, the area's linear form included."""
    logits, labels = case(images=360, classes=3, digits=3)
    groups = np.random.default_rng(5).integers(0, 60, 360)
    made = metrics._case(logits, labels, tuple(names(3)), groups=groups, temperature=1.0)
    fast = metrics._resampled(made, seed=0)
    slow = naive_resamples(logits, labels, groups, times=150)
    for name, values in slow.items():
        assert fast[name].mean() == pytest.approx(values.mean(), abs=0.004)
        assert fast[name].std() == pytest.approx(values.std(), rel=0.2)


def test_the_same_seed_gives_the_same_intervals_and_the_order_of_images_does_not_matter():
    logits, labels = case(images=300, classes=3)
    groups = np.arange(300) // 3
    first = metrics.score(logits, labels, classes=names(3), groups=groups, seed=7)
    again = metrics.score(logits, labels, classes=names(3), groups=groups, seed=7)
    other = metrics.score(logits, labels, classes=names(3), groups=groups, seed=8)
    assert first == again
    assert first.intervals["loss"] != other.intervals["loss"]
    shuffled = np.random.default_rng(0).permutation(300)
    moved = metrics.score(
        logits[shuffled], labels[shuffled], classes=names(3), groups=groups[shuffled], seed=7
    )
    assert moved.intervals["macro_f1"] == pytest.approx(first.intervals["macro_f1"], rel=1e-12)


def test_groups_may_have_any_names():
    logits, labels = case(images=90, classes=2)
    numbers = np.arange(90) // 3
    words = [f"{number:02d}/\udce9 猴痘" for number in numbers]
    assert metrics.score(logits, labels, classes=names(2), groups=words) == metrics.score(
        logits, labels, classes=names(2), groups=numbers
    )


def test_mistakes_come_with_the_most_confident_first():
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.01, 0.99], [0.7, 0.3], [0.2, 0.8]])
    labels = np.array([1, 0, 1, 1, 0])  # all wrong but the third; 1 and 3 are equally sure
    assert metrics.mistakes(probabilities, labels, most=10).tolist() == [0, 4, 1, 3]
    assert metrics.mistakes(probabilities, labels, most=2).tolist() == [0, 4]
    assert metrics.mistakes(probabilities, probabilities.argmax(axis=1), most=5).size == 0


def test_curves_equal_scikit_learn():
    random = np.random.default_rng(2)
    scores, truth = random.random(200).round(2), random.random(200) < 0.4
    curve = metrics.curve(scores, truth)
    fpr, tpr, thresholds = sk.roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positive_rate, fpr)
    np.testing.assert_allclose(curve.recall, tpr)
    np.testing.assert_allclose(curve.thresholds, thresholds)
    precision, recall, at = sk.precision_recall_curve(truth, scores)
    np.testing.assert_allclose(curve.precision[1:], precision[:-1][::-1])
    np.testing.assert_allclose(curve.recall[1:], recall[:-1][::-1])
    np.testing.assert_allclose(curve.thresholds[1:], at[::-1])


def test_a_curve_of_an_absent_class_is_undefined_without_a_warning():
    curve = metrics.curve([0.2, 0.4], [False, False])
    assert np.isnan(curve.recall).all()
    assert curve.false_positive_rate.tolist() == [0.0, 0.5, 1.0]


def test_nothing_to_score_and_broken_logits_are_refused():
    with pytest.raises(DataError, match="no images"):
        metrics.score(np.zeros((0, 2)), np.zeros(0, dtype=int), classes=names(2))
    with pytest.raises(DivergedError, match="for 2 of 3 images"):
        metrics.score([[np.inf, 0], [0, 0], [np.nan, 0]], [0, 0, 1], classes=names(2))
    with pytest.raises(ValueError, match="3 classes, 2 outputs"):
        metrics.score([[1.0, 0.0]], [0], classes=names(3))
    with pytest.raises(ValueError, match="label 2"):
        metrics.score([[1.0, 0.0, 0.0]], [2], classes=names(2))
    with pytest.raises(ValueError, match="need 2 groups"):
        metrics.score([[1.0, 0.0], [0.0, 1.0]], [0, 1], classes=names(2), groups=[1])
