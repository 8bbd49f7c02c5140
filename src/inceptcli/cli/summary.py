"""``inceptcli summary``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inceptcli import console, show
from inceptcli.cli.options import ARCH_HELP, ARCHS, Json, refuse_typed
from inceptcli.config import one_of
from inceptcli.errors import UsageError


def summary(
    ctx: typer.Context,
    weights: Annotated[
        Path | None, typer.Argument(metavar="WEIGHTS", help="Describe this weights file.")
    ] = None,
    classes: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of classes.")] = 4,
    image_size: Annotated[
        int, typer.Option("--img-size", min=32, max=2048, help="Height and width of the input.")
    ] = 224,
    arch: Annotated[str, typer.Option(metavar="|".join(ARCHS), help=ARCH_HELP)] = "inception_v1",
    batch_size: Annotated[
        int, typer.Option("-b", "--batch-size", min=1, max=100_000, help="For the memory figures.")
    ] = 1,
    blocks: Annotated[
        bool, typer.Option("--blocks", help="The paper's table: one line a block.")
    ] = False,
    tree: Annotated[bool, typer.Option("--tree", help="The module tree.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run two training steps and measure their memory.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Show the network layer by layer, or what a weights file holds.

    Example: inceptcli summary --classes 4
    """
    one_of("--arch", arch, ARCHS)
    if blocks + tree + measure > 1:
        raise UsageError("--blocks, --tree and --measure are three views; give one of them")
    if weights is not None:
        views = ("blocks", "tree", "measure", "classes", "image_size", "arch", "batch_size")
        refuse_typed(ctx, "is for a network by its name; leave out WEIGHTS", *views)
        from inceptcli.model.weights import load_weights

        show.weights_file(load_weights(weights), as_json=as_json, markdown=markdown)
        return
    from inceptcli.model import summary as model

    if tree:
        if as_json:
            raise UsageError("--tree is text; leave out --json, or --tree for the layers as JSON")
        console.result_block(model.module_tree(arch, classes=classes, image_size=image_size))
        return
    if blocks:
        rows = model.block_table(arch, image_size=image_size)
        if arch == "googlenet":
            console.say("torchvision has 3x3 convolutions where the paper and this table say 5x5")
        show.blocks(rows, as_json=as_json, markdown=markdown)
        return
    layers = model.layer_table(arch, classes=classes, image_size=image_size, batch_size=batch_size)
    measured = None
    if measure:
        measured = model.measure_memory(
            arch, classes=classes, image_size=image_size, batch_size=batch_size
        )
    if arch == "inception_v1_aux":
        console.say("as it is trained: files and predictions are without aux1 and aux2")
    show.layers(layers, measured, as_json=as_json, markdown=markdown)
