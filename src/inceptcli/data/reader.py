"""The one pool of decoding processes: paths in, pixels and facts out, in the same order.

A file that kills its decoder, or hangs in it, costs that file and nothing else. Memory is
bounded however many paths there are, because they are pulled only as results are taken.
"""

from __future__ import annotations

import hashlib
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

import numpy as np

from inceptcli.config import Resize
from inceptcli.data.image import Pixels, Reason, RejectedImage, decode, fit
from inceptcli.data.worker import Worker
from inceptcli.errors import InceptcliError, ResourceError
from inceptcli.files import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

_JOBS_EACH = 2  # the next file waits in the process's own pipe
_WINDOW_BYTES = 64 << 20  # finished pixels that may wait for a slower file before them
_POLL_SECONDS = 0.2
_START_SECONDS = 120.0
_MAX_FAILED_STARTS = 3
# SIGHUP, SIGKILL, SIGTERM; on Windows, and from Python itself, 1. Anything else is a crash.
_ENDED_FROM_OUTSIDE = (-1, -9, -15, 0, 1)


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """What becomes of a picture: square size in pixels, how it is fitted, the largest allowed."""

    image_size: int
    resize: Resize
    max_megapixels: float = 150


@dataclass(frozen=True, slots=True)
class Facts:
    """What one look at a file tells. Width and height are upright, before any reduction.

    Attributes:
        content_sha256: Of the file's bytes.
        pixel_sha256: Of the decoded pixels; comparable among facts of one image size, because
            a JPEG far larger than needed is decoded at reduced scale.
        look: The perceptual description of ``looks.describe``.
    """

    content_sha256: bytes
    pixel_sha256: bytes
    look: bytes
    width: int
    height: int
    format: str
    mode: str
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Looked:
    """One file read: pixels uint8 (S, S, 3), or the reason why there are none.

    ``content_sha256`` is there whenever pixels are; ``facts`` only when they were asked for.
    """

    index: int
    pixels: Pixels | None
    facts: Facts | None
    reason: str | None
    detail: str
    content_sha256: bytes = b""


class StoppingError(Exception):
    """``stopping()`` became true while files were being read; what was read so far is given."""


def never() -> bool:
    """The default ``stopping``."""
    return False


def read(
    paths: Iterable[Path],
    spec: PixelSpec,
    *,
    workers: int,
    want_facts: bool = False,
    stopping: Callable[[], bool] = never,
) -> Iterator[Looked]:
    """Read files with processes of this call's own; see :class:`Reader`."""
    with Reader(spec, workers=workers, stopping=stopping) as reader:
        yield from reader.read(paths, want_facts=want_facts)


def look(path: Path, spec: PixelSpec, want_facts: bool) -> tuple[Looked, Pixels | None]:
    """Open, describe and fit one file, in whatever process this is."""
    try:
        decoded = decode(path, at_least=spec.image_size, max_megapixels=spec.max_megapixels)
        pixels = fit(decoded.image, size=spec.image_size, resize=spec.resize)
    except RejectedImage as rejected:
        return Looked(0, None, None, rejected.reason, rejected.detail), None
    facts = None
    if want_facts:
        from inceptcli.data.looks import describe

        image = decoded.image
        size = b"%dx%d " % image.size
        facts = Facts(
            content_sha256=decoded.content_sha256,
            pixel_sha256=hashlib.sha256(size + image.tobytes()).digest(),
            look=describe(image),
            width=decoded.width,
            height=decoded.height,
            format=decoded.format,
            mode=decoded.mode,
            flags=decoded.flags,
        )
    return Looked(0, None, facts, None, "", decoded.content_sha256), np.ascontiguousarray(pixels)


@dataclass(slots=True)
class _Job:
    index: int
    path: Path
    want_facts: bool
    failures: int = 0  # processes that died over it, or ran out of memory


class Reader:
    """Decoding processes that stay for several calls of :meth:`read`; close it, or use ``with``.

    Args:
        spec: What becomes of each picture.
        workers: Processes; 0 reads in this one, without protection from crashes and hangs.
        timeout: Seconds that one file may take in a process.
        stopping: Asked several times a second; true ends reading with ``StoppingError``.
        look: What a process does with a file; tests put a worse one here.
    """

    def __init__(
        self,
        spec: PixelSpec,
        *,
        workers: int,
        timeout: float = 60,
        stopping: Callable[[], bool] = never,
        look: Callable[..., Any] = look,
    ) -> None:
        self._spec = spec
        self._count = workers
        self._timeout = timeout
        self._stopping = stopping
        self._look = look
        self._workers: list[Worker[_Job]] = []
        self._again: deque[_Job] = deque()
        self._failed_starts = 0
        self._window = max(
            _JOBS_EACH * workers, min(16 * workers, _WINDOW_BYTES // (3 * spec.image_size**2))
        )

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes. The next ``read`` would start new ones."""
        for worker in self._workers:
            worker.pipe.close()  # an idle one ends by itself, all at the same time
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        self._again.clear()

    def read(self, paths: Iterable[Path], *, want_facts: bool = False) -> Iterator[Looked]:
        """Yield one :class:`Looked` for each path, in order; one call at a time.

        Raises:
            ResourceError: Memory ran out, or something ended the process, twice over one file.
            StoppingError: ``stopping()`` became true.
        """
        jobs = (_Job(index, path, want_facts) for index, path in enumerate(paths))
        return self._read_apart(jobs) if self._count else self._read_here(jobs)

    def _read_here(self, jobs: Iterator[_Job]) -> Iterator[Looked]:
        for job in jobs:
            looked = None
            while looked is None:
                self._check_stopping()
                try:
                    looked, pixels = self._look(job.path, self._spec, job.want_facts)
                except MemoryError:
                    self._blame(job, None)
            yield replace(looked, index=job.index, pixels=pixels)

    def _read_apart(self, jobs: Iterator[_Job]) -> Iterator[Looked]:
        done: dict[int, Looked] = {}
        first = self._given = 0  # the index to yield next, the one to give out next
        try:
            while self._give_out(jobs, before=first + self._window):
                for looked in self._take_in():
                    done[looked.index] = looked
                while first in done:
                    yield done.pop(first)
                    first += 1
        finally:  # left early, the files in hand are nobody's: their processes end
            if self._again or any(worker.jobs for worker in self._workers):
                self.close()

    def _give_out(self, jobs: Iterator[_Job], *, before: int) -> bool:
        """Fill the processes' pipes with jobs of lower index; false when all work is done."""
        while (worker := self._roomiest()) is None or len(worker.jobs) < _JOBS_EACH:
            job = self._next_job(jobs, before)
            if job is None:
                break
            if worker is None:
                worker = self._start()
            if worker.ready and not worker.jobs:
                worker.patience = self._timeout
            worker.give(job, (job.path, job.want_facts))
        return any(worker.jobs for worker in self._workers)

    def _roomiest(self) -> Worker[_Job] | None:
        """The process with the fewest jobs, or None when one more should be started."""
        fewest = min(self._workers, key=lambda worker: len(worker.jobs), default=None)
        if fewest is not None and fewest.jobs and len(self._workers) < self._count:
            return None
        return fewest

    def _next_job(self, jobs: Iterator[_Job], before: int) -> _Job | None:
        if self._again:
            return self._again.popleft()
        job = next(jobs, None) if self._given < before else None
        self._given += job is not None
        return job

    def _start(self) -> Worker[_Job]:
        try:
            worker: Worker[_Job] = Worker(self._look, self._spec, patience=_START_SECONDS)
        except OSError as error:
            raise ResourceError(
                f"cannot start a decoding process: {error.strerror}; use fewer --workers"
            ) from error
        self._workers.append(worker)
        return worker

    def _take_in(self) -> Iterator[Looked]:
        """Hear every process that has something to say, end those that took too long."""
        before = time.monotonic()
        heard = connection.wait([worker.pipe for worker in self._workers], _POLL_SECONDS)
        self._check_stopping()
        # A suspended computer or a stopped job has not been waiting: no more than a second counts.
        passed = min(time.monotonic() - before, 1.0)
        for worker in list(self._workers):
            if worker.pipe in heard:
                looked = self._hear(worker)
            elif worker.jobs:
                worker.patience -= passed
                looked = self._end_hung(worker) if worker.patience <= 0 else None
            else:
                looked = None
            if looked is not None:
                yield looked

    def _hear(self, worker: Worker[_Job]) -> Looked | None:
        pixels = None
        try:
            kind, value = worker.pipe.recv()
            if kind == "seen" and value.reason is None:
                pixels = np.empty((self._spec.image_size, self._spec.image_size, 3), np.uint8)
                worker.pipe.recv_bytes_into(pixels.reshape(-1))
        except (EOFError, OSError):
            return self._bury(worker)
        worker.patience = self._timeout
        if kind == "ready":
            worker.ready, self._failed_starts = True, 0
            return None
        job = worker.jobs.popleft()
        if kind == "seen":
            looked: Looked = value
            return replace(looked, index=job.index, pixels=pixels)
        if kind == "memory":
            return self._blame(job, None)
        line = printable(value.strip().splitlines()[-1])
        raise InceptcliError(
            f"a bug of this program stopped it at {printable(str(job.path))}: {line}"
        ) from RuntimeError(value)

    def _bury(self, worker: Worker[_Job]) -> Looked | None:
        """A process has died: its first file is looked at again once, the others as they were."""
        code, job = self._end(worker), None
        if worker.ready:
            job = worker.jobs.popleft() if worker.jobs else None
        else:
            self._failed_starts += 1
            if self._failed_starts == _MAX_FAILED_STARTS:
                raise ResourceError(
                    f"decoding processes die at their start ({_how(code)}); try --workers 0"
                )
        self._again.extendleft(reversed(worker.jobs))
        return None if job is None else self._blame(job, code)

    def _end_hung(self, worker: Worker[_Job]) -> Looked | None:
        if not worker.ready:
            return self._bury(worker)
        self._end(worker)
        job = worker.jobs.popleft()
        self._again.extendleft(reversed(worker.jobs))
        detail = f"not read within {self._timeout:g} s"
        return Looked(job.index, None, None, Reason.DECODER_TIMEOUT, detail)

    def _end(self, worker: Worker[_Job]) -> int | None:
        self._workers.remove(worker)
        return worker.end()

    def _blame(self, job: _Job, code: int | None) -> Looked | None:
        """Try a file again after its first failure; the second is its own, or the machine's.

        Args:
            job: The file in hand.
            code: How its process ended; None when it ran out of memory and lives.
        """
        job.failures += 1
        if job.failures == 1:
            self._again.appendleft(job)
            return None
        name = printable(str(job.path))
        if code is None:
            raise ResourceError(f"not enough memory to decode {name}; use fewer --workers")
        if code in _ENDED_FROM_OUTSIDE:
            raise ResourceError(
                f"the process decoding {name} was ended from outside twice ({_how(code)}), "
                "perhaps for want of memory; use fewer --workers"
            )
        return Looked(job.index, None, None, Reason.DECODER_CRASH, _how(code))

    def _check_stopping(self) -> None:
        if self._stopping():
            raise StoppingError


def _how(code: int | None) -> str:
    """How a process ended, as text."""
    with suppress(ValueError):
        return signal.Signals(-code if code else 0).name
    return f"exit code {code}"
