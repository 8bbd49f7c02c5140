"""What ``files`` promises: whole files or none, regular files only, names that cannot act."""

from __future__ import annotations

import csv
import errno
import io
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faults import FaultySystem
from inceptcli import files
from inceptcli.errors import DataError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SRC = Path(files.__file__).parents[1]
LONE = "\udce9"  # the byte 0xE9 of a name that is not UTF-8
HOSTILE = [
    "\x1b]0;PWN\x07",
    "\x1b[2J",
    "\x9b31m",
    "a\u202eb",
    "a\nb",
    "a\rb",
    "\x00",
    LONE,
    "\u2028",
]

needs_posix = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX system")


def run(script: str, *args: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def in_small_file_system(tmp_path: Path, options: str, script: str) -> str:
    """Run ``script`` with a file system of its own at argv[1]; what it prints, or a skip."""
    unshare = shutil.which("unshare")
    if not unshare:
        pytest.skip("needs unshare (util-linux)")
    place = tmp_path / "small"
    place.mkdir()
    mount = f"mount -t tmpfs -o {options} tmpfs {place} || exit 77"
    done = subprocess.run(
        [
            unshare,
            "-m",
            "sh",
            "-c",
            f'{mount}; exec "$0" -c "$1" "$2"',
            sys.executable,
            script,
            place,
        ],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(folder: Path | str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


# ---- writing

WRITERS = {
    "bytes": lambda path: files.write_bytes(path, b"new " * 100, memoryview(b"x" * 70), b""),
    "text": lambda path: files.write_text(path, "neu\n" * 100),
    "json": lambda path: files.write_json(path, {"new": [1, 2.5, None]}),
    "csv": lambda path: files.write_csv(path, ["n"], ([i] for i in range(2500))),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_written_anew_and_alone(name: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    WRITERS[name](path)
    first = path.read_bytes()
    path.write_bytes(b"old")
    WRITERS[name](path)
    assert path.read_bytes() == first != b""
    assert names(tmp_path) == ["out"]


def test_the_bytes_are_those_given(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype="<u2").reshape(2, 3)
    files.write_bytes(tmp_path / "out", b"ab", memoryview(numbers), b"")
    assert (tmp_path / "out").read_bytes() == b"ab" + numbers.tobytes()


@needs_posix
def test_a_new_file_obeys_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        files.write_bytes(tmp_path / "out", b"x")
    finally:
        os.umask(mask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EINTR])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "close", "replace"])
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("old", [b"old", None])
def test_whichever_call_fails_the_file_is_old_or_new(
    writer: str,
    call: str,
    code: int,
    old: bytes | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """W5: each call of each kind fails once; never a mix, a leftover, or success told falsely."""
    WRITERS[writer](tmp_path / "good")
    new = (tmp_path / "good").read_bytes()
    for k in itertools.count(1):
        path = tmp_path / str(k) / "out"
        path.parent.mkdir()
        if old is not None:
            path.write_bytes(old)
        system = FaultySystem(call, k, code)
        monkeypatch.setattr(files, "system", system)
        error = failure(WRITERS[writer], path)
        monkeypatch.undo()
        if not system.fired:
            break  # every call has had its turn
        assert isinstance(error.__cause__, OSError)
        assert error.__cause__.errno == code
        assert os.strerror(code) in str(error)
        of_the_folder = k == 2 and call in ("open", "fsync", "close")  # the file is in place then
        expected = new if of_the_folder else old
        assert (path.read_bytes() if path.exists() else None) == expected
        assert names(path.parent) == ([] if expected is None else ["out"])
    assert error is None
    assert path.read_bytes() == new
    assert k > (2 if call in ("open", "fsync", "close") else 1)


def failure(writer: Callable[[Path], None], path: Path) -> OutputError | None:
    try:
        writer(path)
    except OutputError as error:
        return error
    return None


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("call", ["write", "fsync", "close", "replace"])
def test_a_failed_write_leaves_no_descriptor_open(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W5"""
    before = names("/proc/self/fd")
    monkeypatch.setattr(files, "system", FaultySystem(call, 1, errno.EIO))
    with pytest.raises(OutputError):
        files.write_bytes(tmp_path / "out", b"new")
    assert names("/proc/self/fd") == before


@pytest.mark.parametrize("writer", WRITERS)
def test_a_short_write_goes_on_with_the_rest(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W5"""
    WRITERS[writer](tmp_path / "good")
    system = FaultySystem("write", 1, None)
    monkeypatch.setattr(files, "system", system)
    WRITERS[writer](tmp_path / "out")
    assert system.fired
    assert (tmp_path / "out").read_bytes() == (tmp_path / "good").read_bytes()


def test_a_short_write_before_a_full_disk_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W5: this is how a real disk fills."""
    (tmp_path / "out").write_bytes(b"old")
    monkeypatch.setattr(files, "system", FaultySystem("write", 1, None, later=errno.ENOSPC))
    with pytest.raises(OutputError, match=r"No space left on device \(needs 5 MB, .* free\)"):
        files.write_bytes(tmp_path / "out", b"x" * 5_000_000)
    assert (tmp_path / "out").read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


def test_the_first_error_is_told_when_cleaning_up_fails_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W5"""
    (tmp_path / "out").write_bytes(b"old")
    monkeypatch.setattr(files, "system", FaultySystem("fsync", 1, errno.EIO))
    monkeypatch.setattr(files, "system", FaultySystem("unlink", 1, errno.EROFS))
    with pytest.raises(OutputError, match="Input/output error"):
        files.write_bytes(tmp_path / "out", b"new")
    assert (tmp_path / "out").read_bytes() == b"old"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_without_folder_fsync_will_do(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "system", FaultySystem("fsync", 2, code))
    files.write_bytes(tmp_path / "out", b"new")
    assert (tmp_path / "out").read_bytes() == b"new"


def test_an_error_in_the_rows_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")

    def rows() -> Iterator[list[int]]:
        yield from ([i] for i in range(3000))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_csv(tmp_path / "out", ["n"], rows())
    assert (tmp_path / "out").read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


@needs_posix
def test_a_limit_on_file_sizes_is_told_as_what_it_is(tmp_path: Path) -> None:
    """W3: RLIMIT_FSIZE ends a file by a short write, then by EFBIG."""
    (tmp_path / "out").write_bytes(b"old")
    script = """if True:
        import resource, sys
        from pathlib import Path
        from inceptcli import errors, files
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            files.write_bytes(Path(sys.argv[1]), b"x" * 99_000, b"y" * 99_000)
        except errors.OutputError as error:
            print(error.__cause__.errno, error)
    """
    done = run(script, tmp_path / "out")
    assert done.stderr == ""
    assert done.stdout == (
        f"{errno.EFBIG} cannot write {tmp_path / 'out'}: File too large; "
        "raise the limit on file sizes (ulimit -f) or write elsewhere\n"
    )
    assert (tmp_path / "out").read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


@needs_posix
def test_a_really_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    """W2, W5: ENOSPC of a tmpfs of 1 MB; bytes needed and free are told, the temporary is gone."""
    script = """if True:
        import os, sys
        from pathlib import Path
        from inceptcli import errors, files
        path = Path(sys.argv[1], "out")
        files.write_bytes(path, b"o" * 300_000)
        try:
            files.write_bytes(path, b"n" * 2_000_000)
        except errors.OutputError as error:
            print(error)
        assert path.read_bytes() == b"o" * 300_000
        print(os.listdir(path.parent))
        files.write_bytes(path, b"n" * 500_000)  # fits beside the old one: all else is free again
    """
    out = in_small_file_system(tmp_path, "size=1m", script).splitlines()
    assert out[0].startswith(
        f"cannot write {tmp_path}/small/out: No space left on device (needs 2 MB, "
    )
    assert out[0].endswith(" kB free); free some space or write elsewhere")
    assert out[1:] == ["['out']"]


@needs_posix
def test_a_read_only_file_system_is_told(tmp_path: Path) -> None:
    """W4"""
    script = """if True:
        import sys
        from pathlib import Path
        from inceptcli import errors, files, runfolder
        for action in (
            lambda: files.write_bytes(Path(sys.argv[1], "out"), b"x"),
            lambda: runfolder.claim_run(Path(sys.argv[1], "run"), resume=False, overwrite=False),
            lambda: runfolder.claim_run(Path(sys.argv[1]), resume=False, overwrite=False),
        ):
            try:
                action()
            except errors.OutputError as error:
                print(error)
    """
    out = in_small_file_system(tmp_path, "ro", script).splitlines()
    tail = ": Read-only file system; choose a place you may write to"
    place = f"cannot write {tmp_path}/small"
    assert out == [f"{place}/out{tail}", f"{place}/run{tail}", f"{place}{tail}"]


@needs_posix
def test_a_folder_one_may_not_write_to_is_told(tmp_path: Path) -> None:
    """W4"""
    tmp_path.chmod(0o555)
    script = """if True:
        import os
        from pathlib import Path
        from inceptcli import errors, files, runfolder
        if os.geteuid() == 0:
            os.seteuid(65534)
        for action in (
            lambda: files.write_bytes(Path("out"), b"x"),
            lambda: runfolder.claim_run(Path("new/run"), resume=False, overwrite=False),
            lambda: runfolder.claim_run(Path("."), resume=False, overwrite=False),
        ):
            try:
                action()
            except errors.OutputError as error:
                print(error)
    """
    done = run(script, cwd=tmp_path)
    tail = ": Permission denied; choose a place you may write to"
    assert done.stdout.splitlines() == [
        f"cannot write out{tail}",
        f"cannot write new/run{tail}",
        f"cannot write .{tail}",
    ]
    assert names(tmp_path) == []


def test_a_missing_folder_is_told_and_not_made(tmp_path: Path) -> None:
    """W4: a misspelt path of one result file makes no folders (a run folder's parents are made)."""
    with pytest.raises(OutputError, match="No such file or directory; make its folder first"):
        files.write_bytes(tmp_path / "no" / "out", b"x")
    assert names(tmp_path) == []


def test_a_folder_and_a_file_in_the_way_are_told(tmp_path: Path) -> None:
    """W4"""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OutputError, match="Is a directory"):
        files.write_bytes(tmp_path / "folder", b"x")
    with pytest.raises(OutputError, match="Not a directory; choose a folder, not a file"):
        files.write_bytes(tmp_path / "file" / "out", b"x")
    with pytest.raises(OutputError, match=r"cannot write \.: "):
        files.write_bytes(Path(), b"x")
    assert names(tmp_path) == ["file", "folder"]


@needs_posix
def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """As root, a file moved to /dev/null or /dev/stdout would destroy it."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OutputError, match="not a regular file"):
            files.write_bytes(tmp_path / name, b"x")
    assert (tmp_path / "pipe").is_fifo()
    assert names(tmp_path) == ["link", "pipe"]


@needs_posix
@pytest.mark.parametrize(
    "name", ["-o", "a\nb", "\u202e.csv", LONE, "x" * 255, "猴" * 85, "😀" * 63]
)
def test_names_of_every_kind_are_written_and_swept(name: str, tmp_path: Path) -> None:
    """D10: the temporary file's name fits wherever the file's own does."""
    files.write_bytes(tmp_path / name, b"x")
    assert names(tmp_path) == [name]
    left = files._temporary_beside(tmp_path / name)
    left.write_bytes(b"")
    assert files.is_temporary(left.name)
    files.sweep(tmp_path)
    assert names(tmp_path) == [name]


@needs_posix
def test_a_name_that_is_too_long_is_told_on_one_safe_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long; choose a shorter name") as caught:
        files.write_bytes(tmp_path / ("\x1b\n" + "x" * 300), b"x")
    assert str(caught.value).isprintable()


WRITE_FOR_EVER = """if True:
    import itertools, sys
    from pathlib import Path
    from inceptcli import files
    for n in itertools.count():
        files.write_bytes(Path(sys.argv[1]), *[b"%09d\\n" % n] * 20_000)
        print(n, flush=True)
"""


@needs_posix
@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_a_whole_file_not_older_than_acknowledged(
    kills: int, tmp_path: Path
) -> None:
    """W1, W5: SIGKILL at random moments; what it left behind is swept."""
    draw = random.Random(1)
    for index in range(kills):
        path = tmp_path / str(index) / "out"
        path.parent.mkdir()
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, path],
            env={**os.environ, "PYTHONPATH": str(SRC)},
            stdout=subprocess.PIPE,
        )
        first = writer.stdout.readline()
        time.sleep(draw.uniform(0, 0.05))
        writer.kill()
        told = [first, *writer.communicate()[0].splitlines(keepends=True)]
        acknowledged = int([line for line in told if line.endswith(b"\n")][-1])
        lines = path.read_bytes().splitlines()
        assert len(lines) == 20_000
        assert len(set(lines)) == 1
        assert acknowledged <= int(lines[0]) <= acknowledged + 1
        files.sweep(path.parent)
        assert names(path.parent) == ["out"]


@needs_posix
def test_sweeping_spares_living_writers_and_other_files(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    kept = {f".out.{other.pid}.0123abcd.tmp", "out.tmp", ".out.tmp", f"out.{10**9}.0123abcd.tmp"}
    swept = {
        f".out.{os.getpid()}.0123abcd.tmp",
        f".a\nb.{10**9}.0123abcd.tmp",
        ".o.9999999999.0123abcd.tmp",
    }
    for name in kept | swept:
        (tmp_path / name).touch()
    files.sweep(tmp_path)
    assert set(names(tmp_path)) == kept
    other.communicate(b"\n")
    files.sweep(tmp_path)
    assert set(names(tmp_path)) == kept - {f".out.{other.pid}.0123abcd.tmp"}


def test_many_threads_of_writers_never_share_a_temporary_file(tmp_path: Path) -> None:
    """R7: 8 writers of one name; the file is always one of theirs."""
    import threading

    def write(letter: bytes) -> None:
        for _ in range(20):
            files.write_bytes(tmp_path / "out", letter * 50_000)
            assert len(set((tmp_path / "out").read_bytes())) == 1

    failed: list[object] = []
    threads = [threading.Thread(target=write, args=(b"%d" % n,)) for n in range(8)]
    hook, threading.excepthook = threading.excepthook, failed.append
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    threading.excepthook = hook
    assert failed == []
    assert names(tmp_path) == ["out"]


# ---- JSON and CSV


def test_json_is_valid_utf8_and_keeps_every_name(tmp_path: Path) -> None:
    """D10: a name that is not UTF-8 reads back as itself."""
    value = {LONE: ["猴痘", "a\\" + LONE, "\x1b", "\u2028"], "n": [1, 0.1, True, None]}
    files.write_json(tmp_path / "out", value)
    text = (tmp_path / "out").read_bytes().decode("utf-8")
    assert json.loads(text) == value
    assert "猴痘" in text
    assert text.endswith("}\n")


def test_json_has_null_where_a_float_is_not_finite() -> None:
    value = {"loss": float("nan"), "all": (1.5, float("inf"), {"x": -float("inf")})}
    assert json.loads(files.json_text(value)) == {"loss": None, "all": [1.5, None, {"x": None}]}


def test_text_is_always_valid_utf8(tmp_path: Path) -> None:
    files.write_text(tmp_path / "out", f"caf{LONE} é\r\n")
    assert (tmp_path / "out").read_bytes() == b"caf\\udce9 \xc3\xa9\r\n"


@given(st.text(st.characters()))  # surrogates too
def test_a_cell_gives_back_any_text(text: str) -> None:
    """O2, D10"""
    assert files.uncell(files.cell(text)) == text


@given(st.text(st.sampled_from("\\xu0dce9'=\t\n\u202e" + LONE)))
def test_a_cell_gives_back_texts_that_look_like_its_escapes(text: str) -> None:
    """O2"""
    assert files.uncell(files.cell(text)) == text


@given(st.text(st.characters()))
def test_a_cell_is_one_line_of_utf8_that_starts_no_formula(text: str) -> None:
    """O2, O3"""
    safe = files.cell(text)
    safe.encode("utf-8")
    assert not safe.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert len(safe.splitlines()) <= 1
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in safe)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "'", "\uff1d"])
def test_what_could_start_a_formula_gets_an_apostrophe(start: str) -> None:
    """O2"""
    assert files.cell(f"{start}1+1").startswith("'")


@pytest.mark.parametrize(
    "text", ["猴痘.jpg", "a b,c.jpg", 'say "hi".jpg', "tag's.png", "e\u0301.png"]
)
def test_a_harmless_name_is_its_own_cell(text: str) -> None:
    assert files.cell(text) == text


@pytest.mark.parametrize("text", [r"photos\new", r"C:\Users\x4", r"\U0001f600", "\\"])
def test_an_escape_that_is_none_of_ours_is_left(text: str) -> None:
    assert files.uncell(text) == text


@given(st.lists(st.tuples(st.text(st.characters()), st.text(st.characters())), max_size=5))
def test_a_table_gives_back_its_texts(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    """O2: quotes, commas, line ends and all, by our reader and by the csv module."""
    path = tmp_path_factory.mktemp("csv") / "out"
    files.write_csv(path, ["a,b", "=c"], rows)
    read = files.read_csv(path)
    assert [tuple(row.values()) for row in read] == rows
    assert read.damage == ""
    assert all(list(row) == ["a,b", "=c"] for row in read)
    plain = list(csv.reader(io.StringIO(path.read_text("utf-8"), newline=""), strict=True))
    assert [tuple(files.uncell(c) for c in row) for row in plain[1:]] == rows


def test_numbers_in_a_table_stay_numbers(tmp_path: Path) -> None:
    values = [-1, -0.1, np.float32(-0.1), np.int64(-7), True, None, float("nan"), "-x"]
    files.write_csv(tmp_path / "out", list("abcdefgh"), [values])
    assert (tmp_path / "out").read_bytes() == b"a,b,c,d,e,f,g,h\n-1,-0.1,-0.1,-7,True,,,'-x\n"


def test_a_table_of_any_length_is_written_in_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    tracemalloc.start()
    files.write_csv(tmp_path / "out", ["n", "text"], ([n, "x" * 100] for n in range(30_000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out").stat().st_size > 3_000_000
    assert peak < 1_500_000
    assert len(files.read_csv(tmp_path / "out")) == 30_000


def test_a_spreadsheets_habits_are_no_harm(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("\ufeffpath,class\r\n\r\na.png,cat\r\n".encode())
    assert files.read_csv(tmp_path / "t.csv") == [{"path": "a.png", "class": "cat"}]


@pytest.mark.parametrize(
    ("tail", "damage"),
    [
        (b"3,0.5", "line 4 is cut off"),
        (b"3,0.5,0.", "line 4 is cut off"),
        (b"3,\xe7\x8c", "line 4 is cut off"),
        (b"\0" * 4096, "line 4 holds NUL bytes"),
        (b"3,0.5\0\0\0\n4,0.1,0.2\n", "line 4 holds NUL bytes"),
        (b"3,0.5\n", "line 4 is damaged"),
        (b'3,"0.5,0.1\n', "line 4 is damaged"),
    ],
)
def test_a_damaged_end_is_left_out_and_told(tail: bytes, damage: str, tmp_path: Path) -> None:
    """W8"""
    (tmp_path / "t.csv").write_bytes(b"epoch,a,b\n1,0.1,0.2\n2,0.3,0.4\n" + tail)
    rows = files.read_csv(tmp_path / "t.csv")
    assert rows == [{"epoch": "1", "a": "0.1", "b": "0.2"}, {"epoch": "2", "a": "0.3", "b": "0.4"}]
    assert rows.damage == damage


def test_a_table_cut_anywhere_gives_only_rows_that_were_in_it(tmp_path: Path) -> None:
    """W8: at every byte."""
    path = tmp_path / "t.csv"
    files.write_csv(
        path, ["path", "class"], [("a,1.png", "猴"), ('b"2.png', "=x"), ("c.png", LONE)]
    )
    whole, rows = path.read_bytes(), files.read_csv(path)
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        path.write_bytes(whole[:cut])
        read = files.read_csv(path)
        assert read == rows[: len(read)]
        assert bool(read.damage) == (not whole[:cut].endswith(b"\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no header line"),
        (b"path,class", "has no header line"),
        (b"\0\0\0\0", "has no header line"),
        (b'pa"th,"class\n', "has no header line"),
        (b"a,a\n1,2\n", "has no header line of distinct columns"),
        (b"a,b\n1,2,3\n1,2\n", "line 2 does not fit its header"),
        (b"a,b\n1,2\n\xe9,2\n1,2\n", "line 3 is not UTF-8"),
        (b'a,b\n"1\n2",3\n1,2\n', "line 2 does not fit its header"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "t\x1b.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        files.read_csv(tmp_path / "t\x1b.csv")
    assert str(caught.value).isprintable()
    assert r"t\x1b.csv" in str(caught.value)


def test_a_table_that_is_missing_or_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="No such file"):
        files.read_csv(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(b"a\n" * 3000)
    monkeypatch.setattr(files, "MAX_CSV_BYTES", 5000)
    with pytest.raises(DataError, match="6 kB where at most 5 kB are expected"):
        files.read_csv(tmp_path / "t.csv")


# ---- reading


def test_a_regular_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert files.read_regular(tmp_path / "a", max_bytes=5) == b"12345"
    with pytest.raises(OSError, match="5 bytes where at most 4 bytes") as caught:
        files.read_regular(tmp_path / "a", max_bytes=4)
    assert caught.value.errno == errno.EFBIG
    with files.open_regular(tmp_path / "a") as file:
        assert file.read() == b"12345"


@needs_posix
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    """D4: a pipe without a writer, a socket, a folder, an endless device behind a link."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    here = Path.cwd()
    os.chdir(tmp_path)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.jpg")
    finally:
        os.chdir(here)
    signal.alarm(10)
    try:
        for name in ("pipe.jpg", "folder.jpg", "zero.jpg", "socket.jpg"):
            with pytest.raises(files.NotRegularFile, match="not a regular file"):
                files.read_regular(tmp_path / name, max_bytes=100)
            with pytest.raises(files.NotRegularFile):
                files.open_regular(tmp_path / name)
    finally:
        signal.alarm(0)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_an_ordinary_failure(name: str, tmp_path: Path) -> None:
    """P1: such a line may come from a list on stdin or a table."""
    with pytest.raises(OSError, match=r"no name that a file can have|No such file"):
        files.open_regular(tmp_path / name)


# ---- names


@pytest.mark.parametrize("text", HOSTILE)
def test_what_could_act_on_a_terminal_is_shown_as_escapes(text: str) -> None:
    """O3, D10"""
    shown = files.printable(f"cat/{text}.jpg")
    assert shown.isprintable()
    assert shown.startswith("cat/")
    assert "\\" in shown


@given(st.text(st.characters()))
def test_every_shown_text_is_one_harmless_line_of_utf8(text: str) -> None:
    """O3, D10"""
    shown = files.printable(text)
    shown.encode("utf-8")
    assert shown.isprintable()


@pytest.mark.parametrize("text", ["cat/x.jpg", "[red]x[/red]", "[/foo]", "猴痘 é 😀", r"C:\x"])
def test_an_ordinary_name_is_shown_as_it_is(text: str) -> None:
    """O3: markup is the console's to escape."""
    assert files.printable(text) == text


def test_inside_is_told_through_links_and_for_what_is_not_there_yet(tmp_path: Path) -> None:
    """D15"""
    data = tmp_path / "data"
    (data / "cat").mkdir(parents=True)
    (tmp_path / "database").mkdir()
    assert files.is_inside(data, data)
    assert files.is_inside(data / "runs" / "1", data)
    assert files.is_inside(tmp_path / "no" / ".." / "data" / "x", data)
    assert not files.is_inside(data / ".." / "x", data)
    assert not files.is_inside(tmp_path / "database", data)
    assert not files.is_inside(tmp_path, data)
    assert not files.is_inside(tmp_path / "x", tmp_path / "missing")


@needs_posix
def test_inside_follows_symbolic_links_both_ways(tmp_path: Path) -> None:
    """D15"""
    (tmp_path / "data").mkdir()
    (tmp_path / "alias").symlink_to("data")
    (tmp_path / "loop").symlink_to("loop")
    assert files.is_inside(tmp_path / "alias" / "run", tmp_path / "data")
    assert files.is_inside(tmp_path / "data" / "run", tmp_path / "alias")
    assert not files.is_inside(tmp_path / "loop" / "run", tmp_path / "data")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (6000, "6 kB"),
        (28_123_456, "28.1 MB"),
        (5 * 10**9, "5 GB"),
    ],
)
def test_sizes_are_told_in_three_figures(count: int, text: str) -> None:
    assert files._size(count) == text
