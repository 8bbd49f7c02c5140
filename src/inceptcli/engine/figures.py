"""What ``metrics.score`` finds out, as frozen plain values.

A figure that the data cannot define (the recall of a class without images, the precision of one
never predicted) is None, never NaN and never 0.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inceptcli.engine.calibration import Calibration
    from inceptcli.engine.intervals import Interval

    Intervals = dict[str, Interval | None]


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One class against all others; rates are 0 to 1, None where undefined.

    Attributes:
        name: The class.
        support, groups: Images of the class, and groups that have one.
        predicted: Images predicted as the class.
        precision, recall, specificity, f1, auc: The rates.
        intervals: Of these five, by name.
    """

    name: str
    support: int
    groups: int
    predicted: int
    precision: float | None
    recall: float | None
    specificity: float | None
    f1: float | None
    auc: float | None
    intervals: Intervals = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BinaryFigures:
    """The figures of a test for one class, in the words of medicine; None where undefined."""

    positive: str
    sensitivity: float | None
    specificity: float | None
    ppv: float | None
    npv: float | None
    intervals: Intervals = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Everything ``score`` finds out.

    Attributes:
        images, groups: How many.
        few_groups: Whether there are too few groups for a precise interval.
        accuracy: Share of images whose largest logit is that of their class.
        balanced_accuracy: Mean recall of the classes that have images.
        loss: Mean cross-entropy of the logits as they are, without temperature, in nats.
        macro_f1: Mean F1 of the classes that have images.
        auc: Mean one-against-rest area under the ROC curve of those classes.
        classes: One entry a class, in order.
        absent: Names of the classes without an image, left out of the means.
        outputs: Names of the confusion matrix's columns: the classes, then ``class K`` for an
            output K that has no class.
        confusion: Images; rows are true classes, columns predicted outputs.
        top_k: Share of images whose class is among the k largest logits, by k.
        binary: With two classes or a named positive one.
        calibration: Of the probabilities, before and after the temperature.
        intervals: Of accuracy, balanced_accuracy, loss, macro_f1 and auc, by name.
    """

    images: int
    groups: int
    few_groups: bool
    accuracy: float
    balanced_accuracy: float
    loss: float
    macro_f1: float
    auc: float | None
    classes: tuple[ClassFigures, ...]
    absent: tuple[str, ...]
    outputs: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    top_k: dict[int, float]
    binary: BinaryFigures | None
    calibration: Calibration
    intervals: Intervals = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values: lists, dicts with string keys, numbers, None."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return plain
