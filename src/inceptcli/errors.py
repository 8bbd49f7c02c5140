"""What can go wrong, each with its exit code.

InceptcliError            1   a bug, when nothing below fits
├── UsageError            2   an option or argument is wrong
├── DataError             3   the photographs or their labels cannot be used
├── WeightsError          4   a weights or state file cannot be used
├── OutputError           5   something could not be written, or is in use
├── DivergedError         6   training left the finite numbers
├── ResourceError         7   memory, device or workers were not to be had
├── PartialError          8   some inputs failed, the others are done
└── StoppedError      128+n   signal n ended the work in good order

A message is one line: what, where, what to do next. Only ``cli`` turns one into an exit.
"""

from __future__ import annotations


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the machine or of a GPU ran out; torch has no one class for it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (
            isinstance(error, RuntimeError)
            and any(text in str(error) for text in ("DefaultCPUAllocator", "out of memory"))
        )
    )


class InceptcliError(Exception):
    """A failure that its user can understand. ``str(error)`` is the line to print."""

    exit_code = 1


class UsageError(InceptcliError):
    """An option or argument is wrong, or two do not go together."""

    exit_code = 2


class DataError(InceptcliError):
    """The photographs, their folders or their labels cannot be used."""

    exit_code = 3


class WeightsError(InceptcliError):
    """A weights or state file is damaged, hostile, or made for something else."""

    exit_code = 4


class OutputError(InceptcliError):
    """A result could not be written, or its folder belongs to another run."""

    exit_code = 5


class DivergedError(InceptcliError):
    """A loss or a weight is no longer a finite number."""

    exit_code = 6


class ResourceError(InceptcliError):
    """Memory, a device or a worker process was not to be had."""

    exit_code = 7


class PartialError(InceptcliError):
    """Some inputs failed; the results of the others are complete."""

    exit_code = 8


class StoppedError(InceptcliError):
    """A signal ended the work in good order.

    Args:
        message: The line to print, with the command that goes on.
        signum: The signal's number; the exit code is 128 more.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum
