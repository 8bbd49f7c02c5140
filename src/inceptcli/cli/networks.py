"""What ``-m`` names: one network or several, ready to answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from inceptcli import console
from inceptcli.errors import UsageError
from inceptcli.files import printable
from inceptcli.runfolder import find_weights

if TYPE_CHECKING:
    from inceptcli.config import Tta
    from inceptcli.engine.device import Device
    from inceptcli.engine.infer import Loaded
    from inceptcli.engine.predict import Network


def members_of(
    model: list[Path] | None,
    device: str | None,
    precision: str | None,
    *,
    classes: tuple[str, ...],
    raw: bool,
) -> tuple[list[Network], Device | None]:
    """The networks that ``-m`` names, each said, and what torch runs them on."""
    paths = find_weights(model or [])
    found = [network_of(path, device, precision, classes=classes, raw=raw) for path in paths]
    if classes and all(network.names_itself for network, _ in found):
        raise UsageError(
            f"{printable(str(paths[0]))} names its own classes; leave out --class-names "
            "and --classes-from"
        )
    on = next((on for _, on in found if on is not None), None)
    if speaks(on):
        for network, _ in found:
            console.say(f"weights: {network.path}")
    if on is not None and on.is_first:
        console.say(f"computing on {on.torch_device} in {on.precision}")
    return [network for network, _ in found], on


def speaks(on: Device | None) -> bool:
    """Whether this is the only process, or the one of torchrun's that prints and writes."""
    return on is None or on.is_first


def averaged(members: list[Network], tta: str) -> Network:
    """One network that answers for all of them, in all views."""
    if len(members) == 1 and tta == "none":
        return members[0]
    from inceptcli.engine.committee import average

    option = "-m, several times," if len(members) > 1 else "--tta"
    return average([weights_of(member, option) for member in members], cast("Tta", tta))


def network_of(
    path: Path,
    device: str | None,
    precision: str | None,
    *,
    classes: tuple[str, ...] = (),
    raw: bool = False,
) -> tuple[Network, Device | None]:
    """A network and what torch runs it on; an exported one needs neither torch nor a device."""
    from inceptcli.engine import onnx

    if onnx.is_exported(path):
        onnx.check_options(device, precision)
        return onnx.load_onnx(path, raw=raw), None
    from inceptcli.engine.device import choose_device
    from inceptcli.engine.infer import load_network

    on = choose_device(device or "auto", precision or "auto")
    return load_network(path, classes=classes, raw=raw), on


def one_of_them(paths: list[Path], option: str) -> Path:
    """The weights file where one network is wanted.

    Raises:
        UsageError: A run of several trainings was named.
    """
    if len(paths) > 1:
        from inceptcli.data.labels import listed

        names = listed([str(path) for path in paths])
        raise UsageError(f"{option} takes one network, and here are {len(paths)}: {names}")
    return paths[0]


def weights_of(network: Network, option: str) -> Loaded:
    """The network as torch has it.

    Raises:
        UsageError: It is an exported one.
    """
    from inceptcli.engine.infer import Loaded

    if not isinstance(network, Loaded):
        raise UsageError(
            f"{option} needs the weights themselves, and an exported network cannot be looked "
            "into; give the weights file as -m"
        )
    return network


def _distinct(names: list[str]) -> tuple[str, ...]:
    if "" in names or len(set(names)) < len(names):
        raise UsageError("--class-names: each name once and none empty, as in daisy,rose,tulip")
    return tuple(names)


def classes_of(names: str | None, folder: Path | None) -> tuple[str, ...]:
    """Class names that were given for a weights file without a record."""
    if names is not None and folder is not None:
        raise UsageError("--class-names and --classes-from say the same; give one of them")
    if names is not None:
        return _distinct([name.strip() for name in names.split(",")])
    if folder is None:
        return ()
    from inceptcli.data.folder import scan

    return scan(folder).classes
