"""A dataset on disk: its classes, its splits, and batches of photos, which threads read ahead."""

import hashlib
import math
import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from coinkit.cli import UserError, printable
from coinkit.files import is_hidden
from coinkit.grades import class_name, scale_order
from coinkit.photos import (
    PhotoError,
    PhotoMemoryError,
    as_photo_error,
    find_photos,
    is_photo_name,
    open_photo,
    prefetch,
)

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, of pixels from 0 to 1
STD = (0.229, 0.224, 0.225)
# What the folder of a split may be called, in upper or lower case.
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
SIZED_PHOTOS = 20  # looked at, to see how large the photos of a dataset are


class PathList(Sequence):
    """Paths, kept as one string of bytes: a million of them take a fifth of the memory that Path objects take."""

    def __init__(self):
        self.text, self.ends = bytearray(), array("q", [0])

    def extend(self, paths: Iterable[Path]) -> None:
        """Add paths at the end."""
        for path in paths:
            self.text += os.fsencode(path)
            self.ends.append(len(self.text))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> Path:
        index = range(len(self))[index]  # as in a list, a negative index counts from the end
        return Path(os.fsdecode(bytes(self.text[self.ends[index] : self.ends[index + 1]])))


class Split(NamedTuple):
    """The photos of one split: their files, and for each the index of its grade in the list of classes."""

    paths: Sequence[Path]  # evaluate.py also has coinkit.faces.Faces here, which are cut out
    labels: Tensor  # (N,), int64


class PhotoReader:
    """Reads photos at one size, and keeps decoded photos for the next epoch until its cache is full.

    Args:
        width, height: the size, in pixels.
        cache_gb: size of the cache, in gigabytes.
        max_unreadable: how many unreadable photos are left out before one ends the run.
    """

    def __init__(self, width: int, height: int, cache_gb: float = 0, max_unreadable: int = 0):
        self.size = (width, height)
        self.max_unreadable = max_unreadable
        self.unreadable = set()  # the photos that were told; they are tried again in the next epoch
        self.low_on_memory = Lock()
        self.cache = {}
        self.cache_limit = cache_gb * 1e9 / (3 * width * height)  # photos

    def __call__(self, path: Path) -> Tensor | None:
        """Return a photo, (3, height, width), uint8, or None if it cannot be read now.

        Raises:
            UserError: more than `max_unreadable` photos cannot be read.
        """
        photo = self.cache.get(path)
        if photo is not None:
            return photo
        try:
            photo = self.open(path)
        except PhotoMemoryError as error:
            tqdm.write(f"Left out this time: {printable(path)}: {error}.", file=sys.stderr)
            return None
        except PhotoError as error:
            if path not in self.unreadable:
                self.unreadable.add(path)
                if len(self.unreadable) > self.max_unreadable:
                    raise UserError(
                        f"{printable(path)}: {error}. Now more photos are unreadable than the {self.max_unreadable} "
                        "that may be left out. Delete them, and run python prepare_dataset.py again."
                    ) from None
                tqdm.write(f"Left out: {printable(path)}: {error}.", file=sys.stderr)
            return None
        self.unreadable.discard(path)
        if len(self.cache) + 1 <= self.cache_limit:
            self.cache[path] = photo
        return photo

    def open(self, path: Path) -> Tensor:
        """Return a photo that is not in the cache. If memory runs out, halve the cache and try once more.

        Raises:
            PhotoError: it cannot be read.
        """
        with suppress(PhotoMemoryError), as_photo_error():
            return to_tensor(open_photo(path, *self.size)[0])
        with self.low_on_memory, as_photo_error():  # one at a time: there may be memory for one photo, but not for more
            self.cache_limit = len(self.cache) // 2
            self.cache.clear()
            return to_tensor(open_photo(path, *self.size)[0])


def to_tensor(photo: Image.Image) -> Tensor:
    """Return an RGB photo as (3, H, W), uint8."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)


def split_folder(data: Path, split: str) -> Path:
    """Return the folder of a split of a dataset, which may have another of its `SPLIT_NAMES`.

    Raises:
        UserError: there are two such folders.
    """
    entries = sorted(data.iterdir()) if data.is_dir() else []
    found = [path for path in entries if path.name.lower() in SPLIT_NAMES[split] and path.is_dir()]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]} are both the {split} split: move one away, or join the two.")
    return found[0] if found else data / split


def grade_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the folders of each grade in a split; "MS65" and "ms65" are the same grade.

    Folders that are hidden or of the system are left out.
    """
    folders = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and not is_hidden(path.name):
            folders.setdefault(class_name(path.name, keep_variants=True), []).append(path)
    return folders


def find_classes(data: Path) -> list[str]:
    """Return the grades of a dataset in the order of the Sheldon scale.

    Raises:
        UserError: there is no dataset, a grade has no photos, or there are fewer than 2 grades.
    """
    train = split_folder(data, "train")
    if not train.is_dir():
        raise UserError(
            f"no dataset in {data.absolute()}: run python prepare_dataset.py first, or name it with --data."
        )
    folders = grade_folders(train)
    for paths in folders.values():
        if not any(is_photo_name(photo) for path in paths for photo in path.iterdir()):
            raise UserError(f"{paths[0]} has no photos: run python prepare_dataset.py again, or delete it.")
    if len(folders) < 2:
        raise UserError(f"{data} has fewer than 2 grades: add photos of others and run python prepare_dataset.py.")
    return sorted(folders, key=scale_order)


def find_split(folder: Path, classes: list[str]) -> Split:
    """Return the photos in <folder>/<grade>/. A grade with few photos may have none in a split."""
    folders, paths, counts = grade_folders(folder), PathList(), []
    for grade in classes:
        grade = class_name(grade, keep_variants=True)  # of a network that was trained on folders in upper case
        found = [photo for path in folders.get(grade, []) for photo in find_photos(path)]
        paths.extend(found)
        counts.append(len(found))
    return Split(paths, torch.arange(len(classes)).repeat_interleave(torch.tensor(counts)))


def describe_dataset(
    data: Path, classes: list[str], train: Split, val: Split, test: Split, width: int, height: int
) -> list[str]:
    """Return in words what a training learns from, and what may be wrong with it: a line for each.

    Args:
        data, classes, train, val, test: the dataset, its grades, its splits.
        width, height: of the photos that the network sees, in pixels.
    """
    counts = (len(split.paths) for split in (train, val, test))
    lines = ["Photos: {} for training, {} for validation, {} for the test".format(*counts)]
    if not val.paths:
        lines.append("Without validation photos, the last epoch is kept, and how sure it may be is only estimated.")
    lines.append(f"Grades: {', '.join(classes)}")
    warnings = [*describe_gaps(data, classes), describe_enlargement(train.paths, width, height)]
    return lines + [f"Warning: {warning}" for warning in warnings if warning]


def describe_gaps(data: Path, classes: list[str]) -> list[str]:
    """Return in words which photos of a dataset are not used, and which grades a split lacks: a line for each.

    Args:
        data: the dataset.
        classes: the grades of its training split.
    """
    lines, folders = [], sorted(filter(Path.is_dir, {split_folder(data, split) for split in SPLIT_NAMES}))
    for path in sorted(data.iterdir()):
        is_meant = path.is_dir() or path.stem.lower() in chain(*SPLIT_NAMES.values())  # val.zip, or a link to nowhere
        if is_meant and path not in folders and not is_hidden(path.name):
            lines.append(f"{path} is not used: the folders of a dataset are train, val and test.")
    for folder in folders:
        grades = grade_folders(folder).items()
        counts = {grade: sum(len(find_photos(path)) for path in paths) for grade, paths in grades}
        below = {grade: sum(len(find_photos(path, recursive=True)) for path in paths) for grade, paths in grades}
        unknown = [grade for grade, count in counts.items() if count and grade not in classes]
        missing = [grade for grade in classes if not counts.get(grade)]
        files = [path for path in sorted(folder.iterdir()) if not path.is_dir() and not is_hidden(path.name)]
        loose = [path.name for path in files if is_photo_name(path) or path.is_symlink()]
        if deeper := [grade for grade in classes if below.get(grade, 0) > counts.get(grade, 0)]:
            count = sum(below[grade] - counts[grade] for grade in deeper)
            lines.append(f"{count} photos in {folder} are not used: they lie deeper than {deeper[0]}/.")
        if unknown:
            count = sum(counts[grade] for grade in unknown)
            lines.append(f"{count} photos in {folder} are not used: no training photo is of {', '.join(unknown)}.")
        if missing and any(counts.values()):
            lines.append(f"{folder} has no photo of {', '.join(missing)}.")
        if loose:
            lines.append(f"{len(loose)} files in {folder} are not used: they are in no grade's folder ({loose[0]}).")
    return lines


def describe_enlargement(paths: Sequence[Path], width: int, height: int) -> str:
    """Return in words that photos are smaller than this size, in pixels, by the median of some of them; "" if not."""
    sizes = []
    for index in range(0, len(paths), math.ceil(len(paths) / SIZED_PHOTOS)):
        with suppress(PhotoError, MemoryError):
            sizes.append(open_photo(paths[index], 2, 1)[1])
    photo_width, photo_height = sorted(sizes)[len(sizes) // 2] if sizes else (width, height)
    if photo_width >= width or photo_height >= height:
        return ""
    return (
        f"the photos in the dataset have {photo_width}x{photo_height} pixels, and are enlarged to {width}x{height}. A "
        "network learns from blurred photos, but will grade sharp ones. If your own photos are larger, stop this, and "
        f"run python prepare_dataset.py again with --size {width} {height}."
    )


def fingerprint(split: Split, classes: list[str]) -> dict[str, list]:
    """Return for each grade the number of its photos and a digest of their names and sizes, to notice changes."""
    digests = [hashlib.sha256() for _ in classes]
    for path, label in zip(split.paths, split.labels.tolist(), strict=True):
        try:
            size = path.stat().st_size
        except OSError:  # a link to nowhere, for example, which is left out when it is read
            size = None
        digests[label].update(os.fsencode(f"{path.name}\0{size}\0"))
    counts = torch.bincount(split.labels, minlength=len(classes)).tolist()
    return {grade: [count, digest.hexdigest()] for grade, count, digest in zip(classes, counts, digests, strict=True)}


def describe_changes(before: dict[str, dict], now: dict[str, dict]) -> str:
    """Return in words how the fingerprints of splits, {split: {grade: [count, digest]}}, differ; "" if they do not."""
    changes = []
    for split, grades in now.items():
        for grade, (count, digest) in grades.items():
            count_before, digest_before = before[split][grade]
            if digest != digest_before:
                what = "other photos" if count == count_before else f"{count_before} photos then, {count} now"
                changes.append(f"{split}/{grade} ({what})")
    return ", ".join(changes[:5]) + (", ..." if len(changes) > 5 else "")


def read_batches(
    paths: Sequence[Path],
    order: Tensor,
    batch_size: int,
    read: PhotoReader,
    pool: Executor,
    share: slice = slice(None),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of photos and their indices in this order, while threads read the next ones.

    Photos that cannot be read are left out, so a batch may be smaller than the others, or empty.

    Args:
        paths: of all photos.
        order: (N,), indices of the photos to read.
        batch_size: photos in a batch.
        read: reads a photo.
        pool: the threads.
        share: which photos of each batch to read; the others are for other processes.

    Yields:
        Photos (batch, 3, H, W), uint8, and their indices, (batch,).
    """
    # A generator, since a list of a million paths would take much memory.
    ordered = (paths[index] for planned in order.split(batch_size) for index in planned[share].tolist())
    photos = prefetch(pool, read, ordered, ahead=2 * batch_size)
    for start in range(0, len(order), batch_size):
        planned = order[start : start + batch_size][share]
        batch = [(photo, index) for index in planned.tolist() if (photo := next(photos)) is not None]
        indices = torch.tensor([index for _, index in batch], dtype=torch.long)
        yield torch.stack([photo for photo, _ in batch]) if batch else torch.empty(0), indices


def normalise(photos: Tensor) -> Tensor:
    """Return photos (N, 3, H, W), uint8 or 0.0 to 1.0, as networks take them: with ImageNet's mean and deviation."""
    photos = photos.float() / 255 if photos.dtype == torch.uint8 else photos
    mean, std = (torch.tensor(values, device=photos.device).view(3, 1, 1) for values in (MEAN, STD))
    return (photos - mean) / std


def derive_seed(*numbers: int) -> int:
    """Return a seed made from numbers. Similar numbers give unrelated seeds; zeros at the end change nothing."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
