"""The weights remember their data: copies and near copies of training photographs are known."""

from __future__ import annotations

import hashlib

import pytest

from copies import photograph
from inceptcli.data.fingerprints import Memory, make_fingerprints, trained_on
from inceptcli.data.looks import describe


def test_copies_and_near_copies_are_known_and_strangers_are_not() -> None:
    pictures = [photograph(seed, side=160) for seed in range(40)]
    content = [hashlib.sha256(picture.tobytes()).digest() for picture in pictures]
    looks = [describe(picture) for picture in pictures]
    prints = make_fingerprints(content[:20], looks[:20])
    assert len(prints) == 20 * 32
    memory = Memory(prints)
    assert {memory.seen(*pair) for pair in zip(content[:20], looks[:20], strict=True)} == {"copy"}
    assert not trained_on(memory, content[20:], looks[20:]).any()
    smaller = [describe(picture.resize((120, 120))) for picture in pictures[:20]]
    assert {memory.seen(b"another", look) for look in smaller} == {"near"}


def test_damaged_fingerprints_are_refused() -> None:
    with pytest.raises(ValueError, match="no whole number"):
        Memory(b"x" * 33)
