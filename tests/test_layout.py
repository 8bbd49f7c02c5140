"""O4: files are placed below the folder that was named, whatever the class names say."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import IO

import pytest

from conftest import draw
from inceptcli.config import DataConfig
from inceptcli.data.layout import folder_name, lay_out, place_by_class
from inceptcli.data.prepare import prepare
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


def test_only_photographs_with_a_role_are_laid_out(tmp_path: Path) -> None:
    """Not what cannot be read, which has no class, nor what a given split leaves out."""
    data = tmp_path / "data"
    for name in ("ant", "bee"):
        for index in range(4):
            draw(data / name / f"{index}.png", seed=index, label=name == "bee")
    (data / "ant" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    rows = [f"{name}/{index}.png,{name},train,\n" for name in ("ant", "bee") for index in range(3)]
    (tmp_path / "split.csv").write_text("path,class,role,group\n" + "".join(rows))
    config = DataConfig(root=data, split=tmp_path / "split.csv", max_bad=1.0, cache="none")
    photos = prepare(config, keep_pixels=False)
    assert lay_out(tmp_path / "out", photos, link="copy") == 6
    placed = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in placed) == [
        f"train/{name}/{index}.png" for name in ("ant", "bee") for index in range(3)
    ]


def test_a_copy_that_fails_leaves_no_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = draw(tmp_path / "a.png", seed=0, label=0)

    def copy_some(reading: IO[bytes], writing: IO[bytes]) -> None:
        writing.write(reading.read(20))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", copy_some)
    with pytest.raises(OutputError, match="No space left"):
        place_by_class(tmp_path / "out", source, "c", link="copy")
    assert list((tmp_path / "out" / "c").iterdir()) == []
