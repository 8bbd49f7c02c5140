"""The layer table equals the tutorial's; the other tables follow from the paper."""

from __future__ import annotations

import csv
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

import pytest
import torch

from inceptcli.errors import ResourceError, UsageError
from inceptcli.model import summary
from inceptcli.model.summary import (
    block_table,
    layer_table,
    measure_memory,
    module_tree,
    reduction,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def table() -> summary.LayerTable:
    return layer_table("inception_v1", classes=4, image_size=224)


def test_rows_are_the_tutorial_s(table: summary.LayerTable, shared_dir: Path) -> None:
    with open(shared_dir / "reference" / "layers.csv", newline="") as file:
        reference = [tuple(row.values()) for row in csv.DictReader(file)]
    ours = [
        (str(row.index), row.layer, "x".join(map(str, row.output_shape)), str(row.parameters))
        for row in table.rows
    ]
    assert ours == reference


def test_totals_and_memory_are_the_tutorial_s(table: summary.LayerTable) -> None:
    assert len(table.rows) == 193
    assert table.total_parameters == table.trainable_parameters == 7_041_172
    figures = (
        table.input_mb,
        table.forward_backward_mb,
        table.parameters_mb,
        table.total_mb,
    )
    assert [f"{figure:.2f}" for figure in figures] == ["0.57", "69.61", "26.86", "97.05"]


def test_a_block_s_row_comes_after_its_leaves(table: summary.LayerTable) -> None:
    """Six convolutions, norms and ReLUs and a pool are 19 rows; the block is the 20th."""
    places = [row.index for row in table.rows if row.layer == "inception_block"]
    assert places == [25, 45, 66, 86, 106, 126, 146, 167, 187]
    for row in table.rows:
        if row.layer == "inception_block":
            assert (row.parameters, row.mult_adds) == (0, 0)
    names = [row.layer for row in table.rows[-7:]]
    assert names == [
        "inception_block",
        "AvgPool2d",
        "Dropout",
        "Linear",
        "ReLU",
        "Linear",
        "Softmax",
    ]


def test_mult_adds_of_convolutions_are_parameters_times_places(table: summary.LayerTable) -> None:
    assert table.mult_adds == sum(row.mult_adds for row in table.rows)
    for row in table.rows:
        if row.layer == "Conv2d":
            _, height, width = row.output_shape
            assert row.mult_adds == row.parameters * height * width
        elif row.layer == "Linear":
            assert row.mult_adds == row.parameters


def test_memory_scales_with_the_batch_and_parameters_do_not(table: summary.LayerTable) -> None:
    eight = layer_table("inception_v1", classes=4, image_size=224, batch_size=8)
    assert eight.rows == table.rows
    assert eight.mult_adds == table.mult_adds
    assert eight.parameters_mb == table.parameters_mb
    assert eight.input_mb == 8 * table.input_mb
    assert eight.forward_backward_mb == pytest.approx(8 * table.forward_backward_mb, rel=1e-12)


def test_shapes_without_running_are_those_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large images go through torch's meta device, which knows shapes only."""
    run = layer_table("inception_v1", classes=3, image_size=96)
    monkeypatch.setattr(summary, "LARGEST_SIZE_RUN", 0)
    assert layer_table("inception_v1", classes=3, image_size=96) == run


def test_looking_changes_no_random_state() -> None:
    before = torch.random.get_rng_state()
    layer_table("inception_v1", classes=2, image_size=32)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_tutorial_s_example_of_a_reduction() -> None:
    """100x100x128 in, 256 filters of 5x5: 32 channels in between leave about a quarter."""
    example = reduction(inputs=128, reduced=32, outputs=256, kernel_size=5, height=100, width=100)
    weights = 128 * 25 * 256  # 819,200, as the tutorial counts; ours has the biases too
    assert example.parameters_without == weights + 256
    assert example.parameters == 128 * 32 + 32 + 32 * 25 * 256 + 256
    assert example.mult_adds == 10_000 * example.parameters
    assert example.mult_adds_without == 10_000 * example.parameters_without
    assert round(example.parameters / example.parameters_without, 2) == 0.26


def test_a_reduction_counts_as_torch_s_layers_do() -> None:
    layers = [torch.nn.Conv2d(8, 3, 1), torch.nn.Conv2d(3, 5, 3), torch.nn.Conv2d(8, 5, 3)]
    reduce, after, direct = (sum(p.numel() for p in layer.parameters()) for layer in layers)
    result = reduction(inputs=8, reduced=3, outputs=5, kernel_size=3, height=4, width=6)
    assert result == summary.Reduction(reduce + after, direct, 24 * (reduce + after), 24 * direct)


def test_blocks_add_up_to_the_rows_of_the_layer_table(table: summary.LayerTable) -> None:
    rows = iter(table.rows)
    for block in block_table("inception_v1"):
        leaves = []
        for row in rows:
            if row.layer == "inception_block":
                assert row.output_shape == block.output_shape
                assert block.widths.outputs == block.output_shape[0]
                break
            leaves.append(row)
        inside = leaves[-19:]  # 18 rows of six convolutions and the pool of branch 4
        assert sum(row.parameters for row in inside) == block.parameters
        assert sum(row.mult_adds for row in inside) == block.mult_adds


def test_reductions_of_the_blocks_are_their_layers(table: summary.LayerTable) -> None:
    """inception3a's rows: 1x1 at 6, 3x3 reduce and 3x3 at 9 and 12, 5x5 at 15 and 18."""
    first = block_table("inception_v1")[0]
    rows = {row.index: row for row in table.rows}
    assert (first.name, first.widths.one) == ("inception3a", 64)
    assert first.three.parameters == rows[9].parameters + rows[12].parameters
    assert first.five.parameters == rows[15].parameters + rows[18].parameters
    assert first.five.mult_adds == rows[15].mult_adds + rows[18].mult_adds
    assert first.five.parameters_without == 192 * 25 * 32 + 32


def test_the_tree_is_what_the_script_prints() -> None:
    tree = module_tree("inception_v1", classes=4)
    lines = tree.splitlines()
    assert sum("inception_block(" in line for line in lines) == 9
    assert sum("Conv2d(" in line for line in lines) == 57
    assert "    (3): Softmax(dim=1)" in lines
    assert "    (1): AvgPool2d(kernel_size=7, stride=1, padding=0)" in lines


@pytest.mark.parametrize("classes", [1, 7])
def test_classes_change_the_last_layer_only(classes: int, table: summary.LayerTable) -> None:
    other = layer_table("inception_v1", classes=classes)
    assert other.rows[:-2] == table.rows[:-2]
    assert other.rows[-2].parameters == 1025 * classes


def test_measured_memory_holds_at_least_what_training_must_hold() -> None:
    """Weights, gradients and Adam's two moments: four times the parameters, and not far more."""
    measured = measure_memory("inception_v1", classes=2, image_size=32, batch_size=2)
    least = 4 * 4 * 7_000_000
    assert least < measured.peak_bytes < 4 * least
    assert (measured.device, measured.batch_size) == ("cpu", 2)


def test_one_image_of_32_pixels_cannot_be_measured() -> None:
    with pytest.raises(UsageError, match="--batch-size 2"):
        measure_memory("inception_v1", classes=2, image_size=32, batch_size=1)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError(), BrokenProcessPool()])
def test_too_little_memory_names_a_batch_that_may_fit(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(summary, "ProcessPoolExecutor", fail)
    with pytest.raises(ResourceError, match="--batch-size 256") as caught:
        measure_memory("inception_v1", classes=2, image_size=224, batch_size=512)
    assert caught.value.exit_code == 7
