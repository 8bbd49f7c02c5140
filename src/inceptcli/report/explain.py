"""Where a network looks: Grad-CAM, as bare maps and as overlays.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, equations 1 and 2.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from inceptcli.data.layout import folder_name
from inceptcli.data.loader import normalise
from inceptcli.data.reader import read
from inceptcli.engine.infer import Loaded
from inceptcli.engine.predict import Prediction
from inceptcli.errors import DataError, OutputError
from inceptcli.files import cannot_write, printable, write_bytes

DIMMED = 0.15
BATCH_SIZE = 8  # with gradients, so smaller than a batch of inference
Pixels = npt.NDArray[np.uint8]
Maps = npt.NDArray[np.float32]


def grad_cam(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Where each image speaks for a class, on the last feature map of any network.

    Args:
        model: The network, answering logits (N, C); its mode is left as it was.
        images: Normalised, (N, 3, S, S) float.
        targets: (N,) int64, the output to explain for each image.

    Returns:
        (N, S, S) float32 on the CPU, 0 to 1: each map's largest value is 1, or all are 0 where
        nothing speaks for the class. Between places of the feature map it is bilinear.
    """
    training = model.training
    model.eval()
    try:
        maps, slopes = _maps_and_slopes(model, images, targets)
    finally:
        model.train(training)
    weights = slopes.mean(dim=(2, 3), keepdim=True)  # (N, K, 1, 1), equation 1
    found = functional.relu((weights * maps).sum(dim=1, keepdim=True))  # (N, 1, h, w), equation 2
    size = images.shape[-2:]
    found = functional.interpolate(found.float(), size=size, mode="bilinear", align_corners=False)
    peaks = found.amax(dim=(2, 3), keepdim=True)
    return torch.where(peaks > 0, found / peaks, 0.0)[:, 0].cpu()


def last_map(model: nn.Module, images: Tensor) -> nn.Module:
    """The layer that is done last of those whose output has more than one place.

    For an Inception network that is its last block; found by running it, so that it holds for
    any network and any image size (at 32 pixels the last block's map has shrunk to one place).

    Raises:
        ValueError: No layer has such an output.
    """
    found: list[nn.Module] = []

    def note(module: nn.Module, given: object, output: object) -> None:
        del given
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2:].numel() > 1:
            found[:] = [module]

    handles = [part.register_forward_hook(note) for part in model.modules() if part is not model]
    try:
        with torch.no_grad():
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ValueError("the network has no feature map")
    return found[0]


def attributions(loaded: Loaded, pixels: Pixels, targets: Sequence[int]) -> Maps:
    """``grad_cam`` of pictures as the network sees them, on the CPU.

    Args:
        loaded: The network.
        pixels: (N, S, S, 3) uint8.
        targets: The output to explain for each.

    Returns:
        (N, S, S) float32, 0 to 1.
    """
    device = torch.device("cpu")
    model = loaded.model.to(device)
    parts = [np.empty((0, *pixels.shape[1:3]), np.float32)]
    for start in range(0, len(pixels), BATCH_SIZE):
        images = normalise(torch.from_numpy(pixels[start : start + BATCH_SIZE]), device=device)
        wanted = torch.tensor(targets[start : start + BATCH_SIZE])
        parts.append(grad_cam(model, images, wanted).numpy())
    return np.concatenate(parts)


def overlay(pixels: Pixels, found: Maps) -> Pixels:
    """A picture lit by its map: (S, S, 3) uint8 and (S, S) -> (S, S, 3) uint8.

    It is as it was where the map is 1, and ``DIMMED`` of that where it is 0: colours laid over it
    would be taken for the picture's own.
    """
    light = DIMMED + (1 - DIMMED) * found[..., None]
    return (pixels * light).round().astype(np.uint8)


def explained(
    folder: Path, rows: Iterable[Prediction], loaded: Loaded, *, max_megapixels: float
) -> Iterator[Prediction]:
    """Draw for each prediction that passes where the network looks, class by class.

    ``0001-NAME-1-CLASS-overlay.png`` and ``...-map.png``: the number of the input, its name, the
    class's place among the answers and its name.

    Raises:
        DataError: A file can no longer be read as it was when it was predicted.
        OutputError: The folder holds something already, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise OutputError(f"{printable(str(folder))} is not an empty folder; name a new one")
    except OSError as error:
        raise cannot_write(folder, error) from error
    for number, row in enumerate(rows, start=1):
        if row.error is None:
            _explain(folder, number, row, loaded, max_megapixels)
        yield row


def _explain(
    folder: Path, number: int, row: Prediction, loaded: Loaded, max_megapixels: float
) -> None:
    spec = replace(loaded.spec, max_megapixels=max_megapixels)
    (looked,) = read([Path(row.path)], spec, workers=0)
    pixels = looked.pixels
    if pixels is None:
        raise DataError(f"{printable(row.path)} has changed meanwhile: {looked.reason}")
    targets = [loaded.outputs.index(name) for name, _ in row.top]
    maps = attributions(loaded, np.repeat(pixels[None], len(targets), axis=0), targets)
    stem = folder_name(Path(row.path).stem)[:60]
    for place, ((name, _), found) in enumerate(zip(row.top, maps, strict=True), start=1):
        start = f"{number:04d}-{stem}-{place}-{folder_name(name)[:60]}"
        write_bytes(folder / f"{start}-overlay.png", png(overlay(pixels, found)))
        write_bytes(folder / f"{start}-map.png", png((found * 255).round().astype(np.uint8)))


def png(pixels: Pixels) -> bytes:
    """Pixels (S, S, 3) or (S, S) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def _maps_and_slopes(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The last feature map (N, K, h, w) and the slope of each target's logit by it."""
    held: list[Tensor] = []

    def hold(module: nn.Module, given: object, output: Tensor) -> Tensor:
        del module, given
        held.append(output.detach().requires_grad_())
        return held[0]  # the graph begins here: nothing below is needed

    handle = last_map(model, images).register_forward_hook(hold)
    try:
        with torch.enable_grad():
            logits = model(images)
            chosen = logits.gather(1, targets[:, None]).sum()
            (slopes,) = torch.autograd.grad(chosen, held[0])
    finally:
        handle.remove()
    return held[0].detach(), slopes
