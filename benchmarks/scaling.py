"""How time and memory of prepare_dataset.py and of reading a dataset grow with it, up to a million photos

    python -m benchmarks.scaling                        10,000, 100,000 and 1,000,000 photos
    python -m benchmarks.scaling --sizes 10000 20000

The photos are tiny files with made-up digests and hashes, so everything but decoding is measured. One photo in a
hundred is a near-duplicate of another, at the largest distance that still counts. Each part runs in its own process;
seconds are processor time, megabytes are the process's peak memory so far. For Linux and macOS.
"""

import argparse
import hashlib
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import prepare_dataset
from benchmarks.timing import PEAK_UNIT
from coinkit.manifest import Photo, write_manifest
from coinkit.near_duplicates import HASH_SIZE, SAME_COIN_BITS, assign_groups
from coinkit.photos import PHOTO_FOLDER, SPLITS
from coinkit.splits import assign_splits
from prepare_dataset import RATIOS, SEED, SIZE

SIZES = (10_000, 100_000, 1_000_000)
GRADES = [f"ms{number}" for number in range(60, 71)] + [f"vf{number}" for number in range(20, 40)]
NEAR_DUPLICATE = 100  # each 100th photo is a near-duplicate of the photo before it
FIRST_CERTIFICATE = 30_000_000


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="PHOTOS")
    parser.add_argument(
        "--folder", type=Path, help="where to make the files, 3 for each photo (default: the system's temporary folder)"
    )
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    for size in args.sizes:
        print(f"\n{f'{size:,} photos':42} seconds megabytes")
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            for part in (make_files, prepare_first, prepare_again, train):
                process = spawn.Process(target=part, args=(Path(folder), size))
                process.start()
                process.join()
                if process.exitcode:
                    sys.exit(f"{part.__name__} failed")


def options(folder: Path) -> argparse.Namespace:
    """Return the options of prepare_dataset.py."""
    source = folder / "images"
    return argparse.Namespace(
        source=source, size=SIZE, full_size=None, cut=False, keep_variants=False, workers=1, dry_run=False
    )


def timed(step: str, function: Callable, *args: Any) -> Any:
    """Return function(*args); print its processor time and this process's peak memory."""
    start = time.process_time()
    result = function(*args)
    seconds = time.process_time() - start
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT / 1e6
    print(f"  {step:40}{seconds:8.2f}{megabytes:10.0f}", flush=True)
    return result


def make_files(folder: Path, size: int) -> None:
    """Make the photos: empty files, the same number for each grade."""
    for grade in GRADES:
        (folder / "images" / grade / PHOTO_FOLDER).mkdir(parents=True)
    for index in range(size):
        name = f"{FIRST_CERTIFICATE + index}.jpg"
        (folder / "images" / GRADES[index % len(GRADES)] / PHOTO_FOLDER / name).touch()


def prepare_first(folder: Path, size: int) -> None:
    """Do what prepare_dataset.py does, without decoding."""
    timed("prepare: start", lambda: None)
    photos = timed("prepare: list the photos", prepare_dataset.find_source_photos, options(folder))
    make_up(photos)
    find_coins_and_splits(photos, [])
    group = {photo.source: photo.group for photo in photos}
    pairs = [(photos[index], photos[index - 1]) for index in range(1, size, NEAR_DUPLICATE)]
    met = np.mean([group[one.source] == group[other.source] for one, other in pairs])
    print(f"  {met:.1%} of {len(pairs):,} near-duplicates found, {len(set(group.values())):,} coins")

    dataset = folder / "coin_dataset"
    for split in SPLITS:
        for grade in GRADES:
            (dataset / split / grade).mkdir(parents=True)
    for photo in photos:
        (dataset / photo.output).write_bytes(b"x")  # an empty file would be prepared again
    timed("prepare: write the manifest", write_manifest, dataset, photos)


def make_up(photos: list[Photo]) -> None:
    """Fill in what decoding would have found."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (len(photos), HASH_SIZE**2 // 8), dtype=np.uint8)
    for index in range(1, len(photos), NEAR_DUPLICATE):
        differing_bits = np.zeros(HASH_SIZE**2, dtype=np.uint8)
        differing_bits[rng.choice(HASH_SIZE**2, SAME_COIN_BITS, replace=False)] = 1
        hashes[index] = hashes[index - 1] ^ np.packbits(differing_bits)
    for photo, perceptual_hash in zip(photos, hashes, strict=True):
        photo.width, photo.height = 6000, 3000
        photo.digest = hashlib.sha256(photo.source.encode()).hexdigest()
        photo.perceptual_hash = perceptual_hash.tobytes().hex()


def find_coins_and_splits(photos: list[Photo], previous: list[Photo]) -> None:
    """Do what comes between reading the photos and writing them."""
    timed("prepare: find copies", prepare_dataset.leave_out_copies, photos)
    timed("prepare: find photos of one coin", assign_groups, photos)
    timed("prepare: split", assign_splits, photos, previous, RATIOS, SEED)
    timed("prepare: name", prepare_dataset.assign_output_paths, photos)


def prepare_again(folder: Path, size: int) -> None:
    """Do what prepare_dataset.py does when it is run again and nothing has changed."""
    args, dataset = options(folder), folder / "coin_dataset"
    previous = timed("again: read the manifest", prepare_dataset.check_output, dataset, args.source)
    photos = timed("again: list the photos", prepare_dataset.find_source_photos, args)
    timed("again: take over what is known", prepare_dataset.prepare_photos, photos, previous, dataset, args)
    find_coins_and_splits(photos, previous)
    staging, paths = folder / "staging", {old.source: dataset / old.output for old in previous}
    find_file = partial(prepare_dataset.find_prepared, staging=staging, previous=paths)
    timed("again: lay out", prepare_dataset.fill_dataset, folder / "new", photos, find_file)
    if any(photo.split != old.split for photo, old in zip(photos, previous, strict=True)):
        sys.exit("a photo has changed its split")


def train(folder: Path, size: int) -> None:
    """Read a dataset as training does, without decoding."""
    import torch  # here, so that its memory does not count for the other parts

    from coinkit.dataset import find_classes, find_split, read_batches

    timed("train: start", lambda: None)
    data = folder / "coin_dataset"
    classes = timed("train: list the grades", find_classes, data)
    split = timed("train: list the photos", find_split, data / "train", classes)
    with ThreadPoolExecutor(2) as pool:
        order = torch.randperm(len(split.paths))
        batches = read_batches(split.paths, order, 64, lambda path: torch.zeros(1), pool)
        if timed("train: go through them at random", lambda: sum(len(photos) for photos, _ in batches)) != len(order):
            sys.exit("an epoch has left out photos")


if __name__ == "__main__":
    main()
