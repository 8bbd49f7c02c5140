"""Order, flips and batches: pure functions, the same bits however they are computed."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from conftest import draw
from inceptcli.config import MEAN, STD
from inceptcli.data.ahead import ahead
from inceptcli.data.augment import flip, flip_draws
from inceptcli.data.cache import PixelStore, Reading, survey
from inceptcli.data.folder import Sample
from inceptcli.data.loader import (
    Loader,
    Waiting,
    batches,
    epoch_order,
    normalise,
)
from inceptcli.data.reader import PixelSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CPU = torch.device("cpu")
WORD = 2**64 - 1


def philox_words(seed: int, epoch: int, count: int) -> list[int]:
    """Philox4x64-10 after Salmon et al. (2011), in plain integers; numpy counts from 1."""
    words: list[int] = []
    block = 1
    while len(words) < count:
        counter, key = [block, 0, 0, 0], [seed, epoch]
        for _ in range(10):
            low, high = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
            counter = [
                (high >> 64) ^ counter[1] ^ key[0],
                high & WORD,
                (low >> 64) ^ counter[3] ^ key[1],
                low & WORD,
            ]
            key = [(key[0] + 0x9E3779B97F4A7C15) & WORD, (key[1] + 0xBB67AE8584CAA73B) & WORD]
        words += counter
        block += 1
    return words[:count]


def splitmix(word: int) -> int:
    word = (word + 0x9E3779B97F4A7C15) & WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)


@pytest.mark.parametrize(("seed", "epoch", "count"), [(42, 1, 101), (2**63 + 5, 300, 7), (0, 0, 1)])
def test_the_order_is_the_reference_generators(seed: int, epoch: int, count: int) -> None:
    """Decision 8, against the published algorithm in plain integers."""
    words = philox_words(seed, epoch, count)
    order = epoch_order(count, seed=seed, epoch=epoch)
    assert order.dtype == np.int64
    assert order.tolist() == sorted(range(count), key=words.__getitem__)


def test_orders_are_permutations_and_differ_by_seed_and_epoch() -> None:
    orders = [epoch_order(500, seed=s, epoch=e) for s in (1, 2, -3) for e in (1, 2, 3)]
    assert all(np.array_equal(np.sort(order), np.arange(500)) for order in orders)
    assert len({order.tobytes() for order in orders}) == 9
    assert epoch_order(0, seed=1, epoch=1).shape == (0,)
    first = np.array([epoch_order(10, seed=7, epoch=e)[0] for e in range(2000)])
    counts = np.bincount(first, minlength=10)
    assert (abs(counts - 200) < 5 * np.sqrt(200)).all()


def test_flips_are_a_function_of_seed_epoch_and_index_alone() -> None:
    """Decision 8: the composition of a batch changes nothing; against plain integers."""
    indices = np.arange(1000)
    h, v = flip_draws(indices, seed=42, epoch=3, flips="hv")
    words = [splitmix(splitmix(splitmix(42) ^ 3) ^ index) for index in range(1000)]
    assert h.tolist() == [bool(word >> 63) for word in words]
    assert v.tolist() == [bool(word >> 62 & 1) for word in words]
    some = np.array([999, 3, 500, 3])
    assert np.array_equal(flip_draws(some, seed=42, epoch=3, flips="hv")[0], h[some])
    for seed, epoch in ((43, 3), (42, 4)):
        other, _ = flip_draws(indices, seed=seed, epoch=epoch, flips="hv")
        assert 350 < np.count_nonzero(other != h) < 650
    assert 420 < np.count_nonzero(h) < 580
    assert 180 < np.count_nonzero(h & v) < 320


def test_only_the_flips_asked_for_are_drawn() -> None:
    indices = np.arange(100)
    both = flip_draws(indices, seed=1, epoch=1, flips="hv")
    h = flip_draws(indices, seed=1, epoch=1, flips="h")
    none = flip_draws(indices, seed=1, epoch=1, flips="none")
    assert np.array_equal(h[0], both[0])
    assert not h[1].any()
    assert not none[0].any()
    assert not none[1].any()


@pytest.mark.parametrize(
    ("count", "size", "lengths"),
    [
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (8, 4, [4, 4]),
        (1, 4, [1]),
        (3, 1, [1, 1, 1]),
        (3, 2, [3]),
        (0, 4, []),
    ],
)
def test_a_last_batch_of_one_joins_the_one_before(
    count: int, size: int, lengths: list[int]
) -> None:
    order = epoch_order(count, seed=1, epoch=1)
    cut = batches(order, size)
    assert [len(batch) for batch in cut] == lengths
    assert np.array_equal(np.concatenate([order[:0], *cut]), order)


def test_normalising_equals_torchvision_to_the_bit() -> None:
    every = np.arange(256, dtype=np.uint8)
    pixels = np.stack([np.stack([every, every[::-1], np.roll(every, 9)], 1).reshape(16, 16, 3)] * 2)
    pixels[1] = np.random.default_rng(1).integers(0, 256, (16, 16, 3))
    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    result = normalise(torch.from_numpy(pixels), device=CPU)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, torch.stack([reference(Image.fromarray(p)) for p in pixels]))
    half = normalise(torch.from_numpy(pixels), device=CPU, dtype=torch.bfloat16)
    assert torch.equal(half, result.to(torch.bfloat16))
    assert normalise(torch.empty(0, 8, 8, 3, dtype=torch.uint8), device=CPU).shape == (0, 3, 8, 8)


def test_normalising_first_without_gradients_does_not_spoil_training() -> None:
    pixels = torch.zeros(1, 5, 5, 3, dtype=torch.uint8)
    with torch.inference_mode():
        normalise(pixels, device=CPU)
    scale = torch.ones(1, requires_grad=True)
    (normalise(pixels, device=CPU) * scale).sum().backward()
    assert scale.grad is not None


def test_flipping_equals_flipping_each_image_alone() -> None:
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (4, 6, 5, 3), np.uint8))
    before = images.clone()
    h, v = np.array([True, False, True, False]), np.array([True, True, False, False])
    result = flip(images, h, v)
    for image, flipped, horizontal, vertical in zip(images, result, h, v, strict=True):
        alone = image.numpy()
        alone = alone[:, ::-1] if horizontal else alone
        alone = alone[::-1] if vertical else alone
        assert np.array_equal(flipped.numpy(), alone)
    assert torch.equal(images, before)


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    monkeypatch.setenv("INCEPTCLI_CACHE", str(tmp_path / "cache"))
    names = [f"{index:02d}.png" for index in range(23)]
    paths = [draw(tmp_path / "data" / name, seed=i, label=i) for i, name in enumerate(names)]
    return [Sample(path, path.name, 0, None) for path in paths]


def store_of(samples: list[Sample], *, cache: str = "auto", workers: int = 0) -> PixelStore:
    reading = Reading(workers=workers, cache=cache)
    return survey(samples, PixelSpec(32, "stretch"), reading).store


STEPS = batches(epoch_order(23, seed=1, epoch=1), 5)


def test_batches_are_the_same_bits_for_any_cache_and_workers(samples: list[Sample]) -> None:
    """N1: order and pixels do not depend on where they come from."""
    seen = []
    for cache, workers in (("auto", 0), ("ram", 2), ("none", 0), ("none", 2)):
        with store_of(samples, cache=cache, workers=workers) as store:
            seen.append([(b.step, b.indices, b.images) for b in Loader(store, STEPS)])
    for step, indices, images in seen[0]:
        assert np.array_equal(indices, STEPS[step])
        for other in seen[1:]:
            assert other[step][0] == step
            assert np.array_equal(other[step][1], indices)
            assert torch.equal(other[step][2], images)


def test_a_resumed_loader_goes_on_where_it_was(samples: list[Sample]) -> None:
    store = store_of(samples)
    whole = list(Loader(store, STEPS))
    for start in range(len(STEPS) + 1):
        rest = Loader(store, STEPS, start=start)
        assert len(rest) == len(STEPS) - start
        for batch, same in zip(rest, whole[start:], strict=True):
            assert batch.step == same.step
            assert torch.equal(batch.images, same.images)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_processes_share_each_batch_out(samples: list[Sample], world: int) -> None:
    """Together they have the batch in its order; sizes differ by one, and may be none."""
    store = store_of(samples)
    parts = [list(Loader(store, STEPS, rank=rank, world=world)) for rank in range(world)]
    for step, batch in enumerate(STEPS):
        shares = [part[step] for part in parts]
        assert np.array_equal(np.concatenate([share.indices for share in shares]), batch)
        sizes = [len(share.images) for share in shares]
        assert sizes == [len(share.indices) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_a_lost_file_is_left_out_of_its_batch(samples: list[Sample]) -> None:
    """D13."""
    store = store_of(samples, cache="none")
    samples[7].path.unlink()
    for batch in Loader(store, STEPS):
        assert batch.indices.tolist() == [i for i in STEPS[batch.step] if i != 7]
        assert len(batch.images) == len(batch.indices)
    assert list(store.lost) == [7]


def test_the_next_item_is_prepared_while_this_one_is_used() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for item in range(5):
            made.append(item)
            if item == 1:
                second.set()
            yield item

    results = ahead(items())
    assert next(results) == 0
    assert second.wait(10)
    assert made == [0, 1]
    assert list(results) == [1, 2, 3, 4]


def test_an_error_in_the_thread_is_raised_at_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("in the thread")

    results = ahead(items(), depth=3)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        next(results)


def test_leaving_early_ends_the_thread_and_what_it_read_from() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.set()

    before = threading.active_count()
    results = ahead(items())
    assert next(results) == 0
    assert threading.active_count() == before + 1
    results.close()
    assert closed.is_set()
    assert threading.active_count() == before


def test_an_item_that_takes_long_hears_that_nobody_wants_it() -> None:
    left, begun = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        begun.set()
        yield int(left.wait(60))

    results = ahead(items(), left=left)
    assert next(results) == 0
    assert begun.wait(10)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 10


def test_the_time_spent_waiting_is_counted() -> None:
    class Slow:
        def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            time.sleep(0.05)
            return np.zeros((len(indices), 2, 2, 3), np.uint8), indices

    loader = Loader(Slow(), STEPS)
    assert len(list(loader)) == len(STEPS)
    assert loader.waited >= 0.05 * len(STEPS) - 0.01


def test_a_gpu_waits_from_the_end_of_its_work_to_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten milliseconds in each gap, counted as far as the GPU has come."""
    made: list[Mock] = []

    def event(**_: bool) -> Mock:
        made.append(Mock(query=lambda: reached, elapsed_time=lambda _: 10.0))
        return made[-1]

    monkeypatch.setattr(torch.cuda, "Event", event)
    waiting, reached = Waiting(on_gpu=True), False
    for _ in range(3):
        with waiting:
            pass
    assert [each.record.call_count for each in made] == [1] * 6
    assert waiting.seconds == 0
    reached = True
    assert waiting.seconds == pytest.approx(0.03)
    assert waiting.seconds == pytest.approx(0.03)
