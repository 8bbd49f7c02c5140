"""A weights file against labelled photographs: figures, rows, and the files that hold them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inceptcli import __version__
from inceptcli.config import DataConfig
from inceptcli.data.fingerprints import trained_on
from inceptcli.data.labels import listed
from inceptcli.data.prepare import Photos
from inceptcli.engine.calibration import (
    Abstention,
    Bin,
    abstention,
    find_threshold,
    reliability,
)
from inceptcli.engine.comparison import Comparison, compare
from inceptcli.engine.figures import Figures
from inceptcli.engine.metrics import check_positive, mistakes, score
from inceptcli.engine.predict import Network, Watch, nobody, softmax
from inceptcli.errors import DataError, UsageError, WeightsError
from inceptcli.events import Emit, Notice, Warned, silent
from inceptcli.files import printable, write_csv, write_json
from inceptcli.runfolder import CONFIG, SPLIT, is_run, read_settings

if TYPE_CHECKING:
    from inceptcli.engine.device import Device

MAX_PROBABILITY_COLUMNS = 100  # classes up to which predictions.csv has a column for each


@dataclass(frozen=True)
class Evaluation:
    """What a model answered for the photographs of a role, and how good that is.

    Attributes:
        role: "train", "val", "test" or "all".
        classes: The model's class names.
        outputs: A name for each of its outputs; the classes come first.
        names: Paths relative to the data root.
        labels: (N,) int64, indices into ``outputs``.
        groups: (N,) int64, equal for pictures of the same thing.
        logits: (N, C) float32, as the network answers them.
        temperature: What probabilities are computed with; 1 for none.
        positive: The class that a test is for, or None.
        trained_on: (N,) whether the network saw the photograph or a near copy of it in training;
            None when its file does not say.
        knows_all: Whether that is of all it was trained on, the weights it began with included.
        rejected: Files of this role that could not be read.
        weights: The weights file and its digest.
    """

    role: str
    classes: tuple[str, ...]
    outputs: tuple[str, ...]
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    temperature: float
    positive: str | None
    trained_on: npt.NDArray[np.bool_] | None
    knows_all: bool
    rejected: int
    weights: dict[str, Any]

    @cached_property
    def figures(self) -> Figures:
        """All figures, computed when they are first asked for."""
        return score(
            self.logits,
            self.labels,
            classes=self.classes,
            outputs=self.outputs,
            groups=self.groups,
            temperature=self.temperature,
            positive=self.positive,
        )

    def subset(self, chosen: npt.NDArray[np.bool_]) -> Evaluation:
        """The evaluation of some of the photographs."""
        return replace(
            self,
            names=tuple(name for name, keep in zip(self.names, chosen, strict=True) if keep),
            labels=self.labels[chosen],
            groups=self.groups[chosen],
            logits=self.logits[chosen],
            trained_on=None if self.trained_on is None else self.trained_on[chosen],
        )

    def at(self, temperature: float) -> Evaluation:
        """The same answers with another temperature."""
        return replace(self, temperature=temperature)

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """(N, C), each row sums to 1."""
        return softmax(self.logits, self.temperature)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each photograph was answered rightly."""
        result: npt.NDArray[np.bool_] = self.logits.argmax(axis=1) == self.labels
        return result

    def abstention(self, threshold: float) -> Abstention:
        """What is answered, and how well, when answers below a probability are withheld."""
        return abstention(self.probabilities, self.labels, threshold=threshold)

    @property
    def accuracy_counting_rejected(self) -> float:
        """Accuracy if every file that could not be read had been answered wrongly."""
        images = self.figures.images
        return self.figures.accuracy * images / (images + self.rejected)

    def bins(self) -> list[Bin]:
        """Confidence and accuracy of the answers in bins of confidence."""
        return reliability(self.probabilities, self.labels)

    def mistakes(self, most: int) -> list[tuple[str, str, str, float]]:
        """The most confident wrong answers: path, class, answer, its probability."""
        probabilities = self.probabilities
        wrong = mistakes(probabilities, self.labels, most=most)
        answers = probabilities[wrong].argmax(axis=1)
        return [
            (
                self.names[i],
                self.outputs[self.labels[i]],
                self.outputs[a],
                float(probabilities[i, a]),
            )
            for i, a in zip(wrong.tolist(), answers.tolist(), strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """The figures and where they come from; ``metrics.json`` and ``evaluate --json``."""
        return {
            "format": 1,
            "inceptcli": __version__,
            "role": self.role,
            "weights": self.weights,
            "rejected": self.rejected,
            "accuracy_counting_rejected": self.accuracy_counting_rejected,
            "temperature": self.temperature,
            "trained_on": self._seen(),
            **self.figures.to_json(),
        }

    def _seen(self) -> dict[str, Any] | None:
        """How many photographs the network was trained on, which, and accuracy without them."""
        if self.trained_on is None:
            return None
        unseen = self.right[~self.trained_on]
        return {
            "complete": self.knows_all,
            "images": int(self.trained_on.sum()),
            "paths": [name for name, seen in zip(self.names, self.trained_on, strict=True) if seen],
            "accuracy_without": float(unseen.mean()) if len(unseen) else None,
        }


def evaluate(
    network: Network,
    photos: Photos,
    role: str,
    device: Device | None,
    *,
    class_map: Mapping[str, str] | None = None,
    positive: str | None = None,
    emit: Emit = silent,
    watch: Watch = nobody,
) -> Evaluation:
    """Every figure of a model on the photographs of a role, classes aligned by name.

    Raises:
        DataError: The role has no photograph, or a class that the model does not know.
        UsageError: ``positive`` is not a class of the model.
    """
    chosen = photos.indices(role)
    if not len(chosen):
        raise DataError(
            f"no photograph has the role '{role}' in {printable(str(photos.root))}; "
            "choose another --role"
        )
    known = network.classes or network.outputs
    check_positive(positive, known)
    here = {photos.classes[label] for label in photos.labels[chosen]}
    if not network.classes and not class_map and not here <= set(known):
        raise DataError(
            f"{printable(str(network.path))} does not say which classes its {len(known)} outputs "
            "are; name them with --class-names or --classes-from"
        )
    index_of = align(photos.classes, known, class_map or {}, emit, needed=here)
    which, logits = network.infer(photos, role, device, watch=watch)
    return Evaluation(
        role=role,
        classes=tuple(known),
        outputs=network.outputs,
        names=tuple(photos.names[i] for i in which),
        labels=index_of[photos.labels[which]],
        groups=photos.groups[which],
        logits=logits,
        temperature=network.temperature,
        positive=positive,
        trained_on=_trained_on(network, photos, which),
        knows_all=network.memory is not None and network.memory.complete,
        rejected=photos.rejected_of(role) + len(chosen) - len(which),
        weights={"path": str(network.path), "digest": network.digest},
    )


def compare_models(one: Evaluation, other: Evaluation, emit: Emit = silent) -> Comparison:
    """Two models on the same photographs; warns of those that the other was trained on.

    Raises:
        DataError: They were not measured on the same photographs.
    """
    if other.trained_on is not None and other.trained_on.any():
        text = f"{other.trained_on.sum():,} of {len(other.names):,} photographs, or near copies of"
        emit(Warned(f"{text} them, were trained on by the other network: it looks too good"))
    if one.names != other.names:
        raise DataError(
            "the two networks were not measured on the same photographs: some have vanished "
            "meanwhile; run evaluate again"
        )
    return compare(one.right, other.right, one.groups)


def check_choice(photos: Photos, role: str, emit: Emit) -> None:
    """Whether a threshold can be chosen on val, and is measured on other photographs.

    Args:
        photos: With their roles.
        role: What it is measured on.
        emit: Told when those are the ones it is chosen by.

    Raises:
        DataError: There are no photographs of val.
    """
    if not len(photos.indices("val")):
        raise DataError(
            "--min-precision chooses by photographs of val, and there are none; give a --split "
            "that has some"
        )
    if role in ("val", "all"):
        emit(Notice("--min-precision: chosen by photographs measured here, so it looks too good"))


def choose_threshold(val: Evaluation, *, min_precision: float) -> float:
    """The least probability from which on the answers on val are right often enough.

    Raises:
        DataError: No threshold reaches ``min_precision`` there.
    """
    threshold = find_threshold(val.probabilities, val.labels, min_precision=min_precision)
    if threshold is None:
        raise DataError(
            f"no threshold gives a precision of {min_precision:g} on the val photographs; ask for "
            "less with --min-precision"
        )
    return threshold


def save_threshold(path: Path, threshold: float) -> None:
    """Store a threshold in a weights file, for ``predict`` to mark what is below it.

    Raises:
        WeightsError: The file has no record to store it in.
        OutputError: It could not be written.
    """
    from inceptcli.model.weights import load_weights, save_weights  # an exported network has none

    weights = load_weights(path)
    if weights.record is None:
        raise WeightsError(
            f"{printable(str(path))} is a plain script's file without a record; give "
            "predict --threshold instead"
        )
    record = replace(weights.record, threshold=threshold)
    save_weights(path, weights.state_dict, record, fingerprints=weights.fingerprints)


def _trained_on(
    network: Network, photos: Photos, which: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_] | None:
    if network.memory is None:
        return None
    facts = [fact for fact in (photos.facts[i] for i in which) if fact is not None]
    return trained_on(network.memory, [f.content_sha256 for f in facts], [f.look for f in facts])


def default_role(photos: Photos) -> str:
    """The role to measure on when none is named: test, else val, else all."""
    return next((role for role in ("test", "val") if len(photos.indices(role))), "all")


def photos_config(network: Network, given: Mapping[str, Any], *, own: bool = True) -> DataConfig:
    """Which photographs to measure a weights file on.

    Args:
        network: The folder of its file says which photographs it knows.
        given: What the user gave of ``DataConfig``'s fields; without ``root`` they are the run's.
        own: Whether that folder counts; not for several networks, whose roles are others.

    Returns:
        The settings. Where the photographs are the run's own, its ``split.csv`` gives the roles.

    Raises:
        DataError: No photographs were given and the file lies in no run folder, or its settings
            are damaged.
    """
    run = network.path.parent
    # Beside photographs that are named, a config.json may be another program's.
    stands = own and (run / CONFIG).exists() and ("root" not in given or is_run(run))
    stored = read_settings(run) if stands else {}
    if "root" not in given and not stored:
        raise DataError(
            f"which photographs? {printable(str(network.path))} lies in no run folder; "
            "name a folder of them"
        )
    seen = {"image_size": network.spec.image_size, "resize": network.spec.resize}
    try:
        if stored and _is_same(given.get("root", stored["root"]), stored["root"]):
            if "group" in given:
                stored = stored | {"group_file": None}
            settings = stored | {"split": run / SPLIT} | dict(given)
            return DataConfig.from_json(settings | seen)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"the settings in {printable(str(run / CONFIG))} are damaged: {error}; name the "
            "photographs' folder and give a copy of the weights outside it"
        ) from error
    return DataConfig(**(dict(given) | seen))


def _is_same(one: str | Path, other: str | Path) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def align(
    classes: Sequence[str],
    known: Sequence[str],
    class_map: Mapping[str, str],
    emit: Emit,
    *,
    needed: Collection[str],
) -> npt.NDArray[np.int64]:
    """For each class of the data its index among the model's, found by name.

    Args:
        classes: The data's class names.
        known: The model's class names, in the order of its outputs.
        class_map: The user's own: a class of the data -> a class of the model.
        emit: Told of classes of the model that the data lack, and of another order.
        needed: Those of the data's classes that have photographs to be measured; another one
            without a counterpart has the index -1.

    Raises:
        DataError: A class has no counterpart; the message names both lists and near matches.
        UsageError: ``class_map`` names a class that the data have not.
    """
    if strange := [name for name in class_map if name not in classes]:
        raise UsageError(
            f"--map: the data have no class {_list(strange)}; they have {_list(classes)}"
        )
    wanted = [class_map.get(name, name) for name in classes]
    pairs = zip(classes, wanted, strict=True)
    unknown = [name for own, name in pairs if own in needed and name not in known]
    if unknown:
        raise DataError(
            f"the model does not know {_list(unknown)}; it knows {_list(known)}, the data have "
            f"{_list(classes)}; {_map_advice(unknown, known)}"
        )
    absent = [name for name in known if name not in wanted]
    if absent:
        emit(Notice(f"classes of the model without a photograph here: {_list(absent)}"))
    order = [known.index(name) if name in known else -1 for name in wanted]
    if (met := [index for index in order if index >= 0]) != sorted(met):
        emit(Notice("the classes are in another order than the model's; they are taken by name"))
    return np.array(order, dtype=np.int64)


def _map_advice(unknown: Sequence[str], known: Sequence[str]) -> str:
    lower = {name.casefold(): name for name in known}
    for name in unknown:
        near = get_close_matches(name.casefold(), lower, n=1, cutoff=0.75)
        if near:
            pair = f"{printable(name)}={printable(lower[near[0]])}"
            return f"did you mean --map '{pair}'?"
    return f"give --map '{printable(unknown[0])}=CLASS', or leave that folder out"


def _list(names: Sequence[str]) -> str:
    return listed(names, shown=20)


def write_predictions(path: Path, evaluation: Evaluation) -> None:
    """Write ``predictions.csv``: path, class, predicted, probability, correct, one column a class.

    Raises:
        OutputError: It could not be written.
    """
    outputs = evaluation.outputs
    columns = len(outputs) if len(outputs) <= MAX_PROBABILITY_COLUMNS else 0
    header = ["path", "class", "predicted", "probability", "correct"]
    header += [f"p({name})" for name in outputs[:columns]]

    def rows() -> Iterator[list[object]]:
        answers = zip(evaluation.names, evaluation.labels, evaluation.probabilities, strict=True)
        for name, label, probabilities in answers:
            best = int(probabilities.argmax())
            row: list[object] = [name, outputs[label], outputs[best], float(probabilities[best])]
            yield [*row, int(best == label), *map(float, probabilities[:columns])]

    write_csv(path, header, rows())


def write_metrics(path: Path, evaluations: Mapping[str, Evaluation]) -> None:
    """Write ``metrics.json``: one object a role.

    Raises:
        OutputError: It could not be written.
    """
    write_json(path, {role: evaluation.to_json() for role, evaluation in evaluations.items()})
