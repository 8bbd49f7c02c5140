"""What a weights file remembers of its training photographs, and whether it has seen one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from inceptcli.data.looks import SHORT_LOOK_BYTES, find_short, short_look

CONTENT_BYTES = 8  # of a file's SHA-256: two of a million files agree by chance once in 10^7 sets
MOST = 8_000_000 // (CONTENT_BYTES + SHORT_LOOK_BYTES)  # files remembered: 250,000 in 8 MB
_NO_DIGEST = bytes(CONTENT_BYTES)
UNKNOWN = _NO_DIGEST + bytes(SHORT_LOOK_BYTES)  # one that stands for all that nobody remembers
Flags = npt.NDArray[np.bool_]
Seen = Literal["copy", "near", ""]


def make_fingerprints(content: Sequence[bytes], looks: Sequence[bytes]) -> bytes:
    """Remember files by content and look, 32 bytes each.

    Args:
        content: SHA-256 of each file's bytes.
        looks: What each looks like, as ``looks.describe`` makes it.

    Returns:
        The first 8 bytes of every digest, then the short looks; of more than ``MOST`` files only
        every second, third, ... one, and ``UNKNOWN`` for the others.
    """
    digests = [digest[:CONTENT_BYTES] for digest in content]
    return _fewer(digests, [short_look(look) for look in looks])


def join_fingerprints(one: bytes, other: bytes) -> bytes:
    """Remember the files of both, as ``make_fingerprints`` does.

    Where one of them is incomplete, the result is.
    """
    parts = [_halves(each) for each in (one, other)]
    content = [each for digests, _ in parts for each in _cut(digests, CONTENT_BYTES)]
    shorts = [each for _, looks in parts for each in _cut(looks, SHORT_LOOK_BYTES)]
    return _fewer(content, shorts)


def _fewer(digests: list[bytes], shorts: list[bytes]) -> bytes:
    """As many as are allowed, one of them ``UNKNOWN`` where any is, or is left out."""
    chosen = slice(None, None, -(-len(digests) // MOST) or 1)
    kept, looks = digests[chosen], shorts[chosen]
    lacking = len(kept) < len(digests) or _NO_DIGEST in digests
    if lacking and _NO_DIGEST not in kept:
        kept[-1], looks[-1] = _NO_DIGEST, bytes(SHORT_LOOK_BYTES)
    return b"".join(kept) + b"".join(looks)


def _halves(fingerprints: bytes) -> tuple[bytes, bytes]:
    """The digests and the short looks.

    Raises:
        ValueError: The length is none of fingerprints.
    """
    count, rest = divmod(len(fingerprints), CONTENT_BYTES + SHORT_LOOK_BYTES)
    if rest:
        raise ValueError(f"{len(fingerprints)} bytes are no whole number of fingerprints")
    return fingerprints[: count * CONTENT_BYTES], fingerprints[count * CONTENT_BYTES :]


def _cut(data: bytes, length: int) -> list[bytes]:
    return [data[at : at + length] for at in range(0, len(data), length)]


class Memory:
    """Fingerprints, ready to be asked.

    Args:
        fingerprints: As ``make_fingerprints`` gives them.

    Attributes:
        complete: Whether they are of all that the network was trained on; not where these were
            too many, or its training began with weights that do not say.

    Raises:
        ValueError: Their length is none that it gives.
    """

    def __init__(self, fingerprints: bytes) -> None:
        digests, looks = _halves(fingerprints)
        pairs = zip(_cut(digests, CONTENT_BYTES), _cut(looks, SHORT_LOOK_BYTES), strict=True)
        known = [(digest, look) for digest, look in pairs if digest != _NO_DIGEST]
        self.complete = len(known) * len(UNKNOWN) == len(fingerprints)
        self._digests = {digest for digest, _ in known}
        self._shorts = b"".join(look for _, look in known)

    def seen(self, content: bytes, look: bytes) -> Seen:
        """Whether the network was trained on this very file, on a near copy of it, or neither."""
        if content[:CONTENT_BYTES] in self._digests:
            return "copy"
        return "near" if bool(find_short(look, self._shorts).any()) else ""


def trained_on(memory: Memory, content: Sequence[bytes], looks: Sequence[bytes]) -> Flags:
    """(N,) bool: which files a network has seen in training, as copies or near copies."""
    pairs = zip(content, looks, strict=True)
    return np.array([memory.seen(digest, look) != "" for digest, look in pairs], np.bool_)
