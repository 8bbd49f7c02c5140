"""An exported network beside the program's own: the same answers, and how fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from inceptcli.data.folder import list_images
from inceptcli.data.image import RejectedImage, fit, open_image
from inceptcli.data.split import read_split
from inceptcli.engine.device import choose_device
from inceptcli.engine.infer import Classifier, Loaded
from inceptcli.engine.onnx import OnnxNetwork
from inceptcli.engine.predict import BATCH_SIZE, softmax
from inceptcli.errors import DataError, WeightsError
from inceptcli.events import Emit, Progress, Warned, silent
from inceptcli.files import printable
from inceptcli.runfolder import CONFIG, SPLIT, read_settings

if TYPE_CHECKING:
    from inceptcli.data.image import Pixels

TOLERANCE = 1e-3  # of a probability
MOST_CHECKED = 64
SECONDS = 1.0  # for measuring each speed

Answers = Callable[["Pixels"], npt.NDArray[np.floating[Any]]]  # (N, H, W, 3) -> (N, C)


@dataclass(frozen=True)
class Parity:
    """How far the file's answers are from the program's.

    Attributes:
        photographs: Compared, at their full size.
        sizes: Different widths and heights among them.
        drawn: Pictures of random pixels compared as well.
        largest: Difference in a probability.
        where: The picture that has it.
        agreement: Part of the pictures with the same likeliest class.
        disagreements: Pictures with another one although the program's leads by more than
            ``TOLERANCE``.
    """

    photographs: int
    sizes: int
    drawn: int
    largest: float
    where: str
    agreement: float
    disagreements: int


def proven(
    answers: Answers, network: Loaded, paths: Sequence[Path], *, emit: Emit = silent
) -> Parity:
    """The parity of a file that must answer as the program does.

    Raises:
        WeightsError: It does not.
    """
    parity = compare(answers, network, paths, emit=emit)
    if not parity.largest <= TOLERANCE or parity.disagreements:
        raise WeightsError(
            f"the exported network answers otherwise: a probability differs by "
            f"{parity.largest:.2g} on {parity.where} (at most {TOLERANCE:g}) and the class on "
            f"{parity.disagreements} pictures; nothing is written: report this bug"
        )
    return parity


def compare(
    answers: Answers, network: Loaded, paths: Sequence[Path], *, emit: Emit = silent
) -> Parity:
    """A file's answers beside those of the program, on photographs and on random pixels.

    Args:
        answers: Of the file, for one picture of any size at a time.
        network: The program's, computed in float32 on the processor.
        paths: Of the photographs, of which at most ``MOST_CHECKED`` are taken.
        emit: Told how far it is.
    """
    classifier = Classifier(network.model, choose_device("cpu", "fp32"))
    size, resize = network.spec.image_size, network.spec.resize
    where, differences, agreements, gross, shapes = [], [], [], 0, set()
    for name, image in _pictures(paths, network.spec.image_size, emit):
        pixels = torch.from_numpy(fit(image, size=size, resize=resize))
        wanted = softmax(classifier.logits(pixels[None]).numpy(), network.temperature)[0]
        given = answers(np.array(image)[None])[0]
        lead = float(np.diff(np.sort(wanted)[-2:])[0]) if len(wanted) > 1 else 1.0
        same = int(given.argmax()) == int(wanted.argmax())
        where.append(name)
        differences.append(float(np.abs(given - wanted).max()))
        agreements.append(same)
        gross += not same and lead > TOLERANCE
        if name != _DRAWN:
            shapes.add(image.size)
    worst = int(np.argmax(differences))  # the first NaN, if there is one
    return Parity(
        photographs=len(where) - where.count(_DRAWN),
        sizes=len(shapes),
        drawn=where.count(_DRAWN),
        largest=differences[worst],
        where=where[worst],
        agreement=sum(agreements) / len(agreements),
        disagreements=gross,
    )


_DRAWN = "a picture of random pixels"


def _pictures(paths: Sequence[Path], size: int, emit: Emit) -> Iterator[tuple[str, Image.Image]]:
    """Photographs at their full size, then random pixels of every kind of shape."""
    if not paths:
        emit(Warned("no photographs to compare on, only random pixels; name some with --check"))
    chosen = spread(len(paths), MOST_CHECKED)
    for done, index in enumerate(chosen):
        emit(Progress("comparing", done + 1, len(chosen)))
        try:
            yield printable(str(paths[index])), open_image(paths[index])
        except RejectedImage:
            continue
    random = np.random.default_rng(0)
    for width, height in ((size, size), (size // 2, size * 2), (2 * size + 1, size // 3), (1, 1)):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        yield _DRAWN, Image.fromarray(pixels)


def photographs(network: Loaded, folder: Path | None) -> list[Path]:
    """Of a folder, or the val photographs of the network's run as far as they are still there."""
    if folder is not None:
        paths = list_images(folder, recursive=True)
        if not paths:
            raise DataError(f"--check: no picture in {printable(str(folder))}")
        return paths
    run = network.path.parent
    if not ((run / CONFIG).exists() and (run / SPLIT).exists()):
        return []
    root = Path(read_settings(run)["root"])
    val = [root / row.name for row in read_split(run / SPLIT) if row.role == "val"]
    return [path for path in val if path.is_file()]


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most so many of ``range(count)``, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def speeds(network: Loaded, found: OnnxNetwork) -> dict[str, float]:
    """Images a second in batches of 32 at the network's size, measured in turns."""
    device = choose_device("cpu", "auto")
    size = network.spec.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, size, size, 3), dtype=np.uint8)
    program = network.answer(device)
    contenders: dict[str, Callable[[], object]] = {
        f"inceptcli, {device.precision}": lambda: program(pixels),
        f"ONNX Runtime, {found.description.precision}": lambda: found.probabilities(pixels),
    }
    return _best_rates(contenders, len(pixels))


def _best_rates(contenders: dict[str, Callable[[], object]], images: int) -> dict[str, float]:
    """The best of several turns each: what the processor can do when nothing disturbs it."""
    best = dict.fromkeys(contenders, float("inf"))
    for work in contenders.values():
        work()  # what is set up at the first call does not count
    end = time.perf_counter() + SECONDS * len(contenders)
    while True:
        for name, work in contenders.items():
            start = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - start)
        if time.perf_counter() >= end:
            return {name: images / least for name, least in best.items()}
