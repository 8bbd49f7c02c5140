"""Numbers against a hand-written reference: a training step, batches, several processes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import ROOT
from inceptcli.config import MEAN, STD, TrainConfig, resolve
from inceptcli.data.loader import Batch
from inceptcli.data.prepare import prepare
from inceptcli.engine import device as device_module
from inceptcli.engine import infer, predict
from inceptcli.engine.device import Device, choose_device
from inceptcli.engine.optim import balanced_class_weights, learning_rate, loss_per_image
from inceptcli.engine.run import set_up
from inceptcli.engine.signals import StopRequest
from inceptcli.engine.train import parts_of, set_learning_rate, train_step
from inceptcli.events import silent
from inceptcli.model.fold import fold_batch_norm
from inceptcli.model.inception import InceptionV1

CPU = Device(torch.device("cpu"), "fp32", "")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))


def settings(root: Path, **typed: object) -> TrainConfig:
    return resolve("tutorial", {"root": root, "image_size": 64, "workers": 0, **typed})[0]


def test_a_tutorial_step_equals_a_plain_one(photos: Path, tmp_path: Path) -> None:
    """The script's step, written by hand, from the same weights and batch: equal to 1e-6."""
    config = settings(photos)
    found = prepare(config)
    training = set_up(config, found, CPU, tmp_path, StopRequest(), silent)
    model = InceptionV1(4, image_size=64, softmax=True)
    model.load_state_dict(training.model.state_dict())
    chosen = found.indices("train")[:32]
    pixels, _ = found.store.take(chosen)

    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    model.train()
    torch.manual_seed(5)
    loss = nn.CrossEntropyLoss()(model(images), torch.from_numpy(found.labels[chosen]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

    training.model.train()
    torch.manual_seed(5)
    set_learning_rate(training, 2)
    losses, _ = train_step(training, Batch(0, chosen, torch.from_numpy(pixels)), total=32)
    assert float(losses.mean()) == pytest.approx(loss.item(), abs=1e-6)
    for (name, ours), theirs in zip(
        training.model.state_dict().items(), model.state_dict().values(), strict=True
    ):
        # Adam's first step is lr * sign(gradient): where a gradient is rounding noise around
        # zero its sign is, too, so such a weight may differ by two steps.
        difference = (ours.double() - theirs.double()).abs()
        assert float((difference > 1e-6).double().mean()) < 0.01, name
        assert float(difference.max()) <= 2.1e-4, name


@pytest.mark.parametrize("parts", [2, 3, 32])
def test_a_batch_in_parts_is_the_whole_batch(parts: int, photos: Path, tmp_path: Path) -> None:
    """--accumulate: with batch statistics and dropout frozen the step is the same to 1e-6."""
    found = prepare(settings(photos))
    chosen = found.indices("train")[:11]
    pixels, _ = found.store.take(chosen)
    after = []
    for count in (1, parts):
        config = settings(photos, optimizer="sgd", lr=0.01, accumulate=count)
        training = set_up(config, found, CPU, tmp_path, StopRequest(), silent)
        training.model.eval()
        losses, correct = train_step(training, Batch(0, chosen, torch.from_numpy(pixels)), total=11)
        after.append((training.model.state_dict(), losses, correct))
    for name, whole in after[0][0].items():
        torch.testing.assert_close(after[1][0][name], whole, rtol=0, atol=1e-6, msg=name)
    torch.testing.assert_close(after[1][1], after[0][1], rtol=0, atol=1e-6)
    assert int(after[0][2]) == int(after[1][2])
    assert {
        len(part.indices) for part in parts_of(Batch(0, chosen, torch.from_numpy(pixels)), 5)
    } <= {2, 3}


@pytest.mark.parametrize("batch_size", [1, 7])
def test_answers_do_not_depend_on_the_batch(
    batch_size: int, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluation with batches of 1, 7 and 32 agrees to 1e-5."""
    found = prepare(settings(photos))
    torch.manual_seed(0)
    model = InceptionV1(3, image_size=64)
    whole = infer.infer_role(model, found, "all", CPU).logits
    monkeypatch.setattr(predict, "BATCH_SIZE", batch_size)
    parts = infer.infer_role(model, found, "all", CPU).logits
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def test_folding_changes_no_answer() -> None:
    torch.manual_seed(0)
    model = InceptionV1(3, image_size=64)
    model(torch.randn(8, 3, 64, 64))  # gives batch norm statistics to fold
    model.eval()
    images = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(fold_batch_norm(model)(images), model(images), atol=1e-5, rtol=0)


def test_the_double_softmax_is_the_scripts() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    ours = loss_per_image(double_softmax=True, class_weights=None)(logits, labels).mean()
    script = nn.CrossEntropyLoss()(nn.Softmax(dim=1)(logits), labels)
    assert float(ours) == pytest.approx(script.item(), abs=1e-6)


@pytest.mark.parametrize(("gain", "chosen"), [(0.5, "fp32"), (1.1, "fp32"), (1.9, "bf16")])
def test_a_processor_computes_in_what_it_is_fast_in(
    gain: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "_cpu_has_bf16", lambda: True)
    monkeypatch.setattr(device_module, "_bf16_gain", lambda: gain)
    found = choose_device("cpu", "auto")
    assert found.precision == chosen
    assert f"{gain} times" in found.reason
    assert choose_device("cpu", "bf16").precision == "bf16"


def test_measuring_the_processor_draws_nothing_at_random() -> None:
    state = torch.get_rng_state()
    assert device_module._bf16_gain() > 0
    assert torch.equal(torch.get_rng_state(), state)


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 7 + [1] * 2 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    ours = balanced_class_weights(torch.from_numpy(labels), 4)
    np.testing.assert_allclose(ours, [*expected, 0], rtol=1e-6)


def test_the_learning_rate_rises_and_falls() -> None:
    config = TrainConfig(root=Path(), epochs=5, lr=1.0, warmup_epochs=1.0)
    rates = [learning_rate(config, step=step, steps_per_epoch=10) for step in range(50)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.01
    constant, _ = resolve("tutorial", {"root": Path()})
    assert {learning_rate(constant, step=s, steps_per_epoch=10) for s in range(9)} == {1e-4}


WORKER = """
import sys
from pathlib import Path
import torch
from torch import nn
from inceptcli.config import TrainConfig
from inceptcli.engine import run, train
from inceptcli.events import EpochDone

# The equality is promised for batch statistics and dropout frozen.
made = run.set_up
def frozen(*arguments, **more):
    training = made(*arguments, **more)
    training.parallel.eval()
    training.parallel.train = lambda mode=True: training.parallel
    return training
run.set_up = frozen
config = TrainConfig(root=Path(sys.argv[1]), output=Path(sys.argv[2]), epochs=2, image_size=64,
    batch_size=12, workers=0, group="none", flips="h", precision="fp32", lr=1e-4,
    accumulate=int(sys.argv[3]))
run.run(config)
"""


def test_two_processes_give_the_losses_of_one(photos: Path, tmp_path: Path) -> None:
    """torchrun's two, each in two parts, equal one process to 1e-4 at the same total batch."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    one = [sys.executable, str(script), str(photos), str(tmp_path / "one"), "1"]
    subprocess.run(one, check=True, env=environment, timeout=200)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--master-port", "29533", str(script), str(photos), str(tmp_path / "two"), "2"]
    subprocess.run(launch, check=True, env=environment, timeout=200, capture_output=True)
    lines = [(tmp_path / name / "history.csv").read_text().splitlines() for name in ("one", "two")]
    for first, second in zip(lines[0][1:], lines[1][1:], strict=True):
        ours, theirs = (np.array(line.split(",")[1:5], float) for line in (first, second))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    states = [
        torch.load(tmp_path / name / "last.pth", weights_only=True)["model"]
        for name in ("one", "two")
    ]
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], atol=1e-4, rtol=1e-3)


def test_under_torchrun_one_process_speaks(photos: Path, tmp_path: Path) -> None:
    """The command itself: one table, one run folder, whoever else computes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    words += ["--master-port", "29534", "-m", "inceptcli", "train", str(photos), "--epochs", "1"]
    words += ["--img-size", "32", "-b", "12", "-j", "0", "-o", str(tmp_path / "run")]
    done = subprocess.run(words, env=environment, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == str(tmp_path / "run")
    assert len([line for line in lines if "1/1" in line]) == 1
    # Each process has batch-norm statistics of its own, and all validate the network that is saved.
    with open(tmp_path / "run" / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    val = json.loads((tmp_path / "run" / "metrics.json").read_text())["val"]
    assert float(row["val_loss"]) == pytest.approx(val["loss"], abs=1e-5)
    assert (tmp_path / "run" / "curves.png").exists()


PREDICTING = """
import sys
from inceptcli import cli
from inceptcli.engine import share
share.BLOCK = 3
cli.main(sys.argv[1:])
"""


def test_under_torchrun_predictions_come_in_order(photos: Path, tmp_path: Path) -> None:
    """The rows of two processes are those of one, a file that is none among them."""
    script, model = tmp_path / "predicting.py", tmp_path / "model.pth"
    script.write_text(PREDICTING)
    torch.manual_seed(0)
    torch.save(InceptionV1(3, image_size=32).state_dict(), model)
    many = tmp_path / "many"
    many.mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.png"))[:10]):
        (many / f"{number}.png").write_bytes(path.read_bytes())
    (many / "4.png").write_bytes(b"nothing")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = ["predict", str(many), str(tmp_path / "gone.png"), "--jsonl", "-m", str(model)]
    words += ["-k", "3", "-j", "1"]
    one = [sys.executable, str(script), *words]
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    two += ["--master-port", "29535", *one[1:]]
    rows = []
    for command in (one, two):
        done = subprocess.run(
            command, env=environment, timeout=200, capture_output=True, text=True, check=False
        )
        assert done.returncode != 0  # two inputs could not be read
        assert "2 of 11 inputs could not be read" in done.stderr
        assert done.stderr.count("weights: ") == done.stderr.count("trained on is unknown") == 1
        rows.append([json.loads(line) for line in done.stdout.splitlines()])
    assert [Path(row["path"]).name for row in rows[0]] == [f"{i}.png" for i in range(10)] + [
        "gone.png"
    ]
    assert len(rows[0]) == len(rows[1])
    for ours, theirs in zip(*rows, strict=True):
        assert (ours["path"], ours["class"], ours["error"]) == (
            theirs["path"],
            theirs["class"],
            theirs["error"],
        )
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-5)


def test_under_torchrun_one_process_tells_the_figures(photos: Path, tmp_path: Path) -> None:
    """evaluate: the figures of two processes are those of one, and are printed once."""
    model = tmp_path / "model.pth"
    torch.manual_seed(0)
    torch.save(InceptionV1(3, image_size=32).state_dict(), model)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = ["-m", "inceptcli", "evaluate", str(photos), "-m", str(model), "--classes-from"]
    words += [str(photos), "--role", "all", "-j", "0", "--json"]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29536"]
    told = []
    for command in ([sys.executable, *words], [sys.executable, *launch, *words]):
        done = subprocess.run(
            command, env=environment, timeout=200, capture_output=True, text=True, check=True
        )
        told.append(json.loads(done.stdout))
        assert done.stderr.count("weights: ") == done.stderr.count("computing on") == 1
    one, two = told
    for name in ("images", "accuracy", "confusion"):
        assert one[name] == two[name], name
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)
