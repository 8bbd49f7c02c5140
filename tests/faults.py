"""Make the k-th call of one kind fail, among those by which ``files`` writes."""

from __future__ import annotations

import os
from typing import Any

from inceptcli import files


class FaultySystem:
    """Stands in for what ``files.system`` is now: ``monkeypatch.setattr(files, "system", ...)``.

    Args:
        call: The name of the call that fails: open, write, fsync, close, replace or unlink.
        k: Which one of them, from 1.
        code: The errno it fails with, or None: that write takes half of its bytes.
        later: The errno of every call of that name after the k-th, or None.
    """

    def __init__(self, call: str, k: int, code: int | None, *, later: int | None = None) -> None:
        self._call, self._k, self._code, self._later = call, k, code, later
        self._real = files.system
        self._count = 0

    @property
    def fired(self) -> bool:
        return self._count >= self._k

    def __getattr__(self, name: str) -> Any:
        return self._faulty if name == self._call else getattr(self._real, name)

    def _faulty(self, *args: Any) -> Any:
        self._count += 1
        now = self._count == self._k
        code = self._code if now else self._later if self.fired else None
        real = getattr(self._real, self._call)
        if code is None:
            if now:  # a short write
                descriptor, data = args
                args = (descriptor, data[: len(data) // 2])
            return real(*args)
        if self._call == "close":  # Linux has given the number back whatever close returns
            real(*args)
        raise OSError(code, os.strerror(code))
