"""O4: files are placed below the folder that was named, whatever the class names say."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import draw
from inceptcli.data.layout import folder_name, place_by_class
from inceptcli.errors import OutputError

HOSTILE = ["../../x", "/abs", "..", ".", "CON", "nul.txt", "", "x" * 300, "a\x1b[2Jb", "a/b", "a_b"]


def test_hostile_class_names_stay_below_and_apart(tmp_path: Path) -> None:
    source = draw(tmp_path / "a.png", seed=0, label=0)
    out = tmp_path / "out"
    placed = [place_by_class(out, source, name, link="copy") for name in HOSTILE]
    assert all(path.resolve().is_relative_to(out.resolve()) for path in placed)
    assert all(path.parent.parent == out for path in placed)
    assert len({path.parent for path in placed}) == len(HOSTILE)
    assert all(len(path.parent.name.encode()) <= 255 for path in placed)


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("daisy", "猴痘", "Not tumour (benign)", "b-2"):
        assert folder_name(name) == name


@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
def test_nothing_is_overwritten(link: str, tmp_path: Path) -> None:
    one = draw(tmp_path / "one" / "a.png", seed=1, label=0)
    two = draw(tmp_path / "two" / "a.png", seed=2, label=1)
    placed = [place_by_class(tmp_path / "out", path, "c", link=link) for path in (one, two, one)]
    assert [path.name for path in placed] == ["a.png", "a (2).png", "a (3).png"]
    assert [path.read_bytes() for path in placed] == [
        one.read_bytes(), two.read_bytes(), one.read_bytes()
    ]  # fmt: skip


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    source = draw(tmp_path / "a.png", seed=0, label=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        place_by_class(tmp_path / "file", source, "c", link="copy")
