"""What this process may use of the machine: processors and memory, control groups obeyed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def default_workers() -> int:
    """Decoding processes for each process that torchrun has started here, at least one.

    Counts the processors that this process may use (affinity) and its control group's quota.
    """
    count = float(os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # another system, or "max"
        quota, period = (_GROUP / "cpu.max").read_text().split()
        count = min(count, int(quota) / int(period))
    return max(1, round(count) // processes_here())


def processes_here() -> int:
    """How many processes torchrun has started on this machine, 1 without it."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def process_count() -> int:
    """How many processes torchrun has started in all, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def free_memory() -> int:
    """Bytes that this process may take now, its share when torchrun started several here."""
    free = _free_in_system()
    with suppress(OSError, ValueError):  # no control group, or one without a limit
        limit = int((_GROUP / "memory.max").read_text())
        used = int((_GROUP / "memory.current").read_text())
        statistics = (_GROUP / "memory.stat").read_text().split()
        cached = int(statistics[statistics.index("inactive_file") + 1])  # given back when needed
        free = min(free, max(0, limit - used + cached))
    return free // processes_here()


def _free_in_system() -> int:
    with suppress(OSError, ValueError):
        words = Path("/proc/meminfo").read_text().split()
        return int(words[words.index("MemAvailable:") + 1]) << 10
    try:  # macOS does not tell without its own tools: half of what is built in
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return 4 << 30  # Windows
