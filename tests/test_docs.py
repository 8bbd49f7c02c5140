"""The docs are true: the command reference is the program's, every command has an example."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from conftest import ROOT
from inceptcli.data.image import Reason

DOCS = ROOT / "docs"


def test_the_command_reference_is_the_programs_own() -> None:
    words = [sys.executable, DOCS / "make_reference.py", "--check"]
    assert subprocess.run(words, check=False).returncode == 0, "run make docs"


def test_every_module_stands_in_the_architecture() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for path in (ROOT / "src" / "inceptcli").rglob("*.py"):
        if path.parent.name == "inceptcli" or path.name != "__init__.py":
            assert f"{path.name} " in page, path.name


def test_every_reason_to_reject_a_file_is_explained() -> None:
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    table = page.partition("### Why a file was rejected")[2].partition("\n## ")[0]
    explained = re.findall(r"`([a-z-]+)`[,| ]", table.partition("|---|---|")[2])
    assert sorted(reason for reason in explained if reason in set(Reason)) == sorted(Reason)


def test_every_page_and_both_commands_are_named_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in DOCS.rglob("*.md"):
        assert path.relative_to(ROOT).as_posix() in readme, path.name
    assert "make demo" in readme
    assert "make test" in readme


COMMANDS = ["summary", "split", "train", "evaluate", "predict", "export", "runs", "sample", "cache"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_needs_no_torch(command: str) -> None:
    code = (
        "import sys; from inceptcli.cli import main\n"
        f"try: main(['{command}', '--help'])\n"
        "finally: print('torch' in sys.modules)"
    )
    words = [sys.executable, "-c", code]
    output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"Example: inceptcli {command}", output)
    assert output.rstrip().endswith("False")
