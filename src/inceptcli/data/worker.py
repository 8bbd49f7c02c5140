"""One decoding process and the handle that the reader holds on it.

Imports nothing heavy, so that ``serve`` can limit numpy's threads before numpy is imported.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from multiprocessing import connection, process
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

Job = TypeVar("Job")
# The parent's to answer; they reach every process of a terminal.
_PARENTS = {
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
}


def serve(pipe: connection.Connection) -> None:
    """Answer every job that comes through ``pipe`` until the other side closes it.

    First comes (look, spec), then (path, want_facts) for each file. Answers are pairs:
    ("ready", None) once; then for each file ("seen", Looked), with the pixels as bytes of their
    own behind it when nothing was rejected, ("memory", None) or ("bug", traceback).
    """
    _settle()
    with contextlib.suppress(EOFError, OSError):  # the reader has gone: so do we
        look, spec = pipe.recv()
        pipe.send(("ready", None))
        while True:
            path, want_facts = pipe.recv()
            try:
                looked, pixels = look(path, spec, want_facts)
            except MemoryError:
                pipe.send(("memory", None))
            except Exception:
                pipe.send(("bug", traceback.format_exc()))
            else:
                pipe.send(("seen", looked))
                if pixels is not None:
                    pipe.send_bytes(pixels.reshape(-1))


def _settle() -> None:
    """Leave signals to the parent, end when it does, keep to one thread."""
    for number in _PARENTS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def _end_with_parent() -> None:
    """End at once when the parent is gone, even if it was killed and a read hangs here."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


class Worker(Generic[Job]):
    """The reader's handle on one process, with the jobs that it was given, oldest first.

    Attributes:
        jobs: Given and not yet answered; the process is busy with the first.
        ready: Whether it has started; a death before that is not a file's doing.
        patience: Seconds that it may still take over the first job.
    """

    def __init__(self, look: Any, spec: Any, *, patience: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        try:
            with _clean_start():
                self._process.start()
        finally:
            theirs.close()
        atexit.register(self.end)  # before multiprocessing's own, which would wait for it
        self.jobs: deque[Job] = deque()
        self.ready = False
        self.patience = patience
        self._send((look, spec))

    def give(self, job: Job, message: Any) -> None:
        """Queue one job; a process that has died is noticed when it is heard."""
        self.jobs.append(job)
        self._send(message)

    def _send(self, message: Any) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def end(self) -> int | None:
        """End the process and return its exit code, negative for a signal."""
        atexit.unregister(self.end)
        self.pipe.close()
        if not self.jobs:
            self._process.join(1)  # it ends by itself; so does one that is dying
        self._process.kill()
        self._process.join(5)
        code = self._process.exitcode
        if code is None:  # stuck in the kernel (a dead network file system): do not wait at exit
            process._children.discard(self._process)  # type: ignore[attr-defined]
        else:
            self._process.close()
        return code


@contextlib.contextmanager
def _clean_start() -> Iterator[None]:
    """Start a process that sees none of these signals and does not run the user's script again.

    The process inherits the signal mask. Python would import the parent's ``__main__`` in it,
    which is the whole command line here, and may be a script without a guard elsewhere.
    """
    main = sys.modules["__main__"]
    mask: set[int] = set()
    if hasattr(signal, "pthread_sigmask"):
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # its start unblocks the signals
        mask |= signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS)
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
