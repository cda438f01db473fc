"""A dataset on disk: its classes, its splits, and batches of photos, which threads read ahead."""

import hashlib
import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from coinkit.cli import UserError
from coinkit.grades import scale_order
from coinkit.photos import PhotoError, PhotoMemoryError, find_photos, is_photo_name, open_photo, prefetch

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, of pixels from 0 to 1
STD = (0.229, 0.224, 0.225)


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

    paths: Sequence[Path]
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
        self.unreadable = set()
        self.cache = {}
        self.cache_limit = cache_gb * 1e9 / (3 * width * height)  # photos

    def __call__(self, path: Path) -> Tensor | None:
        """Return a photo, (3, height, width), uint8, or None if it cannot be read.

        Raises:
            UserError: more than `max_unreadable` photos cannot be read.
        """
        photo = self.cache.get(path)
        if photo is None and path not in self.unreadable:
            try:
                photo = to_tensor(open_photo(path, *self.size)[0])
            except PhotoMemoryError as error:  # it is tried again in the next epoch
                tqdm.write(f"Left out this time: {path}: {error}.", file=sys.stderr)
            except PhotoError as error:
                self.unreadable.add(path)
                if len(self.unreadable) > self.max_unreadable:
                    raise UserError(
                        f"{path}: {error}. Now more photos are unreadable than the {self.max_unreadable} that may be "
                        "left out. Run python prepare_dataset.py again."
                    ) from None
                tqdm.write(f"Left out: {path}: {error}.", file=sys.stderr)
            else:
                if len(self.cache) + 1 <= self.cache_limit:
                    self.cache[path] = photo
        return photo


def to_tensor(photo: Image.Image) -> Tensor:
    """Return an RGB photo as (3, H, W), uint8."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)


def find_classes(data: Path) -> list[str]:
    """Return the grades of a dataset in the order of the Sheldon scale.

    Raises:
        UserError: there is no dataset, a grade has no photos, or there are fewer than 2 grades.
    """
    if not (data / "train").is_dir():
        raise UserError(f"no dataset in {data}: run python prepare_dataset.py first, or name it with --data.")
    classes = sorted((folder.name for folder in (data / "train").iterdir() if folder.is_dir()), key=scale_order)
    for grade in classes:
        if not any(map(is_photo_name, (data / "train" / grade).iterdir())):
            raise UserError(f"{data / 'train' / grade} has no photos: run python prepare_dataset.py again.")
    if len(classes) < 2:
        raise UserError(f"{data} has fewer than 2 grades: add photos of others and run python prepare_dataset.py.")
    return classes


def find_split(folder: Path, classes: list[str]) -> Split:
    """Return the photos in <folder>/<grade>/. A grade with few photos may have none in a split."""
    paths, counts = PathList(), []
    for grade_folder in (folder / grade for grade in classes):
        found = find_photos(grade_folder) if grade_folder.is_dir() else []
        paths.extend(found)
        counts.append(len(found))
    return Split(paths, torch.arange(len(classes)).repeat_interleave(torch.tensor(counts)))


def fingerprint(split: Split, classes: list[str]) -> dict[str, list]:
    """Return for each grade the number of its photos and a digest of their names and sizes, to notice changes."""
    digests = [hashlib.sha256() for _ in classes]
    for path, label in zip(split.paths, split.labels.tolist(), strict=True):
        digests[label].update(f"{path.name}\0{path.stat().st_size}\0".encode(errors="surrogateescape"))
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
