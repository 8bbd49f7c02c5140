"""Trainings that begin with other weights: what is taken, what moves, what is frozen."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from conftest import draw
from inceptcli.cli import main
from inceptcli.config import FINE_TUNING, TrainConfig, resolve
from inceptcli.data import fingerprints
from inceptcli.data.fingerprints import UNKNOWN, Memory, join_fingerprints
from inceptcli.data.loader import Batch
from inceptcli.data.looks import describe
from inceptcli.data.prepare import prepare
from inceptcli.engine import run as engine
from inceptcli.engine.adapt import adapt
from inceptcli.engine.find_lr import find_lr
from inceptcli.engine.finetune import last_layer, scale_groups, suggestions, transfer
from inceptcli.engine.training import Training
from inceptcli.errors import WeightsError
from inceptcli.events import EpochDone, Event, Notice, StateSaved, Warned
from inceptcli.model import imagenet
from inceptcli.model.inception import build
from inceptcli.model.weights import Record, Weights, load_weights, save_weights


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def draw_classes(root: Path, names: tuple[str, ...], each: int = 12) -> Path:
    for label, name in enumerate(names):
        for index in range(each):
            draw(root / name / f"{index:02d}.png", seed=hash_of(name) + index, label=label)
    return root


def hash_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def settings(root: Path, output: Path, **more: Any) -> TrainConfig:
    base: dict[str, Any] = {"epochs": 2, "image_size": 32, "batch_size": 8, "workers": 0}
    return TrainConfig(root=root, output=output, group="none", save_minutes=0, **(base | more))


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def file_of(path: Path, arch: str, classes: tuple[str, ...], seed: int = 7) -> Path:
    """A weights file of ours whose norms have statistics that training would change."""
    torch.manual_seed(seed)
    network = build(arch, len(classes), 32)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.1, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    record = Record(arch=arch, classes=classes, outputs=len(classes), image_size=32)
    save_weights(path, network.state_dict(), record)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three classes and a run of two epochs from it on two others, one frozen.

    The weights after each epoch are kept beside it, the averaged ones too.
    """
    folder = tmp_path_factory.mktemp("finetune")

    def keep(event: Event) -> None:
        if isinstance(event, EpochDone):
            state = last(folder / "run")
            averages = {f"average of {name}": part for name, part in state["average"].items()}
            torch.save(state["model"] | averages, folder / f"{event.epoch}.pth")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INCEPTCLI_CACHE", str(folder / "cache"))
        file_of(folder / "base.pth", "inception_v1_bn", ("cat", "dog", "eel"))
        root = draw_classes(folder / "photos", ("fox", "gnu"))
        engine.run(fine(root, folder / "run"), emit=keep)
    return folder


def fine(root: Path, output: Path, **more: Any) -> TrainConfig:
    """The default recipe's averaged weights and growing pictures (32, then 40 px) are on."""
    base = {"weights": str(root.parent / "base.pth"), "arch": "inception_v1_bn", "epochs": 2}
    base |= {"freeze_epochs": 1, "layer_lr_decay": 0.5, "image_size": 48}
    return settings(root, output, **(base | more))


def last(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / "last.pth", weights_only=True)
    return state


# What is taken


def test_all_but_the_last_layer_is_taken(tmp_path: Path) -> None:
    source = load_weights(file_of(tmp_path / "a.pth", "inception_v1_bn", ("cat", "dog")))
    torch.manual_seed(0)
    network = build("inception_v1_bn", 2, 32)
    before = {key: part.clone() for key, part in network.state_dict().items()}
    moved = transfer(network, source, ("fox", "gnu"))  # of the same shape, yet other classes
    assert set(moved.left) == {"classifier.weight", "classifier.bias"}
    for key, part in network.state_dict().items():
        assert torch.equal(part, before[key] if key in moved.left else source.state_dict[key])


def test_the_same_classes_keep_the_last_layer(tmp_path: Path) -> None:
    source = load_weights(file_of(tmp_path / "a.pth", "inception_v1", ("cat", "dog")))
    network = build("inception_v1", 2, 32)
    assert transfer(network, source, ("cat", "dog")).left == {}
    assert torch.equal(network.classifier[2].weight, source.state_dict["classifier.2.weight"])
    assert transfer(network, source, ("dog", "cat")).left.keys() == {
        "classifier.2.weight",
        "classifier.2.bias",
    }


def test_the_tutorial_s_file_fits_the_normalised_network_by_name_and_shape(tmp_path: Path) -> None:
    source = load_weights(file_of(tmp_path / "a.pth", "inception_v1", ("cat", "dog")))
    network = build("inception_v1_bn", 4, 32)
    moved = transfer(network, source, ("a", "b", "c", "d"))
    assert {name.split(".")[0] for name in moved.left} == {"norm1", "norm2", "norm3", "classifier"}
    assert {name.rsplit(".", 1)[0] for name in moved.unused} == {"classifier.0", "classifier.2"}
    assert torch.equal(network.conv3.weight, source.state_dict["conv3.weight"])


def test_another_kind_of_network_is_refused_with_the_option_that_helps(tmp_path: Path) -> None:
    source = load_weights(file_of(tmp_path / "a.pth", "inception_v1", ("cat", "dog")))
    with pytest.raises(WeightsError, match=r"no layer of inception_v1 fits.*--arch inception_v1"):
        transfer(build("googlenet", 2, 32), source, ("a", "b"))


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("inception_v1", "classifier.2"),
        ("inception_v1_aux", "classifier.2"),
        ("inception_v1_bn", "classifier"),
        ("googlenet", "fc"),
    ],
)
def test_the_last_layer_is_the_one_that_answers(arch: str, name: str) -> None:
    with torch.device("meta"):
        assert last_layer(build(arch, 3, 32, training=True)) == name


# What moves and how fast


def test_rates_fall_from_depth_to_depth(tmp_path: Path) -> None:
    source = load_weights(file_of(tmp_path / "a.pth", "inception_v1_bn", ("cat", "dog")))
    network = build("inception_v1_bn", 3, 32)
    moved = transfer(network, source, ("a", "b", "c"))
    norms = [part for part in network.parameters() if part.ndim < 2]
    groups = [{"params": norms, "weight_decay": 0.0}]
    groups.append({"params": [p for p in network.parameters() if p.ndim > 1]})
    optimizer = torch.optim.AdamW(groups, lr=1.0, weight_decay=0.05)
    scale_groups(optimizer, network, moved.taken, 0.5)
    rates = {
        id(part): (group["scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for part in group["params"]
    }
    found = {name: rates[id(part)] for name, part in network.named_parameters()}
    expected = {"conv1": 0.0625, "norm3": 0.0625, "inception3b": 0.125, "inception4e": 0.25}
    expected |= {"inception5b": 0.5, "classifier": 1.0}
    for name, (scale, decay) in found.items():
        if name.split(".")[0] in expected:
            assert scale == expected[name.split(".")[0]], name
        assert decay == (0.05 if dict(network.named_parameters())[name].ndim > 1 else 0.0)
    assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert optimizer.param_groups[0]["scale"] == 1.0


def test_the_range_test_keeps_the_relation_of_the_rates(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suggestion is for ``--lr``, the rate of the new layers."""
    seen: list[dict[float, float]] = []

    def step(t: Training, batch: Batch, *, total: int) -> tuple[torch.Tensor, None]:
        del batch, total
        seen.append({group["scale"]: group["lr"] for group in t.optimizer.param_groups})
        return torch.tensor([1 / len(seen)]), None

    monkeypatch.setattr("inceptcli.engine.find_lr.train_step", step)
    found = find_lr(fine(place / "photos", place / "none"))
    assert [rates[1.0] for rates in seen] == pytest.approx(found.rates)
    for rates in seen:
        assert rates == pytest.approx({scale: scale * rates[1.0] for scale in rates})
    assert len(seen[0]) == 5


def test_the_rule_for_the_rate_is_halved_and_what_is_typed_stays(place: Path) -> None:
    config, _ = resolve("tutorial", {"root": place / "photos", "weights": "w", "batch_size": 32})
    photos = prepare(replace(config, workers=0))
    with photos.store:
        assert adapt(config, photos)[0].lr == 5e-4  # half of Adam's, not the tutorial's 1e-4
        assert adapt(replace(config, optimizer="sgd"), photos)[0].lr == 6.3e-3
        assert adapt(replace(config, lr=0.3), photos)[0].lr == 0.3


def test_in_a_frozen_epoch_only_new_layers_move(place: Path) -> None:
    base, frozen, after = (torch.load(place / f"{name}.pth") for name in ("base", "1", "2"))
    for name, part in base.items():
        if not name.startswith("classifier"):
            assert torch.equal(frozen[name], part), name
            assert torch.equal(frozen[f"average of {name}"], part), name
    assert not torch.equal(frozen["classifier.weight"], after["classifier.weight"])
    for name, part in base.items():  # later all but the statistics of batch norms
        kept = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(after[name], part) == kept or name.startswith("classifier"), name


def test_weights_trained_here_from_random_ones_learn_in_all_layers_alike(tmp_path: Path) -> None:
    """Their batch norms follow the new photographs; of others not all is known, so they rest."""
    first = engine.run(settings(draw_classes(tmp_path / "first", ("cat", "dog")), tmp_path / "a"))
    best = first.run / "best_model.pth"
    suggested = suggestions(load_weights(best))
    assert (suggested["freeze_epochs"], suggested["layer_lr_decay"]) == (0, 1.0)
    root = draw_classes(tmp_path / "photos", ("fox", "gnu"))
    alike = fine(root, tmp_path / "b", weights=str(best), **suggested)
    tuned = engine.run(replace(alike, epochs=1))
    before, after = (load_weights(each.run / "best_model.pth") for each in (first, tuned))
    name = next(name for name in before.state_dict if name.endswith("running_mean"))
    assert not torch.equal(before.state_dict[name], after.state_dict[name])
    assert suggestions(after)["layer_lr_decay"] == 1.0
    bare = replace(before, fingerprints=None)
    assert "layer_lr_decay" not in suggestions(bare)
    assert "layer_lr_decay" not in suggestions(replace(bare, fingerprints=UNKNOWN))
    with pytest.raises(WeightsError, match="33 bytes"):
        suggestions(replace(bare, fingerprints=bytes(33)))


@pytest.mark.parametrize(
    "where", [(1, 2), (2, 0), *(pytest.param(w, marks=pytest.mark.slow) for w in ((1, 1), (2, 1)))]
)
def test_a_stop_in_or_after_the_frozen_epoch_changes_no_bit(
    place: Path, tmp_path: Path, where: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it need the file that the training began with."""

    def stop(event: Event) -> None:
        if event == StateSaved(*where):
            raise KeyboardInterrupt

    config = fine(place / "photos", tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        engine.run(config, emit=stop)
    monkeypatch.setattr("inceptcli.engine.finetune.read_source", None)
    engine.run(replace(config, split=tmp_path / "run" / "split.csv"), resuming=True)
    one, other = last(place / "run"), last(tmp_path / "run")
    for kind in ("model", "average"):
        assert one[kind].keys() == other[kind].keys() != set()
        assert all(torch.equal(part, other[kind][name]) for name, part in one[kind].items())
    assert one["optimizer"]["state"].keys() == other["optimizer"]["state"].keys()
    for a, b in zip(*(s["optimizer"]["state"].values() for s in (one, other)), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    best = [torch.load(run / "best_model.pth") for run in (place / "run", tmp_path / "run")]
    assert all(torch.equal(part, best[1][name]) for name, part in best[0].items())


# What is known of the photographs


def test_the_photographs_of_the_first_weights_are_remembered(place: Path, tmp_path: Path) -> None:
    """Weights trained on these very photographs, taken for others' test: said twice."""
    events: list[Event] = []
    root = place / "photos"
    base = fine(root, tmp_path / "again", weights=str(place / "run" / "best_model.pth"), epochs=1)
    result = engine.run(replace(base, seed=8), emit=events.append)
    texts = [event.text for event in events if isinstance(event, Warned)]
    assert any("test photographs were trained on by" in text for text in texts)
    assert result.test is not None
    assert result.test.trained_on is not None
    assert result.test.trained_on.any()
    assert result.test.to_json()["trained_on"]["complete"] is False  # base.pth does not say
    said = [event.text for event in events if isinstance(event, Notice)]
    assert any("best_model.pth was trained on are known" in text for text in said)


def test_joined_fingerprints_are_those_of_all_files() -> None:
    """8 bytes of content and 24 of look a file, contents first."""
    digests, looks = ([bytes([i]) * length for i in range(3)] for length in (8, 24))
    one, two = digests[0] + looks[0], b"".join(digests[1:] + looks[1:])
    assert join_fingerprints(one, two) == b"".join(digests + looks)
    assert join_fingerprints(one, b"") == one
    assert Memory(join_fingerprints(two, two)).complete
    with pytest.raises(ValueError, match="33 bytes"):
        join_fingerprints(one + b"x", two)


def test_what_nobody_remembers_stays_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when only some of the files fit; and it is no picture."""
    own = b"".join(
        [*(bytes([i]) * 8 for i in range(1, 5)), *(bytes([i]) * 24 for i in range(1, 5))]
    )
    joined = join_fingerprints(own, UNKNOWN)
    memory = Memory(joined)
    assert not memory.complete
    black = Image.new("RGB", (64, 64))
    assert memory.seen(bytes(32), describe(black)) == ""
    assert memory.seen(bytes([3]) * 32, describe(black)) == "copy"
    monkeypatch.setattr(fingerprints, "MOST", 2)
    fewer = join_fingerprints(own, joined)
    assert len(fewer) <= 2 * 32
    assert not Memory(fewer).complete
    monkeypatch.setattr(fingerprints, "MOST", 250_000)
    for other in (own, b"", UNKNOWN):  # one UNKNOWN is enough, and pushes nothing real out
        again = Memory(join_fingerprints(joined, other))
        assert not again.complete
        assert all(again.seen(bytes([i]) * 32, describe(black)) for i in range(1, 5))
    later = bytes([9]) * 32
    assert Memory(join_fingerprints(joined, later)).seen(bytes([9]) * 8, describe(black)) == "copy"
    monkeypatch.setattr(fingerprints, "MOST", 2)
    sampled = Memory(join_fingerprints(own, b""))
    assert not sampled.complete
    assert sampled.seen(bytes([1]) * 32, describe(black)) == "copy"


# The command


def test_the_file_suggests_network_and_size_and_options_win(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", place / "photos", "--weights", place / "base.pth", "--dry-run", "-j", "0")
    assert call(*words, "-b", 8, "--group", "none") == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "taken over from" in told
    assert "not taken: classifier.weight (new: the classes are others)" in told
    suggested = {"arch": "inception_v1_bn", "image_size": 32}
    config, sources = resolve("default", {"root": tmp_path, "weights": "w", "lr": 0.1}, suggested)
    assert (config.arch, sources["arch"]) == ("inception_v1_bn", "weights")
    assert (config.epochs, sources["epochs"]) == (FINE_TUNING["epochs"], "fine-tuning")
    assert (config.lr, sources["lr"]) == (0.1, "option")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--weights", "no.pth"), 4, "no.pth"),
        (("--weights", ""), 2, "--weights: which?"),
        (("--weights", "net.onnx"), 4, "is an exported network"),
        (("--freeze-epochs", "2"), 2, "--weights"),
        (("--layer-lr-decay", "2", "--weights", "no.pth"), 2, "outside 0 to 1"),
    ],
)
def test_faults_of_the_options(
    photos: Path, words: tuple[str, ...], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", photos, *words) == code
    assert told in " ".join(capsys.readouterr().err.split())
    assert not Path("runs").exists()


# ImageNet


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A state_dict of torchvision's own network, in its old format, named by its real hash."""
    torch.manual_seed(1)
    whole = torchvision.models.GoogLeNet(1000, aux_logits=True, init_weights=False)
    path = tmp_path / "server" / "file.pth"
    path.parent.mkdir()
    torch.save(whole.state_dict(), path, _use_new_zipfile_serialization=False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"googlenet-{digest[:8]}.pth"))


def cached(name: str) -> Path:
    path = Path("torch/hub/checkpoints").absolute() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_torchvision_s_file_is_downloaded_verified_and_kept(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a server (here a file: address) once, then from the cache."""
    for _ in range(2):
        weights = imagenet.imagenet_weights(published.as_uri())
        assert weights.path == cached(published.name)
        published.unlink(missing_ok=True)
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count('Downloading: "file:') == 1
    loaded = torch.load(cached(published.name))
    assert all(torch.equal(part, loaded[name]) for name, part in weights.state_dict.items())
    assert not any(name.startswith("aux") for name in weights.state_dict)


def test_a_file_of_another_hash_in_the_cache_is_refused(published: Path) -> None:
    """Random weights under the name that torchvision expects are not its weights."""
    expected = imagenet.IMAGENET_URL.rpartition("/")[2]
    published.rename(cached(expected))
    with pytest.raises(WeightsError, match=r"SHA-256 begins with [0-9a-f]{8}, not 1378be20"):
        imagenet.imagenet_weights()


def test_a_download_of_another_hash_is_refused_and_not_kept(published: Path) -> None:
    other = published.rename(published.with_name("googlenet-00000000.pth"))
    with pytest.raises(WeightsError, match="invalid hash value"):
        imagenet.imagenet_weights(other.as_uri())
    assert [*cached("x").parent.iterdir()] == []


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "marker",)

    path = tmp_path / "evil"
    torch.save({"a": Evil()}, path, _use_new_zipfile_serialization=False)
    name = f"googlenet-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"
    path.rename(cached(name))
    with pytest.raises(WeightsError, match="cannot get"):
        imagenet.imagenet_weights(f"https://nowhere.invalid/{name}")
    assert not (tmp_path / "marker").exists()


def test_without_a_network_the_error_has_address_and_place(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "torch.hub.urlopen", lambda *_: (_ for _ in ()).throw(OSError("no route to host"))
    )
    assert call("train", photos, "--weights", "imagenet") == 4
    told = "".join(capsys.readouterr().err.split())
    assert "noroutetohost" in told
    assert imagenet.IMAGENET_URL in told
    assert str(cached(imagenet.IMAGENET_URL.rpartition("/")[2])) in told


def test_training_from_torchvision_s_weights(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ours(url: str = published.as_uri()) -> Weights:
        return real(url)

    real = imagenet.imagenet_weights
    monkeypatch.setattr(imagenet, "imagenet_weights", ours)
    told: list[str] = []
    root = draw_classes(tmp_path / "photos", ("fox", "gnu"), each=8)
    config = settings(root, tmp_path / "run", weights="imagenet", arch="googlenet", epochs=1)

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            told.append(event.text)

    engine.run(replace(config, freeze_epochs=1), emit=listen)
    best = load_weights(tmp_path / "run" / "best_model.pth")
    theirs = torch.load(published)
    assert best.arch == "googlenet"
    assert torch.equal(best.state_dict["conv1.conv.weight"], theirs["conv1.conv.weight"])
    assert torch.equal(best.state_dict["conv1.bn.running_var"], theirs["conv1.bn.running_var"])
    assert any("not all photographs that" in text for text in told)
