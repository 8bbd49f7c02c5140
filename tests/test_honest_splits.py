"""The experiment of docs/honest-splits.md runs, without any photographs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def test_the_experiment_prints_both_splits(tmp_path: Path) -> None:
    """Five classes of three digits with fourteen copies each: 225 files, one epoch each."""
    words = ["--originals", "3", "--new", "2", "--epochs", "1", "--img-size", "32"]
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.honest_splits", *words],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "INCEPTCLI_CACHE": str(tmp_path),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    rows = {line.split("|")[1].strip(): line for line in output.splitlines() if "| by " in line}
    assert list(rows) == ["by file", "by group"]
    by_file = re.findall(r"\b0\.\d{4}|\b1\.0000", rows["by file"])
    by_group = re.findall(r"\b0\.\d{4}|\b1\.0000", rows["by group"])
    apart = re.search(r"less that by group: (-?\d\.\d{4})", output)
    assert apart is not None
    assert abs(float(apart[1]) - (float(by_file[0]) - float(by_group[0]))) < 2e-4
    assert rows["by file"].split("|")[2:4] == [" 45 ", " 45 "], "every file a group of its own"
