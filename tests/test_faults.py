"""Faults that only whole commands can meet: memory, signals, pipes, disks, names, damaged data."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ROOT, draw
from inceptcli import console
from inceptcli.cli import main
from inceptcli.config import TrainConfig
from inceptcli.data.reader import Looked, PixelSpec, StoppingError
from inceptcli.engine import device as devices
from inceptcli.engine import infer
from inceptcli.engine import predict as prediction
from inceptcli.engine import run as engine
from inceptcli.engine import train as loop
from inceptcli.engine.guard import MAX_SKIPPED, Guard
from inceptcli.errors import DataError, DivergedError, ResourceError
from inceptcli.events import EpochDone, Event, Notice, Progress, StateSaved, Warned
from inceptcli.model.weights import load_weights

SMALL = ("--img-size", "32", "-b", "4", "-j", "0", "--group", "none", "--lr", "3e-4")
HOSTILE = ("\x1b]0;PWN\x07", "\x1b[2J", "\x9b31m", "\u202egpj", "[red]x[bold]", "[foo]", "a\nb")
# What a terminal obeys: C0 but tab and line feed, DEL, C1, marks that turn the direction.
ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# What Rich writes: colours, the cursor hidden and shown, a line cleared, a line up.
OWN = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[hl]|2K|[0-9]*A)|\r")


def call(*words: object) -> int:
    """The exit code of ``inceptcli WORDS`` in this process."""
    with pytest.raises(SystemExit) as stop:
        main([os.fspath(w) if isinstance(w, Path) else str(w) for w in words])
    return int(stop.value.code or 0)


def start(*words: object, **more: Any) -> subprocess.Popen[str]:
    """``inceptcli WORDS`` as a process of its own."""
    line = [sys.executable, "-m", "inceptcli", *map(str, words)]
    return subprocess.Popen(line, env=environment(), text=True, **more)


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"} | more


def settings(root: Path, output: Path, **more: Any) -> TrainConfig:
    base: dict[str, Any] = {"epochs": 2, "image_size": 32, "batch_size": 4, "workers": 0}
    return TrainConfig(root=root, output=output, group="none", **(base | more))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def contents(folder: Path) -> dict[str, bytes]:
    """Every regular file below a folder; names that are not UTF-8 stay as they are."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def draw_pairs(root: Path, count: int = 12) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for index in range(count):
            draw(root / name / f"{index:02d}.png", seed=100 * label + index, label=label)
    return root


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and cache lie in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two classes of 12 drawn pictures: five steps of four an epoch."""
    return draw_pairs(tmp_path / "pairs")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch; its photographs lie beside it. Tests do not change it."""
    place = tmp_path_factory.mktemp("trained")
    config = settings(draw_pairs(place / "pairs"), place / "run", epochs=1, cache="ram")
    engine.run(config)
    return place / "run"


@pytest.fixture(scope="module")
def weights(trained: Path) -> Path:
    return trained / "best_model.pth"


def hook(monkeypatch: pytest.MonkeyPatch, act: Callable[[Event], None]) -> None:
    """Let ``act`` see every event of the next command before it is shown."""
    show = console.Listener._show

    def both(self: console.Listener, event: Event) -> None:
        act(event)
        show(self, event)

    monkeypatch.setattr(console.Listener, "_show", both)


# ---- resources


def no_cuda_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


@pytest.mark.parametrize(
    "fail",
    [
        no_cuda_memory,
        lambda: torch.empty(10**15),  # the real error of the CPU's allocator
        lambda: np.empty(10**15),  # numpy's MemoryError
    ],
)
def test_the_end_of_memory_is_exit_7_with_a_smaller_batch(
    fail: Callable[[], object], pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R4: the last good state is kept, and the step's tensors are let go."""
    step = loop.train_step

    def heavy(training: Any, batch: Any, *, total: int) -> Any:
        if training.progress.step == 2:
            fail()
        return step(training, batch, total=total)

    monkeypatch.setattr(loop, "train_step", heavy)
    with pytest.raises(ResourceError, match=r"epoch 1, step 3.*--resume run .*-b 2$") as caught:
        engine.run(settings(pairs, Path("run"), save_minutes=0))
    assert caught.value.exit_code == 7
    assert caught.value.__context__ is None  # it would hold the frames and their tensors
    saved, problems = engine.resume.load(Path("run"))
    assert ((saved.progress.epoch, saved.progress.step), problems) == ((1, 2), [])


def test_the_end_of_memory_in_any_command_is_exit_7(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """R4."""
    monkeypatch.setattr(infer.Classifier, "logits", lambda *_: no_cuda_memory())
    assert call("predict", weights.parents[1] / "pairs", "-r", "-m", weights, "-j", 0) == 7
    assert "error: not enough memory" in capsys.readouterr().err


def test_a_device_that_is_not_here(
    pairs: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """R6: asked for by name it is exit 7; auto takes the CPU and says so."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert call("train", pairs, "--device", "cuda", "-o", "run") == 7
    assert "--device cuda" in capsys.readouterr().err
    assert not Path("run").exists()
    assert devices.choose_device("auto", "fp32").torch_device.type == "cpu"
    assert call("train", pairs, *SMALL, "--dry-run") == 0
    assert "computing on cpu" in capsys.readouterr().err
    for words in (("predict", pairs / "cat"), ("evaluate", pairs, "--role", "all")):
        assert call(*words, "-m", weights, "-j", 0) == 0
        assert "computing on cpu in " in capsys.readouterr().err


def predict_at_once(weights: Path, count: int) -> None:
    photos = weights.parents[1] / "pairs"
    words = ("predict", photos, "-r", "-m", weights, "-j", 0, "--jsonl", "--csv", "all.csv")
    crowd = [start(*words, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        answers = [process.communicate(timeout=1500)[0] for process in crowd]
    finally:
        for process in crowd:
            process.kill()
            process.communicate()
    assert [process.returncode for process in crowd] == [0] * count
    assert len(answers[0].splitlines()) == 24
    assert len(set(answers)) == 1
    assert len(read(Path("all.csv"))) == 24
    assert not list(Path().glob(".*.tmp"))


def test_several_predict_at_once(weights: Path) -> None:
    """R7, short form: the same answers from each, one whole CSV, no temporary file left."""
    predict_at_once(weights, 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_predict_at_once(weights: Path) -> None:
    """R7."""
    predict_at_once(weights, 30)


def growth_over(pairs: Path, epochs: int, settled: int) -> tuple[float, int]:
    """Growth of the resident memory, as a part, and of descriptors after ``settled`` epochs."""
    seen: list[tuple[int, int]] = []

    def look(event: Event) -> None:
        if isinstance(event, EpochDone):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen.append((pages, len([*Path("/proc/self/fd").iterdir()])))

    engine.run(settings(pairs, Path("run"), epochs=epochs, cache="ram"), emit=look)
    (pages, open_files), (last_pages, last_open_files) = seen[settled], seen[-1]
    return last_pages / pages - 1, last_open_files - open_files


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_and_descriptors_stay_flat(tmp_path: Path) -> None:
    """R7, short form."""
    growth, files = growth_over(draw_pairs(tmp_path / "few", 6), epochs=6, settled=2)
    assert growth < 0.1
    assert files == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_and_descriptors_stay_flat_over_300_epochs(tmp_path: Path) -> None:
    """R7."""
    growth, files = growth_over(draw_pairs(tmp_path / "few", 6), epochs=300, settled=10)
    assert growth < 0.05
    assert files == 0


# ---- signals and pipes


@pytest.mark.parametrize(
    ("during", "signum"),
    [("reading photographs", signal.SIGINT), ("evaluating the best weights", signal.SIGTERM)],
)
def test_a_signal_outside_the_epochs(
    during: str,
    signum: signal.Signals,
    pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """S3: during the scan and the final evaluation: one line, no half file, and it can go on."""

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.task == during:
            os.kill(os.getpid(), signum)

    before = contents(pairs)
    monkeypatch.setattr("inceptcli.data.cache._PROGRESS_SECONDS", 0)
    with monkeypatch.context() as patch:
        hook(patch, stop)
        assert call("train", pairs, "--epochs", 1, *SMALL, "-o", "run") == 128 + signum
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1].startswith("error: stopped ")
    assert "Traceback" not in errors
    assert contents(pairs) == before
    assert not list(Path().rglob("*.tmp"))
    if during == "reading photographs":
        assert not Path("run").exists()
    else:
        assert not Path("run/metrics.json").exists()
        assert call("train", "--resume", "run") == 0
        assert Path("run/metrics.json").exists()


SLOW_STEP = """
import sys, time
from inceptcli.cli import main
from inceptcli.engine import train
step = train.train_step
def slow(training, batch, *, total):
    if training.progress.step == 2:
        print("in a long step", flush=True)
        time.sleep(120)
    return step(training, batch, total=total)
train.train_step = slow
main(sys.argv[1:])
"""


def test_predict_that_waits_for_names_ends_at_a_signal(weights: Path) -> None:
    """S3: a thread that reads stdin could not be ended, so none does."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = start("predict", "-", "-m", weights, "-j", 0, **pipes)
    assert process.stderr is not None
    while "computing on" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130  # stdin is still open
    assert "Traceback" not in process.communicate()[1]


def test_leaving_a_prediction_ends_the_reading_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, told = threading.Event(), threading.Event()

    def read(paths: Iterable[Path], _: PixelSpec, **more: Any) -> Iterator[Looked]:
        for number, path in enumerate(paths):
            if number == prediction.BATCH_SIZE:
                begun.set()
                while not more["stopping"]():
                    time.sleep(0.01)
                told.set()
                raise StoppingError
            yield Looked(number, np.zeros((2, 2, 3), np.uint8), None, None, path.name)

    monkeypatch.setattr(prediction, "read", read)
    network: Any = SimpleNamespace(
        memory=None, temperature=1.0, outputs=("a",), spec=PixelSpec(2, "stretch")
    )
    inputs = [prediction.Input(str(number)) for number in range(99)]
    answer = lambda pixels: np.zeros((len(pixels), 1), np.float32)  # noqa: E731
    rows = prediction.predict(inputs, network, answer, prediction.Question())
    assert next(rows).path == "0"
    assert begun.wait(10)
    rows.close()
    assert told.is_set()


def test_a_second_signal_ends_at_once(pairs: Path) -> None:
    """S3: 130 without waiting for the step; the state that was saved before is valid."""
    words = ("train", pairs, *SMALL, "--save-minutes", 0, "-o", "run")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_STEP, *map(str, words)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "in a long step" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)  # two signals at the same moment are one
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)  # the step would take 120
    assert process.returncode == 130
    assert "Traceback" not in errors
    saved, problems = engine.resume.load(Path("run"))
    assert ((saved.progress.epoch, saved.progress.step), problems) == ((1, 2), [])


@pytest.mark.parametrize(
    ("module", "signum"), [("typing_extensions", signal.SIGINT), ("torch._", signal.SIGTERM)]
)
def test_a_signal_while_modules_are_imported(
    module: str, signum: signal.Signals, pairs: Path
) -> None:
    """S3: at once, one line, no traceback: neither the program's own modules nor torch's."""
    words = [sys.executable, "-X", "importtime", "-m", "inceptcli", "train", str(pairs)]
    process = subprocess.Popen(
        words,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:  # a line when a module is there, and those it needs before it
        if line.rpartition("|")[2].strip().startswith(module):
            process.send_signal(signum)
            break
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert [line for line in rest.splitlines() if "import time:" not in line] == ["error: stopped"]
    assert not Path("runs").exists()


def test_a_signal_gives_predict_up_cleanly(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """S3: 143, one line, the CSV file of before stays, no temporary one."""
    Path("rows.csv").write_text("mine")
    softmax = prediction.softmax

    def stopped(*words: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return softmax(*words)

    monkeypatch.setattr(prediction, "softmax", stopped)
    before = signal.getsignal(signal.SIGTERM)
    photos = weights.parents[1] / "pairs" / "cat"
    assert call("predict", photos, "-m", weights, "-j", 1, "--csv", "rows.csv") == 143
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: stopped; ")
    assert {path.name for path in Path().iterdir()} <= {"rows.csv", "cache"}
    assert Path("rows.csv").read_text() == "mine"
    assert signal.getsignal(signal.SIGTERM) is before


IN_A_WRITE = """
import os, signal, sys
from inceptcli import files
from inceptcli.cli import main
write, seen = files.system.write, [0]
def stopped(descriptor, data):
    if len(data) > 40_000_000:  # the third state
        seen[0] += 1
        if seen[0] == 3:
            write(descriptor, data[:1000])
            for _ in range(int(sys.argv[1])):
                os.kill(os.getpid(), signal.SIGINT)
            return 1000
    return write(descriptor, data)
files.system.write = stopped
main(sys.argv[2:])
"""


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_while_a_state_is_written(times: int, pairs: Path) -> None:
    """S3: one lets it be finished; a second ends there, and the state before it is used."""
    words = ("train", pairs, *SMALL, "--save-minutes", 0, "-o", "run")
    line = [sys.executable, "-c", IN_A_WRITE, times, *words]
    done = subprocess.run(
        [*map(str, line)], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    saved, problems = engine.resume.load(Path("run"))
    where = (saved.progress.epoch, saved.progress.step)
    assert (where, problems) == ((1, 3) if times == 1 else (1, 2), [])
    assert len([*Path("run").glob("*.tmp")]) == times - 1
    if times == 2:
        assert call("train", "--resume", "run", "--epochs", 1, "--allow-change") == 0
        assert not [*Path("run").glob(".*")]


def children(pid: int) -> list[int]:
    return [int(part) for part in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_signal_while_waiting_for_killed_workers(pairs: Path) -> None:
    """S4: the dead decoding processes count as nothing, the signal as the stop."""
    words = ("train", pairs, *SMALL[:4], "--group", "none", "-j", 2, "--cache", "none")
    process = start(*words, "--epochs", 500, "-o", "run", stderr=subprocess.PIPE)
    for _ in range(1200):
        if Path("run/last.pth").exists():
            break
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)  # so that it finds both at once
    for child in children(process.pid):
        os.kill(child, signal.SIGKILL)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    assert "go on with" in errors.splitlines()[-1]
    engine.resume.load(Path("run"))


def test_a_stop_asked_for_while_a_batch_is_decoded_saves_the_state(
    pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S4: uncached, in this process: the signal comes between two files of a batch."""
    from inceptcli.data import reader

    opened, count = reader.look, [0]

    def look(*words: Any) -> Any:
        count[0] += 1
        if count[0] == 24 + 10:  # the scan has looked at each once
            os.kill(os.getpid(), signal.SIGTERM)
        return opened(*words)

    monkeypatch.setitem(reader.Reader.__init__.__kwdefaults__, "look", look)
    assert call("train", pairs, *SMALL, "--cache", "none", "-o", "run") == 143
    saved, _ = engine.resume.load(Path("run"))
    assert (saved.progress.epoch, saved.progress.step) > (0, 0)


def test_predict_into_a_pipe_that_closes(weights: Path) -> None:
    """S5: silent, 141."""
    photos = weights.parents[1] / "pairs"
    words = ("predict", *[photos] * 200, "-r", "-m", weights, "-j", 0)
    process = start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().count("\t") == 2
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=100) == 141
    assert [line.split()[0] for line in errors.splitlines()] == ["weights:", "computing"]


def shell(line: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run ``inceptcli WORDS`` where the shell puts ``"$@"`` in ``line``."""
    command = ["sh", "-c", line, "sh", sys.executable, "-m", "inceptcli", *map(str, words)]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_stdout_closed_or_full(weights: Path) -> None:
    """S5: closed it is no fault; full is exit 5 with a line."""
    words = ("predict", weights.parents[1] / "pairs" / "cat", "-m", weights, "-j", 0)
    closed = shell('exec "$@" >&-', *words, "--csv", "rows.csv")
    assert closed.returncode == 0, closed.stderr
    assert len(read(Path("rows.csv"))) == 12
    full = shell('exec "$@" > /dev/full', *words)
    assert full.returncode == 5
    assert full.stderr.splitlines()[2:] == [
        "error: cannot write the results: No space left on device"
    ]


def test_a_closed_log_never_stops_a_training(pairs: Path) -> None:
    """S5: as ``test_a_full_log_never_stops_a_training``, but nobody was to be told."""
    done = shell('exec "$@" >&- 2>&-', "train", pairs, "--epochs", 1, *SMALL, "-o", "run")
    assert done.returncode == 0
    assert len(read(Path("run/history.csv"))) == 1
    assert Path("run/metrics.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_log_never_stops_a_training(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W3: every epoch is trained and saved; that the last figures were not told is exit 5."""
    words = ("train", pairs, "--epochs", 2, *SMALL, "-o", "run")
    with open("/dev/full", "w") as out, open("/dev/full", "w") as err:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            assert call(*words) == 5
        os.dup2(os.open(os.devnull, os.O_WRONLY), err.fileno())  # it can be closed now
    assert len(read(Path("run/history.csv"))) == 2
    assert Path("run/metrics.json").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("train", "pairs", "--epochs", "0"), "--epochs"),
        (("train", "pairs", "--epochs", "-1"), "--epochs"),
        (("train", "pairs", "--epochs", "1e9"), "--epochs"),
        (("train", "pairs", "--epochs", "1000000000"), "--epochs"),
        (("train", "pairs", "--lr", "nan"), "--lr"),
        (("train", "pairs", "--lr", "inf"), "--lr"),
        (("train", "pairs", "--lr", "-1"), "--lr"),
        (("train", "pairs", "-b", "0"), "--batch-size"),
        (("train", "pairs", "-b", "1"), "--batch-size"),
        (("train", "pairs", "-j", "-1"), "--workers"),
        (("train", "pairs", "--max-bad", "nan"), "--max-bad"),
        (("train", "pairs", "--ratio", "nan,0.5,0.5"), "--ratio"),
        (("train", "pairs", "--ratio", "0.8,x"), "--ratio"),
        (("train", "pairs", "--save-minutes", "nan"), "--save-minutes"),
        (("train", "pairs", "--warmup-epochs", "inf"), "--warmup-epochs"),
        (("train", "pairs", "--device", "tpu"), "--device"),
        (("train", "pairs", "--precision", "fp8"), "--precision"),
        (("train", "--resume", "RUN", "--overwrite"), "--overwrite"),
        (("train", "pairs", "--name", "../x"), "--name"),
        (("train", "pairs", "--name", ".."), "--name"),
        (("split", "pairs", "--ratio", "0.9,inf"), "--ratio"),
        (("predict", "pairs", "-m", "WEIGHTS", "--threshold", "nan"), "--threshold"),
        (("predict", "pairs", "-m", "WEIGHTS", "--max-megapixels", "nan"), "--max-megapixels"),
        (("predict", "pairs", "-m", "WEIGHTS", "--max-megapixels", "0"), "--max-megapixels"),
        (("predict", "pairs", "-m", "WEIGHTS", "-j", "-1"), "--workers"),
        (("predict", "pairs", "-m", "WEIGHTS", "-k", "0"), "--topk"),
        (("predict", "pairs", "-m", "WEIGHTS", "--device", "tpu"), "--device"),
        (("evaluate", "pairs", "-m", "WEIGHTS", "--max-bad", "2"), "--max-bad"),
        (("evaluate", "pairs", "-m", "WEIGHTS", "--map", "cat"), "--map"),
        (("evaluate", "pairs", "-m", "WEIGHTS", "--device", "tpu"), "--device"),
        (("summary", "-b", "0"), "--batch-size"),
        (("summary", "WEIGHTS", "--img-size", "64"), "--img-size"),
        (("split", "pairs", "--link", "copy"), "--link"),
        (("predict", "pairs", "-m", "WEIGHTS", "--link", "hardlink"), "--link"),
    ],
)
def test_bad_options_are_named(
    words: tuple[str, ...],
    named: str,
    trained: Path,
    pairs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """S7."""
    assert pairs.name == "pairs"
    places = {"RUN": trained, "WEIGHTS": trained / "best_model.pth"}
    assert call(*(places.get(word, word) for word in words)) == 2
    lines = capsys.readouterr().err.splitlines()
    (error,) = [line for line in lines if not line.startswith(("weights: ", "computing on "))]
    assert error.startswith("error: ")
    assert named in error
    assert [path.name for path in Path().iterdir()] == ["pairs"]


def test_a_name_too_long_for_a_file_is_a_row(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """P1."""
    for count in (1, 2):
        assert call("predict", *["x" * 5000] * count, "-m", weights, "-j", 0, "--jsonl") == 3
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert ["File name too long" in row["error"] for row in rows] == [True] * count


# ---- writing

FULL_DISK = """
mount -t tmpfs -o size=$1 tmpfs disk || exit 77
shift
"$@"; echo "first $?"
mount -o remount,size=1g disk
python=$1
"$python" -m inceptcli train --resume disk/run; echo "second $?"
ls disk/run > left.txt; cp disk/run/history.csv .
"""


def test_a_disk_that_is_really_full(pairs: Path) -> None:
    """W2: a warning, then exit 5 with the bytes; with room again the training goes on."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a mount namespace")
    Path("disk").mkdir()
    words = ("train", pairs, "--epochs", 2, *SMALL, "-o", "disk/run")
    # Room for the weights and one state and a half.
    state = 27_900_000 + 84_000_000
    line = ["unshare", "-m", "sh", "-c", FULL_DISK, "sh", str(state + 42_000_000), sys.executable]
    done = subprocess.run(
        [*line, "-m", "inceptcli", *map(str, words)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("needs the right to mount a tmpfs")
    assert "first 5\n" in done.stdout, done.stderr
    assert "warning: not saved; training goes on and tries again: cannot write" in done.stderr
    error = next(e for e in done.stderr.splitlines() if e.startswith("error: "))
    assert re.search(r"No space left on device \(needs [\d.]+ MB, [\d.]+ MB free\)", error)
    assert "second 0\n" in done.stdout
    assert [row["epoch"] for row in read(Path("history.csv"))] == ["1", "2"]
    assert ".tmp" not in Path("left.txt").read_text()


def test_an_output_that_cannot_be_is_refused_before_the_scan(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """W4."""

    def look(event: Event) -> None:
        raise AssertionError(f"{event} came before the refusal")

    Path("file").write_text("mine")
    hook(monkeypatch, look)
    for output in ("file", "file/run"):
        assert call("train", pairs, *SMALL, "-o", output) == 5
        assert f"cannot write {output.removesuffix('/run')}" in capsys.readouterr().err
    assert Path("file").read_text() == "mine"


def test_a_second_training_in_the_same_folder(
    pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """W6: exit 5 at once that names the process; the first is unharmed."""
    words = ("train", pairs, *SMALL, "--save-minutes", 0, "-o", "run")
    first = start(*words, "--epochs", 500, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if Path("run/last.pth").exists():
            break
        assert first.poll() is None
        time.sleep(0.05)
    for more in ((), ("--overwrite",)):
        assert call(*words, *more) == 5
    assert call("train", "--resume", "run") == 5
    errors = capsys.readouterr().err
    assert errors.count(f"in use by process {first.pid} ") == 3
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=60) == 143
    engine.resume.load(Path("run"))


# ---- damaged and changing data


def damage(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).write_bytes(b"<html>Not Found</html>")


def test_too_many_bad_photographs_end_before_the_first_step(
    pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """I15: 30 % bad, then a class of bad ones only: 3, the reasons counted, no run folder."""
    damage(pairs, [f"{name}/{i:02d}.png" for name in ("cat", "dog") for i in range(4)])
    before = contents(pairs)
    assert call("train", pairs, *SMALL, "-o", "run") == 3
    assert "8 of 24 files cannot be used (8 not-an-image)" in capsys.readouterr().err
    damage(pairs, [f"cat/{i:02d}.png" for i in range(4, 12)])
    assert call("train", pairs, *SMALL, "--max-bad", 1, "-o", "run") == 3
    assert "cat" in capsys.readouterr().err
    assert not Path("run").exists()
    assert contents(pairs).keys() == before.keys()


def test_bad_photographs_below_the_limit_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """I15, P2: counted in the console, rejected.csv and JSON; evaluate counts them as wrong."""
    root = draw_pairs(tmp_path / "pairs", 21)
    damage(root, ["cat/00.png", "dog/01.png"])
    before = contents(root)
    assert call("train", root, "--epochs", 1, *SMALL, "-o", "run") == 0
    assert "warning: 2 of 42 files cannot be used (2 not-an-image)" in capsys.readouterr().err
    rows = read(Path("run/rejected.csv"))
    assert [(r["path"], r["reason"]) for r in rows] == [
        (name, "not-an-image") for name in ("cat/00.png", "dog/01.png")
    ]
    assert json.loads(Path("run/metrics.json").read_text())["val"]["rejected"] == 2
    words = ("evaluate", root, "-m", "run/best_model.pth", "--role", "all")
    assert call(*words, "--json", "--strict") == 8
    figures = json.loads(capsys.readouterr().out)
    assert (figures["images"], figures["rejected"]) == (40, 2)
    right = np.trace(figures["confusion"])
    assert figures["accuracy"] == right / 40
    assert figures["accuracy_counting_rejected"] == pytest.approx(right / 42)
    assert call(*words) == 0
    assert "accuracy, 2 unreadable files as wrong" in capsys.readouterr().out
    assert contents(root) == before


def test_photographs_that_vanish_during_training(tmp_path: Path) -> None:
    """D13: told once, left out, replaced by none; a step of one image left is left out."""
    root, warned = draw_pairs(tmp_path / "pairs", 24), []
    trained_on: list[list[int]] = []
    step = loop.train_step

    def seen(training: Any, batch: Any, *, total: int) -> Any:
        trained_on.append(batch.indices.tolist())
        return step(training, batch, total=total)

    def emit(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 1:
            with (root / "cat" / "05.png").open("r+b") as file:
                file.truncate(100)
            (root / "dog" / "07.png").unlink()
            trained_on.clear()
        if isinstance(event, Warned):
            warned.append(event.text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", seen)
        config = settings(root, tmp_path / "run", batch_size=3, cache="none", ratio=(0.9, 0.1))
        result = engine.run(config, emit=emit)
    used = [index for batch in trained_on for index in batch]
    lost = {5, 24 + 7}
    roles = result.photos.roles
    assert sorted(used) == [i for i in np.flatnonzero(roles == "train") if i not in lost]
    assert len(warned) >= 1
    assert all("gone, changed or unreadable since" in text for text in warned)


def test_a_disk_that_goes_away_ends_the_training_before_it_is_saved(pairs: Path) -> None:
    """D13: all photographs gone is exit 3, and the state of before stays."""

    def emit(event: Event) -> None:
        if isinstance(event, StateSaved) and event.epoch == 2:
            pairs.rename(pairs.with_name("gone"))

    with pytest.raises(DataError, match=r"^gone, .*: \d+ photographs.*--resume run"):
        engine.run(settings(pairs, Path("run"), cache="none"), emit=emit)
    saved, _ = engine.resume.load(Path("run"))
    assert (saved.progress.epoch, saved.progress.step) == (2, 0)


def awkward(root: Path) -> Path:
    """A folder with most of what can be odd about one, and enough good pictures to train."""
    draw_pairs(root)
    source = (root / "cat" / "00.png").read_bytes()
    for ignored in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git"):
        (root / ignored).mkdir()
        (root / ignored / "valid.png").write_bytes(source)
    for other in ("._a.png", "Thumbs.db", ".DS_Store", "desktop.ini", "labels.csv", "notes.txt"):
        (root / "cat" / other).write_bytes(b"\0")
    names = [*(f"{name}.png" for name in HOSTILE), "-rf.png", "n" * 251 + ".png"]
    for index, name in enumerate(names):
        draw(root / "dog" / "x.png", seed=500 + index, label=1).rename(root / "dog" / name)
    raw = os.fsencode(root / "cat") + b"/caf\xe9.png"
    draw(root / "cat" / "y.png", seed=600, label=0).rename(Path(os.fsdecode(raw)))
    third = Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9 \x1b[2J[red]"))
    for index in range(12):
        draw(third / f"{index}.png", seed=700 + index, label=2)
    os.mkfifo(root / "cat" / "pipe.jpg")
    return root


def assert_calm(text: str) -> None:
    """No traceback, and nothing that a terminal obeys but this program's own colours."""
    assert "Traceback" not in text
    assert ACTS.search(OWN.sub("", text)) is None


@pytest.fixture(scope="module")
def awkward_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run on ``awkward`` photographs with forced colours, what it printed on stdout, stderr."""
    place = tmp_path_factory.mktemp("awkward")
    root = awkward(place / "photos")
    before = contents(root)
    words = ("train", root, "--epochs", 1, *SMALL, "--max-bad", 0.1, "-o", place / "run")
    line = [sys.executable, "-m", "inceptcli", *map(str, words)]
    more = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "INCEPTCLI_CACHE": str(place / "cache")}
    done = subprocess.run(
        line, env=environment(**more), capture_output=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert contents(root) == before
    return place / "run", done.stdout.decode(), done.stderr.decode()


def test_an_awkward_folder_is_trained_on(awkward_run: tuple[Path, str, str]) -> None:
    """D1, D2, D4, D10: the classes are right, all files valid UTF-8, the pipe is counted."""
    run, _, errors = awkward_run
    plain = OWN.sub("", errors)
    for ignored in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git"):
        assert plain.count(ignored) == 1
    assert "not images" in plain
    assert [row["reason"] for row in read(run / "rejected.csv")] == ["not-a-regular-file"]
    for name in ("split.csv", "predictions.csv", "history.csv"):
        read(run / name)
    figures = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["val"]
    assert len(figures["classes"]) == 3
    assert len(read(run / "split.csv")) == 12 + 12 + 12 + len(HOSTILE) + 2 + 1


def test_names_cannot_act_on_the_terminal_in_train(awkward_run: tuple[Path, str, str]) -> None:
    """O3: with forced colours, on stdout and stderr."""
    run, output, errors = awkward_run
    assert_calm(output)
    assert_calm(errors)
    assert OWN.sub("", output).splitlines()[-1] == str(run)


@pytest.mark.parametrize("colour", [True, False])
def test_names_cannot_act_on_the_terminal_in_predict(
    colour: bool,
    awkward_run: tuple[Path, str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """O2, O3: escaped on the terminal, markup literal; JSON and CSV give the raw name back."""
    from inceptcli.files import uncell

    if colour:
        monkeypatch.setenv("FORCE_COLOR", "1")
    run, _, _ = awkward_run
    folder = run.parent / "photos" / "dog"
    formulas = [draw(Path(f"{c}1+1.png"), seed=1, label=1) for c in "=+-@\t"]
    words = ("-m", run / "best_model.pth", "-k", 3, "-j", 0)
    inputs = [folder, *(Path.cwd() / path for path in formulas), "nowhere\x1b[2J[/foo].png"]
    assert call("predict", *inputs, *words, "--csv", "rows.csv") == 8
    shown = capsys.readouterr()
    assert_calm(shown.out)
    assert_calm(shown.err)
    plain = OWN.sub("", shown.out)
    assert "[red]x[bold].png" in plain
    assert r"nowhere\x1b[2J[/foo].png" in plain
    assert r"\x1b[2J.png" in plain
    assert call("predict", *inputs, *words, "--jsonl") == 8
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = read(Path("rows.csv"))
    assert [uncell(row["path"]) for row in rows] == [answer["path"] for answer in answers]
    assert str(folder / "\x1b[2J.png") in [answer["path"] for answer in answers]
    names = {uncell(row["class"]) for row in rows if row["class"]}
    assert names <= {"cat", "dog", "caf\udce9 \x1b[2J[red]"}


def test_evaluate_shows_awkward_names_calmly(
    awkward_run: tuple[Path, str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """O3: also the table of mistakes, the confusion matrix, split's and summary's tables."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    run, _, _ = awkward_run
    photos, weights = run.parent / "photos", run / "best_model.pth"
    for words in (
        ("evaluate", photos, "-m", weights, "--role", "all", "--max-bad", 0.1, "-j", 0),
        ("split", photos, "--max-bad", 0.1, "-j", 0, "--img-size", 32, "--check"),
        ("summary", weights),
    ):
        assert call(*words) == 0
        shown = capsys.readouterr()
        assert_calm(shown.out)
        assert_calm(shown.err)
        assert r"caf\udce9" in shown.out


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: draw(root / "a.png", seed=1, label=1), "cat/   1.jpg"),
        (lambda root: root, "photos"),
        (lambda root: root.write_text("a file"), "photos"),
        (lambda root: draw_pairs(root) and shutil.rmtree(root / "dog"), "cat"),
        (lambda root: draw_pairs(root) and (root / "eel").mkdir(), "eel"),
    ],
)
def test_a_layout_that_cannot_be_learned_from(
    make: Callable[[Path], object],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """D6, D7: exit 3, no run folder."""
    make(tmp_path / "photos")
    assert call("train", tmp_path / "photos", *SMALL, "-o", "run") == 3
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert said in errors
    assert not Path("run").exists()


def test_role_folders_are_roles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """D8: train, valid and test beside each other are never classes."""
    for role in ("train", "valid", "test"):
        draw_pairs(tmp_path / "laid" / role, 4)
    assert call("split", tmp_path / "laid", "-j", 0, "--group", "none", "--json") == 0
    counts = json.loads(capsys.readouterr().out)
    assert list(counts["classes"]) == ["cat", "dog"]
    assert counts["roles"] == {"train": 8, "val": 8, "test": 8}
    assert call("train", tmp_path / "laid", "--epochs", 1, *SMALL, "-o", "run") == 0
    assert {row["role"] for row in read(Path("run/split.csv"))} == {"train", "val", "test"}


@pytest.mark.parametrize("corpus", ["pngsuite", "exif-orientation"])
def test_the_corpora_are_predicted(
    corpus: str, shared_dir: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """I14: every file is a row: a class, or one reason of the closed list."""
    from inceptcli.data.image import Reason

    folder = shared_dir / "corpora" / corpus
    before = contents(folder)
    code = call("predict", folder, "-r", "-m", weights, "-j", 1, "--jsonl")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    bad = [row for row in rows if row["error"]]
    assert {row["error"].split(":")[0] for row in bad} <= {str(reason) for reason in Reason}
    not_good = {path for path in folder.rglob("*") if re.match("x.*png|README|LICENSE", path.name)}
    assert {Path(row["path"]) for row in bad} == not_good & {Path(row["path"]) for row in rows}
    assert code == (8 if bad else 0)
    assert contents(folder) == before


# ---- evaluate: the classes of the model and of the data


def test_evaluate_maps_classes_by_name(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """K6: a class unknown to the model is exit 3 with both lists; one absent is only said."""
    photos = weights.parents[1] / "pairs"
    assert call("evaluate", photos, "-m", weights, "--role", "all", "-j", 0, "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    shutil.copytree(photos / "dog", tmp_path / "one" / "dog")
    assert call("evaluate", tmp_path / "one", "-m", weights, "-j", 0, "--json") == 0
    output = capsys.readouterr()
    assert "classes of the model without a photograph here: cat" in output.err
    assert json.loads(output.out)["confusion"][1] == whole["confusion"][1]
    (tmp_path / "one" / "dog").rename(tmp_path / "one" / "hound")
    assert call("evaluate", tmp_path / "one", "-m", weights, "-j", 0, "-o", "out") == 3
    error = capsys.readouterr().err
    assert "does not know hound; it knows cat, dog, the data have hound" in error
    assert not Path("out").exists()
    shutil.copytree(photos / "cat", tmp_path / "one" / "cat")
    for path in (tmp_path / "one" / "hound").iterdir():
        path.unlink()
    assert call("evaluate", tmp_path / "one", "-m", weights, "-j", 0) == 0  # an empty class
    plain = tmp_path / "plain.pth"
    torch.save(load_weights(weights).state_dict, plain)
    assert call("evaluate", tmp_path / "one", "-m", plain, "-j", 0) == 3
    assert "does not say which classes its 2 outputs are" in capsys.readouterr().err


# ---- numbers


def same_weights(one: Path, other: Path) -> bool:
    states = [torch.load(run / "last.pth", weights_only=True) for run in (one, other)]
    ours, theirs = (state["model"] for state in states)
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_order_in_which_a_folder_is_listed_changes_nothing(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N2: os.scandir shuffled: equal; another seed: different."""
    photos, scandir, dice = trained.parent / "pairs", os.scandir, random.Random(3)

    class Shuffled:
        def __init__(self, path: Any = ".") -> None:
            with scandir(path) as entries:
                self._entries = list(entries)
            dice.shuffle(self._entries)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self._entries)

        def __exit__(self, *_: object) -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", Shuffled)
        engine.run(settings(photos, Path("shuffled"), epochs=1, cache="none"))
    assert same_weights(trained, Path("shuffled"))
    engine.run(settings(photos, Path("other"), epochs=1, seed=43))
    assert not same_weights(trained, Path("other"))


@pytest.mark.slow
def test_the_hash_seed_changes_nothing(trained: Path) -> None:
    """N2: PYTHONHASHSEED differs between two processes: equal."""
    for seed in ("1", "4711"):
        words = ("train", trained.parent / "pairs", "--epochs", 1, *SMALL, "-o", seed)
        line = [sys.executable, "-m", "inceptcli", *map(str, words)]
        subprocess.run(line, env=environment(PYTHONHASHSEED=seed), check=True)
    assert same_weights(Path("1"), Path("4711"))


def test_a_resume_on_other_threads_says_so_once(
    pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N3."""

    def stop(event: Event) -> None:
        if isinstance(event, StateSaved):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(settings(pairs, Path("run"), epochs=1, save_minutes=0), emit=stop)
    here = engine.resume.surroundings
    monkeypatch.setattr(engine.resume, "surroundings", lambda on: here(on) | {"threads": 77})
    told: list[Event] = []
    config = settings(pairs, Path("run"), epochs=1, save_minutes=0)
    engine.run(config, resuming=True, emit=told.append)
    texts = [event.text for event in told if isinstance(event, Notice)]
    (said,) = [text for text in texts if "not bit-exact" in text]
    assert said.endswith(f"threads {torch.get_num_threads()} -> 77")


def test_a_figure_that_is_not_finite_is_never_the_best(
    pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N5: a NaN in the first validation gives way; NaNs in all are exit 6."""
    validate = loop.validate

    def unsure(bad: set[int]) -> Callable[[Any], loop.Validation]:
        def wrong(training: Any) -> loop.Validation:
            nan = float("nan")
            if training.progress.epoch in bad:
                return loop.Validation(nan, 1.0, (1.0, nan))
            return validate(training)

        return wrong

    monkeypatch.setattr(loop, "validate", unsure({1}))
    assert engine.run(settings(pairs, Path("run"))).best_epoch == 2
    monkeypatch.setattr(loop, "validate", unsure({1, 2}))
    with pytest.raises(DivergedError, match="no epoch has a finite val loss"):
        engine.run(settings(pairs, Path("other"), epochs=1))


def test_overflowing_fp16_steps_have_a_limit() -> None:
    """N5: skipped steps in a row are counted; one too many is exit 6, and good ones reset it."""
    good, bad = torch.tensor(1.0), torch.tensor(float("inf"))
    guard = Guard("fp16")
    for step, loss in enumerate([*[bad] * MAX_SKIPPED, good, *[bad] * MAX_SKIPPED], start=1):
        guard.note(1, step, loss)
        guard.check()
    guard.note(1, 99, bad)
    with pytest.raises(DivergedError, match="step 99"):
        guard.check()


# ---- no network


def test_no_command_uses_the_network(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Promise 7: summary, split, train, evaluate and predict, with sockets that raise."""
    connect, tried = socket.socket.connect, []

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            tried.append(address)
            raise AssertionError(f"tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: refuse(socket.socket(), a))
    with pytest.raises(AssertionError, match="tried to reach"), socket.socket() as probe:
        probe.connect(("127.0.0.1", 9))
    tried.clear()
    assert call("summary") == 0
    assert call("split", pairs, "-o", "split.csv", "-j", 0) == 0
    assert call("train", pairs, "--epochs", 1, *SMALL, "--split", "split.csv", "-o", "run") == 0
    assert call("evaluate", "-m", "run/best_model.pth", "-j", 0) == 0
    assert call("predict", pairs / "cat", "-m", "run/best_model.pth", "-j", 1) == 0
    assert call("export", "-m", "run/best_model.pth", "-o", "w.safetensors") == 0
    assert call("runs", ".") == 0
    assert call("sample", "digits") == 0
    assert call("cache", "list") == 0
    assert tried == []
    assert "Traceback" not in capsys.readouterr().err
