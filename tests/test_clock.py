"""What is said of a training that is slower than it could be."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from inceptcli.config import resolve
from inceptcli.data import shelf
from inceptcli.data.cache import PixelStore
from inceptcli.data.machine import default_workers
from inceptcli.engine import clock as clock_module
from inceptcli.engine.clock import Clock
from inceptcli.engine.run import run
from inceptcli.events import Event, Notice


def said(
    monkeypatch: pytest.MonkeyPatch,
    *,
    seconds: float = 10.0,
    waited: float = 0.0,
    processor_seconds: float = 40.0,
    threads: int = 4,
    device: str = "cpu",
    world: int = 1,
    first: int = 0,
) -> list[str]:
    """The lines about an epoch of ten steps of 32 images, begun after ``first`` of them."""
    now, used, told = [100.0], [7.0], []
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(clock_module.time, "process_time", lambda: used[0])
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    training = Mock(advised=False, emit=lambda event: told.append(event.text))
    training.progress = Mock(seconds=0.0, wait_seconds=0.0, step=first)
    training.device.torch_device, training.device.world = torch.device(device), world
    training.photos.store.remedy = lambda: "buy a disk"
    found = Clock(training, Mock(waited=waited), [np.arange(32)] * 10)
    now[0], used[0] = now[0] + seconds, used[0] + processor_seconds
    found.finish()
    found.finish()  # says nothing twice
    return told


def test_a_training_that_computes_all_the_time_is_left_in_peace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert said(monkeypatch) == []
    assert said(monkeypatch, waited=1.9, processor_seconds=32.4) == []


def test_waiting_for_pixels_is_told_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "60% of the time was spent waiting for pixels: 32.0 images/s, without that 80.0; buy"
    assert said(monkeypatch, waited=6.0)[0].startswith(expected)
    part = said(monkeypatch, waited=6.0, first=5, device="cuda")
    assert "16.0 images/s, without that 40.0" in part[0]
    assert len(part) == 1


def test_processors_that_others_use_are_told_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    line = said(monkeypatch, processor_seconds=27.0)[0]
    assert line.startswith("torch's 4 threads had 2.7 processors: other work takes the rest")
    assert "OMP_NUM_THREADS=2" in line


@pytest.mark.parametrize(
    "quiet", [{"device": "cuda"}, {"threads": 1}, {"seconds": 4.0}, {"world": 2}]
)
def test_what_cannot_be_judged_is_not(monkeypatch: pytest.MonkeyPatch, quiet: Any) -> None:
    assert said(monkeypatch, **{"processor_seconds": 0.1} | quiet) == []


def test_threads_that_sleep_while_they_wait_cannot_be_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert said(monkeypatch, processor_seconds=20.0) == []


def test_memory_that_is_too_small_is_not_advised() -> None:
    disk = shelf._OnDisk(Mock(), [])
    assert "--cache ram" in disk.remedy(0.001)
    assert "--cache ram" not in disk.remedy(1e6)


@pytest.mark.parametrize(
    ("cache", "remedy"),
    [
        ("none", "--cache DIR, of 0.0 GB, or decode in more processes with --workers {n}"),
        (
            "disk",
            "keep them, 0.0 GB, on a faster disk with --cache DIR or in memory with --cache ram",
        ),
        ("ram", "in memory already"),
    ],
)
def test_slow_pixels_are_told_of_in_a_real_training(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, remedy: str
) -> None:
    take, told = PixelStore.take, list[str]()

    def slowly(store: PixelStore, indices: Any) -> Any:
        time.sleep(0.5)
        return take(store, indices)

    def emit(event: Event) -> None:
        if isinstance(event, Notice):
            told.append(event.text)

    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(PixelStore, "take", slowly)
    monkeypatch.setattr(clock_module, "LONG_ENOUGH", 0.0)
    typed = {"root": photos, "output": tmp_path / "run", "epochs": 2, "image_size": 32}
    typed |= {"workers": 0, "group": "none", "cache": cache}
    run(resolve("default", typed)[0], emit=emit)
    (line,) = [text for text in told if "waiting for pixels" in text]
    assert remedy.format(n=default_workers()) in line
