"""A trained network as one file that needs nothing of this program: written once it is proven.

Every file is run on pictures and compared with the program before it takes its name.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from inceptcli import __version__
from inceptcli.config import MEAN, STD
from inceptcli.data.prepare import Photos, prepare
from inceptcli.engine import onnx as exported
from inceptcli.engine.device import choose_device
from inceptcli.engine.evaluate import Evaluation, compare_models, evaluate, photos_config
from inceptcli.engine.infer import Loaded
from inceptcli.engine.onnx import Description, OnnxNetwork, open_onnx
from inceptcli.engine.parity import Parity, compare, photographs, proven, speeds, spread
from inceptcli.engine.predict import BATCH_SIZE
from inceptcli.errors import DataError, ResourceError, UsageError, WeightsError
from inceptcli.events import Emit, Notice, Warned, silent
from inceptcli.files import counted, printable, write_bytes
from inceptcli.model.pipeline import Pipeline

if TYPE_CHECKING:
    import onnx

    from inceptcli.data.image import Pixels
    from inceptcli.engine.comparison import Comparison

FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}
PRECISIONS = ("fp32", "fp16", "int8")
MOST_CALIBRATED = 128
_NEEDS = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "pt2": (),
    "safetensors": ("safetensors",),
}
_RECORD_FILE = "inceptcli.json"  # in a pt2 file


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to export and how to prove it.

    Attributes:
        output: The file; its ending is the format's.
        format: A key of ``FORMATS``.
        precision: One of ``PRECISIONS``.
        check: A folder of pictures to compare on; None for the run's val photographs.
        max_drop: The loss of accuracy above which fp16 and int8 are refused.
    """

    output: Path
    format: str = "onnx"
    precision: str = "fp32"
    check: Path | None = None
    max_drop: float = 0.01

    def __post_init__(self) -> None:
        """Raise UsageError for what does not go together."""
        if self.output.suffix.lower() != FORMATS[self.format]:
            raise UsageError(
                f"-o {printable(str(self.output))}: a file of --format {self.format} ends in "
                f"{FORMATS[self.format]}"
            )
        if self.precision != "fp32" and self.format != "onnx":
            raise UsageError(f"--precision {self.precision} goes with --format onnx alone")
        missing = [name for name in _NEEDS[self.format] if importlib.util.find_spec(name) is None]
        if missing:
            raise ResourceError(f"export needs {', '.join(missing)}: {exported.INSTALL}")


@dataclass(frozen=True)
class Accuracy:
    """What fewer bits cost on labelled photographs.

    Attributes:
        role: Which photographs.
        images: How many.
        before: Accuracy of the weights in float32.
        after: Accuracy of the file.
        interval: 95 %, of the second less the first.
    """

    role: str
    images: int
    before: float
    after: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        format: A key of ``FORMATS``.
        precision: One of ``PRECISIONS``.
        bytes: Its size.
        weights_bytes: The size of the weights file.
        digest: SHA-256 of its content; None for a format that keeps none.
        parity: None for safetensors, which holds the weights themselves.
        accuracy: Of fp16 and int8.
        images_per_second: Name -> images a second on this machine's processor.
    """

    path: Path
    format: str
    precision: str
    bytes: int
    weights_bytes: int
    digest: str | None
    parity: Parity | None
    accuracy: Accuracy | None
    images_per_second: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``export --json`` prints them."""
        return asdict(self) | {"path": str(self.path), "inceptcli": __version__}


def export(network: Loaded, order: Order, *, emit: Emit = silent) -> Exported:
    """Write a network in another format after proving that it answers the same.

    Raises:
        WeightsError: It answers otherwise, or fewer bits cost too much; nothing is written.
        DataError: int8 or fp16 without labelled photographs to measure on.
        OutputError: The file could not be written.
    """
    makers = {"onnx": _onnx, "pt2": _pt2, "safetensors": _safetensors}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about itself
        return makers[order.format](network, order, emit)


# The three formats


def _onnx(network: Loaded, order: Order, emit: Emit) -> Exported:
    emit(Notice("building the graph"))
    graph = _graph(_pipeline(network))
    data = _finished(graph, network, "fp32")
    found = open_onnx(data, order.output)
    paths = photographs(network, order.check)
    parity, accuracy = proven(found.probabilities, network, paths, emit=emit), None
    if order.precision != "fp32":
        data, accuracy = _smaller(graph, network, order, emit)
        found = open_onnx(data, order.output)
        parity = compare(found.probabilities, network, paths, emit=emit)
    rates = speeds(network, found)
    write_bytes(order.output, data)
    exported.load_onnx(order.output)  # as it lies on the disk
    return _result(network, order, len(data), found.digest, parity, accuracy, rates)


def _pt2(network: Loaded, order: Order, emit: Emit) -> Exported:
    emit(Notice("building the graph"))
    program = _traced(_pipeline(network))
    file = io.BytesIO()
    record = _description(network, "fp32").to_json()
    torch.export.save(program, file, extra_files={_RECORD_FILE: record})
    data = file.getvalue()
    module = torch.export.load(io.BytesIO(data)).module()

    def answers(image: Pixels) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            result: npt.NDArray[np.float32] = module(torch.from_numpy(image)).numpy()
        return result

    parity = proven(answers, network, photographs(network, order.check), emit=emit)
    write_bytes(order.output, data)
    return _result(network, order, len(data), None, parity, None, {})


def _safetensors(network: Loaded, order: Order, emit: Emit) -> Exported:
    from safetensors.torch import load, save

    del emit
    weights = network.weights
    metadata = {"format": "pt", "weights_sha256": weights.digest or ""}
    if weights.record is not None:
        metadata[exported.RECORD] = weights.record.to_json().decode()
    data = save(dict(weights.state_dict), metadata)
    back = load(data)
    same = all(torch.equal(back[name], tensor) for name, tensor in weights.state_dict.items())
    if not same or back.keys() != weights.state_dict.keys():
        raise WeightsError("the safetensors file does not hold the same tensors; report this bug")
    write_bytes(order.output, data)
    return _result(network, order, len(data), None, None, None, {})


def _result(
    network: Loaded,
    order: Order,
    size: int,
    digest: str | None,
    parity: Parity | None,
    accuracy: Accuracy | None,
    speeds: dict[str, float],
) -> Exported:
    return Exported(
        path=order.output,
        format=order.format,
        precision=order.precision,
        bytes=size,
        weights_bytes=network.path.stat().st_size,
        digest=digest,
        parity=parity,
        accuracy=accuracy,
        images_per_second=speeds,
    )


# The graph


def _pipeline(network: Loaded) -> Pipeline:
    record = network.weights.record
    return Pipeline(
        network.model,
        image_size=network.spec.image_size,
        resize=network.spec.resize,
        temperature=network.temperature,
        mean=record.mean if record else MEAN,
        std=record.std if record else STD,
        tall_first=_tall_first(),
    )


def _tall_first() -> bool:
    """Whether this Pillow resizes a tall picture along its height first."""
    pixels = np.random.default_rng(0).integers(0, 256, (97, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    way = Image.Resampling.BILINEAR
    return image.resize((32, 32), way) == image.resize((40, 32), way).resize((32, 32), way)


def _traced(pipeline: Pipeline) -> torch.export.ExportedProgram:
    some = torch.export.Dim.DYNAMIC
    size = pipeline.image_size
    example = torch.zeros(2, size + 1, size + 2, 3, dtype=torch.uint8)
    return torch.export.export(pipeline, (example,), dynamic_shapes=({0: some, 1: some, 2: some},))


def _graph(pipeline: Pipeline) -> onnx.ModelProto:
    """The pipeline as ONNX, without the traces that its exporter leaves (paths of this machine)."""
    program = torch.onnx.export(
        _traced(pipeline),
        dynamo=True,
        input_names=[exported.INPUT],
        output_names=[exported.OUTPUT],
        verbose=False,
    )
    assert program is not None  # noqa: S101 - no file was asked for
    model = program.model_proto
    _strip(model.graph)
    for value in (*model.graph.input, *model.graph.output):
        for letter, dim in zip("NHW", value.type.tensor_type.shape.dim, strict=False):
            if dim.dim_param:
                dim.dim_param = letter
    model.producer_name, model.producer_version = "inceptcli", __version__
    model.graph.name = "inceptcli"
    return model


def _strip(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)


def _description(network: Loaded, precision: str) -> Description:
    return Description(
        classes=network.classes,
        outputs=network.outputs,
        image_size=network.spec.image_size,
        resize=network.spec.resize,
        temperature=network.temperature,
        threshold=network.threshold,
        arch=network.weights.arch,
        precision=precision,
        weights_sha256=network.digest,
        versions={"inceptcli": __version__, "torch": torch.__version__},
    )


def _finished(graph: onnx.ModelProto, network: Loaded, precision: str) -> bytes:
    """The file's bytes: the graph, its description, the memory of training files, the seal."""
    del graph.metadata_props[:]
    entries = {exported.RECORD: _description(network, precision).to_json()}
    if network.weights.fingerprints is not None:
        text = base64.b64encode(network.weights.fingerprints).decode()
        entries[exported.FINGERPRINTS] = text
    for key, value in entries.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    data: bytes = graph.SerializeToString()
    return data + exported.seal(data)


# Fewer bits


def _smaller(
    graph: onnx.ModelProto, network: Loaded, order: Order, emit: Emit
) -> tuple[bytes, Accuracy]:
    """The graph in fewer bits, and what that costs.

    Raises:
        WeightsError: It costs more than ``max_drop``.
    """
    from inceptcli.engine.quantise import half_weights, int8

    photos, role = _labelled(network, order.check, emit)
    chosen = photos.indices(role)
    with photos.store:
        if order.precision == "fp16":
            graph = half_weights(graph)
        else:
            some = chosen[spread(len(chosen), MOST_CALIBRATED)]
            starts = range(0, len(some), BATCH_SIZE)
            emit(Notice(f"calibrating on {counted(len(some), 'photograph')} of role {role}"))
            batches = [photos.store.take(some[start : start + BATCH_SIZE])[0] for start in starts]
            graph = int8(graph, [pixels for pixels in batches if len(pixels)])
        data = _finished(graph, network, order.precision)
        return data, _cost(network, open_onnx(data, order.output), photos, role, order, emit)


def _cost(
    network: Loaded,
    smaller: OnnxNetwork,
    photos: Photos,
    role: str,
    order: Order,
    emit: Emit,
) -> Accuracy:
    before: Evaluation = evaluate(network, photos, role, choose_device("cpu", "fp32"))
    after = evaluate(smaller, photos, role, None)
    compared: Comparison = compare_models(before, after)
    cost = Accuracy(
        role, len(before.names), compared.accuracy_a, compared.accuracy_b, compared.interval
    )
    if cost.before - cost.after > order.max_drop:
        raise WeightsError(
            f"{order.precision} answers {cost.after:.4f} of {cost.images} photographs of role "
            f"{role} rightly, the weights {cost.before:.4f}: more than --max-drop "
            f"{order.max_drop:g} is lost; {printable(str(order.output))} is not written"
        )
    if compared.few_groups:
        emit(
            Warned(
                f"too few to tell what is lost: {counted(cost.images, 'photograph')}; see --check"
            )
        )
    return cost


def _labelled(network: Loaded, folder: Path | None, emit: Emit) -> tuple[Photos, str]:
    """Photographs with classes to calibrate and measure on, and their role.

    Raises:
        DataError: There are none.
    """
    try:
        config = photos_config(network, {} if folder is None else {"root": folder})
    except DataError as error:
        raise DataError(
            "fewer bits are measured on labelled photographs; name a folder of them with --check"
        ) from error
    photos = prepare(config, to_learn=False, divide=config.split is not None, emit=emit)
    role = "val" if len(photos.indices("val")) else "all"
    return photos, role
