"""Speed of prediction and evaluation from JPEG files of 256 pixels against the plain loop.

network: pixels to answers, with what single levers give alone.
files: from files to rows, as `inceptcli predict DIR` and the script do it.
role: a role measured from the cache, as validation and `evaluate` do it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from benchmarks import plain
from benchmarks.measure import (
    CLASSES,
    PLAIN,
    Case,
    Line,
    apart,
    lines_of,
    measure,
    options_of,
    seconds_now,
    take_turns,
    write_photographs,
)
from benchmarks.train import engine
from torch import nn
from torch.utils.data import DataLoader

from inceptcli.config import Precision
from inceptcli.data.folder import list_images
from inceptcli.data.machine import default_workers
from inceptcli.engine import infer
from inceptcli.engine.device import choose_device
from inceptcli.engine.predict import Input, Question, predict
from inceptcli.model.fold import fold_batch_norm
from inceptcli.model.inception import InceptionV1
from inceptcli.model.weights import Record, save_weights

BATCH = plain.BATCH_SIZE
FRESH = "plain loop in a process that has not trained"
KEPT = f"{FRESH}, kept memory alone"


def main() -> None:
    """Measure what was asked for."""
    options = options_of("predict", __doc__, WORKS).parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        # Four times as many as others take, so that the start of the processes counts for little.
        small = write_photographs(
            place / "small", options.photos, count=4 * options.images, side=256
        )
        measure("predict", WORKS, options, place, small)


def _network(place: Path, small: Path, options: argparse.Namespace) -> list[Line]:
    size = options.img_size
    levers = (PLAIN, "channels last alone", "folding alone", FRESH, KEPT)
    cases = {lever: apart(plain_network, size, lever) for lever in levers}
    pixels = torch.randint(0, 256, (BATCH, size, size, 3), dtype=torch.uint8)
    model = InceptionV1(CLASSES, image_size=size)
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in precisions:
        classifier = infer.Classifier(model, choose_device("cpu", precision))
        cases[f"inceptcli, {precision}"] = _rate(lambda ask=classifier: ask.logits(pixels))  # type: ignore[misc]
    return lines_of(take_turns(cases, rounds=options.rounds), "images/s")


def plain_network(size: int, lever: str) -> Case:
    """The script's network, as it is or with one lever of the program."""
    model = plain.network(CLASSES, size).eval() if lever in (FRESH, KEPT) else trained(size)
    if lever == "folding alone":
        model = fold_batch_norm(model)
    if lever == KEPT:
        choose_device("cpu", "fp32")
    rows = torch.channels_last if lever == "channels last alone" else torch.contiguous_format
    images = torch.randn(BATCH, 3, size, size).to(memory_format=rows)
    model = model.to(memory_format=rows)  # type: ignore[call-overload]
    return _rate(lambda: model(images))


def trained(size: int) -> nn.Module:
    """The script's network as the script comes to evaluating it: after steps of training.

    They leave a heap behind that lets it evaluate a quarter faster than a fresh process does.
    """
    model = plain.network(CLASSES, size)
    batch = torch.randn(BATCH, 3, size, size), torch.arange(BATCH) % CLASSES
    plain.train_epoch([batch] * 3, model, torch.optim.Adam(model.parameters(), lr=1e-4))  # type: ignore[arg-type]
    return model.eval()


def plain_loop(folder: Path, size: int) -> Case:
    """The script's evaluation of all files in a folder."""
    every = plain.photographs(folder, size)
    script = trained(size)

    def run() -> float:
        started = seconds_now()
        plain.evaluate(DataLoader(every, BATCH), script)
        return len(every) / (seconds_now() - started)

    return run


def _rate(work: Case) -> Case:
    def run() -> float:
        started = seconds_now()
        with torch.inference_mode():
            work()
            work()
        return 2 * BATCH / (seconds_now() - started)

    return run


def _files(place: Path, small: Path, options: argparse.Namespace) -> list[Line]:
    size = options.img_size
    loaded = load_random(place, size)
    device = choose_device("cpu", "auto")
    question = Question(workers=default_workers())
    names = [Input(path) for path in list_images(small, recursive=True)]

    def rows() -> float:
        started = seconds_now()
        answers = predict(names, loaded, loaded.answer(device), question)
        count = sum(row.error is None for row in answers)
        assert count == len(names)
        return count / (seconds_now() - started)

    name = f"prediction of files of 256 px ({device.precision})"
    cases: dict[str, Case] = {PLAIN: apart(plain_loop, small, size), name: rows}
    return lines_of(
        take_turns(cases, rounds=min(3, options.rounds)), "images/s", at_least={name: 3.4}
    )


def load_random(place: Path, size: int) -> infer.Loaded:
    """A network with random weights, written to ``model.pth`` and loaded as the commands do."""
    record = Record(
        arch="inception_v1",
        classes=tuple(f"class{i}" for i in range(CLASSES)),
        outputs=CLASSES,
        image_size=size,
        resize="stretch",
        recipe="tutorial",
        settings={},
        versions={},
    )
    model = InceptionV1(CLASSES, image_size=size)
    save_weights(place / "model.pth", model.state_dict(), record)
    return infer.load_network(place / "model.pth")


def _role(place: Path, small: Path, options: argparse.Namespace) -> list[Line]:
    size = options.img_size
    with engine(small, place, image_size=size, precision="auto") as training:
        name = f"evaluation of a known folder ({training.device.precision})"

        def role() -> float:
            started = seconds_now()
            answers = infer.infer_role(training.model, training.photos, "train", training.device)
            return len(answers.which) / (seconds_now() - started)

        cases: dict[str, Case] = {PLAIN: apart(plain_loop, small, size), name: role}
        rates = take_turns(cases, rounds=min(3, options.rounds))
    return lines_of(rates, "images/s", notes={name: "pixels from the cache, nothing decoded"})


WORKS = {"network": _network, "files": _files, "role": _role}

if __name__ == "__main__":
    main()
