"""The experiment of docs/how-to/fine-tune.md runs, without any photographs."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from conftest import ROOT


def test_the_fine_tuning_experiment_reports_paired_gains_and_goes_on(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two drawn classes first, the third and its like after; one epoch, then a second seed."""
    (photos / "fox").mkdir()
    for path in sorted((photos / "cat").iterdir())[:16]:
        path.rename(photos / "fox" / path.name)
    for path in sorted((photos / "eel").iterdir())[:4]:
        path.rename(photos / "cat" / f"eel{path.name}")
    out = tmp_path / "out.json"
    words = ["--first", "2", "--first-epochs", "1", "--epochs", "1", "--img-size", "32"]
    words += ["--images", "3", "--threads", "1", "--json", str(out)]
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setattr("inceptcli.config.FINE_TUNING", {"epochs": 2})
    main = importlib.import_module("benchmarks.finetune").main
    for seeds in (["1"], ["1", "2"]):
        monkeypatch.setattr(sys, "argv", ["finetune", str(photos), *words, "--seeds", *seeds])
        main()
    table = capsys.readouterr().out
    first, *rows = json.loads(out.read_text())["trainings"]
    assert first["way"] == "first"
    assert len(rows) == 6  # those of the first seed were kept
    found = {(row["way"], row["seed"]): row for row in rows}
    assert {row["epochs"] for row in rows if row["way"] == "fine-tuned"} == {2}
    gains = [
        100 * (found["fine-tuned", seed]["accuracy"] - found["random", seed]["accuracy"])
        for seed in (1, 2)
    ]
    centre, half = sum(gains) / 2, 12.7062 * abs(gains[0] - gains[1]) / 2  # Student, one degree
    assert f"{centre:+.1f} ({centre - half:+.1f} to {centre + half:+.1f})" in table
