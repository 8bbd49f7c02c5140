"""What predict's words stand for: files, folders, patterns, lists on stdin."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from conftest import draw
from inceptcli.engine.inputs import expand


def names(*words: str, recursive: bool = False, null: bool = False) -> list[str]:
    return [each.path for each in expand(words, recursive=recursive, null=null)]


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("d/b.png", "d/a.png", "d/e/c.png", "x[1].png"):
        draw(Path(name), seed=0, label=0)
    Path("empty").mkdir()


def test_words_stand_for_files_in_their_order() -> None:
    assert names("x[1].png", "d", "d/*.png", "none.png") == [
        *("x[1].png", "d/a.png", "d/b.png", "d/a.png", "d/b.png", "none.png")
    ]
    assert names("d", recursive=True) == ["d/a.png", "d/b.png", "d/e/c.png"]


def test_what_leads_to_no_file_is_one_input_with_an_error() -> None:
    found = list(expand(["empty", "d/*.jpg"], recursive=False, null=False))
    assert [each.path for each in found] == ["empty", "d/*.jpg"]
    assert all(each.error is not None and each.error.startswith("missing: ") for each in found)
    assert "-r looks in the folders inside it" in str(found[0].error)
    (deep,) = expand(["empty"], recursive=True, null=False)
    assert deep.error == "missing: no picture in this folder"


@pytest.mark.parametrize(("null", "end"), [(False, b"\n"), (True, b"\0")])
def test_a_list_comes_from_stdin(null: bool, end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = end.join([b"d/a.png", b"", b"caf\xe9.jpg", b"d"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed)))
    assert names("-", null=null) == ["d/a.png", "caf\udce9.jpg", "d/a.png", "d/b.png"]
