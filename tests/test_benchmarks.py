"""The experiment of docs/how-to/fine-tune.md runs, without any photographs."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from conftest import ROOT


def test_the_fine_tuning_experiment_reports_paired_gains(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two drawn classes first, the third and its like after; one epoch, two seeds."""
    (photos / "fox").mkdir()
    for path in sorted((photos / "cat").iterdir())[:16]:
        path.rename(photos / "fox" / path.name)
    for path in sorted((photos / "eel").iterdir())[:4]:
        path.rename(photos / "cat" / f"eel{path.name}")
    words = ["--first", "2", "--first-epochs", "1", "--epochs", "1", "--img-size", "32"]
    words += ["--images", "3", "--seeds", "2", "-o", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["finetune", str(photos), *words])
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setattr("inceptcli.config.FINE_TUNING", {"epochs": 2})
    importlib.import_module("benchmarks.finetune").main()
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["classes"] == {"first": ["cat", "dog"], "others": ["eel", "fox"]}
    rows = {(row["way"], row["seed"]): row for row in report["rows"]}
    assert len(rows) == 6
    for gain in report["gains"]:
        steps = [
            rows[gain["way"], seed]["accuracy"] - rows["random", seed]["accuracy"]
            for seed in (1, 2)
        ]
        assert gain["gain"] == pytest.approx(sum(steps) / 2)
        half = 12.7062 * abs(steps[0] - steps[1]) / 2  # Student, one degree of freedom
        assert gain["high"] - gain["gain"] == pytest.approx(half, abs=1e-4)
