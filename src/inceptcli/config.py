"""Every setting of a training and its default, written once. Imports no torch.

``TrainConfig()`` is the default recipe; ``RECIPES`` holds what another recipe sets otherwise;
``resolve`` puts what the user typed on top and remembers where each value came from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, get_type_hints

from inceptcli.errors import UsageError

Recipe = Literal["default", "tutorial"]
Arch = Literal["inception_v1", "inception_v1_bn", "inception_v1_aux", "googlenet"]
Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "cosine"]
Resize = Literal["stretch", "crop", "pad"]
Flips = Literal["none", "h", "hv"]
Tta = Literal["none", "flips", "crops"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Monitor = Literal["val_accuracy", "val_balanced_accuracy", "val_loss"]
ClassWeights = Literal["none", "balanced", "auto"]
Role = Literal["train", "val", "test"]

ROLES: tuple[Role, ...] = get_args(Role)
IMAGENET = "imagenet"  # torchvision's weights, as a value of --weights
MIN_IMAGE_SIZE = 32
MAX_IMAGE_SIZE = 2048
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's red, green and blue, as the tutorial has them
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which photographs, how they are divided, and how the network sees them.

    Attributes:
        root: The folder of class folders, or of ``train/ val/ [test/]``.
        split: A ``split.csv`` that says which file has which role.
        labels: A CSV of path and class for a flat folder: ``FILE`` or ``FILE:PATH,CLASS`` with
            the names or positions of its two columns.
        group: ``auto``, ``none`` or a regular expression whose first bracket names the group.
        group_file: A CSV of path and group.
        ratio: Parts of train, val and (with three numbers) test.
        stratify: Whether every class is divided by the same ratio.
        seed: Of the division and of everything random in training.
        image_size: Height and width of the network's input, pixels.
        resize: How a picture of another shape becomes a square.
        follow_links: Whether links to folders outside ``root`` are entered.
        allow_empty: Whether a class without pictures is left out instead of refused.
        max_bad: The part of unusable files, 0 to 1, above which the data are refused.
        max_megapixels: Larger pictures are rejected from their header.
        cache: ``auto``, ``ram``, ``disk``, ``none`` or a folder.
        workers: Decoding processes; None: as many as there are processors.
    """

    root: Path
    split: Path | None = None
    labels: str | None = None
    group: str = "auto"
    group_file: Path | None = None
    ratio: tuple[float, ...] = (0.8, 0.1, 0.1)
    stratify: bool = True
    seed: int = 42
    image_size: int = 224
    resize: Resize = "stretch"
    follow_links: bool = False
    allow_empty: bool = False
    max_bad: float = 0.05
    max_megapixels: float = 150.0
    cache: str = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        """Check every value against its type's choices and its range.

        Raises:
            UsageError: A value does not fit; the message names the option.
        """
        hints = get_type_hints(type(self))
        for item in fields(self):
            _check(item.name, getattr(self, item.name), get_args(hints[item.name]))
        check_ratio(self.ratio)

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values, in the order of their definition."""
        return {item.name: plain(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The settings that ``to_json`` wrote; names that this version does not know are left.

        Raises:
            TypeError, ValueError: They are others.
        """
        hints = get_type_hints(cls)
        known = {name: value for name, value in values.items() if name in hints}
        for name, value in known.items():
            if value is None and type(None) not in get_args(hints[name]):
                raise ValueError(f"{name} has no value")
            if value is not None and Path in (hints[name], *get_args(hints[name])):
                known[name] = Path(value)
        for name in ("ratio", "train_sizes"):
            if name in known:
                known[name] = tuple(known[name])
        return cls(**known)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataConfig):
    """One training, complete. Each default here and above is the default recipe's."""

    recipe: Recipe = "default"
    arch: Arch = "inception_v1_bn"  # norm in the stem as well: trains faster from random weights
    epochs: int = 40  # passes over the training pictures, whatever their number

    # The recipe: each part with its reason; docs/recipe.md has what leaving it out costs. None
    # stands for a value that ``engine.adapt`` chooses by the photographs, and shows.
    batch_size: int | None = None  # images a step, over all processes: few for few pictures
    accumulate: int = 1  # parts that a batch is computed in, one after the other: less memory
    optimizer: Optimizer = "adamw"  # needs less tuning than SGD on few steps
    lr: float | None = None  # the largest of the schedule: grows with the root of the batch
    weight_decay: float | None = None  # on kernels and matrices only: 0.05 with AdamW, which
    # decouples it from the gradient; so much would keep the others from learning
    schedule: Schedule = "cosine"  # by step, down to zero at the last one: the end is the best
    warmup_epochs: float | None = None  # a full first step can kill ReLUs: a tenth of the run
    label_smoothing: float = 0.1  # keeps few pictures from being learned by heart
    flips: Flips = "h"  # most things look alike in a mirror; upside down only when asked for
    crop_area: float = 0.25  # smallest part of a picture that a training crop shows; 1: all
    color_jitter: float = 0.2  # brightness, contrast and saturation change by up to this part
    random_erase: float = 0.0  # probability of covering a box of a training picture
    train_sizes: tuple[float, float] = (0.5, 0.875)  # of image_size: small is cheap, and a crop
    # shows things larger than validation does, which a smaller training size makes up for
    ema_epochs: float = 1.0  # weights are averaged over about so many epochs: a smooth val curve
    class_weights: ClassWeights = "auto"  # balanced where a class is rare

    double_softmax: bool = False  # the tutorial's loss: cross-entropy of a softmax of a softmax
    min_outputs: int = 1  # the tutorial's network has four outputs for its two classes
    monitor: Monitor = "val_accuracy"
    time_seconds: float | None = None  # epochs and sizes are planned to end in this time
    patience: int | None = None  # epochs without a better one before stopping; None: never
    device: DeviceName = "auto"
    precision: Precision = "auto"
    deterministic: bool = False

    weights: str | None = None  # a weights file to begin with, or IMAGENET
    freeze_epochs: int = 0  # first epochs in which only new layers learn
    least_steps: int = 0  # epochs are added until there are so many, unless they were typed
    layer_lr_decay: float = 1.0  # from depth to depth towards the image, of layers taken over

    folds: int | None = None  # trainings, each tested on another part of the photographs
    repeats: int | None = None  # trainings with other seeds

    output: Path | None = None  # exactly this run folder
    name: str | None = None  # the run folder is runs/NAME
    overwrite: bool = False
    save_minutes: float = 5.0  # between saves inside a long epoch
    fingerprints: bool = True  # the weights remember which pictures they were trained on

    def __post_init__(self) -> None:
        """Check every value, as ``DataConfig`` does, and what two of them say together.

        Raises:
            UsageError: A value does not fit; the message names the option.
        """
        super().__post_init__()
        if self.name is not None and (Path(self.name).name != self.name or self.name == ".."):
            raise UsageError(f"--name: '{self.name}' is not the name of one folder; give -o a path")
        sizes = self.train_sizes
        if len(sizes) != 2 or not all(0.1 <= size <= 1 for size in sizes):
            raise UsageError(
                f"--train-sizes: {','.join(map(str, sizes))} is not two parts of the image size "
                "between 0.1 and 1; give for example 0.5,0.875"
            )
        if self.folds is not None and self.split is not None:
            raise UsageError("--folds divides the photographs itself; leave out --split or --folds")


CACHES = ("auto", "ram", "disk", "none")  # anything else is a folder

# What may differ when a training goes on, since the result does not depend on it.
FREE_TO_CHANGE = frozenset(
    {"root", "split", "labels", "group_file", "cache", "workers", "device"}
    | {"max_bad", "output", "name", "overwrite", "save_minutes"}
)

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "tutorial": {
        "arch": "inception_v1",
        "epochs": 40,
        "batch_size": 32,
        "optimizer": "adam",
        "lr": 1e-4,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "label_smoothing": 0.0,
        "crop_area": 1.0,
        "color_jitter": 0.0,
        "random_erase": 0.0,
        "train_sizes": (1.0, 1.0),
        "ema_epochs": 0.0,
        "class_weights": "none",
        "double_softmax": True,
        "min_outputs": 4,
        "image_size": 224,
        "resize": "stretch",
        "flips": "none",
        "ratio": (0.8, 0.2),
        "stratify": False,
        "group": "none",
        "precision": "fp32",
    },
}


# What a training that begins with other weights sets otherwise; a recipe is beneath it.
FINE_TUNING: dict[str, Any] = {
    "epochs": 10,
    "least_steps": 200,  # few photographs need more passes: measured in docs/how-to/fine-tune.md
    "freeze_epochs": 2,
    "layer_lr_decay": 0.5,
    "lr": None,  # by ``engine.adapt``, whatever the recipe beneath says
}


def resolve(
    recipe: str, typed: Mapping[str, Any], suggested: Mapping[str, Any] | None = None
) -> tuple[TrainConfig, dict[str, str]]:
    """The settings of a training and where each came from.

    Args:
        recipe: The recipe's name.
        typed: What the user gave, by field name, ``root`` among it; None stands for "not given".
        suggested: What goes with the weights that ``typed`` names.

    Returns:
        The settings, and for each field "option", "recipe", "fine-tuning", "weights" or "default".

    Raises:
        UsageError: The recipe is unknown or a value does not fit.
    """
    one_of("--recipe", recipe, tuple(RECIPES))
    given = {name: value for name, value in typed.items() if value is not None}
    sources = dict.fromkeys((item.name for item in fields(TrainConfig)), "default")
    sources |= dict.fromkeys(RECIPES[recipe], f"recipe {recipe}")
    values = RECIPES[recipe]
    if "weights" in given:
        values = values | FINE_TUNING | dict(suggested or {})
        sources |= dict.fromkeys(FINE_TUNING, "fine-tuning")
        sources |= dict.fromkeys(suggested or {}, "weights")
        if "epochs" in given:
            values = values | {"least_steps": 0}
    sources |= dict.fromkeys(given, "option")
    return TrainConfig(**(values | given | {"recipe": recipe})), sources


T = TypeVar("T")


def known(value: T | None) -> T:
    """A setting that ``engine.adapt`` has chosen, if nobody else had.

    Raises:
        ValueError: It has not been chosen yet: ``adapt`` comes before training.
    """
    if value is None:
        raise ValueError("a setting is still to be chosen by the photographs: call engine.adapt")
    return value


_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "batch_size": (2, 1_000_000),
    "accumulate": (1, 10_000),
    "lr": (0.0, math.inf),
    "weight_decay": (0.0, 1e6),
    "warmup_epochs": (0.0, 100_000),
    "label_smoothing": (0.0, 0.9),
    "crop_area": (0.01, 1.0),
    "color_jitter": (0.0, 1.0),
    "random_erase": (0.0, 1.0),
    "ema_epochs": (0.0, 1000.0),
    "freeze_epochs": (0, 100_000),
    "least_steps": (0, 1_000_000),
    "layer_lr_decay": (0.0, 1.0),
    "min_outputs": (1, 1_000_000),
    "image_size": (MIN_IMAGE_SIZE, MAX_IMAGE_SIZE),
    "patience": (1, 100_000),
    "time_seconds": (1.0, 1e9),
    "seed": (0, 2**63 - 1),
    "folds": (2, 1000),
    "repeats": (2, 1000),
    "max_bad": (0.0, 1.0),
    "max_megapixels": (0.01, 4000.0),
    "workers": (0, 512),
    "save_minutes": (0.0, 1e6),
}


def option_name(field_name: str) -> str:
    """``batch_size`` -> ``--batch-size``, as the command line spells it."""
    return {"image_size": "--img-size", "time_seconds": "--time"}.get(
        field_name, "--" + field_name.replace("_", "-")
    )


def check_ratio(ratio: tuple[float, ...]) -> None:
    """Two or three parts above zero that sum to one: train, val and perhaps test.

    Raises:
        UsageError: They are not.
    """
    good = len(ratio) in (2, 3) and all(part > 0 for part in ratio)
    if not good or not math.isclose(sum(ratio), 1.0, abs_tol=1e-6):
        raise UsageError(
            f"--ratio: {','.join(map(str, ratio))} is not two or three parts above 0 that sum "
            "to 1; give for example 0.8,0.1,0.1 (train, val, test)"
        )


def plain(value: object) -> object:
    """A setting as ``config.json`` has it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def one_of(option: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices, naming the nearest.

    Raises:
        UsageError: It is none of them.
    """
    if value not in choices:
        near = get_close_matches(value, choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"{option}: '{value}' is not one of {', '.join(choices)}{hint}")


def _check(name: str, value: object, choices: tuple[Any, ...]) -> None:
    if isinstance(value, str) and all(isinstance(choice, str) for choice in choices) and choices:
        one_of(option_name(name), value, choices)
    if name in _RANGES and value is not None:
        low, high = _RANGES[name]
        if not isinstance(value, int | float):
            raise UsageError(f"{option_name(name)}: '{value}' is no number")
        number = float(value)
        if not (low <= number <= high) or not math.isfinite(number):
            raise UsageError(
                f"{option_name(name)}: {value} is outside {low:g} to {high:g}; give a number inside"
            )
