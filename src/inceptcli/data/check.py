"""What is wrong with a data folder before anything is learnt from it: copies, leaks, odd files."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from inceptcli.data.image import RejectedImage, open_image
from inceptcli.files import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from inceptcli.data.folder import Rejected
    from inceptcli.data.groups import Grouping, Pair
    from inceptcli.data.reader import Facts

TINY_GROUPS = 10  # groups without which a class is tiny
Kind = Literal["two classes", "two roles", "equal", "near copies"]


@dataclass(frozen=True, slots=True)
class Suspect:
    """Two files that show the same, and what is wrong with that, the worst first.

    Attributes:
        kind: "two classes" (one of the labels is wrong), "two roles" (a leak), "equal" (bytes or
            pixels) or "near copies".
        first: Index of one file.
        second: Index of the other.
    """

    kind: Kind
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Shapes:
    """How the images' shapes fit the square that the network sees.

    With long and short side l and s of an image, the three ways to make it square lose, on
    average over images: ``stretch`` l/s - 1, how much too large the short side is drawn beside
    the long one (0.33 for 4:3); ``crop`` 1 - s/l, the part of the image that is cut away; ``pad``
    1 - s/l, the part of the square that shows nothing.

    Attributes:
        narrowest: Least width/height.
        usual: Median width/height.
        widest: Greatest width/height.
        square: Part of the images that are square, 0 to 1.
        smallest: The least short side, in pixels.
        stretch: See above.
        crop: See above.
        pad: See above.
    """

    narrowest: float
    usual: float
    widest: float
    square: float
    smallest: int
    stretch: float
    crop: float
    pad: float


@dataclass(frozen=True, slots=True)
class Check:
    """The findings about a data folder.

    Attributes:
        images: Images that can be used.
        groups: Groups of them.
        classes: Class -> role ("all" without a split) -> images.
        class_groups: Class -> groups.
        rules: How groups were found, as lines.
        exact_copies: Images equal, in bytes or pixels, to an earlier one.
        near_copies: Images that look like a copy of another.
        suspects: Pairs of copies, the worst first.
        leaked: Role -> images that have a copy or a member of their group in train.
        rejected: Reason -> files that cannot be used.
        flags: What images need before they are used (exif-rotated, palette, ...) -> images.
        shapes: None when no image was looked at.
        tiny: Classes of fewer than ``TINY_GROUPS`` groups.
        dominating: Classes with more than half of what lies between an even share and all.
        names: The images' names, to which suspects point.
        class_of: The images' classes.
        role_of: The images' roles, or "" without a split.
    """

    images: int
    groups: int
    classes: Mapping[str, Mapping[str, int]]
    class_groups: Mapping[str, int]
    rules: tuple[str, ...]
    exact_copies: int
    near_copies: int
    suspects: tuple[Suspect, ...]
    leaked: Mapping[str, int]
    rejected: Mapping[str, int]
    flags: Mapping[str, int]
    shapes: Shapes | None
    tiny: tuple[str, ...]
    dominating: tuple[str, ...]
    names: tuple[str, ...]
    class_of: tuple[str, ...]
    role_of: tuple[str, ...]

    def faults(self) -> tuple[str, ...]:
        """What ``--strict`` refuses, as lines: label conflicts and leaks, the first of each."""
        lines = []
        if conflicts := [found for found in self.suspects if found.kind == "two classes"]:
            one = len(conflicts) == 1
            pairs = "1 pair of copies lies" if one else f"{len(conflicts)} pairs of copies lie"
            lines.append(f"{pairs} in two classes: {self._pair(conflicts[0])}")
        for role, count in self.leaked.items():
            if count:
                total = self.role_of.count(role)
                text = f"{count} of {total} {role} images have a copy or relative in train"
                leaks = [found for found in self.suspects if self._leaks(found, role)]
                lines.append(f"{text}: {self._pair(leaks[0])}" if leaks else text)
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        """The findings as plain values; suspects by name, class and role."""
        kept = asdict(self)
        for key in ("names", "class_of", "role_of"):
            del kept[key]
        kept["suspects"] = [
            {"kind": found.kind, "files": [self._file(found.first), self._file(found.second)]}
            for found in self.suspects
        ]
        return kept

    def _file(self, index: int) -> dict[str, str]:
        file = {"path": self.names[index], "class": self.class_of[index]}
        return {**file, "role": self.role_of[index]} if self.role_of[index] else file

    def _pair(self, found: Suspect) -> str:
        return printable(f"{self.names[found.first]} and {self.names[found.second]}")

    def _leaks(self, found: Suspect, role: str) -> bool:
        return {self.role_of[found.first], self.role_of[found.second]} == {"train", role}


def check(
    names: Sequence[str],
    class_of: Sequence[str],
    grouping: Grouping,
    *,
    facts: Sequence[Facts | None],
    rejected: Iterable[Rejected] = (),
    roles: Sequence[str] | None = None,
) -> Check:
    """Put together what is known of a data folder.

    Args:
        names: The N images that can be used.
        class_of: Their classes' names.
        grouping: Their groups.
        facts: What their files say; None for one that was not looked at.
        rejected: Files that cannot be used.
        roles: Their roles, from a split or the folder; None without.
    """
    role_of = tuple(roles) if roles is not None else ("",) * len(names)
    looked = [found for found in facts if found is not None]
    counts = Counter(zip(class_of, role_of, strict=True))
    classes: dict[str, dict[str, int]] = {name: {} for name in sorted(set(class_of))}
    for (name, role), count in sorted(counts.items(), key=lambda item: _role_order(item[0][1])):
        classes[name][role or "all"] = count
    class_groups = Counter(name for name, _ in set(zip(class_of, grouping.ids, strict=True)))
    return Check(
        images=len(names),
        groups=len(set(grouping.ids.tolist())),
        classes=classes,
        class_groups={name: class_groups[name] for name in classes},
        rules=grouping.rules,
        exact_copies=len(grouping.exact_pairs),
        near_copies=len(set(chain.from_iterable(grouping.near_pairs))),
        suspects=_suspects(grouping, role_of),
        leaked=_leaked(grouping, role_of),
        rejected=dict(Counter(str(found.reason) for found in rejected).most_common()),
        flags=dict(Counter(flag for found in looked for flag in found.flags).most_common()),
        shapes=_shapes(looked) if looked else None,
        tiny=tuple(name for name in classes if class_groups[name] < TINY_GROUPS),
        dominating=_dominating(classes, len(names)),
        names=tuple(names),
        class_of=tuple(class_of),
        role_of=role_of,
    )


def suspects_sheet(
    found: Check, paths: Sequence[Path], *, most: int = 60, side: int = 160
) -> Image.Image:
    """Draw the suspects, pair by pair, each with what is wrong and the names.

    Args:
        found: The findings.
        paths: The images' files, in the order of ``found.names``.
        most: Pairs drawn; the sheet says how many there are.
        side: Largest side of an image on the sheet, in pixels.
    """
    shown = found.suspects[:most]
    columns = min(4, max(1, len(shown)))
    text_height = 13
    cell = (2 * side + 24, side + 4 * text_height + 8)
    height = -(-len(shown) // columns) * cell[1] + 2 * text_height
    sheet = Image.new("RGB", (columns * cell[0], height), "white")
    draw = ImageDraw.Draw(sheet)
    title = f"{len(shown)} of {len(found.suspects)} suspicious pairs"
    draw.text((8, 6), title if shown else "no suspicious pairs", "black", _font())
    for place, suspect in enumerate(shown):
        left = place % columns * cell[0] + 8
        top = place // columns * cell[1] + 2 * text_height
        draw.text((left, top), suspect.kind, "firebrick", _font())
        for row, index in enumerate((suspect.first, suspect.second), start=1):
            role = f" [{found.role_of[index]}]" if found.role_of[index] else ""
            line = _fitted(found.names[index] + role, 2 * side)
            draw.text((left, top + row * text_height), line, "black", _font())
            thumbnail = _thumbnail(paths[index], side)
            across = left + (row - 1) * (side + 4)
            sheet.paste(thumbnail, (across, top + 3 * text_height + 4))
    return sheet


def _suspects(grouping: Grouping, role_of: Sequence[str]) -> tuple[Suspect, ...]:
    conflicts = set(grouping.conflicts)
    by_kind: dict[Kind, list[Suspect]] = {
        "two classes": [],
        "two roles": [],
        "equal": [],
        "near copies": [],
    }
    kinds: tuple[tuple[Kind, Sequence[Pair]], ...] = (
        ("equal", grouping.exact_pairs),
        ("near copies", grouping.near_pairs),
    )
    for kind, pairs in kinds:
        for pair in pairs:
            if pair in conflicts:
                worst: Kind = "two classes"
            elif role_of[pair[0]] != role_of[pair[1]]:
                worst = "two roles"
            else:
                worst = kind
            by_kind[worst].append(Suspect(worst, *pair))
    return tuple(chain.from_iterable(by_kind.values()))


def _leaked(grouping: Grouping, role_of: Sequence[str]) -> dict[str, int]:
    """Role -> images with a copy or relative in train; empty without a train role."""
    if "train" not in role_of:
        return {}
    content = list(range(len(role_of)))  # the first of each file's exact copies
    for first, copy in grouping.exact_pairs:
        content[copy] = first
    in_train = [index for index, role in enumerate(role_of) if role == "train"]
    groups = {int(grouping.ids[index]) for index in in_train}
    trained = {content[index] for index in in_train}
    trained |= {j for pair in grouping.near_pairs for i, j in (pair, pair[::-1]) if i in trained}
    known = [
        role
        for role, group, first in zip(role_of, grouping.ids.tolist(), content, strict=True)
        if group in groups or first in trained
    ]
    others = sorted({role for role in role_of if role != "train"}, key=_role_order)
    return {role: known.count(role) for role in others}


def _role_order(role: str) -> tuple[int, str]:
    order = ("train", "val", "test")
    return (order.index(role) if role in order else len(order), role)


def _shapes(looked: Sequence[Facts]) -> Shapes:
    aspect = [found.width / found.height for found in looked]
    sides = np.array([(found.width, found.height) for found in looked], np.float64)
    long, short = sides.max(1), sides.min(1)
    cut = float((1 - short / long).mean())
    return Shapes(
        narrowest=min(aspect),
        usual=float(median(aspect)),
        widest=max(aspect),
        square=float((long == short).mean()),
        smallest=int(short.min()),
        stretch=float((long / short - 1).mean()),
        crop=cut,
        pad=cut,
    )


def _dominating(classes: Mapping[str, Mapping[str, int]], images: int) -> tuple[str, ...]:
    if len(classes) < 2:
        return ()
    limit = (1 + 1 / len(classes)) / 2
    return tuple(name for name, row in classes.items() if sum(row.values()) > limit * images)


def _thumbnail(path: Path, side: int) -> Image.Image:
    try:
        image = open_image(path, at_least=side)
    except RejectedImage as error:
        image = Image.new("RGB", (side, side), "lightgrey")
        ImageDraw.Draw(image).text((4, 4), _fitted(str(error), side - 8), "black", _font())
    image.thumbnail((side, side))
    return image


def _fitted(text: str, width: int) -> str:
    """Text that the built-in font can draw, its beginning cut off where it is too long."""
    text = printable(text).encode("ascii", "backslashreplace").decode()
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength("..." + text) > width:
        text = text[1:]
    return "..." + text


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(11)
