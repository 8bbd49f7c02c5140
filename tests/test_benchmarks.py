"""Benchmarks: what they compute from what they measure, and one whole small one."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT
from inceptcli.model.inception import InceptionV1


def test_the_fine_tuning_experiment_reports_paired_gains_and_goes_on(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two drawn classes first, the third and its like after; one epoch, then a second seed."""
    (photos / "fox").mkdir()
    for path in sorted((photos / "cat").iterdir())[:16]:
        path.rename(photos / "fox" / path.name)
    for path in sorted((photos / "eel").iterdir())[:4]:
        path.rename(photos / "cat" / f"eel{path.name}")
    out = tmp_path / "out.json"
    words = ["--first", "2", "--first-epochs", "1", "--epochs", "1", "--img-size", "32"]
    words += ["--images", "3", "--threads", "1", "--json", str(out)]
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setattr("inceptcli.config.FINE_TUNING", {"epochs": 2})
    main = importlib.import_module("benchmarks.finetune").main
    for seeds in (["1"], ["1", "2"]):
        monkeypatch.setattr(sys, "argv", ["finetune", str(photos), *words, "--seeds", *seeds])
        main()
    table = capsys.readouterr().out
    first, *rows = json.loads(out.read_text())["trainings"]
    assert first["way"] == "first"
    assert len(rows) == 6  # those of the first seed were kept
    found = {(row["way"], row["seed"]): row for row in rows}
    assert {row["epochs"] for row in rows if row["way"] == "fine-tuned"} == {2}
    gains = [
        100 * (found["fine-tuned", seed]["accuracy"] - found["random", seed]["accuracy"])
        for seed in (1, 2)
    ]
    centre, half = sum(gains) / 2, 12.7062 * abs(gains[0] - gains[1]) / 2  # Student, one degree
    assert f"{centre:+.1f} ({centre - half:+.1f} to {centre + half:+.1f})" in table


def test_the_ratios_are_those_of_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    measure = importlib.import_module("benchmarks.measure")
    seen: list[str] = []
    rates = {"plain loop": iter([0.0, 2.0, 4.0, 1.0]), "ours": iter([0.0, 6.0, 4.0, 5.0])}
    cases = {
        name: lambda name=name, each=each: seen.append(name) or next(each)
        for name, each in rates.items()
    }
    found = measure.take_turns(cases, rounds=3)
    assert seen == [*rates, "plain loop", "ours", "ours", "plain loop", "plain loop", "ours"]
    (line,) = measure.lines_of(found, "images/s", at_least={"ours": 3.0})
    assert (line.plain, line.rate) == (2.0, 5.0)
    assert (line.lowest, line.ratio, line.highest, line.at_least) == (1.0, 3.0, 5.0, 3.0)


def test_the_page_takes_the_tables_and_keeps_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    page = importlib.import_module("benchmarks.page")
    measure = importlib.import_module("benchmarks.measure")
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text("before\n<!-- data -->\nold\n<!-- end of data -->\nafter\n")
    line = measure.Line("work", "files/s", 1.0, 2.0, 2.0, 1.5, 2.5, 3.0, "a note")
    for _ in range(2):  # writing twice changes nothing more
        measure.report("data", [line], tmp_path / "data.json", allowed={"--help": 0.4})
        page.main()
        text = (tmp_path / "page.md").read_text()
    assert text.startswith("before\n<!-- data -->\n")
    assert text.endswith("\n<!-- end of data -->\nafter\n")
    assert "old" not in text
    assert "| work | files/s | 1 | 2 | 2.00 | 1.50 to 2.50 | 3 | a note |" in text
    assert "- allowed: --help 0.4" in text


def test_the_plain_loop_is_the_scripts_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys and shapes, and answers that are probabilities, as the tutorial's softmax gives."""
    monkeypatch.syspath_prepend(ROOT)
    plain = importlib.import_module("benchmarks.plain")
    model = plain.network(4, 64).eval()
    keys = {name: value.shape for name, value in model.state_dict().items()}
    assert keys == {n: v.shape for n, v in InceptionV1(4, image_size=64).state_dict().items()}
    assert model(torch.randn(2, 3, 64, 64)).sum(1).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_relu_after_a_pool_is_one_before_it(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's stem against the script's order: answers and gradients to the bit."""
    monkeypatch.syspath_prepend(ROOT)
    script = importlib.import_module("benchmarks.plain").network(4, 64)
    model = InceptionV1(4, image_size=64, softmax=True)
    model.load_state_dict(script.state_dict())
    images, found = torch.randn(4, 3, 64, 64), []
    for network in (script, model):
        torch.manual_seed(1)  # dropout
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            answers = network(images)
        answers[:, 1].float().log().sum().backward()
        found.append([answers, *(part.grad for part in network.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_case_apart_takes_turns_and_its_end_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    measure = importlib.import_module("benchmarks.measure")
    case = measure.apart(counting, 3)
    assert [case(), case(), case()] == [3.0, 2.0, 1.0]
    with pytest.raises((EOFError, ConnectionError)):
        case()


def counting(number: int) -> Callable[[], float]:
    """A case that counts down and ends its process at zero."""
    numbers = iter(range(number, 0, -1))

    def run() -> float:
        value = next(numbers, None)
        if value is None:
            os._exit(0)
        return float(value)

    return run


def test_mixed_images_and_labels_have_the_same_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of black and white images in turns, what the other one gives is the brightness."""
    monkeypatch.syspath_prepend(ROOT)
    mixing = importlib.import_module("benchmarks.mixing")
    images = torch.zeros(4, 3, 20, 30)
    images[2:] = 1
    shares = []
    for blend in (mixing.mixup, mixing.cutmix):
        for seed in range(20):
            changed, share = blend(images, np.random.default_rng(seed))
            assert changed[0].mean().item() == pytest.approx(1 - share, abs=1e-6)
            assert changed[2].mean().item() == pytest.approx(share, abs=1e-6)
            shares.append(share)
    assert min(shares) < 0.2
    assert max(shares) == 1.0  # half of CutMix's batches are left as they are
    loss = mixing._shared(lambda logits, labels: logits[labels], 0.75)
    assert loss(torch.tensor([1.0, 5.0]), torch.tensor([0, 1])).tolist() == [2.0, 4.0]


def test_a_mixed_training_differs_and_leaves_no_trace(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(ROOT)
    ablation = importlib.import_module("benchmarks.ablation")
    words = [str(photos), "--epochs", "1", "--img-size", "32", "--threads", "1", "--seeds", "1"]
    words += ["--json", str(tmp_path / "out.json"), "--variants"]
    words += ["whole recipe", *ablation.PUT_IN, "precision (fp32)"]
    monkeypatch.setattr(sys, "argv", ["ablation", *words])
    ablation.main()
    losses = [one["loss"] for one in json.loads((tmp_path / "out.json").read_text())["trainings"]]
    assert losses[0] == losses[-1]  # the last training is the first one again
    assert len(set(losses)) == len(losses) - 1
