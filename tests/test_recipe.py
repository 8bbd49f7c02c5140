"""The default recipe's parts: augmentation, averaged weights, schedule, rules."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

from conftest import draw
from inceptcli.config import MEAN, STD, TrainConfig, resolve
from inceptcli.data.augment import (
    Crop,
    crop_boxes,
    erase,
    flip_draws,
    jitter_colour,
    resized,
    resized_at_once,
    uniform_draws,
)
from inceptcli.data.prepare import prepare
from inceptcli.engine.adapt import _batch_size, adapt
from inceptcli.engine.average import Average
from inceptcli.engine.optim import loss_per_image, train_size
from inceptcli.errors import UsageError

MEANS, STDS = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_draws_belong_to_the_sample_alone() -> None:
    """Decision 8: neither the place in a batch nor other streams change them."""
    indices = np.arange(2000)
    draws = uniform_draws(indices, seed=42, epoch=3, first=1, count=4)
    some = np.array([1999, 7, 7, 0])
    assert np.array_equal(uniform_draws(some, seed=42, epoch=3, first=1, count=4), draws[some])
    assert np.array_equal(
        uniform_draws(indices, seed=42, epoch=3, first=3, count=1)[:, 0], draws[:, 2]
    )
    for seed, epoch in ((43, 3), (42, 4)):
        other = uniform_draws(indices, seed=seed, epoch=epoch, first=1, count=4)
        assert (other != draws).all()


def test_draws_are_uniform_and_independent() -> None:
    draws = uniform_draws(np.arange(20_000), seed=1, epoch=1, first=1, count=6)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in draws.T])
    assert (((counts - 1000) ** 2 / 1000).sum(axis=1) < 50).all()  # chi-square of 19: p = 1e-4
    mirrored = flip_draws(np.arange(20_000), seed=1, epoch=1, flips="h")[0]
    correlation = np.corrcoef(np.column_stack([draws, mirrored]), rowvar=False)
    assert np.abs(correlation - np.eye(7)).max() < 0.03


def test_crops_have_the_area_and_aspect_promised() -> None:
    draws = uniform_draws(np.arange(5000), seed=1, epoch=1, first=1, count=4)
    left, top, width, height = crop_boxes(draws, side=200, area=0.25).T
    assert left.min() == top.min() == 0
    assert (left + width).max() == (top + height).max() == 200
    part = width * height / 200**2
    assert part.min() > 0.24
    assert part.max() > 0.95
    assert part.mean() == pytest.approx(0.61, abs=0.02)  # a little below the middle: cut at the rim
    assert (width / height).max() < 1.36
    assert (width / height).min() > 1 / 1.36


def test_a_crop_is_pillows() -> None:
    """Cut and resized as Pillow does it, to one grey level."""
    images = noise(3, 64, 64, 3)
    boxes = np.array([[3, 5, 40, 50], [0, 0, 64, 64], [20, 10, 33, 44]])
    ours = resized(images, boxes, size=24)
    for image, (left, top, width, height), result in zip(images, boxes.tolist(), ours, strict=True):
        box = (left, top, left + width, top + height)
        expected = Image.fromarray(image.numpy()).crop(box)
        expected = expected.resize((24, 24), Image.Resampling.BILINEAR)
        difference = np.abs(np.asarray(expected, int) - result.numpy().astype(int))
        assert difference.max() <= 1


@pytest.mark.parametrize("size", [24, 64, 90])
def test_crops_of_a_whole_batch_are_those_of_each_picture(size: int) -> None:
    """To one grey level, smaller and larger; by float32's own interpolation to a rounding."""
    draws = uniform_draws(np.arange(40), seed=1, epoch=1, first=1, count=4)
    boxes = np.concatenate([crop_boxes(draws, side=64, area=0.05), [[0, 0, 64, 64], [5, 9, 1, 1]]])
    images = noise(len(boxes), 64, 64, 3)
    ours = resized_at_once(images, boxes, size=size)
    assert ours.shape == (len(boxes), size, size, 3)
    assert ours.is_contiguous()
    assert (ours.int() - resized(images, boxes, size=size).int()).abs().max() <= 1
    for image, (left, top, width, height), result in zip(images, boxes.tolist(), ours, strict=True):
        part = image[top : top + height, left : left + width].permute(2, 0, 1).unsqueeze(0).float()
        exact = functional.interpolate(part, size=(size, size), mode="bilinear", antialias=True)
        assert (exact[0].permute(1, 2, 0) - result).abs().max() < 0.501


def test_nothing_to_crop_leaves_the_pixels() -> None:
    images = noise(2, 32, 32, 3)
    assert Crop(32, 1.0, seed=1, epoch=1)(images, np.arange(2)) is images
    assert Crop(16, 1.0, seed=1, epoch=1)(images, np.arange(2)).shape == (2, 16, 16, 3)


def test_colours_are_torchvisions_but_for_the_cut() -> None:
    """Brightness, contrast, saturation in that order; grey pictures in the middle are never cut."""
    images = 0.4 + 0.2 * torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    draws = uniform_draws(np.arange(4), seed=3, epoch=1, first=5, count=3)
    normalised = ((images - MEANS) / STDS).contiguous(memory_format=torch.channels_last)
    ours = jitter_colour(normalised, draws, strength=0.4) * STDS + MEANS
    for image, factors, result in zip(images, 1 + 0.4 * (2 * draws - 1), ours, strict=True):
        expected = vision.adjust_brightness(image, factors[0])
        expected = vision.adjust_contrast(expected, factors[1])
        expected = vision.adjust_saturation(expected, factors[2])
        torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


def test_erasing_covers_boxes_of_some() -> None:
    draws = uniform_draws(np.arange(400), seed=3, epoch=1, first=8, count=5)
    erased = erase(torch.ones(400, 3, 20, 20), draws, probability=0.25)
    share = (erased[:, 0] == 0).float().mean((1, 2))
    assert float((share > 0).float().mean()) == pytest.approx(0.25, abs=0.06)
    assert float(share[share > 0].min()) > 0.005
    assert float(share.max()) < 0.3


def test_the_average_is_the_recursion() -> None:
    """Against plain numbers: share (1 - decay) of each step, more at the beginning."""
    model = nn.BatchNorm1d(1)
    average = Average(model, steps=4)
    weight, mean = 1.0, 0.0
    for step in range(30):
        with torch.no_grad():
            model.weight.fill_(float(step**2 % 7))
            assert model.running_mean is not None
            model.running_mean.fill_(float(step))
        average.update(step)
        decay = min(0.75, (step + 1) / (step + 10))
        weight = decay * weight + (1 - decay) * (step**2 % 7)
        mean = decay * mean + (1 - decay) * step
    state = average.state_dict()
    assert float(state["weight"]) == pytest.approx(weight, rel=1e-5)
    assert float(state["running_mean"]) == pytest.approx(mean, rel=1e-5)


def test_without_an_average_the_network_itself_is_saved() -> None:
    model = nn.Linear(2, 2)
    average = Average(model, steps=0)
    average.update(0)
    assert average.network is model
    assert average.state_dict() == {}


def test_label_smoothing_is_torchs() -> None:
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    ours = loss_per_image(double_softmax=False, class_weights=None, label_smoothing=0.1)
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(logits, labels)
    assert float(ours(logits, labels).mean()) == pytest.approx(expected.item(), abs=1e-6)


def test_training_pictures_grow() -> None:
    config = TrainConfig(root=Path(), epochs=20, image_size=224, train_sizes=(0.5, 0.875))
    sizes = [train_size(config, epoch) for epoch in range(1, 21)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (112, 192)
    assert all(size % 16 == 0 for size in sizes)
    assert train_size(TrainConfig(root=Path(), image_size=32), 1) == 32
    assert train_size(resolve("tutorial", {"root": Path()})[0], 1) == 224


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes of 40 and 6 pictures."""
    root = tmp_path_factory.mktemp("uneven")
    for label, (name, count) in enumerate({"cat": 40, "dog": 6}.items()):
        for index in range(count):
            draw(root / name / f"{index:02d}.png", seed=100 * label + index, label=label)
    return root


def test_rules_choose_what_is_open_and_say_why(uneven: Path) -> None:
    config = TrainConfig(root=uneven, image_size=32, workers=0, cache="none")
    photos = prepare(config)
    chosen, reasons = adapt(config, photos)
    assert (chosen.batch_size, chosen.lr, chosen.warmup_epochs) == (8, 0.001, 4.0)
    assert chosen.weight_decay == 0.05
    assert adapt(replace(config, optimizer="sgd"), photos)[0].weight_decay == 5e-4
    assert adapt(replace(config, optimizer="adam"), photos)[0].weight_decay == 0
    assert chosen.class_weights == "balanced"
    assert set(reasons) == {"batch_size", "lr", "weight_decay", "warmup_epochs", "class_weights"}
    assert all(reason.startswith("rule: ") for reason in reasons.values())
    assert adapt(chosen, photos) == (chosen, {})


@pytest.mark.parametrize(
    ("images", "epochs", "batch"),
    [
        *((2, 40, 8), (399, 40, 8), (400, 40, 16), (799, 40, 16), (800, 40, 32), (10**6, 1, 32)),
        *((800, 8, 32), (800, 7, 16), (800, 3, 8), (6399, 1, 16), (6400, 1, 32)),
    ],
)
def test_few_pictures_or_epochs_come_in_small_batches(images: int, epochs: int, batch: int) -> None:
    assert _batch_size(images, epochs)[0] == batch


def test_fine_tuning_on_few_photographs_makes_enough_steps(uneven: Path) -> None:
    """36 training pictures in batches of 8 are five steps an epoch; typed epochs stay."""
    typed = {"root": uneven, "weights": "a.pth", "image_size": 32, "workers": 0, "cache": "none"}
    config, _ = resolve("default", typed)
    photos = prepare(config)
    steps = math.ceil(len(photos.indices("train")) / 8)
    chosen, reasons = adapt(config, photos)
    assert chosen.epochs == math.ceil(200 / steps) > config.epochs
    assert chosen.warmup_epochs == pytest.approx(chosen.epochs / 10)
    assert reasons["epochs"] == "rule: at least 200 steps"
    assert adapt(chosen, photos) == (chosen, {})
    assert adapt(resolve("default", typed | {"epochs": 7})[0], photos)[0].epochs == 7
    assert adapt(replace(config, least_steps=20), photos)[0].epochs == config.epochs


def test_rules_leave_what_was_typed(uneven: Path) -> None:
    typed = {"batch_size": 5, "lr": 0.3, "warmup_epochs": 0.0, "class_weights": "none"}
    more = {"weight_decay": 0.1, "image_size": 32, "workers": 0}
    config, _ = resolve("default", {"root": uneven, **typed, **more})
    assert adapt(config, prepare(config)) == (config, {})


def test_sizes_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="--train-sizes"):
        TrainConfig(root=Path(), train_sizes=(0.5, 1.5))
