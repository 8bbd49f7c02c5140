"""The one pass and its cache: decoded once, equal to the bit, never wrong, never in the data."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import reader_faults
from conftest import ROOT, draw
from inceptcli.data import cache, cache_folder, reader, shelf
from inceptcli.data.cache import PixelStore, Reading, Survey, survey
from inceptcli.data.cache_folder import cache_clear, cache_list, cache_size
from inceptcli.data.folder import Sample
from inceptcli.data.image import RejectedImage, decode, fit
from inceptcli.data.reader import PixelSpec, StoppingError
from inceptcli.errors import OutputError, ResourceError
from inceptcli.events import Event, Notice, Progress, Warned

if TYPE_CHECKING:
    from collections.abc import Sequence

SPEC = PixelSpec(32, "stretch")
COUNT = 60


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files decoded in this process, as they are."""
    names: list[str] = []

    def counted(path: Path, **rules: Any) -> Any:
        names.append(path.name)
        return decode(path, **rules)

    monkeypatch.setattr(reader, "decode", counted)
    return names


def samples_in(root: Path) -> list[Sample]:
    paths = sorted(root.rglob("*.png"))
    return [Sample(path, str(path.relative_to(root)), 0, None) for path in paths]


def look_at(root: Path, *, spec: PixelSpec = SPEC, **reading: Any) -> Survey:
    return survey(samples_in(root), spec, Reading(**{"workers": 0, **reading}))


def expected(root: Path, indices: Sequence[int] = range(COUNT)) -> np.ndarray:
    samples = samples_in(root)
    return np.stack(
        [fit(decode(samples[i].path).image, size=32, resize="stretch") for i in indices]
    )


def check(store: PixelStore, root: Path) -> None:
    """Everything is there, equal to decoding, in any order."""
    order = np.random.default_rng(0).permutation(COUNT)
    pixels, indices = store.take(order)
    assert np.array_equal(indices, order)
    assert np.array_equal(pixels, expected(root, order))


def snapshot(root: Path) -> dict[str, Any]:
    return {
        str(path): (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in [root, *root.rglob("*")]
    }


@pytest.mark.parametrize("where", ["auto", "ram", "disk", "none", "folder"])
def test_pixels_are_equal_on_every_path_and_the_data_untouched(
    photos: Path, tmp_path: Path, where: str, home: Path
) -> None:
    """Decisions 3 and 6: byte-equal with and without cache; nothing written to the data."""
    before = snapshot(photos)
    chosen = str(tmp_path / "elsewhere") if where == "folder" else where
    for workers in (2, 0):
        found = look_at(photos, cache=chosen, workers=workers)
        assert found.rejected == []
        assert all(found.facts)
        check(found.store, photos)
        check(found.store, photos)
        found.store.close()
    assert snapshot(photos) == before
    assert home.exists() == (where in ("auto", "ram", "disk"))
    assert (tmp_path / "elsewhere").exists() == (where == "folder")


@pytest.mark.parametrize(("where", "passes"), [("auto", 1), ("disk", 1), ("ram", 2), ("none", 4)])
def test_a_file_is_decoded_once(photos: Path, decoded: list[str], where: str, passes: int) -> None:
    """Decision 5: two runs of survey and all pixels; memory has to be filled in each run."""
    facts = []
    for _ in range(2):
        found = look_at(photos, cache=where)
        check(found.store, photos)
        found.store.close()
        facts.append(found.facts)
    assert len(decoded) == passes * COUNT
    assert facts[0] == facts[1]


def test_facts_alone_are_kept_and_pixels_added_later(photos: Path, decoded: list[str]) -> None:
    """As ``split`` and then ``train`` do."""
    first = look_at(photos, keep_pixels=False)
    assert look_at(photos, keep_pixels=False).facts == first.facts
    assert len(decoded) == COUNT
    assert look_at(photos).facts == first.facts
    assert len(decoded) == 2 * COUNT
    check(look_at(photos).store, photos)
    assert len(decoded) == 2 * COUNT


def test_another_size_or_way_of_fitting_is_another_picture(photos: Path) -> None:
    check(look_at(photos).store, photos)
    padded = look_at(photos, spec=PixelSpec(32, "pad")).store.take(range(COUNT))[0]
    larger = look_at(photos, spec=PixelSpec(48, "crop")).store.take(range(COUNT))[0]
    assert padded.shape[1:] == (32, 32, 3)
    assert larger.shape[1:] == (48, 48, 3)
    check(look_at(photos).store, photos)


def test_a_changed_file_is_looked_at_again_even_with_its_old_time(
    photos: Path, decoded: list[str]
) -> None:
    path = samples_in(photos)[7].path
    pad_to(path, 9000)
    look_at(photos)
    decoded.clear()
    status = path.stat()
    pad_to(draw(path, seed=999, label=2), 9000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    check(look_at(photos).store, photos)
    assert path.stat().st_size == status.st_size
    assert decoded == [path.name]


def pad_to(path: Path, size: int) -> None:
    """Add zeros behind a PNG's end mark, which change nothing."""
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    assert path.stat().st_size == size


def test_new_files_alone_are_decoded(photos: Path, decoded: list[str]) -> None:
    look_at(photos)
    draw(photos / "cat" / "new.png", seed=5, label=1)
    decoded.clear()
    found = look_at(photos)
    assert decoded == ["new.png"]
    assert all(found.facts)
    assert len(found.facts) == COUNT + 1


def test_bad_files_are_named_in_every_run(photos: Path) -> None:
    paths = [sample.path for sample in samples_in(photos)]
    paths[3].write_bytes(b"")
    paths[9].write_bytes(paths[9].read_bytes()[:80])
    for _ in range(2):
        found = look_at(photos)
        assert [(lost.index, lost.reason) for lost in found.rejected] == [
            (3, "empty"),
            (9, "truncated"),
        ]
        assert [i for i, facts in enumerate(found.facts) if facts is None] == [3, 9]


def test_progress_is_told_to_its_end(photos: Path) -> None:
    events: list[Event] = []
    look_at(photos, emit=events.append)
    assert events[-1] == Progress("reading photographs", COUNT, COUNT)
    events.clear()
    look_at(photos, emit=events.append)
    assert events == []


# Damage


def test_every_flipped_byte_of_the_pixels_is_found(
    photos: Path, decoded: list[str], home: Path
) -> None:
    look_at(photos)
    (segment,) = home.rglob("*.pixels")
    whole = segment.read_bytes()
    assert len(whole) == COUNT * 32 * 32 * 3
    for at in random.Random(1).sample(range(len(whole)), 10):
        segment.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        decoded.clear()
        store = look_at(photos).store
        check(store, photos)
        check(store, photos)
        index = at // (32 * 32 * 3)
        assert set(decoded) == {samples_in(photos)[index].path.name}


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_segment_cut_or_emptied_is_decoded_again(
    photos: Path, decoded: list[str], home: Path, share: float
) -> None:
    look_at(photos)
    (segment,) = home.rglob("*.pixels")
    os.truncate(segment, int(segment.stat().st_size * share))
    decoded.clear()
    found = look_at(photos)
    check(found.store, photos)
    found.store.close()
    assert len(decoded) == COUNT * (1 - share)
    check(look_at(photos).store, photos)
    assert len(decoded) == COUNT * (1 - share)


def test_flipped_bytes_in_the_index_never_give_a_wrong_answer(photos: Path, home: Path) -> None:
    """Rows carry their own digest; what the database itself finds damaged is made anew."""
    truth = look_at(photos).facts
    (index,) = home.rglob("index.sqlite")
    whole = index.read_bytes()
    saved = shutil.copytree(home, home.parent / "saved")
    rebuilt = 0
    for at in random.Random(2).sample(range(len(whole)), 25) + list(range(0, 100, 19)):
        shutil.rmtree(home)
        shutil.copytree(saved, home)
        index.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        events: list[Event] = []
        found = look_at(photos, emit=events.append)
        assert found.facts == truth
        check(found.store, photos)
        found.store.close()
        rebuilt += any(isinstance(event, Warned) for event in events)
    assert rebuilt


@pytest.mark.parametrize("damage", ["garbage", "empty", "half", "other schema", "gone"])
def test_a_ruined_index_is_made_anew_and_used(
    photos: Path, decoded: list[str], home: Path, damage: str
) -> None:
    look_at(photos)
    (index,) = home.rglob("index.sqlite")
    if damage == "other schema":
        import sqlite3
        from contextlib import closing

        with closing(sqlite3.connect(index)) as database, database:
            database.execute("DROP TABLE looked")
            database.execute("CREATE TABLE looked (a, b)")
    elif damage == "gone":
        index.unlink()
    else:
        whole = index.read_bytes()
        damaged = {"garbage": b"x" * len(whole), "empty": b"", "half": whole[: len(whole) // 2]}
        index.write_bytes(damaged[damage])
    check(look_at(photos).store, photos)
    decoded.clear()
    check(look_at(photos).store, photos)
    assert decoded == []


def test_a_cache_that_cannot_be_made_is_said_once_and_left_out(photos: Path, home: Path) -> None:
    home.write_text("a file where the folder should be")
    for where in ("auto", "disk", "ram"):
        events: list[Event] = []
        found = look_at(photos, cache=where, emit=events.append)
        check(found.store, photos)
        warnings = [event for event in events if isinstance(event, Warned)]
        assert len(warnings) == 1
        assert "cannot be used" in warnings[0].text


def test_a_full_disk_is_said_and_files_are_decoded_each_time(
    photos: Path, home: Path, decoded: list[str]
) -> None:
    """A real refusal of the system to write more: the index fits the limit, the pixels do not."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    events: list[Event] = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        found = look_at(photos, emit=events.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (warning,) = (event for event in events if isinstance(event, Warned))
    assert "File too large" in warning.text
    check(found.store, photos)
    assert len(decoded) == 2 * COUNT
    assert not list(home.rglob("*.tmp")) + list(home.rglob("*.pixels"))


def test_a_cache_inside_the_data_is_refused(photos: Path, monkeypatch: Any) -> None:
    for where in ("auto", "disk", "ram", str(photos / "x")):
        monkeypatch.setenv("INCEPTCLI_CACHE", str(photos / "cat" / "cache"))
        before = snapshot(photos)
        with pytest.raises(OutputError, match="inside the photographs' folder"):
            look_at(photos, cache=where)
        assert snapshot(photos) == before
    check(look_at(photos, cache="none").store, photos)


def test_two_processes_build_the_same_cache_at_once(photos: Path, decoded: list[str]) -> None:
    code = """
        import hashlib, sys
        from pathlib import Path
        from inceptcli.data.cache import Reading, survey
        from inceptcli.data.folder import Sample
        from inceptcli.data.reader import PixelSpec
        root = Path(sys.argv[1])
        paths = sorted(root.rglob("*.png"))
        samples = [Sample(p, str(p.relative_to(root)), 0, None) for p in paths]
        for size in range(32, 37):
            found = survey(samples, PixelSpec(size, "stretch"), Reading(workers=0))
            pixels, _ = found.store.take(range(len(paths)))
            print(hashlib.sha256(pixels).hexdigest())
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(photos)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    running = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=60) for process in running]
    assert len(set(answers)) == 1
    assert answers[0][1] == ""
    assert answers[0][0].count("\n") == 5
    check(look_at(photos).store, photos)
    assert decoded == []


# Files that change under way


@pytest.mark.parametrize("workers", [0, 2])
def test_files_lost_after_the_survey_are_left_out_and_counted(photos: Path, workers: int) -> None:
    """D13: deleted, truncated or replaced; no neighbour takes their place; others are right."""
    found = look_at(photos, cache="none", workers=workers)
    truth = expected(photos)
    paths = [sample.path for sample in samples_in(photos)]
    paths[10].unlink()
    paths[20].write_bytes(paths[20].read_bytes()[:100])
    shutil.copy(paths[31], paths[30])
    os.utime(paths[40])  # touched only: the same file
    with found.store as store:
        for _ in range(2):
            pixels, indices = store.take(np.arange(COUNT))
            left = [i for i in range(COUNT) if i not in (10, 20, 30)]
            assert indices.tolist() == left
            assert np.array_equal(pixels, truth[left])
        reasons = {index: lost.reason for index, lost in sorted(store.lost.items())}
        assert reasons == {10: "missing", 20: "truncated", 30: "changed"}


def test_a_file_that_fails_once_after_the_survey_is_tried_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D13: one retry."""
    found = look_at(photos, cache="none")
    failed: set[str] = set()

    def fails_once(path: Path, **rules: Any) -> Any:
        if path not in failed:
            failed.add(path)
            raise RejectedImage("unreadable", "a stale handle")
        return decode(path, **rules)

    monkeypatch.setattr(reader, "decode", fails_once)
    check(found.store, photos)
    assert found.store.lost == {}


def test_cached_pixels_need_their_files_no_more(photos: Path) -> None:
    """D13, with a cache."""
    found, truth = look_at(photos), expected(photos)
    shutil.rmtree(photos)
    assert np.array_equal(found.store.take(range(COUNT))[0], truth)


def test_a_read_that_hangs(photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """R3: in the survey a reason, in training exit 7 naming the file; never for ever."""
    (tmp_path / "seen").mkdir()
    monkeypatch.setenv("READER_FAULTS", str(tmp_path / "seen"))
    draw(photos / "cat" / "hang.png", seed=1, label=1)
    draw(photos / "cat" / "later.png", seed=1, label=1)
    monkeypatch.setattr(cache, "Reader", partial(reader.Reader, look=reader_faults.look))
    found = look_at(photos, cache="none", workers=2, timeout=1)
    assert [lost.reason for lost in found.rejected] == ["decoder-timeout"]
    monkeypatch.setattr(cache, "Reader", partial(reader.Reader, look=reader_faults.hang_later))
    found = look_at(photos, cache="none", workers=2, timeout=1)
    with found.store as store, pytest.raises(ResourceError, match=r"later\.png: not read within"):
        store.take(range(COUNT))


def test_a_stopped_survey_keeps_what_it_read(photos: Path, decoded: list[str]) -> None:
    with pytest.raises(StoppingError):
        look_at(photos, stopping=lambda: len(decoded) == 25)
    check(look_at(photos).store, photos)
    assert len(decoded) == COUNT


def test_names_that_are_not_utf_8_are_cached(photos: Path, decoded: list[str]) -> None:
    """D10."""
    odd = os.fsdecode(os.fsencode(photos / "cat") + b"/caf\xe9\n.png")
    try:
        shutil.copy(samples_in(photos)[0].path, odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    look_at(photos)
    decoded.clear()
    assert all(look_at(photos).facts)
    assert decoded == []


# Room


def test_auto_takes_the_disk_then_memory_then_nothing(
    photos: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    size = COUNT * 32 * 32 * 3
    monkeypatch.setattr(shelf, "MAX_CACHE_BYTES", size - 1)
    monkeypatch.setattr(shelf, "free_memory", lambda: 4 * size)
    store = look_at(photos).store
    check(store, photos)
    check(store, photos)
    assert len(decoded) == COUNT
    monkeypatch.setattr(shelf, "free_memory", lambda: 4 * size - 4)
    events: list[Event] = []
    store = look_at(photos, emit=events.append).store
    check(store, photos)
    check(store, photos)
    assert len(decoded) == 3 * COUNT
    assert [type(event) for event in events if not isinstance(event, Progress)] == [Notice]
    with pytest.raises(ResourceError, match="--cache disk"):
        look_at(photos, spec=PixelSpec(80, "pad"), cache="ram")


def test_segments_unused_for_longest_go_first_and_never_ones_own(
    photos: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    for age, size in ((200, 33), (300, 34), (100, 35)):
        look_at(photos, spec=PixelSpec(size, "pad"))
        for path in home.rglob(f"{size}-pad-*.pixels"):
            os.utime(path, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(cache, "MAX_CACHE_BYTES", COUNT * 3 * (32**2 + 35**2))
    check(look_at(photos).store, photos)
    assert {entry.image_size for entry in cache_list()} == {32, 35}
    monkeypatch.setattr(cache, "MAX_CACHE_BYTES", 10)
    check(look_at(photos).store, photos)
    assert [(entry.image_size, entry.pictures) for entry in cache_list()] == [(32, COUNT)]


def test_a_large_set_is_cut_into_segments(
    photos: Path, monkeypatch: pytest.MonkeyPatch, home: Path, decoded: list[str]
) -> None:
    monkeypatch.setattr(cache_folder, "SEGMENT_BYTES", 7 * 32 * 32 * 3 + 5)
    look_at(photos)
    assert len(list(home.rglob("*.pixels"))) == -(-COUNT // 7)
    decoded.clear()
    check(look_at(photos).store, photos)
    assert decoded == []


def test_size_list_and_clear_show_and_remove_what_is_ours(photos: Path, home: Path) -> None:
    assert (cache_size(), cache_list(), cache_clear()) == (0, [], 0)
    look_at(photos)
    look_at(photos, spec=PixelSpec(40, "crop"))
    (home / "videos").mkdir()
    (home / "videos" / "index.sqlite").write_text("somebody else's")
    (home / "v1" / "letter.txt").write_text("somebody else's")
    (home / "letter.txt").write_text("somebody else's")
    first, second = cache_list()
    assert (first.image_size, first.resize, first.pictures) == (40, "crop", COUNT)
    assert (second.image_size, second.bytes) == (32, COUNT * 32 * 32 * 3)
    ours = [*home.rglob("*.pixels"), home / "v1" / "index.sqlite"]
    assert cache_size() == sum(path.stat().st_size for path in ours)
    assert cache_clear() > first.bytes + second.bytes
    assert (cache_size(), cache_list()) == (0, [])
    assert sorted(path.name for path in home.rglob("*.*")) == [
        "index.sqlite",
        "letter.txt",
        "letter.txt",
    ]


def test_a_user_without_a_home_goes_without_a_cache(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with a number for a user."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("INCEPTCLI_CACHE")
    monkeypatch.setattr(Path, "home", homeless)
    events: list[Event] = []
    check(look_at(photos, emit=events.append).store, photos)
    assert ["INCEPTCLI_CACHE" in event.text for event in events if isinstance(event, Warned)] == [
        True
    ]
    with pytest.raises(OutputError):
        cache_size()


def test_the_default_folder_is_the_systems_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INCEPTCLI_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("LOCALAPPDATA", "/y")
    places = {"linux": "/x", "win32": "/y", "darwin": str(Path.home() / "Library" / "Caches")}
    for system, place in places.items():
        monkeypatch.setattr(sys, "platform", system)
        assert cache_folder.default_cache_folder() == Path(place) / "inceptcli"
