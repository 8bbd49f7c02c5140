"""Where and how the arithmetic runs: device, precision, memory layout, torchrun's processes.

What is not used is a no-op object, so that the loops have no branches for it.
"""

from __future__ import annotations

import atexit
import ctypes
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import get_args

import torch
from torch import Tensor, nn
from torch import distributed as dist

from inceptcli.config import DeviceName, Precision, one_of
from inceptcli.data.machine import default_workers, process_count
from inceptcli.errors import ResourceError, UsageError

_WORTH_IT = 1.2  # times the speed of float32, from which on bf16's rounding is worth it
# Of a process for another, at most: the first one's pass over millions of photographs. torchrun
# itself ends them all when one of them dies.
_LONGEST_WAIT = timedelta(days=2)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Device:
    """What a training or an inference runs on.

    Attributes:
        torch_device: Where tensors live.
        precision: "fp32", "bf16" or "fp16"; parameters are float32 in each.
        reason: Why this precision, for the person who reads the start of a run.
        rank: This process among ``world``, from 0.
        world: Number of processes.
    """

    torch_device: torch.device
    precision: str
    reason: str
    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    @property
    def dtype(self) -> torch.dtype:
        """The type in which matrix products and convolutions are computed."""
        return _DTYPES[self.precision]

    @property
    def wide(self) -> torch.dtype:
        """The widest floating-point type here, in which sums over images are kept."""
        return torch.float32 if self.torch_device.type == "mps" else torch.float64

    @property
    def check_every(self) -> int:
        """Steps between looks at the loss and at signals; each look waits for a GPU's work."""
        return 1 if self.torch_device.type == "cpu" else 10

    @property
    def shares_batch_norm(self) -> bool:
        """Whether the processes normalise a batch together: on GPUs; see ``distribute``."""
        return self.world > 1 and self.torch_device.type == "cuda"

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which a network computes in this precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.torch_device.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler; it does nothing unless the precision is fp16."""
        return torch.amp.GradScaler(self.torch_device.type, enabled=self.precision == "fp16")

    def place(self, model: nn.Module) -> nn.Module:
        """The network on this device with channels-last weights."""
        model = model.to(self.torch_device)
        return model.to(memory_format=torch.channels_last)

    def distribute(self, model: nn.Module) -> nn.Module:
        """The network as all processes train it together; itself when there is only one."""
        if self.world == 1:
            return model
        if self.shares_batch_norm:
            # It refuses CPU tensors: there each process normalises its own part of a batch.
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            return nn.parallel.DistributedDataParallel(model, device_ids=[self.torch_device.index])
        return nn.parallel.DistributedDataParallel(model)

    def alone(self, model: nn.Module, *, until_last: bool) -> AbstractContextManager[None]:
        """The context of a part of a batch: gradients are exchanged after its last part."""
        if isinstance(model, nn.parallel.DistributedDataParallel) and until_last:
            return model.no_sync()
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in each of them; ``values`` itself when there is one."""
        if self.world > 1:
            values = values.to(self.torch_device)
            dist.all_reduce(values)
        return values

    def most(self, value: int) -> int:
        """The largest of the processes' values, in each of them."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, device=self.torch_device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared)

    def share(self, text: str) -> str:
        """The first process's text, in each of them."""
        if self.world == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box)
        return box[0]

    def share_buffers(self, model: nn.Module) -> None:
        """Give a network the first process's batch-norm statistics, where each has its own."""
        if self.world > 1 and not self.shares_batch_norm:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """What all processes do, in turn: the others find what those before them left.

        The first process, then the first on each other machine, which has a disk of its own, then
        the rest.
        """
        turn = 0 if self.is_first else 1 if os.environ.get("LOCAL_RANK", "0") == "0" else 2
        for _ in range(turn):
            self.wait()
        yield
        for _ in range(2 - turn):
            self.wait()

    def wait(self) -> None:
        """Come back when every process has come here."""
        if self.world > 1:
            dist.barrier()


def choose_device(name: str, precision: str) -> Device:
    """The device and precision for a command, after joining torchrun's processes if there are any.

    Args:
        name: One of ``config.DeviceName``.
        precision: One of ``config.Precision``.

    Raises:
        ResourceError: The device asked for is not here.
        UsageError: The device cannot compute in the precision asked for.
    """
    one_of("--device", name, get_args(DeviceName))
    one_of("--precision", precision, get_args(Precision))
    rank, world = int(os.environ.get("RANK", "0")), process_count()
    device = _find(name, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cpu":
        _keep_memory()
        _obey_quota()
    chosen, reason = _precision(device, precision)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # TF32; --precision fp32 on CPU is exact
        torch.backends.cudnn.benchmark = True
    if world > 1 and not dist.is_initialized():
        torch.set_num_threads(default_workers())
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_LONGEST_WAIT)
        atexit.register(leave)
    on = Device(device, chosen, reason, rank, world)
    chosen, reason = on.share(f"{chosen}\n{reason}").split("\n")  # each has measured for itself
    return replace(on, precision=chosen, reason=reason)


def is_first_process() -> bool:
    """Whether this is the only process, or the one of torchrun's that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def leave(error: BaseException | None = None) -> None:
    """Part from torchrun's processes, if this is one of them.

    Args:
        error: Why this process ends, where the others may not know. NCCL parts only when all do, so
            a process with an error leaves without a word, and torchrun then ends the others.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    if error is not None and dist.get_backend() == "nccl":
        atexit.unregister(leave)
        return
    dist.destroy_process_group()


def make_deterministic() -> None:
    """Let CUDA choose only kernels that give the same bits every time; CPU does so anyway."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def _find(name: str, local_rank: int) -> torch.device:
    has = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        alone = process_count() == 1  # mps cannot exchange gradients
        name = "cuda" if has["cuda"] else "mps" if has["mps"] and alone else "cpu"
    if not has[name]:
        raise ResourceError(
            f"--device {name}: torch {torch.__version__} finds no such device on this machine; "
            "use --device cpu or auto"
        )
    if name == "mps" and process_count() > 1:
        raise UsageError("--device mps: not with several processes; use --device cpu")
    if name == "cuda" and local_rank >= (count := torch.cuda.device_count()):
        raise ResourceError(
            f"more processes than GPUs on this machine; give torchrun --nproc-per-node {count}"
        )
    return torch.device(name, local_rank) if name == "cuda" else torch.device(name)


def _keep_memory() -> None:
    """Let glibc keep freed memory for the next tensor; other C libraries are left as they are.

    It gives blocks above 32 MiB, a few of a batch's activations, back to the system at each free
    and gets them anew page by page: up to a quarter of the time of a prediction
    (docs/benchmarks.md).
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(AttributeError):  # musl has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def _obey_quota() -> None:
    """No more threads than a container's share of the processors: torch counts all that it sees."""
    if "OMP_NUM_THREADS" not in os.environ and default_workers() < torch.get_num_threads():
        torch.set_num_threads(default_workers())


def _precision(device: torch.device, wanted: str) -> tuple[str, str]:
    if device.type == "mps" and wanted == "bf16":
        raise UsageError("--precision bf16: not on mps; use fp16 or fp32")
    if device.type == "cpu" and wanted == "fp16":
        raise UsageError("--precision fp16: not on a CPU, where it is slow; use bf16 or fp32")
    if wanted != "auto":
        return wanted, "asked for"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return "bf16", "this GPU computes it in hardware"
        return "fp16", "this GPU has no bf16 in hardware; gradients are scaled"
    if device.type != "cpu" or not _cpu_has_bf16():
        return "fp32", f"no bf16 in hardware on this {device.type}"
    gain = _bf16_gain()
    found = f"a convolution in bf16 has {gain:.1f} times the speed of fp32 on this processor"
    return ("bf16" if gain >= _WORTH_IT else "fp32"), found


def _cpu_has_bf16() -> bool:
    ask = getattr(torch.cpu, "get_capabilities", None)
    found = ask() if ask is not None else {}
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


@cache  # so that all networks and folds of one command are computed alike
def _bf16_gain() -> float:
    """How many times as fast a convolution of the network's is in bf16 as in float32.

    Measured, in some 30 ms: with the same instructions one processor is twice as fast in bf16
    and another half as fast. Both take turns, the fastest turn of each counts, and time is that of
    the processor alone, so that other work does not change the answer.
    """
    cases = {}
    for dtype in (torch.float32, torch.bfloat16):
        kernels = torch.ones(64, 64, 3, 3, dtype=dtype)  # no draw from a random generator
        images = torch.ones(4, 64, 28, 28, dtype=dtype)
        cases[dtype] = [each.to(memory_format=torch.channels_last) for each in (images, kernels)]
    seconds = dict.fromkeys(cases, math.inf)
    with torch.inference_mode():
        for _ in range(12):
            for dtype, (images, kernels) in cases.items():
                started = time.thread_time()
                nn.functional.conv2d(images, kernels, padding=1)
                seconds[dtype] = min(seconds[dtype], time.thread_time() - started)
    return seconds[torch.float32] / seconds[torch.bfloat16]
