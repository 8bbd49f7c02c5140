"""The networks beside the tutorial's: counts, keys, first weights, and every command with each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from conftest import ROOT, draw
from inceptcli.cli import main
from inceptcli.config import TrainConfig
from inceptcli.engine import run as engine
from inceptcli.events import Event, StateSaved
from inceptcli.model.fold import SeparablePool, fold_batch_norm, separate_pools
from inceptcli.model.inception import BLOCKS, InceptionV1, build, heads
from inceptcli.model.summary import block_table, layer_table, module_tree
from inceptcli.model.weights import load_weights

OTHERS = ("inception_v1_bn", "inception_v1_aux", "googlenet")
ALL = ("inception_v1", *OTHERS)


def count(state: dict[str, Tensor], *ends: str) -> int:
    return sum(part.numel() for key, part in state.items() if key.endswith(ends))


def torchvision_s(classes: int, **options: Any) -> nn.Module:
    return torchvision.models.GoogLeNet(
        classes, aux_logits=False, transform_input=True, init_weights=False, **options
    )


# Counts


def test_googlenet_has_torchvision_s_keys_shapes_and_count() -> None:
    with torch.device("meta"):
        ours, theirs = build("googlenet", 1000, 224), torchvision_s(1000)
    shapes = [
        [(key, tuple(part.shape), part.dtype) for key, part in net.state_dict().items()]
        for net in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    # and the figure that torchvision publishes beside its weights
    published = torchvision.models.GoogLeNet_Weights.IMAGENET1K_V1.meta["num_params"]
    assert layer_table("googlenet", classes=1000).total_parameters == published == 6_624_904


def test_googlenet_answers_as_torchvision_s() -> None:
    torch.manual_seed(0)
    ours, theirs = build("googlenet", 5, 64).eval(), torchvision_s(5).eval()
    shake(ours)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


def test_the_stem_s_norms_and_the_single_head_are_all_that_bn_differs_in() -> None:
    """By hand: two numbers a normalised channel of the stem; a head of 1024 x C + C alone."""
    tutorial = layer_table("inception_v1", classes=4).total_parameters
    first_linear = 1024 * 1024 + 1024
    expected = 7_041_172 + 2 * (64 + 64 + 192) - first_linear
    assert tutorial == 7_041_172
    assert layer_table("inception_v1_bn", classes=4).total_parameters == expected


def test_shared_layers_of_bn_have_the_tutorial_s_keys() -> None:
    with torch.device("meta"):
        ours, tutorial = (build(arch, 4, 224).state_dict() for arch in ALL[1::-1])
    own = {key for key in ours if key not in tutorial}
    assert {key.split(".")[0] for key in own} == {"norm1", "norm2", "norm3", "classifier"}
    missing = {key for key in tutorial if key not in ours}
    assert {key.rsplit(".", 1)[0] for key in missing} == {"classifier.0", "classifier.2"}
    assert all(tutorial[key].shape == ours[key].shape for key in ours.keys() - own)


def test_an_auxiliary_classifier_counts_as_the_paper_s() -> None:
    """Section 5: 128 filters of 1x1 on 4x4, 1024 units, C outputs; 4a has 512 channels, 4d 528."""
    classes = 1000
    by_hand = sum(
        (inputs * 128 + 128) + (4 * 4 * 128 * 1024 + 1024) + (1024 * classes + classes)
        for inputs in (512, 528)
    )
    with torch.device("meta"):
        trained = build("inception_v1_aux", classes, 224, training=True)
        used = build("inception_v1_aux", classes, 224)
    parts = [trained.aux1, trained.aux2]
    assert sum(p.numel() for part in parts for p in part.parameters()) == by_hand
    assert [*used.state_dict()] == [*build("inception_v1", classes, 224).state_dict()]
    tables = [layer_table(arch, classes=classes) for arch in ("inception_v1_aux", "inception_v1")]
    assert tables[0].total_parameters - tables[1].total_parameters == by_hand
    assert [row.output_shape for row in tables[0].rows if row.layer == "AvgPool2d"] == [
        (1024, 1, 1),
        (512, 4, 4),  # 14x14 pooled by 5x5 with stride 3
        (528, 4, 4),
    ]


@pytest.mark.parametrize("arch", ALL)
def test_summary_holds_the_whole_network(arch: str) -> None:
    """The rows' parameters are the network's, block by block and in all; the tree has 9 blocks."""
    table, blocks = layer_table(arch, classes=3, image_size=96), block_table(arch, image_size=96)
    with torch.device("meta"):
        network = build(arch, 3, 96, training=True)
    assert table.total_parameters == sum(p.numel() for p in network.parameters())
    assert table.rows[-1].layer == "Softmax"
    assert [row.name for row in blocks] == [*BLOCKS]
    assert [row.widths for row in blocks] == [*BLOCKS.values()]
    named = dict(network.named_children())
    assert [row.parameters for row in blocks] == [
        sum(p.numel() for p in named[row.name].parameters()) for row in blocks
    ]
    rows = [row for row in table.rows if row.layer in ("inception_block", "Inception")]
    assert [row.output_shape for row in rows] == [row.output_shape for row in blocks]
    tree = module_tree(arch, classes=3, image_size=96)
    assert sum("inception_block(" in line or "Inception(" in line for line in tree.split("\n")) == 9


def test_torchvision_s_block_saves_what_its_layers_say() -> None:
    """3x3 in the paper's 5x5 branch, no biases: 192 x 16 + 16 x 9 x 32 against 192 x 9 x 32."""
    five = block_table("googlenet")[0].five
    assert (five.parameters, five.parameters_without) == (192 * 16 + 16 * 9 * 32, 192 * 9 * 32)


# Numbers


def shake(network: nn.Module) -> None:
    """Norms that do something, so that an error in them shows."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)


@pytest.mark.parametrize("arch", ALL)
def test_folding_leaves_the_answers_and_no_norm(arch: str) -> None:
    torch.manual_seed(1)
    network = build(arch, 4, 64).eval()
    shake(network)
    folded = fold_batch_norm(network)
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-3, atol=1e-4)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 5, 9, 8), (1, 3, 2, 2), (1, 4, 1, 1), (1, 2, 1, 3)])
def test_a_separable_pool_is_the_pool(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    maps = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)
    pooled = SeparablePool()(maps)
    assert torch.equal(pooled, functional.max_pool2d(maps, 3, stride=1, padding=1))
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    maps[0, 0, 0, 0] = float("nan")
    assert SeparablePool()(maps)[0, 0, 0].isnan()[:2].all()


@pytest.mark.parametrize("arch", ALL)
def test_pools_are_made_separable_where_they_can_be(arch: str) -> None:
    network = build(arch, 4, 64).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = network(images)
        assert torch.equal(separate_pools(network)(images), before)
    kinds = [type(part) for part in network.modules()]
    assert (kinds.count(SeparablePool), kinds.count(nn.MaxPool2d)) == (9, 4)


def test_bn_is_the_tutorial_s_network_where_its_norms_do_nothing() -> None:
    """Identity norms in the stem, the same blocks: the features before the head are equal."""
    torch.manual_seed(2)
    tutorial, ours = InceptionV1(4, image_size=64).eval(), build("inception_v1_bn", 4, 64).eval()
    shake(tutorial)
    ours.load_state_dict(tutorial.state_dict() | only_own(ours), strict=False)
    for norm in (ours.norm1, ours.norm2, ours.norm3):
        norm.eps = 0.0
    features = {}
    for net in (tutorial, ours):
        net.inception5b.register_forward_hook(
            lambda net, _, out: features.__setitem__(net, out.flatten())
        )
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours(images), tutorial(images)
    torch.testing.assert_close(*features.values(), rtol=1e-4, atol=1e-5)


def only_own(network: nn.Module) -> dict[str, Tensor]:
    own = ("norm", "classifier")
    return {key: part for key, part in network.state_dict().items() if key.startswith(own)}


@pytest.mark.parametrize("arch", OTHERS)
@pytest.mark.parametrize("image_size", [32, 47, 224])
def test_sizes_from_32_give_logits(arch: str, image_size: int) -> None:
    network = build(arch, 5, image_size, training=True).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, image_size, image_size)).shape == (1, 5)


@pytest.mark.parametrize("arch", OTHERS)
def test_below_32_pixels_is_refused(arch: str) -> None:
    with pytest.raises(ValueError, match="at least 32, not 31"):
        build(arch, 2, 31, training=True)


def test_bn_takes_another_size_than_it_was_built_for() -> None:
    network = build("inception_v1_bn", 2, 224).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 100, 100)).shape == (1, 2)


@pytest.mark.parametrize("arch", ALL)
def test_first_weights_guess_and_every_layer_learns(arch: str) -> None:
    """The first loss is a guess's, activations keep their size, no weight is without gradient."""
    torch.manual_seed(3)
    network = build(arch, 10, 96, training=True).train()
    sizes = {}
    for name in ("maxpool2", "inception3b", "inception4d", "inception5a"):
        part = dict(network.named_modules())[name]
        part.register_forward_hook(
            lambda _, __, out, name=name: sizes.__setitem__(name, out.pow(2).mean().sqrt().item())
        )
    images, labels = torch.randn(16, 3, 96, 96), torch.arange(16) % 10
    answers = heads(network(images))
    assert len(answers) == (3 if arch == "inception_v1_aux" else 1)
    for logits in answers:
        assert functional.cross_entropy(logits, labels).item() == pytest.approx(2.3026, abs=0.25)
    assert all(0.01 < size < 3 for size in sizes.values()), sizes
    torch.stack([functional.cross_entropy(each, labels) for each in answers]).sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None
        assert weight.grad.isfinite().all()
        if weight.ndim > 1:
            assert weight.grad.norm() > 1e-6, name


def test_the_auxiliary_losses_count_three_tenths(tmp_path: Path) -> None:
    """One step of plain SGD moves the weights against the gradient of main + 0.3 (aux1 + aux2)."""
    from inceptcli.data.loader import Loader
    from inceptcli.engine.device import choose_device
    from inceptcli.engine.run import prepare_photos, set_up
    from inceptcli.engine.signals import StopRequest
    from inceptcli.engine.train import batches_of, network_input, train_step

    config = settings(
        draw_pairs(tmp_path / "pairs"), tmp_path / "run", arch="inception_v1_aux", label_smoothing=0
    )
    device, stop = choose_device("cpu", "fp32"), StopRequest()
    photos = prepare_photos(config, device, stop, lambda _: None)
    with photos.store:
        t = set_up(config, photos, device, tmp_path, stop, lambda _: None)
        batch = next(iter(Loader(photos.store, batches_of(t, 1)[:1])))
        images = network_input(t, batch)
        labels = torch.from_numpy(photos.labels[batch.indices])
        t.model.train()
        torch.manual_seed(5)
        main_loss, *aux = (functional.cross_entropy(a, labels) for a in t.model(images))
        expected = torch.autograd.grad(main_loss + 0.3 * (aux[0] + aux[1]), t.model.conv1.weight)
        torch.manual_seed(5)
        losses, _ = train_step(t, batch, total=len(batch.indices))
    torch.testing.assert_close(t.model.conv1.weight.grad, expected[0], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(losses.mean(), main_loss.detach())


# Commands


def draw_pairs(root: Path) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for index in range(12):
            draw(root / name / f"{index:02d}.png", seed=100 * label + index, label=label)
    return root


def settings(root: Path, output: Path, **more: Any) -> TrainConfig:
    base: dict[str, Any] = {"epochs": 1, "image_size": 32, "batch_size": 8, "workers": 0}
    return TrainConfig(root=root, output=output, group="none", save_minutes=0, **(base | more))


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module", params=OTHERS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch with one of the networks, and one that was stopped in its middle."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INCEPTCLI_CACHE", str(folder / "cache"))
        root = draw_pairs(folder / "pairs")
        engine.run(settings(root, folder / "run", arch=request.param))

        def stop(event: Event) -> None:
            if event == StateSaved(1, 2):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            engine.run(settings(root, folder / "stopped", arch=request.param), emit=stop)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))


def test_a_stopped_run_of_each_ends_with_the_same_bits(place: Path) -> None:
    assert call("train", "--resume", place / "stopped") == 0
    one, other = (torch.load(place / run / "last.pth") for run in ("run", "stopped"))
    assert [*one["model"]] == [*other["model"]]
    assert all(torch.equal(part, other["model"][key]) for key, part in one["model"].items())
    one, other = (torch.load(place / run / "best_model.pth") for run in ("run", "stopped"))
    assert all(torch.equal(part, other[key]) for key, part in one.items())


def test_every_command_knows_the_network(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = place / "run" / "best_model.pth"
    arch = place.name.rstrip("0123456789")
    assert load_weights(best).arch == arch
    assert call("summary", best, "--json") == 0
    assert json.loads(capsys.readouterr().out)["arch"] == arch
    assert call("evaluate", place / "pairs", "-m", best, "--role", "all", "-j", "0", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    picture = place / "pairs" / "cat" / "00.png"
    assert call("predict", picture, "-m", best, "--json", "-k", 2) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert figures["images"] == 24
    assert {name for name, _ in row["top"]} == {"cat", "dog"}
    assert sum(p for _, p in row["top"]) == pytest.approx(1)


def test_every_picture_of_where_the_network_looks(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Grad-CAM in ``predict --explain`` and in the page of ``evaluate``, at 32 pixels."""
    best, picture = place / "run" / "best_model.pth", place / "pairs" / "cat" / "00.png"
    assert call("predict", picture, "-m", best, "--explain", tmp_path / "why", "-k", 2) == 0
    assert len([*(tmp_path / "why").rglob("*.png")]) == 4  # overlay and map, two classes
    page = tmp_path / "page.html"
    words = ("-m", best, "--role", "all", "-j", "0", "--tta", "flips", "--report", page)
    assert call("evaluate", place / "pairs", *words) == 0
    assert "data:image/" in page.read_text()
    capsys.readouterr()


def test_each_can_begin_with_its_own_weights(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--weights", place / "run" / "best_model.pth", "-b", "8", "-j", "0", "--group", "none")
    assert call("train", place / "pairs", *words, "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["steps_per_epoch"], told["epochs"]) == (3, 67)  # 200 steps at least
    assert call("train", place / "pairs", *words, "--epochs", 10, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 10


def test_a_plain_state_dict_is_known_by_its_keys(place: Path, tmp_path: Path) -> None:
    """As a script saves it, with the auxiliary classifiers of the training or of torchvision."""
    arch = place.name.rstrip("0123456789")
    state = build(arch, 3, 64, training=True).state_dict()
    if arch == "googlenet":
        whole = torchvision.models.GoogLeNet(3, aux_logits=True, init_weights=False)
        state = whole.state_dict()
    torch.save(state, tmp_path / "plain.pth")
    loaded = load_weights(tmp_path / "plain.pth")
    used = "inception_v1" if arch == "inception_v1_aux" else arch  # without aux they are one
    assert (loaded.arch, loaded.outputs) == (used, 3)
    build(arch, 3, 64).load_state_dict(loaded.state_dict)


def test_files_of_aux_are_the_tutorial_s(place: Path) -> None:
    """No key of an auxiliary classifier in best_model.pth; all of them in the state."""
    best, state = (torch.load(place / "run" / name) for name in ("best_model.pth", "last.pth"))
    more = {key.split(".")[0] for key in state["model"].keys() - best.keys()}
    if "aux" in place.name:
        InceptionV1(2).load_state_dict(best)
        assert more == {"aux1", "aux2"}
    else:
        assert more == set()


def test_only_googlenet_imports_torchvision(place: Path) -> None:
    """Nor does another one import torch's compiler, a second, to predict one file."""
    program = (
        "import sys; from inceptcli.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print(sorted({'torchvision', 'torch._dynamo', 'sklearn'} & sys.modules.keys()))"
    )
    picture, best = place / "pairs" / "cat" / "00.png", place / "run" / "best_model.pth"
    done = subprocess.run(
        [sys.executable, "-c", program, "predict", str(picture), "-m", str(best)],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = ["torch._dynamo", "torchvision"] if place.name.startswith("googlenet") else []
    assert done.stdout.splitlines()[-1] == str(wanted)
