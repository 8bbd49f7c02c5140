"""Prediction by torchrun's processes: each its share of the inputs, one ordered output.

Every process lists the inputs for itself and takes every ``world``-th block of them; the first
one gives the rows in the order of the inputs, its own and those that it is sent. A block is sent
when the first process asks for it, so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from torch import distributed as dist

from inceptcli.engine.device import Device
from inceptcli.engine.predict import Answer, Input, Network, Prediction, Question, predict
from inceptcli.errors import DataError
from inceptcli.files import printable

BLOCK = 64  # inputs; only the last block of all is shorter


def predict_shared(
    listing: Callable[[], Iterable[Input]],
    network: Network,
    answer: Answer,
    question: Question,
    device: Device,
) -> Iterator[Prediction]:
    """One prediction an input, in order, in the first process; none in the others.

    Args:
        listing: Lists the inputs, the same each time and in every process.
        network: See ``predict``.
        answer: See ``predict``.
        question: See ``predict``.
        device: Says which of how many processes this is.

    Raises:
        DataError: The processes do not find the same inputs.
    """
    rows = predict(_share(listing(), device), network, answer, question)
    if not device.is_first:
        while block := list(islice(rows, BLOCK)):
            dist.send_object_list([block], dst=0)
        dist.send_object_list([[]], dst=0)
        return
    for number, block_inputs in enumerate(_blocks(listing())):
        sender = number % device.world
        found = _received(sender) if sender else list(islice(rows, BLOCK))
        _check(block_inputs, found, sender)
        yield from found
    for sender in range(1, device.world):
        _check([], _received(sender), sender)


def _share(inputs: Iterable[Input], device: Device) -> Iterator[Input]:
    for number, block in enumerate(_blocks(inputs)):
        if number % device.world == device.rank:
            yield from block


def _blocks(inputs: Iterable[Input]) -> Iterator[list[Input]]:
    rest = iter(inputs)
    while block := list(islice(rest, BLOCK)):
        yield block


def _received(sender: int) -> list[Prediction]:
    box: list[list[Prediction]] = [[]]
    dist.recv_object_list(box, src=sender)
    return box[0]


def _check(wanted: list[Input], found: list[Prediction], sender: int) -> None:
    if (names := [each.path for each in wanted]) != [row.path for row in found]:
        odd = printable((names or [row.path for row in found])[0])
        raise DataError(
            f"process {sender} lists other inputs than the first, from {odd} on; let all see the "
            "same folders and nobody change them meanwhile"
        )
