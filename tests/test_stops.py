"""Trainings that are stopped, killed, damaged or diverge: real processes, real signals."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import ROOT, draw
from inceptcli.cli import main
from inceptcli.config import TrainConfig
from inceptcli.engine import device as devices
from inceptcli.engine import run as engine
from inceptcli.engine import train as loop
from inceptcli.engine.average import Average
from inceptcli.engine.resume import Progress
from inceptcli.engine.signals import Interrupted, StopRequest, interruptible
from inceptcli.errors import DataError, DivergedError, OutputError, WeightsError
from inceptcli.events import Event, StateSaved, Warned
from inceptcli.model.weights import load_weights, save_weights
from inceptcli.report.runs import list_runs, read_run

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(ENVIRONMENT, "INCEPTCLI_CACHE", str(tmp_path / "cache"))


def draw_pairs(root: Path) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for index in range(12):
            draw(root / name / f"{index:02d}.png", seed=100 * label + index, label=label)
    return root


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two classes of 12 drawn pictures: five steps of four an epoch."""
    return draw_pairs(tmp_path / "pairs")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed; its pictures are those of ``pairs``."""
    place = tmp_path_factory.mktemp("whole")
    engine.run(settings(draw_pairs(place / "pairs"), place / "run", cache="ram"))
    return place / "run"


def settings(root: Path, output: Path, **more: Any) -> TrainConfig:
    base: dict[str, Any] = {"epochs": 2, "image_size": 32, "batch_size": 4, "workers": 0}
    return TrainConfig(root=root, output=output, group="none", save_minutes=0, **(base | more))


def command(root: Path, output: Path, *more: str) -> list[str]:
    words = [
        "--epochs",
        "3",
        "--img-size",
        "32",
        "-b",
        "4",
        "-j",
        "0",
        "--group",
        "none",
        "--save-minutes",
        "0",
    ]
    return [sys.executable, "-m", "inceptcli", "train", str(root), "-o", str(output), *words, *more]


def last(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / "last.pth", weights_only=True)
    return state


def assert_equal(one: Path, other: Path) -> None:
    """Weights, optimizer, best epoch and history are equal to the bit but for the seconds."""
    ours, theirs = last(one), last(other)
    assert ours["average"]
    for part in ("model", "average"):
        assert all(torch.equal(ours[part][key], theirs[part][key]) for key in ours[part])
    for a, b in zip(
        ours["optimizer"]["state"].values(), theirs["optimizer"]["state"].values(), strict=True
    ):
        assert all(torch.equal(a[key], b[key]) for key in a)
    for part in ("best_epoch", "best_score"):
        assert ours["progress"][part] == theirs["progress"][part]
    rows = [
        [row | {"seconds": 0, "wait_seconds": 0} for row in state["progress"]["history"]]
        for state in (ours, theirs)
    ]
    assert rows[0] == rows[1]
    best = [torch.load(run / "best_model.pth", weights_only=True) for run in (one, other)]
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])


class StopHere(Exception):  # noqa: N818 - no fault: where the test wants it to stop
    """Raised by a test in the middle of a training, as a crash would be."""


def stop_after(epoch: int, step: int) -> Any:
    def emit(event: Event) -> None:
        if event == StateSaved(epoch, step):
            raise StopHere

    return emit


@pytest.mark.parametrize(
    "places",
    [
        [(1, 1)],
        [(2, 0)],
        [(1, 2), (2, 5)],
        *(pytest.param([place], marks=pytest.mark.slow) for place in ((1, 5), (2, 1), (2, 4))),
    ],
)
def test_resume_is_exact_wherever_it_stopped(
    places: list[tuple[int, int]], pairs: Path, whole: Path, tmp_path: Path
) -> None:
    """N1: first step, mid-epoch, last step, after the epoch, next epoch's first, twice in a row."""
    for count, place in enumerate(places):
        with pytest.raises(StopHere):
            engine.run(
                settings(pairs, tmp_path / "broken", workers=count),
                resuming=count > 0,
                emit=stop_after(*place),
            )
    engine.run(settings(pairs, tmp_path / "broken"), resuming=True)
    assert_equal(whole, tmp_path / "broken")


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, "0"), (signal.SIGTERM, "2")])
def test_a_signal_ends_in_good_order(
    number: signal.Signals, workers: str, pairs: Path, tmp_path: Path
) -> None:
    """S1: to the whole group, with workers: a durable state, the command to go on, 130 or 143."""
    words = command(pairs, tmp_path / "run", "--epochs", "500", "-j", workers)
    words[words.index("-j") + 1] = workers
    process = subprocess.Popen(
        words, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(tmp_path / "run" / "last.prev.pth", process)
    started = time.monotonic()
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert time.monotonic() - started < 10
    assert "Traceback" not in errors
    assert "go on with: inceptcli train --resume" in errors.splitlines()[-1]
    position = re.search(r"stopped at epoch (\d+), step (\d+)", errors)
    assert position is not None
    progress = last(tmp_path / "run")["progress"]
    assert [progress["epoch"], progress["step"]] == [int(part) for part in position.groups()]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_a_terminal_that_closes_leaves_a_state(pairs: Path, tmp_path: Path) -> None:
    """S1: SIGHUP to every process, and from then on nothing can be written there."""
    ours, theirs = os.openpty()
    more = ("--epochs", "500", "-j", "2", "--save-minutes", "60")
    words = command(pairs, tmp_path / "run", *more)
    lead = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{lead}; os.execv(sys.argv[1], sys.argv[1:])", *words],
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),  # type: ignore[call-overload]
        env=ENVIRONMENT,
        start_new_session=True,
    )
    os.close(theirs)
    while not (tmp_path / "run" / "last.prev.pth").exists():
        assert process.poll() is None, "the training ended before it could be disturbed"
        if select.select([ours], [], [], 0.05)[0]:
            os.read(ours, 1 << 16)  # a terminal that is full would hold it up
    closed = time.time_ns()
    os.close(ours)
    assert process.wait(30) == 128 + signal.SIGHUP
    assert (tmp_path / "run" / "last.pth").stat().st_mtime_ns > closed
    assert last(tmp_path / "run")["model"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
def test_a_closing_terminal_may_say_so_twice() -> None:
    """A shell hands it on, and the system sends it as well: the second is no call for haste."""
    before = signal.getsignal(signal.SIGHUP)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert stop.signum == signal.SIGHUP

    def hang_up() -> None:
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            signal.raise_signal(signal.SIGHUP)

    with pytest.raises(Interrupted), interruptible():
        hang_up()
    assert signal.getsignal(signal.SIGHUP) is before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
def test_a_closed_terminal_does_not_stop_what_nohup_started(pairs: Path, tmp_path: Path) -> None:
    words = ["nohup", *command(pairs, tmp_path / "run")]
    process = subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.DEVNULL, text=True)
    wait_for(tmp_path / "run" / "last.prev.pth", process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if path.exists():
            return
        assert process.poll() is None, "the training ended before it could be disturbed"
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


KILLED = """
import os, sys
from dataclasses import replace
from pathlib import Path
from inceptcli.config import TrainConfig
from inceptcli.engine.run import run
from inceptcli.events import StateSaved
root, output = map(Path, sys.argv[1:])
config = TrainConfig(root=root, output=output, epochs=2, image_size=32,
    batch_size=4, workers=0, group="none", save_minutes=0)
def emit(event):
    if isinstance(event, StateSaved):
        os.write(1, f"{event.epoch} {event.step}\\n".encode())
while sys.stdin.readline():  # each line asks for a process that has nothing to import
    child = os.fork()
    if child == 0:
        os.write(1, f"{os.getpid()}\\n".encode())
        resuming = any((output / name).exists() for name in ("last.pth", "last.prev.pth"))
        try:
            run(replace(config, overwrite=not resuming), resuming=resuming, emit=emit)
            os.write(1, b"finished\\n")
        except BaseException as error:
            os.write(1, f"failed: {error!r}\\n".encode())
        os._exit(0)
    sys.stdin.readline()  # it has been killed
    os.waitpid(child, 0)
    os.write(1, b"gone\\n")
"""


def kill_one(parent: subprocess.Popen[str], dice: random.Random) -> tuple[int, int]:
    """Start a training, kill it at a random moment; the last state that it said was saved."""
    assert parent.stdin is not None
    assert parent.stdout is not None
    print(file=parent.stdin, flush=True)
    pid = int(parent.stdout.readline())
    lines = []
    for _ in range(dice.randrange(1, 6)):
        lines.append(parent.stdout.readline())
        assert not lines[-1].startswith("failed"), lines[-1]
        if lines[-1] == "finished\n":
            break
    time.sleep(dice.random() * 0.15)
    os.kill(pid, signal.SIGKILL)
    print(file=parent.stdin, flush=True)
    while lines[-1] != "gone\n":
        lines.append(parent.stdout.readline())
        assert lines[-1], "the parent has died"
    places = [line.split() for line in lines if re.fullmatch(r"\d+ \d+\n", line)]
    return (int(places[-1][0]), int(places[-1][1])) if places else (0, 0)


def kill_at_random(pairs: Path, whole: Path, tmp_path: Path, *, times: int) -> int:
    """How many runs came to their end through ``times`` kills."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    dice = random.Random(7)
    run, kills, ends = tmp_path / "killed", 0, 0
    words = [sys.executable, str(script), str(pairs), str(run)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=ENVIRONMENT, **pipes) as parent:
        while kills < times:
            acknowledged = kill_one(parent, dice)
            if acknowledged == (0, 0):
                continue
            kills += 1
            saved, _ = engine.resume.load(run)
            assert (saved.progress.epoch, saved.progress.step) >= acknowledged
            if saved.progress.epoch > 2:
                engine.run(settings(pairs, run), resuming=True)
                assert_equal(whole, run)
                ends += 1
                for path in run.iterdir():
                    path.unlink()
    return ends


def test_a_killed_training_never_loses_what_was_saved(
    pairs: Path, whole: Path, tmp_path: Path
) -> None:
    """W1, short form: SIGKILL at random moments, a save every step."""
    kill_at_random(pairs, whole, tmp_path, times=5)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_hundred_kills(pairs: Path, whole: Path, tmp_path: Path) -> None:
    """W1."""
    ends = kill_at_random(pairs, whole, tmp_path, times=200)
    assert ends > 15


def test_the_newest_valid_state_is_used(pairs: Path, whole: Path, tmp_path: Path) -> None:
    """K9: a damaged last.pth gives way to the one before it; all damaged is exit 4."""
    with pytest.raises(StopHere):
        engine.run(settings(pairs, tmp_path / "run"), emit=stop_after(2, 3))
    state = tmp_path / "run" / "last.pth"
    data = bytearray(state.read_bytes())
    data[1000] ^= 4
    state.write_bytes(data)
    said: list[Event] = []
    engine.run(settings(pairs, tmp_path / "run"), resuming=True, emit=said.append)
    assert any(isinstance(event, Warned) and "last.pth" in event.text for event in said)
    assert_equal(whole, tmp_path / "run")
    for name in ("last.pth", "last.prev.pth"):
        (tmp_path / "run" / name).write_bytes(b"torn")
    with pytest.raises(WeightsError, match=r"last\.pth.*last\.prev\.pth"):
        engine.run(settings(pairs, tmp_path / "run"), resuming=True)


def test_a_save_over_a_damaged_state_keeps_the_one_before_it(pairs: Path, tmp_path: Path) -> None:
    """A kill during the first save after going on must find a whole state."""
    run = tmp_path / "run"
    with pytest.raises(StopHere):
        engine.run(settings(pairs, run), emit=stop_after(2, 3))
    (run / "last.pth").write_bytes(b"torn")
    whole = (run / "last.prev.pth").read_bytes()
    with pytest.raises(StopHere):
        engine.run(settings(pairs, run), resuming=True, emit=stop_after(2, 3))
    assert (run / "last.prev.pth").read_bytes() == whole
    newest = (run / "last.pth").read_bytes()
    with pytest.raises(StopHere):
        engine.run(settings(pairs, run), resuming=True, emit=stop_after(2, 4))
    assert newest != b"torn"
    assert (run / "last.prev.pth").read_bytes() != whole


def test_a_scaler_that_was_not_needed_begins_anew(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a training goes from a CPU to a GPU that computes in fp16."""
    with pytest.raises(StopHere):
        engine.run(settings(pairs, tmp_path / "run"), emit=stop_after(1, 2))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    monkeypatch.setattr(devices.Device, "scaler", lambda _: scaler)
    engine.run(settings(pairs, tmp_path / "run"), resuming=True)
    assert scaler.get_scale() == 8.0
    assert len(last(tmp_path / "run")["progress"]["history"]) == 2


def test_changed_photographs_and_settings_are_refused(pairs: Path, tmp_path: Path) -> None:
    """K10."""
    with pytest.raises(StopHere):
        engine.run(settings(pairs, tmp_path / "run"), emit=stop_after(1, 2))
    with pytest.raises(DataError, match=r"--lr was 0\.00071, is 0\.01"):
        engine.run(settings(pairs, tmp_path / "run", lr=0.01), resuming=True)
    draw(pairs / "cat" / "00.png", seed=999, label=2)
    draw(pairs / "dog" / "new.png", seed=998, label=1)
    split = tmp_path / "run" / "split.csv"
    with pytest.raises(DataError, match=r"new \(dog/new.png\); 1 .* of other content \(cat/00"):
        engine.run(settings(pairs, tmp_path / "run", split=split), resuming=True)
    (pairs / "dog" / "00.png").unlink()
    with pytest.raises(DataError, match=r"1 photograph gone \(dog/00.png\); 1 .* new"):
        engine.run(settings(pairs, tmp_path / "run", split=split), resuming=True)
    engine.run(settings(pairs, tmp_path / "run", split=split), resuming=True, allow_change=True)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped after two steps, its pictures beside it; tests copy it."""
    place = tmp_path_factory.mktemp("begun")
    with pytest.raises(StopHere):
        engine.run(
            settings(draw_pairs(place / "pairs"), place / "run", cache="ram"),
            emit=stop_after(1, 2),
        )
    return place / "run"


@pytest.mark.parametrize(
    "rows", ["cat/00.png,train\ndog/01.png,val\n", "cat/00.png,train\ndog/00.png,train\n"]
)
def test_a_split_without_enough_photographs_is_refused(
    rows: str, pairs: Path, tmp_path: Path
) -> None:
    """D6: one for train, or none for val; no run folder is left."""
    (tmp_path / "split.csv").write_text(f"path,role\n{rows}")
    with pytest.raises(DataError, match=r"photographs? for (train|val), where it takes"):
        engine.run(settings(pairs, tmp_path / "run", split=tmp_path / "split.csv"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings_json", "code"),
    [
        ("[" * 100_000, 3),
        ('{"settings": []}', 3),
        ('{"settings": {}}', 3),
        ('{"settings": {"root": 5}}', 3),
        ('{"settings": {"root": "pairs", "ratio": 5}}', 3),
        ('{"settings": {"root": "pairs", "train_sizes": ["a", "b"]}}', 3),
        ('{"settings": {"root": "pairs", "epochs": "x"}}', 2),
        ('{"settings": {"root": "pairs", "folds": "2"}}', 2),
    ],
)
def test_damaged_settings_are_refused(
    settings_json: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """K10: in one line, by resume; ``runs`` passes them over."""
    (tmp_path / "config.json").write_text(settings_json)
    with pytest.raises(SystemExit) as caught:
        main(["train", "--resume", str(tmp_path)])
    assert caught.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    list_runs(tmp_path.parent)


def test_a_state_of_another_network_is_refused(begun: Path, tmp_path: Path) -> None:
    """K6: also with --allow-change; nothing is overwritten."""
    run = shutil.copytree(begun, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    config = settings(begun.parent / "pairs", run, arch="inception_v1")
    with pytest.raises(WeightsError, match="another network than inception_v1 for 2 classes"):
        engine.run(config, resuming=True, allow_change=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize(
    ("changed", "option"),
    [({"image_size": 64}, "--img-size"), ({"monitor": "val_loss"}, "--monitor")],
)
def test_what_the_best_epoch_cannot_be_compared_by_is_refused(
    changed: dict[str, Any], option: str, begun: Path, tmp_path: Path
) -> None:
    """Also with --allow-change: its weights would be measured otherwise than they were chosen."""
    run = shutil.copytree(begun, tmp_path / "run")
    config = settings(begun.parent / "pairs", run, **changed)
    with pytest.raises(DataError, match=f"another {option}: the best epoch so far could not"):
        engine.run(config, resuming=True, allow_change=True)


def test_an_unusable_file_that_goes_or_comes_is_told(pairs: Path, tmp_path: Path) -> None:
    """Crops and flips of every photograph after it would be others."""
    (pairs / "cat" / "05.png").write_bytes(b"broken")
    config = settings(pairs, tmp_path / "run", max_bad=1.0)
    with pytest.raises(StopHere):
        engine.run(config, emit=stop_after(1, 2))
    (pairs / "cat" / "05.png").unlink()
    with pytest.raises(DataError, match="1 photograph gone"):
        engine.run(config, resuming=True)
    (pairs / "cat" / "05.png").write_bytes(b"broken")
    (pairs / "cat" / "00a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="1 photograph new"):
        engine.run(config, resuming=True)


def test_photographs_outside_a_split_do_not_hinder_a_resume(pairs: Path, tmp_path: Path) -> None:
    """They were left out before and are left out now."""
    rows = [
        f"{name}/{i:02d}.png,{'val' if i < 3 else 'train'}"
        for name in ("cat", "dog")
        for i in range(10)
    ]
    (tmp_path / "split.csv").write_text("\n".join(["path,role", *rows]))
    config = settings(pairs, tmp_path / "run", split=tmp_path / "split.csv")
    with pytest.raises(StopHere):
        engine.run(config, emit=stop_after(1, 2))
    assert engine.run(config, resuming=True).history[-1].epoch == 2


@pytest.mark.parametrize(("batch", "step"), [(2, 6), (3, 4), (6, 2), (5, 0), (8, 0)])
def test_a_changed_batch_size_repeats_and_skips_no_photograph(batch: int, step: int) -> None:
    """Twelve photographs are done; where no batch begins after them the epoch begins again."""
    progress = Progress(epoch=2, step=3, images=12, loss_sum=9.0)
    assert progress.change_batches(4, batch) == (step > 0)
    assert (progress.epoch, progress.step) == (2, step)
    assert progress.images == (12 if step else 0)


@pytest.mark.parametrize(("batch", "again"), [(2, False), (6, True)])
def test_a_resume_with_another_batch_size_sees_every_photograph_once(
    batch: int, again: bool, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StopHere):  # after eight photographs
        engine.run(settings(pairs, tmp_path / "run"), emit=stop_after(1, 2))
    seen: list[int] = []
    told: list[Event] = []
    step = loop.train_step

    def watched(training: Any, batch: Any, *, total: int) -> Any:
        if training.progress.epoch == 1:
            seen.extend(batch.indices.tolist())
        return step(training, batch, total=total)

    monkeypatch.setattr(loop, "train_step", watched)
    other = settings(pairs, tmp_path / "run", batch_size=batch)
    done = engine.run(other, resuming=True, allow_change=True, emit=told.append)
    images = len(done.photos.indices("train"))
    assert len(seen) == len(set(seen)) == (images if again else images - 8)
    assert any("begins again" in getattr(event, "text", "") for event in told) == again


def test_the_epoch_that_is_told_is_the_one_in_the_file(pairs: Path, tmp_path: Path) -> None:
    """A kill between weights and state, where an epoch is not repeated to the bit, may leave those
    of another epoch than the state's best.
    """
    done = engine.run(settings(pairs, tmp_path / "run"))
    weights = load_weights(done.run / "best_model.pth")
    assert weights.record is not None
    other = replace(weights.record, epoch=7)
    save_weights(done.run / "best_model.pth", weights.state_dict, other)
    again = engine.run(settings(pairs, tmp_path / "run"), resuming=True)
    assert again.best_epoch == 7


def test_the_results_name_the_file_that_is_there(whole: Path) -> None:
    metrics = json.loads((whole / "metrics.json").read_text())
    digest = load_weights(whole / "best_model.pth").digest
    assert [part["weights"]["digest"] for part in metrics.values()] == [digest] * len(metrics)


def test_an_average_that_begins_at_a_resume_begins_with_the_trained_weights() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    average = Average(model, steps=5)
    with torch.no_grad():
        model.weight.add_(1)
    average.load_state_dict({})
    assert torch.equal(average.network.weight, model.weight)  # type: ignore[arg-type]


def test_a_signal_that_came_inside_is_known_outside() -> None:
    """As between the trainings of two folds."""
    with StopRequest() as outer:
        with StopRequest() as inner:
            signal.raise_signal(signal.SIGTERM)
        assert inner.signum == outer.signum == signal.SIGTERM


@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adam", marks=pytest.mark.slow)])
def test_another_optimizer_begins_anew_with_its_own_settings(
    optimizer: str, begun: Path, tmp_path: Path
) -> None:
    """K10: with --allow-change."""
    run = shutil.copytree(begun, tmp_path / "run")
    config = settings(begun.parent / "pairs", run, epochs=1, optimizer=optimizer, weight_decay=0.5)
    engine.run(config, resuming=True, allow_change=True)
    group = last(run)["optimizer"]["param_groups"][0]
    assert ("momentum" in group) == (optimizer == "sgd")
    assert group["weight_decay"] == 0.5


def test_the_precision_that_was_found_stays(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N1: a resumed training does not measure again what is fast."""
    found = last(begun)["surroundings"]["precision"]
    gain = {"fp32": 9.0, "bf16": 0.5}[found]
    monkeypatch.setattr(devices, "_cpu_has_bf16", lambda: True)
    monkeypatch.setattr(devices, "_bf16_gain", lambda: gain)
    assert devices.choose_device("cpu", "auto").precision != found
    run, told = shutil.copytree(begun, tmp_path / "run"), []
    stop = stop_after(1, 3)

    def emit(event: Event) -> None:
        told.append(event)
        stop(event)

    with pytest.raises(StopHere):
        engine.run(settings(begun.parent / "pairs", run), resuming=True, emit=emit)
    assert not [event for event in told if "not bit-exact" in getattr(event, "text", "")]
    assert last(run)["surroundings"]["precision"] == found


def test_the_history_is_the_states_after_a_resume(whole: Path, tmp_path: Path) -> None:
    """W8: rows that a kill has cost come back, a torn end and epochs not saved go."""
    run = shutil.copytree(whole, tmp_path / "run")
    history = run / "history.csv"
    before = history.read_bytes()
    lines = before.splitlines(keepends=True)
    history.write_bytes(lines[0] + lines[1] + b"7" + lines[1][1:] + b"8,0.5,0\0\0\0")
    engine.run(settings(whole.parent / "pairs", run), resuming=True)
    assert history.read_bytes() == before


def test_tensorboard_has_every_epoch_once_after_a_resume(begun: Path, tmp_path: Path) -> None:
    """Asked for late, stopped between the save of an epoch and its event, and in the next."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from inceptcli.report.tensorboard import EventFiles

    run = shutil.copytree(begun, tmp_path / "run")
    for place in [(2, 0), (2, 3), None]:
        emit = stop_after(*place) if place else lambda _: None
        with contextlib.suppress(StopHere), EventFiles(emit) as files:
            engine.run(settings(begun.parent / "pairs", run), resuming=True, emit=files)
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    rows = last(run)["progress"]["history"]
    for tag, name in (("loss/train", "train_loss"), ("accuracy/val", "val_accuracy")):
        points = [(event.step, event.value) for event in events.Scalars(tag)]
        assert points == [(row["epoch"], pytest.approx(row[name], rel=1e-6)) for row in rows]


def processes_of(launcher: int) -> dict[str, int]:
    """torchrun's processes, by rank."""
    found = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        with contextlib.suppress(OSError):
            rank = re.search(rb"\0RANK=(\d+)", Path(f"/proc/{child}/environ").read_bytes())
            if rank:
                found[rank[1].decode()] = int(child)
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_signal_to_one_of_several_processes_stops_all(pairs: Path, tmp_path: Path) -> None:
    """S1, under torchrun: 143 of each, no traceback of ours, one step that is the state's."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--master-port", "29541", "--log-dir", str(tmp_path / "logs"), "-r", "3"]
    words = command(pairs, tmp_path / "run", "--epochs", "500")[1:]
    process = subprocess.Popen(
        [*launch, *words], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    wait_for(tmp_path / "run" / "last.prev.pth", process)
    os.kill(processes_of(process.pid)["1"], signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    codes = set(re.findall(r"exitcode\s*: (-?\d+)", told))
    assert {"143"} <= codes <= {"143", "-15"}, told  # torchrun sends the slower one another
    logs = [path.read_text() for path in (tmp_path / "logs").rglob("stderr.log")]
    assert len(logs) == 2
    places = set(re.findall(r"stopped at epoch (\d+), step (\d+)", "".join(logs)))
    assert not [log for log in logs if "Traceback" in log]
    progress = last(tmp_path / "run")["progress"]
    assert places == {(str(progress["epoch"]), str(progress["step"]))}


VANISHING = """
import sys
from pathlib import Path
from inceptcli.config import TrainConfig
from inceptcli.engine.run import run
from inceptcli.events import EpochDone, Warned
root = Path(sys.argv[1])
def emit(event):
    if isinstance(event, EpochDone) and event.epoch == 1:
        for path in sorted(root.rglob("*.png"))[::2]:
            path.unlink()
    if isinstance(event, Warned):
        print(event.text, flush=True)
config = TrainConfig(root=root, output=Path(sys.argv[2]), epochs=2, image_size=32, batch_size=4,
    workers=0, group="none", cache="none", ratio=(0.5, 0.5), max_bad=float(sys.argv[3]))
run(config, emit=emit)
"""


@pytest.mark.parametrize(
    ("max_bad", "ends"),
    [("1", True), pytest.param("0.05", False, marks=pytest.mark.slow)],
)
def test_photographs_that_vanish_from_several_processes(
    max_bad: str, ends: bool, pairs: Path, tmp_path: Path
) -> None:
    """D13, under torchrun: shares of one or no image take part; too many end all processes."""
    script = tmp_path / "vanishing.py"
    script.write_text(VANISHING)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--master-port", "29542", str(script), str(pairs), str(tmp_path / "run"), max_bad]
    done = subprocess.run(
        launch, env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False
    )
    if ends:
        assert done.returncode == 0, done.stderr
        assert "gone, changed or unreadable since" in done.stdout
        assert len(last(tmp_path / "run")["progress"]["history"]) == 2
    else:
        assert done.stderr.count("DataError: ") == 2, done.stderr
        assert last(tmp_path / "run")["progress"]["epoch"] == 2


OTHER_COPY = """
import os, sys
from inceptcli.cli import main
if os.environ["RANK"] == "1":
    sys.argv[2] += "-copy"
main(sys.argv[1:])
"""


@pytest.mark.parametrize("where", ["lacking", "same"])
def test_processes_with_other_photographs_are_refused(
    where: str, pairs: Path, tmp_path: Path
) -> None:
    """One machine's copy of the folder lacks a photograph."""
    script, photos = tmp_path / "other.py", tmp_path / "photos"
    script.write_text(OTHER_COPY)
    for name in ("photos", "photos-copy"):
        shutil.copytree(pairs, tmp_path / name)
    if where == "lacking":
        next((tmp_path / "photos-copy").rglob("*.png")).unlink()
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--master-port", "29543", str(script)]
    words = command(photos, tmp_path / "run", "--epochs", "1", "--cache", "none")[3:]
    done = subprocess.run(
        [*launch, *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False
    )
    refused = "process 1 finds other photographs" in done.stderr
    assert (refused, done.returncode == 0) == (where == "lacking", where == "same"), done.stderr


@pytest.mark.parametrize("where", ["loss", "buffer", "optimizer"])
def test_divergence_is_noticed_and_reaches_no_file(
    where: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N4: exit 6 that names the step; last and best files stay finite."""
    step = loop.train_step

    def poisoned(training: Any, batch: Any, *, total: int) -> Any:
        losses, correct = step(training, batch, total=total)
        if (training.progress.epoch, training.progress.step) == (2, 2):
            if where == "loss":
                losses = losses * float("nan")
            elif where == "buffer":
                training.model.inception3a.branch1[1].running_mean[0] = float("inf")
            else:
                slots = next(iter(training.optimizer.state.values()))
                slots["exp_avg"][0] = float("nan")
        return losses, correct

    monkeypatch.setattr(loop, "train_step", poisoned)
    with pytest.raises(DivergedError, match="epoch 2, step 3") as caught:
        engine.run(settings(pairs, tmp_path / "run"))
    assert caught.value.exit_code == 6
    state = last(tmp_path / "run")
    assert all(bool(part.isfinite().all()) for part in state["model"].values())
    assert read_run(tmp_path / "run").state == "diverged"
    assert "epoch 2, step 3" in read_run(tmp_path / "run").problem


def test_an_absurd_learning_rate_is_exit_6(pairs: Path, tmp_path: Path) -> None:
    """N4."""
    words = command(pairs, tmp_path / "run", "--lr", "1e20")[3:]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 6


def test_a_failed_save_is_told_and_tried_again(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W2 by injection: in the middle a warning, at the end exit 5; nothing of before is lost."""
    from inceptcli import files

    replace, failing = files.system.replace, [False]

    def full(source: Any, target: Any) -> None:
        if failing[0] and "last.pth" in str(target):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(files.system, "replace", full)
    said: list[Event] = []

    def emit(event: Event) -> None:
        said.append(event)
        failing[0] = sum(isinstance(each, StateSaved) for each in said) == 2 and (
            sum(isinstance(each, Warned) for each in said) < 2
        )

    engine.run(settings(pairs, tmp_path / "run"), emit=emit)
    assert any(isinstance(event, Warned) and "No space left" in event.text for event in said)
    assert last(tmp_path / "run")["progress"]["epoch"] == 3

    def always(event: Event) -> None:
        failing[0] = failing[0] or (isinstance(event, StateSaved) and event.epoch == 2)

    failing[0] = False
    with pytest.raises(OutputError, match="No space left"):
        engine.run(settings(pairs, tmp_path / "other"), emit=always)
    saved, _ = engine.resume.load(tmp_path / "other")
    assert saved.progress.epoch == 2
