"""Make a dataset from a folder of coin photos: images/<grade>/6000x3000/ -> coin_dataset/{train,val,test}/<grade>/

    python prepare_dataset.py                                       70 % train, 10 % val, 20 % test
    python prepare_dataset.py --dry-run                             only look, write nothing
    python prepare_dataset.py --source ~/coins --ratios 60 20 20    other photos, other shares

Photos of one coin stay in one split, so that the test split tells how the model does on coins it has never seen. Run it
again after adding photos, or after an interruption: what is in the dataset stays in its split, and is not decoded
again. coin_dataset/manifest.csv has a row for every photo that was found.
"""

import argparse
import csv
import hashlib
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import IO

import imagehash
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from coinkit.cli import ArgumentParser, UserError, keep_freed_memory, printable, run, usable_cores
from coinkit.files import (
    SYSTEM_FILES,
    atomic_folder,
    exclusive_lock,
    hidden_sibling,
    link_or_copy,
    require_disk_space,
    restore_previous,
)
from coinkit.grades import class_name, scale_order, sheldon_number
from coinkit.photos import (
    DATASET,
    PHOTO_FOLDER,
    SPLITS,
    PhotoError,
    find_photos,
    is_photo_name,
    open_photo,
    photo_notes,
    prefetch,
)

SOURCE = Path("images")
RATIOS = (70, 10, 20)
SEED = 0
SIZE = (1024, 512)
JPEG_QUALITY = 95  # and no chroma subsampling, since toning is a matter of colour
JPEG_BYTES = 0.5  # per pixel; 0.34 to 0.62 for photos of real Morgan dollars
MANIFEST_BYTES = 500  # per photo

# Photos whose 256-bit perceptual hashes differ in at most this many bits are taken for one coin. Of 376 photos of real
# Morgan dollars, three pairs show one coin twice and differ in 6, 36 and 38 bits; all other pairs differ in 44 or more.
# Cropping 0.5 % off each edge changes up to 26 bits, cropping 1 % up to 48 and mostly 28. (tests/test_real_coins.py)
HASH_SIZE = 16
SAME_COIN_BITS = 40

# Up to so many photos, each hash is compared with all others. Beyond, only with its next neighbours in sorted order, in
# so many orders: that finds 99 of 100 pairs that differ in 40 bits, and more of those that differ in fewer, among a
# million photos. (python -m benchmarks.million)
COMPARE_ALL = 20_000
ORDERS = 100
NEIGHBOURS = 16

# A certificate number as PCGS (7 to 10 digits) or NGC (7 and 3) prints it; a date such as 20240131 is none.
CERTIFICATE = re.compile(r"(?<!\d)(?!(?:19|20)\d\d[01]\d[0-3]\d(?!\d))(?:\d{7}-\d{3}|\d{7,10})(?!\d)")

ENOUGH = {20: "too few", 50: "usable", 100: "good", float("inf"): "excellent"}  # under this many photos in a grade
MAX_IMBALANCE = 3
GONE = "no longer there"  # the reason of a photo that was in the dataset
MAX_LISTED = 20  # photos named on screen; the manifest names them all

EXPECTED = """The photos should lie like this:

    {source}/
      vf30/
        {folder}/
          12345678.jpg
          ...
      ms65/
        {folder}/
          ..."""


@dataclass(slots=True)
class Photo:
    """A source photo and what became of it: one row of manifest.csv."""

    source: str
    grade: str
    split: str = ""  # kept when it is left out, so that it goes back there should it come back
    output: str = ""  # its place below the dataset's folder; empty if it was left out
    width: int = 0  # of the source, upright, in pixels; 0 if it could not be read
    height: int = 0
    digest: str = ""  # SHA-256 of the source file
    group: str = ""  # photos of one coin have the same
    reason: str = ""  # why it was left out
    note: str = ""  # how it is unlike a photo of a coin, and used all the same
    perceptual_hash: str = ""
    file_bytes: int = 0  # a photo whose size and time have not changed is not decoded again
    modified_ns: int = 0
    preparation: str = ""  # the settings that made the output


COLUMNS = [field.name for field in fields(Photo)]  # of manifest.csv


def main() -> None:
    """Run the command."""
    args = parse_arguments()
    output = args.output.resolve()
    if args.dry_run:
        photos = prepare(args, output)
    else:
        with exclusive_lock(hidden_sibling(output, "lock"), args.output):
            photos = prepare(args, output)

    report_grades(photos)
    report_left_out(photos)
    report_odd(photos)
    if args.dry_run:
        print("\nA dry run: nothing was written.")
    else:
        data = "" if args.output == DATASET else f" --data {args.output}"
        print(f"\nThe dataset is in {args.output}. Next: python coin_classifier_custom.py{data}")
        print("Without a GPU, add --preset narrow.")


def prepare(args: argparse.Namespace, output: Path) -> list[Photo]:
    """Make the dataset, unless it is a dry run, and return what became of each photo."""
    if not args.dry_run:
        restore_previous(output)
    previous = check_output(output, args.source)
    photos = find_sources(args)
    if previous and not args.reshuffle:
        print(f"What is in {args.output} stays in its split; --reshuffle splits anew.")
    if args.dry_run:
        read_and_split(photos, previous, output, args)
        return photos

    # Everything is made in folders beside the dataset, one of which then takes the dataset's place at once. The other,
    # where prepared photos wait for their split, outlives a run that is interrupted.
    staging = hidden_sibling(output, "staging")
    with atomic_folder(output) as partial, require_disk_space(bytes_needed(photos, previous, args), output.parent):
        try:
            read_and_split(photos, previous, output, args)
            name_outputs(photos)
            lay_out(photos, staging, previous, output, partial)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)  # makes room, should the disk be full
            raise
    shutil.rmtree(staging)
    return photos


def read_and_split(photos: list[Photo], previous: list[Photo], output: Path, args: argparse.Namespace) -> None:
    """Read the photos, and find what is left out and which split each of the others goes to.

    Raises:
        UserError: fewer than 2 grades are left.
    """
    read_photos(photos, previous, output, args)
    photos += [] if args.reshuffle else find_gone(photos, previous)
    leave_out_same_pictures(photos)
    find_groups(photos)
    leave_out_small_grades(photos, args.min_per_grade)
    assign_splits(photos, [] if args.reshuffle else previous, args.ratios, args.seed)
    if len({photo.grade for photo in usable(photos)}) < 2:
        report_left_out(photos)
        left_out = any(photo.reason for photo in photos)
        advice = "Why others were left out is said above." if left_out else expected_tree(args.source)
        raise UserError(f"fewer than 2 grades have usable photos. {advice}")


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line, checked."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--source", type=Path, default=SOURCE, help=f"folder with <grade>/{PHOTO_FOLDER}/ folders of photos")
    add("--output", type=Path, default=DATASET, help="folder for the dataset")
    add("--ratios", type=float, nargs=3, default=RATIOS, metavar=("TRAIN", "VAL", "TEST"), help="shares, in any unit")
    add("--seed", type=int, default=SEED, help="the same seed and photos give the same splits")
    add("--size", type=int, nargs=2, default=SIZE, metavar=("WIDTH", "HEIGHT"), help="size of the prepared photos")
    add("--full-size", choices=("link", "copy"), help="keep the photos as they are: hard links to them, or copies")
    add("--workers", type=int, default=min(usable_cores(), 61), help="processes that read photos (Windows: 61 at most)")
    add("--min-per-grade", type=int, default=1, help="leave out grades with fewer photos")
    add("--keep-variants", action="store_true", help="keep au58+ and au58, ms64rb and ms64 apart")
    add("--reshuffle", action="store_true", help="split anew, even if photos move from train to test")
    add("--dry-run", action="store_true", help="read and report, but write nothing")
    args = parser.parse_args()
    if not all(0 <= ratio < math.inf for ratio in args.ratios) or not args.ratios[0]:
        parser.error("--ratios must be numbers of at least 0, and TRAIN must be above 0")
    if min(args.size) < 1 or args.workers < 1:
        parser.error("--size and --workers must be at least 1")
    return args


# ---------------------------------------------------------------- finding and reading photos


def find_sources(args: argparse.Namespace) -> list[Photo]:
    """Return a row for every photo in <source>/<grade>/6000x3000/, sorted by path, and tell where there are others."""
    if not args.source.is_dir():
        raise UserError(f"no folder {args.source}. {expected_tree(args.source)}")
    photos = []
    preparation = args.full_size or f"{args.size[0]}x{args.size[1]} JPEG {JPEG_QUALITY}"
    below = [folder for pattern in ("*/", "*/*/", "*/*/*/") for folder in args.source.glob(pattern)]
    for folder in sorted([args.source, *below]):
        names = folder.relative_to(args.source).parts
        if any(name.startswith(".") for name in names):
            continue
        found = find_photos(folder)
        is_used = len(names) == 2 and names[1].lower() == PHOTO_FOLDER
        grade = class_name(names[0], args.keep_variants) if is_used else ""
        if found and (not grade or grade.startswith(".")):  # " .." would not stay inside the dataset
            place = f"{printable(args.source)}/<grade>/{PHOTO_FOLDER}/"
            print(f"Photos not used, since not in {place}: {len(found)} in {printable(folder)}")
            continue
        if is_used:
            report_other_files(folder)
        for path in found:
            photo = Photo(path.as_posix(), grade, preparation=preparation)
            try:
                status = path.stat()
                photo.file_bytes, photo.modified_ns = status.st_size, status.st_mtime_ns
            except OSError:
                pass  # a broken link, say: reading it will give the reason
            photos.append(photo)
    if not photos:
        raise UserError(f"no photo found in {args.source}/<grade>/{PHOTO_FOLDER}/. {expected_tree(args.source)}")
    return photos


def read_photos(photos: list[Photo], previous: list[Photo], dataset: Path, args: argparse.Namespace) -> None:
    """Read every photo and put its prepared copy into a folder beside the dataset; in a dry run, write nothing.

    What has not changed is taken from the previous dataset, or from a run that was interrupted. A photo that cannot be
    read gets the reason.
    """
    staging = hidden_sibling(dataset, "staging")
    interrupted = read_manifest(staging)
    known, staged = ({old.source: old for old in rows} for rows in (previous, interrupted))
    to_read = []
    for index, photo in enumerate(photos):
        old = known.get(photo.source)
        if old and old.grade == photo.grade:
            photo.output = old.output  # its name there
        if not (
            (old and take_over(photo, old, dataset / old.output))
            or (photo.source in staged and take_over(photo, staged[photo.source], staging / staged_name(photo)))
        ):
            to_read.append(index)

    target = None if args.dry_run else staging
    if target:
        staging.mkdir(exist_ok=True)
        write_manifest(staging, interrupted)
    jobs = ((index, photos[index], target, tuple(args.size), args.full_size) for index in to_read)
    done = len(photos) - len(to_read)
    try:
        with (
            ProcessPoolExecutor(args.workers, initializer=start_worker) as pool,
            tqdm(total=len(photos), initial=done, desc="Reading", unit="photo", disable=None) as bar,
            added_to_manifest(target) if target else nullcontext() as add_row,
        ):
            for index, photo in prefetch(pool, read_photo, jobs, ahead=8 * args.workers):
                photos[index] = photo
                if add_row:
                    add_row(photo)
                bar.update()
    except BrokenProcessPool:
        raise UserError(
            "a process that reads photos was killed, perhaps for lack of memory: try --workers 1."
        ) from None


def take_over(photo: Photo, old: Photo, prepared: Path) -> bool:
    """Fill in what an earlier run has found out, if nothing has changed and the prepared copy is there; say if so.

    What could not be read is read again: the disk may have been away, or the file not ours to read.
    """
    if not old.width or not unchanged(photo, old) or not prepared.is_file():
        return False
    photo.width, photo.height, photo.digest = old.width, old.height, old.digest
    photo.perceptual_hash, photo.note = old.perceptual_hash, old.note
    return True


def staged_name(photo: Photo) -> str:
    """Return the name of a prepared copy that waits for its split: another one once the photo has changed."""
    state = (photo.source, photo.file_bytes, photo.modified_ns, photo.preparation)
    return hashlib.sha256(repr(state).encode()).hexdigest()


def start_worker() -> None:
    """Leave Ctrl-C to the main process, and end with it even when it is killed."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def read_photo(job: tuple) -> tuple[int, Photo]:
    """Decode, check and hash one photo, and write its prepared copy; in a worker process."""
    index, photo, staging, size, full_size = job
    source, target = Path(photo.source), staging and staging / staged_name(photo)
    try:
        picture, (photo.width, photo.height) = open_photo(source, *size)
        with source.open("rb") as file:
            photo.digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (PhotoError, OSError) as error:
        photo.reason = str(error)
        return index, photo
    photo.perceptual_hash = str(imagehash.phash(picture, HASH_SIZE))
    photo.note = ", ".join(photo_notes(picture, (photo.width, photo.height)))
    if target:
        target.unlink(missing_ok=True)  # it may be half of one
    if target and full_size == "link":
        link_or_copy(source, target)
    elif target and full_size == "copy":
        shutil.copy2(source, target)
    elif target:
        picture.save(target, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return index, photo


def bytes_needed(photos: list[Photo], previous: list[Photo], args: argparse.Namespace) -> int:
    """Return about how many bytes the dataset takes beside the previous one, with which it shares unchanged photos."""
    known = {photo.source: photo for photo in previous if photo.output}
    new = [photo for photo in photos if photo.source not in known or not unchanged(photo, known[photo.source])]
    if args.full_size == "copy":
        pictures = sum(photo.file_bytes for photo in new)
    else:
        pictures = 0 if args.full_size == "link" else int(len(new) * args.size[0] * args.size[1] * JPEG_BYTES)
    return pictures + MANIFEST_BYTES * len(photos)


def unchanged(photo: Photo, old: Photo) -> bool:
    """Tell whether a source photo and the way to prepare it are still what they were."""
    return all(getattr(photo, name) == getattr(old, name) for name in ("file_bytes", "modified_ns", "preparation"))


# ---------------------------------------------------------------- what is left out, and which photos belong together


def find_gone(photos: list[Photo], previous: list[Photo]) -> list[Photo]:
    """Return a row, with its reason, for each photo that had a split and is no longer there, under whatever name."""
    sources, digests = ({getattr(photo, name) for photo in photos} for name in ("source", "digest"))
    return [
        replace(old, output="", reason=GONE)
        for old in previous
        if old.split and old.source not in sources and (not old.digest or old.digest not in digests)
    ]


def usable(photos: list[Photo]) -> list[Photo]:
    """Return the photos that have not been left out."""
    return [photo for photo in photos if not photo.reason]


def usable_or_gone(photos: list[Photo]) -> list[Photo]:
    """Return the photos that decide where others of their coin go: those that are gone may come back."""
    return [photo for photo in photos if photo.reason in ("", GONE) and photo.perceptual_hash]


def leave_out_same_pictures(photos: list[Photo]) -> None:
    """Keep one of the files that are the same picture; none if they are under two grades, since one must be wrong."""
    by_digest = defaultdict(list)
    for photo in usable(photos):
        by_digest[photo.digest].append(photo)
    for same in by_digest.values():
        same.sort(key=lambda photo: not photo.output)  # prefer the one that is in the dataset already
        first_of_grade = {}
        for photo in same:
            first_of_grade.setdefault(photo.grade, photo)
        for photo in same:
            other = next((first for grade, first in first_of_grade.items() if grade != photo.grade), None)
            if other:
                photo.reason = f"the same picture is under {other.grade} too: {other.source}"
            elif photo is not same[0]:
                photo.reason = f"the same picture as {same[0].source}"


def find_groups(photos: list[Photo]) -> None:
    """Name the coin of each photo: near-duplicates, and files that share a certificate number, are of one coin."""
    photos = usable_or_gone(photos)
    hashes = np.frombuffer(bytes.fromhex("".join(photo.perceptual_hash for photo in photos)), dtype=np.uint8)
    look_alikes, near = find_near_duplicates(hashes.reshape(-1, HASH_SIZE**2 // 8))

    first_with = {}
    same_number = []  # for each photo, the first one with its certificate number
    for index, photo in enumerate(photos):
        certificate = CERTIFICATE.search(Path(photo.source).stem)
        same_number.append(first_with.setdefault(certificate[0], index) if certificate else index)

    rows, columns = np.append(look_alikes, same_number), np.append(near, np.arange(len(photos)))
    links = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(len(photos), len(photos)))
    _, coins = connected_components(links, directed=False)
    names = {}
    for photo, coin in zip(photos, coins, strict=True):
        photo.group = names.setdefault(coin, photo.digest[:16])


def find_near_duplicates(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of hashes that differ in at most `SAME_COIN_BITS` bits.

    Near-duplicates meet among neighbours where hashes are sorted by bytes in which they agree, and one of many random
    orders of the bytes will have such bytes first (Charikar 2002, "Similarity Estimation Techniques from Rounding
    Algorithms", section 3). That takes time in proportion to N log N, where comparing all would take N².

    Args:
        hashes: (N, bytes), uint8.

    Returns:
        The indices of the ones and of the others, (pairs,) each; a pair may come more than once.
    """
    count = len(hashes)
    orders, neighbours = (1, count - 1) if count <= COMPARE_ALL else (ORDERS, NEIGHBOURS)
    random_bytes = np.random.default_rng(0)
    words = hashes.view(np.uint64).T
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for _ in range(orders):
        leading = random_bytes.permutation(hashes.shape[1])[:8]
        order = np.argsort(np.ascontiguousarray(hashes[:, leading]).view(">u8").ravel())
        in_order = words[:, order]
        for step in range(1, neighbours + 1):
            differing_bits = np.bitwise_count(in_order[:, step:] ^ in_order[:, :-step]).sum(axis=0, dtype=np.uint16)
            near = np.flatnonzero(differing_bits <= SAME_COIN_BITS)
            pairs.append(np.stack([order[near], order[near + step]]))
    return tuple(np.concatenate(pairs, axis=1))


def leave_out_small_grades(photos: list[Photo], minimum: int) -> None:
    """Leave out the grades that have fewer than `minimum` usable photos."""
    counts = Counter(photo.grade for photo in usable(photos))
    for photo in usable(photos):
        if counts[photo.grade] < minimum:
            photo.reason = f"its grade has only {counts[photo.grade]} usable photos (--min-per-grade {minimum})"


# ---------------------------------------------------------------- splits


def assign_splits(photos: list[Photo], previous: list[Photo], ratios: list[float], seed: int) -> None:
    """Give each usable photo a split: the one it had, the one of its coin, or else by the ratios within its grade."""
    split_of_source = {old.source: old.split for old in previous}
    split_of_digest = {old.digest: old.split for old in previous if old.split}
    for photo in photos:
        photo.split = split_of_source.get(photo.source, "")
        if not photo.reason:
            photo.split = split_of_digest.get(photo.digest, photo.split)

    coins = defaultdict(list)
    for photo in usable_or_gone(photos):
        coins[photo.group].append(photo)
    for coin in coins.values():
        splits = sorted({photo.split for photo in coin if photo.split})
        for photo in coin:
            if not photo.split and len(splits) > 1:
                photo.reason = f"resembles photos in {' and '.join(splits)}, which are apart (--reshuffle joins them)"
            elif splits:
                photo.split = photo.split or splits[0]

    having = defaultdict(Counter)  # per grade and split, how many photos there are; those without a split are under ""
    for photo in usable(photos):
        having[photo.grade][photo.split] += 1
    room = {  # how many it still wants
        grade: {split: size - counts[split] for split, size in split_sizes(counts.total(), ratios).items()}
        for grade, counts in having.items()
    }
    new_coins = [
        coin for group, coin in sorted(coins.items()) if not any(photo.split or photo.reason for photo in coin)
    ]
    random.Random(seed).shuffle(new_coins)
    for coin in sorted(new_coins, key=len, reverse=True):
        split = max(SPLITS, key=lambda split: sum(room[photo.grade][split] for photo in coin))
        for photo in coin:
            photo.split = split
            room[photo.grade][split] -= 1


def split_sizes(count: int, ratios: list[float]) -> dict[str, int]:
    """Return how many of a grade's photos go to each split: by largest remainder, and none empty if it can be."""
    exact = {split: count * ratio / sum(ratios) for split, ratio in zip(SPLITS, ratios, strict=True)}
    sizes = {split: int(share) for split, share in exact.items()}
    for split in sorted(SPLITS, key=lambda split: sizes[split] - exact[split])[: count - sum(sizes.values())]:
        sizes[split] += 1
    for split in SPLITS:
        if exact[split] and not sizes[split] and sizes["train"] > 1:
            sizes[split] += 1
            sizes["train"] -= 1
    return sizes


# ---------------------------------------------------------------- the dataset's folder


def check_output(output: Path, source: Path) -> list[Photo]:
    """Return the rows of the dataset that is in `output`, none if there is no dataset.

    Raises:
        UserError: `output` is a file, or holds files that are not of a dataset and would be lost.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is no folder: choose another one.")
    source = source.resolve()
    if output == source or output in source.parents:
        raise UserError(f"--output {output} contains the photos of --source {source}: choose another folder.")
    photos = read_manifest(output)
    ours = {str(output / photo.output) for photo in photos} | {str(output / "manifest.csv")}
    for folder, _, names in os.walk(output):
        for path in (os.path.join(folder, name) for name in names if name not in SYSTEM_FILES):
            if path not in ours and os.path.isfile(path):
                raise UserError(
                    f"{path} was not written by this command and would be lost: move it away, or choose another"
                    " --output."
                )
    return photos


def name_outputs(photos: list[Photo]) -> None:
    """Give each usable photo its place in the dataset; one that has a name there keeps it."""
    for photo in photos:
        if photo.reason:
            photo.output = ""
    taken = {(photo.grade, Path(photo.output).stem.lower()) for photo in photos if photo.output}
    for photo in usable(photos):
        suffix = Path(photo.source).suffix.lower() if photo.preparation in ("link", "copy") else ".jpg"
        name = Path(photo.output).stem
        if not name:
            # Names in any script are fine, but not what some file system refuses.
            wanted = name = re.sub(r"[^\w.+-]+", "_", Path(photo.source).stem)[:80]
            number = 2
            while (photo.grade, name.lower()) in taken:
                name, number = f"{wanted}_{number}", number + 1
            taken.add((photo.grade, name.lower()))
        photo.output = f"{photo.split}/{photo.grade}/{name}{suffix}"


def lay_out(photos: list[Photo], staging: Path, previous: list[Photo], output: Path, partial: Path) -> None:
    """Make the dataset in `partial`, of the photos that wait in `staging` and of those of the previous dataset."""
    output_before = {photo.source: photo.output for photo in previous}
    for photo in usable(photos):
        staged, target = staging / staged_name(photo), partial / photo.output
        target.parent.mkdir(parents=True, exist_ok=True)
        if staged.exists():
            os.replace(staged, target)
        else:
            link_or_copy(output / output_before[photo.source], target)
    write_manifest(partial, photos)


def read_manifest(folder: Path) -> list[Photo]:
    """Return the rows of the dataset in `folder`, none if there is no manifest."""
    if not (folder / "manifest.csv").is_file():
        return []
    with open_manifest(folder, "r") as file:
        types = {field.name: field.type for field in fields(Photo)}
        try:
            return [Photo(**{name: kind(row[name]) for name, kind in types.items()}) for row in csv.DictReader(file)]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{folder / 'manifest.csv'} is damaged: move {folder} away and run this again.") from None


def write_manifest(folder: Path, photos: list[Photo]) -> None:
    """Write manifest.csv."""
    with open_manifest(folder, "w") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(map(attrgetter(*COLUMNS), photos))


@contextmanager
def added_to_manifest(folder: Path) -> Iterator[Callable[[Photo], None]]:
    """Yield a function that adds a row to manifest.csv, where it is even if this process is killed."""
    with open_manifest(folder, "a") as file:
        writer = csv.writer(file)

        def add(photo: Photo) -> None:
            writer.writerow(attrgetter(*COLUMNS)(photo))
            file.flush()

        yield add


def open_manifest(folder: Path, mode: str) -> IO[str]:
    """Open manifest.csv; file names that are not valid Unicode come back as they were."""
    return (folder / "manifest.csv").open(mode, newline="", encoding="utf-8", errors="surrogateescape")


# ---------------------------------------------------------------- what the user is told


def expected_tree(source: Path) -> str:
    """Return a drawing of the folders that this command reads."""
    return EXPECTED.format(source=source, folder=PHOTO_FOLDER)


def report_other_files(folder: Path) -> None:
    """Print how many files in a folder of photos are not named like photos."""
    others = Counter(
        path.suffix.lower() or "no ending"
        for path in folder.iterdir()
        if not (is_photo_name(path) or path.name.startswith(".") or path.name in SYSTEM_FILES) and path.is_file()
    )
    if others:
        endings = printable(", ".join(sorted(others)))
        print(f"Files not used, since not named like photos ({endings}): {others.total()} in {printable(folder)}")


def report_grades(photos: list[Photo]) -> None:
    """Print how many photos each grade has in each split, and whether that is enough."""
    placed = usable(photos)
    counts = Counter((photo.grade, photo.split) for photo in placed)
    grades = sorted({grade for grade, _ in counts}, key=scale_order)
    totals = {grade: sum(counts[grade, split] for split in SPLITS) for grade in grades}
    width = max(map(len, [*grades, "grade"]))
    print(f"\n{'grade':{width}}  train    val   test  total")
    for grade in grades:
        total = totals[grade]
        word = next(word for limit, word in ENOUGH.items() if total < limit)
        columns = "".join(f"{number:7}" for number in (*(counts[grade, split] for split in SPLITS), total))
        bar = "#" * max(1, round(20 * total / max(totals.values())))
        print(f"{grade:{width}}{columns}  {bar:20}  {word}")
    columns = "".join(f"{sum(counts[grade, split] for grade in grades):7}" for split in SPLITS)
    print(f"{'all':{width}}{columns}{sum(totals.values()):7}")

    if unlearned := [grade for grade in grades if not counts[grade, "train"]]:
        print(f"\nWarning: no photo in train, so not to be learned: {', '.join(unlearned)}; --reshuffle splits anew.")
    for split in ("val", "test"):
        if not any(counts[grade, split] for grade in grades):
            print(f"\nWarning: no photo is in {split}.")
    numbers = {grade: sheldon_number(grade) for grade in grades}
    having = Counter(numbers.values())
    if unknown := [grade for grade, number in numbers.items() if number is None]:
        print(f"\nWarning: not on the Sheldon scale, and placed after its best grade: {', '.join(unknown)}.")
    if alike := [grade for grade, number in numbers.items() if number is not None and having[number] > 1]:
        print(f"\nWarning: at one place of the Sheldon scale, but kept apart: {', '.join(alike)}.")
    if unknown or alike:
        print("If that is not meant, rename their folders and run this again.")
    imbalance = max(totals.values()) / min(totals.values())
    print(f"\nThe largest grade has {imbalance:.1f} times the photos of the smallest.")
    if imbalance > MAX_IMBALANCE:
        print(f"Warning: above {MAX_IMBALANCE}:1 the model leans towards large grades; train with --class-weights.")
    grade_of = {}
    mixed = {photo.group for photo in placed if grade_of.setdefault(photo.group, photo.grade) != photo.grade}
    doubtful = [photo.source for photo in photos if photo.group in mixed]
    if doubtful:
        print_photos("look like one coin, or share a certificate number, under two grades; check them:", doubtful)


def report_left_out(photos: list[Photo]) -> None:
    """Print which photos were left out, and why."""
    left_out = [f"{photo.source}: {photo.reason}" for photo in photos if photo.reason not in ("", GONE)]
    if left_out:
        print_photos("left out:", left_out)
    if gone := sum(photo.reason == GONE for photo in photos):
        print(f"\nPhotos of the dataset that are no longer there: {gone}; any that comes back goes to its old split.")


def report_odd(photos: list[Photo]) -> None:
    """Print which photos are used though they are unlike that of a coin."""
    odd = [f"{photo.source}: {photo.note}" for photo in usable(photos) if photo.note]
    if odd:
        print_photos("used, but unlike that of a coin, obverse and reverse side by side:", odd)


def print_photos(what: str, lines: list[str]) -> None:
    """Print a heading with the number of photos, and the first of them."""
    print(f"\n{len(lines)} photo{'' if len(lines) == 1 else 's'} {what}")
    print("\n".join(f"  {printable(line)}" for line in lines[:MAX_LISTED]))
    if len(lines) > MAX_LISTED:
        print(f"  ... and {len(lines) - MAX_LISTED} more, all in manifest.csv")


if __name__ == "__main__":
    run(main)
