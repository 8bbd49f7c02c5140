"""Grad-CAM: against its closed form, and the published sanity checks.

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018: a map that stays the same when
the weights are randomised does not explain the network.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from inceptcli.model.inception import InceptionBlock, build
from inceptcli.report.explain import grad_cam, last_map, overlay
from test_commands import call, trained  # noqa: F401 - a fixture

SIZE = 48


class Small(nn.Module):
    """Convolutions, one average over the map, one linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.head(self.pool(self.features(images)).flatten(1))
        return answer


def scenes(count: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Striped squares, upright or lying, somewhere on grey: images, labels, where the object is."""
    random = np.random.default_rng(seed)
    images = np.full((count, 3, SIZE, SIZE), 0.0, np.float32)
    masks = np.zeros((count, SIZE, SIZE), np.float32)
    labels = random.integers(0, 2, count)
    for image, mask, label in zip(images, masks, labels, strict=True):
        top, left = random.integers(0, SIZE - 16, 2)
        stripes = np.tile(np.where(np.arange(16) // 2 % 2, 1.0, -1.0), (16, 1))
        image[:, top : top + 16, left : left + 16] = stripes if label else stripes.T
        mask[top : top + 16, left : left + 16] = 1
        image += random.normal(0, 0.05, image.shape)
    return torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(masks)


@pytest.fixture(scope="module")
def learnt() -> Small:
    """A small network that tells the two apart."""
    torch.manual_seed(0)
    model = Small(2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    images, labels, _ = scenes(128, seed=1)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    images, labels, _ = scenes(64, seed=2)
    assert (model(images).argmax(1) == labels).float().mean() > 0.95
    return model


def test_it_is_the_class_activation_map_of_a_linear_head(learnt: Small) -> None:
    """With one average and one linear layer Grad-CAM has a closed form (its paper, section 3.1)."""
    images, labels, _ = scenes(5, seed=3)
    maps = learnt.features(images).detach()  # (N, 32, h, w)
    weights = learnt.head.weight.detach()[labels]  # (N, 32)
    wanted = torch.relu(torch.einsum("nk,nkhw->nhw", weights, maps))[:, None]
    wanted = functional.interpolate(wanted, size=(SIZE, SIZE), mode="bilinear")[:, 0]
    wanted = wanted / wanted.amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(grad_cam(learnt, images, labels), wanted, rtol=1e-4, atol=1e-5)


def test_its_mass_lies_on_the_object(learnt: Small) -> None:
    """More than the object's part of the picture, which is what a blind map would have there."""
    images, labels, masks = scenes(40, seed=4)
    found = grad_cam(learnt, images, labels)
    on_object = (found * masks).sum(dim=(1, 2)) / found.sum(dim=(1, 2)).clamp(min=1e-9)
    chance = masks.mean(dim=(1, 2))
    assert (on_object > chance).float().mean() > 0.9
    assert on_object.mean() > 3 * chance.mean()


def pairs(count: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures with an object of each class beside one another, and where each of the two is."""
    one, labels, masks = scenes(count, seed=seed)
    other, others, other_masks = scenes(count, seed=seed + 1000)
    chosen = (labels != others) & ((masks * other_masks).sum(dim=(1, 2)) == 0)
    images = torch.where(other_masks[:, None] > 0, other, one)[chosen]
    return images, labels[chosen], torch.stack([masks, other_masks], dim=1)[chosen]


def on_its_own(model: nn.Module, images: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    """Of the map's mass on the two objects the part on the one that was asked for."""
    mass = (grad_cam(model, images, labels)[:, None] * masks).sum(dim=(2, 3))
    return mass[:, 0].sum() / mass.sum()


def test_random_weights_give_another_map(learnt: Small) -> None:
    """With two objects in the picture the learnt map lies on the one asked for; others do not."""
    images, labels, masks = pairs(120, seed=5)
    assert len(images) > 20
    assert on_its_own(learnt, images, labels, masks) > 0.8
    before = grad_cam(learnt, images, labels).flatten(1)
    shares, likeness = [], []
    for seed in range(8):
        torch.manual_seed(seed)
        random = Small(2)
        shares.append(on_its_own(random, images, labels, masks))
        after = grad_cam(random, images, labels).flatten(1)
        likeness.append(functional.cosine_similarity(before, after).mean())
    assert 0.35 < torch.stack(shares).nanmean() < 0.65
    assert torch.stack(likeness).max() < 0.9
    assert torch.equal(before, grad_cam(learnt, images, labels).flatten(1))


def test_another_class_gives_another_map(learnt: Small) -> None:
    images, labels, _ = scenes(20, seed=6)
    one, other = (grad_cam(learnt, images, each).flatten(1) for each in (labels, 1 - labels))
    assert functional.cosine_similarity(one, other).mean() < 0.7


@pytest.mark.parametrize(("size", "places"), [(32, 2), (64, 2), (224, 7)])
def test_the_layer_is_the_last_with_more_than_one_place(size: int, places: int) -> None:
    """The last block of Inception v1; at 32 pixels, where that has shrunk to one place, an
    earlier one."""
    model = build("inception_v1", 3, size).eval()
    found = last_map(model, torch.zeros(1, 3, size, size))
    blocks = [part for part in model.modules() if isinstance(part, InceptionBlock)]
    shapes: list[torch.Size] = []
    found.register_forward_hook(lambda *called: shapes.append(called[2].shape))
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    assert shapes[0][-1] == places
    assert (found is blocks[-1]) == (size > 32)


def test_the_network_is_left_as_it_was(learnt: Small) -> None:
    images, labels, _ = scenes(2, seed=8)
    learnt.train()
    before = {name: part.clone() for name, part in learnt.state_dict().items()}
    grad_cam(learnt, images, labels)
    assert learnt.training
    assert all(torch.equal(part, before[name]) for name, part in learnt.state_dict().items())
    assert not any(part._forward_hooks for part in learnt.modules())


def test_an_overlay_is_the_picture_where_the_map_is_one() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    assert (overlay(pixels, np.ones((4, 4), np.float32)) == pixels).all()
    assert (overlay(pixels, np.zeros((4, 4), np.float32)) <= 0.15 * pixels + 0.5).all()


def test_predict_draws_every_class_asked_for(
    trained: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """An overlay and a map for each input that passes and each of its classes, safely named."""
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    first = trained.parent / "photos" / "cat" / "00.png"
    worse = tmp_path / "-<b>\n.png"
    worse.write_bytes(first.read_bytes())
    folder = tmp_path / "why"
    words = ("predict", "-m", trained / "best_model.pth", "-k", 2, "--explain", folder)
    table = tmp_path / "rows.csv"
    assert call(*words, "--csv", table, first, bad, "--", worse) == 8
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    names = {path.name for path in folder.iterdir()}
    assert len(names) == 2 * 2 * 2
    for place, column in ((1, "class"), (2, "class_2")):
        for kind in ("overlay", "map"):
            name = f"0001-00-{place}-{rows[0][column]}-{kind}.png"
            assert name in names
            with Image.open(folder / name) as picture:
                assert picture.size == (32, 32)
                assert picture.mode == ("RGB" if kind == "overlay" else "L")
    assert not any(set(name) & set("<>\n/") for name in names)
    assert call(*words, first) == 5  # the folder is not empty
    assert {path.name for path in folder.iterdir()} == names


def test_predict_without_it_imports_no_report() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from inceptcli.cli import main\n"
        "try: main(['predict', '/nowhere.png', '-m', '/nowhere.pth'])\n"
        "finally: print({'jinja2', 'matplotlib', 'inceptcli.report'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", code]
    output = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    assert output.strip() == "set()"
