"""Exported files answer as the program does, everywhere, or they are not written."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from conftest import ROOT, draw
from inceptcli.cli import main
from inceptcli.data.image import fit, open_image
from inceptcli.data.loader import normalise
from inceptcli.engine import export as engine
from inceptcli.engine import onnx as exported
from inceptcli.engine import parity
from inceptcli.engine.device import choose_device
from inceptcli.engine.infer import Classifier, load_network
from inceptcli.engine.onnx import Description, load_onnx, open_onnx, seal
from inceptcli.engine.predict import softmax
from inceptcli.errors import UsageError, WeightsError
from inceptcli.model.inception import ARCHITECTURES, build
from inceptcli.model.pipeline import Pipeline
from inceptcli.model.weights import Record, load_weights, save_weights

CLASSES = ("Ñandú", "dog", "location")  # the last is also the name of external data
SIZES = ((40, 40), (64, 48), (30, 90), (32, 32), (50, 51), (9, 70), (97, 33))
SHAPES = (
    *SIZES,
    (1, 1),
    (1, 200),
    (300, 2),
    (31, 33),
    (33, 31),
    (200, 150),
    (150, 200),
    (640, 479),
)
ROUNDING = 1e-4  # of a probability; a tenth of what the command lets pass
SMALL = ("--img-size", "32", "-b", "8", "-j", "0", "--group", "none", "--cache", "ram")


def call(*words: object) -> int:
    """The exit code of ``inceptcli WORDS``."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def lively(classes: int, image_size: int, *, arch: str) -> nn.Module:
    """A network whose answers differ between pictures, with batch norms that do something."""
    torch.manual_seed(classes)
    model = build(arch, classes, image_size)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the statistics of the pictures below, no moving average
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.1)
    shades = torch.rand(24, 3, 1, 1) * torch.rand(24, 3, image_size, image_size)
    with torch.no_grad():
        model.train()(shades * 4 - 2)
        answers = model.eval()(shades * 4 - 2)
        last = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
        if classes > 1:
            last.weight.mul_(1 / answers.std(dim=0).mean())
            last.bias.sub_(model(shades * 4 - 2).mean(dim=0))
    return model


def teach(model: nn.Module, paths: list[Path], classes: tuple[str, ...]) -> None:
    """Solve for a last layer that knows the class of each of a few pictures."""
    pixels = np.stack([fit(open_image(path), size=32, resize="stretch") for path in paths])
    labels = torch.tensor([classes.index(path.parent.name) for path in paths])
    last = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    found: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.no_grad():
        model(normalise(torch.from_numpy(pixels), device=torch.device("cpu")))
        hook.remove()
        wanted = 4.0 * nn.functional.one_hot(labels)
        # Small singular values left out: weights that do not magnify rounding.
        last.weight.copy_((torch.linalg.pinv(found[0], rtol=0.03) @ wanted).T)
        last.bias.zero_()


def noise(width: int, height: int, *, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and cache lie in the test's folder; speeds are of no interest here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parity, "SECONDS", 0.0)
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on three drawn classes of pictures of several sizes, with weights of more variety."""
    place = tmp_path_factory.mktemp("trained")
    for label, name in enumerate(CLASSES):
        for index in range(14):
            size = SIZES[index % len(SIZES)]
            path = place / "photos" / name / f"{index}.png"
            draw(path, seed=50 * label + index, label=label, size=size)
    words = ("train", place / "photos", "--epochs", 1, *SMALL, "-o", place / "run")
    assert call(*words, "--ratio", "0.4,0.3,0.3") == 0
    path = place / "run" / "best_model.pth"
    weights = load_weights(path)
    assert weights.record is not None
    model = lively(3, 32, arch=weights.arch)
    teach(model, sorted((place / "photos").glob("*/*.png")), weights.record.classes)
    save_weights(path, model.state_dict(), weights.record, fingerprints=weights.fingerprints)
    return path


@pytest.fixture(scope="module")
def traced(trained: Path) -> torch.export.ExportedProgram:
    return engine._traced(engine._pipeline(load_network(trained)))


@pytest.fixture(scope="module")
def graph(trained: Path, traced: torch.export.ExportedProgram) -> onnx.ModelProto:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_traced", lambda _: traced)
        return engine._graph(engine._pipeline(load_network(trained)))


@pytest.fixture
def same_graph(graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the ten seconds of building it again."""

    def copied(_: Pipeline) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
        return copy

    monkeypatch.setattr(engine, "_graph", copied)


@pytest.fixture(scope="module")
def model(trained: Path, graph: onnx.ModelProto) -> Path:
    """The run's network as ``model.onnx``, written by the command."""
    path = trained.parent.parent / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_graph", lambda _: graph)
        assert call("export", "-m", trained, "-o", path) == 0
    return path


def program(path: Path, images: list[Image.Image]) -> np.ndarray[Any, Any]:
    """The program's own probabilities, in float32."""
    network = load_network(path)
    classifier = Classifier(network.model, choose_device("cpu", "fp32"))
    size, resize = network.spec.image_size, network.spec.resize
    pixels = np.stack([fit(image, size=size, resize=resize) for image in images])
    return softmax(classifier.logits(torch.from_numpy(pixels)).numpy(), network.temperature)


# ---- the resize


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [32, pytest.param(47, marks=pytest.mark.slow)])
def test_the_resize_is_the_programs_own_to_the_bit(resize: Any, size: int) -> None:
    pipeline = Pipeline(
        nn.Identity(), image_size=size, resize=resize, tall_first=engine._tall_first()
    )
    for width, height in (*SHAPES, (size, size)):
        image = noise(width, height)
        given = pipeline.fit(torch.from_numpy(np.array(image))[None])[0].permute(1, 2, 0)
        wanted = fit(image, size=size, resize=resize)
        assert np.array_equal(given.numpy(), wanted), (width, height)


def test_a_picture_of_the_networks_size_is_left_as_it_is() -> None:
    pixels = torch.from_numpy(np.array(noise(32, 32)))[None]
    for resize in ("stretch", "crop", "pad"):
        fitted = Pipeline(nn.Identity(), image_size=32, resize=resize).fit(pixels)  # type: ignore[arg-type]
        assert torch.equal(fitted, pixels.permute(0, 3, 1, 2).float())


def test_the_other_order_of_resizing_would_be_seen() -> None:
    """Pillow before 13 resizes every picture along its width first: at most one level apart."""
    image = torch.from_numpy(np.array(noise(40, 97)))[None]
    one, other = (
        Pipeline(nn.Identity(), image_size=32, resize="stretch", tall_first=tall).fit(image)
        for tall in (True, False)
    )
    assert 0 < (one - other).abs().max() <= 1


# ---- the file


def test_the_file_answers_as_the_program(trained: Path, model: Path) -> None:
    """Any width, height and number of pictures."""
    network = load_onnx(model)
    images = [noise(width, height, seed=width) for width, height in SHAPES]
    wanted = program(trained, images)
    assert np.ptp(wanted, axis=0).max() > 0.05, "the answers are too alike to tell anything"
    given = np.concatenate([network.probabilities(np.array(image)[None]) for image in images])
    assert np.abs(given - wanted).max() < ROUNDING
    several = np.stack([np.array(noise(50, 70, seed=seed)) for seed in range(5)])
    apart = np.concatenate([network.probabilities(each[None]) for each in several])
    assert np.abs(network.probabilities(several) - apart).max() < ROUNDING


def test_the_file_is_whole_and_says_what_it_is(trained: Path, model: Path) -> None:
    data = model.read_bytes()
    graph = onnx.load_model_from_string(data)
    onnx.checker.check_model(graph, full_check=True)
    (taken,), (given,) = graph.graph.input, graph.graph.output
    assert [dim.dim_param or dim.dim_value for dim in taken.type.tensor_type.shape.dim] == [
        *("N", "H", "W", 3)
    ]
    assert (taken.name, given.name) == ("image", "probabilities")
    operators = {node.op_type for node in graph.graph.node}
    assert not operators & {"BatchNormalization", "Dropout"}
    found = {entry.key: entry.value for entry in graph.metadata_props}
    described = json.loads(found["inceptcli"])
    record = load_weights(trained)
    assert described["classes"] == list(load_network(trained).classes)
    assert described["weights_sha256"] == record.digest
    assert described["resize"] == "stretch"
    assert described["versions"].keys() >= {"inceptcli", "torch"}
    for trace in (str(ROOT), "site-packages", str(Path.home())):
        assert trace.encode() not in data


@pytest.mark.usefixtures("same_graph")
def test_parity_is_printed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "export",
        "-m",
        trained,
        "-o",
        tmp_path / "m.onnx",
        "--check",
        trained.parents[1] / "photos",
    )
    assert call(*words, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parity"]["photographs"] == 42
    assert told["parity"]["sizes"] == len(SIZES)
    assert told["parity"]["largest"] < ROUNDING
    assert told["parity"]["agreement"] == 1
    assert told["bytes"] == (tmp_path / "m.onnx").stat().st_size
    assert len(told["images_per_second"]) == 2


@pytest.mark.usefixtures("same_graph")
def test_a_network_that_answers_otherwise_is_not_written(
    trained: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """P3: a layer of the weights is another than the graph's: exit 4, what was there stays."""
    weights = load_weights(trained)
    weights.state_dict["conv1.weight"] *= 1.2
    assert weights.record is not None
    save_weights(tmp_path / "other.pth", weights.state_dict, weights.record)
    before = shutil.copy(model, tmp_path / "m.onnx").read_bytes()
    assert call("export", "-m", tmp_path / "other.pth", "-o", tmp_path / "m.onnx") == 4
    assert "answers otherwise" in capsys.readouterr().err
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert call("export", "-m", tmp_path / "other.pth", "-o", tmp_path / "new.onnx") == 4
    assert sorted(path.name for path in tmp_path.glob("*.onnx")) == ["m.onnx"]


# ---- fewer bits


@pytest.mark.usefixtures("same_graph")
@pytest.mark.parametrize(("precision", "part", "most"), [("fp16", 0.51, 0.02), ("int8", 0.28, 0.5)])
def test_fewer_bits_are_smaller_and_measured(
    *,
    trained: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    precision: str,
    part: float,
    most: float,
) -> None:
    output = tmp_path / "small.onnx"
    words = ("export", "-m", trained, "-o", output, "--precision", precision, "--max-drop", 1)
    assert call(*words, "--json") == 0
    printed = capsys.readouterr()
    assert "too few to tell what is lost: " in printed.err
    told = json.loads(printed.out)
    assert told["accuracy"]["role"] == "val"
    assert told["accuracy"]["before"] == 1
    assert len(told["accuracy"]["interval"]) == 2
    assert output.stat().st_size < part * model.stat().st_size
    network = load_onnx(output)
    assert network.description.precision == precision
    images = [noise(width, height, seed=width) for width, height in SIZES]
    given = np.concatenate([network.probabilities(np.array(image)[None]) for image in images])
    assert 0 < np.abs(given - program(trained, images)).max() < most


@pytest.mark.usefixtures("same_graph")
def test_fewer_bits_that_cost_too_much_are_refused(
    *,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from inceptcli.engine import quantise

    def spoiled(graph: onnx.ModelProto) -> onnx.ModelProto:
        """The last layer answers the other way round."""
        weights = [tensor for tensor in graph.graph.initializer if len(tensor.dims) == 2]
        values = -40 * onnx.numpy_helper.to_array(weights[-1])
        weights[-1].CopyFrom(onnx.numpy_helper.from_array(values, weights[-1].name))
        return graph

    monkeypatch.setattr(quantise, "half_weights", spoiled)
    words = ("export", "-m", trained, "-o", tmp_path / "m.onnx", "--precision", "fp16")
    code = call(*words)
    error = capsys.readouterr().err
    assert (code, list(tmp_path.glob("*.onnx"))) == (4, []), error
    assert "--max-drop 0.01" in error


@pytest.mark.usefixtures("same_graph")
def test_fewer_bits_need_labelled_photographs(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copy(trained, tmp_path / "alone.pth")
    assert call("export", "-m", alone, "-o", "m.onnx", "--precision", "int8") == 3
    assert "--check" in capsys.readouterr().err


# ---- the other formats


def test_pt2_loads_with_torch_alone(
    trained: Path, traced: torch.export.ExportedProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_traced", lambda _: traced)
    assert call("export", "-m", trained, "-o", "m.pt2") == 0
    code = (
        "import sys, numpy, torch\n"
        "extra = {'inceptcli.json': ''}\n"
        "net = torch.export.load('m.pt2', extra_files=extra).module()\n"
        "image = torch.from_numpy(numpy.load('image.npy'))\n"
        "numpy.save('answer.npy', net(image).numpy())\n"
        "print(extra['inceptcli.json'])\n"
        "assert 'inceptcli' not in sys.modules\n"
    )
    images = [noise(50, 70, seed=seed) for seed in (1, 2, 3)]
    np.save("image.npy", np.stack([np.array(image) for image in images]))
    words = [sys.executable, "-c", code]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert sorted(json.loads(said)["classes"]) == sorted(CLASSES)
    assert np.abs(np.load("answer.npy") - program(trained, images)).max() < ROUNDING


def test_safetensors_hold_the_tensors_and_the_record(trained: Path) -> None:
    from safetensors import safe_open

    assert call("export", "-m", trained, "--format", "safetensors") == 0
    weights = load_weights(trained)
    with safe_open("model.safetensors", "pt") as file:
        assert set(file.keys()) == set(weights.state_dict)
        assert all(torch.equal(file.get_tensor(k), v) for k, v in weights.state_dict.items())
        metadata = file.metadata()
    assert Record.from_json(metadata["inceptcli"].encode()) == weights.record
    assert metadata["weights_sha256"] == weights.digest


# ---- predict and evaluate


@pytest.fixture
def inputs(trained: Path, tmp_path: Path) -> Path:
    """A training photograph, others of several shapes, and files that cannot be read."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    root = trained.parents[1] / "photos"
    shutil.copy(root / CLASSES[0] / "0.png", folder / "a.png")
    for number, size in enumerate(SIZES):
        noise(*size, seed=number).save(folder / f"b{number}.png")
    (folder / "c.jpg").write_bytes(b"no picture")
    (folder / "d.jpg").touch()
    return folder


def test_predict_gives_the_same_rows(
    trained: Path, model: Path, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for words in ((trained, "--precision", "fp32"), (model,)):
        code = call("predict", inputs, "missing.png", "-m", *words, "-k", 3, "--json", "-j", 0)
        assert code == 8
        rows.append(json.loads(capsys.readouterr().out))
    assert len(rows[0]) == 11
    for one, other in zip(*rows, strict=True):
        for name in ("path", "class", "uncertain", "trained_on", "error"):
            assert one[name] == other[name]
        assert [pair[0] for pair in one["top"]] == [pair[0] for pair in other["top"]]
        for (_, p), (_, q) in zip(one["top"], other["top"], strict=True):
            assert p == pytest.approx(q, abs=ROUNDING)


@pytest.mark.parametrize("raw", [(), ("--raw",)])
def test_evaluate_gives_the_same_figures(
    trained: Path, model: Path, raw: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    root = trained.parents[1] / "photos"
    told = []
    for words in ((trained, "--precision", "fp32"), (model,)):
        assert call("evaluate", root, "-m", *words, *raw, "--role", "all", "--json") == 0
        told.append(json.loads(capsys.readouterr().out))
    for name in ("accuracy", "loss", "balanced_accuracy", "auc", "temperature"):
        assert told[0][name] == pytest.approx(told[1][name], abs=1e-4)
    assert told[0]["confusion"] == told[1]["confusion"]
    assert told[0]["trained_on"]["paths"] == told[1]["trained_on"]["paths"]


def test_predict_and_evaluate_need_no_torch(trained: Path, model: Path, inputs: Path) -> None:
    """Where importing it fails, both do their work."""
    root = str(trained.parents[1] / "photos")
    for words in (["predict", str(inputs / "a.png")], ["evaluate", root]):
        code = (
            "import sys\n"
            "for name in ('torch', 'torchvision', 'onnx'): sys.modules[name] = None\n"
            "from inceptcli.cli import main\n"
            f"main({[*words, '-m', str(model), '-j', '0', '--debug']!r})"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_a_threshold_and_names_in_any_script_are_kept(
    trained: Path, tmp_path: Path, graph: onnx.ModelProto
) -> None:
    """Also a name that is not UTF-8 on the disk, marks that change the direction, line ends."""
    names = ("猫 \u202e", "location\n", "\udce9té")
    network = replace(load_network(trained), threshold=0.75, classes=names, outputs=names)
    found = open_onnx(engine._finished(graph, network, "fp32"), tmp_path)
    assert (found.classes, found.outputs, found.threshold) == (names, names, 0.75)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("predict", "x.png", "-m", "{model}", "--device", "cuda"), 2, "CPU"),
        (("predict", "x.png", "-m", "{model}", "--precision", "bf16"), 2, "as it was exported"),
        (("predict", "x.png", "-m", "{model}", "--class-names", "a,b"), 2, "its own classes"),
        (("predict", "x.png", "-m", "missing.onnx"), 4, "No such file"),
        (("evaluate", "{root}", "-m", "{model}", "--min-precision", ".5", "--save"), 2, "--save"),
        (("predict", "x.png", "-m", "{model}", "--explain", "why"), 2, "the weights file"),
        (("evaluate", "{root}", "-m", "{model}", "--report", "r.html"), 2, "the weights file"),
        (("export", "-m", "{trained}", "-o", "m.bin"), 2, ".onnx"),
        (("export", "-m", "{trained}", "-o", "m.onnx", "--format", "pt2"), 2, ".pt2"),
        (("export", "-m", "{trained}", "-o", "m.pt2", "--precision", "int8"), 2, "onnx alone"),
        (("export", "-m", "{trained}", "--precision", "int4"), 2, "int8"),
        (("export", "-m", "{trained}", "--format", "tflite"), 2, "onnx"),
        (("export", "-m", "{model}"), 4, "weights"),
        (("export", "-m", "{trained}", "--check", "{root}", "-o", "{root}/m.onnx"), 2, "data"),
    ],
)
def test_mistakes_are_told_in_a_line(
    *,
    words: tuple[str, ...],
    code: int,
    said: str,
    trained: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"model": model, "trained": trained, "root": trained.parents[1] / "photos"}
    noise(20, 20).save("x.png")
    given = call(*(word.format(**places) for word in words))
    error = capsys.readouterr().err
    assert (given, said in error, "Traceback" in error) == (code, True, False), error


def test_what_is_missing_is_named_with_the_command_that_installs_it(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda _: None)
    assert call("export", "-m", trained) == 7
    error = capsys.readouterr().err
    assert "onnxscript" in error
    assert "pip install 'inceptcli[export]'" in error


# ---- strange files


def foreign(**changes: Any) -> bytes:
    """A small model with our description; ``changes`` make it another one."""
    answer = helper.make_tensor("p", TensorProto.FLOAT, [1, 2], changes.get("values", [0.5, 0.5]))
    if changes.get("external"):
        answer.ClearField("float_data")
        answer.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "secret.bin"), ("offset", "0"), ("length", "8")):
            entry = answer.external_data.add()
            entry.key, entry.value = key, value
    kind = changes.get("kind", TensorProto.UINT8)
    nodes = [
        helper.make_node("Shape", ["image"], ["rows"], start=0, end=1),
        helper.make_node("Concat", ["rows", "one"], ["shape"], axis=0),
        helper.make_node("Expand", ["p", "shape"], ["probabilities"]),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    taken = helper.make_tensor_value_info("image", kind, ["N", "H", "W", 3])
    given = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph(nodes, "g", [taken], [given], [answer, one])
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    description = Description(
        **{
            "classes": ("a", "b"),
            "outputs": ("a", "b"),
            "image_size": 32,
            "resize": "crop",
            "temperature": 1.0,
            "threshold": 0.0,
            "arch": "x",
            "precision": "fp32",
            "weights_sha256": None,
            "versions": {},
            **changes.get("description", {}),
        }
    ).to_json()
    entries = {"inceptcli": changes.get("text", description), **changes.get("entries", {})}
    helper.set_model_props(model, entries)
    data: bytes = model.SerializeToString()
    return data + seal(data)


def test_a_small_model_of_our_kind_is_taken() -> None:
    network = open_onnx(foreign(), Path("m.onnx"))
    assert network.probabilities(np.zeros((3, 5, 4, 3), np.uint8)).tolist() == [[0.5, 0.5]] * 3


TOO_NEW = '{"format": 2}'
STRANGE = {
    "empty": (b"", "cut off"),
    "noise": (bytes(range(256)) * 40, "cut off"),
    "noise, sealed": ((noise_ := b"\xff" * 4000) + seal(noise_), "ONNX Runtime refuses it"),
    "no description": (foreign(text=""), "not JSON"),
    "deep description": (foreign(text="[" * 100_000), "not JSON"),
    "a list": (foreign(text="[1]"), "not a JSON object"),
    "newer": (foreign(text=TOO_NEW), "newer inceptcli"),
    "no fields": (foreign(text='{"format":1,"classes":[],"outputs":["a"]}'), "fields"),
    "no outputs": (foreign(text='{"format":1,"classes":[]}'), "outputs"),
    "more outputs": (foreign(description={"outputs": ("a", "b", "c")}), "3"),
    "bad fingerprints": (foreign(entries={"inceptcli.fingerprints": "?"}), "base64"),
    "odd fingerprints": (foreign(entries={"inceptcli.fingerprints": "AAAA"}), "fingerprints"),
    "external data": (foreign(external=True), "from other files"),
    "another input": (foreign(kind=TensorProto.FLOAT), "uint8"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_file_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, why = STRANGE[name]
    (tmp_path / "m.onnx").write_bytes(data)
    (tmp_path / "secret.bin").write_bytes(np.array([0.25, 0.75], np.float32).tobytes())
    noise(20, 20).save("x.png")
    assert call("predict", "x.png", "-m", "m.onnx") == 4
    output = capsys.readouterr()
    assert why in output.err
    assert "Traceback" not in output.err
    assert not output.out


@pytest.mark.parametrize("values", [[float("nan"), 0.5], [2.0, -1.0], [float("inf"), 0.0]])
def test_answers_that_are_no_probabilities_are_refused(values: list[float]) -> None:
    network = open_onnx(foreign(values=values), Path("m.onnx"))
    with pytest.raises(WeightsError, match="no probabilities"):
        network.probabilities(np.zeros((1, 4, 4, 3), np.uint8))


def test_every_flipped_bit_and_every_cut_is_found(model: Path) -> None:
    data = model.read_bytes()
    random = np.random.default_rng(0)
    for at in (0, len(data) - 1, *random.integers(0, len(data), 30).tolist()):
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(random.integers(8))
        with pytest.raises(WeightsError):
            open_onnx(bytes(flipped), model)
        with pytest.raises(WeightsError):
            open_onnx(data[:at], model)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ("b",)},
        {"outputs": ("a", "a")},
        {"image_size": 8},
        {"image_size": True},
        {"resize": "squash"},
        {"temperature": 0.0},
        {"temperature": float("inf")},
        {"threshold": 2},
        {"arch": 3},
        {"weights_sha256": 3},
        {"versions": {"torch": 2}},
    ],
)
def test_a_description_out_of_range_cannot_exist(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no usable"):
        foreign(description=change)


def test_not_a_file_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.onnx").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    noise(20, 20).save("x.png")
    for name in ("folder.onnx", "pipe.onnx"):
        assert call("predict", "x.png", "-m", name) == 4
        assert "regular file" in capsys.readouterr().err


# ---- every network, policy and number of classes


POLICIES = ("stretch", "crop", "pad")
COUNTS = ((1, 32), (2, 40), (5, 224), (1000, 32))  # of classes, with an image size
SOME = (("inception_v1", "pad", 1, 32), ("googlenet", "crop", 1000, 32))  # in the default run
ALL = [(arch, way, *count) for arch in ARCHITECTURES for way in POLICIES for count in COUNTS]


@pytest.mark.parametrize(
    ("arch", "resize", "classes", "image_size"),
    [*SOME, *(pytest.param(*each, marks=pytest.mark.slow) for each in ALL if each not in SOME)],
)
def test_every_network_policy_and_number_of_classes(
    *, arch: str, resize: Any, classes: int, image_size: int, tmp_path: Path
) -> None:
    """The file answers as the program does, without batch norm, dropout or auxiliary heads."""
    names = tuple(f"{index} ж" for index in range(classes))
    record = Record(
        arch=arch,
        classes=names,
        outputs=classes,
        image_size=image_size,
        resize=resize,
        temperature=1.7,
    )
    model = lively(classes, image_size, arch=arch)
    save_weights(tmp_path / "w.pth", model.state_dict(), record)
    assert call("export", "-m", "w.pth", "-o", "m.onnx") == 0
    network = load_onnx(tmp_path / "m.onnx")
    assert network.outputs == names
    written = onnx.load_model(tmp_path / "m.onnx").graph
    assert not {node.op_type for node in written.node} & {"BatchNormalization", "Dropout"}
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    assert [node.op_type for node in written.node].count("Conv") == len(convolutions)
    images = [noise(width, height) for width, height in SHAPES]
    given = np.concatenate([network.probabilities(np.array(image)[None]) for image in images])
    assert np.abs(given - program(tmp_path / "w.pth", images)).max() < 1e-4


@pytest.mark.slow
def test_the_file_of_a_plain_script_is_exported_with_the_names_given(tmp_path: Path) -> None:
    torch.save(lively(4, 224, arch="inception_v1").state_dict(), tmp_path / "script.pth")
    assert call("export", "-m", "script.pth", "-o", "m.onnx", "--class-names", "a,b") == 0
    network = load_onnx(tmp_path / "m.onnx")
    assert network.classes == ("a", "b")
    assert len(network.outputs) == 4
    assert network.digest is not None
    assert network.memory is None


# ---- the examples

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{width}x{height}.png" for width, height in SIZES[:4]]
    for path, size in zip(paths, SIZES, strict=False):
        noise(*size, seed=size[0]).save(path)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    photo = noise(70, 30, seed=3)
    photo.putalpha(Image.fromarray(np.eye(30, 70, dtype=np.uint8) * 255).point(lambda a: 255 - a))
    photo.save(folder / "turned and transparent.png", exif=turned)
    return [*paths, folder / "turned and transparent.png"]


@pytest.fixture(scope="module")
def wanted(model: Path, pictures: list[Path]) -> list[str]:
    """What every example must print."""
    network = load_onnx(model)
    lines = []
    for path in pictures:
        (answer,) = network.probabilities(np.array(open_image(path))[None])
        best = int(answer.argmax())
        lines.append(f"{path}\t{network.outputs[best]}\t{answer[best]:.4f}")
    return lines


def test_the_python_example(model: Path, pictures: list[Path], wanted: list[str]) -> None:
    code = (EXAMPLES / "classify.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in code[1:] if line]) <= 15
    page = (ROOT / "docs" / "how-to" / "export.md").read_text(encoding="utf-8")
    assert "```python\n" + "\n".join(code) + "\n```\n" in page, "the page shows the example"
    words = [sys.executable, EXAMPLES / "classify.py", model, *pictures]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(words, capture_output=True, check=True, env=environment)
    assert done.stdout.decode().splitlines() == wanted


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The examples with what npm installs for them, and the model."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("no npm: install Node.js")
    folder = tmp_path_factory.mktemp("served") / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("node_modules"))
    words = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    words += ["--engine-strict"]  # sharp needs a recent Node
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, check=False, timeout=200
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm install takes too long")
    if done.returncode:
        pytest.skip(f"npm install fails: {done.stderr.strip()[:200]}")
    shutil.copy(model, folder / "model.onnx")
    return folder


def test_the_node_example(served: Path, pictures: list[Path], wanted: list[str]) -> None:
    words = ["node", "classify.mjs", "model.onnx", *map(str, pictures)]
    done = subprocess.run(words, cwd=served, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == wanted


class Server:
    """The folder over HTTP on this machine; ``asked`` holds what came in."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[tuple[str, str]] = []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                asked.append((self.command, self.path))

        handler = functools.partial(Handler, directory=str(folder))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/index.html"


def test_an_exported_network_is_refused_by_several_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        exported.check_options(None, None)


def test_the_page_classifies_what_is_dropped_on_it(
    served: Path, pictures: list[Path], wanted: list[str], browser: Any
) -> None:
    """In the browser, with nothing uploaded; a file that is no picture is told so."""
    server = Server(served)
    page = browser.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text))
    page.goto(server.url)
    page.get_by_text("Ready: 3 classes").wait_for(timeout=60_000)
    loaded = len(server.asked)
    path, name, probability = wanted[1].split("\t")
    dropped = page.evaluate_handle(
        """(bytes) => {
          const held = new DataTransfer();
          held.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
          return held;
        }""",
        list(pictures[1].read_bytes()),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    page.locator("#answer tr").first.wait_for(timeout=60_000)
    cells = page.locator("#answer tr").first.locator("td")
    assert path == str(pictures[1])
    assert (cells.first.inner_text(), cells.last.inner_text()) == (name, probability)
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no"})
    page.get_by_text("cannot be classified").wait_for()
    assert said == []
    assert [kind for kind, _ in server.asked] == ["GET"] * loaded
    server.http.shutdown()
    server.http.server_close()
    page.close()
