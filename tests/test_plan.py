"""--time and --find-lr: what is planned, and the real commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from inceptcli.cli import main, options
from inceptcli.config import TrainConfig, resolve
from inceptcli.data.prepare import prepare
from inceptcli.engine import find_lr
from inceptcli.engine import plan as plan_module
from inceptcli.engine.adapt import adapt
from inceptcli.engine.device import choose_device
from inceptcli.engine.find_lr import suggest
from inceptcli.engine.optim import train_size
from inceptcli.engine.plan import MARGIN, MOST, Speed, plan
from inceptcli.engine.run import set_up
from inceptcli.engine.signals import StopRequest
from inceptcli.engine.train import out_of_time
from inceptcli.errors import DataError, UsageError
from inceptcli.events import silent
from inceptcli.runfolder import claim_run

SPEED = Speed(images=1000, val_images=100, fixed=1e-3, by_area=1e-6, val=2e-2, save=0.3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))


def settings(seconds: float, **more: object) -> TrainConfig:
    return TrainConfig(root=Path(), time_seconds=seconds, **more)  # type: ignore[arg-type]


def by_hand(config: TrainConfig) -> float:
    each = [1000 * (1e-3 + 1e-6 * train_size(config, e + 1) ** 2) for e in range(config.epochs)]
    return sum(each) + config.epochs * (100 * 2e-2 + 0.3)


@pytest.mark.parametrize("seconds", [60, 600, 1800])
def test_a_plan_is_the_longest_that_fits(seconds: float) -> None:
    planned, reasons = plan(settings(seconds), SPEED, {})
    assert by_hand(planned) <= MARGIN * seconds
    assert by_hand(replace(planned, epochs=planned.epochs + 1)) > MARGIN * seconds
    assert SPEED.total(planned) == pytest.approx(by_hand(planned))
    assert set(reasons) == {"epochs", "train_sizes"}
    if seconds == 1800:  # enough time: the recipe's own sizes
        assert planned.train_sizes == (0.5, 0.875)
    if seconds == 60:
        assert planned.train_sizes == (0.5, 0.5)


def test_a_plan_ends_somewhere() -> None:
    assert plan(settings(1e8), SPEED, {})[0].epochs == MOST


def test_a_plan_with_weights_shrinks_no_pictures_for_more_epochs_than_fine_tuning_has() -> None:
    seconds = SPEED.total(settings(600, epochs=12)) / MARGIN
    assert plan(settings(seconds, epochs=10), SPEED, {})[0].train_sizes == (0.5, 0.875)
    assert plan(settings(seconds, epochs=40), SPEED, {})[0].train_sizes != (0.5, 0.875)


def test_a_plan_leaves_what_was_typed() -> None:
    planned, reasons = plan(settings(600, epochs=25), SPEED, {"epochs": "option"})
    assert planned.epochs == 25
    assert planned.train_sizes != (0.5, 0.875)
    assert set(reasons) == {"train_sizes"}
    typed = settings(600, train_sizes=(1.0, 1.0))
    planned, reasons = plan(typed, SPEED, {"train_sizes": "option"})
    assert planned.train_sizes == (1.0, 1.0)
    assert set(reasons) == {"epochs"}


def test_a_plan_leaves_another_recipes_own_sizes() -> None:
    config, sources = resolve("tutorial", {"root": Path(), "time_seconds": 60.0})
    planned, reasons = plan(config, SPEED, sources)
    assert planned.train_sizes == (1.0, 1.0)
    assert set(reasons) == {"epochs"}


def test_pictures_that_shrink_are_measured_as_they_are(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side_of = {1: 64, 2: 32}
    monkeypatch.setattr(plan_module, "_seconds_an_image", lambda *a: 1e-3 * side_of[a[2]] ** 2)
    typed = {"image_size": 64, "epochs": 2, "train_sizes": (1.0, 0.5), "group": "none"}
    config, _ = resolve("default", typed | {"root": photos, "workers": 0})
    prepared = prepare(config)
    with prepared.store:
        device = choose_device("cpu", "fp32")
        training = set_up(config, prepared, device, tmp_path, StopRequest(), silent)
        speed = plan_module.measure(training)
    assert speed.training(32) == pytest.approx(32**2 / 1000)
    assert speed.training(64) == pytest.approx(64**2 / 1000)
    assert speed.save > 0
    assert not (tmp_path / "last.pth").exists()


def test_a_plan_is_made_by_the_speed_of_its_own_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few epochs have small batches, and those take longer, here in proportion."""
    labels, measured = np.arange(1000) % 4, []
    photos = Mock(labels=labels, classes=list("abcd"), indices=lambda _: np.arange(1000))

    def begin(config: TrainConfig) -> Mock:
        return Mock(config=adapt(config, photos)[0], photos=photos)

    def measure(training: Mock) -> Speed:
        measured.append(training.config.batch_size)
        return replace(SPEED, by_area=1e-6 * 32 / measured[-1])

    monkeypatch.setattr(plan_module, "measure", measure)
    config = settings(120)
    planned, _, speed = plan_module.measured_plan(config, begin, {})
    assert measured == [32, 16, 8]
    assert begin(planned).config.batch_size == 8
    assert planned == plan(config, speed, {})[0]
    assert plan_module.measured_plan(settings(1800), begin, {})[0].epochs > planned.epochs
    assert measured == [32, 16, 8, 32]  # one is enough where the size stays


@pytest.mark.parametrize(("saving", "over"), [(2.9, False), (3.1, True)])
def test_the_time_for_saving_counts(saving: float, over: bool) -> None:
    training = Mock()
    training.progress.history = [Mock(seconds=3.0), Mock(seconds=2.0)]
    training.config.time_seconds = 10.0
    training.saving.seconds = saving
    training.device.most = int
    assert out_of_time(training) == over


def test_no_time_is_refused() -> None:
    with pytest.raises(UsageError, match="--time: 5 s a training is too short: 1 epoch would"):
        plan(settings(5), SPEED, {})


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m5s", 5405)]
)
def test_durations(text: str, seconds: float) -> None:
    assert options.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "5x", "1.2.3m", "30m1h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--time"):
        TrainConfig(root=Path(), time_seconds=options.seconds(text))


def test_the_suggestion_lies_below_the_lowest_loss() -> None:
    rates = [10 ** (-6 + step / 10) for step in range(50)]
    losses = [abs(step - 40) / 40 + 0.1 for step in range(50)]
    assert suggest(rates, losses) == pytest.approx(rates[40] / 4, rel=0.05)
    with pytest.raises(DataError, match="never fell"):
        suggest(rates, sorted(losses))


WORDS = ["--img-size", "32", "-j", "0", "--group", "none"]


def test_a_rate_that_spoils_the_weights_is_no_bug_of_the_plan(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(photos), *WORDS, "--recipe", "tutorial", "--lr", "1e20", "-b", "8"]
    with pytest.raises(SystemExit) as caught:
        main([*words, "--time", "10s", "-o", str(tmp_path / "run")])
    assert caught.value.code == 6, capsys.readouterr().err


def test_find_lr_draws_and_suggests(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(find_lr, "STEPS", 40)
    words = ["train", str(photos), *WORDS, "--find-lr", "--json", "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    found = json.loads(capsys.readouterr().out)
    rates = found["rates"]
    assert rates == sorted(rates)
    assert rates[0] < found["suggestion"] < rates[-1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["find_lr.png"]
    # The training that it was for takes that folder.
    with claim_run(tmp_path / "out", resume=False, overwrite=False) as lock:
        assert (tmp_path / "out" / "find_lr.png").exists()
        lock.clear()


def test_a_timed_training_plans_ends_and_resumes(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as caught:
        main(["train", str(photos), *WORDS, "--time", "6s", "-o", str(run)])
    assert caught.value.code == 0, capsys.readouterr().err
    stored = json.loads((run / "config.json").read_text())
    rows = (run / "history.csv").read_text().splitlines()[1:]
    assert 1 <= len(rows) <= stored["settings"]["epochs"]
    assert stored["sources"]["epochs"].startswith("planned for 6 s")
    (run / "metrics.json").unlink()
    with pytest.raises(SystemExit) as caught:
        main(["train", "--resume", str(run)])
    assert caught.value.code == 0
    again = json.loads((run / "config.json").read_text())["settings"]
    for name in ("epochs", "train_sizes", "warmup_epochs", "batch_size"):
        assert again[name] == stored["settings"][name]
    assert again["warmup_epochs"] == 0.1 * again["epochs"]
    typed = str(again["epochs"] + 1)  # what is typed goes before the plan
    with pytest.raises(SystemExit) as caught:
        main(["train", "--resume", str(run), "--epochs", typed, "--allow-change"])
    assert caught.value.code == 0
    later = json.loads((run / "config.json").read_text())["settings"]
    assert later["epochs"] == int(typed)
    assert later["warmup_epochs"] == 0.1 * int(typed)  # by the rule, as before
    capsys.readouterr()
    more = str(int(typed) + 1)
    with pytest.raises(SystemExit) as caught:
        main(["train", "--resume", str(run), "--epochs", more, "--time", "1s", "--allow-change"])
    assert caught.value.code == 0
    assert f"ending before epoch {more}, which would end after --time 1s" in capsys.readouterr().err
