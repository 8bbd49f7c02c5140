"""What the program writes is what its JSON schemas say."""

from __future__ import annotations

import copy
import csv
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conftest import draw
from test_commands import SMALL, call


def schema(name: str) -> Any:
    text = files("inceptcli").joinpath("schemas", f"{name}.schema.json").read_text("utf-8")
    return json.loads(text)


def check(value: object, name: str) -> None:
    validator = jsonschema.Draft202012Validator(schema(name))
    validator.check_schema(validator.schema)
    validator.validate(value)


def rows(path: Path) -> list[dict[str, int | float | None]]:
    """A CSV file of numbers as JSON would have it."""
    with path.open(newline="") as lines:
        return [
            {name: json.loads(text) if text else None for name, text in row.items()}
            for row in csv.DictReader(lines)
        ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two classes, so that there are the figures of a test too."""
    place = tmp_path_factory.mktemp("schemas")
    for label, name in enumerate(("ill", "well")):
        for index in range(10):
            draw(place / "data" / name / f"{index}.png", seed=50 * label + index, label=label)
    words = ("train", place / "data", "--epochs", 1, *SMALL, "--cache", "ram", "--tensorboard")
    assert call(*words, "-o", place / "run") == 0
    return place / "run"


def test_metrics_are_as_their_schema_says(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert set(metrics) == {"val", "test"}
    assert metrics["test"]["binary"] is not None
    check(metrics, "metrics")


def test_every_key_of_the_metrics_stands_in_the_schema(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert set(metrics["val"]) == set(schema("metrics")["$defs"]["evaluation"]["properties"])


def test_history_is_as_its_schema_says(run: Path) -> None:
    history = rows(run / "history.csv")
    assert list(history[0]) == list(schema("history")["items"]["properties"])
    assert 0 <= (history[0]["wait_seconds"] or 0) <= (history[0]["seconds"] or 0)
    check(history, "history")


def test_a_wrong_value_would_be_seen(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    for key, value in (("accuracy", 1.5), ("format", 2), ("confusion", [[-1]]), ("classes", [{}])):
        broken = copy.deepcopy(metrics)
        broken["val"][key] = value
        with pytest.raises(jsonschema.ValidationError):
            check(broken, "metrics")
    broken = copy.deepcopy(metrics)
    del broken["val"]["loss"]
    with pytest.raises(jsonschema.ValidationError):
        check(broken, "metrics")


def test_tensorboard_reads_the_same_figures(run: Path) -> None:
    """The event files, by TensorBoard's own reader, hold what history.csv does."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    (row,) = rows(run / "history.csv")
    tags = {
        "accuracy/train": "train_accuracy",
        "accuracy/val": "val_accuracy",
        "loss/train": "train_loss",
        "loss/val": "val_loss",
        "learning_rate": "learning_rate",
        "time/seconds": "seconds",
        "time/wait_seconds": "wait_seconds",
    }
    assert set(events.Tags()["scalars"]) == set(tags)
    for tag, name in tags.items():
        (event,) = events.Scalars(tag)
        assert event.step == 1
        assert event.value == pytest.approx(row[name], rel=1e-6)  # float32


def test_without_the_package_the_message_has_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in ("torch.utils.tensorboard", "inceptcli.report.tensorboard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    draw(tmp_path / "data" / "a" / "1.png", seed=1, label=1)
    assert call("train", tmp_path / "data", "--tensorboard", "-o", tmp_path / "run") == 2
    assert "pip install 'inceptcli[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
