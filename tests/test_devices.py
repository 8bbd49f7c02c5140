"""GPUs and several processes, as far as a CPU alone can show what they need."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from inceptcli import files
from inceptcli.config import TrainConfig
from inceptcli.engine import device as devices
from inceptcli.engine import resume, run
from inceptcli.engine.device import Device, leave
from inceptcli.engine.optim import load_optimizer, loss_per_image, make_optimizer
from inceptcli.engine.train import parts_for_all, rest_batch_norm
from inceptcli.errors import ResourceError, UsageError, is_out_of_memory
from inceptcli.events import EpochDone
from inceptcli.model.fold import fold_batch_norm
from inceptcli.model.inception import FourByFour, build, heads
from inceptcli.model.weights import load_state, save_state

CPU = torch.device("cpu")


def photos_of(count: int) -> Any:
    names = [f"class {i % 5}/photograph {i:07d} caf\udce9.jpg" for i in range(count)]
    facts = [SimpleNamespace(content_sha256=bytes([i % 251] * 32)) for i in range(count)]
    roles = np.array(["train", "val", ""] * count)[:count]
    return SimpleNamespace(
        names=names,
        facts=facts,
        classes=("a", "b"),
        roles=roles,
        indices=lambda _: np.flatnonzero(roles != ""),
    )


def test_a_state_can_hold_many_photographs_and_epochs(tmp_path: Path) -> None:
    """100,000 of each: a state file must never end a training by being too long."""
    photos = photos_of(100_000)
    row = EpochDone(1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, best=False, wait_seconds=0.7)
    history = [{name: getattr(row, name) for name in row.__slots__} for _ in range(100_000)]
    state = {"photos": resume.describe_photos(photos), "history": history}
    save_state(tmp_path / "last.pth", state)
    loaded = load_state(tmp_path / "last.pth")
    assert loaded["history"] == history
    wanted = {photos.names[i]: photos.roles[i] for i in photos.indices("all")}
    found = resume._by_name(loaded["photos"])
    assert {name: role for name, (role, _) in found.items()} == wanted


def trained(fused: bool | None) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
    model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, TrainConfig(root=Path(), lr=1e-2, weight_decay=0.05))
    for group in optimizer.param_groups:
        group["fused"] = fused
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(2, 4, 8, 8)).square().mean().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(("then", "now"), [(None, True), (True, None), (None, None)])
def test_an_optimizer_goes_on_in_one_kernel_or_many(
    then: bool | None, now: bool | None, tmp_path: Path
) -> None:
    """A GPU's fused kernel refuses slots that do not lie in memory as their parameters do."""
    model, first = trained(then)
    save_state(tmp_path / "s", first.state_dict())
    other, second = trained(now)
    other.load_state_dict(model.state_dict())
    for group in first.param_groups:
        group["lr"] = 0.003
    save_state(tmp_path / "s", first.state_dict())
    load_optimizer(second, load_state(tmp_path / "s"))
    for group in second.param_groups:
        assert (group["fused"], group["lr"]) == (now, 0.003)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        for name, slot in first.state[one].items():
            torch.testing.assert_close(second.state[two][name], slot, rtol=0, atol=0)
            if slot.shape == one.shape:
                assert second.state[two][name].stride() == two.stride()
        one.grad = two.grad = torch.ones_like(one)
    first.step()
    second.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_kept_for_the_next_tensor() -> None:
    """64 MiB again and again: soon no page of it is new to the process."""
    resource = pytest.importorskip("resource")
    devices.choose_device("cpu", "fp32")
    faults = []
    for _ in range(10):  # small blocks may come to lie in the first that are freed
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16 << 20)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(faults) < 1000  # of 16,384


def test_slots_of_other_groups_are_refused() -> None:
    _, optimizer = trained(None)
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match="longer"):
        load_optimizer(optimizer, state | {"param_groups": state["param_groups"][:1]})


def test_class_weights_follow_the_logits_to_their_device() -> None:
    """Those of training lie on a GPU, those of validation do not; "meta" stands for either."""
    losses_of = loss_per_image(double_softmax=False, class_weights=torch.ones(3))
    logits = torch.zeros(5, 3, device="meta")
    losses = losses_of(logits, torch.zeros(5, dtype=torch.int64, device="meta"))
    assert losses.device.type == "meta"


def test_all_processes_compute_as_many_parts() -> None:
    """GPUs exchange statistics in each: with another number one would wait for ever."""
    batch = SimpleNamespace(indices=np.arange(8))
    for of_the_others, parts in ((4, 4), (3, 3), (1, 1), (9, 4)):
        most = lambda value, other=of_the_others: max(value, -other)  # noqa: E731
        training: Any = SimpleNamespace(
            config=SimpleNamespace(accumulate=32), device=SimpleNamespace(most=most)
        )
        assert parts_for_all(training, batch) == parts  # type: ignore[arg-type]


def test_a_batch_too_small_for_the_processes_is_refused() -> None:
    config = TrainConfig(root=Path(), batch_size=8)
    with pytest.raises(UsageError, match="-b 16 or fewer processes"):
        run._check_shares(config, Device(CPU, "fp32", "", world=8))
    run._check_shares(config, Device(CPU, "fp32", "", world=4))
    run._check_shares(config, Device(torch.device("cuda"), "fp32", "", world=8))
    with pytest.raises(UsageError, match="-b 9 or fewer processes"):
        run._check_shares(config, Device(torch.device("cuda"), "fp32", "", world=9))


@pytest.mark.parametrize(("backend", "parts"), [("nccl", False), ("gloo", True)])
def test_a_process_with_an_error_does_not_wait_for_the_others(
    backend: str, parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL's parting is collective: with one process missing it would never end."""
    parted: list[str] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: parted.append(backend))
    leave(UsageError("no such folder"))
    assert parted == [backend] * parts
    leave()
    assert parted == [backend] * (parts + 1)


def test_batch_norm_rests_alone() -> None:
    """Auxiliary classifiers go on answering: other processes wait for their gradients."""
    model = build("inception_v1_aux", 2, 64, training=True)
    before = {name: value.clone() for name, value in model.named_buffers()}
    rest_batch_norm(model)
    assert len(heads(model(torch.rand(1, 3, 64, 64)))) == 3
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())


@pytest.mark.parametrize(
    ("rank", "local", "order"), [(0, 0, "DWW"), (8, 0, "WDW"), (1, 1, "WWD"), (9, 1, "WWD")]
)
def test_each_machine_s_first_process_goes_before_the_others(
    rank: int, local: int, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(Device, "wait", lambda _: done.append("W"))
    monkeypatch.setenv("LOCAL_RANK", str(local))
    with Device(CPU, "fp32", "", rank=rank, world=16).first_goes_first():
        done.append("D")
    assert "".join(done) == order


def test_more_processes_than_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices._find("auto", 1) == torch.device("cuda", 1)
    with pytest.raises(ResourceError, match="--nproc-per-node 2"):
        devices._find("auto", 2)


def test_mps_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices._find("auto", 0).type == "mps"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert devices._find("auto", 0).type == "cpu"
    with pytest.raises(UsageError, match="--device cpu"):
        devices._find("mps", 0)


@pytest.mark.parametrize("side", [2, 4, 5, 7, 8, 14, 15])
def test_the_auxiliary_pool_is_torch_s(side: int) -> None:
    maps = torch.rand(2, 3, side, side + 1, requires_grad=True)
    torch.testing.assert_close(FourByFour()(maps), nn.AdaptiveAvgPool2d(4)(maps))


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (torch.OutOfMemoryError(), True),
        (MemoryError(), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_the_end_of_memory_is_known_on_every_device(error: Exception, is_so: bool) -> None:
    assert is_out_of_memory(error) == is_so


def test_batch_norm_of_several_gpus_is_folded_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    for _ in range(3):
        model(torch.rand(4, 3, 8, 8) * 3)
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()
    folded, images = fold_batch_norm(shared), torch.rand(2, 3, 8, 8)
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in folded.modules())
    torch.testing.assert_close(folded(images), shared(images), rtol=1e-5, atol=1e-5)


def test_what_another_machine_writes_is_not_swept(tmp_path: Path) -> None:
    """Its process cannot be asked whether it lives; after a day it does not."""
    new, old = tmp_path / ".a.999999999.00000000.tmp", tmp_path / ".b.999999999.00000000.tmp"
    for path in (new, old):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    files.sweep(tmp_path, unused_seconds=3600)
    assert [path.name for path in tmp_path.iterdir()] == [new.name]


@pytest.mark.parametrize(
    ("share", "asked", "threads"), [(2, None, 2), (9, None, None), (2, "4", None)]
)
def test_a_container_s_share_of_the_processors_limits_the_threads(
    share: int, asked: str | None, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless OMP_NUM_THREADS says how many there shall be."""
    given: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(devices, "default_workers", lambda: share)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    devices.choose_device("cpu", "fp32")
    assert given == ([] if threads is None else [threads])
