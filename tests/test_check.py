"""What is told of a data folder before anything is learnt from it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from copies import photograph
from inceptcli.config import DataConfig
from inceptcli.data.check import Check, check, suspects_sheet
from inceptcli.data.folder import Rejected
from inceptcli.data.groups import Grouping
from inceptcli.data.prepare import check_photos, prepare
from inceptcli.data.reader import Facts

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["cat/0.png", "cat/1.png", "cat/2.png", "cat/3.png", "dog/4.png", "dog/5.png", "dog/6.png"]
CLASSES = ["cat"] * 4 + ["dog"] * 3
GROUPING = Grouping(  # 0 = 1 (bytes), 2 ~ 4 (two classes), 5 and 6 by name
    ids=np.array([0, 0, 1, 2, 1, 3, 3]),
    rules=("names: 5.png and 6.png are one group",),
    exact_pairs=((0, 1),),
    near_pairs=((2, 4),),
    conflicts=((2, 4),),
)
ROLES = ["train", "test", "train", "val", "train", "test", "train"]


def facts(width: int, height: int, *flags: str) -> Facts:
    return Facts(b"", b"", b"", width, height, "PNG", "RGB", flags)


def checked(**options: object) -> Check:
    options.setdefault("facts", [None] * len(NAMES))
    return check(NAMES, CLASSES, GROUPING, **options)


def test_counts_by_class_role_and_group() -> None:
    found = checked(roles=ROLES)
    assert found.classes == {
        "cat": {"train": 2, "val": 1, "test": 1},
        "dog": {"train": 2, "test": 1},
    }
    assert list(found.classes["cat"]) == ["train", "val", "test"]
    assert checked().classes == {"cat": {"all": 4}, "dog": {"all": 3}}
    assert (found.images, found.groups, found.class_groups) == (7, 4, {"cat": 3, "dog": 2})
    assert (found.exact_copies, found.near_copies) == (1, 2)


def test_leaks_of_a_users_own_split_are_counted_and_named() -> None:
    """A copy in train, by bytes or only by its family's name; the pair that can be named is."""
    found = checked(roles=ROLES)
    assert found.leaked == {"val": 0, "test": 2}
    assert [(s.kind, s.first, s.second) for s in found.suspects] == [
        ("two classes", 2, 4),
        ("two roles", 0, 1),
    ]
    assert found.faults() == (
        "1 pair of copies lies in two classes: cat/2.png and dog/4.png",
        "2 of 2 test images have a copy or relative in train: cat/0.png and cat/1.png",
    )


def test_leaks_are_found_where_files_are_not_grouped() -> None:
    """With --group none each file stands alone, and its copies are copies all the same."""
    alone = Grouping(np.arange(7), (), GROUPING.exact_pairs, GROUPING.near_pairs, ())
    found = check(NAMES, CLASSES, alone, facts=[], roles=["val", "train", *["train"] * 5])
    assert found.leaked == {"val": 1}


def test_leaks_are_found_by_way_of_an_exact_copy_in_another_role() -> None:
    """0, 1 and 2 are equal, 3 is a near copy of the first of them; only 2 is in train."""
    alone = Grouping(np.arange(5), (), ((0, 1), (0, 2)), ((0, 3),), ())
    roles = ["val", "test", "train", "test", "test"]
    found = check(NAMES[:5], CLASSES[:5], alone, facts=[], roles=roles)
    assert found.leaked == {"val": 1, "test": 2}


def test_a_clean_folder_has_no_faults() -> None:
    apart = Grouping(np.arange(7), (), (), (), ())
    found = check(NAMES, CLASSES, apart, facts=[], roles=ROLES)
    assert found.faults() == ()
    assert found.suspects == ()
    assert found.shapes is None


def test_without_roles_nothing_leaks() -> None:
    found = checked()
    assert found.leaked == {}
    assert [s.kind for s in found.suspects] == ["two classes", "equal"]


def test_what_each_way_to_make_an_image_square_would_lose() -> None:
    """A 4:3 image and a square one: worked by hand."""
    found = checked(facts=[facts(400, 300), facts(80, 80), *[None] * 5])
    shapes = found.shapes
    assert shapes is not None
    assert shapes.stretch == pytest.approx((400 / 300 - 1) / 2)
    assert shapes.crop == pytest.approx((1 - 300 * 300 / (400 * 300)) / 2)
    assert shapes.pad == pytest.approx((1 - 400 * 300 / (400 * 400)) / 2)
    assert (shapes.narrowest, shapes.widest) == (1, pytest.approx(4 / 3))
    assert (shapes.square, shapes.smallest) == (0.5, 80)


def test_rejected_files_and_odd_formats_are_counted() -> None:
    rejected = [
        Rejected("cat/x.jpg", "truncated", "", 0),
        Rejected("cat/y.jpg", "empty", "", 0),
        Rejected("dog/z.jpg", "truncated", "", 1),
    ]
    looked = [facts(9, 9, "palette", "transparent"), facts(9, 9, "palette"), facts(9, 9)]
    found = checked(facts=[*looked, *[None] * 4], rejected=rejected)
    assert found.rejected == {"truncated": 2, "empty": 1}
    assert found.flags == {"palette": 2, "transparent": 1}


def test_tiny_and_dominating_classes_are_named() -> None:
    classes = ["big"] * 80 + ["mid"] * 12 + ["one"] * 8
    names = [f"{name}/{index}" for index, name in enumerate(classes)]
    found = check(names, classes, Grouping(np.arange(100), (), (), (), ()), facts=[])
    assert found.tiny == ("one",)
    assert found.dominating == ("big",)
    even = check(names, ["a", "b"] * 50, Grouping(np.arange(100), (), (), (), ()), facts=[])
    assert even.dominating == ()


def test_json_holds_the_findings_as_plain_values() -> None:
    found = checked(roles=ROLES, facts=[facts(4, 3)] * 7)
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["images"] == 7
    assert plain["classes"]["dog"] == {"train": 2, "test": 1}
    assert plain["suspects"][0] == {
        "kind": "two classes",
        "files": [
            {"path": "cat/2.png", "class": "cat", "role": "train"},
            {"path": "dog/4.png", "class": "dog", "role": "train"},
        ],
    }
    assert "role" not in checked().to_json()["suspects"][0]["files"][0]


# --- the contact sheet ---


def test_the_sheet_shows_both_pictures_of_each_pair(tmp_path: Path) -> None:
    colours = [(200, 30, 30), (30, 160, 30), (30, 30, 200), (0, 0, 0), (230, 200, 20)]
    colours += [(0, 0, 0)] * 2
    paths = []
    for name, colour in zip(NAMES, colours, strict=True):
        paths.append(tmp_path / name.replace("/", "_"))
        Image.new("RGB", (300, 200), colour).save(paths[-1])
    sheet = suspects_sheet(checked(roles=ROLES), paths)
    pixels = np.asarray(sheet).reshape(-1, 3)
    for colour in (colours[0], colours[1], colours[2], colours[4]):
        assert (pixels == colour).all(1).sum() >= 160 * 100
    assert not (pixels == colours[3]).all(1).sum() > 5000


def test_the_sheet_stands_files_that_are_gone_and_names_of_any_kind(tmp_path: Path) -> None:
    """A file may vanish after the check; names may hold controls, other scripts, no text."""
    names = ["cat/caf\udce9\x1b[31m\n.png", "cat/" + "猫" * 200 + ".png"]
    found = check(names, ["cat"] * 2, Grouping(np.zeros(2, int), (), ((0, 1),), (), ()), facts=[])
    photograph(1).save(tmp_path / "there.png")
    sheet = suspects_sheet(found, [tmp_path / "gone.png", tmp_path / "there.png"])
    assert sheet.width < 400
    assert (np.asarray(sheet) == 211).all(2).sum() > 10_000  # the grey in place of what is gone


def test_a_sheet_has_an_end_and_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    photograph(1).save(path)
    names = [f"cat/{index}" for index in range(300)]
    pairs = tuple((0, index) for index in range(1, 300))
    many = check(names, ["cat"] * 300, Grouping(np.zeros(300, int), (), pairs, (), ()), facts=[])
    sheet = suspects_sheet(many, [path] * 300, most=6, side=40)
    assert sheet.height < 3 * 110
    apart = Grouping(np.arange(7), (), (), (), ())
    assert suspects_sheet(check(NAMES, CLASSES, apart, facts=[]), []).height < 60


def test_photographs_that_a_split_leaves_out_do_not_take_part(tmp_path: Path) -> None:
    """Their copies are no leak, and the places of the others do not shift."""
    for name in ("a/1.png", "a/4.png", "b/2.png", "b/3.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        photograph(ord(name[2])).save(tmp_path / "data" / name)
    shutil.copy(tmp_path / "data" / "b" / "3.png", tmp_path / "data" / "b" / "5.png")
    shutil.copy(tmp_path / "data" / "a" / "1.png", tmp_path / "data" / "a" / "0.png")
    split = tmp_path / "split.csv"
    rows = ["path,class,role,group", "a/1.png,a,train,1", "a/4.png,a,val,2"]
    rows += ["b/2.png,b,train,3", "b/3.png,b,train,4", "b/5.png,b,val,5"]
    split.write_text("\n".join(rows) + "\n")
    config = DataConfig(root=tmp_path / "data", split=split, cache="none", image_size=32)
    found = check_photos(prepare(config))
    assert found.images == 5
    assert [(pair.kind, found.names[pair.first]) for pair in found.suspects] == [
        ("two roles", "b/3.png")
    ]
    assert found.leaked == {"val": 1}
