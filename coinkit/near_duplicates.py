"""Find the photos that show the same coin: near-duplicates, and files with the same certificate number."""

import re
from collections.abc import Iterator
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from coinkit.manifest import Photo, usable_or_missing

# Photos are near-duplicates if their 256-bit perceptual hashes differ in at most this many bits. Among 376 photos of
# real Morgan dollars, three coins come twice; these pairs differ in 6, 36 and 38 bits, all others in 44 or more.
# Cropping 0.5 % off each edge changes up to 26 bits; cropping 1 %, mostly 28 and up to 48. (tests/test_real_coins.py)
HASH_SIZE = 16  # bits along each side of a hash
SAME_COIN_BITS = 40

# Up to this many photos, every hash is compared with every other. With more, the hashes are sorted in several orders,
# and each is compared with its next neighbours. Among a million photos, that finds 99 % of the pairs that differ in 40
# bits, and more of the closer ones. (python -m benchmarks.scaling)
COMPARE_ALL_LIMIT = 20_000
SORT_ORDERS = 100
NEIGHBOURS = 16

# A certificate number of PCGS (7 to 10 digits) or NGC (7 digits, a hyphen, 3 digits). A date like 20240131 is not one.
CERTIFICATE = re.compile(r"(?<!\d)(?!(?:19|20)\d\d[01]\d[0-3]\d(?!\d))(?:\d{7}-\d{3}|\d{7,10})(?!\d)")


def assign_groups(photos: list[Photo]) -> None:
    """Set the group of the usable and the missing photos: photos of one coin get the same one.

    Two photos also show one coin if a chain of other photos connects them.
    """
    photos = [photo for photo in usable_or_missing(photos) if photo.perceptual_hash]
    hashes = np.frombuffer(bytes.fromhex("".join(photo.perceptual_hash for photo in photos)), dtype=np.uint8)
    near_duplicates = find_near_duplicates(hashes.reshape(-1, HASH_SIZE**2 // 8))
    same_certificate = find_same_certificates([Path(photo.source).stem for photo in photos])

    pairs = np.concatenate([near_duplicates, same_certificate], axis=1)
    graph = coo_array((np.ones(pairs.shape[1], dtype=np.int8), tuple(pairs)), shape=(len(photos), len(photos)))
    _, coins = connected_components(graph, directed=False)
    group_of_coin = {}
    for photo, coin in zip(photos, coins, strict=True):
        photo.group = group_of_coin.setdefault(coin, photo.digest[:16])


def perceptual_hash(photo: Image.Image) -> str:
    """Return 256 bits as hexadecimal digits; photos that look alike differ in few of them (pHash, Zauner 2010)."""
    return str(imagehash.phash(photo, HASH_SIZE))


def find_same_certificates(names: list[str]) -> np.ndarray:
    """Return pairs of indices, (2, names): each name, and the first one with its certificate number or else itself."""
    first_with = {}
    first = np.arange(len(names))
    for index, name in enumerate(names):
        if certificate := CERTIFICATE.search(name):
            first[index] = first_with.setdefault(certificate[0], index)
    return np.stack([first, np.arange(len(names))])


def find_near_duplicates(hashes: np.ndarray) -> np.ndarray:
    """Find the pairs of hashes that differ in at most `SAME_COIN_BITS` bits.

    Args:
        hashes: (photos, bytes), uint8.

    Returns:
        The indices of the two hashes of each pair, (2, pairs). A pair may come more than once. Beyond
        `COMPARE_ALL_LIMIT` hashes, a few pairs are missed.
    """
    if len(hashes) <= COMPARE_ALL_LIMIT:
        orders, neighbours = [np.arange(len(hashes))], len(hashes) - 1
    else:
        orders, neighbours = _sorted_orders(hashes), NEIGHBOURS
    words = hashes.view(np.uint64).T
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for order in orders:
        in_order = words[:, order]
        for step in range(1, neighbours + 1):
            differing_bits = np.bitwise_count(in_order[:, step:] ^ in_order[:, :-step]).sum(axis=0, dtype=np.uint16)
            near = np.flatnonzero(differing_bits <= SAME_COIN_BITS)
            pairs.append(np.stack([order[near], order[near + step]]))
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
