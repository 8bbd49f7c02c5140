"""Exported networks: one ONNX file, sealed and described, run by ONNX Runtime. Imports no torch.

A file is the model as its tools write it, then one more entry of its metadata: SHA-256 over all
bytes before it, so that a flipped bit is found before anything is parsed. The entry is the last
thing in the file, which Protocol Buffers allow.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
import numpy.typing as npt

from inceptcli.config import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, Resize, one_of
from inceptcli.data.fingerprints import Memory
from inceptcli.data.machine import default_workers, process_count
from inceptcli.data.reader import PixelSpec
from inceptcli.engine.predict import Answer, Logits, Network, Watch, ask, nobody
from inceptcli.errors import ResourceError, UsageError, WeightsError
from inceptcli.files import NotRegularFile, printable, read_regular

if TYPE_CHECKING:
    import onnxruntime

    from inceptcli.data.image import Pixels
    from inceptcli.data.prepare import Photos
    from inceptcli.engine.device import Device

FORMAT = 1
SUFFIX = ".onnx"
INPUT, OUTPUT = "image", "probabilities"
RECORD, FINGERPRINTS = "inceptcli", "inceptcli.fingerprints"  # keys of the metadata
MAX_BYTES = 1 << 29  # 65,536 outputs take half of it
MAX_OUTPUTS = 65_536
MAX_TEXT = 1_024
INSTALL = "pip install 'inceptcli[export]'"

# metadata_props is field 14 of ModelProto; its entry has the fields key (1) and value (2).
_SEAL = b"\x72\x4a\x0a\x06sha256\x12\x40"
_DIGEST_BYTES = 64  # in hex
# What a tensor in another file is named by (TensorProto.external_data); no file of ours has it.
_EXTERNAL = b"location"
_LEAST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What an exported file says of itself, as JSON in its metadata.

    Attributes:
        format: Of the description; a newer one is refused.
        classes: Names of the classes, in the order of the outputs; () when nobody gave them.
        outputs: A name for each output; the classes come first.
        image_size: Pixels, height and width of the network's input.
        resize: How the graph fits a picture to it.
        temperature: What the graph divides logits by.
        threshold: Probability below which an answer is uncertain; 0 for none.
        arch: The network's name.
        precision: fp32, fp16 or int8.
        weights_sha256: Digest of the weights file; None for the file of a plain script.
        versions: Program -> version.
    """

    format: int = FORMAT
    classes: tuple[str, ...]
    outputs: tuple[str, ...]
    image_size: int
    resize: Resize
    temperature: float
    threshold: float
    arch: str
    precision: str
    weights_sha256: str | None
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        """Raise ValueError for a value out of its range: what exists can be used."""
        names, versions = (*self.classes, *self.outputs), self.versions
        conditions = {
            "format": type(self.format) is int and self.format == FORMAT,
            "outputs": 0 < len(self.outputs) <= MAX_OUTPUTS
            and all(_is_text(name) and name for name in names)
            and len(set(self.outputs)) == len(self.outputs),
            "classes": self.outputs[: len(self.classes)] == self.classes,
            "image_size": type(self.image_size) is int
            and MIN_IMAGE_SIZE <= self.image_size <= MAX_IMAGE_SIZE,
            "resize": self.resize in get_args(Resize),
            "temperature": _is_number(self.temperature) and self.temperature > 0,
            "threshold": _is_number(self.threshold) and 0 <= self.threshold <= 1,
            "arch": _is_text(self.arch),
            "precision": _is_text(self.precision),
            "weights_sha256": self.weights_sha256 is None or _is_text(self.weights_sha256),
            "versions": isinstance(versions, Mapping)
            and all(map(_is_text, (*versions, *versions.values()))),
        }
        for name, holds in conditions.items():
            if not holds:
                raise ValueError(f"its description has no usable {name}")

    def to_json(self) -> str:
        """ASCII JSON; names that are not UTF-8 keep their surrogates as escapes."""
        text = json.dumps(dataclasses.asdict(self), allow_nan=False, separators=(",", ":"))
        # A class may have the very name by which external data would be found.
        return text.replace(_EXTERNAL.decode(), "\\u006cocation")

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of ``to_json``.

        Raises:
            ValueError: It is not such a description, or of a newer format.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError("its description is not JSON") from error
        if not isinstance(values, dict):
            raise ValueError("its description is not a JSON object")
        number = values.get("format")
        if type(number) is int and number > FORMAT:
            raise ValueError(f"a newer inceptcli wrote it (format {number}); upgrade inceptcli")
        for name in ("classes", "outputs"):
            if not isinstance(values.get(name), list):
                raise ValueError(f"its description has no usable {name}")
            values[name] = tuple(values[name])
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError("its description has not the fields that it must have") from error


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def seal(model: bytes) -> bytes:
    """The entry to put behind a serialised model."""
    return _SEAL + hashlib.sha256(model).hexdigest().encode()


@dataclass(frozen=True, kw_only=True)
class OnnxNetwork(Network):
    """An exported file, run on the CPU.

    Attributes:
        description: What it says of itself.
        session: ONNX Runtime's.
    """

    description: Description
    session: onnxruntime.InferenceSession

    def probabilities(self, image: Pixels) -> npt.NDArray[np.float32]:
        """(N, H, W, 3) uint8 of any size -> (N, C).

        Raises:
            WeightsError: The graph does not answer so.
            ResourceError: There is not enough memory for such a picture.
        """
        try:
            (found,) = self.session.run([OUTPUT], {INPUT: image})
        except Exception as error:  # its classes share no base of their own
            if "alloc" in str(error).lower():
                raise ResourceError(
                    f"not enough memory to run {printable(str(self.path))} on a picture of "
                    f"{image.shape[2]} x {image.shape[1]} pixels"
                ) from error
            raise _unusable(self.path, f"ONNX Runtime cannot run it: {_line(error)}") from error
        if found.shape != (len(image), len(self.outputs)) or found.dtype != np.float32:
            raise _unusable(self.path, "it does not answer one probability an output")
        if not ((found >= 0) & (found <= 1 + 1e-3)).all():  # false for NaN
            raise _unusable(self.path, "it answers numbers that are no probabilities")
        result: npt.NDArray[np.float32] = found
        return result

    def logits(self, pixels: Pixels) -> Logits:
        """(N, S, S, 3) uint8 -> (N, C), up to a constant a row what the network answers."""
        floor = np.maximum(self.probabilities(pixels), _LEAST)
        return (np.log(floor.astype(np.float64)) * self.temperature_inside).astype(np.float32)

    @property
    def temperature_inside(self) -> float:
        """What the graph has divided logits by, whatever is asked for outside."""
        return self.description.temperature

    def answer(self, device: Device | None) -> Answer:
        """See ``Network``."""
        del device
        return self.logits

    def infer(
        self, photos: Photos, role: str, device: Device | None, *, watch: Watch = nobody
    ) -> tuple[npt.NDArray[np.int64], Logits]:
        """See ``Network``."""
        del device
        which, parts = ask(self.logits, photos, photos.indices(role), watch=watch)
        return which, np.concatenate([np.empty((0, len(self.outputs)), np.float32), *parts])


def is_exported(path: Path) -> bool:
    """Whether a name is that of an exported network."""
    return path.suffix.lower() == SUFFIX


def check_options(device: str | None, precision: str | None) -> None:
    """Refuse what an exported network has already decided.

    Raises:
        UsageError: Another device or precision, or several processes were asked for.
    """
    if process_count() > 1:
        raise UsageError("an exported network runs in one process; start it without torchrun")
    if device not in (None, "auto", "cpu"):
        one_of("--device", str(device), ("auto", "cpu", "cuda", "mps"))
        raise UsageError(f"--device {device}: an exported network runs on the CPU here; leave it")
    if precision not in (None, "auto"):
        raise UsageError(
            f"--precision {precision}: an exported network computes as it was exported; leave it"
        )


def load_onnx(path: Path, *, raw: bool = False) -> OnnxNetwork:
    """Read an exported network.

    Args:
        path: The file.
        raw: Leave its temperature aside, and the threshold that was found with it.

    Raises:
        WeightsError: It is damaged, hostile, or not written by ``inceptcli export``.
        ResourceError: ONNX Runtime is not installed.
    """
    try:
        data = read_regular(path, max_bytes=MAX_BYTES)
    except NotRegularFile as error:
        raise _unusable(path, "it is not a regular file") from error
    except OSError as error:
        raise _unusable(path, printable(error.strerror or str(error))) from error
    return open_onnx(data, path, raw=raw)


def open_onnx(data: bytes, path: Path, *, raw: bool = False) -> OnnxNetwork:
    """What ``load_onnx`` makes of a file's bytes; ``path`` is what to call them."""
    try:
        digest = _check_seal(data)
        session = _session(data)
        metadata = session.get_modelmeta().custom_metadata_map
        description = Description.from_json(metadata.get(RECORD, ""))
        _check_signature(session, description)
        memory = _memory(metadata.get(FINGERPRINTS))
    except ValueError as error:
        raise _unusable(path, str(error)) from error
    return OnnxNetwork(
        path=path,
        digest=digest,
        classes=description.classes,
        outputs=description.outputs,
        temperature=1.0 if raw else description.temperature,
        threshold=0.0 if raw else description.threshold,
        spec=PixelSpec(description.image_size, description.resize),
        memory=memory,
        description=description,
        session=session,
    )


def _unusable(path: Path, why: str) -> WeightsError:
    return WeightsError(f"cannot use {printable(str(path))} as an exported network: {why}")


def _check_seal(data: bytes) -> str:
    """The digest of a sound file."""
    body, entry = data[: -len(_SEAL) - _DIGEST_BYTES], data[-len(_SEAL) - _DIGEST_BYTES :]
    if not entry.startswith(_SEAL):
        raise ValueError("it is cut off, or inceptcli export did not write it")
    if seal(body) != entry:
        raise ValueError("it is damaged: its content does not match its digest; get it anew")
    if _EXTERNAL in body:
        raise ValueError("it takes tensors from other files")
    return entry[len(_SEAL) :].decode()


def _session(data: bytes) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise ResourceError(f"an exported network needs ONNX Runtime: {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 4  # what is wrong is raised
    # Not ONNX Runtime's other format, which is not what _check_seal has looked through.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(f"ONNX Runtime refuses it: {_line(error)}") from error


def _threads() -> int:
    """As torch has them: OMP_NUM_THREADS, or the processors that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and given != "0" else default_workers()


def _line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:200]


def _check_signature(session: onnxruntime.InferenceSession, description: Description) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    taken = [(item.name, item.type, item.shape[3:]) for item in inputs if len(item.shape) == 4]
    if len(inputs) != 1 or taken != [(INPUT, "tensor(uint8)", [3])]:
        raise ValueError(f"it does not take {INPUT}: uint8 (N, H, W, 3)")
    given = [(item.name, item.type, item.shape[1:]) for item in outputs]
    if given != [(OUTPUT, "tensor(float)", [len(description.outputs)])]:
        raise ValueError(
            f"it does not answer {OUTPUT}: float32 (N, {len(description.outputs)}), as its "
            "description says"
        )


def _memory(text: str | None) -> Memory | None:
    if text is None:
        return None
    try:
        return Memory(base64.b64decode(text, validate=True))
    except binascii.Error as error:
        raise ValueError("its fingerprints are not base64") from error
