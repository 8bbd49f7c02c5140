"""Trainings that a benchmark compares: made on one division, and kept in a JSON file."""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from scipy import stats

from inceptcli import __version__
from inceptcli.config import DataConfig, resolve
from inceptcli.data.prepare import NO_ROLE, Photos, prepare, write_manifest
from inceptcli.engine.conclude import TrainResult
from inceptcli.engine.run import run
from inceptcli.files import write_json

# What may differ between trainings of one file.
FREE = ("json", "plot", "seeds", "recipes", "variants", "images", "ways")


def options_of(name: str, about: str | None, *, epochs: int, size: int) -> argparse.ArgumentParser:
    """The options that every comparison of trainings has."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("photos", type=Path, help="class folders")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--img-size", type=int, default=size)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=Path(f"{name}.json"))
    return parser


class Kept:
    """The finished trainings in ``--json``; those that are there are not made again.

    Raises:
        SystemExit: The file is of other settings.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        given = {name: value for name, value in vars(options).items() if name not in FREE}
        self._setting = given | {
            "photos": options.photos.name,
            "machine": platform.platform(),
            "torch": str(torch.__version__),
            "inceptcli": __version__,
        }
        self._path: Path = options.json
        self.trainings: list[dict[str, Any]] = []
        if self._path.exists():
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            if stored["setting"] != self._setting:
                raise SystemExit(f"{self._path} is of other settings; give another --json")
            self.trainings = stored["trainings"]

    def has(self, **key: object) -> bool:
        """Whether a training with these values is there."""
        return any(key.items() <= one.items() for one in self.trainings)

    def add(self, training: dict[str, Any]) -> None:
        """Keep one more, on the disk at once."""
        self.trainings.append(training)
        write_json(self._path, {"setting": self._setting, "trainings": self.trainings})


def points(change: Sequence[float]) -> str:
    """Mean of paired differences in percentage points with its 95 % interval (Student's t)."""
    parts = [100 * one for one in change]
    if len(parts) < 2:
        return f"{parts[0]:+.1f}"
    half = float(stats.t.ppf(0.975, len(parts) - 1)) * stdev(parts) / math.sqrt(len(parts))
    return f"{mean(parts):+.1f} ({mean(parts) - half:+.1f} to {mean(parts) + half:+.1f})"


def train_divided(
    data: dict[str, Any], recipe: str, typed: dict[str, Any], *, imbalance: float = 1.0
) -> TrainResult:
    """Train on a division by group that depends on the data's settings alone.

    Args:
        data: Settings of the photographs.
        recipe: One of ``config``'s.
        typed: Settings of the training.
        imbalance: How many times the last class's training photographs the first class has.
    """
    with tempfile.TemporaryDirectory() as name:
        photos = prepare(DataConfig(**data))
        write_manifest(Path(name) / "split.csv", _thinned(photos, imbalance))
        photos.store.close()
        places = {"split": Path(name) / "split.csv", "output": Path(name) / "run"}
        return run(resolve(recipe, data | typed | places)[0])


def _thinned(photos: Photos, imbalance: float) -> Photos:
    """Fewer training photographs from class to class, by equal factors; val and test stay."""
    roles = photos.roles.astype("<U5")
    count = len(photos.classes)
    for label in range(count):
        own = np.flatnonzero((photos.labels == label) & (roles == "train"))
        kept = round(len(own) * imbalance ** (-label / max(1, count - 1)))
        roles[own[kept:]] = NO_ROLE
    return replace(photos, roles=roles)
