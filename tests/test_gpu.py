"""What a GPU computes, against the CPU. Skipped where there is none."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from inceptcli.cli.app import main
from inceptcli.config import resolve
from inceptcli.data.augment import Crop
from inceptcli.data.loader import Waiting
from inceptcli.engine.device import choose_device
from inceptcli.engine.infer import Classifier
from inceptcli.engine.run import run
from inceptcli.events import EpochDone, Event, silent
from inceptcli.model.inception import build
from inceptcli.model.weights import load_weights

GPU = "cuda"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and cache lie in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))
    # Read once, at the first product of matrices, which may not be the deterministic training's.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def call(*words: object) -> int:
    """The exit code of ``inceptcli WORDS``."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def noise(*shape: int) -> torch.Tensor:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    return torch.from_numpy(pixels)


def trained(photos: Path, name: str, *, emit: Any = silent, **more: Any) -> Any:
    """Three epochs of small pictures on the GPU."""
    typed = {"root": photos, "output": Path(name), "device": GPU, "epochs": 3, "image_size": 32}
    typed |= {"batch_size": 8, "workers": 0, "group": "none"}
    return run(resolve("default", typed | more)[0], emit=emit)


def weights_of(name: str) -> dict[str, torch.Tensor]:
    return load_weights(Path(name) / "best_model.pth").state_dict


def test_crops_are_the_cpus() -> None:
    """To one grey level: another way to compute the same."""
    images, indices = noise(30, 64, 64, 3), np.arange(30)
    crop = Crop(40, 0.25, seed=1, epoch=2)
    difference = crop(images.to(GPU), indices).cpu().int() - crop(images, indices).int()
    assert difference.abs().max() <= 1


@pytest.mark.parametrize(("precision", "off"), [("fp32", 5e-2), ("bf16", 0.1), ("fp16", 2e-2)])
def test_logits_are_the_cpus(precision: str, off: float) -> None:
    """Within a part of their spread: TF32 has ten bits, bf16 seven, fp16 ten, others' rounding."""
    torch.manual_seed(0)
    model = build("inception_v1_bn", 5, 64).eval()
    nn.init.normal_(model.classifier.weight, std=0.5)
    pixels = noise(16, 64, 64, 3)
    expected = Classifier(model, choose_device("cpu", "fp32")).logits(pixels)
    found = Classifier(model, choose_device(GPU, precision)).logits(pixels)
    assert (found - expected).abs().max() < off * expected.std()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_training_learns_as_on_a_cpu(photos: Path, precision: str) -> None:
    found = trained(photos, "gpu", precision=precision)
    expected = trained(photos, "cpu", precision="fp32", device="cpu")
    assert found.history[0].train_loss == pytest.approx(expected.history[0].train_loss, abs=0.2)
    assert found.val.figures.accuracy >= expected.val.figures.accuracy - 0.2
    assert all(part.isfinite().all() for part in weights_of("gpu").values())


@pytest.mark.parametrize("arch", ["inception_v1", "inception_v1_aux", "googlenet"])
def test_every_network_learns_with_accumulated_gradients(photos: Path, arch: str) -> None:
    assert len(trained(photos, "gpu", arch=arch, accumulate=2).history) == 3


def test_pictures_that_are_not_flipped_are_learned_too(photos: Path) -> None:
    assert len(trained(photos, "gpu", flips="none").history) == 3


def test_the_time_waited_is_what_the_gpu_stood_still() -> None:
    """The program waits 0.2 s for a batch while the GPU works for longer, then 0.2 s in vain."""
    waiting, busy = Waiting(on_gpu=True), torch.randn(4096, 4096, device=GPU)
    torch.cuda.synchronize()
    started = time.monotonic()
    for _ in range(100):
        busy @ busy
    torch.cuda.synchronize()
    once = time.monotonic() - started
    for _ in range(int(100 * 0.5 / once)):
        busy @ busy
    with waiting:
        time.sleep(0.2)
    torch.cuda.synchronize()
    assert waiting.seconds < 0.1
    with waiting:
        time.sleep(0.2)
    torch.cuda.synchronize()
    assert 0.15 < waiting.seconds < 0.4


def test_a_deterministic_training_that_was_stopped_ends_with_the_same_bits(photos: Path) -> None:
    def stop_after_one(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 1:
            raise RuntimeError("stopped here")

    try:
        trained(photos, "whole", deterministic=True)
        with pytest.raises(RuntimeError, match="stopped here"):
            trained(photos, "stopped", deterministic=True, emit=stop_after_one)
        trained(photos, "twice", deterministic=True)
        assert call("train", "--resume", "stopped") == 0
    finally:
        torch.use_deterministic_algorithms(mode=False)
    whole = weights_of("whole")
    for other in ("twice", "stopped"):
        found = weights_of(other)
        assert all(torch.equal(part, found[name]) for name, part in whole.items()), other


def test_every_command_works_on_it(photos: Path) -> None:
    """And predicts and evaluates what the CPU does."""
    assert call("train", photos, "--device", GPU, "-o", "run", "--epochs", 3, "--img-size", 32) == 0
    assert call("train", photos, "--device", GPU, "--find-lr", "--img-size", 32) == 0
    assert call("train", photos, "--device", GPU, "--dry-run", "--img-size", 32) == 0
    assert call("evaluate", photos, "-m", "run/best_model.pth", "--device", GPU) == 0
    rows = {}
    for device in (GPU, "cpu"):
        words = ("predict", photos, "-r", "-m", "run/best_model.pth", "--device", device)
        assert call(*words, "--precision", "fp32", "--csv", f"{device}.csv") == 0
        with Path(f"{device}.csv").open(encoding="utf-8") as file:
            rows[device] = [(row["path"], row["class"]) for row in csv.DictReader(file)]
    assert len(rows["cpu"]) == 60
    assert sum(a != b for a, b in zip(rows[GPU], rows["cpu"], strict=True)) <= 1
