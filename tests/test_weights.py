"""Weights files: plain to torch, exact to us, and harmless whoever wrote them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pickle
import random
import struct
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from inceptcli.errors import WeightsError
from inceptcli.model import archive, weights
from inceptcli.model.inception import ARCHITECTURES, build
from inceptcli.model.weights import (
    Record,
    load_into,
    load_state,
    load_weights,
    name_outputs,
    save_state,
    save_weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Tiny(nn.Module):
    """Every kind of tensor that Inception v1 has, in 3 kB."""

    def __init__(self, classes: int, *, image_size: int = 224, softmax: bool = False) -> None:
        super().__init__()
        del image_size, softmax
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.classifier = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes))


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let "tiny" be a network, and that of plain files too."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", Tiny)  # type: ignore[arg-type]
    monkeypatch.setattr(weights, "PLAIN_ARCH", "tiny")
    weights._skeleton.cache_clear()
    yield
    weights._skeleton.cache_clear()


def tiny_state(seed: int = 0, outputs: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return Tiny(outputs).state_dict()


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "arch": "tiny",
        "classes": ("cat", "dog"),
        "outputs": 2,
        "image_size": 64,
        "resize": "crop",
        "temperature": 1.25,
        "threshold": 0.5,
        "recipe": "default",
        "epoch": 3,
        "metrics": {"val_accuracy": 0.9},
        "settings": {"lr": 0.001, "ratio": [0.8, 0.2], "group": None},
        "versions": {"torch": torch.__version__},
    }
    return Record(**{**values, **changes})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "best_model.pth"
    save_weights(path, tiny_state(), record(), fingerprints=b"\x00\x01" * 40)
    return path


def plain(path: Path, value: Any, **options: Any) -> Path:
    """What a plain script writes."""
    torch.save(value, path, **options)
    return path


def rebuilt(
    data: bytes,
    *,
    changes: dict[str, bytes | None] | None = None,
    compress: int = zipfile.ZIP_STORED,
    extra: bytes = b"",
    seal: bool = True,
) -> bytes:
    """The archive with other entries (None drops one), in good order and, if asked, sealed."""
    entries: dict[str, bytes | None] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        for name in source.namelist():
            entries[name] = source.read(name)
    for name, content in (changes or {}).items():
        entries[f"archive/{name}"] = content
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, content in entries.items():
            if content is not None:
                info = zipfile.ZipInfo(name)
                info.compress_type, info.extra = compress, extra
                target.writestr(info, content)
        if seal:
            target.comment = b"sha256:" + b"0" * 64
    return resealed(buffer.getvalue()) if seal else buffer.getvalue()


def resealed(data: bytes) -> bytes:
    """The same bytes with the digest that belongs to them, as a forger would write it."""
    return data[:-64] + hashlib.sha256(data[:-64]).hexdigest().encode()


def entry(data: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        return source.read(f"archive/{name}")


def refusal(path: Path, load: Callable[[Path], Any] = load_weights) -> str:
    """The line with which a file is refused: one line, exit code 4, naming the file."""
    with pytest.raises(WeightsError) as caught:
        load(path)
    text = str(caught.value)
    assert caught.value.exit_code == 4
    assert "\n" not in text
    assert text.isprintable()
    assert path.name in text
    return text


# The file


def test_the_file_is_the_tutorial_s_to_plain_torch(
    tmp_path: Path, shared_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue's (a): ``torch.load`` gives an ordered dict with the keys of the reference."""
    monkeypatch.setattr(weights, "PLAIN_ARCH", "inception_v1")
    path = tmp_path / "best_model.pth"
    network = build("inception_v1", 4, 224)
    classes = ("a", "b", "c", "d")
    save_weights(
        path, network.state_dict(), record(arch="inception_v1", classes=classes, outputs=4)
    )
    with open(shared_dir / "reference" / "state_dict.csv", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    for mmap in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mmap)
        assert isinstance(loaded, OrderedDict)
        assert rows == [
            (key, "x".join(map(str, value.shape)) or "scalar", str(value.dtype)[6:])
            for key, value in loaded.items()
        ]
        build("inception_v1", 4, 224).load_state_dict(loaded)


@pytest.mark.parametrize("mmap", [False, True])
def test_plain_torch_reads_the_same_tensors(saved: Path, mmap: bool) -> None:
    loaded = torch.load(saved, weights_only=True, mmap=mmap)
    expected = tiny_state()
    assert isinstance(loaded, OrderedDict)
    assert list(loaded) == list(expected)
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    Tiny(2).load_state_dict(loaded)


def test_what_is_saved_is_loaded(saved: Path) -> None:
    loaded = load_weights(saved)
    assert loaded.record == record()
    assert (loaded.arch, loaded.outputs, loaded.image_size) == ("tiny", 2, 64)
    assert loaded.fingerprints == b"\x00\x01" * 40
    assert all(torch.equal(loaded.state_dict[k], v) for k, v in tiny_state().items())
    network = Tiny(2)
    load_into(network, loaded)
    assert all(torch.equal(v, tiny_state()[k]) for k, v in network.state_dict().items())


def test_the_comment_is_the_digest_of_every_byte_before_it(saved: Path) -> None:
    data = saved.read_bytes()
    digest = hashlib.sha256(data[:-64]).hexdigest()
    assert data[-71:] == b"sha256:" + digest.encode()
    assert load_weights(saved).digest == digest
    with zipfile.ZipFile(saved) as opened:
        assert opened.comment == data[-71:]
        assert opened.testzip() is None


def test_equal_input_gives_equal_bytes(tmp_path: Path, saved: Path) -> None:
    """Whatever the memory layout, wrapper, storage and string objects of the input."""
    first = saved.read_bytes()
    base = torch.zeros(1000)
    variants: list[dict[str, Tensor]] = [
        dict(reversed(tiny_state().items())),
        {f"module.{key}": value for key, value in tiny_state().items()},
        {f"_orig_mod.module.{key}": value for key, value in tiny_state().items()},
        {"".join(list(key)): nn.Parameter(v, False) for key, v in tiny_state().items()},
        dict(Tiny(2).to(memory_format=torch.channels_last).state_dict()),
    ]
    for key, value in variants[-1].items():
        value.copy_(tiny_state()[key])
    view = tiny_state()
    view["conv.bias"] = base[10:14].copy_(view["conv.bias"])
    for index, state in enumerate([*variants, view]):
        path = tmp_path / f"{index}.pth"
        save_weights(path, state, record(), fingerprints=b"\x00\x01" * 40)
        assert path.read_bytes() == first, index


def test_the_record_lies_stored_and_undated_below_the_root(saved: Path) -> None:
    with zipfile.ZipFile(saved) as opened:
        info = opened.getinfo("archive/inceptcli.json")
        values = json.loads(opened.read(info))
    assert info.date_time == (1980, 1, 1, 0, 0, 0)
    assert info.compress_type == zipfile.ZIP_STORED
    assert values["kind"] == "weights"
    assert values["classes"] == ["cat", "dog"]


def test_saving_and_loading_leave_the_random_state_alone(saved: Path) -> None:
    before = torch.random.get_rng_state()
    weights._skeleton.cache_clear()
    load_weights(saved)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_file_is_read_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was checked is what is used: exchanging the file in between changes nothing."""
    unpack = archive.unpack

    def exchange(data: bytes, *, pickle_bytes: int) -> archive.Contents:
        saved.write_bytes(b"something else")
        return unpack(data, pickle_bytes=pickle_bytes)

    monkeypatch.setattr(archive, "unpack", exchange)
    assert load_weights(saved).record == record()


# Plain files


def test_a_plain_script_s_file_is_taken(tmp_path: Path) -> None:
    """Issue's (b), and its outputs are read from the last layer."""
    loaded = load_weights(plain(tmp_path / "best_model.pth", tiny_state(outputs=4)))
    assert (loaded.record, loaded.digest, loaded.fingerprints) == (None, None, None)
    assert (loaded.arch, loaded.outputs, loaded.image_size) == ("tiny", 4, 224)
    assert name_outputs((), loaded.outputs) == ("class 0", "class 1", "class 2", "class 3")


def test_extra_outputs_are_named_as_such() -> None:
    names = name_outputs(["cat", "dog"], 4)
    assert names == ("cat", "dog", "output 2 (no class)", "output 3 (no class)")
    assert name_outputs(["a"], 1) == ("a",)


def test_a_tutorial_file_of_the_real_network_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "PLAIN_ARCH", "inception_v1")
    network = build("inception_v1", 4, 224)
    loaded = load_weights(plain(tmp_path / "best_model.pth", network.state_dict()))
    assert (loaded.arch, loaded.outputs) == ("inception_v1", 4)
    assert all(torch.equal(loaded.state_dict[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_networks_are_unwrapped(tmp_path: Path, prefix: str) -> None:
    """As DataParallel and torch.compile leave their names behind."""
    state = {prefix + key: value for key, value in tiny_state().items()}
    loaded = load_weights(plain(tmp_path / "w.pth", state))
    assert list(loaded.state_dict) == list(tiny_state())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tiny_state().items()}
    loaded = load_weights(plain(tmp_path / "w.pth", state)).state_dict
    assert loaded["conv.weight"].dtype == torch.float32
    assert loaded["norm.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(loaded["conv.weight"], state["conv.weight"].float())


def test_a_double_too_large_for_float32_is_refused(tmp_path: Path) -> None:
    state = tiny_state()
    state["conv.bias"] = torch.full((4,), 1e300, dtype=torch.float64)
    assert "conv.bias holds numbers that are not finite" in refusal(
        plain(tmp_path / "w.pth", state)
    )


def test_tensors_of_any_layout_are_taken(tmp_path: Path) -> None:
    state = dict(Tiny(2).to(memory_format=torch.channels_last).state_dict())
    loaded = load_weights(plain(tmp_path / "w.pth", state)).state_dict
    assert loaded["conv.weight"].is_contiguous()
    assert torch.equal(loaded["conv.weight"], state["conv.weight"])


def test_the_old_format_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = plain(tmp_path / "w.pth", tiny_state(), _use_new_zipfile_serialization=False)
    assert "before 1.6; torch.save it again" in refusal(path)


def test_one_flipped_bit_in_a_plain_file_s_tensor_is_refused(tmp_path: Path) -> None:
    """Without a digest the zip checksums serve; torch does not look at them."""
    path = plain(tmp_path / "w.pth", tiny_state())
    data = bytearray(path.read_bytes())
    at = data.find(tiny_state()["conv.weight"].numpy().tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)
    assert "a checksum is wrong" in refusal(path)


# K1: code


class Payload:
    """Writes a marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.marker, "ran"))


def payload_files(folder: Path, marker: Path) -> dict[str, bytes]:
    """The payload in every wrapping, by name."""
    payload = Payload(marker)
    hidden = {**tiny_state(), "conv.bias": payload}
    with_legacy = {"_use_new_zipfile_serialization": False}
    files = {
        "bare": plain(folder / "x", payload).read_bytes(),
        "in a state_dict": plain(folder / "x", hidden).read_bytes(),
        "legacy": plain(folder / "x", payload, **with_legacy).read_bytes(),
        "legacy in a state_dict": plain(folder / "x", hidden, **with_legacy).read_bytes(),
        "whole model": plain(folder / "x", Tiny(2)).read_bytes(),
        "pickle": pickle.dumps(payload),
        "pickle protocol 0": pickle.dumps(payload, protocol=0),
    }
    ours = bytes(archive.pack(OrderedDict(tiny_state()), description=record().to_json()))
    evil = {"data.pkl": pickle.dumps(payload, protocol=2)}
    files["forged with digest and record"] = rebuilt(ours, changes=evil)
    files["forged as plain"] = rebuilt(ours, changes={**evil, "inceptcli.json": None}, seal=False)
    return files


@pytest.mark.parametrize("force", ["", "1"])
@pytest.mark.parametrize("load", [load_weights, load_state])
def test_no_file_can_run_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[Path], Any], force: str
) -> None:
    """K1: plain, legacy and forged, also when torch is told to trust everything."""
    marker, path = tmp_path / "marker", tmp_path / "model.pth"
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists(), "the payload would work"
    marker.unlink()
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", force)
    for name, data in payload_files(tmp_path, marker).items():
        path.write_bytes(data)
        text = refusal(path, load)
        assert not marker.exists(), name
        assert text.startswith(("cannot use", "cannot resume")), name


def test_the_trust_everything_switch_would_be_felt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K1: with that variable a plain ``torch.load(path)`` does run the payload."""
    marker = tmp_path / "marker"
    path = plain(tmp_path / "x.pth", Payload(marker))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.warns(UserWarning, match="forcing weights_only=False"):
        torch.load(path)
    assert marker.exists()


def test_the_function_that_a_pickle_asks_for_is_named(tmp_path: Path) -> None:
    text = refusal(plain(tmp_path / "x.pth", nn.Linear(1, 1)))
    assert "asks for torch.nn.modules.linear.Linear, not only tensors" in text
    assert "save model.state_dict()" in text


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def nested_tuples(depth: int) -> bytes:
    """A key of 2^depth leaves in a few bytes: t1 = (t0, t0), t2 = (t1, t1), ..."""
    doubled = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(depth))
    return opcodes(b"}K\x01\x85", doubled, b"K\x01s")


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (opcodes(b"c__builtin__\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R"), "__builtin__.bytearray"),
        (opcodes(b"ccollections\nCounter\n)R"), "collections.Counter"),
        (nested_tuples(60), "in two places"),
        (opcodes(b"}q\x00h\x00K\x01s"), "in two places"),
        (opcodes(b"]" * 50_000, b"a" * 49_999), "holds no state_dict"),
        (opcodes(b"(K\x01K\x02d"), "opcode DICT"),
        (b"\x80\x04\x8c\x01a.", "opcode SHORT_BINUNICODE"),
        (opcodes(b"}K\x01Q"), "differ in length"),
        (opcodes(b"Q"), "differ in length"),
        (b"\x80\x02X\xff\xff\xff\x7f", "no pickle"),
        (b"", "no pickle"),
        (b"}" * (2**18 + 1), "longer than 262144"),
        (b"}" * (2**24 + 1), "longer than 16777216"),
    ],
)
def test_a_pickle_is_audited_before_torch_runs_it(saved: Path, stream: bytes, reason: str) -> None:
    """Promise 5: nothing is called, no memory taken, no time lost for a hostile pickle."""
    saved.write_bytes(rebuilt(saved.read_bytes(), changes={"data.pkl": stream}))
    started = time.monotonic()
    assert reason in refusal(saved)
    assert time.monotonic() - started < 60  # the nested key alone would take years


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Kltq", b"M\xff\xfftq"),  # 108 items of conv.weight become 65,535
        (b"Kltq", b"Jltq\x00"),
        (b"Kltq", b"K\x01tq"),
        (b"FloatStorage", b"DoubleStorage"),
    ],
)
def test_a_storage_longer_than_its_entry_is_refused(saved: Path, old: bytes, new: bytes) -> None:
    """Before torch 2.10 such a tensor read memory that was not its own."""
    data = saved.read_bytes()
    stream = entry(data, "data.pkl")
    assert old in stream
    saved.write_bytes(rebuilt(data, changes={"data.pkl": stream.replace(old, new, 1)}))
    assert "it is damaged" in refusal(saved)


def test_a_tensor_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    """One stored number, expanded to a last layer of 60,000 outputs."""
    state = tiny_state()
    state["classifier.2.weight"] = torch.zeros(1).expand(60_000, 8)
    state["classifier.2.bias"] = torch.zeros(1).expand(60_000)
    path = plain(tmp_path / "w.pth", state)
    assert path.stat().st_size < 10_000
    assert "claim to be larger than the file" in refusal(path)


# K2: one flipped bit


@pytest.mark.parametrize("load", [load_weights, load_state])
def test_one_flipped_bit_anywhere_is_refused(
    tmp_path: Path, saved: Path, load: Callable[[Path], Any]
) -> None:
    """K2: 200 random offsets, and each bit of header, JSON and tail."""
    if load is load_state:
        save_state(saved, {"weights": tiny_state(), "step": 5})
    load(saved)
    data = saved.read_bytes()
    start = data.find(b"kind")
    offsets = [random.Random(0).randrange(len(data)) for _ in range(200)]
    regions = [*range(30), *range(start, start + 20), *range(len(data) - 120, len(data))]
    path = tmp_path / "flipped.pth"
    for index, offset in enumerate([*offsets, *regions, len(data) - 1]):
        flipped = bytearray(data)
        flipped[offset] ^= 1 << (index % 8)
        path.write_bytes(flipped)
        refusal(path, load)


@pytest.mark.slow
def test_every_flipped_bit_is_refused(saved: Path) -> None:
    """K2, all of them."""
    data = bytearray(saved.read_bytes())
    for offset in range(len(data)):
        for bit in range(8):
            data[offset] ^= 1 << bit
            with pytest.raises(archive.BadArchiveError):
                archive.unpack(bytes(data))
            data[offset] ^= 1 << bit


def test_a_flipped_bit_in_the_real_network_is_refused(tmp_path: Path) -> None:
    """K2 at full size: in the middle of 28 MB."""
    path = tmp_path / "w.pth"
    save_weights(path, build("inception_v1", 2, 224).state_dict(), record(arch="inception_v1"))
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 16]))
    assert "do not match its digest" in refusal(path)


@pytest.mark.parametrize("change", [{"inceptcli.json": None}, {}])
def test_record_and_digest_only_come_together(saved: Path, change: dict[str, None]) -> None:
    """A file with one of the two has lost the other."""
    data = rebuilt(saved.read_bytes(), changes=dict(change), seal=bool(change))
    saved.write_bytes(data)
    assert "only one of description and digest" in refusal(saved)


# K3: other files


@pytest.mark.parametrize("length", [0, 8, 10, 0.5, -1])
@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_a_cut_file_is_refused(saved: Path, kind: str, length: float) -> None:
    """K3."""
    if kind == "plain":
        plain(saved, tiny_state())
    data = saved.read_bytes()
    saved.write_bytes(data[: int(length * len(data)) if length == 0.5 else int(length)])
    assert ("it is empty" if length == 0 else "damaged or cut short") in refusal(saved)


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    return buffer.getvalue()


def zip_of(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name in names:
            target.writestr(name, b"x")
    return buffer.getvalue()


def array_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def script_program() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.ReLU(), torch.zeros(1)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "it is empty"),
        (b"epoch,loss\n1,2\n", "it is text"),
        (b'{"a": 1}', "it is JSON text"),
        (b"<!DOCTYPE html>", "it is HTML or XML text"),
        (picture("PNG"), "it is a PNG image"),
        (picture("JPEG"), "it is a JPEG image"),
        (picture("GIF"), "it is a GIF image"),
        (picture("BMP"), "it is a BMP image"),
        (picture("TIFF"), "it is a TIFF image"),
        (picture("WEBP"), "it is a WebP image"),
        (array_file(), "it is a NumPy array"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "it is an HDF5 file"),
        (struct.pack("<Q", 30) + b'{"a":{"dtype":"F32"}}', "it is a safetensors file"),
        (bytes(range(1, 200)), "it is of an unknown kind"),
        (bytes(5000), "it is of an unknown kind"),
        (zip_of(), "a damaged or empty zip archive"),
        (zip_of("a.txt", "b/c.txt"), "it is a zip archive, but not one of torch.save"),
        (zip_of("data.pkl"), "it is a zip archive, but not one of torch.save"),
    ],
)
@pytest.mark.parametrize("load", [load_weights, load_state])
def test_another_file_is_called_by_its_name(
    tmp_path: Path, load: Callable[[Path], Any], data: bytes, kind: str
) -> None:
    """K3."""
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    assert kind in refusal(path, load)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_program_is_called_by_its_name(tmp_path: Path) -> None:
    """K3."""
    path = tmp_path / "model.pt"
    path.write_bytes(script_program())
    assert "TorchScript program" in refusal(path)


def test_what_is_no_file_never_blocks(tmp_path: Path) -> None:
    """K3: a folder, a FIFO, an endless device, nothing at all."""
    folder, fifo, link = tmp_path / "run", tmp_path / "fifo.pth", tmp_path / "zero.pth"
    folder.mkdir()
    assert "folder" in refusal(folder)
    assert "No such file" in refusal(tmp_path / "missing.pth")
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no FIFO")
    os.mkfifo(fifo)
    link.symlink_to("/dev/zero")
    for path in (fifo, link):
        assert "not a regular file" in refusal(path)


def test_a_file_above_the_limit_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", saved.stat().st_size - 1)
    refusal(saved)
    monkeypatch.setattr(archive, "MAX_BYTES", saved.stat().st_size)
    load_weights(saved)


def test_names_of_files_are_shown_safely(tmp_path: Path) -> None:
    """O3."""
    path = tmp_path / "\x1b]0;PWN\x07\u202e.pth"
    path.write_bytes(b"text")
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert str(caught.value).isprintable()


# Archives that lie


def test_compressed_entries_are_refused_unread(saved: Path) -> None:
    """A zip bomb: 64 MB of zeros in 64 kB."""
    bomb = rebuilt(
        saved.read_bytes(), changes={"data/0": bytes(2**26)}, compress=zipfile.ZIP_DEFLATED
    )
    assert len(bomb) < 100_000
    saved.write_bytes(bomb)
    assert "packed as torch.save never does it" in refusal(saved)


def end_of(data: bytes) -> int:
    return data.rfind(b"PK\x05\x06")


@pytest.mark.parametrize(
    ("field", "value"),
    [("<H", 65_535), ("<H", 0), ("<L", 2**31), ("<L", 0)],
    ids=["many entries", "no entries", "large directory", "no directory"],
)
def test_a_lying_zip_directory_is_refused(saved: Path, field: str, value: int) -> None:
    data = bytearray(saved.read_bytes())
    struct.pack_into(field, data, end_of(data) + (10 if field == "<H" else 12), value)
    saved.write_bytes(resealed(bytes(data)))
    assert "zip directory contradicts itself" in refusal(saved)


def test_a_directory_of_very_many_entries_is_refused_unread(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 5)
    assert "more than 5 entries" in refusal(saved)


def test_bytes_before_the_archive_are_refused(saved: Path) -> None:
    """Python would read the directory beside the end record, torch the one it points at."""
    data = saved.read_bytes()
    saved.write_bytes(resealed(data[:30] + bytes(10) + data[30:]))
    assert "zip directory contradicts itself" in refusal(saved)


def test_two_entries_that_torch_takes_for_one_are_refused(saved: Path) -> None:
    """torch finds entries without regard to case: one could be checked, the other used."""
    data = saved.read_bytes()
    stream = entry(data, "data.pkl")
    saved.write_bytes(rebuilt(data, changes={"DATA.pkl": stream}))
    assert "two entries have one name" in refusal(saved)


def test_an_entry_that_could_have_a_second_name_is_refused(saved: Path) -> None:
    """A Unicode path field renames an entry, for some readers: torch does not look at it."""
    renaming = struct.pack("<HH", 0x7075, 9) + bytes(5) + b"name"
    saved.write_bytes(rebuilt(saved.read_bytes(), extra=renaming))
    assert "packed as torch.save never does it" in refusal(saved)


def test_an_entry_whose_name_is_not_what_it_says_is_refused(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    at = data.find(b"PK\x01\x02")
    data[at + 9] |= 8  # the name is UTF-8, says the directory
    data[at + 46] = 0xFF
    saved.write_bytes(resealed(bytes(data)))
    assert "it is damaged" in refusal(saved)


def test_an_encrypted_entry_is_refused(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    at = data.find(b"PK\x01\x02")
    data[at + 8] |= 1
    saved.write_bytes(resealed(bytes(data)))
    assert "packed as torch.save never does it" in refusal(saved)


# Other networks


def test_another_network_s_first_differing_keys_are_named(tmp_path: Path) -> None:
    state = tiny_state()
    state["stem.weight"] = state.pop("conv.weight")
    text = refusal(plain(tmp_path / "w.pth", state))
    assert "of another network than tiny: it lacks conv.weight and has stem.weight" in text


def test_many_differing_keys_are_counted(tmp_path: Path) -> None:
    text = refusal(plain(tmp_path / "w.pth", {f"x{i}": torch.zeros(1) for i in range(9)}))
    assert "has x0, x1 and 7 more" in text
    assert len(text) < 400


def test_another_shape_is_named(tmp_path: Path) -> None:
    state = {**tiny_state(), "conv.weight": torch.zeros(4, 3, 5, 5)}
    assert "its conv.weight is 4x3x5x5, not 4x3x3x3" in refusal(plain(tmp_path / "w.pth", state))


def test_a_last_layer_that_disagrees_with_itself_is_named(tmp_path: Path) -> None:
    state = {**tiny_state(), "classifier.2.bias": torch.zeros(3)}
    assert "its classifier.2.bias is 3, not 2" in refusal(plain(tmp_path / "w.pth", state))


@pytest.mark.parametrize("bad", [torch.zeros(()), torch.zeros(0, 8), torch.zeros(70_000, 8)])
def test_a_last_layer_without_sensible_outputs_is_refused(tmp_path: Path, bad: Tensor) -> None:
    state = {**tiny_state(), "classifier.2.weight": bad}
    assert "its last layer has" in refusal(plain(tmp_path / "w.pth", state))


@pytest.mark.parametrize(
    "bad", [torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.bool)]
)
def test_integers_are_no_weights(tmp_path: Path, bad: Tensor) -> None:
    state = {**tiny_state(), "conv.bias": bad}
    assert "its conv.bias holds torch." in refusal(plain(tmp_path / "w.pth", state))


def test_a_checkpoint_of_several_things_says_what_to_save(tmp_path: Path) -> None:
    text = refusal(plain(tmp_path / "w.pth", {"epoch": 3, "model": tiny_state()}))
    assert "its 'epoch' is no tensor; save only model.state_dict()" in text
    assert "holds no state_dict" in refusal(plain(tmp_path / "w.pth", [torch.zeros(1)]))


def test_a_dictionary_that_hides_its_items_is_harmless(saved: Path) -> None:
    """A pickle can set attributes of an OrderedDict, such as "items"."""
    stream = opcodes(b"ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\x01sb")
    saved.write_bytes(rebuilt(saved.read_bytes(), changes={"data.pkl": stream}))
    assert "of another network" in refusal(saved)


def test_a_record_of_another_network_is_refused(saved: Path) -> None:
    """K6: tensors and record must agree in network and outputs."""
    save_weights(saved, tiny_state(outputs=3), record(outputs=3))
    forged = record(outputs=2).to_json()
    saved.write_bytes(rebuilt(saved.read_bytes(), changes={"inceptcli.json": forged}))
    assert "its record says 2 outputs, its tensors 3" in refusal(saved)
    forged = record(arch="inception_v1").to_json()
    saved.write_bytes(rebuilt(saved.read_bytes(), changes={"inceptcli.json": forged}))
    assert "of another network than inception_v1" in refusal(saved)


def test_weights_of_other_outputs_do_not_go_into_a_network(saved: Path) -> None:
    """K6."""
    with pytest.raises(WeightsError, match="tiny with 2 outputs"):
        load_into(Tiny(3), load_weights(saved))


# K7: numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, saved: Path, value: float) -> None:
    """K7: on loading, and before an older good file is replaced on saving."""
    state = tiny_state()
    state["norm.running_mean"][2] = value
    text = refusal(plain(tmp_path / "w.pth", state))
    assert "its norm.running_mean holds numbers that are not finite" in text
    before = saved.read_bytes()
    with pytest.raises(ValueError, match="not finite"):
        save_weights(saved, state, record())
    assert saved.read_bytes() == before


def test_negative_variances_are_refused(tmp_path: Path) -> None:
    """K7: their square root is no number."""
    state = tiny_state()
    state["norm.running_var"][0] = -1
    assert "variances below zero" in refusal(plain(tmp_path / "w.pth", state))


def test_a_record_with_other_outputs_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 outputs, its record says 2"):
        save_weights(tmp_path / "w.pth", tiny_state(outputs=3), record())
    assert not (tmp_path / "w.pth").exists()


# K8: records


def with_record(saved: Path, text: bytes) -> Path:
    saved.write_bytes(rebuilt(saved.read_bytes(), changes={"inceptcli.json": text}))
    return saved


def changed(**changes: Any) -> bytes:
    base = {"kind": "weights", "format": 1, "arch": "tiny", "classes": ["cat", "dog"], "outputs": 2}
    return json.dumps({**base, **changes}).encode()


def test_a_newer_format_says_so(saved: Path) -> None:
    """K8, K6."""
    text = refusal(with_record(saved, changed(format=2, invented="later")))
    assert "a newer inceptcli wrote it (format 2); upgrade inceptcli" in text


@pytest.mark.parametrize(
    "name",
    ["../../x", "/abs", "..", "CON", "a\x00b", "\x1b]0;PWN\x07", "\u202egnp", "[red]x[/red]",
     "[/foo]", "caf\udce9", "=1+1", "a,b\n", "é" * 255],
)  # fmt: skip
def test_awkward_class_names_are_kept_as_they_are(tmp_path: Path, name: str) -> None:
    """K8: they are text for display and comparison; showing them safely is the console's work."""
    path = tmp_path / "w.pth"
    save_weights(path, tiny_state(), record(classes=(name, "dog")))
    loaded = load_weights(path).record
    assert loaded is not None
    assert loaded.classes == (name, "dog")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "classes",
    [
        [f"c{i}" for i in range(1_000_000)],
        ["x" * 10_000_000, "dog"],
        [f"c{i}" for i in range(100_000)],
        ["x" * 1_025, "dog"],
    ],
    ids=["a million names", "10 MB", "100,000 names", "long"],
)
def test_class_lists_without_measure_are_refused(saved: Path, classes: list[str]) -> None:
    """K8."""
    text = refusal(with_record(saved, changed(classes=classes)))
    assert "no usable classes" in text or "is longer than 8388608 bytes" in text
    assert len(text) < 300


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "1"), ("format", True), ("format", 0), ("format", None),
        ("arch", "resnet"), ("arch", ["tiny"]), ("arch", None),
        ("classes", []), ("classes", ["cat", "cat"]), ("classes", ["cat", ""]),
        ("classes", "cat"), ("classes", ["cat", 3]), ("classes", ["a", "b", "c"]),
        ("outputs", 1), ("outputs", 2.0), ("outputs", 70_000),
        ("image_size", 31), ("image_size", 10**6), ("image_size", "64"),
        ("resize", "squash"), ("resize", []),
        ("mean", [0.5, 0.5]), ("mean", [0.5, 0.5, "x"]), ("mean", 0.5),
        ("std", [0, 1, 1]), ("std", [-1, 1, 1]), ("std", [True, 1, 1]),
        ("temperature", 0), ("temperature", -1), ("temperature", "1"),
        ("threshold", 1.5), ("threshold", -0.5),
        ("recipe", 3), ("recipe", "x" * 2_000),
        ("epoch", -1), ("epoch", 1.5), ("epoch", 10**40),
        ("metrics", {"a": "b"}), ("metrics", []), ("metrics", {"a": None}),
        ("settings", []), ("versions", {"a": 1}),
    ],
)  # fmt: skip
def test_a_record_out_of_range_is_refused(saved: Path, field: str, value: Any) -> None:
    """K8: each field has its range, and the message names it."""
    text = refusal(with_record(saved, changed(**{field: value})))
    assert field in text or "unknown kind" in text or "outputs" in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"kind": NaN}', "not JSON"),
        (b'{"epoch": ' + b"9" * 5_000 + b"}", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "unknown kind"),
        (b'{"kind": "weights", "format": 1}', "incomplete"),
        (changed(kind="onnx"), "unknown kind"),
        (changed(invented=1), "unknown field 'invented'"),
        (changed(**{"\x1b[2J": 1}), "unknown field"),
        (changed(temperature=1e999).replace(b"Infinity", b"1e999"), "temperature"),
    ],
)
def test_a_record_that_is_none_is_refused(saved: Path, text: bytes, reason: str) -> None:
    """K8."""
    assert reason in refusal(with_record(saved, text))


def test_records_survive_the_way_through_the_file() -> None:
    for changes in ({}, {"temperature": None, "threshold": None, "epoch": None}, {"epoch": 0}):
        assert Record.from_json(record(**changes).to_json()) == record(**changes)


def test_figures_that_are_no_numbers_are_left_out() -> None:
    metrics = {"auc": float("nan"), "loss": float("inf"), "accuracy": 0.5}
    assert Record.from_json(record(metrics=metrics).to_json()).metrics == {"accuracy": 0.5}


def test_a_record_that_could_not_be_read_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="no usable classes: \\('a', 'a'\\)"):
        record(classes=("a", "a"), outputs=1)


def test_what_is_too_long_to_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"inceptcli\.fingerprints is longer than"):
        archive.pack({}, description=b"{}", fingerprints=bytes(2**26 + 1))
    with pytest.raises(ValueError, match=r"inceptcli\.json is longer than"):
        save_weights(tmp_path / "w", tiny_state(), record(settings={"x": "y" * 2**23}))
    with pytest.raises(ValueError, match=r"data\.pkl is longer than"):
        save_state(tmp_path / "s", {"history": "y" * (2**24 + 1)})
    assert list(tmp_path.iterdir()) == []


# State files


def example_state() -> dict[str, Any]:
    network = Tiny(2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        "weights": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.random.get_rng_state(),
        "history": [{"epoch": 1, "loss": 0.1, "best": True}, {"epoch": 2, "loss": float("nan")}],
        "step": 12,
        "big": 2**100,
        "negative": -5,
        "names": ["caf\udce9", "é", "\x1b"],
        "pair": (1, (2.5, None)),
        "empty": [{}, [], ()],
    }


def same(a: Any, b: Any) -> bool:
    """Equal with types, order of keys, and bits of tensors and floats."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return type(a) is type(b) and bool(a == b)


def test_a_state_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    path, state = tmp_path / "last.pth", example_state()
    save_state(path, state)
    loaded = load_state(path)
    assert same(loaded, state)
    optimizer = torch.optim.Adam(Tiny(2).parameters())
    optimizer.load_state_dict(loaded["optimizer"])
    assert same(optimizer.state_dict(), state["optimizer"])


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    save_state(first, example_state() | {"weights": tiny_state(), "optimizer": 0})
    save_state(second, load_state(first))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("value", [{1, 2}, b"x", np.int64(1), Path("x"), object(), 1j])
def test_a_state_that_could_not_be_read_is_not_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="a state file cannot hold"):
        save_state(tmp_path / "last.pth", {"a": [value]})
    assert list(tmp_path.iterdir()) == []


def test_weights_and_states_are_told_apart(tmp_path: Path, saved: Path) -> None:
    state = tmp_path / "last.pth"
    save_state(state, {"step": 1})
    assert "give the best_model.pth beside it" in refusal(state)
    assert "give the last.pth beside it" in refusal(saved, load_state)


def test_a_state_without_a_digest_is_refused(tmp_path: Path) -> None:
    assert "not the state of a run" in refusal(plain(tmp_path / "last.pth", {"a": 1}), load_state)


def test_a_state_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    path.write_bytes(archive.pack({}, description=b'{"kind":"state","format":2}'))
    assert "upgrade inceptcli" in refusal(path, load_state)
    path.write_bytes(archive.pack([1], description=b'{"kind":"state","format":1}'))
    assert "not the state of a run" in refusal(path, load_state)


# Fuzz


def mutate(data: bytes, chance: random.Random) -> bytes:
    """One to three flips, cuts, repetitions, splices or overwritten numbers."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at, other = chance.randrange(len(changed)), chance.randrange(len(changed))
        length = chance.choice([1, 2, 4, 8, 100])
        match chance.randrange(6):
            case 0:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[other : other + length]
            case 3:
                changed[at : at + length] = changed[other : other + length]
            case 4:
                value = chance.choice([0, 1, 0x7F, 0xFF])
                changed[at : at + length] = bytes([value]) * length
            case 5:
                changed[at : at + length] = chance.randbytes(length)
        if not changed:
            return b""
    return bytes(changed)


def mutation(sources: list[bytes], chance: random.Random) -> bytes:
    """A mutated file: damaged, forged with the right digest, or with one entry mutated."""
    data = chance.choice(sources)
    sealed = data[-71:-64] == b"sha256:"
    match chance.randrange(3):
        case 0:
            return mutate(data, chance)
        case 1:
            mutated = mutate(data[:-93] if sealed else data, chance)
            return resealed(mutated + data[-93:]) if sealed else mutated
        case _:
            name = chance.choice(["data.pkl", "data.pkl", "data/0", "data/3", "version"])
            if sealed and chance.random() < 0.5:
                name = "inceptcli.json"
            content = mutate(entry(data, name), chance)
            return rebuilt(data, changes={name: content}, seal=sealed)


def attempt(load: Callable[[Path], Any], path: Path) -> Any:
    """What was loaded, or the error with which it was refused; any other error goes through."""
    try:
        return load(path)
    except WeightsError as error:
        return error


def fuzz(folder: Path, *, seed: int, count: int) -> tuple[int, int]:
    """How many of ``count`` mutated files were refused, and how many were taken as good."""
    chance = random.Random(seed)
    save_weights(folder / "ours", tiny_state(), record())
    save_state(folder / "state", {"weights": tiny_state(), "history": [{"loss": 0.5}]})
    buffer = io.BytesIO()
    torch.save(tiny_state(outputs=4), buffer)
    sources = [(folder / "ours").read_bytes(), (folder / "state").read_bytes(), buffer.getvalue()]
    path, refused = folder / "mutated.pth", 0
    for _ in range(count):
        path.write_bytes(mutation(sources, chance))
        for load in (load_weights, load_state):
            outcome = attempt(load, path)
            if isinstance(outcome, WeightsError):
                refused += 1
                assert str(outcome).isprintable()
            elif isinstance(outcome, weights.Weights):
                assert all(value.isfinite().all() for value in outcome.state_dict.values())
                assert list(outcome.state_dict) == list(tiny_state())
    return refused, 2 * count - refused


def test_mutated_files_are_refused_or_sound(tmp_path: Path) -> None:
    """I16's likes for weights: nothing but WeightsError comes out of a damaged file."""
    refused, taken = fuzz(tmp_path, seed=1, count=200)
    assert refused > 300
    assert taken > 0, "some mutations are harmless, so the reader was reached"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_2000_mutated_files_are_refused_or_sound(tmp_path: Path, seed: int) -> None:
    fuzz(tmp_path, seed=seed, count=500)
