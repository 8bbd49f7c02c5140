"""What the decoding processes of the tests do with a file: as its name says.

A module of its own, because the processes import it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from inceptcli.data import reader


def look(path: Path, spec: reader.PixelSpec, want_facts: bool) -> Any:
    """Do what the file's name says, then what the real one does; "once": not a second time."""
    kind = path.stem.split("_")[0]
    if not kind.endswith("once") or _is_first(path):
        _misbehave(kind)
    if kind == "modules":
        detail = f"torch: {'torch' in sys.modules} threads: {os.environ['OMP_NUM_THREADS']}"
        return reader.Looked(0, None, None, "modules", detail), None
    return reader.look(path, spec, want_facts)


def _misbehave(kind: str) -> None:
    if kind.startswith("segfault"):
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind.startswith("memory"):
        raise MemoryError
    elif kind.startswith("hang"):
        time.sleep(3600)
    elif kind.startswith("slow"):
        time.sleep(0.05)
    elif kind.startswith("bug"):
        raise ZeroDivisionError("a mistake of ours")


def hang_later(path: Path, spec: reader.PixelSpec, want_facts: bool) -> Any:
    """Hang over "later" files from the second look on."""
    if path.stem.startswith("later") and not _is_first(path):
        time.sleep(3600)
    return reader.look(path, spec, want_facts)


def _is_first(path: Path) -> bool:
    try:
        (Path(os.environ["READER_FAULTS"]) / path.name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
