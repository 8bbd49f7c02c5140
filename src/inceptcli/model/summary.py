"""The layer table, the table of blocks, the module tree, and memory as measured.

Shapes and mult-adds are torchinfo's: one mult-add is one multiplication with its addition, and a
bias counts one for each output that it is added to. MB are 2^20 bytes.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torchinfo
from torch import nn
from torch.nn import functional

from inceptcli.errors import ResourceError, UsageError, is_out_of_memory
from inceptcli.model.inception import (
    BLOCKS,
    INPUT_CHANNELS,
    REFERENCE_IMAGE_SIZE,
    Widths,
    build,
    heads,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchinfo.layer_info import LayerInfo

MB = 2**20
FLOAT_BYTES = 4
LARGEST_SIZE_RUN = 448  # pixels; below, running the network is faster than importing "meta"
SMALLEST_SINGLE = 33  # pixels; at 32 the last blocks see one value a channel and image
SMALLEST_SINGLE_OF = {"googlenet": 47}  # whose pools round otherwise


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One line of the layer table.

    Attributes:
        index: From 1, in forward order.
        layer: Type of the layer, as the tutorial prints it.
        output_shape: Without the batch.
        parameters: Its own; 0 for a block, whose layers have their own lines.
        mult_adds: For one image; 0 for a block.
    """

    index: int
    layer: str
    output_shape: tuple[int, ...]
    parameters: int
    mult_adds: int


@dataclass(frozen=True, slots=True)
class LayerTable:
    """A network layer by layer. Memory is for a batch, in MB.

    Attributes:
        rows: Leaves in forward order; each block comes after its leaves.
        total_parameters: Trainable or not.
        trainable_parameters: Those that training changes.
        mult_adds: For one image.
        input_mb: The batch, as float32.
        forward_backward_mb: The outputs of all rows and as much again for their gradients.
        parameters_mb: The parameters, once.
        total_mb: The sum of the three: an estimate by arithmetic, see ``measure_memory``.
    """

    rows: tuple[LayerRow, ...]
    total_parameters: int
    trainable_parameters: int
    mult_adds: int
    input_mb: float
    forward_backward_mb: float
    parameters_mb: float
    total_mb: float


@dataclass(frozen=True, slots=True)
class Reduction:
    """What a 1x1 convolution in front of a larger one costs and saves, biases included.

    Attributes:
        parameters: Of both convolutions.
        parameters_without: Of the larger one put directly on the input.
        mult_adds: Of both convolutions, for one image.
        mult_adds_without: Of the larger one put directly on the input.
    """

    parameters: int
    parameters_without: int
    mult_adds: int
    mult_adds_without: int


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One line of the paper's table.

    Attributes:
        name: Of the block.
        output_shape: Channels, height, width.
        widths: Channels of its input and of its six convolutions.
        parameters: Of all its layers.
        mult_adds: Of all its layers, for one image.
        three: What the reduction before the 3x3 convolution saves.
        five: What the reduction before the 5x5 convolution saves.
    """

    name: str
    output_shape: tuple[int, int, int]
    widths: Widths
    parameters: int
    mult_adds: int
    three: Reduction
    five: Reduction


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """The real peak of training steps.

    Attributes:
        peak_bytes: Beyond what the process held before the network was built.
        batch_size: Images a step.
        device: "cpu".
        method: How it was measured, to be shown beside the figure.
    """

    peak_bytes: int
    batch_size: int
    device: str
    method: str


def layer_table(
    arch: str, *, classes: int, image_size: int = REFERENCE_IMAGE_SIZE, batch_size: int = 1
) -> LayerTable:
    """The tutorial's layer table of a network as it is trained; it ends in a softmax.

    Args:
        arch: A key of ``ARCHITECTURES``.
        classes: Number of outputs.
        image_size: Pixels, height and width.
        batch_size: Images; only the memory figures depend on it.
    """
    layers = _trace(arch, classes, image_size)
    rows = tuple(
        LayerRow(
            index=index,
            layer=str(layer.module._get_name()),  # type: ignore[no-untyped-call]
            output_shape=tuple(layer.output_size[1:]),
            parameters=layer.num_params if layer.is_leaf_layer else 0,
            mult_adds=layer.macs if layer.is_leaf_layer else 0,
        )
        for index, layer in enumerate(_forward_order(layers[0]), start=1)
    )
    total = sum(row.parameters for row in rows)
    outputs = sum(math.prod(row.output_shape) for row in rows)
    input_mb = batch_size * INPUT_CHANNELS * image_size**2 * FLOAT_BYTES / MB
    forward_backward_mb = batch_size * outputs * 2 * FLOAT_BYTES / MB
    parameters_mb = total * FLOAT_BYTES / MB
    return LayerTable(
        rows=rows,
        total_parameters=total,
        trainable_parameters=layers[0].trainable_params,
        mult_adds=sum(row.mult_adds for row in rows),
        input_mb=input_mb,
        forward_backward_mb=forward_backward_mb,
        parameters_mb=parameters_mb,
        total_mb=input_mb + forward_backward_mb + parameters_mb,
    )


def block_table(arch: str, *, image_size: int = REFERENCE_IMAGE_SIZE) -> tuple[BlockRow, ...]:
    """The paper's table 1: one line an inception block, and what each reduction saves."""
    layers = _trace(arch, 1, image_size)
    blocks = [layer for layer in layers if _is_block(layer)]
    return tuple(_block_row(name, layer) for name, layer in zip(BLOCKS, blocks, strict=True))


def reduction(
    *,
    inputs: int,
    reduced: int,
    outputs: int,
    kernel_size: int,
    height: int,
    width: int,
    bias: bool = True,
) -> Reduction:
    """A 1x1 convolution and one of ``kernel_size`` after it, against the latter alone.

    All keep height and width; each has a bias unless told otherwise.
    """
    narrow = inputs * reduced + reduced * kernel_size**2 * outputs + bias * (reduced + outputs)
    direct = inputs * kernel_size**2 * outputs + bias * outputs
    places = height * width
    return Reduction(narrow, direct, narrow * places, direct * places)


def module_tree(arch: str, *, classes: int, image_size: int = REFERENCE_IMAGE_SIZE) -> str:
    """The network as ``print(model)`` shows it in the tutorial, softmax included."""
    with torch.device("meta"):
        return str(build(arch, classes, image_size, training=True, softmax=True))


def measure_memory(arch: str, *, classes: int, image_size: int, batch_size: int) -> MeasuredMemory:
    """Run two training steps (forward, backward, Adam) in float32 and report the real peak.

    Two, because the optimizer's own memory is there from the second step on. A fresh process makes
    them on the CPU, and the figure is how far its resident memory rose at its highest.

    Raises:
        ResourceError: The memory does not suffice, or this system does not tell the peak.
        UsageError: One image alone is too small to be trained on.
    """
    if batch_size == 1 and image_size < SMALLEST_SINGLE_OF.get(arch, SMALLEST_SINGLE):
        raise UsageError(
            f"one image of {image_size} px cannot be trained on alone: batch normalisation needs "
            "two values a channel; use --batch-size 2"
        )
    job = (arch, classes, image_size, batch_size)
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            peak = process.submit(_resident_peak, *job).result()
        return MeasuredMemory(peak, batch_size, "cpu", "growth of resident memory")
    except (BrokenProcessPool, MemoryError, RuntimeError) as error:
        if not (isinstance(error, BrokenProcessPool) or is_out_of_memory(error)):
            raise
        raise ResourceError(
            f"a step with batch {batch_size} at {image_size} px does not fit into the "
            f"memory of this machine; try --batch-size {max(1, batch_size // 2)}"
        ) from error


# Tracing the network


def _trace(arch: str, classes: int, image_size: int) -> list[LayerInfo]:
    """Every module with shapes and counts, in the order torchinfo met them: parents first."""
    device = "cpu" if image_size <= LARGEST_SIZE_RUN else "meta"
    with torch.random.fork_rng(devices=[]):  # looking at a network changes no training
        with torch.device(device):
            network = build(arch, classes, image_size, training=True, softmax=True)
        shape = (1, INPUT_CHANNELS, image_size, image_size)
        result = torchinfo.summary(
            network, input_size=shape, device=device, mode="eval", depth=99, verbose=0
        )
    layers: list[LayerInfo] = result.summary_list
    return layers


def _forward_order(layer: LayerInfo) -> Iterator[LayerInfo]:
    """Leaves below ``layer``, and each inception block after its own."""
    for child in layer.children:
        if child.depth != layer.depth + 1:
            continue  # torchinfo lists all descendants as children
        yield from _forward_order(child)
        if child.is_leaf_layer or _is_block(child):
            yield child


def _is_block(layer: LayerInfo) -> bool:
    return hasattr(layer.module, "branch4")


def _block_row(name: str, layer: LayerInfo) -> BlockRow:
    _, channels, height, width = layer.output_size
    convs = [part for part in layer.module.modules() if isinstance(part, nn.Conv2d)]
    widths = Widths(convs[0].in_channels, *(conv.out_channels for conv in convs))
    place = {"height": height, "width": width}
    bias = convs[0].bias is not None
    return BlockRow(
        name=name,
        output_shape=(channels, height, width),
        widths=widths,
        parameters=layer.num_params,
        mult_adds=sum(child.macs for child in layer.children if child.is_leaf_layer),
        three=reduction(
            inputs=widths.inputs,
            reduced=widths.reduce3,
            outputs=widths.three,
            kernel_size=convs[2].kernel_size[0],
            bias=bias,
            **place,
        ),
        five=reduction(
            inputs=widths.inputs,
            reduced=widths.reduce5,
            outputs=widths.five,
            kernel_size=convs[4].kernel_size[0],
            bias=bias,
            **place,
        ),
    )


# Measuring memory


def _resident_peak(arch: str, classes: int, image_size: int, batch_size: int) -> int:
    """In a process of its own: how far resident memory rises, in bytes."""
    warm_up = nn.Sequential(nn.Conv2d(INPUT_CHANNELS, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    _train_two_steps(warm_up, image_size=8, batch_size=1)  # what torch loads late
    before = _resident_bytes("VmRSS")
    network = build(arch, classes, image_size, training=True)
    _train_two_steps(network, image_size=image_size, batch_size=batch_size)
    return _resident_bytes("VmHWM") - before


def _train_two_steps(network: nn.Module, *, image_size: int, batch_size: int) -> None:
    optimizer = torch.optim.Adam(network.parameters())
    images = torch.zeros(batch_size, INPUT_CHANNELS, image_size, image_size)
    labels = torch.zeros(batch_size, dtype=torch.int64)
    for _ in range(2):
        optimizer.zero_grad()
        losses = [functional.cross_entropy(each, labels) for each in heads(network(images))]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _resident_bytes(field: str) -> int:
    """Resident memory of this process: "VmRSS", now, or "VmHWM", at its highest so far.

    Without /proc both are the highest so far, which in a fresh process is close to now.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith(field))
        return int(line.split()[1]) * 1024  # "VmRSS:   123 kB"
    try:
        import resource
    except ImportError:  # Windows
        raise ResourceError("this system does not tell the peak memory of a process") from None
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024
