"""Whole groups to roles and folds; split.csv."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inceptcli.data.split import (
    SplitRow,
    assign_folds,
    assign_roles,
    group_names,
    match_split,
    read_groups,
    read_split,
    write_split,
)
from inceptcli.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

RATIO = (0.8, 0.1, 0.1)


def by_group(values: object, groups: np.ndarray) -> dict[int, set[object]]:
    held: dict[int, set[object]] = {}
    for value, group in zip(values, groups.tolist(), strict=True):
        held.setdefault(group, set()).add(value)
    return held


folders = st.lists(  # classes, each with the sizes of its groups
    st.lists(st.integers(1, 20), min_size=3, max_size=40), min_size=1, max_size=5
)


def laid_out(sizes: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(sizes)), [sum(row) for row in sizes])
    flat = [size for row in sizes for size in row]
    return labels, np.repeat(np.arange(len(flat)), flat)


# --- roles ---


@settings(deadline=None)
@given(folders, st.integers(0, 9), st.sampled_from([RATIO, (0.8, 0.2), (0.5, 0.25, 0.25)]))
def test_groups_stay_whole_and_every_role_has_every_class(
    sizes: list[list[int]], seed: int, ratio: tuple[float, ...]
) -> None:
    labels, groups = laid_out(sizes)
    roles = assign_roles(labels, groups, ratio=ratio, seed=seed)
    assert all(len(held) == 1 for held in by_group(roles, groups).values())
    counts = Counter(zip(labels.tolist(), roles, strict=True))
    for label, row in enumerate(sizes):
        for role, share in zip(("train", "val", "test"), ratio, strict=False):
            assert counts[label, role] > 0
            # no share is missed by more than a largest group for each role that is filled
            assert abs(counts[label, role] - share * sum(row)) <= 1 + max(row) * (len(ratio) - 1)


def test_equal_groups_meet_the_ratio_exactly() -> None:
    """Seventy originals of fourteen copies, as in the tutorial: 56, 7 and 7 of them."""
    labels, groups = laid_out([[14] * 70])
    roles = assign_roles(labels, groups, ratio=RATIO, seed=42)
    assert Counter(roles) == {"train": 56 * 14, "val": 7 * 14, "test": 7 * 14}


@pytest.mark.parametrize("stratify", [True, False])
def test_by_file_the_counts_are_the_tutorials(stratify: bool) -> None:
    """``int(0.8 * 2142)`` files train, the others validate, stratified or not."""
    labels = np.repeat([0, 1], [980, 1162])
    roles = assign_roles(labels, np.arange(2142), ratio=(0.8, 0.2), seed=1, stratify=stratify)
    assert Counter(roles) == {"train": 1713, "val": 429}


def test_small_classes_do_not_add_up_to_another_ratio() -> None:
    labels = np.repeat(np.arange(40), 15)  # a tenth of each is one and a half
    roles = assign_roles(labels, np.arange(600), ratio=RATIO, seed=0)
    assert Counter(roles) == {"train": 480, "val": 60, "test": 60}


def test_unstratified_roles_need_not_have_every_class() -> None:
    labels = np.array([0] * 97 + [1] * 3)
    roles = assign_roles(labels, np.arange(100), ratio=RATIO, seed=0, stratify=False)
    assert Counter(roles) == {"train": 80, "val": 10, "test": 10}


def test_the_split_is_the_same_on_every_machine() -> None:
    """N2: a fixed digest, because nothing but SHA-256 decides."""
    labels, groups = laid_out([[3, 1, 4, 1, 5, 9, 2, 6], [2] * 30, [1] * 50])
    roles = assign_roles(labels, groups, ratio=RATIO, seed=42)
    assert roles == assign_roles(labels, groups, ratio=RATIO, seed=42)
    assert roles != assign_roles(labels, groups, ratio=RATIO, seed=43)
    digest = hashlib.sha256(" ".join(roles).encode()).hexdigest()
    assert digest[:16] == "cfdfc1ba23dba462"


def test_every_group_can_come_to_every_role() -> None:
    labels, groups = laid_out([[1, 2, 3, 4, 5, 6, 30]])
    seen: dict[int, set[object]] = {}
    for seed in range(60):
        roles = assign_roles(labels, groups, ratio=(0.4, 0.3, 0.3), seed=seed)
        for group, held in by_group(roles, groups).items():
            seen.setdefault(group, set()).update(held)
    assert all(held == {"train", "val", "test"} for group, held in seen.items() if group < 6)


def test_groups_in_several_classes_are_kept_whole() -> None:
    labels = np.array([0, 0, 1] * 10 + [0, 1] * 10)
    groups = np.concatenate([np.repeat(np.arange(10), 3), np.arange(10, 30)])
    roles = assign_roles(labels, groups, ratio=RATIO, seed=5)
    assert all(len(held) == 1 for held in by_group(roles, groups).values())
    folds = assign_folds(labels, groups, folds=4, seed=5)
    assert all(len(held) == 1 for held in by_group(folds.tolist(), groups).values())


def test_too_few_groups_are_refused_all_classes_named_with_the_remedy() -> None:
    labels, groups = laid_out([[14, 14], [1] * 9, [20]])
    with pytest.raises(DataError) as caught:
        assign_roles(labels, groups, ratio=RATIO, seed=0, classes=("cat", "dog", "\x1beel"))
    assert str(caught.value) == (
        "roles need 3 groups of images a class: cat has 2 (28 images); \\x1beel has 1 (20 images);"
        " add photographs of other scenes, or split by file with --group none, or leave out the"
        " test role with --ratio 0.8,0.2"
    )


@pytest.mark.parametrize(
    "ratio", [(1.0,), (0.8, 0.3), (0.5, 0.5, 0.0), (0.7, 0.1, 0.1, 0.1), (0.8, float("nan"))]
)
def test_a_ratio_that_is_none_is_refused(ratio: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="--ratio"):
        assign_roles([0] * 9, np.arange(9), ratio=ratio, seed=0)


# --- folds ---


@settings(deadline=None)
@given(folders, st.integers(2, 6), st.integers(0, 9))
def test_folds_hold_whole_groups_and_even_shares(
    sizes: list[list[int]], folds: int, seed: int
) -> None:
    labels, groups = laid_out(sizes)
    if groups.max() + 1 < folds:
        return
    fold = assign_folds(labels, groups, folds=folds, seed=seed)
    assert all(len(held) == 1 for held in by_group(fold.tolist(), groups).values())
    assert set(fold.tolist()) == set(range(folds))
    for label, row in enumerate(sizes):
        counts = np.bincount(fold[labels == label], minlength=folds)
        assert counts.max() - counts.min() <= max(row)


def test_folds_by_file_are_stratified() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 7])
    fold = assign_folds(labels, np.arange(87), folds=5, seed=3)
    for label, count in enumerate((50, 30, 7)):
        counts = np.bincount(fold[labels == label], minlength=5)
        assert set(counts.tolist()) <= {count // 5, -(-count // 5)}
    assert np.bincount(fold).max() - np.bincount(fold).min() <= 1
    assert (fold == assign_folds(labels, np.arange(87), folds=5, seed=3)).all()
    assert (fold != assign_folds(labels, np.arange(87), folds=5, seed=4)).any()


def test_folds_that_cannot_be_are_refused() -> None:
    labels, groups = laid_out([[5, 5], [5]])
    with pytest.raises(DataError, match="3 groups of images, too few for 5 folds"):
        assign_folds(labels, groups, folds=5, seed=0)
    with pytest.raises(DataError, match=r"folds need 2 groups.*eel has 1 \(5 images\)"):
        assign_folds(labels, groups, folds=2, seed=0, classes=("cat", "eel"))


# --- split.csv ---

NAMES = ["a/1.png", 'b/"2",\n.png', "b/caf\udce9.png", "c/\x1b[31m.png", "=cmd", "c/\\x41.png"]


def written(path: Path) -> Path:
    write_split(
        path,
        names=NAMES,
        classes=["a", "b", "b", "c", "=c", "c"],
        roles=["train", "val", "test", "train", "train", "val"],
        groups=group_names(NAMES, np.array([0, 1, 1, 2, 3, 3])),
    )
    return path


def test_a_split_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """D10, O2: names that are no text, markup or formulas."""
    rows = read_split(written(tmp_path / "split.csv"))
    assert [row.name for row in rows] == NAMES
    assert rows[2] == SplitRow("b/caf\udce9.png", "b", "test", 'b/"2",\n.png')
    assert rows[4] == SplitRow("=cmd", "=c", "train", "=cmd")
    text = (tmp_path / "split.csv").read_bytes()
    assert text.startswith(b"path,class,role,group\na/1.png,a,train,a/1.png\n")
    assert b"\x1b" not in text
    assert b"\n=cmd" not in text


@pytest.mark.parametrize(
    "text",
    [
        "path,role\na/1.png,train\na/2.png,Valid\nb/3.png,testing",
        "\ufeffRole,Path,notes\r\ntrain,a/1.png,x\r\nvalidation,a/2.png,\r\ntest,b/3.png,y\r\n",
        'path,class,role\n"a/1.png",a,training\n\na/2.png,a,val\n./b/3.png,b,TEST\n',
    ],
)
def test_a_users_own_split_needs_no_group_and_no_class(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(text, encoding="utf-8", newline="")
    names = ["a/1.png", "a/2.png", "a/9.png", "b/3.png"]
    rows = match_split(read_split(path), names, ["a", "a", "a", "b"])
    assert [row and row.role for row in rows] == ["train", "val", None, "test"]
    assert all(row is None or row.group is None for row in rows)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,role\na.png,train\nb.png,trian\n", "line 3: role trian is none; use train"),
        ("path,role\na.png,train\na.png,val\n", "line 3: a.png stands in line 2 already"),
        ("file,role\na.png,train\n", "needs one column 'path'"),
        ("path,class\na.png,cat\n", "needs one column 'role'"),
        ("path,role,role\na.png,train,val\n", "needs one column 'role'"),
        ("path,role,class\na.png,train\n", "line 2 does not have 3 cells"),
        ("path,role\na.png,train,cat\n", "line 2 does not have 2 cells"),
        ('path,role\n"a.png,train\n', "cannot read .* as CSV"),
        ("path,role\n", "lists no file"),
        ("", "needs one column 'path'"),
        ("path,role\n\x1b[2J,\x1b[2J\n", r"role \\x1b\[2J is none"),
    ],
)
def test_a_split_that_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=told) as caught:
        read_split(path)
    assert str(caught.value).isprintable()


def test_what_is_no_file_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path, tmp_path / "missing.csv", *tmp_path.iterdir()):
        with pytest.raises(DataError, match="cannot read"):
            read_split(path)


def test_files_that_are_gone_or_moved_are_named() -> None:
    rows = [SplitRow("a/1.png", "a", "train", None), SplitRow("a/2.png", "a", "val", None)]
    with pytest.raises(DataError, match=r"1 of 2 files of the split .* first a/2\.png"):
        match_split(rows, ["a/1.png"], ["a"])
    with pytest.raises(DataError, match=r"a/2\.png is a in the split and b in the data folder"):
        match_split(rows, ["a/1.png", "a/2.png"], ["a", "b"])


def test_a_group_is_named_after_its_first_file() -> None:
    names = ["a", "b", "c", "d"]
    assert group_names(names, np.array([0, 1, 0, 1])) == ["a", "b", "a", "b"]


def test_a_users_groups_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("group,path\np1,a/1.png\np1,./a/2.png\np2,b/3.png\np2,b/3.png")
    assert read_groups(path) == {"a/1.png": "p1", "a/2.png": "p1", "b/3.png": "p2"}
    path.write_text("path,group\na/1.png,p1\na/1.png,p2\n")
    with pytest.raises(DataError, match=r"line 3: a/1\.png is in p1 already"):
        read_groups(path)
    path.write_text("path,group\na/1.png,p1\na/2.png,\n")
    with pytest.raises(DataError, match=r"line 3: a/2\.png has no group; .* one of its own"):
        read_groups(path)
    path.write_text("path,patient\na/1.png,p1\n")
    with pytest.raises(DataError, match=r"needs one column 'group' .* it has path, patient"):
        read_groups(path)
