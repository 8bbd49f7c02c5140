"""One run folder, one process at a time, whatever becomes of the others."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inceptcli import files, runfolder
from inceptcli.errors import OutputError, UsageError
from inceptcli.runfolder import claim_run, latest_runs

if TYPE_CHECKING:
    from collections.abc import Callable

SRC = Path(runfolder.__file__).parents[1]


def claim(folder: Path, *, resume: bool = False, overwrite: bool = False) -> runfolder.RunLock:
    return claim_run(folder, resume=resume, overwrite=overwrite)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(script: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


CLAIM_AND_HOLD = """if True:
    import sys
    from pathlib import Path
    from inceptcli import errors, runfolder
    sys.stdin.readline()  # all are here
    try:
        with runfolder.claim_run(Path(sys.argv[1]), resume=False, overwrite=True) as lock:
            print("mine", flush=True)
            sys.stdin.readline()
    except errors.OutputError as error:
        print(error, flush=True)
"""


def held(folder: Path) -> subprocess.Popen[str]:
    owner = start(CLAIM_AND_HOLD, folder)
    owner.stdin.write("\n")
    owner.stdin.flush()
    assert owner.stdout.readline() == "mine\n"
    return owner


def test_a_new_folder_is_made_with_its_parents_and_locked(tmp_path: Path) -> None:
    """W4"""
    folder = tmp_path / "runs" / "deep" / "one"
    with claim(folder) as lock:
        assert lock.folder == folder
        assert names(folder) == [".lock"]
        (folder / "config.json").touch()
    assert names(folder) == ["config.json"]
    lock.release()  # a second time does nothing


def test_folders_made_for_a_run_that_never_began_are_removed(tmp_path: Path) -> None:
    """D6: a refused data set leaves no run folder."""
    with pytest.raises(ZeroDivisionError), claim(tmp_path / "runs" / "one"):
        raise ZeroDivisionError
    assert names(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with claim(tmp_path / "mine"):
        pass
    assert names(tmp_path) == ["mine"], "the user's own folder stays"


def test_a_folder_with_files_is_refused_and_untouched(tmp_path: Path) -> None:
    """W6: finished run, no flag."""
    (tmp_path / "best_model.pth").touch()
    changed = tmp_path.stat().st_mtime_ns
    with pytest.raises(OutputError, match=r"is not empty; .*--resume.*--overwrite") as caught:
        claim(tmp_path)
    assert caught.value.exit_code == 5
    assert names(tmp_path) == ["best_model.pth"]
    assert tmp_path.stat().st_mtime_ns == changed


def test_a_folder_with_files_is_refused_also_behind_a_stale_lock(tmp_path: Path) -> None:
    """W6"""
    (tmp_path / "best_model.pth").touch()
    (tmp_path / ".lock").touch()
    with pytest.raises(OutputError, match="is not empty"):
        claim(tmp_path)


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_either_flag_opens_a_folder_with_files_and_removes_none(flag: str, tmp_path: Path) -> None:
    (tmp_path / "last.pth").touch()
    with claim(tmp_path, **{flag: True}):
        assert names(tmp_path) == [".lock", "last.pth"]
    assert names(tmp_path) == ["last.pth"]


def test_clearing_removes_a_runs_files_and_no_others(tmp_path: Path) -> None:
    for name in (*runfolder.RUN_FILES, "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text('{"settings": {"root": "photos"}}')
    events = tmp_path / "tensorboard"
    events.mkdir()
    for name in ("events.out.tfevents.1.host", "mine.txt"):
        (events / name).touch()
    with claim(tmp_path, overwrite=True) as lock:
        lock.clear()
    assert names(tmp_path) == ["notes.txt", "tensorboard"]
    assert names(events) == ["mine.txt"]


def test_what_cannot_be_cleared_is_told(tmp_path: Path) -> None:
    (tmp_path / "last.pth").mkdir()
    with claim(tmp_path, overwrite=True) as lock, pytest.raises(OutputError, match=r"last\.pth"):
        lock.clear()


def test_a_run_that_is_not_there_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such run folder"):
        claim(tmp_path / "no", resume=True)
    assert names(tmp_path) == []


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    """W4"""
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OutputError, match="Not a directory; choose a folder, not a file"):
            claim(folder)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_a_folder_that_cannot_be_made_is_told_with_its_reason() -> None:
    """W4: nobody can make a folder in /proc, and nobody uses one there."""
    with pytest.raises(OutputError, match=r"cannot \w+ /proc/run: (No such file|Permission)"):
        claim(Path("/proc/run"))


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError, match="cannot write"):
        claim(tmp_path / "run")
    assert (tmp_path / "victim").read_text() == "mine"


def test_leftovers_of_a_killed_writer_are_swept_and_do_not_fill_a_folder(tmp_path: Path) -> None:
    """K9, W6"""
    (tmp_path / f".last.pth.{10**9}.0123abcd.tmp").touch()
    with claim(tmp_path):
        assert names(tmp_path) == [".lock"]


# ---- two at once


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_a_second_run_is_told_the_first_ones_number(flags: dict, tmp_path: Path) -> None:
    """W6: the first is unharmed, the folder is free after it."""
    owner = held(tmp_path)
    (tmp_path / "last.pth").touch()
    signed = (tmp_path / ".lock").read_bytes()
    with pytest.raises(OutputError, match=f"in use by process {owner.pid} since ") as caught:
        claim(tmp_path, **flags)
    assert caught.value.exit_code == 5
    assert (tmp_path / ".lock").read_bytes() == signed
    owner.communicate("\n")
    assert owner.returncode == 0
    assert names(tmp_path) == ["last.pth"]
    claim(tmp_path, resume=True).release()


def test_one_process_cannot_claim_a_folder_twice(tmp_path: Path) -> None:
    with claim(tmp_path), pytest.raises(OutputError, match=f"process {os.getpid()} since"):
        claim(tmp_path, resume=True)
    assert names(tmp_path) == []


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stale", [False, True])
def test_of_many_that_start_at_once_one_gets_the_folder(
    rounds: int, stale: bool, tmp_path: Path
) -> None:
    """W6: also when all of them find a dead process's lock."""
    for index in range(rounds):
        folder = tmp_path / str(index)
        if stale:
            folder.mkdir()
            sign(folder, pid=dead_pid())
        processes = [start(CLAIM_AND_HOLD, folder) for _ in range(6)]
        for process in processes:
            process.stdin.write("\n")
        for process in processes:
            process.stdin.flush()
        said = [process.stdout.readline() for process in processes]
        assert said.count("mine\n") == 1
        winner = processes[said.index("mine\n")]
        assert json.loads((folder / ".lock").read_text())["pid"] == winner.pid
        assert sum(f"in use by process {winner.pid} since" in line for line in said) == 5
        for process in processes:
            process.communicate("\n")
        assert not (folder / ".lock").exists()


TAKE_TURNS = """if True:
    import os, sys
    from pathlib import Path
    from inceptcli import errors, runfolder
    wanted, turns = 25, 0
    while turns < wanted:
        try:
            lock = runfolder.claim_run(Path(sys.argv[1]), resume=False, overwrite=True)
        except errors.OutputError:
            continue
        with lock:
            os.mkdir(sys.argv[2])  # fails when another is inside
            os.rmdir(sys.argv[2])
            turns += 1
    print(turns)
"""


def test_a_folder_that_changes_hands_quickly_has_never_two_owners(tmp_path: Path) -> None:
    """W6: locks are removed and folders made and removed under each other's eyes."""
    processes = [start(TAKE_TURNS, tmp_path / "run", tmp_path / "inside") for _ in range(4)]
    assert [process.communicate()[0] for process in processes] == ["25\n"] * 4
    assert not (tmp_path / "inside").exists()


def after_the_first(call: Callable[..., Any], then: Callable[[], None]) -> Callable[..., Any]:
    """``call``, after whose first time another process does ``then``."""
    to_do = [then]

    def wrapped(*args: Any) -> Any:
        result = call(*args)
        if to_do:
            to_do.pop()()
        return result

    return wrapped


def test_a_lock_that_its_last_owner_removes_meanwhile_is_not_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W6: who then locks the removed file would share the folder with the next who makes one."""
    wrapped = after_the_first(runfolder._try_lock, (tmp_path / ".lock").unlink)
    monkeypatch.setattr(runfolder, "_try_lock", wrapped)
    with claim(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        with pytest.raises(OutputError, match="in use by process"):
            claim(tmp_path)


def test_a_folder_that_its_last_owner_removes_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W6"""
    folder = tmp_path / "run"
    monkeypatch.setattr(runfolder, "_make", after_the_first(runfolder._make, folder.rmdir))
    with claim(folder):
        assert names(folder) == [".lock"]
    assert names(tmp_path) == []


# ---- owners that died


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def sign(folder: Path, **changes: object) -> None:
    owner = {"pid": 1, "host": socket.gethostname(), "since": "long ago", **changes}
    (folder / ".lock").write_text(json.dumps(owner))


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_owners_lock_is_taken_over(tmp_path: Path) -> None:
    """W6"""
    owner = held(tmp_path)
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert (tmp_path / ".lock").exists()
    with claim(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert names(tmp_path) == []


@pytest.mark.parametrize("pid", [1, os.getpid(), os.getppid()], ids=["init", "own", "parent"])
def test_a_lock_whose_number_went_to_another_process_is_taken_over(
    pid: int, tmp_path: Path
) -> None:
    """W6: a living process of that number does not hold it (in containers numbers repeat)."""
    sign(tmp_path, pid=pid)
    with claim(tmp_path):
        pass


@pytest.mark.parametrize(
    "text",
    ["", "\0" * 100, "\xff", "4711", "[" * 1000, '{"pid": "x"}', '{"pid": null}', '{"pid": 1e999}'],
)
def test_a_damaged_lock_is_taken_over(text: str, tmp_path: Path) -> None:
    """W6"""
    (tmp_path / ".lock").write_text(text)
    with claim(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_lock_from_another_machine_is_left_to_the_user(tmp_path: Path) -> None:
    """W6: whether its owner lives cannot be known; the line says what to delete."""
    sign(tmp_path, pid=12, host="far\x1b[2J")
    signed = (tmp_path / ".lock").read_bytes()
    with pytest.raises(OutputError, match=r"process 12 on far\\x1b\[2J since .* delete ") as caught:
        claim(tmp_path)
    assert str(caught.value).isprintable()
    assert (tmp_path / ".lock").read_bytes() == signed


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no locks."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_number_decides(tmp_path: Path) -> None:
    """W6"""
    with claim(tmp_path), pytest.raises(OutputError, match=f"process {os.getpid()} since"):
        claim(tmp_path, resume=True)
    assert names(tmp_path) == []
    sign(tmp_path, pid=dead_pid())
    with claim(tmp_path):
        pass


def test_an_unexpected_lock_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", refuse)
    with pytest.raises(OutputError, match="Input/output error"):
        claim(tmp_path / "run")


def test_a_lock_that_cannot_be_signed_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W2: a disk that is full from the start."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runfolder.os, "ftruncate", refuse)
    with pytest.raises(OutputError, match="No space left on device"):
        claim(tmp_path / "run")
    assert names(tmp_path) == []


# ---- the latest run


def test_the_latest_run_is_the_one_whose_file_was_written_last(tmp_path: Path) -> None:
    assert latest_runs(tmp_path / "runs", "last.pth") == []
    for age, name in enumerate(["b", "a", "c", "empty", "odd"]):
        (tmp_path / name).mkdir()
        if name not in ("empty", "odd"):
            files.write_bytes(tmp_path / name / "last.pth", b"")
            os.utime(tmp_path / name / "last.pth", (1000 - age, 1000 - age))
    (tmp_path / "odd" / "last.pth").mkdir()
    (tmp_path / "a-file").touch()
    assert latest_runs(tmp_path, "last.pth") == [tmp_path / name for name in "bac"]
    assert latest_runs(tmp_path, "best_model.pth") == []
    assert latest_runs(tmp_path / "a-file", "last.pth") == []


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_a_folder_of_runs_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to("runs")
    with pytest.raises(OutputError, match=r"cannot list .*/runs: "):
        latest_runs(tmp_path / "runs", "last.pth")


def test_files_that_are_no_runs_are_not_cleared(tmp_path: Path) -> None:
    for name in ("metrics.json", "config.json"):
        (tmp_path / name).write_text('{"mine": 1}')
    with claim(tmp_path, overwrite=True) as lock, pytest.raises(OutputError, match="holds no run"):
        lock.clear()
    assert names(tmp_path) == ["config.json", "metrics.json"]
