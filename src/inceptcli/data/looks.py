"""What a photograph looks like, in a kilobyte, and which photographs look like copies.

Two files are near copies when one is the other flipped, turned, cropped, brightened, made noisy
or encoded again. That is found in two steps over descriptions made once, while decoding:

1. *Candidates*: the lowest frequencies of a 32 px thumbnail, compared in all eight symmetries of
   the square, name for each file the few others that could be copies.
2. *Registration*: the one thumbnail is laid over the other by the affine map that fits best
   (inverse compositional alignment: Baker and Matthews, "Lucas-Kanade 20 Years On", 2004,
   section 3.2). What then overlaps must agree in its finest detail, as strangers never do: two
   white flowers on dark green share their outline, not their petals.

How far strangers agree is measured in each class, so that tiny or uniform pictures, whose
strangers share detail too, have to agree the better.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SIDE = 32  # pixels of the thumbnail
COLOUR_SIDE = 8
LOOK_BYTES = SIDE * SIDE + 2 * COLOUR_SIDE * COLOUR_SIDE
SHORT_LOOK_BYTES = 24

CANDIDATES = 16  # how many others a file names, at most
LEAST_ALIKE = 0.25  # cosine of features below which two files are no candidates
NEXT_SYMMETRY = 0.15  # by how much another symmetry may be less alike and still be tried
COARSE_SIDE = SIDE // 2
COARSE_STEPS, FINE_STEPS = 8, 5
COARSE_AGREEMENT = 0.8  # correlation that the coarse steps must reach for the fine ones to follow
AGREEMENT = 0.78, 0.97  # correlation of fine detail asked of copies: at least, at most
STRANGER_SPREADS = 7.0  # ... and in between so many spreads above that of strangers
DOUBT = 0.25  # by how much a pair may fall short of that and still be likely, given other pairs
LEAST_OVERLAP = 0.4  # part of a thumbnail that its copy must show
LEAST_PIXELS = 300  # of 1,024: a thumbnail that shows less is counted as showing so much
LEAST_DETAIL = 0.6  # standard deviation of a picture's fine detail, in grey levels
LEAST_CHROMA = 6.0  # root mean square of chroma below which a picture is grey, in levels
LARGEST_DIFFERENCE = 12  # of the 189 signs of short looks; strangers differ in about 90
BRIDGES = 4  # pairs a file, at most, that are tried by way of a third
BATCH = 512  # pairs registered at a time by a thread, which takes 80 MB
THREADS = min(4, os.cpu_count() or 1)


def describe(image: Image.Image) -> bytes:
    """What a picture looks like: a grey thumbnail and a coarser one of its colours.

    Args:
        image: RGB, of any size.

    Returns:
        ``LOOK_BYTES`` bytes: 32x32 luma, then 8x8 blue and 8x8 red chroma, each row by row.
    """
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("YCbCr")
    luma, *chroma = small.split()
    size = (COLOUR_SIDE, COLOUR_SIDE)
    coarse = [plane.resize(size, Image.Resampling.BOX).tobytes() for plane in chroma]
    return luma.tobytes() + b"".join(coarse)


def near_copies(looks: Sequence[bytes], labels: Sequence[int] | Ints) -> tuple[Ints, Floats]:
    """The pairs among N descriptions that show one picture, across classes as well.

    Args:
        looks: N descriptions, as ``describe`` makes them.
        labels: N classes, within which it is measured how far strangers agree.

    Returns:
        (P, 2) int64 indices, the smaller first, each pair once, in order; and (P,) float32, by
        how much the correlation of their fine detail exceeds what is asked of copies: from 0 on
        they are copies; below, down to ``-DOUBT``, they may be when other pairs say so. Pictures
        without detail (blank ones) make no pair.
    """
    if len(looks) < 2:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    features = features_of(looks)
    pictures = _Pictures(_grey(looks), _chroma(looks))
    found = _Found(pictures, _asked(pictures, features, np.asarray(labels, np.int64)))
    found.add(*_first_maps(features, _candidates(features)), coarse=True)
    for _ in range(2):  # two copies of a third start from the maps to it, one after the other
        found.add(*found.bridges(), coarse=False)
    return found.pairs, found.margin


def features_of(looks: Sequence[bytes]) -> Floats:
    """(N, 55) unit vectors of low frequencies, for ``likeness``; zero for a blank picture."""
    grey = _grey(looks)
    middle = np.sin((np.arange(SIDE) + 0.5) * np.pi / SIDE)  # crops and turns change borders most
    window = (np.outer(middle, middle) * ~_filled(grey)).astype(np.float32)
    weight = np.maximum(window.sum((1, 2), keepdims=True), 1e-6)
    grey -= (grey * window).sum((1, 2), keepdims=True) / weight
    spectrum = _spectrum(grey * window)[:, *_FEATURES]
    length = np.linalg.norm(spectrum, axis=1, keepdims=True)
    return np.asarray(spectrum / np.maximum(length, 1.0), np.float32)


def likeness(features: Floats, pairs: Ints) -> Floats:
    """(P,) cosines of pairs of features, each in the best of the square's eight symmetries."""
    return np.asarray(_by_symmetry(features, pairs).max(1, initial=-1.0))


def short_look(look: bytes) -> bytes:
    """A description in ``SHORT_LOOK_BYTES``: the signs of its 189 lowest frequencies, and a mark.

    All zero for a picture without detail, which then matches nothing.
    """
    return bytes(_signs(look)[0])


def find_short(look: bytes, shorts: bytes) -> NDArray[np.bool_]:
    """Which of many short descriptions could be of a near copy of this picture.

    The eight symmetries of the square, encoding, size and brightness are seen through; crops and
    other angles are not.

    Args:
        look: The picture, as ``describe`` makes it.
        shorts: M short descriptions, one after the other.

    Returns:
        (M,) bool.
    """
    table = np.frombuffer(shorts, np.uint64).reshape(-1, SHORT_LOOK_BYTES // 8)
    marked = np.frombuffer(shorts, np.uint8)[SHORT_LOOK_BYTES - 1 :: SHORT_LOOK_BYTES] & 1
    variants = _signs(look)
    if not variants[0, -1] & 1:
        return np.zeros(len(table), np.bool_)
    differing = [np.bitwise_count(table ^ signs.view(np.uint64)).sum(1) for signs in variants]
    return np.asarray((np.min(differing, axis=0) <= LARGEST_DIFFERENCE) & (marked == 1))


def _grey(looks: Sequence[bytes]) -> Floats:
    """(N, 32, 32) luma, 0 to 255."""
    table = np.frombuffer(b"".join(looks), np.uint8).reshape(-1, LOOK_BYTES)
    return table[:, : SIDE * SIDE].reshape(-1, SIDE, SIDE).astype(np.float32)


def _chroma(looks: Sequence[bytes]) -> Floats:
    """(N, 2, 8, 8) blue and red chroma, -128 to 127, zero in a grey picture."""
    table = np.frombuffer(b"".join(looks), np.uint8).reshape(-1, LOOK_BYTES)
    chroma = table[:, SIDE * SIDE :].reshape(-1, 2, COLOUR_SIDE, COLOUR_SIDE)
    return chroma.astype(np.float32) - np.float32(128)


# --- frequencies and the symmetries of the square ---
#
# Symmetry k of a picture: transposed when k & 4, then upside down when k & 2, then left to right
# when k & 1. A cosine of an odd frequency changes its sign when it is reversed.

_SYMMETRIES = np.array(
    [
        [[column, 0], [0, row]] if k < 4 else [[0, column], [row, 0]]
        for k in range(8)
        for row, column in [(-1 if k & 2 else 1, -1 if k & 1 else 1)]
    ],
    np.float32,
)  # (8, 2, 2): where the point (x, y) of a picture lies in its copy


def _frequencies(inside: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """The rows and columns of chosen frequencies, without the mean."""
    inside[0, 0] = False
    rows, columns = np.nonzero(inside)
    return rows, columns


_ROW, _COLUMN = np.indices((SIDE, SIDE))
_FEATURES = _frequencies(_ROW**2 + _COLUMN**2 < 8**2)
_SIGNS = _frequencies(_ROW + _COLUMN <= 18)


def _spectrum(grey: Floats) -> Floats:
    """The orthonormal cosine transform (type II) of (N, 32, 32) thumbnails."""
    waves = np.cos(np.outer(np.arange(SIDE), np.arange(SIDE) + 0.5) * np.pi / SIDE)
    waves *= np.sqrt(2 / SIDE)
    waves[0] /= np.sqrt(2)
    waves = waves.astype(np.float32)
    return np.asarray(waves @ grey @ waves.T)


def _variants(values: Floats, frequencies: tuple[Ints, Ints]) -> Iterator[Floats]:
    """Values (N, F) at frequencies, as the eight symmetries of the pictures would have them."""
    rows, columns = frequencies
    place = np.empty((SIDE, SIDE), np.int64)
    place[rows, columns] = np.arange(len(rows))
    for k in range(8):
        turned = values[:, place[columns, rows]] if k & 4 else values
        sign = np.where((rows % 2 * (k >> 1 & 1) + columns % 2 * (k & 1)) % 2, -1, 1)
        yield turned * sign.astype(np.float32)


def _signs(look: bytes) -> NDArray[np.uint8]:
    """(8, 24) packed signs of the symmetries of one picture; the last bit marks detail."""
    grey = _grey([look])
    bits = np.zeros((8, 8 * SHORT_LOOK_BYTES), np.bool_)
    if _detail(grey)[0] >= LEAST_DETAIL:
        values = _spectrum(grey)[:, *_SIGNS]
        bits[:, : values.shape[1]] = np.concatenate(list(_variants(values, _SIGNS))) > 0
        bits[:, -1] = True
    return np.packbits(bits, axis=1)


def _by_symmetry(features: Floats, pairs: Ints) -> Floats:
    """(P, 8) cosines of the symmetries of each pair's first picture with its second."""
    variants = _variants(features[pairs[:, 0]], _FEATURES)
    other = features[pairs[:, 1]]
    return np.stack([np.einsum("pf,pf->p", variant, other) for variant in variants], axis=1)


def _candidates(features: Floats) -> Ints:
    """(P, 2) pairs in which one is among the few most like the other."""
    count = len(features)
    most = min(CANDIDATES, count - 1)
    chosen = []
    for first in range(0, count, 256):
        block = features[first : first + 256]
        rows = np.arange(len(block))
        alike = np.full((len(block), count), -1, np.float32)
        for variant in _variants(block, _FEATURES):
            np.maximum(alike, variant @ features.T, out=alike)
        alike[rows, first + rows] = -1
        best = np.argpartition(alike, count - most, axis=1)[:, count - most :]
        row, place = np.nonzero(np.take_along_axis(alike, best, 1) >= LEAST_ALIKE)
        chosen.append(np.stack([first + row, best[row, place]], axis=1))
    return np.unique(np.sort(np.concatenate(chosen), axis=1), axis=0)


# --- registration ---
#
# A map is a (2, 3) matrix that takes a point (x, y, 1) of the one thumbnail to the other; the
# thumbnail reaches from -1 to 1 both ways. A pixel that shows nothing is NaN: what is read with
# its help is NaN as well, and left out.


class _Pictures:
    """N thumbnails made ready for registration, and what decides whether two are one."""

    def __init__(self, grey: Floats, chroma: Floats) -> None:
        self.detailed = _detail(grey) >= LEAST_DETAIL
        nothing = np.where(_filled(grey), np.float32(np.nan), np.float32(0))
        spread = grey.std((1, 2), keepdims=True)
        grey = (grey - grey.mean((1, 2), keepdims=True)) / (spread + 1)
        half = (len(grey), COARSE_SIDE, 2, COARSE_SIDE, 2)
        self.coarse = (_blur(grey, 1.5) + nothing).reshape(half).mean((2, 4))
        self.fine = _blur(grey, 0.7) + nothing
        detail = _fine_detail(grey)
        around = np.sqrt(_blur(detail**2, 2.0)) + 0.1 * detail.std((1, 2), keepdims=True)
        self.detail = detail / (around + 1e-6) + nothing  # no outline may outweigh the texture
        self.chroma = chroma

    def register(self, pairs: Ints, maps: Floats, *, coarse: bool) -> tuple[Floats, Floats]:
        """Lay the first picture of each pair over the second.

        Args:
            pairs: (P, 2) indices.
            maps: (P, 2, 3) from which to start.
            coarse: Whether the maps are too rough to start with fine steps.

        Returns:
            The maps found and (P,) correlations of fine detail, -1 where they are no copies.
        """
        parts = range(0, len(pairs), BATCH)
        work = [(pairs[first : first + BATCH], maps[first : first + BATCH]) for first in parts]
        with ThreadPoolExecutor(THREADS) as pool:  # numpy lets go of the interpreter
            done = list(pool.map(lambda part: self._register(*part, coarse=coarse), work))
        return np.concatenate([maps[:0], *(found for found, _ in done)]), np.concatenate(
            [np.empty(0, np.float32), *(agreement for _, agreement in done)]
        )

    def _register(self, pairs: Ints, maps: Floats, *, coarse: bool) -> tuple[Floats, Floats]:
        agreement = np.full(len(pairs), -1, np.float32)
        hopeful = np.ones(len(pairs), np.bool_)
        if coarse:
            maps = _align(self.coarse, pairs, maps, steps=COARSE_STEPS)
            hopeful = _correlation(self.coarse, pairs, maps)[0] >= COARSE_AGREEMENT
        found = _align(self.fine, pairs[hopeful], maps[hopeful], steps=FINE_STEPS)
        agreement[hopeful] = self._agreement(pairs[hopeful], found)
        maps = maps.copy()
        maps[hopeful] = found
        return maps, agreement

    def _agreement(self, pairs: Ints, maps: Floats) -> Floats:
        agreement, overlap = _correlation(self.detail, pairs, maps)
        stretch = np.linalg.svd(maps[:, :, :2], compute_uv=False)  # largest, smallest
        possible = (stretch[:, 0] < 1.7) & (stretch[:, 1] > 1 / 1.7) & (overlap >= LEAST_OVERLAP)
        possible &= stretch[:, 0] < 1.5 * stretch[:, 1]
        possible &= self.detailed[pairs].all(1) & self._same_colours(pairs, maps)
        return np.where(possible, agreement, np.float32(-1))

    def _same_colours(self, pairs: Ints, maps: Floats) -> NDArray[np.bool_]:
        """Whether chroma points the same way all over, or one of the two is a grey copy."""
        size = COLOUR_SIDE * COLOUR_SIDE
        here = self.chroma[pairs[:, 0]].reshape(-1, 2, size)
        planes = [_sample(self.chroma[:, plane], pairs[:, 1], maps) for plane in (0, 1)]
        there, shown = np.stack([plane for plane, _ in planes], axis=1), planes[0][1]
        weight = shown[:, None] / np.maximum(shown.sum(1), 1)[:, None, None]
        power = [(weight * side**2).sum((1, 2)) for side in (here, there)]
        alike = (weight * here * there).sum((1, 2)) > 0.5 * np.sqrt(power[0] * power[1])
        return np.asarray(alike | (np.minimum(*power) < LEAST_CHROMA**2))


class _Found:
    """The likely copies found so far: pairs in order, by how much they exceed, and their maps."""

    def __init__(self, pictures: _Pictures, asked: Floats) -> None:
        self._pictures, self._asked = pictures, asked
        self.pairs = np.empty((0, 2), np.int64)
        self.margin = np.empty(0, np.float32)
        self._maps = np.empty((0, 2, 3), np.float32)

    def add(self, pairs: Ints, maps: Floats, *, coarse: bool) -> None:
        """Register pairs and keep those that are likely, each with the best of its maps."""
        maps, agreement = self._pictures.register(pairs, maps, coarse=coarse)
        margin = agreement - self._asked[pairs].max(1, initial=0)
        likely = margin >= -DOUBT
        pairs = np.concatenate([self.pairs, pairs[likely]])
        margin = np.concatenate([self.margin, margin[likely]])
        maps = np.concatenate([self._maps, maps[likely]])
        best = self._best_of_each(pairs, margin)
        self.pairs, self.margin, self._maps = pairs[best], margin[best], maps[best]

    def bridges(self) -> tuple[Ints, Floats]:
        """Pairs not sure yet that share a sure copy, and the maps by way of the best such copy.

        No more than ``BRIDGES`` a file, so that a thousand frames of one scene do no harm.
        """
        sure = self.margin >= 0
        pairs, margin, maps = self.pairs[sure], self.margin[sure], self._maps[sure]
        middle, other = np.concatenate([pairs, pairs[:, ::-1]]).T
        margin, maps = np.tile(margin, 2), np.concatenate([maps, _inverse(maps)])
        order = np.lexsort((-margin, middle))
        _, first, count = np.unique(middle[order], return_index=True, return_counts=True)
        one, two = np.triu_indices(CANDIDATES, 1)  # of the best neighbours of each middle
        there = two < count[:, None]
        start = order[(first[:, None] + one)[there]]
        end = order[(first[:, None] + two)[there]]
        start, end = np.where(other[start] < other[end], (start, end), (end, start))
        found = np.stack([other[start], other[end]], axis=1)
        new = ~np.isin(self._keys(found), self._keys(pairs))
        start, end, found = start[new], end[new], found[new]
        weakest = np.minimum(margin[start], margin[end])
        best = self._best_of_each(found, weakest)
        best = best[np.argsort(-weakest[best], kind="stable")][: BRIDGES * len(self._asked)]
        return found[best], _chain(_inverse(maps[start[best]]), maps[end[best]])

    def _keys(self, pairs: Ints) -> Ints:
        return pairs[:, 0] * len(self._asked) + pairs[:, 1]

    def _best_of_each(self, pairs: Ints, margin: Floats) -> Ints:
        """Where the best of each pair stands, in the order of pairs."""
        keys = self._keys(pairs)
        order = np.lexsort((-margin, keys))
        return order[np.unique(keys[order], return_index=True)[1]]


def _asked(pictures: _Pictures, features: Floats, labels: Ints) -> Floats:
    """(N,) how far the fine detail of a file must agree with another's for the two to be copies.

    In each class, up to 200 files are laid over the most similar of four others; their median and
    its distance to the 16th percentile, in Fisher's z, are those of strangers even when a third
    of them are copies after all.
    """
    asked = np.full(len(labels), AGREEMENT[0], np.float32)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = len(members)
        if count < 5:
            continue
        here = np.unique(np.linspace(0, count - 1, 200).astype(np.int64))
        # far apart in the order of names, where copies are neighbours
        others = np.stack([(here + count * part // 5) % count for part in (1, 2, 3, 4)], axis=1)
        pairs = members[np.stack([np.repeat(here, 4), others.ravel()], axis=1)]
        best = likeness(features, pairs).reshape(-1, 4).argmax(1)
        pairs = pairs.reshape(-1, 4, 2)[np.arange(len(here)), best]
        pairs, maps = _first_maps(features, pairs)
        maps = _align(pictures.coarse, pairs, maps, steps=COARSE_STEPS)
        maps = _align(pictures.fine, pairs, maps, steps=FINE_STEPS)
        agreement, _ = _correlation(pictures.detail, pairs, maps)
        low, middle = np.percentile(np.arctanh(agreement.clip(-0.999, 0.999)), (16, 50))
        asked[members] = np.tanh(middle + STRANGER_SPREADS * (middle - low)).clip(*AGREEMENT)
    return asked


def _first_maps(features: Floats, pairs: Ints) -> tuple[Ints, Floats]:
    """The symmetry in which each pair is most alike, and the next where it is nearly so.

    Returns:
        (Q, 2) pairs, some of them twice, and (Q, 2, 3) maps.
    """
    alike = _by_symmetry(features, pairs)
    best = np.argsort(-alike, axis=1)[:, :2]
    close = np.take_along_axis(alike, best, 1)
    close[:, 1] += NEXT_SYMMETRY
    row, place = np.nonzero(close >= close[:, :1])
    turns = _SYMMETRIES[best[row, place]]
    return pairs[row], np.concatenate([turns, np.zeros((len(row), 2, 1), np.float32)], axis=2)


def _align(pictures: Floats, pairs: Ints, maps: Floats, *, steps: int) -> Floats:
    """Improve maps by inverse compositional steps on (N, S, S) pictures."""
    if not len(pairs):
        return maps
    unique, place = np.unique(pairs[:, 0], return_inverse=True)
    gain = _gain(pictures[unique])[place]
    fixed = pictures[pairs[:, 0]].reshape(len(pairs), pictures[0].size)
    for _ in range(steps):
        moved, shown = _sample(pictures, pairs[:, 1], maps)
        shown &= ~np.isnan(fixed)
        error = _standardised(moved, shown) - _standardised(fixed, shown)
        change = (gain @ error[:, :, None])[:, :, 0].clip(-0.2, 0.2).reshape(-1, 2, 3)
        change[:, 0, 0] += 1
        change[:, 1, 1] += 1
        maps = _chain(_inverse(change), maps)
    return maps


def _gain(pictures: Floats) -> Floats:
    """(N, 6, S*S): the least-squares change of a map's six numbers for an error at each pixel."""
    side = pictures.shape[-1]
    down, right = (
        np.nan_to_num(slope.reshape(len(pictures), -1)) * np.float32(side / 2)
        for slope in np.gradient(pictures, axis=(1, 2))
    )
    x, y = _points(side)
    steepest = np.stack([right * x, right * y, right, down * x, down * y, down], axis=1)
    normal = steepest @ steepest.transpose(0, 2, 1)
    diagonal = np.arange(6)
    normal[:, diagonal, diagonal] *= 1.02  # keeps blank pictures solvable and steps modest
    normal[:, diagonal, diagonal] += 0.01 * side
    return np.asarray(np.linalg.solve(normal, steepest), np.float32)


def _correlation(pictures: Floats, pairs: Ints, maps: Floats) -> tuple[Floats, Floats]:
    """(P,) correlations of pairs where they overlap, and (P,) what part of the first that is."""
    moved, shown = _sample(pictures, pairs[:, 1], maps)
    fixed = pictures[pairs[:, 0]].reshape(len(pairs), pictures[0].size)
    something = ~np.isnan(fixed)
    shown &= something
    product = _standardised(moved, shown) * _standardised(fixed, shown)
    count = shown.sum(1, dtype=np.float32)
    overlap = count / np.maximum(something.sum(1, dtype=np.float32), LEAST_PIXELS)
    return product.sum(1) / np.maximum(count, 1), overlap


def _standardised(values: Floats, shown: NDArray[np.bool_]) -> Floats:
    """(P, K) values with mean 0 and standard deviation 1 over what is shown, 0 elsewhere."""
    count = np.maximum(shown.sum(1, keepdims=True, dtype=np.float32), 1)
    values = np.where(shown, values, np.float32(0))
    mean = np.einsum("pk,pk->p", values, shown)[:, None] / count
    centred = (values - mean) * shown
    power = np.einsum("pk,pk->p", centred, centred)[:, None] / count
    return np.asarray(centred / np.sqrt(power + 1e-6), np.float32)


def _sample(pictures: Floats, which: Ints, maps: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Read (N, S, S) pictures through maps, bilinearly: (P, S*S) values, and whether shown."""
    side = pictures.shape[-1]
    place = (maps[:, :, :2] @ _points(side) + maps[:, :, 2:] + 1) * (side / 2) - 0.5
    shown = ((place >= 0) & (place <= side - 1)).all(1)
    np.clip(place, 0, side - 1.001, out=place)
    corner = place.astype(np.int32)
    x, y = place[:, 0] - corner[:, 0], place[:, 1] - corner[:, 1]
    index = (which[:, None] * side + corner[:, 1]) * side + corner[:, 0]
    flat = pictures.reshape(-1)
    above = flat.take(index)
    above += (flat.take(index + 1) - above) * x
    below = flat.take(index + side)
    below += (flat.take(index + side + 1) - below) * x
    above += (below - above) * y
    return above, shown & ~np.isnan(above)


def _points(side: int) -> Floats:
    """(2, side * side): x and y of the pixels' centres, row by row."""
    centres = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / side) - 1
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return np.stack([x.ravel(), y.ravel()])


def _chain(first: Floats, second: Floats) -> Floats:
    """The maps that do the first and then the second."""
    turn = second[:, :, :2]
    return np.concatenate(
        [turn @ first[:, :, :2], turn @ first[:, :, 2:] + second[:, :, 2:]], axis=2
    )


def _inverse(maps: Floats) -> Floats:
    """The maps that lead back."""
    back = np.linalg.inv(maps[:, :, :2])
    return np.concatenate([back, -back @ maps[:, :, 2:]], axis=2)


def _filled(grey: Floats) -> NDArray[np.bool_]:
    """Where (N, 32, 32) thumbnails are even and black or white: what a turn or shift leaves."""
    even = np.ones(grey.shape, np.bool_)
    for axis in (1, 2):
        even &= np.abs(np.diff(grey, axis=axis, prepend=np.take(grey, [0], axis))) <= 2
    return even & ((grey <= 10) | (grey >= 245))


def _detail(grey: Floats) -> Floats:
    """(N,) standard deviation of the fine detail of (N, 32, 32) thumbnails."""
    return np.asarray(_fine_detail(grey).std((1, 2)))


def _fine_detail(grey: Floats) -> Floats:
    """What lies between half a pixel and a little over one: edges and texture, not areas."""
    return _blur(grey, 0.5) - _blur(grey, 1.2)


def _blur(pictures: Floats, sigma: float) -> Floats:
    """(N, S, S) pictures under a Gaussian of ``sigma`` pixels, cut off at the borders."""
    steps = np.arange(pictures.shape[-1])
    weights = np.exp(-((steps[:, None] - steps) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return np.asarray(weights @ pictures @ weights.T)
