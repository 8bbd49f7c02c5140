"""The network has the tutorial's keys, shapes and numbers."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional

from inceptcli.model.inception import ARCHITECTURES, BLOCKS, InceptionBlock, InceptionV1, build

if TYPE_CHECKING:
    from pathlib import Path

# The paper's table 1 (arXiv:1409.4842), written down a second time.
PAPER = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


def expected_shapes(classes: int) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the tutorial's ``state_dict``, from its description alone."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    def convolution(name: str, at: int, inputs: int, outputs: int, kernel: int) -> None:
        layer(f"{name}.{at}", outputs, inputs, kernel, kernel)
        layer(f"{name}.{at + 1}", outputs)
        shapes[f"{name}.{at + 1}.running_mean"] = (outputs,)
        shapes[f"{name}.{at + 1}.running_var"] = (outputs,)
        shapes[f"{name}.{at + 1}.num_batches_tracked"] = ()

    layer("conv1", 64, 3, 7, 7)
    layer("conv2", 64, 64, 1, 1)
    layer("conv3", 192, 64, 3, 3)
    for name, (inputs, one, reduce3, three, reduce5, five, pool) in PAPER.items():
        block = f"inception{name}" + (".0" if name == "5b" else "")
        convolution(f"{block}.branch1", 0, inputs, one, 1)
        convolution(f"{block}.branch2", 0, inputs, reduce3, 1)
        convolution(f"{block}.branch2", 3, reduce3, three, 3)
        convolution(f"{block}.branch3", 0, inputs, reduce5, 1)
        convolution(f"{block}.branch3", 3, reduce5, five, 5)
        convolution(f"{block}.branch4", 1, inputs, pool, 1)
    layer("classifier.0", 1024, 1024)
    layer("classifier.2", classes, 1024)
    return shapes


@pytest.mark.parametrize("classes", [1, 4, 1000])
def test_keys_and_shapes_follow_the_description(classes: int) -> None:
    with torch.device("meta"):
        state = build("inception_v1", classes, 224).state_dict()
    assert [(key, tuple(value.shape)) for key, value in state.items()] == list(
        expected_shapes(classes).items()
    )


def test_keys_shapes_dtypes_and_order_are_the_tutorial_file_s(shared_dir: Path) -> None:
    with open(shared_dir / "reference" / "state_dict.csv", newline="") as file:
        rows = [(row["key"], row["shape"], row["dtype"]) for row in csv.DictReader(file)]
    with torch.device("meta"):
        state = InceptionV1(4, softmax=True).state_dict()
    ours = [
        (key, "x".join(map(str, value.shape)) or "scalar", str(value.dtype).removeprefix("torch."))
        for key, value in state.items()
    ]
    assert len(rows) == 388
    assert ours == rows


def test_the_tutorial_network_has_7_041_172_parameters() -> None:
    with torch.device("meta"):
        network = InceptionV1(4)
    counts = [parameter.numel() for parameter in network.parameters() if parameter.requires_grad]
    assert sum(counts) == 7_041_172
    # and the same by hand: convolutions and linear layers with biases, two numbers a normalised
    # channel
    trained = {k: s for k, s in expected_shapes(4).items() if k.endswith((".weight", ".bias"))}
    assert sum(torch.Size(shape).numel() for shape in trained.values()) == 7_041_172


def test_a_block_is_the_paper_s_four_branches() -> None:
    """Against the same sums written with functions, branch by branch."""
    torch.manual_seed(0)
    block = InceptionBlock(BLOCKS["inception3a"]).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    state = block.state_dict()

    def step(x: torch.Tensor, branch: int, at: int) -> torch.Tensor:
        name, norm = f"branch{branch}.{at}", f"branch{branch}.{at + 1}"
        kernel = state[f"{name}.weight"].shape[-1]
        x = functional.conv2d(
            x, state[f"{name}.weight"], state[f"{name}.bias"], padding=kernel // 2
        )
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + 1e-5)
        x = (x - state[f"{norm}.running_mean"][:, None, None]) * scale[:, None, None]
        return torch.clamp(x + state[f"{norm}.bias"][:, None, None], min=0)

    x = torch.randn(2, 192, 5, 5)
    padded = functional.pad(x, (1, 1, 1, 1), value=-torch.inf)
    pooled = padded.unfold(2, 3, 1).unfold(3, 3, 1).amax(dim=(-2, -1))
    branches = [
        step(x, 1, 0),
        step(step(x, 2, 0), 2, 3),
        step(step(x, 3, 0), 3, 3),
        step(pooled, 4, 1),
    ]
    with torch.no_grad():
        torch.testing.assert_close(block(x), torch.cat(branches, dim=1), rtol=1e-4, atol=1e-5)


def test_the_softmax_is_the_tutorial_s_and_adds_no_key() -> None:
    torch.manual_seed(0)
    plain, ending = (
        InceptionV1(3, image_size=32).eval(),
        InceptionV1(3, image_size=32, softmax=True),
    )
    ending.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        probabilities = ending.eval()(images)
        torch.testing.assert_close(probabilities, plain(images).softmax(dim=1))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))


def test_the_adaptive_pool_is_the_tutorial_s_at_its_size() -> None:
    """224 px ends in AvgPool2d(7); another size's network, given 224 px, agrees with it."""
    torch.manual_seed(0)
    fixed, adaptive = build("inception_v1", 2, 224).eval(), build("inception_v1", 2, 96).eval()
    adaptive.load_state_dict(fixed.state_dict())
    assert isinstance(fixed.inception5b[1], nn.AvgPool2d)
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(fixed(image), adaptive(image))


@pytest.mark.parametrize("image_size", [32, 33, 64, 100])
def test_every_size_from_32_gives_logits(image_size: int) -> None:
    network = build("inception_v1", 5, image_size).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, image_size, image_size)).shape == (1, 5)


def test_below_32_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32, not 31"):
        build("inception_v1", 2, 31)


def test_unknown_network_is_a_key_error() -> None:
    assert "inception_v9" not in ARCHITECTURES
    with pytest.raises(KeyError):
        build("inception_v9", 2, 224)
