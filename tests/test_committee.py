"""Answers averaged over views and networks are the documented mean, class by class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as reference

from conftest import draw
from inceptcli.cli import main
from inceptcli.engine.committee import Committee, average, views
from inceptcli.engine.device import choose_device
from inceptcli.engine.infer import Classifier, load_network
from inceptcli.engine.predict import describe
from inceptcli.errors import UsageError
from inceptcli.model.inception import build
from inceptcli.model.weights import Record, save_weights

SMALL = ("--img-size", "32", "-b", "16", "-j", "0", "--lr", "3e-4", "--epochs", "1")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def file_of(
    path: Path, classes: Sequence[str], *, seed: int, temperature: float = 1.0, **more: Any
) -> Path:
    """An untrained network that still tells pictures apart."""
    torch.manual_seed(seed)
    network = build("inception_v1_bn", len(classes), 32)
    nn.init.normal_(network.classifier.weight, std=0.5)
    values = {"image_size": 32, "temperature": temperature} | more
    record = Record(arch="inception_v1_bn", classes=tuple(classes), outputs=len(classes), **values)
    save_weights(path, network.state_dict(), record)
    return path


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two files of the same classes in another order, each with its temperature."""
    return (
        file_of(tmp_path / "a.pth", ("cat", "dog", "eel"), seed=1, temperature=2.0),
        file_of(tmp_path / "b.pth", ("eel", "cat", "dog"), seed=2, temperature=0.5),
    )


def predicted(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict[str, float]]:
    capsys.readouterr()
    assert call("predict", *words, "--json", "-k", 3, "-j", 0) == 0
    return [dict(row["top"]) for row in json.loads(capsys.readouterr().out)]


# Views


def test_flips_are_two_views() -> None:
    images = torch.randn(2, 3, 8, 8)
    found = [*views(images, "flips")]
    assert [torch.equal(*pair) for pair in zip(found, (images, images.flip(3)), strict=True)] == [
        True,
        True,
    ]
    assert next(iter(views(images, "none"))) is images


@pytest.mark.parametrize("size", [32, 37, 224])
def test_crops_are_torchvision_s_five_and_their_mirrors(size: int) -> None:
    images = torch.randn(1, 3, size, size)
    side = round(size * 7 / 8)
    expected = []
    for part in reference.five_crop(images, [side, side]):
        whole = reference.resize(part, [size, size], antialias=False)
        expected += [whole, reference.horizontal_flip(whole)]
    found = [*views(images, "crops")]
    assert len(found) == 10
    if (size - side) % 2 == 0:  # else torchvision's middle may lie half a pixel elsewhere
        torch.testing.assert_close(torch.stack(found), torch.stack(expected))
    torch.testing.assert_close(torch.stack(found[:8]), torch.stack(expected[:8]))


# The mean


@pytest.mark.parametrize("tta", ["none", "flips", "crops"])
def test_the_mean_is_the_formula(two: tuple[Path, Path], tta: Any) -> None:
    """Against the same sum over networks and views, written with NumPy in float64."""
    members = [load_network(path) for path in two]
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    cpu = choose_device("cpu", "fp32")
    together = average(members, tta)
    assert (together.temperature, together.outputs) == (1.0, ("cat", "dog", "eel"))
    logarithms = Classifier(together.model, cpu).logits(pixels).double().numpy()
    mean = np.zeros((3, 3))
    images = pixels.permute(0, 3, 1, 2) / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    images /= torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    seen = [*views(images, tta)]
    for view in seen:
        for member, temperature, order in zip(
            members, (2.0, 0.5), ((0, 1, 2), (1, 2, 0)), strict=True
        ):
            with torch.no_grad():
                logits = member.model.eval()(view).double().numpy() / temperature
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            mean += (powers / powers.sum(axis=1, keepdims=True))[:, order]
    np.testing.assert_allclose(np.exp(logarithms), mean / (2 * len(seen)), rtol=2e-4, atol=1e-6)


def test_a_probability_of_zero_stays_a_finite_logarithm() -> None:
    class Sure(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1000.0, -1000.0]]).expand(len(images), 2)

    committee = Committee([Sure()], temperatures=[1.0], orders=[[0, 1]], tta="flips")
    answer = committee(torch.zeros(1, 3, 4, 4))
    assert answer.isfinite().all()
    torch.testing.assert_close(answer.softmax(dim=1), torch.tensor([[1.0, 0.0]]))


# Commands


def test_predict_averages_files_by_class_name(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = draw(tmp_path / "p.png", seed=3, label=1)
    one, other = (predicted(capsys, picture, "-m", path)[0] for path in two)
    both = predicted(capsys, picture, "-m", two[0], "-m", two[1])[0]
    for name in ("cat", "dog", "eel"):
        assert both[name] == pytest.approx((one[name] + other[name]) / 2, abs=1e-5)
    assert sum(both.values()) == pytest.approx(1)


def test_flips_at_prediction_make_mirror_images_equal(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image, ImageOps

    draw(tmp_path / "p" / "a.png", seed=3, label=1, size=(32, 32))
    with Image.open(tmp_path / "p" / "a.png") as image:
        ImageOps.mirror(image).save(tmp_path / "p" / "b.png")
    plain = predicted(capsys, tmp_path / "p", "-m", two[0])
    turned = predicted(capsys, tmp_path / "p", "-m", two[0], "--tta", "flips")
    assert plain[0] != pytest.approx(plain[1], abs=1e-4)
    for name, probability in turned[0].items():
        assert probability == pytest.approx(turned[1][name], abs=1e-5)
        assert probability == pytest.approx((plain[0][name] + plain[1][name]) / 2, abs=1e-5)


def test_evaluate_measures_the_mean_and_names_its_members(
    two: tuple[Path, Path], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("evaluate", photos, "-j", "0", "--role", "all")
    assert call(*words, "-m", two[0], "-m", two[1], "--tta", "flips", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["weights"]["tta"] == "flips"
    assert [member["path"] for member in figures["weights"]["members"]] == [*map(str, two)]
    assert figures["trained_on"] is None  # these files do not say
    rows = predicted(capsys, photos, "-r", "-m", two[0], "-m", two[1], "--tta", "flips")
    names = [name for name in ("cat", "dog", "eel") for _ in range(20)]
    right = [max(row, key=row.__getitem__) == name for row, name in zip(rows, names, strict=True)]
    assert figures["accuracy"] == pytest.approx(np.mean(right))
    loss = -np.mean([np.log(row[name]) for row, name in zip(rows, names, strict=True)])
    assert figures["loss"] == pytest.approx(loss, rel=1e-3)
    assert call(*words, "-m", two[0], "-m", two[1]) == 0
    table = capsys.readouterr().out
    assert "cross-entropy of the calibrated mean" in table
    assert "before and after" not in table  # the temperatures are in the mean


def test_one_file_without_views_is_as_it_was(two: tuple[Path, Path]) -> None:
    member = load_network(two[0])
    assert average([member], "none") is member
    assert describe([member], "none") == {"path": str(two[0]), "digest": member.weights.digest}


def test_other_classes_and_other_sizes_are_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    first = load_network(two[0])
    odd = load_network(file_of(tmp_path / "c.pth", ("cat", "dog", "fox"), seed=1))
    with pytest.raises(UsageError, match=r"other classes \(eel, fox\)"):
        average([first, odd], "none")
    large = file_of(tmp_path / "d.pth", ("cat", "dog", "eel"), seed=1, image_size=48)
    with pytest.raises(UsageError, match=r"pictures of 32 px, stretch, .* of 48 px, stretch"):
        average([first, load_network(large)], "none")


def test_the_folds_of_a_run_answer_together_and_their_photographs_are_known(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", photos, "--folds", 2, "--group", "none", *SMALL, "-o", "run") == 0
    parts = [tmp_path / "run" / name / "best_model.pth" for name in ("fold1", "fold2")]
    new = draw(tmp_path / "new.png", seed=999, label=2)
    one, other = (predicted(capsys, new, "-m", path)[0] for path in parts)
    both = predicted(capsys, new, "-m", "run")[0]
    for name, probability in both.items():
        assert probability == pytest.approx((one[name] + other[name]) / 2, abs=1e-5)
    assert call("evaluate", "-m", "run") == 2
    assert "trained on by its other folds" in " ".join(capsys.readouterr().err.split())
    assert call("evaluate", photos, "-m", "run", "-j", "0", "--role", "all", "--json") == 0
    seen = json.loads(capsys.readouterr().out)["trained_on"]
    roles = [(tmp_path / "run" / f"fold{k}" / "split.csv").read_text() for k in (1, 2)]
    trained = {
        line.split(",")[0] for text in roles for line in text.splitlines() if ",train," in line
    }
    assert set(seen["paths"]) >= trained
    assert len(trained) > 40


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("predict", "p.png", "-m", "a.pth", "-m", "b.pth", "--explain", "x"), "--explain shows"),
        (("evaluate", "photos", "-m", "a.pth", "-m", "b.pth", "--report", "x"), "--report shows"),
        (("evaluate", "photos", "-m", "a.pth", "-m", "b.pth"), ""),
        (
            (
                *[
                    "evaluate",
                    "photos",
                    "-m",
                    "a.pth",
                    "--tta",
                    "flips",
                    "--min-precision",
                    "0.5",
                    "--save",
                ],
            ),
            "--save is for one network's own answers",
        ),
    ],
)
@pytest.mark.usefixtures("two")
def test_what_is_one_network_s_is_not_asked_of_several(
    words: tuple[str, ...], told: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(Path("p.png"), seed=3, label=1)
    assert photos.name == "photos"
    assert call(*words) == (2 if told else 0)
    assert told in " ".join(capsys.readouterr().err.split())


def test_unfinished_folds_and_faulty_words(
    tmp_path: Path, two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "folds.json").write_text("{}")
    picture = draw(tmp_path / "p.png", seed=3, label=1)
    assert call("predict", picture, "-m", "run") == 4
    assert "no training in run is finished" in " ".join(capsys.readouterr().err.split())
    assert call("predict", picture, "-m", two[0], "--tta", "flip") == 2
    assert "did you mean flips?" in " ".join(capsys.readouterr().err.split())
