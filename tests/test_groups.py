"""Which files belong together: copies by content, by sight and by name."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from PIL.Image import Resampling, Transpose
from sklearn.datasets import load_digits

from copies import copies_of, photograph, write_copies
from inceptcli.data.groups import SIGHT_LEAST, Grouping, group, grouping_line
from inceptcli.data.looks import (
    LOOK_BYTES,
    SHORT_LOOK_BYTES,
    describe,
    find_short,
    near_copies,
    short_look,
)
from inceptcli.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

Change = "Callable[[Image.Image], Image.Image]"


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def grouped(names: Sequence[str], images: Sequence[Image.Image], **options: object) -> Grouping:
    """Group pictures that are in memory, each named CLASS/FILE."""
    labels = np.unique([name.split("/")[0] for name in names], return_inverse=True)[1]
    options.setdefault("pixels", [hashlib.sha256(image.tobytes()).digest() for image in images])
    return group(names, labels, looks=list(map(describe, images)), **options)


def read_folder(root: Path) -> tuple[list[str], list[Image.Image]]:
    paths = sorted(root.glob("*/*.*"))
    images = [Image.open(path).convert("RGB") for path in paths]
    return [path.relative_to(root).as_posix() for path in paths], images


def straddling(found: Grouping, truth: Sequence[object]) -> list[set[object]]:
    """The groups that hold more than one original."""
    held: dict[int, set[object]] = {}
    for group_id, original in zip(found.ids.tolist(), truth, strict=True):
        held.setdefault(group_id, set()).add(original)
    return [originals for originals in held.values() if len(originals) > 1]


def joined_share(found: Grouping, truth: Sequence[object]) -> float:
    """The part of the copies that are in the largest group of their original."""
    held: dict[object, Counter[int]] = {}
    for group_id, original in zip(found.ids.tolist(), truth, strict=True):
        held.setdefault(original, Counter())[group_id] += 1
    largest = sum(counts.most_common(1)[0][1] for counts in held.values())
    return (largest - len(held)) / (len(truth) - len(held))


# --- by sight ---


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5), (640, 480)])
def test_a_description_has_one_length_for_every_size(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (200, 30, 90))
    assert len(describe(image)) == LOOK_BYTES
    assert describe(image) == describe(image)


CHANGES: dict[str, Change] = {
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "quarter turn": lambda image: image.transpose(Transpose.ROTATE_90),
    "three quarter turns, mirrored": lambda image: image.transpose(Transpose.TRANSVERSE),
    "turned by 10 degrees": lambda image: image.rotate(10, Resampling.BILINEAR),
    "cropped": lambda image: image.crop((9, 4, 93, 88)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.5),
    "JPEG of quality 15": lambda image: through_jpeg(image, 15),
    "noisy": lambda image: Image.fromarray(
        (np.asarray(image) + np.random.default_rng(3).normal(0, 12, (96, 96, 3)))
        .clip(0, 255)
        .astype(np.uint8)
    ),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
    "enlarged and squeezed": lambda image: image.resize((200, 130)),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_is_joined_with_its_original_and_nothing_else(change: Change) -> None:
    strangers = [photograph(seed) for seed in range(40)]
    images = [*strangers, *(change(strangers[k]) for k in range(0, 40, 4))]
    pairs, margin = near_copies(list(map(describe, images)), [0] * len(images))
    sure = [pair for pair, value in zip(pairs.tolist(), margin, strict=True) if value >= 0]
    assert set(map(tuple, sure)) <= {(4 * k, 40 + k) for k in range(10)}
    assert len(sure) >= 9


def test_pictures_that_differ_in_colour_alone_are_no_copies() -> None:
    image = photograph(1)
    red, green, blue = image.split()
    other = Image.merge("RGB", (blue, green, red))
    assert grouped(["a/1.png", "b/2.png"], [image, other]).conflicts == ()


def test_blank_pictures_are_joined_only_when_they_are_equal() -> None:
    random = np.random.default_rng(0)
    images = [Image.new("RGB", (64, 64), (shade, shade, shade)) for shade in range(0, 240, 12)]
    images += [through_jpeg(image, 30) for image in images[:3]]
    for _ in range(20):  # a plain background with a little noise
        pixels = 200 + random.normal(0, 1.5, (64, 64, 3))
        images.append(Image.fromarray(pixels.astype(np.uint8)))
    names = [f"a/{random.bytes(6).hex()}.png" for _ in images]
    looks = list(map(describe, images))
    pairs, margin = near_copies(looks, [0] * len(looks))
    assert not len(pairs[margin >= 0])
    found = grouped(names, images)
    digests = len({image.tobytes() for image in images})
    assert found.ids.max() + 1 == digests < len(images)


def test_scenes_that_look_alike_are_not_copies() -> None:
    """One backdrop, lit and framed alike, with another small thing before it each time."""
    backdrop = photograph(5, side=128).filter(ImageFilter.GaussianBlur(6))
    random = np.random.default_rng(1)
    images = []
    for seed in range(60):
        image = backdrop.copy()
        thing = photograph(100 + seed, side=56)
        image.paste(thing, tuple(random.integers(20, 52, 2).tolist()))
        images.append(image)
    found = grouped([f"a/{random.bytes(6).hex()}.png" for _ in images], images)
    assert found.ids.max() + 1 == 60


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_handwritten_digits_are_nearly_all_groups_of_their_own(every: int) -> None:
    digits = load_digits()
    written, labels = digits.images[::every], digits.target[::every]
    looks = [
        describe(
            Image.fromarray((image * 255 / 16).round().astype(np.uint8))
            .resize((64, 64), Resampling.BICUBIC)
            .convert("RGB")
        )
        for image in written
    ]
    names = [f"{label}/{index:04d}.png" for index, label in enumerate(labels)]
    found = group(names, labels, looks=looks)
    assert len(labels) * 0.995 <= found.ids.max() + 1 <= len(labels)


def test_groups_by_sight_stay_small_where_every_picture_resembles_the_next() -> None:
    """A camera that pans: neighbours overlap, the ends do not; 120 frames are no one group."""
    panorama = Image.new("RGB", (96 * 8, 96))
    for part in range(8):
        panorama.paste(photograph(20 + part), (96 * part, 0))
    frames = [panorama.crop((left, 0, left + 96, 96)) for left in range(0, 600, 5)]
    random = np.random.default_rng(0)
    names = [f"a/{index:03d}{random.bytes(4).hex()}.png" for index in range(len(frames))]
    found = grouped(names, frames)
    assert len(found.near_pairs) > 100
    assert np.bincount(found.ids).max() <= SIGHT_LEAST
    for members in (np.flatnonzero(found.ids == k) for k in range(found.ids.max() + 1)):
        assert (members.max() - members.min()) * 5 < 96 / 2


def test_many_alike_copies_are_split_rather_than_filling_a_class() -> None:
    image = photograph(2)
    images = [through_jpeg(image, quality) for quality in range(20, 80)]
    images += [photograph(100 + seed) for seed in range(60)]
    random = np.random.default_rng(0)
    names = sorted(f"a/{random.bytes(6).hex()}.png" for _ in images)
    found = grouped(names, images)
    assert np.bincount(found.ids).max() == SIGHT_LEAST
    assert any("left apart" in line for line in found.rules)


def test_by_sight_alone_drawn_copies_find_their_originals() -> None:
    random = np.random.default_rng(4)
    images: list[Image.Image] = []
    truth = [original for original in range(30) for _ in range(15)]
    for original in range(30):
        images += copies_of(photograph(500 + original), random)
    order = random.permutation(len(images)).tolist()
    names = [f"ab{'ab'[truth[k] % 2]}/{place:04d}.jpg"[1:] for place, k in enumerate(order)]
    found = grouped(names, [images[k] for k in order])
    truth = [truth[k] for k in order]
    assert straddling(found, truth) == []
    assert joined_share(found, truth) >= 0.95


# --- the tutorial's situation, from real photographs ---


@pytest.fixture(scope="module")
def originals(shared_dir: Path) -> dict[str, list[Image.Image]]:
    """Sixty photographs: every sixteenth of three classes."""
    return {
        name: [
            Image.open(path).convert("RGB")
            for path in sorted((shared_dir / "data/flowers" / name).glob("*.jpg"))[::16]
        ]
        for name in ("daisy", "rose", "tulip")
    }


def test_named_copies_of_photographs_are_all_grouped(
    tmp_path: Path, originals: dict[str, list[Image.Image]]
) -> None:
    few = {name: images[:10] for name, images in originals.items()}
    truth = write_copies(tmp_path / "data", few)
    names, images = read_folder(tmp_path / "data")
    found = grouped(names, images)
    assert straddling(found, [truth[name] for name in names]) == []
    assert found.ids.max() + 1 == 30
    assert grouping_line(found.ids).startswith("450 images -> 30 groups (x15)")
    assert any("D01_01_00.jpg and D01_01_14.jpg are one group" in line for line in found.rules)


def test_randomly_named_copies_of_photographs_are_grouped_by_sight(
    tmp_path: Path, originals: dict[str, list[Image.Image]]
) -> None:
    truth = write_copies(tmp_path / "data", originals, random_names=True)
    names, images = read_folder(tmp_path / "data")
    found = grouped(names, images)
    family = [truth[name] for name in names]
    assert straddling(found, family) == []
    assert joined_share(found, family) >= 0.95


def test_byte_identical_photographs_share_a_group(shared_dir: Path) -> None:
    paths = sorted((shared_dir / "data/flowers/sunflower").glob("*.jpg"))
    content = [hashlib.sha256(path.read_bytes()).digest() for path in paths]
    images = [Image.open(path).convert("RGB") for path in paths]
    found = grouped([f"sunflower/{path.name}" for path in paths], images, content=content)
    assert len(found.exact_pairs) == 2
    assert all(found.ids[i] == found.ids[j] for i, j in found.exact_pairs)
    assert found.ids.max() + 1 >= 305


@pytest.mark.slow
def test_unrelated_photographs_are_hardly_ever_joined(shared_dir: Path) -> None:
    """Of 1,600 photographs 34 belong together (looked at, pair by pair): bursts and re-edits."""
    names, images = read_folder(shared_dir / "data/flowers")
    found = grouped(names, images)
    sizes = np.bincount(found.ids)
    assert sizes[sizes > 1].sum() <= 34 + 1


# --- by content ---


def test_equal_bytes_and_equal_pixels_are_exact_copies_and_conflicts_are_told() -> None:
    content = [b"1", b"2", b"1", b"3", b"4"]
    pixels = [b"a", b"b", b"a", b"b", b"c"]
    names = ["cat/1.png", "cat/2.png", "cat/3.png", "dog/2.jpg", "dog/5.png"]
    found = group(names, [0, 0, 0, 1, 1], content=content, pixels=pixels)
    assert found.exact_pairs == ((0, 2), (1, 3))
    assert found.conflicts == ((1, 3),)
    assert found.ids.tolist() == [0, 1, 0, 1, 2]
    assert found.rules == ("exact copies: 2 files equal to another",)


def test_what_was_not_looked_at_is_like_nothing() -> None:
    looks = [describe(photograph(0)), b"", b"", describe(photograph(0))]
    names = [f"a/{letter}.png" for letter in "wxyz"]
    found = group(names, [0] * 4, content=[b"1", b"", b"", b"2"], looks=looks)
    assert found.ids.tolist() == [0, 1, 2, 0]
    assert found.exact_pairs == ()


def test_the_same_picture_re_encoded_into_another_class_is_a_conflict() -> None:
    images = [photograph(seed) for seed in range(8)]
    images.append(through_jpeg(ImageOps.mirror(images[3]), 70))
    names = [f"cat/{seed}.png" for seed in "abcdefgh"] + ["dog/x.jpg"]
    assert grouped(names, images).conflicts == ((3, 8),)


# --- by name ---


def named(pattern: Callable[[int, int], str], families: int, copies: int) -> list[str]:
    return [f"cat/{pattern(family, copy)}" for family in range(families) for copy in range(copies)]


def family_pictures(families: int, copies: int) -> list[Image.Image]:
    """Members resemble each other, too little to be copies."""
    pictures = []
    for family in range(families):
        shared = photograph(300 + family, side=64)
        for copy in range(copies):
            own = photograph(1000 + 31 * family + copy, side=64)
            pictures.append(Image.blend(shared, own, 0.45))
    return pictures


@pytest.mark.parametrize(
    "pattern",
    [
        lambda family, copy: f"M01_{family:02d}_{copy:02d}.jpg",
        lambda family, copy: f"aug_{family}_{(family * 7919 + copy * 104729) % 9973}.png",
        lambda family, copy: f"IMG_{family}{f' (copy {copy})' if copy else ''}.jpg",
        lambda family, copy: (
            f"photo{family}{('', '-rotated', '_flip', '_crop2', ' (2)')[copy]}.jpg"
        ),
        lambda family, copy: f"patient{family}.{copy}.png",
        lambda family, copy: f"{family:04d}_{copy}_{copy * 37 % 11}.png",
        lambda family, copy: f"Copy of {family}.jpg" if copy else f"{family}.jpg",
    ],
)
def test_families_of_names_are_found(pattern: Callable[[int, int], str]) -> None:
    copies = 2 if pattern(0, 1).startswith("Copy") else 5
    names = named(pattern, 12, copies)
    found = grouped(names, family_pictures(12, copies))
    assert found.near_pairs == ()
    assert found.ids.tolist() == [family for family in range(12) for _ in range(copies)]
    (rule,) = found.rules
    assert re.fullmatch(r"names: .* are one group \(.*: 12 groups of \d files\)", rule)


@pytest.mark.parametrize(
    "pattern",
    [
        lambda family, copy: f"DSC_{5 * family + copy:04d}.JPG",
        lambda family, copy: f"holiday ({5 * family + copy}).jpg",
        lambda family, copy: f"ISIC_{24306 + 5 * family + copy:07d}.jpg",
        lambda family, copy: f"{5 * family + copy:05d}.png",
        lambda family, copy: f"site{'abc'[family % 3]}_{family}{copy}.png",
        lambda family, copy: f"{10**9 + 977 * (5 * family + copy)}_{family * 31 + copy:x}f_n.jpg",
        lambda family, copy: f"cat.{5 * family + copy}.jpg",
    ],
)
def test_numbers_of_a_camera_are_no_family(pattern: Callable[[int, int], str]) -> None:
    names = named(pattern, 40, 5)
    pictures = [photograph(seed, side=48) for seed in range(200)]
    found = grouped(names, pictures)
    assert found.ids.max() + 1 == 200
    assert found.rules == ()


def test_families_that_do_not_look_alike_are_left_apart() -> None:
    """Twelve sets of five names, dealt out to pictures at random."""
    names = named(lambda family, copy: f"day{family:02d}_{copy}.jpg", 12, 5)
    found = grouped(names, [photograph(seed, side=48) for seed in range(60)])
    assert found.ids.max() + 1 == 60


def test_the_same_family_name_in_two_folders_is_two_families() -> None:
    names = named(lambda family, copy: f"{family:02d}_{copy}.jpg", 12, 4)
    names += [name.replace("cat/", "dog/") for name in names]
    found = grouped(names, family_pictures(24, 4))
    assert found.ids.max() + 1 == 24
    (rule,) = found.rules
    assert "24 groups of 4 files" in rule


def test_a_rule_shows_odd_names_safely() -> None:
    names = named(lambda family, copy: f"\x1b[2J{family:02d}_{copy}.jpg", 6, 4)
    (rule,) = grouped(names, family_pictures(6, 4)).rules
    assert "\x1b" not in rule
    assert r"\x1b[2J" in rule


# --- the user's own groups ---

NAMES = ["a/p1_1.png", "a/p1_2.png", "a/p2_1.png", "b/p1_3.png", "b/x.png"]


def test_none_lets_each_file_stand_alone_but_tells_the_copies() -> None:
    found = group(NAMES, [0, 0, 0, 1, 1], content=[b"1", b"1", b"2", b"3", b"2"], how="none")
    assert found.ids.tolist() == [0, 1, 2, 3, 4]
    assert found.exact_pairs == ((0, 1), (2, 4))
    assert found.conflicts == ((2, 4),)
    assert found.rules == ()


def test_a_regular_expression_names_groups_by_its_first_capture() -> None:
    found = group(NAMES, [0, 0, 0, 1, 1], how=r"(p\d)_(\d)")
    assert found.ids.tolist() == [0, 0, 1, 0, 2]
    assert found.rules == (r"--group (p\d)_(\d): 3 groups, 1 file without it alone",)


def test_a_capture_that_equals_another_name_does_not_join_it() -> None:
    assert group(["a/x.png", "a/y.png"], [0, 0], how=r"(a/y\.png)|z").ids.tolist() == [0, 1]
    names = ["a/b/x", "q/b/x"]
    assert group(names, [0, 0], how=r"^q/(b/x)").ids.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("expression", "told"),
    [("(", "no regular expression"), (r"p\d", "captures nothing"), (r"(q\d)", "found in no name")],
)
def test_a_useless_regular_expression_is_refused_with_the_remedy(
    expression: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        group(NAMES, [0, 0, 0, 1, 1], how=expression)
    assert "\n" not in str(caught.value)


def test_a_mapping_gives_the_groups_and_must_be_complete() -> None:
    mapping = {name: name[2:4] for name in NAMES}
    assert group(NAMES, [0, 0, 0, 1, 1], how=mapping).ids.tolist() == [0, 0, 1, 0, 2]
    del mapping["b/x.png"]
    with pytest.raises(DataError, match=r"no group for 1 file, the first b/x\.png"):
        group(NAMES, [0, 0, 0, 1, 1], how=mapping)


def test_the_line_says_how_many_groups_there_are() -> None:
    assert grouping_line(np.arange(2142) // 14) == (
        "2,142 images -> 153 groups (x14): splitting by group; --group none splits by file"
    )
    assert "3 images -> 2 groups (1 to 2 images each)" in grouping_line(np.array([0, 0, 1]))
    assert grouping_line(np.arange(5)) == ("5 images, each a group of its own: splitting by file")
    assert grouping_line(np.array([0, 0]), dividing=False) == "2 images -> 1 group (x2)"


def test_nothing_and_one_file_have_groups_too() -> None:
    assert group([], []).ids.tolist() == []
    assert grouped(["a/1.png"], [photograph(0)]).ids.tolist() == [0]
    assert grouped(["a/1.png", "a/2.png"], [photograph(0), photograph(1)]).ids.tolist() == [0, 1]


# --- short descriptions ---


def test_a_short_description_finds_re_saved_turned_and_brightened_copies() -> None:
    images = [photograph(seed) for seed in range(200)]
    shorts = b"".join(short_look(describe(image)) for image in images)
    assert len(shorts) == 200 * SHORT_LOOK_BYTES
    for k in range(0, 200, 10):
        copy = images[k].transpose(Transpose.ROTATE_270).resize((150, 110))
        copy = through_jpeg(ImageEnhance.Brightness(copy).enhance(0.8), 40)
        assert np.flatnonzero(find_short(describe(copy), shorts)).tolist() == [k]
    strangers = [describe(photograph(seed)) for seed in range(1000, 1200)]
    assert not any(find_short(look, shorts).any() for look in strangers)


def test_a_blank_picture_matches_no_short_description() -> None:
    blank = describe(Image.new("RGB", (50, 50), "white"))
    assert short_look(blank) == bytes(SHORT_LOOK_BYTES)
    shorts = short_look(blank) + short_look(describe(photograph(0)))
    assert not find_short(blank, shorts).any()
    assert find_short(describe(photograph(0)), shorts).tolist() == [False, True]
    assert find_short(blank, b"").tolist() == []


def test_of_equal_files_the_first_that_is_kept_stands_for_the_others() -> None:
    names = [f"{name}/{i}.png" for i, name in enumerate(["cat", "cat", "dog", "cat", "dog"])]
    labels = np.array([0, 0, 1, 0, 1])
    found = group(names, labels, content=[b"x", b"x", b"x", b"y", b"z"])
    assert found.exact_pairs == ((0, 1), (0, 2))
    kept = np.array([1, 2, 4])
    some = found.among(kept, labels[kept])
    assert some.exact_pairs == ((0, 1),)
    assert some.conflicts == ((0, 1),)
    near = replace(found, near_pairs=((0, 4),)).among(kept, labels[kept])
    assert near.near_pairs == ((0, 2),)
