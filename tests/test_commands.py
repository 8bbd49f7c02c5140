"""The commands as a person types them, on small drawn pictures, in this process."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from conftest import draw
from inceptcli import console
from inceptcli.cli import main
from inceptcli.engine.evaluate import save_threshold
from inceptcli.errors import OutputError
from inceptcli.model.inception import InceptionV1, InceptionV1BN
from inceptcli.model.weights import load_weights, save_weights
from inceptcli.report import plots
from inceptcli.runfolder import find_weights

RUN_FILES = {
    *("best_model.pth", "last.pth", "last.prev.pth", "config.json", "split.csv", "rejected.csv"),
    *("history.csv", "metrics.json", "predictions.csv", "curves.png", "confusion.png"),
    *("reliability.png", "samples.png", "report.html"),
}
SMALL = ("--img-size", "32", "-b", "8", "-j", "0", "--group", "none", "--lr", "3e-4")


def call(*words: object) -> int:
    """The exit code of ``inceptcli WORDS``."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and cache lie in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on three drawn classes; the photographs lie beside it."""
    place = tmp_path_factory.mktemp("trained")
    for label, name in enumerate(("cat", "dog", "eel")):
        for index in range(20):
            seed = 100 * label + index
            draw(place / "photos" / name / f"{index:02d}.png", seed=seed, label=label)
    words = ("train", place / "photos", "--epochs", 2, *SMALL, "-o", place / "run")
    assert call(*words, "--cache", "ram") == 0
    return place / "run"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_train_writes_the_run_folder(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == RUN_FILES
    history = read(trained / "history.csv")
    columns = "epoch train_loss train_accuracy val_loss val_accuracy learning_rate seconds best"
    assert list(history[0]) == [*columns.split(), "wait_seconds"]
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert list(read(trained / "split.csv")[0]) == ["path", "class", "role", "group"]
    for name in ("curves", "confusion", "reliability", "samples"):
        with Image.open(trained / f"{name}.png") as picture:
            assert min(picture.size) > 100


def test_the_last_line_is_the_run_folder(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", photos, "--epochs", 1, *SMALL, "--name", "first") == 0
    output = capsys.readouterr()
    assert output.out.splitlines()[-1] == "runs/first"
    assert "best" in output.out
    assert "setting" in output.err
    assert (tmp_path / "runs" / "first" / "best_model.pth").exists()


def test_a_second_train_into_the_folder_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = trained.parent / "photos"
    before = (trained / "best_model.pth").read_bytes()
    assert call("train", photos, "-o", trained) == 5
    error = capsys.readouterr().err
    assert "--resume" in error
    assert "--overwrite" in error
    assert (trained / "best_model.pth").read_bytes() == before


def test_a_finished_run_has_nothing_to_resume(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """K10."""
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    assert call("train", "--resume", trained) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert call("train", "--resume", trained, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["run"], told["epochs"]) == (str(trained), 2)
    assert told["val"]["accuracy"] == told["history"][told["best_epoch"] - 1]["val_accuracy"]
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


def test_a_resume_keeps_what_a_run_began_with(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its command and where its settings came from; and a loss in other units is refused."""
    copy = shutil.copytree(trained, tmp_path / "copy")
    before = json.loads((copy / "config.json").read_text())
    more = ("train", "--resume", copy, "--allow-change")
    assert call(*more, "--class-weights", "balanced") == 3
    assert "another --class-weights" in capsys.readouterr().err
    assert call(*more, "--epochs", 3) == 0
    after = json.loads((copy / "config.json").read_text())
    assert (after["command"], after["started"]) == (before["command"], before["started"])
    assert before["sources"]["seed"] == "default"
    assert after["sources"] == before["sources"] | {"epochs": "option"}


def test_a_resume_chooses_by_the_rules_what_depends_on_what_was_typed(
    trained: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    path = copy / "config.json"
    then = json.loads(path.read_text())
    rules = dict.fromkeys(("lr", "weight_decay", "warmup_epochs"), "rule: then")
    then["sources"] |= rules
    path.write_text(json.dumps(then))
    words = ("--epochs", 3, "--optimizer", "sgd", "-b", 8)
    assert call("train", "--resume", copy, "--allow-change", *words) == 0
    now = json.loads(path.read_text())
    assert now["settings"]["lr"] == 0.0063  # 0.0125 in batches of 32
    assert now["settings"]["weight_decay"] == 0.0005
    assert now["settings"]["warmup_epochs"] == pytest.approx(0.3)
    assert now["sources"]["lr"] == "rule: sgd, root of batch size"


def test_results_of_a_training_that_goes_on_are_not_left(trained: Path, tmp_path: Path) -> None:
    """Else a failure at its end would leave pages and tables of the shorter one."""
    copy = shutil.copytree(trained, tmp_path / "copy")
    with patch("inceptcli.engine.conclude.write_predictions", side_effect=OutputError("full")):
        assert call("train", "--resume", copy, "--epochs", 3, "--allow-change") == 5
    assert not (copy / "predictions.csv").exists()
    assert not (copy / "report.html").exists()
    assert call("train", "--resume", copy) == 0
    assert {path.name for path in copy.iterdir()} == RUN_FILES


def test_the_latest_network_is_the_one_trained_last(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Storing a threshold is no training; several trainings of which none is finished are none."""
    for name in ("older", "newer"):
        shutil.copytree(trained, Path("runs", name))
        os.utime(Path("runs", name, "history.csv"))
    Path("runs", "folds").mkdir()
    Path("runs", "folds", "folds.json").write_text("{}")
    save_threshold(Path("runs/older/best_model.pth"), 0.7)
    assert find_weights([]) == [Path("runs/newer/best_model.pth")]
    picture = next(photos.glob("*/*.png"))
    assert call("predict", picture, "-m", "runs/older", "--tta", "flips") == 0
    assert "stored threshold is for one network" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["--find-lr", "--dry-run"])
def test_tests_before_a_training_are_not_for_one_that_goes_on(
    trained: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", "--resume", trained, word) == 2
    assert "leave out --resume" in capsys.readouterr().err


def test_a_positive_class_that_is_none_costs_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "best_model.pth").read_bytes()
    words = ("evaluate", "-m", trained, "--positive", "catt", "--min-precision", 0.4, "--save")
    assert call(*words, "-j", 0, "-o", tmp_path / "e") == 2
    assert "the classes are 'cat', 'dog', 'eel'" in capsys.readouterr().err
    assert (trained / "best_model.pth").read_bytes() == before
    assert not (tmp_path / "e").exists()


def test_pictures_that_a_kill_prevented_are_drawn_at_a_resume(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    for name in ("predictions.csv", "curves.png", "report.html"):
        (copy / name).unlink()
    assert call("train", "--resume", copy) == 0
    assert "nothing to do" not in capsys.readouterr().err
    assert {path.name for path in copy.iterdir()} == RUN_FILES


def test_a_picture_that_cannot_be_drawn_is_a_warning(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "curves", Mock(side_effect=RuntimeError("no fonts")))
    assert call("train", photos, "--epochs", 1, *SMALL, "--name", "first") == 0
    output = capsys.readouterr()
    assert "a picture is missing, the training's results are complete: no fonts" in output.err
    assert output.out.splitlines()[-1] == "runs/first"


def test_a_run_folder_stands_for_its_weights_everywhere(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", "-m", trained, "--against", trained) == 0
    assert call("export", "-m", trained, "-o", "model.safetensors") == 0
    several = ("--repeats", 2, "--name", "several", "--ratio", "0.8,0.2")
    assert call("train", trained.parent / "photos", "--epochs", 1, *SMALL, *several) == 0
    capsys.readouterr()
    picture = trained.parent / "photos" / "cat" / "00.png"
    assert call("predict", picture) == 0  # of the run that was saved last: both its trainings
    assert capsys.readouterr().err.count("weights: runs/several/repeat") == 2
    for words in (("export",), ("evaluate", "-m", trained, "--against", "runs/several")):
        assert call(*words) == 2
        assert "takes one network" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_weights(photos: Path, tmp_path: Path) -> None:
    """N2: identical but for the seconds."""
    for name in ("a", "b"):
        assert call("train", photos, "--epochs", 1, *SMALL, "-o", tmp_path / name) == 0
    one, two = (torch.load(tmp_path / n / "best_model.pth", weights_only=True) for n in "ab")
    assert all(torch.equal(one[key], two[key]) for key in one)
    rows = [read(tmp_path / name / "history.csv") for name in "ab"]
    timed = {"seconds", "wait_seconds"}
    one_rows, two_rows = ([{k: row[k] for k in row.keys() - timed} for row in r] for r in rows)
    assert one_rows == two_rows


def test_evaluate_and_predict_agree(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = trained / "best_model.pth"
    assert call("evaluate", "-m", weights, "-o", tmp_path / "out", "--precision", "fp32") == 0
    capsys.readouterr()
    rows = read(tmp_path / "out" / "predictions.csv")
    files = [trained.parent / "photos" / row["path"] for row in rows]
    assert call("predict", *files, "-m", weights, "--jsonl", "-k", 3, "--precision", "fp32") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["class"] for answer in answers] == [row["predicted"] for row in rows]
    for answer, row in zip(answers, rows, strict=True):
        assert answer["probability"] == pytest.approx(float(row["probability"]), abs=1e-5)
        assert answer["error"] is None
        assert len(answer["top"]) == 3


def test_a_table_has_columns_for_the_classes_that_there_are(trained: Path, tmp_path: Path) -> None:
    photo, table = next((trained.parent / "photos").rglob("*.png")), tmp_path / "rows.csv"
    assert call("predict", photo, "-m", trained, "-k", 1000, "--csv", table) == 0
    (row,) = read(table)
    classes = {row[f"class{end}"] for end in ("", "_2", "_3")}
    assert classes == {path.name for path in (trained.parent / "photos").iterdir()}
    assert len(row) == 5 + 2 * 2


def test_evaluate_gives_the_documented_keys(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", "-m", trained / "best_model.pth", "--role", "val", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    wanted = "images accuracy balanced_accuracy loss auc classes confusion role"
    assert set(wanted.split()) <= set(figures)
    assert figures["role"] == "val"
    assert np.sum(figures["confusion"]) == figures["images"]


def test_what_was_trained_on_is_said(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = trained / "best_model.pth"
    assert call("evaluate", "-m", weights, "--role", "all", "--json") == 0
    seen = json.loads(capsys.readouterr().out)["trained_on"]
    roles = {row["path"]: row["role"] for row in read(trained / "split.csv")}
    assert {path for path, role in roles.items() if role == "train"} <= set(seen["paths"])
    photo = trained.parent / "photos" / seen["paths"][0]
    assert call("predict", photo, "-m", weights, "--jsonl") == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["trained_on"] == "copy"
    assert "1 of 1 inputs, or near copies of them, were trained on" in output.err


def test_evaluate_takes_groups(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of photographs that are others, and of the run's own, whose roles stay."""
    photos, weights = trained.parent / "photos", shutil.copy(trained / "best_model.pth", tmp_path)
    names = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.png"))]
    table = tmp_path / "groups.csv"
    table.write_text("path,group\n" + "".join(f"{name},{name[:5]}\n" for name in names))

    def groups(*words: object) -> int:
        assert call("evaluate", *words, "--json") == 0
        return int(json.loads(capsys.readouterr().out)["groups"])

    tens = len({name[:5] for name in names})  # cat/0 to eel/1
    assert groups(photos, "-m", weights) > tens
    assert groups(photos, "-m", weights, "--group-file", table) == tens
    assert groups(photos, "-m", weights, "--group", r"^(...)/") == 3
    assert groups("-m", trained, "--role", "all", "--group-file", table) == tens
    words = ("evaluate", photos, "-m", weights, "--group-file", table, "--group", "none")
    assert call(*words) == 2
    assert "two ways to say it" in capsys.readouterr().err


def test_photographs_that_have_moved_are_measured_by_the_old_split(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/tutorial.md says; and a training goes on with them."""
    moved = shutil.copytree(trained.parent / "photos", tmp_path / "moved")
    assert call("evaluate", "-m", trained, "--json") == 0
    before = json.loads(capsys.readouterr().out)
    words = ("evaluate", moved, "-m", trained, "--split", trained / "split.csv")
    assert call(*words, "--json") == 0
    after = json.loads(capsys.readouterr().out)
    assert (after["role"], after["accuracy"]) == ("test", before["accuracy"])
    assert after["confusion"] == before["confusion"]
    run = shutil.copytree(trained, tmp_path / "run")
    assert call("train", moved, "--resume", run, "--epochs", 3, "--allow-change") == 0
    assert len((run / "history.csv").read_text().splitlines()) == 4


def test_evaluate_compares_and_finds_a_threshold(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, rival = tmp_path / "copy.pth", tmp_path / "rival.pth"
    weights.write_bytes((trained / "best_model.pth").read_bytes())
    torch.manual_seed(1)
    torch.save(InceptionV1(3).state_dict(), rival)
    photos = trained.parent / "photos"
    words = ("evaluate", photos, "-m", weights, "--against", weights)
    assert call(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)["against"]
    assert found["difference"] == 0
    assert found["interval"][0] < 0 < found["interval"][1]
    assert found["differ"] == []
    assert call(*words) == 0
    assert "comparison" in capsys.readouterr().out

    own = ("evaluate", "-m", trained / "best_model.pth", "--min-precision", 0.34)
    assert call(*own, "--json") == 0
    abstention = json.loads(capsys.readouterr().out)["abstention"]
    assert abstention["images"] == 6
    assert 0 <= abstention["coverage"] <= 1
    assert call("evaluate", "-m", rival, "--save") == 2


def test_a_threshold_is_chosen_by_other_photographs_than_it_is_measured_on(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ("-m", trained, "--min-precision", 0.34)
    assert call("evaluate", *wanted, "--role", "val") == 0
    assert "looks too good" in capsys.readouterr().err
    assert call("evaluate", *wanted) == 0
    assert "looks too good" not in capsys.readouterr().err
    elsewhere = shutil.copytree(trained.parent / "photos", "elsewhere")
    assert call("evaluate", elsewhere, *wanted) == 3
    assert "--min-precision chooses by photographs of val" in capsys.readouterr().err


def test_a_stored_threshold_marks_what_is_uncertain(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    weights, photo = run / "best_model.pth", trained.parent / "photos" / "cat" / "00.png"
    assert call("evaluate", "-m", weights, "--min-precision", 0.34, "--save") == 0
    stored = load_weights(weights).record
    assert stored is not None
    assert stored.threshold is not None
    capsys.readouterr()
    for threshold, uncertain in ((1.0, True), (0.0, False)):
        assert call("predict", photo, "-m", weights, "--jsonl", "--threshold", threshold) == 0
        assert json.loads(capsys.readouterr().out)["uncertain"] is uncertain


def test_inputs_that_fail_have_rows_and_an_exit_code(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """P1: one row an input, in order; 8 when some failed, 3 when all did."""
    good = trained.parent / "photos" / "cat" / "00.png"
    (tmp_path / "bad.png").write_bytes(b"no picture")
    weights = trained / "best_model.pth"
    inputs = (tmp_path / "bad.png", good, tmp_path / "none.png", good)
    assert call("predict", *inputs, "-m", weights, "--jsonl", "--csv", tmp_path / "a.csv") == 8
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in inputs]
    assert [row["error"] is None for row in rows] == [False, True, False, True]
    assert len(read(tmp_path / "a.csv")) == 4
    assert call("predict", tmp_path / "none.png", "-m", weights) == 3


def test_predict_sorts_files_into_folders(trained: Path, tmp_path: Path) -> None:
    folder = trained.parent / "photos" / "dog"
    weights = trained / "best_model.pth"
    assert call("predict", folder, "-m", weights, "--sort", tmp_path / "sorted") == 0
    placed = [path for path in (tmp_path / "sorted").rglob("*") if path.is_file()]
    assert len(placed) == 20


def test_split_writes_a_manifest_that_train_takes(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "split.csv"
    sheet = tmp_path / "sheet.png"
    words = ("split", photos, "-o", manifest, "--json", "--check", "--preview", sheet)
    assert call(*words, "--layout", tmp_path / "laid", "-j", 0) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["images"] == 60
    assert set(counts["roles"]) == {"train", "val", "test"}
    assert counts["check"]["exact_copies"] == 0
    with Image.open(sheet) as picture:
        assert picture.size[0] > 500
    assert len(list((tmp_path / "laid" / "train" / "cat").iterdir())) == 16
    assert call("train", photos, "--split", manifest, "--epochs", 1, *SMALL, "-o", "run") == 0
    roles = {row["path"]: row["role"] for row in read(manifest)}
    assert {row["path"]: row["role"] for row in read(tmp_path / "run" / "split.csv")} == roles
    assert call("train", tmp_path / "laid", "--epochs", 1, *SMALL, "-o", "run2") == 0


def test_copies_across_roles_and_classes_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's own split: a copy of a training picture in test, and one in another class."""
    names = ("train/cat/a.png", "train/dog/b.png", "val/cat/c.png", "val/dog/d.png")
    for seed, name in enumerate(names):
        draw(tmp_path / "own" / name, seed=seed, label=seed % 2)
    (tmp_path / "own" / "test" / "cat").mkdir(parents=True)
    shutil.copy(tmp_path / "own" / "train/cat/a.png", tmp_path / "own" / "test/cat/z.png")
    shutil.copy(tmp_path / "own" / "val/cat/c.png", tmp_path / "own" / "val/dog/e.png")
    words = ("split", tmp_path / "own", "-j", 0)
    assert call(*words) == 0
    said = capsys.readouterr().err
    assert "1 of 1 test images have a copy or relative in train" in said
    assert "1 pair of copies lies in two classes: val/cat/c.png and val/dog/e.png" in said
    assert call(*words, "--check", "--strict", "--suspects", tmp_path / "s.png") == 3
    output = capsys.readouterr()
    assert "train/cat/a.png" in output.err
    assert "suspicious pairs" in output.out
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size[0] > 300


def test_dry_run_writes_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", photos, "--dry-run", *SMALL, "--cache", "none", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 48
    assert result["total_seconds"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_the_tutorial_recipe_prints_its_line(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", photos, "--recipe", "tutorial", "--epochs", 1, "--img-size", 32, "-j", 0)
    assert call(*words, "--name", "t") == 0
    output = capsys.readouterr()
    line = output.out.splitlines()[0]
    assert line.startswith("Epoch:  1. Train_acc: ")
    assert line.endswith("Lr: 1.00E-04")
    assert "optimistic" in output.err
    state = torch.load("runs/t/best_model.pth", weights_only=True)
    assert state["classifier.2.bias"].shape == (4,)


def test_a_plain_scripts_file_works(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "script.pth"
    torch.manual_seed(0)
    torch.save(InceptionV1(4).state_dict(), path)
    assert call("summary", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == 4
    words = ("predict", photos / "cat" / "00.png", "-m", path, "--jsonl", "-k", 4)
    assert call(*words, "--class-names", "a,b,c,d") == 0
    output = capsys.readouterr()
    names = [name for name, _ in json.loads(output.out)["top"]]
    assert sorted(names) == ["a", "b", "c", "d"]
    assert "whether the inputs were trained on is unknown" in output.err
    assert call("evaluate", photos, "-m", path, "--classes-from", photos, "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 60


def test_a_plain_file_is_compared_with_one_that_has_its_own_names(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The names given are for the file that has none; where all have, they are refused."""
    photos, own = trained.parent / "photos", trained / "best_model.pth"
    torch.save(InceptionV1(3, image_size=32).state_dict(), tmp_path / "script.pth")
    words = ("evaluate", photos, "--role", "all", "--json")
    named = ("--class-names", "cat,dog,eel", "--against", own)
    assert call(*words, "-m", tmp_path / "script.pth", *named) == 0
    found = json.loads(capsys.readouterr().out)
    assert call(*words, "-m", own) == 0
    assert found["against"]["accuracy_b"] == json.loads(capsys.readouterr().out)["accuracy"]
    assert call(*words, "-m", own, "--class-names", "cat,dog,eel") == 2
    assert "names its own classes" in capsys.readouterr().err


def test_a_map_of_a_class_that_is_not_there_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("evaluate", trained.parent / "photos", "-m", trained / "best_model.pth")
    assert call(*words, "--map", "cow=cat") == 2
    assert "no class cow; they have cat, dog, eel" in capsys.readouterr().err


def test_a_threshold_belongs_to_its_temperature(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--raw neither stores one nor is marked by one that was found on calibrated answers."""
    run = shutil.copytree(trained, tmp_path / "run")
    model, photo = run / "best_model.pth", trained.parent / "photos" / "cat" / "00.png"
    assert call("evaluate", "-m", model, "--min-precision", 0.1, "--save", "--raw") == 2
    assert "leave out --raw" in capsys.readouterr().err
    weights = load_weights(model)
    assert weights.record is not None
    save_weights(model, weights.state_dict, replace(weights.record, threshold=1.0))
    for more, uncertain in (((), True), (("--raw",), False)):
        assert call("predict", photo, "-m", model, "--jsonl", *more) == 0
        assert json.loads(capsys.readouterr().out)["uncertain"] is uncertain


def test_unreadable_files_count_for_their_own_role(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders of roles, and a split, say whose they are; of others any role may be."""
    roles = tmp_path / "roles"
    for role, numbers in (("train", range(6)), ("val", range(6, 9)), ("test", range(9, 12))):
        for label, name in enumerate(("cat", "dog", "eel")):
            for index in numbers:
                path = roles / role / name / f"{index}.png"
                draw(path, seed=900 + 100 * label + index, label=label)
    (roles / "train" / "cat" / "0.png").write_bytes(b"broken")
    words = ("-m", trained / "best_model.pth", "--max-bad", 1, "--json", "--strict")
    assert call("evaluate", roles, *words, "--role", "test") == 0
    assert json.loads(capsys.readouterr().out)["rejected"] == 0
    assert call("evaluate", roles, *words, "--role", "train") == 8
    assert json.loads(capsys.readouterr().out)["rejected"] == 1
    photos = tmp_path / "photos"
    shutil.copytree(trained.parent / "photos", photos)
    split = read(trained / "split.csv")
    of_val = next(row["path"] for row in split if row["role"] == "val")
    (photos / of_val).write_bytes(b"broken")
    for role, rejected in (("val", 1), ("test", 0)):
        more = ("--split", trained / "split.csv", "--role", role)
        assert call("evaluate", photos, *words, *more) == (8 if rejected else 0)
        assert json.loads(capsys.readouterr().out)["rejected"] == rejected


def test_a_run_is_used_and_resumed_from_anywhere(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of labels that was given as a relative path is found from another folder."""
    flat = tmp_path / "flat"
    flat.mkdir()
    rows = ["file,species"]
    for path in sorted(photos.rglob("*.png")):
        name = f"{path.parent.name}-{path.name}"
        shutil.copy(path, flat / name)
        rows.append(f"{name},{path.parent.name}")
    Path("labels.csv").write_text("\n".join(rows))
    more = ("--labels", "labels.csv:file,species", "--epochs", 1, *SMALL)
    assert call("train", "flat", *more, "-o", "run") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert call("evaluate", "-m", "../run/best_model.pth") == 0
    assert call("train", "--resume", "../run", "--epochs", 2, "--allow-change") == 0


@pytest.mark.parametrize("command", ["split", "runs", "export", "sample", "summary", "cache"])
def test_what_one_process_does_is_refused_under_torchrun(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several would write the same file at once."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert call(command) == 2
    assert f"{command} runs in one process; start it without torchrun" in capsys.readouterr().err


def test_the_latest_run_may_have_lost_its_newest_state(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kill between the two renames of a save leaves the state before it."""
    for name in ("older", "newer"):
        shutil.copytree(trained, Path("runs", name))
    newer = Path("runs", "newer")
    (newer / "last.pth").rename(newer / "last.prev.pth")
    os.utime(newer / "last.prev.pth")
    (newer / "metrics.json").unlink()
    assert call("runs", "--json") == 0
    states = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states == {"older": "finished", "newer": "stopped"}
    assert call("train", "--resume", "latest") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(newer)
    assert (newer / "metrics.json").exists()


def test_a_flipped_bit_is_refused(trained: Path, tmp_path: Path) -> None:
    data = bytearray((trained / "best_model.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "flipped.pth").write_bytes(data)
    photo = trained.parent / "photos" / "cat" / "00.png"
    assert call("predict", photo, "-m", tmp_path / "flipped.pth") == 4


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("train",), 2, "which photographs"),
        (("train", "photos", "--epochs", "0"), 2, "--epochs"),
        (("train", "photos", "--lr", "nan"), 2, "--lr"),
        (("train", "photos", "--optimizer", "adma"), 2, "did you mean adam"),
        (("train", "photos", "--epoch", "3"), 2, "--epochs"),
        (("trian",), 2, "train"),
        (("train", "photos", "-o", "photos/run"), 2, "never written to"),
        (("train", "nowhere"), 3, "nowhere"),
        (("predict", "x.png"), 4, "no weights"),
        (("summary", "--arch", "incption_v1"), 2, "did you mean inception_v1"),
        (("evaluate", "photos", "-m", "none.pth"), 4, "none.pth"),
        (("evaluate", "photos", "-m", "none.pth", "--role", "tset"), 2, "did you mean test"),
        (("summary", "none.pth", "--blocks"), 2, "leave out WEIGHTS"),
        (("train", "photos", "--allow-change"), 2, "is for --resume"),
        (("train", "photos", "--find-lr", "--dry-run"), 2, "give one of them"),
        (("train", "photos", "--find-lr", "--lr", "0.1"), 2, "no effect with --find-lr"),
        (("train", "photos", "--split", "s.csv", "--ratio", "0.5,0.5"), 2, "--split gives"),
        (("split", "photos", "--split", "s.csv", "--no-stratify"), 2, "--split gives"),
        (("train", "--resume", "run", "-o", "other"), 2, "leave out --output"),
        (("train", "--resume", "run", "--split", "other.csv"), 2, "leave out --split"),
    ],
)
def test_mistakes_are_told_in_a_line(
    words: tuple[str, ...],
    code: int,
    said: str,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert photos.name == "photos"
    assert call(*words) == code
    error = capsys.readouterr().err
    assert "error: " in error
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ((), "inception_block"),
        (("--tree",), "(inception3a): inception_block("),
        (("--blocks",), "3a     256x28x28"),
        (("--markdown",), "| 193 | Softmax | 4 | 0 | 0 |"),
        (("--blocks", "--json"), '"inception5b"'),
    ],
)
def test_summary_prints(
    words: tuple[str, ...], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("summary", *words) == 0
    assert shown in capsys.readouterr().out


def test_summary_json_has_the_documented_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("summary", "--json") == 0
    table = json.loads(capsys.readouterr().out)
    assert len(table["layers"]) == 193
    assert set(table["layers"][0]) == {
        *("index", "layer", "output_shape", "parameters", "mult_adds")
    }
    assert table["total_parameters"] == table["trainable_parameters"] == 7_041_172
    assert round(table["total_mb"], 2) == 97.05


def test_batch_norms_statistics_are_no_parameters(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("summary", trained / "best_model.pth", "--json") == 0
    told = json.loads(capsys.readouterr().out)["parameters"]
    assert told == sum(part.numel() for part in InceptionV1BN(3).parameters())


def test_the_sample_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sample", tmp_path / "digits") == 0
    assert len(list((tmp_path / "digits").rglob("*.png"))) == 1797
    assert call("sample", tmp_path / "digits") == 5
    assert call("--version") == 0
    assert "inceptcli 0" in capsys.readouterr().out


def test_resume_goes_on_bit_for_bit(photos: Path, tmp_path: Path) -> None:
    """N1: stopped after an epoch and resumed equals the unbroken run."""
    from inceptcli import config
    from inceptcli.engine.run import run
    from inceptcli.events import EpochDone, Event

    def settings(name: str) -> config.TrainConfig:
        return config.TrainConfig(
            root=photos,
            epochs=3,
            image_size=32,
            batch_size=8,
            workers=0,
            group="none",
            output=tmp_path / name,
        )

    def stop_after_two(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 2:
            raise RuntimeError("stopped here")

    whole = run(settings("whole"))
    with pytest.raises(RuntimeError, match="stopped here"):
        run(settings("broken"), emit=stop_after_two)
    assert call("train", "--resume", tmp_path / "broken") == 0
    one = torch.load(whole.run / "last.pth", weights_only=True)
    two = torch.load(tmp_path / "broken" / "last.pth", weights_only=True)
    assert all(torch.equal(one["model"][key], two["model"][key]) for key in one["model"])
    assert whole.best_epoch == two["progress"]["best_epoch"]


def test_the_cache_is_listed_and_cleared(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("split", photos, "--preview", tmp_path / "a.png", "-j", 0) == 0
    capsys.readouterr()
    assert call("cache", "list", "--json") == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["pictures"] for entry in entries] == [60]
    assert call("cache") == 0
    assert "224x224" in capsys.readouterr().out
    assert call("cache", "clear") == 0
    assert "removed" in capsys.readouterr().out
    assert call("cache", "size", "--json") == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("predict", "-m", "{run}", "--csv", "p1.png", "p2.png"), "p1.png is there already"),
        (("evaluate", "-m", "{run}", "-o", "{run}"), "is a run"),
        (("evaluate", "-m", "{run}", "--report", "{run}/best_model.pth"), "is a part of a run"),
        (("runs", "{run}/..", "--compare", "run", "run", "-o", "{run}/last.pth"), "part of a run"),
        (("split", "{photos}", "--labels", "l.csv", "-o", "l.csv"), "is read by this command"),
        (("split", "{photos}", "-o", "s.csv", "--preview", "s.csv"), "files of their own"),
        (("split", "{photos}", "--group", "none", "--group-file", "l.csv"), "two ways"),
        (("export", "-m", "{run}", "-o", "{photos}/model.onnx"), "lies in the data folder"),
        (("train", "{photos}", "-o", "a", "--name", "b"), "give one of them"),
        (("train", "{photos}", "--find-lr", "--folds", "3"), "leave out --folds"),
        (("train", "--resume", "{run}", "--recipe", "tutorial", "--allow-change"), "when a run"),
        (("train", "--resume", "{run}", "--weights", "{run}/best_model.pth"), "when a run begins"),
        (("train", "--resume", "{run}", "--ratio", "0.5,0.3,0.2"), "when a run begins"),
        (("train", "--resume", "{run}", "--group", "auto"), "when a run begins"),
        (("train", "--resume", "{run}", "--group-file", "l.csv"), "when a run begins"),
        (("train", "--resume", "{run}", "--folds", "3"), "when a run begins"),
        (("train", "--resume", "{run}", "--freeze-epochs", "1"), "layers that --weights brings"),
        (("predict", "p2.png", "-m", "plain.pth", "--class-names", "a,a"), "each name once"),
        (("predict", "p2.png", "-m", "plain.pth", "--class-names", "a,"), "none empty"),
        (("runs", "{run}/..", "--compare", "run", "run", "-o", "{photos}/a.png"), "data folder"),
        (("train", "--resume", "{run}", "--epochs", "1", "--allow-change"), "has 2 already"),
        (("predict", "p2.png", "-m", "{run}", "--json", "--jsonl"), "two forms"),
        (("predict", "p2.png", "-m", "{run}", "-0"), "names on stdin"),
        (("evaluate", "-m", "{run}", "--map", "cat=dog", "--map", "cat=eel"), "twice"),
        (("summary", "--blocks", "--tree"), "three views"),
        (("summary", "--tree", "--json"), "is text"),
    ],
)
def test_what_would_be_lost_or_ignored_is_refused(
    words: tuple[str, ...], text: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(Path("p1.png"), seed=1, label=0)
    draw(Path("p2.png"), seed=2, label=0)
    Path("l.csv").write_text("path,class\n00.png,cat\n")
    places = {"run": str(trained), "photos": str(trained.parent / "photos")}
    before = {path: path.read_bytes() for path in (*trained.iterdir(), *Path().glob("*.*"))}
    assert call(*(word.format(**places) for word in words)) == 2
    assert text in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_a_rival_that_was_trained_on_the_photographs_is_told(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", trained.parent / "photos", "--epochs", 1, *SMALL, "--seed", 5)
    assert call(*words, "--name", "other") == 0
    capsys.readouterr()
    assert call("evaluate", "-m", trained, "--against", "runs/other") == 0
    assert "were trained on by the other network" in capsys.readouterr().err


def test_a_class_without_training_photographs_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (trained / "split.csv").read_text()
    Path("split.csv").write_text(text.replace(",eel,train,", ",eel,test,"))
    words = ("train", trained.parent / "photos", "--epochs", 1, *SMALL, "--split", "split.csv")
    assert call(*words) == 3
    assert "no photograph for train of eel" in capsys.readouterr().err


def test_a_path_that_is_spelled_in_two_ways_stands_in_a_split_once(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (trained / "split.csv").read_text()
    Path("split.csv").write_text(text + "./cat/00.png,cat,test,x\n")
    assert call("split", trained.parent / "photos", "--split", "split.csv") == 3
    assert "cat/00.png stands in line" in capsys.readouterr().err


def test_another_programs_config_does_not_hinder(trained: Path) -> None:
    Path("hf").mkdir()
    shutil.copy(trained / "best_model.pth", "hf")
    Path("hf/config.json").write_text('{"model_type": "inception"}')
    assert call("evaluate", trained.parent / "photos", "-m", "hf/best_model.pth") == 0
    assert call("evaluate", "-m", "hf/best_model.pth") == 3


def test_settings_of_another_kind_are_told(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(trained, Path("copy"))
    for name, value in (("ratio", None), ("root", 5), ("group", None)):
        description = json.loads((trained / "config.json").read_text())
        description["settings"][name] = value
        (copy / "config.json").write_text(json.dumps(description))
        assert call("evaluate", "-m", copy) in (2, 3)
        assert "this is a bug" not in capsys.readouterr().err


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_number_is_cut_on_a_narrow_terminal(width: int) -> None:
    out = io.StringIO()
    terminal = Console(file=out, width=width, force_terminal=True, color_system=None)
    columns = ("class", *(f"column {index}" for index in range(12)))
    rows = [[f"class of a long name {i}", *range(10**6 * i, 10**6 * i + 12)] for i in (1, 5)]
    console.print_table(columns, rows, console=terminal)
    shown = out.getvalue()
    assert max(len(line) for line in shown.splitlines()) <= width
    for row in rows:
        assert all(f"{number:,}" in shown for number in row[1:] if isinstance(number, int))


def test_figures_are_shown_although_they_cannot_be_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").touch()
    words = ("evaluate", "-m", trained, "-j", 0, "-o", tmp_path / "taken")
    assert call(*words) == 5
    assert "accuracy" in capsys.readouterr().out
    words = ("evaluate", "-m", trained, "-j", 0, "-o", tmp_path / "e", "--report", "p.html")
    with patch("inceptcli.show.evaluation", side_effect=OutputError("full")):  # a stdout that is
        assert call(*words) == 5
    assert Path("p.html").exists()
    assert (tmp_path / "e" / "predictions.csv").exists()
