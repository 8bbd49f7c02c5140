"""``inceptcli runs``: what it says of finished, stopped, running, failed and damaged runs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from inceptcli import console
from inceptcli.events import EpochDone, TrainingStarted
from inceptcli.files import write_csv, write_json
from inceptcli.report.runs import list_runs, read_history
from inceptcli.runfolder import is_in_use
from test_commands import call

HEAD = "epoch train_loss train_accuracy val_loss val_accuracy learning_rate seconds best".split()  # noqa: SIM905


def make_run(
    folder: Path, accuracies: list[float], *, epochs: int, test: float | None = None, **more: Any
) -> Path:
    """A run folder as train leaves it, without weights."""
    folder.mkdir(parents=True)
    settings = {"root": "/data/birds", "recipe": "default", "epochs": epochs, "lr": 0.001} | more
    write_json(
        folder / "config.json", {"settings": settings, "started": f"2026-01-0{epochs}T10:00:00"}
    )
    best, rows = -1.0, []
    for epoch, accuracy in enumerate(accuracies, start=1):
        rows.append((epoch, 1.0, 0.5, 1.5, accuracy, 1e-3, 30.0, int(accuracy > best), 2.0))
        best = max(best, accuracy)
    if rows:
        write_csv(folder / "history.csv", [*HEAD, "wait_seconds"], rows)
        (folder / "last.pth").write_bytes(b"state")
    if test is not None:
        figures = {"accuracy": test, "intervals": {"accuracy": [test - 0.1, test + 0.1]}}
        write_json(folder / "metrics.json", {"val": figures, "test": figures})
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "runs"
    make_run(place / "a", [0.5, 0.75, 0.625], epochs=3, test=0.7)
    make_run(place / "b", [0.25], epochs=4, lr=0.01)
    make_run(place / "c", [], epochs=5)
    (place / "no run").mkdir()
    (place / "note.txt").write_text("hello")
    (place / "d").mkdir()
    (place / "d" / "config.json").write_text("{broken")
    return place


@pytest.mark.usefixtures("runs")
def test_states_and_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("runs", "--json") == 0
    found = {run["name"]: run for run in json.loads(capsys.readouterr().out)}
    assert list(found) == ["a", "b", "c"]
    assert [run["state"] for run in found.values()] == ["finished", "stopped", "failed"]
    assert found["a"]["best_epoch"] == 2
    assert found["a"]["test"] == {
        "value": 0.7,
        "interval": [pytest.approx(0.6), pytest.approx(0.8)],
    }
    assert found["b"]["val"] == {"value": 0.25, "interval": None}
    assert (found["b"]["epochs"], found["b"]["epochs_wanted"]) == (1, 4)
    assert found["a"]["seconds"] == 90
    assert call("runs") == 0
    assert "0.7000 (0.60 to 0.80)" in capsys.readouterr().out


def test_a_run_that_a_process_holds_is_running(runs: Path) -> None:
    """And asking takes nothing from it; when the process is killed the run is stopped."""
    code = (
        "import sys, time; from pathlib import Path; from inceptcli.runfolder import claim_run\n"
        "with claim_run(Path(sys.argv[1]), resume=True, overwrite=False):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(runs / "b")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        for _ in range(3):
            assert is_in_use(runs / "b")
        assert {run.name: run.state for run in list_runs(runs)}["b"] == "running"
        process.kill()
        process.wait()
    assert {run.name: run.state for run in list_runs(runs)}["b"] == "stopped"


def test_what_ended_a_run_is_told(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """N4: a diverged run is not taken for a stopped one."""
    write_json(runs / "b" / "failed.json", {"exit_code": 6, "error": "training diverged\x1b[2J"})
    write_json(runs / "c" / "failed.json", {"exit_code": 5, "error": "disk full"})
    assert [run.state for run in list_runs(runs)] == ["finished", "diverged", "failed"]
    assert call("runs") == 0
    assert capsys.readouterr().err.splitlines() == [
        r"warning: b: training diverged\x1b[2J",
        "warning: c: disk full",
    ]


@pytest.mark.parametrize(
    ("tail", "problem"),
    [
        (b"4,0.5,0.", "history.csv: line 5 is cut off"),
        (b"\0" * 512, "history.csv: line 5 holds NUL bytes"),
        (b"3,1,0.5,1.5,0.9,0.001,30,0,2\n", "history.csv has epoch 3 twice"),
    ],
)
def test_a_damaged_history_is_read_to_where_it_is_sound(
    tail: bytes, problem: str, runs: Path
) -> None:
    """W8: and that is said."""
    with (runs / "a" / "history.csv").open("ab") as file:
        file.write(tail)
    (run,) = (run for run in list_runs(runs) if run.name == "a")
    assert (run.epochs, run.problem, run.state) == (3, problem, "finished")


def test_a_run_of_several_trainings(runs: Path) -> None:
    whole = make_run(runs / "e", [], epochs=6, folds=2)
    make_run(whole / "fold1", [0.5], epochs=6, test=0.5)
    parts = [{"name": "fold1", "val_accuracy": 0.5, "test_accuracy": 0.5}]
    pooled = {"role": "test", "accuracy": 0.5, "interval": [0.4, 0.6]}
    write_json(whole / "folds.json", {"folds": parts} | pooled)
    found = {run.name: run for run in list_runs(runs)}
    assert found["e"].state == "stopped"
    assert found["e"].test is not None
    assert found["e"].test.interval == (0.4, 0.6)
    assert found["e/fold1"].state == "finished"
    write_json(whole / "folds.json", {"folds": parts} | pooled | {"role": "val"})
    found = {run.name: run for run in list_runs(runs)}
    assert found["e"].test is None  # there was no test role
    assert found["e"].val is not None
    assert found["e"].val.value == 0.5
    make_run(whole / "fold2", [0.5, 0.5], epochs=7)  # as --time planned
    write_json(whole / "folds.json", {"folds": parts * 2} | pooled)
    done = {run.name: run for run in list_runs(runs)}["e"]
    assert done.state == "finished"
    assert (done.epochs, done.epochs_wanted, done.seconds) == (3, 14, 90)
    (whole / "fold2" / "config.json").write_text("{broken")
    assert {run.name: run for run in list_runs(runs)}["e"].epochs_wanted == 12
    assert call("runs", "--compare", "a", "e") == 3


def test_two_runs_are_compared(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("runs", "--compare", "a", runs / "b") == 0
    output = capsys.readouterr().out
    assert output.splitlines()[-1] == "runs/a-and-b.png"
    assert "0.01" in output
    with Image.open(runs / "a-and-b.png") as picture:
        assert picture.size[0] > 800
    assert call("runs", "--compare", "a", "b", "--json") == 0
    pair = json.loads(capsys.readouterr().out)
    assert pair["settings"] == {"epochs": ["3", "4"], "lr": ["0.001", "0.01"]}
    assert [row["val_accuracy"] for row in pair["runs"][0]["history"]] == [0.5, 0.75, 0.625]
    assert call("runs", "--compare", "a", "nothing") == 3
    for name in "xy":
        make_run(runs / name / "fold1", [0.5], epochs=1)
    assert call("runs", "--compare", "x/fold1", "y/fold1") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "runs/x-fold1-and-y-fold1.png"


def test_a_history_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    write_csv(tmp_path / "history.csv", HEAD, [(1, 1.0, 0.5, math.nan, 0.5, 1e-3, 30.0, 0)])
    (row,) = read_history(tmp_path)
    assert math.isnan(row.wait_seconds)
    assert math.isnan(row.val_loss)


def test_no_runs_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("runs") == 0
    assert "no runs in runs" in capsys.readouterr().err
    assert call("runs", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert call("runs", "elsewhere") == 3


def test_a_sparkline_spans_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        encoding = "utf-8"

    monkeypatch.setattr(console, "stdout", Terminal)
    assert console.sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert console.sparkline([0.3, 0.3]) == "▁▁"
    assert console.sparkline([0.0, math.nan, 1.0]) == "▁ █"
    assert console.sparkline([]) == ""
    assert len(console.sparkline([0.1] * 100)) == console.SPARK_WIDTH
    Terminal.encoding = "ascii"
    assert console.sparkline([0.0, 1.0]) == ""


def test_on_a_terminal_each_epoch_has_its_sparkline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a pipe there is none."""
    for forced in ("1", ""):
        monkeypatch.setenv("FORCE_COLOR", forced) if forced else monkeypatch.delenv("FORCE_COLOR")
        with console.Listener() as listener:
            listener(TrainingStarted({}, "run", 2, 1))
            for epoch, accuracy in ((1, 0.25), (2, 0.75)):
                listener(EpochDone(epoch, 1.0, 0.5, 1.0, accuracy, 1e-3, 2.0, best=True))
        output = capsys.readouterr()
        text = output.out + output.err
        assert ("▁█" in text) == bool(forced)
