"""The weights that torchvision publishes for its GoogLeNet, from torch's cache or its server."""

from __future__ import annotations

import hashlib
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.hub import get_dir, load_state_dict_from_url
from torchvision.models import GoogLeNet_Weights

from inceptcli.errors import WeightsError
from inceptcli.files import printable, read_regular
from inceptcli.model.archive import MAX_BYTES
from inceptcli.model.weights import Weights, check_tensors

IMAGENET_URL: str = GoogLeNet_Weights.IMAGENET1K_V1.url
TIMEOUT_SECONDS = 30.0  # without a byte from the server


def imagenet_weights(url: str = IMAGENET_URL) -> Weights:
    """Weights of ``googlenet`` trained on ImageNet, 1,000 classes.

    torch.hub's cache is asked first, and its file compared with the hash in its name; without
    one torch.hub downloads it there and compares likewise. Read with ``weights_only``.

    Args:
        url: Its name ends in ``-HASH.pth``, the first digits of the file's SHA-256.

    Raises:
        WeightsError: It cannot be downloaded, is another file, or is damaged.
    """
    path = Path(get_dir()) / "checkpoints" / url.rpartition("/")[2]
    shown = printable(str(path))
    if path.exists():
        _check_hash(path)
    try:
        with _patience(), redirect_stdout(sys.stderr):  # torch.hub says that it downloads
            state = load_state_dict_from_url(
                url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
    except MemoryError:
        raise
    except Exception as error:  # of the network, the disk, the hash, or torch's reader
        reason = printable(str(error).partition("\n")[0])[:200]
        raise WeightsError(
            f"cannot get torchvision's weights: {reason}; download {url} elsewhere and put it at "
            f"{shown}"
        ) from error
    try:
        tensors, outputs = check_tensors(_with_counts(state), arch="googlenet")
    except ValueError as error:
        raise WeightsError(f"cannot use {shown} as weights: {error}") from error
    return Weights(path, tensors, None, None, None, outputs=outputs, arch="googlenet")


def _check_hash(path: Path) -> None:
    """Compare a file with the hash in its name; torch.hub does so after a download only."""
    wanted = path.stem.rpartition("-")[2]
    try:
        found = hashlib.sha256(read_regular(path, max_bytes=MAX_BYTES)).hexdigest()
    except OSError as error:
        reason = printable(error.strerror or str(error))
        raise WeightsError(f"cannot read {printable(str(path))}: {reason}") from error
    if not found.startswith(wanted):
        raise WeightsError(
            f"{printable(str(path))} is damaged or another file: its SHA-256 begins with "
            f"{found[: len(wanted)]}, not {wanted}; delete it and try again"
        )


def _with_counts(state: Any) -> Any:
    """The tensors, and a zero for each count of batches that torch before 0.4.1 did not keep."""
    if not isinstance(state, dict):
        return state
    ends = (".running_var", ".num_batches_tracked")
    zeros = {
        key.removesuffix(ends[0]) + ends[1]: torch.tensor(0)
        for key in state
        if isinstance(key, str) and key.endswith(ends[0])
    }
    tensors: dict[Any, Tensor] = zeros | state
    return tensors


@contextmanager
def _patience() -> Iterator[None]:
    """Give up on a server that does not answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
