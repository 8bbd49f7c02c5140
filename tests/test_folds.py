"""Cross-validation and repeats: each photograph tested once, and stops that lose nothing."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from unittest.mock import patch

import numpy as np
import pytest
import torch

from inceptcli.cli import main
from inceptcli.config import TrainConfig
from inceptcli.engine.folds import _as_planned, run_folds
from inceptcli.engine.intervals import pool
from inceptcli.engine.run import run
from inceptcli.errors import (
    DataError,
    OutputError,
    ResourceError,
    StoppedError,
    UsageError,
    WeightsError,
)
from inceptcli.events import EpochDone, Event, Notice, TrainingStarted
from inceptcli.runfolder import expand_models

SMALL = ("--img-size", "32", "-b", "16", "-j", "0", "--lr", "3e-4", "--epochs", "1")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def paired(photos: Path, tmp_path: Path) -> Path:
    """A group file that ties pictures two by two."""
    rows = [path.relative_to(photos).as_posix() for path in sorted(photos.glob("*/*"))]
    lines = [f"{name},{index // 2}" for index, name in enumerate(rows)]
    (tmp_path / "groups.csv").write_text("\n".join(["path,group", *lines]) + "\n")
    return tmp_path / "groups.csv"


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def settings(photos: Path, output: Path, **more: object) -> TrainConfig:
    small = {"epochs": 1, "image_size": 32, "batch_size": 16, "workers": 0, "group": "none"}
    return TrainConfig(root=photos, output=output, **(small | more))


class BegunError(Exception):
    """The first training is about to begin."""


def end_at_the_first_training(event: Event) -> None:
    if isinstance(event, Notice) and ": training " in event.text:
        raise BegunError(event.text)


def test_folds_test_each_photograph_once_and_pool(
    photos: Path, paired: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", photos, "--folds", 2, "--group-file", paired, *SMALL, "-o", "run")
    assert call(*words, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    folder = tmp_path / "run"
    tested: Counter[str] = Counter()
    rights, groups, accuracies = [], [], []
    for name in ("fold1", "fold2"):
        rows = read(folder / name / "split.csv")
        group_of = {row["path"]: row["group"] for row in rows}
        role_of = {row["path"]: row["role"] for row in rows}
        assert len(rows) == 60
        assert len({(row["group"], row["role"]) for row in rows}) == 30, "no group straddles"
        assert Counter((row["class"], row["role"]) for row in rows)["cat", "test"] == 10
        assert {row["role"] for row in rows} == {"train", "val", "test"}
        answers = read(folder / name / "predictions.csv")
        assert {row["path"] for row in answers} == {p for p in role_of if role_of[p] == "test"}
        tested.update(row["path"] for row in answers)
        rights.append([row["class"] == row["predicted"] for row in answers])
        groups.append([group_of[row["path"]] for row in answers])
        accuracies.append(float(np.mean(rights[-1])))
        assert (folder / name / "curves.png").exists()
        assert json.loads((folder / name / "metrics.json").read_text())["test"]["images"] == 30
    assert set(tested.values()) == {1}
    assert len(tested) == 60
    assert [fold["test_accuracy"] for fold in result["folds"]] == pytest.approx(accuracies)
    assert result["mean"] == pytest.approx(fmean(accuracies))
    assert result["std"] == pytest.approx(stdev(accuracies))
    assert result["interval"] == pytest.approx(list(pool(rights, groups).interval))
    assert result == json.loads((folder / "folds.json").read_text())
    assert call("train", "--resume", "run") == 0
    output = capsys.readouterr()
    assert output.out.splitlines()[-1] == "run"
    assert f"{result['mean']:.4f}" in output.out
    assert "fold1 is finished" in output.err


def test_a_stopped_fold_goes_on_and_finished_ones_are_left(photos: Path, tmp_path: Path) -> None:
    """Weights and figures are those of the unbroken training."""
    config = settings(photos, tmp_path / "broken", folds=2, epochs=2)
    seen: list[int] = []

    def stop_in_the_second(event: Event) -> None:
        if isinstance(event, EpochDone):
            seen.append(event.epoch)
            if len(seen) == 3:
                raise StoppedError("stopped", 15)

    with pytest.raises(StoppedError, match=r"stopped in fold2; .*--resume .*broken$") as caught:
        run_folds(config, emit=stop_in_the_second)
    assert caught.value.exit_code == 128 + 15
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "broken" / "fold1").iterdir()}
    said: list[Event] = []
    broken = run_folds(config, resuming=True, emit=said.append)
    assert [event.epoch for event in said if isinstance(event, EpochDone)] == [2]
    assert Notice("fold1 is finished") in said
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "broken" / "fold1").iterdir()}
    assert after == before
    (tmp_path / "broken" / "folds.json").write_text("{}")  # as a kill may leave it
    run_folds(config, resuming=True)
    written = json.loads((tmp_path / "broken" / "folds.json").read_text())
    assert written == broken.to_json()
    split = tmp_path / "broken" / "fold2.csv"
    whole = run(settings(photos, tmp_path / "whole", epochs=2, split=split))
    assert whole.test is not None
    assert broken.parts[1].val == whole.val.figures.accuracy
    assert broken.parts[1].test == whole.test.figures.accuracy
    one, two = (
        torch.load(place / "last.pth", weights_only=True)["model"]
        for place in (whole.run, broken.run / "fold2")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_fold_that_never_saved_begins_again(photos: Path, tmp_path: Path) -> None:
    config = settings(photos, tmp_path / "run", folds=2)

    def fail(event: Event) -> None:
        if isinstance(event, Notice) and event.text.startswith("fold2"):
            (tmp_path / "run" / "fold2").mkdir()
            (tmp_path / "run" / "fold2" / "config.json").write_text('{"settings": {"seed": 42}}')
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run_folds(config, emit=fail)
    assert len(run_folds(config, resuming=True).parts) == 2
    with pytest.raises(DataError, match="--seed was 42, is 43"):
        run_folds(replace(config, seed=43), resuming=True)
    with pytest.raises(OutputError, match="--resume"):
        run_folds(config)
    with pytest.raises(DataError, match="too few for 61 folds"):
        run_folds(replace(config, overwrite=True, folds=61))
    assert (tmp_path / "run" / "fold2" / "best_model.pth").exists()
    with pytest.raises(BegunError, match="fold1: training 1 of 2"):
        run_folds(replace(config, overwrite=True, seed=43), emit=end_at_the_first_training)
    assert not any((tmp_path / "run" / "fold2").iterdir())


def test_other_runs_in_the_folder_are_not_replaced(photos: Path, tmp_path: Path) -> None:
    """Only trainings of a run of several are, and none of what they are to read."""
    for name in ("folding-chairs", "repeat_of_last_week"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text('{"settings": {}}')
    config = settings(photos, tmp_path / "runs", folds=2, overwrite=True)
    with pytest.raises(BegunError):
        run_folds(config, emit=end_at_the_first_training)
    assert len(list((tmp_path / "runs").glob("*/config.json"))) == 2
    (tmp_path / "other" / "fold1").mkdir(parents=True)
    with pytest.raises(OutputError, match="fold1 is there already"):
        run_folds(replace(config, output=tmp_path / "other"), emit=end_at_the_first_training)
    inside = tmp_path / "runs" / "fold1" / "split.csv"
    with pytest.raises(UsageError, match=r"--split lies in .*runs, which is to be replaced"):
        run_folds(replace(config, folds=None, repeats=2, split=inside))
    assert not (tmp_path / "runs" / "repeat1").exists()


@pytest.mark.parametrize("kind", ["folds", "repeats"])
def test_an_earlier_run_stays_where_no_training_can_begin(
    kind: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--overwrite removes it when the first training is about to begin, not for a slip."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = settings(photos, tmp_path / "run", **{kind: 2})
    run_folds(config)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    slips = [
        ({"device": "cuda"}, ResourceError, "no such device"),
        ({"root": tmp_path / "no-photos"}, DataError, "no-photos"),
        (
            {"time_seconds": 2.0, "epochs": 300, "sources": {"epochs": "option"}},
            UsageError,
            "short",
        ),
        ({"weights": str(next(photos.glob("*/*.png")))}, WeightsError, ".png"),
    ]
    for slip, kind_of_error, word in slips:
        sources = slip.pop("sources", {})
        changed = replace(config, overwrite=True, **slip)
        with pytest.raises(kind_of_error, match=word):
            run_folds(changed, sources=sources)
        after = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
        assert after == before


def test_a_stop_before_the_first_training_keeps_the_earlier_run(
    photos: Path, tmp_path: Path
) -> None:
    config = settings(photos, tmp_path / "run", repeats=2)
    run_folds(config)
    with (
        patch("inceptcli.engine.run.set_up", side_effect=lambda *_: signal.raise_signal(2)),
        pytest.raises(StoppedError, match="before the first step"),
    ):
        run_folds(replace(config, overwrite=True))
    assert len(expand_models([tmp_path / "run"])) == 2


def test_a_planned_training_with_weights_goes_on(photos: Path, tmp_path: Path) -> None:
    """The 200 steps that --weights asks for are no change of the plan."""
    whole = run(settings(photos, tmp_path / "first"))
    config = settings(
        photos,
        tmp_path / "run",
        repeats=2,
        time_seconds=20.0,
        least_steps=200,
        weights=str(whole.run / "best_model.pth"),
    )

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone):
            raise StoppedError("stopped", 15)

    with pytest.raises(StoppedError):
        run_folds(config, emit=stop)
    begun = json.loads((tmp_path / "run" / "repeat1" / "config.json").read_text())["settings"]
    said: list[Event] = []
    with pytest.raises(StoppedError):
        run_folds(config, resuming=True, emit=lambda event: (said.append(event), stop(event))[1])
    (begins,) = (event for event in said if isinstance(event, TrainingStarted))
    assert (begins.epochs, begins.first_epoch) == (begun["epochs"], 2)


def test_messages_of_a_training_name_the_whole(photos: Path, tmp_path: Path) -> None:
    """Its own folder alone is not to be gone on with, and cannot be changed."""
    config = settings(photos, tmp_path / "my run", repeats=2, epochs=2)

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone):
            raise StoppedError("stopped", 15)

    with pytest.raises(StoppedError, match=r"train --resume '.*/my run'$"):
        run_folds(config, emit=stop)
    moved = shutil.copytree(photos, tmp_path / "fewer")
    next(moved.glob("*/*.png")).unlink()
    with pytest.raises(DataError, match=r"undo that, or begin another run$"):
        run_folds(replace(config, root=moved), resuming=True)


def test_a_missing_report_of_a_fold_is_made_up_for(photos: Path, tmp_path: Path) -> None:
    assert call("train", photos, "--folds", 2, "--group", "none", *SMALL, "-o", "run") == 0
    (tmp_path / "run" / "fold1" / "report.html").unlink()
    weights = tmp_path / "run" / "fold1" / "best_model.pth"
    before = weights.read_bytes()
    shutil.copytree(tmp_path / "run" / "fold1", tmp_path / "run" / "fold_notes")
    assert expand_models([tmp_path / "run"]) == [
        tmp_path / "run" / name / "best_model.pth" for name in ("fold1", "fold2")
    ]
    assert call("train", "--resume", "run") == 0
    assert (tmp_path / "run" / "fold1" / "report.html").exists()
    assert weights.read_bytes() == before


def test_repeats_have_other_seeds(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", photos, "--repeats", 2, "--group", "none", *SMALL, "--name", "r")
    assert call(*words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "runs/r"
    folder = tmp_path / "runs" / "r"
    seeds = [
        json.loads((folder / name / "config.json").read_text())["settings"]["seed"]
        for name in ("repeat1", "repeat2")
    ]
    assert seeds == [42, 43]
    assert call("train", "--resume", "latest") == 0
    assert "repeat2 is finished" in capsys.readouterr().err


def test_trainings_in_a_given_time_share_it_and_are_alike(photos: Path, tmp_path: Path) -> None:
    words = ("train", photos, "--repeats", 2, "--group", "none", *SMALL, "--time", "20s")
    assert call(*words, "--name", "r") == 0
    first, second = (
        json.loads((tmp_path / "runs" / "r" / name / "config.json").read_text())
        for name in ("repeat1", "repeat2")
    )
    assert first["settings"]["time_seconds"] == second["settings"]["time_seconds"] == 10
    assert first["sources"]["train_sizes"].startswith("planned for 10 s")
    assert second["sources"]["train_sizes"] == "planned for repeat1"
    assert first["sources"]["epochs"] == second["sources"]["epochs"] == "option"  # typed in SMALL
    for name in ("epochs", "train_sizes"):
        assert second["settings"][name] == first["settings"][name]


def test_a_planned_training_gets_no_epochs_beyond_the_plan(photos: Path, tmp_path: Path) -> None:
    """--weights asks for 200 steps, --time has the last word, in each of the trainings."""
    first = settings(photos, tmp_path / "repeat1", time_seconds=9.0, epochs=3)
    first.output.mkdir()
    (first.output / "config.json").write_text(json.dumps({"settings": first.to_json()}))
    part = replace(first, output=tmp_path / "repeat2", epochs=10, least_steps=200)
    planned, told = _as_planned(part, first, {"epochs": "fine-tuning"})
    assert (planned.epochs, planned.least_steps) == (3, 0)
    assert told["epochs"] == told["time_seconds"] == "planned for repeat1"


def test_no_time_for_so_many_trainings_is_refused(photos: Path, tmp_path: Path) -> None:
    config = settings(photos, tmp_path / "run", folds=10, repeats=10, time_seconds=60.0)
    with pytest.raises(UsageError, match="60 s for 100 trainings"):
        run_folds(config)
    assert not (tmp_path / "run").exists()


def test_a_time_too_short_for_an_epoch_leaves_no_folder(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", photos, "--folds", 2, "--group", "none", *SMALL[:-2], "--time", "2s")
    assert call(*words, "--epochs", 300, "-o", "run") == 2
    assert "--time: 1 s a training is too short: 300 epochs would" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_repeats_of_folds_divide_anew(photos: Path, tmp_path: Path) -> None:
    config = settings(photos, tmp_path / "run", folds=2, repeats=2)
    with pytest.raises(BegunError, match="repeat1-fold1: training 1 of 4"):
        run_folds(config, emit=end_at_the_first_training)
    names = ["repeat1-fold1", "repeat1-fold2", "repeat2-fold1", "repeat2-fold2"]
    tests = [
        {row["path"] for row in read(tmp_path / "run" / f"{name}.csv") if row["role"] == "test"}
        for name in names
    ]
    assert len(tests[0] | tests[1]) == len(tests[2] | tests[3]) == 60
    assert tests[0] not in (tests[2], tests[3])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--folds", "1"), "--folds: 1 is outside 2 to 1000"),
        (("--repeats", "0"), "--repeats: 0 is outside"),
        (("--folds", "2", "--split", "split.csv"), "leave out --split"),
        (("--folds", "2", "--dry-run"), "--dry-run"),
    ],
)
def test_nonsense_is_refused_at_once(
    words: tuple[str, ...], said: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", photos, *words) == 2
    assert said in capsys.readouterr().err


def test_folders_of_roles_and_torchrun_are_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for role in ("train", "val"):
        for path in photos.glob("*/0*.png"):
            place = tmp_path / "roles" / role / path.parent.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    config = settings(tmp_path / "roles", tmp_path / "run", folds=2)
    with pytest.raises(UsageError, match="divided already"):
        run_folds(config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="too few for 61 folds"):
        run_folds(settings(photos, tmp_path / "run", folds=61))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun"):
        run_folds(config)
