"""Batches of photos for the network: read them ahead, vary them, normalise them."""

import math
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from coinkit.cli import UserError
from coinkit.grades import scale_order
from coinkit.photos import PhotoError, find_photos, map_ahead, open_photo

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, of pixels from 0 to 1
STD = (0.229, 0.224, 0.225)

# The largest rotation (degrees), shift (share of a face), zoom and change of light and colour (shares)
AUGMENTATIONS = {
    "none": None,
    "normal": {"rotation": 8, "shift": 0.03, "zoom": 0.06, "colour": 0.15},
    "strong": {"rotation": 15, "shift": 0.05, "zoom": 0.1, "colour": 0.3},
}


class PathList(Sequence):
    """Paths of files, kept as one string of bytes: a million of them take a fifth of the memory of Path objects."""

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
        index = range(len(self))[index]  # as a list takes it: from the end if negative, and an error beyond it
        return Path(os.fsdecode(bytes(self.text[self.ends[index] : self.ends[index + 1]])))


class Split(NamedTuple):
    """The photos of one split: their files, and for each the index of its grade in the list of classes."""

    paths: Sequence[Path]
    labels: Tensor  # (N,), int64


class PhotoReader:
    """Reads photos at one size and keeps them decoded for the next epoch, as long as there is room.

    Args:
        width, height: the size, in pixels.
        cache_gb: room for decoded photos, in gigabytes.
    """

    def __init__(self, width: int, height: int, cache_gb: float = 0):
        self.size = (width, height)
        self.cache = {}
        self.cache_limit = int(cache_gb * 1e9 / (3 * width * height))

    def __call__(self, path: Path) -> Tensor:
        """Return a photo, (3, height, width), uint8.

        Raises:
            UserError: it cannot be read.
        """
        photo = self.cache.get(path)
        if photo is None:
            try:
                photo = to_tensor(open_photo(path, *self.size)[0])
            except PhotoError as error:
                raise UserError(f"{path} is {error}. Run python prepare_dataset.py again.") from None
            if len(self.cache) < self.cache_limit:
                self.cache[path] = photo
        return photo


def to_tensor(photo: Image.Image) -> Tensor:
    """Return an RGB photo as (3, H, W), uint8."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)


def find_classes(data: Path) -> list[str]:
    """Return the grades of a dataset in the order of the Sheldon scale.

    Raises:
        UserError: there is no dataset, or it is not fit for training.
    """
    if not (data / "train").is_dir():
        raise UserError(f"no dataset in {data}: run python prepare_dataset.py first, or name it with --data.")
    classes = sorted((folder.name for folder in (data / "train").iterdir() if folder.is_dir()), key=scale_order)
    for grade in classes:
        if not find_photos(data / "train" / grade):
            raise UserError(f"{data / 'train' / grade} has no photos: run python prepare_dataset.py again.")
    if len(classes) < 2:
        raise UserError(f"{data} has fewer than 2 grades: add photos of others and run python prepare_dataset.py.")
    return classes


def find_split(folder: Path, classes: list[str]) -> Split:
    """Return the photos in <folder>/<grade>/; a small grade may have none in a split."""
    paths, counts = PathList(), []
    for grade_folder in (folder / grade for grade in classes):
        found = find_photos(grade_folder) if grade_folder.is_dir() else []
        paths.extend(found)
        counts.append(len(found))
    return Split(paths, torch.arange(len(classes)).repeat_interleave(torch.tensor(counts)))


def read_batches(
    split: Split, order: Tensor, batch_size: int, read: PhotoReader, pool: Executor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of photos (N, 3, H, W), uint8, and labels (N,), in this order; threads read the next ones."""
    paths = (split.paths[index] for indices in order.split(batch_size) for index in indices.tolist())
    photos = map_ahead(pool, read, paths, ahead=2 * batch_size)
    for indices in order.split(batch_size) if len(order) else []:
        yield torch.stack([next(photos) for _ in indices]), split.labels[indices]


def normalise(photos: Tensor) -> Tensor:
    """Turn photos (N, 3, H, W), 0 to 255 or already 0.0 to 1.0, into what the network takes."""
    photos = photos.float() / 255 if photos.dtype == torch.uint8 else photos
    mean, std = (torch.tensor(values, device=photos.device).view(3, 1, 1) for values in (MEAN, STD))
    return (photos - mean) / std


def augment(photos: Tensor, strength: str) -> Tensor:
    """Show the same coins as another photographer might have: turned, shifted, nearer, in other light.

    Each face, one half of the width, moves on its own; light and colour change alike for both.

    Args:
        photos: (N, 3, H, W), uint8.
        strength: a key of `AUGMENTATIONS`.

    Returns:
        (N, 3, H, W), float, 0 to 1.
    """
    photos = photos.float() / 255
    limits = AUGMENTATIONS[strength]
    if limits is None:
        return photos

    def uniform(*shape: int) -> Tensor:  # drawn on the CPU, so that every device sees the same photos
        return torch.empty(shape).uniform_(-1, 1).to(photos.device)

    count, _, height, width = photos.shape
    faces = photos.unflatten(3, (2, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1)
    angle = uniform(2 * count) * math.radians(limits["rotation"])
    zoom = 1 + uniform(2 * count) * limits["zoom"]
    shift = uniform(2 * count, 2) * 2 * limits["shift"]  # the grid goes from -1 to 1
    face_aspect = height / (width / 2)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = [cos, -sin * face_aspect, shift[:, 0], sin / face_aspect, cos, shift[:, 1]]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(faces.shape), align_corners=False)
    faces = F.grid_sample(faces, grid, padding_mode="border", align_corners=False)
    photos = faces.unflatten(0, (count, 2)).permute(0, 2, 3, 1, 4).flatten(3)

    brightness, contrast, saturation = 1 + uniform(3, count, 1, 1, 1) * limits["colour"]
    photos = photos * brightness
    grey = photos.mean(dim=1, keepdim=True)
    photos = grey + (photos - grey) * saturation
    middle = photos.mean(dim=(1, 2, 3), keepdim=True)
    return (middle + (photos - middle) * contrast).clamp(0, 1)
