"""The experiment of docs/honest-splits.md runs, without any photographs."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from conftest import ROOT


def test_the_experiment_prints_both_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five classes of three digits with fourteen copies each: 225 files, one epoch each."""
    words = ["--originals", "3", "--new", "2", "--epochs", "1", "--img-size", "32"]
    monkeypatch.setattr(sys, "argv", ["honest_splits", *words])
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(ROOT)
    importlib.import_module("benchmarks.honest_splits").main()
    output = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line for line in output.splitlines() if "| by " in line}
    assert list(rows) == ["by file", "by group"]
    by_file, by_group = (float(re.findall(r"\d\.\d{4}", row)[0]) for row in rows.values())
    apart = re.search(r"less that by group: (-?\d\.\d{4})", output)
    assert apart is not None
    assert float(apart[1]) == pytest.approx(by_file - by_group, abs=2e-4)
    assert rows["by file"].split("|")[2:4] == [" 45 ", " 45 "], "every file a group of its own"
