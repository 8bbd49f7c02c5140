"""The next item prepared in a thread while this one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
_PATIENCE = 2.0  # seconds for an item that was told that nobody wants it


def ahead(
    items: Iterable[T], *, depth: int = 1, left: threading.Event | None = None
) -> Generator[T, None, None]:
    """Yield ``items`` in order, prepared in a thread up to ``depth`` ahead.

    What the thread raises is raised here. Leaving early ends the thread after the item in hand.
    Use ``contextlib.closing`` where an exception may leave.

    Args:
        items: What is prepared.
        depth: How many may wait.
        left: Set when the consumer leaves early, for an item that takes long and asks. One that
            does not hear, as a read that hangs, is then left to its thread.
    """
    source = iter(items)
    ready: queue.SimpleQueue[tuple[list[T], BaseException | None]] = queue.SimpleQueue()
    room = threading.Semaphore(depth)
    asked, left = left is not None, left or threading.Event()

    def prepare() -> None:
        try:
            while room.acquire() and not left.is_set():
                ready.put(([next(source)], None))
        except BaseException as error:  # StopIteration too: it ends the consumer
            ready.put(([], error))

    thread = threading.Thread(target=prepare, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            room.release()
            yield from item
    except BaseException:
        left.set()
        raise
    finally:
        room.release()
        thread.join(_PATIENCE if asked else None)
        if isinstance(source, Generator) and not thread.is_alive():
            source.close()  # decoding processes end with it
