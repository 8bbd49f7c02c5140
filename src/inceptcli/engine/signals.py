"""Ctrl-C, SIGTERM and a terminal that closes.

A training stops in good order, every other work is given up cleanly.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Self

# A terminal that closes; shell and system may both send it. Under nohup it is ignored.
_HANGUP = getattr(signal, "SIGHUP", None)
_HEARD = _HANGUP is not None and signal.getsignal(_HANGUP) != signal.SIG_IGN
SIGNALS = (signal.SIGINT, signal.SIGTERM, *((_HANGUP,) if _HEARD else ()))


class Interrupted(BaseException):
    """A signal came: temporary files and processes are put away on the way out.

    Attributes:
        signum: Its number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def leave(signum: int, _frame: FrameType | None) -> None:
    """End the process at once, with one line."""
    with suppress(OSError):
        os.write(2, b"error: stopped\n")
    os._exit(128 + signum)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, each of ``SIGNALS`` raises ``Interrupted`` wherever the main thread is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    at = frame
    while at is not None:
        if at.f_globals.get("__name__") == "importlib._bootstrap":
            leave(signum, frame)  # torch aborts or goes wrong when its import is cut short
        at = at.f_back
    if signum == _HANGUP:
        signal.signal(signum, signal.SIG_IGN)  # it comes twice, and what is put away goes on
    raise Interrupted(signum)


class StopRequest:
    """Inside ``with``, a first one of ``SIGNALS`` only sets ``signum``; work goes on until asked.

    A second one, but for that of a terminal that closes, ends the process at once with 128 + its
    number: whatever lies on the disk was written atomically, so nothing is half there.

    Attributes:
        signum: The signal that came, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, object] = {}

    def __bool__(self) -> bool:
        """Whether a stop has been asked for."""
        return self.signum is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() gave
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, StopRequest):  # it goes on, and must know
                outer.signum = outer.signum or self.signum

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is not None:
            if signum == _HANGUP:
                return  # the same once more
            os._exit(128 + signum)
        self.signum = signum
