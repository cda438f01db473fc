"""Find the photos that show the same coin: near-duplicates, and files with the same certificate number.

Near-duplicates are looked for in two steps: perceptual hashes name the pairs that may show one coin, and the pixels of
both coins decide (coinkit.coin_likeness).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import groupby, product
from pathlib import Path
from statistics import median
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image, ImageChops
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from coinkit.cli import usable_cores
from coinkit.coin_likeness import FACE, FacePair, read_faces, trim_border
from coinkit.faces import Faces, open_coin, source_of
from coinkit.manifest import Photo, usable_now_or_later
from coinkit.photos import PhotoError, certificate_numbers, prefetch, without_dates

GROUPINGS = ("both", "certificate", "none")  # what tells photos of one coin: certificate numbers and looks, or less

# Pairs whose 256-bit perceptual hashes differ in at most MAYBE_SAME_COIN_BITS bits are compared by their pixels. Where
# that is impossible, because a photo is gone or has no details, SAME_COIN_BITS decides. Among 376 photos of real Morgan
# dollars, three coins come twice; these pairs differ in 6, 36 and 38 bits, all others in 44 or more. Cropping 0.5 % off
# each edge changes up to 26 bits; cropping 1 %, mostly 28 and up to 48. (tests/test_real_coins.py)
HASH_SIZE = 16  # bits along each side of a hash
SAME_COIN_BITS = 40
MAYBE_SAME_COIN_BITS = 56
BORDER_BITS = 16  # a border that is cut off changes more
CANDIDATES = 6  # of each photo are compared by their pixels, the nearest first

# Likeness of coins, -1 to 1. In 1,415 studio photos, the most alike photos of different coins have 0.83, and the same
# coin in other photos 0.85 to 0.98; copies have 0.85 or more. (tests/test_real_coins.py)
SAME_COIN_LIKENESS = 0.84
COPY_LIKENESS = 0.95  # asked of the members of a group that is too large to be believed

# A coin hardly ever has more photos than this, or than so many times what is usual in the collection.
MAX_PHOTOS_OF_A_COIN = 8
MAX_TIMES_THE_USUAL = 3
MIN_COINS = 5  # with fewer, nothing is usual
MAX_GRADES_OF_A_COIN = 2  # one, and a mistake
MIN_SERIES = 5  # a certificate number that is on most photos of a grade, with a counter, is a camera's from so many on

# Photos that were changed on purpose are found by further hashes: of the photo without its border, with obverse and
# reverse swapped, and cropped by CROP on each edge.
CROP = 0.025

# Up to this many photos, every hash is compared with every other. With more, the hashes are sorted in several orders,
# and each is compared with its next neighbours. Among a million photos, that finds 99 % of the pairs that differ in 40
# bits, and more of the closer ones, but not what was mirrored and the like. (python -m benchmarks.scaling)
COMPARE_ALL_LIMIT = 20_000
SORT_ORDERS = 100
NEIGHBOURS = 16


class View(NamedTuple):
    """How a photo is looked at: as it is, or changed as people change copies."""

    trimmed: bool = False  # without its border, and laid on its side if it is higher than wide
    swapped: bool = False  # obverse and reverse
    mirrored: bool = False  # left and right
    flipped: bool = False  # top and bottom; mirrored and flipped is turned by 180 degrees

    def apply(self, faces: np.ndarray) -> np.ndarray:
        """Return the faces of the changed photo, (2, FACE, FACE)."""
        faces = faces[::-1] if self.swapped != self.mirrored else faces  # mirroring a photo swaps its faces as well
        faces = faces[:, :, ::-1] if self.mirrored else faces
        return faces[:, ::-1] if self.flipped else faces


AS_IT_IS = View()


class Candidate(NamedTuple):
    """Two photos that may show the same coin."""

    index: int  # of the first photo
    other: int  # of the second
    bits: int  # in which their hashes differ
    view: View  # of the second


def assign_groups(
    photos: list[Photo], grouping: str = "both", find_file: Callable[[Photo], Path | Faces] = source_of
) -> list[str]:
    """Set the group and the match of the photos that are usable now or later: photos of one coin get the same group.

    Two photos also show one coin if a chain of other photos connects them.

    Args:
        photos: all photos, with their hashes.
        grouping: one of `GROUPINGS`.
        find_file: returns where to open a photo for a closer look.

    Returns:
        What looked like one coin, but was not believed: lines for the user.
    """
    photos = [photo for photo in usable_now_or_later(photos) if photo.perceptual_hash]
    doubts, matches = [], []  # a match: two photos, and how the second one matches the first
    if grouping != "none":
        matches += [(*pair, "has a photo in common with") for pair in find_shared_faces(photos)]
        numbered = find_same_certificates(photos, doubts)
        matches += [(first, index, f"certificate number {number}, as") for first, index, number in numbered]
    if grouping == "both":
        matches += [(*pair, "looks like") for pair in find_look_alikes(photos, doubts, find_file)]
    for first, index, how in matches:
        photos[index].match = photos[index].match or f"{how} {photos[first].source}"
    pairs = [(first, index) for first, index, _ in matches]
    group_of_coin = {}
    for photo, coin in zip(photos, _connect(pairs, len(photos)), strict=True):
        photo.group = group_of_coin.setdefault(coin, photo.digest[:16])
    return doubts


def _connect(pairs: list[tuple[int, int]], count: int) -> np.ndarray:
    """Return a number for each of `count` photos, the same for those that pairs connect."""
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def find_shared_faces(photos: list[Photo]) -> list[tuple[int, int]]:
    """Return pairs of coins, of two photos each, that share a file: one of them is with the wrong partner."""
    first_with, pairs = {}, []
    for index, photo in enumerate(photos):
        for digest in {photo.digest[:64], photo.digest[64:]} if photo.reverse else ():
            first = first_with.setdefault(digest, index)
            if first != index:
                pairs.append((first, index))
    return pairs


# ---------------------------------------------------------------- certificate numbers


def find_same_certificates(photos: list[Photo], doubts: list[str]) -> list[tuple[int, int, str]]:
    """Return the first photo with a certificate number, another one with it, and the number, for each other one.

    A number on more photos, or in more grades, than a coin has is that of a camera or a day. It is added to `doubts`.
    """
    indices = defaultdict(list)
    for index, photo in enumerate(photos):
        for certificate in dict.fromkeys(certificate_numbers(Path(photo.source))):
            indices[certificate].append(index)
    without_number = len(photos) - len(set().union(*indices.values()))  # each is taken for a coin of its own
    most = _most_photos_of_a_coin([*map(len, indices.values()), *[1] * without_number])
    grade_of = [photo.source_grade or photo.grade for photo in photos]  # the same whatever --classes joins
    grade_sizes = Counter(grade_of)
    pairs = []
    for number, members in indices.items():
        grades = Counter(grade_of[index] for index in members)
        stems = [without_dates(Path(photos[index].source).stem) for index in members]
        if (
            len(members) > most
            or len(grades) > MAX_GRADES_OF_A_COIN
            or (_is_series(number, stems) and any(2 * grades[grade] > grade_sizes[grade] for grade in grades))
        ):
            doubts.append(
                f"{number} is in the names of {len(members)} photos, so it is not taken for a certificate number"
            )
        else:
            pairs += [(members[0], index, number) for index in members[1:]]
    return pairs


def _most_photos_of_a_coin(sizes: list[int]) -> float:
    """Return how many photos a coin may have to be believed, from the number of photos of each coin."""
    usual = median(sizes) if len(sizes) >= MIN_COINS else 1
    return max(MAX_PHOTOS_OF_A_COIN, MAX_TIMES_THE_USUAL * usual)


def _is_series(number: str, stems: list[str]) -> bool:
    """Tell whether file names are a number and a counter, as of a camera."""
    if len(stems) < MIN_SERIES:
        return False
    counters = [re.fullmatch(rf"\D*{number[:-3]}-?{number[-3:]}\D+(\d+)\D*", stem) for stem in stems]
    return all(counters) and len({counter[1] for counter in counters}) == len(stems)


# ---------------------------------------------------------------- near-duplicates


def find_look_alikes(
    photos: list[Photo], doubts: list[str], find_file: Callable[[Photo], Path | Faces] = source_of
) -> list[tuple[int, int]]:
    """Return the pairs of photos that show the same coin by their looks.

    In a group that is too large for one coin, only copies stay together. It is added to `doubts`.
    """
    candidates = find_candidates(photos)
    faces = lru_cache(1000)(lambda index, trimmed: _open_faces(find_file(photos[index]), trimmed))
    by_coin = [list(pairs) for _, pairs in groupby(candidates, lambda pair: (pair.index, pair.view.trimmed))]
    links = {}
    cores = usable_cores()
    with (
        ThreadPoolExecutor(cores) as pool,
        tqdm(total=len(candidates), desc="Comparing coins", unit="pair", leave=False, disable=None) as bar,
    ):
        for pairs in prefetch(pool, partial(_compare_with_others, faces=faces), by_coin, ahead=2 * cores):
            bar.update(len(pairs))
            for pair, likeness in pairs:
                if likeness is None:
                    is_same = pair.view == AS_IT_IS and pair.bits <= SAME_COIN_BITS
                else:
                    is_same = likeness >= SAME_COIN_LIKENESS
                if is_same:
                    both = pair.index, pair.other
                    links[both] = max(likeness or 0, links.get(both, 0))

    coin_of = _connect(list(links), len(photos))
    counts = Counter(coin_of.tolist())
    most = _most_photos_of_a_coin(list(counts.values()))
    for coin, count in counts.items():
        if count <= most:
            continue
        doubtful = [pair for pair in links if coin_of[pair[0]] == coin and links[pair] < COPY_LIKENESS]
        for pair in doubtful:
            del links[pair]
        if doubtful:
            example = photos[doubtful[0][0]].source
            doubts.append(f"{count} photos look alike, so only copies are taken for one coin; one is {example}")
    return list(links)


def _compare_with_others(
    pairs: list[Candidate], faces: Callable[[int, bool], np.ndarray | None]
) -> list[tuple[Candidate, float | None]]:
    """Return each pair of a coin with another, and their likeness in the view of the other; None if it is unknown."""
    trimmed = pairs[0].view.trimmed
    own, compared = faces(pairs[0].index, trimmed), []
    coin = None if own is None else FacePair(own)
    for pair in pairs:
        others = faces(pair.other, trimmed)
        comparable = coin is not None and others is not None
        compared.append((pair, coin.likeness(FacePair(pair.view.apply(others))) if comparable else None))
    return compared


def _open_faces(file: Path | Faces, trimmed: bool) -> np.ndarray | None:
    """Return the faces of a photo, or None if it is gone."""
    try:
        zoom = 2 if trimmed else 1  # enough pixels are left within the border
        pixels = open_coin(file, zoom * 2 * FACE, zoom * FACE).photo
    except PhotoError:
        return None
    return read_faces(_without_border(pixels) if trimmed else pixels)


def _without_border(photo: Image.Image) -> Image.Image:
    """Return a photo without its border; if it is then higher than wide, it is turned by 90 degrees."""
    photo = trim_border(photo)
    return photo.transpose(Image.Transpose.ROTATE_90) if photo.height > photo.width else photo


def find_candidates(photos: list[Photo]) -> list[Candidate]:
    """Return pairs of photos that may show the same coin.

    They are in the order of the first photo. Those in a trimmed view come last, and of each kind the nearest first.
    """
    as_it_is = _to_array([photo.perceptual_hash for photo in photos])
    looks = [(as_it_is, as_it_is, AS_IT_IS)]
    if len(photos) <= COMPARE_ALL_LIMIT:
        # Photos that an earlier version has read have no further hashes; they are taken to have no border.
        digits = HASH_SIZE**2 // 4
        views = [photo.other_hashes or 3 * photo.perceptual_hash for photo in photos]
        trimmed, swapped, cropped = (
            _to_array([hashes[start : start + digits] for hashes in views]) for start in range(0, 3 * digits, digits)
        )
        looks += [(as_it_is, cropped, AS_IT_IS), (cropped, as_it_is, AS_IT_IS)]
        has_border = np.bitwise_count(trimmed ^ as_it_is).sum(axis=1) > BORDER_BITS
        for mirrored, flipped in product((False, True), repeat=2):
            changes = _sign_changes(mirrored, flipped)
            looks.append((trimmed, trimmed ^ changes, View(True, False, mirrored, flipped)))
            looks.append((as_it_is, swapped ^ changes, View(False, True, mirrored, flipped)))
    candidates = {}
    for hashes, others, view in looks:
        first, second = find_near_duplicates(hashes, others)
        if view == View(trimmed=True):  # without a border, it is the view as it is
            one_has_border = has_border[first] | has_border[second]
            first, second = first[one_has_border], second[one_has_border]
        bits = np.bitwise_count(hashes[first] ^ others[second]).sum(axis=1)
        near = (_rank(first, bits) < CANDIDATES) | (_rank(second, bits) < CANDIDATES)
        for index, other, count in zip(first[near].tolist(), second[near].tolist(), bits[near].tolist(), strict=True):
            candidates[index, other, view] = min(count, candidates.get((index, other, view), count))
    found = [Candidate(index, other, count, view) for (index, other, view), count in candidates.items()]
    return sorted(found, key=lambda pair: (pair.index, pair.view.trimmed, pair.bits))


def _rank(index: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Return the rank of each pair among those with its index, the nearest first, (pairs,)."""
    order = np.lexsort((bits, index))
    starts = np.searchsorted(index[order], index[order])
    rank = np.empty(len(index), dtype=np.int64)
    rank[order] = np.arange(len(index)) - starts
    return rank


def perceptual_hash(photo: Image.Image) -> str:
    """Return 256 bits as hexadecimal digits; photos that look alike differ in few of them (pHash, Zauner 2010)."""
    grey = photo.convert("L")
    return str(imagehash.phash(grey.reduce(max(1, grey.width // (2 * FACE))), HASH_SIZE))


def other_hashes(photo: Image.Image) -> str:
    """Return the perceptual hashes of a photo without its border, with its faces swapped, and cropped."""
    photo = photo.convert("L").reduce(max(1, photo.width // (2 * FACE)))
    trimmed = _without_border(photo)
    swapped = ImageChops.offset(photo, photo.width // 2, 0)
    right, bottom = photo.width * CROP, photo.height * CROP
    cropped = photo.crop((right, bottom, photo.width - right, photo.height - bottom))
    return "".join(map(perceptual_hash, (trimmed, swapped, cropped)))


def _sign_changes(mirrored: bool, flipped: bool) -> np.ndarray:
    """Return the bits of a perceptual hash that change if the photo is mirrored or flipped, (bytes,), uint8.

    They are those of waves that are odd from left to right, or from top to bottom. (Up to 24 others change, too.)
    """
    odd = np.arange(HASH_SIZE) % 2 == 1
    return np.packbits((odd & mirrored) ^ (odd[:, None] & flipped))


def _to_array(hashes: list[str]) -> np.ndarray:
    """Return hashes as (photos, bytes), uint8."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(-1, HASH_SIZE**2 // 8)


def find_near_duplicates(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Find the pairs of hashes that differ in at most `MAYBE_SAME_COIN_BITS` bits.

    Args:
        hashes: (photos, bytes), uint8.
        others: the same, or other hashes of the same photos; the second of a pair is one of them.

    Returns:
        The indices of the two hashes of each pair, (2, pairs), the smaller first. A pair may come more than once.
        Beyond `COMPARE_ALL_LIMIT` hashes, a few pairs are missed.
    """
    if len(hashes) <= COMPARE_ALL_LIMIT:
        orders, neighbours = [np.arange(len(hashes))], len(hashes) - 1
    else:
        orders, neighbours = _sorted_orders(hashes), NEIGHBOURS
    words, other_words = hashes.view(np.uint64).T, others.view(np.uint64).T
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for order in orders:
        in_order, others_in_order = words[:, order], other_words[:, order]
        for step in range(1, neighbours + 1):
            bits_of_words = np.bitwise_count(in_order[:, :-step] ^ others_in_order[:, step:])
            differing_bits = sum(bits_of_words.astype(np.uint16))  # several times as fast as their method `sum`
            near = np.flatnonzero(differing_bits <= MAYBE_SAME_COIN_BITS)
            pairs.append(np.sort(np.stack([order[near], order[near + step]]), axis=0))
    return np.concatenate(pairs, axis=1)


def _sorted_orders(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield orders, (photos,), in which near-duplicates are likely to be neighbours.

    Each order sorts the hashes by 8 of their bytes, picked at random. Near-duplicates in which these bytes are the same
    come together (Charikar 2002, "Similarity Estimation Techniques from Rounding Algorithms", section 3). That takes
    N log N time; comparing all pairs takes N².
    """
    rng = np.random.default_rng(0)
    for _ in range(SORT_ORDERS):
        sort_bytes = rng.permutation(hashes.shape[1])[:8]
        yield np.argsort(np.ascontiguousarray(hashes[:, sort_bytes]).view(">u8").ravel())
