"""What a split by file promises and what new photographs give, for docs/honest-splits.md.

The tutorial's situation made again: few photographs, fourteen augmented copies of each beside
them. One network is trained on a split by file and one on a split by group; both are then
measured on photographs of which neither has seen a copy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from inceptcli.config import DataConfig, TrainConfig
from inceptcli.console import print_table, result, say
from inceptcli.data.prepare import prepare
from inceptcli.engine.device import choose_device
from inceptcli.engine.evaluate import evaluate
from inceptcli.engine.figures import Figures
from inceptcli.engine.infer import load_network
from inceptcli.engine.run import run
from inceptcli.runfolder import BEST

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from copies import write_copies

Pictures = dict[str, list[Image.Image]]
DIGITS = range(5)  # of the built-in ones, where no photographs are given


def main() -> None:
    """Train twice; print the figures and how far those of the two splits lie apart."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        originals, new = _pictures(options)
        write_copies(place / "copies", originals, seed=options.seed)
        for class_, images in new.items():
            (place / "new" / class_).mkdir(parents=True)
            for number, image in enumerate(images):
                image.save(place / "new" / class_ / f"{number:03d}.png")
        by_file = _measured(place, "none", options)
        by_group = _measured(place, "auto", options)
    rows = [
        (name, test.groups, test.images, _shown(test), _shown(real), test.accuracy - real.accuracy)
        for name, (test, real) in {"by file": by_file, "by group": by_group}.items()
    ]
    heads = ("split", "test groups", "test images", "test accuracy", "on new photographs")
    print_table((*heads, "promised too much"), rows, markdown=True)
    apart = by_file[0].accuracy - by_group[0].accuracy
    result("")
    result(f"test accuracy by file less that by group: {apart:.4f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.honest_splits", description=__doc__)
    parser.add_argument("--photos", type=Path, help="class folders; built-in digits without it")
    parser.add_argument("--originals", type=int, default=12, help="photographs a class")
    parser.add_argument("--new", type=int, default=100, help="others a class, kept back")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--img-size", type=int, default=48)
    parser.add_argument("--seed", type=int, default=42)
    return parser.parse_args()


def _pictures(options: argparse.Namespace) -> tuple[Pictures, Pictures]:
    """Class -> photographs to copy, and class -> others, at random."""
    random = np.random.default_rng(options.seed)
    found = _photographs(options.photos) if options.photos else _digits()
    originals: Pictures = {}
    new: Pictures = {}
    for class_, images in found.items():
        order = random.permutation(len(images))[: options.originals + options.new]
        chosen = [_opened(images[i]) for i in order]
        originals[class_] = chosen[: options.originals]
        new[class_] = chosen[options.originals :]
    return originals, new


def _photographs(root: Path) -> dict[str, list[Path | Image.Image]]:
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    return {folder.name: [*sorted(folder.glob("*.jpg"))] for folder in folders}


def _digits() -> dict[str, list[Path | Image.Image]]:
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return {
        f"digit {label}": [
            Image.fromarray(picture).resize((32, 32)) for picture in pixels[digits.target == label]
        ]
        for label in DIGITS
    }


def _opened(source: Path | Image.Image) -> Image.Image:
    image = source if isinstance(source, Image.Image) else Image.open(source)
    return image.convert("RGB")


def _measured(place: Path, how: str, options: argparse.Namespace) -> tuple[Figures, Figures]:
    """Figures of one training: on its own test role, and on new photographs."""
    seen = {"image_size": options.img_size, "cache": str(place / "cache")}
    config = TrainConfig(
        root=place / "copies",
        group=how,
        ratio=(0.6, 0.2, 0.2),
        epochs=options.epochs,
        seed=options.seed,
        output=place / how,
        **seen,
    )
    trained = run(config)
    if trained.test is None:
        raise AssertionError("a split of three parts has a test role")
    photos = prepare(DataConfig(root=place / "new", **seen), to_learn=False, divide=False)
    loaded = load_network(trained.run / BEST)
    with photos.store:
        real = evaluate(loaded, photos, "test", choose_device("auto", "auto"))
    say(f"--group {how}: {trained.photos.group_count} groups, {trained.seconds:.0f} s of training")
    return trained.test.figures, real.figures


def _shown(figures: Figures) -> str:
    interval = figures.intervals["accuracy"]
    low_to_high = f" ({interval.low:.2f} to {interval.high:.2f})" if interval else ""
    return f"{figures.accuracy:.4f}{low_to_high}"


if __name__ == "__main__":
    main()
