"""The pool of decoding processes: order, isolation, bounded memory, no orphans."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import reader_faults
from conftest import ROOT, draw
from inceptcli.data.image import decode, fit
from inceptcli.data.looks import LOOK_BYTES
from inceptcli.data.machine import default_workers, free_memory
from inceptcli.data.reader import Looked, PixelSpec, Reader, StoppingError, look, read
from inceptcli.errors import InceptcliError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = PixelSpec(32, "stretch")
posix = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 12 good pictures, where misbehaving ones can be added."""
    (tmp_path / "seen").mkdir()
    monkeypatch.setenv("READER_FAULTS", str(tmp_path / "seen"))
    folder = tmp_path / "faults"
    for index in range(12):
        draw(folder / f"good_{index:02d}.png", seed=index, label=index)
    return folder


def add(folder: Path, *names: str, at: int = 5) -> list[Path]:
    """All good pictures with copies under these names in their midst."""
    paths = sorted(folder.glob("good_*"))
    for number, name in enumerate(names):
        paths.insert(at + number, shutil.copy(paths[0], folder / f"{name}.png"))
    return paths


def misread(paths: list[Path], *, workers: int = 2, timeout: float = 60) -> list[Looked]:
    with Reader(SPEC, workers=workers, timeout=timeout, look=reader_faults.look) as reader:
        return list(reader.read(paths))


def check_good(looked: list[Looked], paths: list[Path], *, but: tuple[int, ...] = ()) -> None:
    """Every file is there once, in order, with its own pixels."""
    assert [one.index for one in looked] == list(range(len(paths)))
    for one, path in zip(looked, paths, strict=True):
        if one.index not in but:
            assert one.reason is None
            assert np.array_equal(one.pixels, fit(decode(path).image, size=32, resize="stretch"))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_pixels_and_facts_come_in_order_and_equal_the_decoders(photos: Path, workers: int) -> None:
    paths = sorted(photos.rglob("*.png"))
    looked = list(read(paths, SPEC, workers=workers, want_facts=True))
    check_good(looked, paths)
    for one, path in zip(looked, paths, strict=True):
        whole = decode(path)
        assert one.facts is not None
        assert one.facts.content_sha256 == one.content_sha256 == whole.content_sha256
        assert (one.facts.width, one.facts.height, one.facts.format) == (40, 40, "PNG")
        assert len(one.facts.look) == LOOK_BYTES


def test_equal_pixels_in_other_files_have_equal_pixel_digests(tmp_path: Path) -> None:
    from PIL import Image

    first = draw(tmp_path / "a.png", seed=1, label=1)
    second, other = tmp_path / "b.bmp", draw(tmp_path / "c.png", seed=2, label=1)
    Image.open(first).save(second)
    a, b, c = (one.facts for one in read([first, second, other], SPEC, workers=0, want_facts=True))
    assert None not in (a, b, c)
    assert a.pixel_sha256 == b.pixel_sha256 != c.pixel_sha256
    assert a.content_sha256 != b.content_sha256


def test_a_bad_file_has_its_reason_and_the_others_their_pixels(faults: Path) -> None:
    paths = add(faults, "bad")
    paths[5].write_bytes(paths[5].read_bytes()[:60])
    paths.append(faults / "absent.png")
    for workers in (0, 2):
        looked = list(read(paths, SPEC, workers=workers))
        check_good(looked, paths, but=(5, 13))
        assert (looked[5].reason, looked[13].reason) == ("truncated", "missing")
        assert looked[5].pixels is looked[5].facts is None


@posix
def test_a_native_crash_costs_one_file(faults: Path) -> None:
    """Promise 4: the file is named, all others are read, also those in the same process's queue."""
    paths = add(faults, "segfault_1", "segfault_2")
    looked = misread(paths)
    check_good(looked, paths, but=(5, 6))
    assert [looked[at].reason for at in (5, 6)] == ["decoder-crash"] * 2
    assert looked[5].detail == "SIGSEGV"


@posix
@pytest.mark.parametrize("kind", ["killedonce", "memoryonce", "segfaultonce"])
def test_what_fails_once_is_read_again_at_its_place(faults: Path, kind: str) -> None:
    """R1: no sample is lost or doubled."""
    paths = add(faults, kind)
    check_good(misread(paths), paths)


@posix
@pytest.mark.parametrize(("kind", "workers"), [("killed", 2), ("memory", 2), ("memory", 0)])
def test_what_fails_twice_for_want_of_memory_is_a_resource_error(
    faults: Path, kind: str, workers: int
) -> None:
    """R1: exit 7, naming the file."""
    with pytest.raises(ResourceError, match=rf"{kind}\.png.*--workers") as caught:
        misread(add(faults, kind), workers=workers)
    assert caught.value.exit_code == 7
    assert not multiprocessing.active_children()


@posix
def test_workers_killed_from_outside_cost_nothing(faults: Path) -> None:
    """R1: ``kill -9`` of every worker in the middle of its work."""
    paths = [*add(faults), *add(faults, *(f"slow_{index}" for index in range(20)))]
    looked = []
    with Reader(SPEC, workers=2, look=reader_faults.look) as reader:
        for one in reader.read(paths):
            looked.append(one)
            if one.index == 14:
                for child in multiprocessing.active_children():
                    os.kill(child.pid, signal.SIGKILL)
    check_good(looked, paths)


def test_a_read_that_hangs_is_given_up(faults: Path) -> None:
    """R3: one file costs its time, not for ever; the others are read."""
    paths = add(faults, "hang")
    looked = misread(paths, timeout=1.5)
    check_good(looked, paths, but=(5,))
    assert (looked[5].reason, looked[5].detail) == ("decoder-timeout", "not read within 1.5 s")


def test_a_mistake_in_the_decoder_is_not_taken_for_a_bad_file(faults: Path) -> None:
    with pytest.raises(InceptcliError, match=r"bug\.png: ZeroDivisionError") as caught:
        misread(add(faults, "bug"))
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert "Traceback" in str(caught.value.__cause__)


def test_workers_that_cannot_start_are_a_resource_error(
    faults: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", b"/bin/false")
    with pytest.raises(ResourceError, match="die at their start"):
        misread(add(faults))


def test_memory_is_flat_over_many_paths(faults: Path) -> None:
    """Promise 5 of speed: paths are pulled only a little ahead of the results."""
    paths = sorted(faults.glob("*.png"))
    pulled = 0

    def references() -> Iterator[Path]:
        nonlocal pulled
        for pulled in range(2400):
            yield paths[pulled % len(paths)]

    resident = []
    for one in read(references(), SPEC, workers=2):
        assert pulled - one.index <= 2 * 16 + 1
        if one.index % 600 == 599:
            statistics = Path("/proc/self/statm")
            resident.append(int(statistics.read_text().split()[1]) if statistics.exists() else 0)
    assert one.index == 2399
    assert (resident[-1] - resident[0]) * 4096 < 5e6


def test_a_reader_serves_several_calls_with_the_same_processes(photos: Path) -> None:
    paths = sorted(photos.rglob("*.png"))
    with Reader(SPEC, workers=2) as reader:
        check_good(list(reader.read(paths)), paths)
        before = {child.pid for child in multiprocessing.active_children()}
        check_good(list(reader.read(paths)), paths)
        assert {child.pid for child in multiprocessing.active_children()} == before
    assert not multiprocessing.active_children()


def test_leaving_early_ends_the_processes(photos: Path) -> None:
    """As ``predict | head -1`` does."""
    results = read(sorted(photos.rglob("*.png")), SPEC, workers=2)
    assert next(results).index == 0
    assert multiprocessing.active_children()
    results.close()
    assert not multiprocessing.active_children()


def test_stopping_ends_a_read_that_hangs(faults: Path) -> None:
    stop = time.monotonic() + 1
    reader = Reader(
        SPEC, workers=1, look=reader_faults.look, stopping=lambda: time.monotonic() > stop
    )
    with reader, pytest.raises(StoppingError):
        list(reader.read(add(faults, "hang")))
    assert time.monotonic() < stop + 20
    with pytest.raises(StoppingError):
        list(Reader(SPEC, workers=0, stopping=lambda: True).read(add(faults)))


def test_workers_have_no_torch_and_one_thread(faults: Path) -> None:
    import torch

    assert torch
    looked = misread(add(faults, "modules"))
    assert looked[5].detail == "torch: False threads: 1"


def start(script: Path, code: str, *arguments: object) -> subprocess.Popen[str]:
    script.write_text(textwrap.dedent(code))
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_users_script_is_not_run_again_in_workers(faults: Path, tmp_path: Path) -> None:
    """A script without a guard, as people write them."""
    code = """
        import sys
        from pathlib import Path
        from inceptcli.data.reader import PixelSpec, read
        print("begin")
        print(sum(1 for _ in read(Path(sys.argv[1]).iterdir(), PixelSpec(32, "pad"), workers=2)))
    """
    process = start(tmp_path / "script.py", code, faults)
    assert process.communicate() == ("begin\n12\n", "")


READ_AND_HANG = """
    import multiprocessing, signal, sys
    from pathlib import Path
    import reader_faults
    from inceptcli.data.reader import PixelSpec, Reader, StoppingError
    stopped = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.append(1))
    paths = sorted(Path(sys.argv[1]).iterdir())
    reader = Reader(
        PixelSpec(32, "pad"), workers=2, look=reader_faults.look, stopping=lambda: stopped
    )
    try:
        for one in reader.read(paths):
            if one.index == 3:
                print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    except StoppingError:
        print("stopped", flush=True)
"""


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a decoding process lives on"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent_and_leave_signals_to_it(
    faults: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """S1, S4: the whole group gets the signal; that is a stop, not a crash. No orphans.

    SIGKILL goes to the parent alone, while one process hangs in a read.
    """
    add(faults, "hang")
    process = start(tmp_path / "script.py", READ_AND_HANG, faults)
    assert process.stdout
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    said, complaints = process.communicate(timeout=30)
    assert (said, complaints) == ("" if number == signal.SIGKILL else "stopped\n", "")
    assert process.returncode == (-9 if number == signal.SIGKILL else 0)
    wait_until_gone(pids)


def test_a_program_that_ends_by_an_error_ends_its_workers(faults: Path, tmp_path: Path) -> None:
    """The reader is still held by the traceback, one process hangs: the exit does not wait."""
    code = READ_AND_HANG.replace('print("stopped"', "raise SystemExit(3)  #").replace(
        "print(*(", "stopped.append(1); print(*("
    )
    add(faults, "hang")
    process = start(tmp_path / "script.py", code, faults)
    said, complaints = process.communicate(timeout=30)
    assert (process.returncode, complaints) == (3, "")
    wait_until_gone([int(word) for word in said.split()])


def test_machine_limits_are_sane(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= default_workers() <= (os.cpu_count() or 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "10000")
    assert default_workers() == 1
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert 1 << 20 < free_memory() < 1 << 50
    assert look(Path("/nowhere"), SPEC, False)[0].reason == "missing"
