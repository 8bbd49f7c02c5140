"""A folder of photographs: what counts as one, which class and role it has, and what is said."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import draw
from inceptcli.data.folder import (
    Rejected,
    _Walk,
    check_output,
    list_images,
    reject,
    scan,
)
from inceptcli.data.image import Reason, RejectedImage, decode, open_image
from inceptcli.data.labels import read_labels
from inceptcli.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inceptcli.data.folder import Dataset

posix = pytest.mark.skipif(os.name == "nt", reason="needs links and pipes as POSIX has them")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, cat and dog, of two pictures each."""
    for label, name in enumerate(("cat", "dog")):
        for index in range(2):
            draw(tmp_path / "data" / name / f"{index}.png", seed=10 * label + index, label=label)
    return tmp_path / "data"


def names(dataset: Dataset) -> list[str]:
    return [sample.name for sample in dataset.samples]


FOUR = ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]


# ---- layout


def test_folders_are_classes_and_names_are_sorted_relative_paths(root: Path) -> None:
    dataset = scan(root)
    assert dataset.classes == ("cat", "dog")
    assert names(dataset) == FOUR
    assert [sample.label for sample in dataset.samples] == [0, 0, 1, 1]
    assert [sample.path for sample in dataset.samples] == [root / name for name in FOUR]
    assert {sample.role for sample in dataset.samples} == {None}
    assert dataset.rejected == ()
    assert dataset.notes == ()


def test_folders_of_tools_are_ignored_and_named_once(root: Path) -> None:
    """D1: they hold valid pictures and are no classes, at any depth."""
    tools = (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git")
    for name in tools:
        draw(root / name / "x.png", seed=1, label=0)
    draw(root / "cat" / "@eaDir" / "x.png", seed=1, label=0)
    dataset = scan(root)
    assert dataset.classes == ("cat", "dog")
    assert names(dataset) == FOUR
    (note,) = dataset.notes
    assert [note.count(name) for name in tools] == [1, 1, 1, 1]
    assert "2 @eaDir" in note


def test_files_that_are_no_images_are_left_out_not_rejected(root: Path) -> None:
    """D2."""
    strays = ("._a.png", "Thumbs.db", ".DS_Store", "desktop.ini", "labels.csv", "notes.txt")
    for name in strays:
        (root / "cat" / name).write_bytes(b"x")
    dataset = scan(root)
    assert names(dataset) == FOUR
    assert dataset.rejected == ()
    assert dataset.notes == (
        "files left out that are not images: 1 .csv, 1 .db, 1 .ini, 1 .txt, 2 hidden",
    )


def test_photographs_of_formats_that_are_not_read_are_candidates(root: Path) -> None:
    """An iPhone's photographs must show up as rejected, not vanish as "not images"."""
    (root / "cat" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert "cat/phone.HEIC" in names(scan(root))
    with pytest.raises(RejectedImage, match="unsupported-format: HEIC"):
        decode(root / "cat" / "phone.HEIC")


def test_any_spelling_of_an_extension_and_none_at_all(root: Path) -> None:
    """D11: the content decides; a wrong extension is flagged, a missing one is not."""
    for name in ("a.JPG", "b.jfif", "c.TIF", "nothing"):
        shutil.copy(root / "cat" / "0.png", root / "cat" / name)
    dataset = scan(root)
    assert names(dataset)[2:6] == ["cat/a.JPG", "cat/b.jfif", "cat/c.TIF", "cat/nothing"]
    flags = [decode(sample.path).flags for sample in dataset.samples[2:6]]
    assert flags == [("wrong-extension",)] * 3 + [()]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_role_folders_are_roles_and_classes_are_aligned_by_name(tmp_path: Path, val: str) -> None:
    """D8: train and val are never learned as classes; what differs is named."""
    for seed, name in enumerate(
        ("train/cat", "train/dog", f"{val}/dog", f"{val}/eel", "test/cat", "test/dog")
    ):
        draw(tmp_path / name / "1.png", seed=seed, label=seed)
    dataset = scan(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert sorted((s.name, s.label, s.role) for s in dataset.samples) == sorted(
        [
            ("test/cat/1.png", 0, "test"),
            ("test/dog/1.png", 1, "test"),
            ("train/cat/1.png", 0, "train"),
            ("train/dog/1.png", 1, "train"),
            (f"{val}/dog/1.png", 1, "val"),
        ]
    )
    assert dataset.notes == (
        f"roles are those of the folders {', '.join(sorted(('train', val, 'test')))}",
        "classes of train that val has not: cat",
        "classes of val that train has not: eel",
        "images of other classes than train's, left out: 1 eel",
    )


def test_role_names_without_class_folders_are_refused(tmp_path: Path) -> None:
    """D8: train/1.png and test/2.png are not the classes "train" and "test"."""
    for seed, name in enumerate(("train", "test")):
        draw(tmp_path / name / "1.png", seed=seed, label=seed)
    with pytest.raises(DataError, match="test, train hold no folder a class"):
        scan(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for seed, name in enumerate(("bus", "train", "tram")):
        draw(tmp_path / name / "1.png", seed=seed, label=seed)
    assert scan(tmp_path).classes == ("bus", "train", "tram")
    draw(tmp_path / "test" / "1.png", seed=9, label=1)
    assert scan(tmp_path).classes == ("bus", "test", "train", "tram")


def test_a_missing_layout_is_drawn_in_three_lines(tmp_path: Path) -> None:
    """D7: pictures directly in the root, a root that is missing, a root that is a file."""
    picture = draw(tmp_path / "flat" / "1.png", seed=1, label=0)
    for root, why in (
        (tmp_path / "flat", "no folder a class, 1 file directly in it"),
        (tmp_path / "gone", "No such file or directory"),
        (picture, "not a folder"),
    ):
        with pytest.raises(DataError, match=why) as caught:
            scan(root)
        first, *drawn = str(caught.value).split("\n")
        assert str(root) in first
        assert [line.split()[0] for line in drawn] == ["photos/", "cat/", "dog/"]
        assert caught.value.exit_code == 3


def test_loose_images_beside_class_folders_are_named(root: Path) -> None:
    shutil.copy(root / "cat" / "0.png", root / "loose.png")
    dataset = scan(root)
    assert names(dataset) == FOUR
    assert dataset.notes == ("images without a class, left out (1): loose.png",)


def test_all_empty_classes_are_named(root: Path) -> None:
    """D6: exit 3, or left out when that is allowed; labels stay dense."""
    (root / "ant").mkdir()
    (root / "cow").mkdir()
    (root / "cow" / "bad.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"for ant, cow \(1 rejected\); add some") as caught:
        scan(root)
    assert caught.value.exit_code == 3
    dataset = scan(root, allow_empty=True)
    assert dataset.classes == ("cat", "dog")
    assert [sample.label for sample in dataset.samples] == [0, 0, 1, 1]
    assert [bad.label for bad in dataset.rejected] == [None]
    assert "classes without photographs left out: ant, cow" in dataset.notes


def test_one_class_is_not_enough(root: Path) -> None:
    """D6."""
    shutil.rmtree(root / "dog")
    with pytest.raises(DataError, match=r"only one class in .*\(cat\)"):
        scan(root)
    (root / "dog").mkdir()
    with pytest.raises(DataError, match="only one class"):
        scan(root, allow_empty=True)
    shutil.rmtree(root / "cat")
    (root / "cat").mkdir()
    with pytest.raises(DataError, match="for cat, dog"):
        scan(root, allow_empty=True)


def test_a_class_that_loses_all_its_files_to_the_decoder_is_named(root: Path) -> None:
    """D6: reading happens after the scan, and the rule is the same."""
    dataset = scan(root)
    bad = [Rejected(name, Reason.EMPTY, "0 bytes", 1) for name in FOUR[2:]]
    left = reject(dataset, bad[:1])
    assert names(left) == [*FOUR[:2], FOUR[3]]
    assert left.rejected == (bad[0],)
    with pytest.raises(DataError, match=r"for dog \(2 rejected\)"):
        reject(left, bad[1:])
    assert reject(left, bad[1:], to_learn=False).classes == ("cat", "dog")


def test_to_measure_one_class_is_enough(tmp_path: Path) -> None:
    """K6: evaluate takes any labelled folder, and classes that only test has; train does not."""
    draw(tmp_path / "one" / "cat" / "a.png", seed=0, label=0)
    assert scan(tmp_path / "one", to_learn=False).classes == ("cat",)
    with pytest.raises(DataError, match="only one class"):
        scan(tmp_path / "one")
    for name in ("train/cat", "train/dog", "test/cat", "test/eel"):
        draw(tmp_path / "roles" / name / "a.png", seed=1, label=0)
    assert scan(tmp_path / "roles", to_learn=False).classes == ("cat", "dog", "eel")
    assert scan(tmp_path / "roles").classes == ("cat", "dog")


def test_output_in_the_data_folder_is_refused(root: Path, tmp_path: Path) -> None:
    """D15: equal, inside, or inside by a link."""
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    for output in (root, root / "runs" / "1", tmp_path / "link" / "new", root / "cat" / ".." / "x"):
        with pytest.raises(UsageError, match="never written to") as caught:
            check_output(output, root)
        assert caught.value.exit_code == 2
    check_output(tmp_path / "runs", root)
    check_output(tmp_path / "data2", root)


# ---- links and files that are none


@posix
def test_a_folder_is_entered_once_and_loops_are_reported(root: Path) -> None:
    """D3."""
    (root / "cat" / "loop").symlink_to(root / "cat", target_is_directory=True)
    (root / "cat" / "up").symlink_to("../..", target_is_directory=True)
    (root / "aaa").mkdir()
    (root / "aaa" / "alias").symlink_to(root / "dog", target_is_directory=True)
    dataset = scan(root, allow_empty=True, follow_links=True)
    assert names(dataset) == FOUR
    assert any("aaa/alias, cat/loop" in note for note in dataset.notes)


@posix
def test_a_file_reached_twice_counts_once(root: Path, tmp_path: Path) -> None:
    """D3: by a link to a counted file, two links to one outside, several hard links."""
    (root / "cat" / "2.png").symlink_to(root / "cat" / "0.png")
    outside = draw(tmp_path / "outside.png", seed=5, label=0)
    (root / "dog" / "a.png").symlink_to(outside)
    (root / "dog" / "b.png").symlink_to(outside)
    os.link(root / "dog" / "0.png", root / "dog" / "z.png")
    dataset = scan(root)
    assert names(dataset) == [*FOUR[:2], "dog/0.png", "dog/1.png", "dog/a.png"]
    assert dataset.notes == ("files reached twice, counted once: dog/z.png, cat/2.png, dog/b.png",)


def test_an_inode_number_alone_proves_nothing(root: Path) -> None:
    """D3: network file systems give different files one number."""
    walk = _Walk(root, follow_links=False, recursive=True)
    for name in FOUR[:2]:
        walk._add(name, inode=7)
    assert walk.files == FOUR[:2]


@posix
def test_what_is_no_regular_file_is_counted_and_never_opened(root: Path) -> None:
    """D4: a pipe, a socket, a folder and a device, all named like images."""
    os.mkfifo(root / "cat" / "fifo.jpg")
    (root / "cat" / "folder.jpg").mkdir()
    (root / "cat" / "zero.jpg").symlink_to("/dev/zero")
    (root / "cat" / "pipe.png").symlink_to("fifo.jpg")
    here = Path.cwd()
    os.chdir(root / "cat")  # a socket's path is at most 107 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket.jpg")
    finally:
        os.chdir(here)
    dataset = scan(root)
    assert names(dataset) == FOUR
    assert {(bad.name, bad.reason, bad.label) for bad in dataset.rejected} == {
        (f"cat/{name}", "not-a-regular-file", 0)
        for name in ("fifo.jpg", "folder.jpg", "pipe.png", "socket.jpg", "zero.jpg")
    }
    for bad in dataset.rejected:  # and whoever opens one is told, at once
        with pytest.raises(RejectedImage) as caught:
            open_image(root / bad.name)
        assert caught.value.reason == Reason.NOT_A_REGULAR_FILE


@posix
def test_links_out_of_the_root(root: Path, tmp_path: Path) -> None:
    """D5: dangling ones are rejected, files are followed, folders only when asked."""
    (root / "cat" / "gone.png").symlink_to("nowhere.png")
    (root / "cat" / "self.png").symlink_to("self.png")
    blob = draw(tmp_path / "cache" / "blob.png", seed=5, label=0).rename(tmp_path / "cache" / "5f")
    (root / "cat" / "hub.png").symlink_to(blob)
    draw(tmp_path / "more" / "m.png", seed=6, label=0)
    (root / "cat" / "more").symlink_to(tmp_path / "more", target_is_directory=True)
    dataset = scan(root)
    assert names(dataset) == [*FOUR[:2], "cat/hub.png", *FOUR[2:]]
    assert [(bad.name, bad.reason) for bad in dataset.rejected] == [
        ("cat/gone.png", "dangling-link"),
        ("cat/self.png", "dangling-link"),
    ]
    assert dataset.notes == ("links to folders outside, read only with --follow-links: cat/more",)
    assert "cat/more/m.png" in names(scan(root, follow_links=True))
    for name in ("gone.png", "self.png"):
        with pytest.raises(RejectedImage, match="dangling-link"):
            open_image(root / "cat" / name)


@posix
def test_linked_class_folders_keep_their_names(root: Path) -> None:
    """A link in the root to a hidden store inside it is a class; an alias of one is none."""
    draw(root / ".store" / "eel" / "1.png", seed=7, label=2)
    (root / "eel").symlink_to(".store/eel", target_is_directory=True)
    (root / "aardvark").symlink_to("cat", target_is_directory=True)
    dataset = scan(root)
    assert dataset.classes == ("cat", "dog", "eel")
    assert "eel/1.png" in names(dataset)
    assert "links to folders that are read already, not followed: aardvark" in dataset.notes


# ---- names, rights, changes


@posix
def test_names_of_any_bytes(root: Path) -> None:
    """D10: not UTF-8, a writing mark, a line end, a hyphen, 255 bytes, as file and as class."""
    odd = [b"caf\xe9", "a\u202eb".encode(), b"a\nb", b"-rf", b"x" * 251, b"[red]x\x1b[2J"]
    for number, name in enumerate(odd):
        for folder in (b"cat", name):
            path = root / os.fsdecode(folder) / os.fsdecode(name + b".png")
            draw(path, seed=number, label=0)
    (root / os.fsdecode(b"empty\xe9\n")).mkdir()
    with pytest.raises(DataError) as caught:
        scan(root)
    assert str(caught.value).isprintable()
    dataset = scan(root, allow_empty=True)
    assert {os.fsencode(name) for name in dataset.classes} == {b"cat", b"dog", *odd}
    assert {os.fsencode(name) for name in names(dataset)} >= {b"cat/%s.png" % name for name in odd}
    assert names(dataset) == sorted(names(dataset))
    for sample in dataset.samples:
        assert open_image(sample.path).size == (40, 40)
    assert all(note.isprintable() for note in dataset.notes)


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder that an ordinary user may enter, and that user's rights."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            if os.geteuid() != os.getuid():
                os.seteuid(os.getuid())
            for path in folder.rglob("*"):
                path.chmod(0o755)


def drop_rights() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


@posix
def test_what_may_not_be_read_is_said() -> None:
    """D12: a file is rejected with its reason, a folder is an error and never "empty"."""
    with as_nobody() as root:
        for label, name in enumerate(("cat", "dog")):
            draw(root / name / "1.png", seed=label, label=label)
        (root / "cat" / "1.png").chmod(0)
        drop_rights()
        with pytest.raises(RejectedImage, match="unreadable: Permission denied"):
            open_image(scan(root).samples[0].path)
        if os.getuid() == 0:
            os.seteuid(0)
        (root / "dog").chmod(0)
        drop_rights()
        with pytest.raises(DataError, match=r"cannot list dog \(Permission denied\)"):
            scan(root)
        with pytest.raises(DataError, match="cannot list dog"):
            list_images(root, recursive=True)


def test_a_file_that_changes_after_the_scan_is_no_other_file(root: Path) -> None:
    """D13: deleted, cut and replaced; what comes is a reason, never a neighbour's pixels."""
    dataset = scan(root)
    paths = [sample.path for sample in dataset.samples]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:500])
    paths[2].write_bytes(b"<html>")
    found = []
    for path in paths[:3]:
        with pytest.raises(RejectedImage) as caught:
            open_image(path)
        found.append(caught.value.reason)
    assert found == [Reason.MISSING, Reason.TRUNCATED, Reason.NOT_AN_IMAGE]


def test_the_order_in_which_a_system_lists_does_not_matter(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N2."""
    (root / "cat" / "l1.png").symlink_to(root / "dog" / "0.png")
    os.link(root / "dog" / "1.png", root / "cat" / "l2.png")
    expected = scan(root)
    real = os.scandir

    @contextmanager
    def shuffled(path: Path) -> Iterator[list[os.DirEntry[str]]]:
        with real(path) as entries:
            yield random.sample(found := list(entries), len(found))

    monkeypatch.setattr(os, "scandir", shuffled)
    for _ in range(5):
        assert scan(root) == expected


def test_a_hard_link_that_goes_during_the_scan_is_left_to_the_reader(root: Path) -> None:
    """D13."""
    walk = _Walk(root, follow_links=False, recursive=True)
    for name in ("cat/0.png", "cat/gone.png"):
        walk._add(name, inode=7)
    assert walk.files == ["cat/0.png", "cat/gone.png"]


def test_the_data_folder_is_not_touched(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    scan(root)
    assert {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]} == before


def test_list_images_keeps_what_the_decoder_must_judge(root: Path) -> None:
    (root / "b.png").symlink_to("nowhere")
    (root / "a.png").write_bytes(b"")
    (root / "notes.txt").write_bytes(b"")
    assert list_images(root) == [root / "a.png", root / "b.png"]
    assert list_images(root, recursive=True) == [root / name for name in ("a.png", "b.png", *FOUR)]
    with pytest.raises(DataError):
        list_images(root / "gone")


# ---- tables of labels


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A flat folder of ISIC_1.jpg to ISIC_4.jpg, as HAM10000 and ISIC come."""
    for number in range(1, 5):
        draw(tmp_path / "flat" / f"ISIC_{number}.jpg", seed=number, label=number)
    return tmp_path / "flat"


@pytest.mark.parametrize(
    "text",
    [
        "lesion_id,image_id,dx,age\nH1,ISIC_1,nv,80\nH2,ISIC_2,mel,\nH3,ISIC_3,nv,5\nH4,ISIC_4,mel,5\n",
        "ISIC_1.jpg,nv\nISIC_2.jpg,mel\nISIC_3.jpg,nv\nISIC_4.jpg,mel",
        "image,mel,nv\nISIC_1,0.0,1.0\nISIC_2,1.0,0.0\nISIC_3,0.0,1.0\nISIC_4,1.0,0.0\n",
        "\ufeffImage,Label\r\nISIC_1,nv\r\n./ISIC_2.jpg, mel \r\n"
        "a\\ISIC_3.jpg,nv\r\n/x/ISIC_4.jpg,mel",
    ],
    ids=["ham10000", "no header, no last line end", "one column a class", "spreadsheet"],
)
def test_tables_as_they_come(flat: Path, tmp_path: Path, text: str) -> None:
    dataset = scan(flat, labels=write(tmp_path / "labels.csv", text))
    assert dataset.classes == ("mel", "nv")
    assert [(s.name, s.label) for s in dataset.samples] == [
        ("ISIC_1.jpg", 1),
        ("ISIC_2.jpg", 0),
        ("ISIC_3.jpg", 1),
        ("ISIC_4.jpg", 0),
    ]
    assert dataset.notes == ()


def test_columns_by_name_and_by_position(tmp_path: Path) -> None:
    path = write(tmp_path / "l.csv", "a,b,c\n1,2,3\n4,5,6\n")
    assert read_labels(path, columns=("c", "a")) == [("3", "1"), ("6", "4")]
    assert read_labels(path, columns=("2", "3")) == [("2", "3"), ("5", "6")]
    with pytest.raises(DataError, match="has no column 4; it has a, b, c"):
        read_labels(path, columns=("a", "4"))
    with pytest.raises(DataError, match="which column"):
        read_labels(path)


def test_rows_without_files_and_files_without_rows_are_counted(flat: Path, tmp_path: Path) -> None:
    table = write(
        tmp_path / "l.csv", "path,class\nISIC_1.jpg,a\nISIC_2.jpg,b\nISIC_3.jpg\nISIC_9.jpg,b\n"
    )
    dataset = scan(flat, labels=table)
    assert names(dataset) == ["ISIC_1.jpg", "ISIC_2.jpg"]
    assert dataset.notes == (
        f"rows of {table} without a file of their own (1): ISIC_9.jpg",
        f"rows of {table} without a class (1): ISIC_3.jpg",
        "images without a class, left out (2): ISIC_3.jpg, ISIC_4.jpg",
    )


def test_a_row_of_another_folder_is_no_files(flat: Path, tmp_path: Path) -> None:
    """Nor does it take a file from the row that names it."""
    draw(flat / "a" / "1.png", seed=9, label=0)
    rows = "path,class\nISIC_1,x\na/1.png,cat\nb/1.png,dog\nold/disk/a/1,cat\n"
    table = write(tmp_path / "l.csv", rows)
    dataset = scan(flat, labels=table)
    assert [(s.name, dataset.classes[s.label]) for s in dataset.samples] == [
        ("ISIC_1.jpg", "x"),
        ("a/1.png", "cat"),
    ]
    assert f"rows of {table} without a file of their own (1): b/1.png" in dataset.notes


def test_a_short_name_that_fits_two_files_is_not_guessed(flat: Path, tmp_path: Path) -> None:
    draw(flat / "more" / "ISIC_1.png", seed=9, label=0)
    table = write(tmp_path / "l.csv", "path,class\nISIC_1,a\nISIC_2,b\nISIC_3,c\nmore/ISIC_1,d\n")
    dataset = scan(flat, labels=table)
    assert [(s.name, dataset.classes[s.label]) for s in dataset.samples] == [
        ("ISIC_2.jpg", "b"),
        ("ISIC_3.jpg", "c"),
        ("more/ISIC_1.png", "d"),
    ]
    assert "(1): ISIC_1" in dataset.notes[0]


def test_tables_that_cannot_be_used(flat: Path, tmp_path: Path) -> None:
    for text, why in (
        ("path,class\nISIC_1.jpg,a\nISIC_1,b\n", "two classes, ISIC_1.jpg is a and b"),
        ("path,class\nX1,a\nX2,b\n", "no row of .* fits a file: rows X1, X2; files ISIC_1.jpg"),
        ("", "needs a file and a class"),
        ("path;class\na;b\n", "needs a file and a class"),
        ('path,class\n"a,b\n', "cannot read"),
    ):
        with pytest.raises(DataError, match=why) as caught:
            scan(flat, labels=write(tmp_path / "l.csv", text))
        assert "\n" not in str(caught.value)
    (tmp_path / "l.csv").write_bytes(b"path,class\ncaf\xe9,b\n")
    with pytest.raises(DataError, match="cannot read"):
        scan(flat, labels=tmp_path / "l.csv")
    with pytest.raises(DataError, match="No such file"):
        scan(flat, labels=tmp_path / "gone.csv")


# ---- size


def fill(root: Path, count: int) -> Path:
    """Two classes of empty files; a scan opens none."""
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for number in range(count // 2):
            os.close(os.open(root / name / f"photograph_{number:06d}.jpg", os.O_CREAT))
    return root


def bytes_at_peak(root: Path, *, count: int) -> float:
    """Memory of one scan, a file."""
    tracemalloc.start()
    dataset = scan(root)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset.samples) == count
    return peak / count


def test_a_file_costs_less_than_a_kilobyte_and_no_stat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R7: at the peak; a plain file is listed, not asked about."""
    fill(tmp_path, 4000)
    asked = []
    real = Path.stat
    monkeypatch.setattr(Path, "stat", lambda *a, **k: asked.append(a) or real(*a, **k))
    assert bytes_at_peak(tmp_path, count=4000) < 1000
    assert len(asked) < 10


@pytest.mark.slow
def test_a_hundred_thousand_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """R7: under 1 kB of memory a file; the rate is reported."""
    fill(tmp_path, 100_000)
    started = time.monotonic()
    scan(tmp_path)
    seconds = time.monotonic() - started
    peak = bytes_at_peak(tmp_path, count=100_000)
    with capsys.disabled():
        print(f"\nscan: {100_000 / seconds:.0f} files/s, {peak:.0f} bytes a file at peak")
    assert peak < 1000
