"""Weights and state files: write, verify, load. The container itself is in ``archive``."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self, get_args

import torch
from torch import Tensor, nn

from inceptcli.config import MAX_IMAGE_SIZE, MEAN, MIN_IMAGE_SIZE, STD, Resize
from inceptcli.errors import WeightsError
from inceptcli.files import NotRegularFile, printable, read_regular, write_bytes
from inceptcli.model import archive
from inceptcli.model.archive import BadArchiveError
from inceptcli.model.inception import ARCHITECTURES, REFERENCE_IMAGE_SIZE, build

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FORMAT = 1
PLAIN_ARCH = "inception_v1"  # the network of a file without a record, unless a key says:
TELLING_KEYS = {"norm1.weight": "inception_v1_bn", "conv1.bn.weight": "googlenet"}
AUXILIARY = ("aux1.", "aux2.")  # classifiers that take part in training only
MAX_OUTPUTS = 65_536
MAX_PICKLE_BYTES = 2**18  # of weights: 388 tensors take 50 kB
MAX_TEXT = 1_024  # characters of a class name or of another text in a record


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a weights file says of itself; all that predicting needs besides the tensors.

    Attributes:
        format: Of the description; a newer one is refused.
        arch: A key of ``ARCHITECTURES``.
        classes: Names in the order of the outputs. Names from outside: they are for display and
            for matching by name, never for a path.
        outputs: Of the last layer, at least ``len(classes)``.
        image_size: Pixels, height and width.
        resize: How a photograph is fitted to ``image_size``.
        mean: Of red, green and blue, for pixels in [0, 1]: ImageNet's, for whoever else reads it.
        std: Their standard deviation: ImageNet's.
        temperature: Logits are divided by it before the softmax; None before calibration.
        threshold: Probability in [0, 1] below which an answer is uncertain, if one was chosen.
        recipe: Name of the recipe.
        epoch: Whose weights these are, from 1.
        metrics: Figures by name. One that is not finite is left out of the file.
        settings: The training's settings, as JSON holds them.
        versions: Program -> version.
    """

    format: int = FORMAT
    arch: str
    classes: tuple[str, ...]
    outputs: int
    image_size: int = REFERENCE_IMAGE_SIZE
    resize: Resize = "stretch"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    temperature: float | None = None
    threshold: float | None = None
    recipe: str = ""
    epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for a value out of its range: what exists can be used."""
        conditions = {
            "format": _is_int(self.format, FORMAT, FORMAT),
            "arch": self.arch in tuple(ARCHITECTURES),
            "classes": _is_names(self.classes) and 0 < len(self.classes) <= MAX_OUTPUTS,
            "outputs": _is_int(self.outputs, len(self.classes), MAX_OUTPUTS),
            "image_size": _is_int(self.image_size, MIN_IMAGE_SIZE, MAX_IMAGE_SIZE),
            "resize": self.resize in get_args(Resize),
            "mean": self.mean == MEAN,  # pixels are normalised in one way
            "std": self.std == STD,
            "temperature": self.temperature is None
            or (_is_number(self.temperature) and self.temperature > 0),
            "threshold": self.threshold is None
            or (_is_number(self.threshold) and 0 <= self.threshold <= 1),
            "recipe": _is_text(self.recipe),
            "epoch": self.epoch is None or _is_int(self.epoch, 0, 10**9),
            "metrics": _is_table(self.metrics) and all(map(_is_figure, self.metrics.values())),
            "settings": _is_table(self.settings),
            "versions": _is_table(self.versions) and all(map(_is_text, self.versions.values())),
        }
        for name, holds in conditions.items():
            if not holds:
                shown = printable(reprlib.repr(getattr(self, name)))
                raise ValueError(f"its record has no usable {name}: {shown}")

    def to_json(self) -> bytes:
        """Canonical ASCII JSON; names that are not UTF-8 keep their surrogates as escapes."""
        values = dataclasses.asdict(self)
        finite = {name: value for name, value in self.metrics.items() if math.isfinite(value)}
        return _dump({"kind": "weights", **values, "metrics": finite})

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """The inverse of ``to_json``.

        Raises:
            ValueError: It is not such a record, or of a newer format.
        """
        values = _parse(text, kind="weights")
        names = {item.name for item in dataclasses.fields(cls)}
        if unknown := values.keys() - names:
            raise ValueError(f"its record has an unknown field {printable(min(unknown))[:80]!r}")
        for name in ("classes", "mean", "std"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        try:
            return cls(**values)
        except TypeError as error:  # a field without a default is missing
            raise ValueError("its record is incomplete") from error


@dataclass(frozen=True)
class Weights:
    """A weights file, checked.

    Attributes:
        path: Where it was read from.
        state_dict: Tensors on the CPU, in the network's order and dtypes, all finite.
        record: None for the file of a plain script.
        digest: SHA-256 in hex, None for the file of a plain script.
        fingerprints: Of the training files, if they were kept.
        outputs: Of the last layer.
        arch: A key of ``ARCHITECTURES``.
    """

    path: Path
    state_dict: OrderedDict[str, Tensor]
    record: Record | None
    digest: str | None
    fingerprints: bytes | None
    outputs: int
    arch: str

    @property
    def image_size(self) -> int:
        """Pixels; the tutorial's 224 for the file of a plain script."""
        return self.record.image_size if self.record else REFERENCE_IMAGE_SIZE

    @property
    def resize(self) -> Resize:
        """How a picture becomes a square; the tutorial's stretch for the file of a plain script."""
        return self.record.resize if self.record else "stretch"


def name_outputs(classes: Sequence[str], outputs: int) -> tuple[str, ...]:
    """The classes, then "output 2 (no class)" for each output more than there are classes.

    With no classes at all the names are "class 0", "class 1", ...
    """
    if not classes:
        return tuple(f"class {index}" for index in range(outputs))
    extra = range(len(classes), outputs)
    return (*classes, *(f"output {index} (no class)" for index in extra))


def save_weights(
    path: Path,
    state_dict: Mapping[str, Tensor],
    record: Record,
    *,
    fingerprints: bytes | None = None,
) -> None:
    """Write a weights file, atomically; equal input gives an equal file.

    Any ``torch.load(path)`` gives the plain ``state_dict``. Tensors may lie on any device, in any
    memory layout, with the ``module.`` prefix of DataParallel, with auxiliary classifiers; the file
    has none of that.

    Raises:
        ValueError: The tensors do not fit ``record``, or are not finite; nothing is written.
        OutputError: The file could not be written.
    """
    tensors, outputs = _fit(state_dict, arch=record.arch)
    if outputs != record.outputs:
        raise ValueError(f"the network has {outputs} outputs, its record says {record.outputs}")
    description = record.to_json()
    write_bytes(path, archive.pack(tensors, description=description, fingerprints=fingerprints))


def load_weights(path: Path) -> Weights:
    """Read and check a weights file: one of ours, or the ``state_dict`` of a plain script.

    The file is read once and what was checked is what is used. Nothing in it can run code.
    Half, bfloat16 and double tensors become the network's float32.

    Raises:
        WeightsError: It is not there, not a file, damaged, hostile, or for another network.
    """
    try:
        contents = archive.unpack(_read(path), pickle_bytes=MAX_PICKLE_BYTES)
        record = None
        if contents.description is not None:
            record = Record.from_json(contents.description)
        arch = record.arch if record else _plain_arch(contents.value)
        tensors, outputs = _fit(contents.value, arch=arch)
        if record and record.outputs != outputs:
            raise ValueError(f"its record says {record.outputs} outputs, its tensors {outputs}")
    except ValueError as error:  # BadArchiveError is one
        raise WeightsError(f"cannot use {printable(str(path))} as weights: {error}") from error
    return Weights(
        path, tensors, record, contents.digest, contents.fingerprints, outputs=outputs, arch=arch
    )


def load_into(model: nn.Module, weights: Weights) -> None:
    """Copy the tensors into a network of the same kind.

    Raises:
        WeightsError: The network has other layers or another number of outputs.
    """
    try:
        model.load_state_dict(weights.state_dict)
    except RuntimeError as error:
        raise WeightsError(
            f"{printable(str(weights.path))} does not fit this network: it is {weights.arch} with "
            f"{weights.outputs} outputs"
        ) from error


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write what a stopped run needs to go on, atomically, in the container of the weights.

    Args:
        path: The file.
        state: Tensors, None, bool, int, float and str, in dicts, lists and tuples.

    Raises:
        TypeError: ``state`` holds something else.
        OutputError: The file could not be written.
    """
    description = _dump({"kind": "state", "format": FORMAT})
    write_bytes(path, archive.pack(dict(state), description=description))


def load_state(path: Path) -> dict[str, Any]:
    """Read what ``save_state`` wrote; tensors are contiguous and on the CPU.

    Raises:
        WeightsError: It is not there, not a state file, damaged, or of a newer format.
    """
    try:
        contents = archive.unpack(_read(path))
        if contents.description is None:
            raise BadArchiveError("it is a file of torch.save, but not the state of a run")
        _parse(contents.description, kind="state")
        if type(contents.value) is not dict:
            raise BadArchiveError("it is not the state of a run")
    except ValueError as error:
        raise WeightsError(f"cannot resume from {printable(str(path))}: {error}") from error
    return contents.value


def _read(path: Path) -> bytes:
    """The whole file, in one piece so that it cannot change between check and use."""
    try:
        return read_regular(path, max_bytes=archive.MAX_BYTES)
    except NotRegularFile as error:
        kind = "a folder; give the file in it" if path.is_dir() else "not a regular file"
        raise BadArchiveError(f"it is {kind}") from error
    except OSError as error:
        raise BadArchiveError(printable(error.strerror or str(error))) from error


# Tensors against the network


def check_tensors(loaded: Any, *, arch: str) -> tuple[OrderedDict[str, Tensor], int]:
    """What ``load_weights`` does with the tensors of a file; ``loaded`` may be anything.

    Returns:
        The tensors in the network's order, shapes and dtypes, and the number of outputs.

    Raises:
        ValueError: It is not a ``state_dict`` of ``arch``; the text continues "cannot use FILE: ".
    """
    return _fit(loaded, arch=arch)


def _fit(loaded: Any, *, arch: str) -> tuple[OrderedDict[str, Tensor], int]:
    """``loaded`` in the network's order, shapes and dtypes, and its number of outputs.

    Auxiliary classifiers are left out.

    Raises:
        ValueError: It is not a ``state_dict`` of ``arch``, or a tensor is not finite.
    """
    given = _named_tensors(loaded)
    expected = _skeleton(arch)
    given = {key: part for key, part in given.items() if not key.startswith(AUXILIARY)}
    _check_keys(given, expected, arch=arch)
    last = next(key for key in reversed(expected) if key.endswith(".weight"))
    outputs = given[last].shape[0] if given[last].ndim else 0
    if not 0 < outputs <= MAX_OUTPUTS:
        raise ValueError(f"its last layer has {outputs} outputs")
    fitted: OrderedDict[str, Tensor] = OrderedDict()
    for key, model in expected.items():
        is_last = key.startswith(last.removesuffix("weight"))
        shape = (outputs, *model.shape[1:]) if is_last else tuple(model.shape)
        fitted[key] = _fit_tensor(given[key], shape=shape, dtype=model.dtype, key=key)
    return fitted, outputs


def _plain_arch(loaded: Any) -> str:
    """The network of a file without a record."""
    keys = _named_tensors(loaded)
    return next((arch for key, arch in TELLING_KEYS.items() if key in keys), PLAIN_ARCH)


@lru_cache(maxsize=4)
def _skeleton(arch: str) -> OrderedDict[str, Tensor]:
    """The ``state_dict`` of a network with one output: names, shapes and dtypes, no numbers."""
    with torch.device("meta"):
        return OrderedDict(build(arch, 1, REFERENCE_IMAGE_SIZE).state_dict())


def _named_tensors(loaded: Any) -> dict[str, Tensor]:
    """The items of a ``state_dict``, without the prefixes of wrapped networks."""
    if not isinstance(loaded, Mapping):
        raise ValueError("it holds no state_dict; save model.state_dict()")
    items = dict(dict.items(loaded) if isinstance(loaded, dict) else loaded.items())
    for key, value in items.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            shown = printable(str(key))[:80]
            raise ValueError(f"its {shown!r} is no tensor; save only model.state_dict()")
    for prefix in ("module.", "_orig_mod.", "module."):  # DataParallel, torch.compile, either order
        if items and all(key.startswith(prefix) for key in items):
            items = {key.removeprefix(prefix): value for key, value in items.items()}
    return items


def _check_keys(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, arch: str) -> None:
    missing = [key for key in expected if key not in given]
    unknown = [key for key in given if key not in expected]
    parts = [
        f"{word} {_first(keys)}" for word, keys in (("lacks", missing), ("has", unknown)) if keys
    ]
    if parts:
        raise ValueError(f"it is of another network than {arch}: it {' and '.join(parts)}")


def _first(keys: list[str]) -> str:
    more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
    return ", ".join(printable(key)[:80] for key in keys[:2]) + more


def _fit_tensor(tensor: Tensor, *, shape: tuple[int, ...], dtype: torch.dtype, key: str) -> Tensor:
    if tuple(tensor.shape) != shape:
        given, wanted = ("x".join(map(str, s)) or "one number" for s in (tensor.shape, shape))
        raise ValueError(f"it is of another network: its {key} is {given}, not {wanted}")
    if tensor.is_floating_point() != dtype.is_floating_point or tensor.is_complex():
        raise ValueError(f"its {key} holds {tensor.dtype}, not {dtype}")
    fitted = tensor.detach().to("cpu", dtype, memory_format=torch.contiguous_format)
    if not fitted.isfinite().all():
        raise ValueError(f"its {key} holds numbers that are not finite; the training diverged")
    if key.endswith("running_var") and (fitted < 0).any():
        raise ValueError(f"its {key} holds variances below zero")
    return fitted


# Descriptions


def _dump(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()


def _parse(text: bytes, *, kind: str) -> dict[str, Any]:
    """A description of the kind and format that are wanted, less its kind.

    Raises:
        ValueError: With words that continue "cannot use FILE: ".
    """
    try:
        values = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError("its record is not JSON") from error
    if not isinstance(values, dict):
        raise ValueError("its record is not a JSON object")
    found = values.pop("kind", None)
    if (found, kind) == ("state", "weights"):
        raise ValueError("it is the state of a run; give the best_model.pth beside it")
    if (found, kind) == ("weights", "state"):
        raise ValueError("it holds weights only; give the last.pth beside it")
    number = values.get("format")
    if _is_int(number, FORMAT + 1, 10**9):
        raise ValueError(f"a newer inceptcli wrote it (format {number}); upgrade inceptcli")
    if found != kind or not _is_int(number, FORMAT, FORMAT):
        raise ValueError("its record is of an unknown kind")
    return values


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _is_int(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any) -> bool:
    return _is_figure(value) and math.isfinite(value)


def _is_figure(value: Any) -> bool:
    """A number, perhaps not a finite one; NumPy's float64 is a float too."""
    return isinstance(value, float | int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _is_names(value: Any) -> bool:
    texts = isinstance(value, tuple) and all(_is_text(name) and name for name in value)
    return texts and len(set(value)) == len(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value))
