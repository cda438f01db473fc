"""Know the photos that a network was trained on: by their content, wherever they lie and whatever their name.

A checkpoint holds the start of the SHA-256 of each training photo's file, and of the source file that it was prepared
from, as manifest.csv has it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from coinkit.cli import UserError, usable_cores
from coinkit.faces import Faces, first_file
from coinkit.files import composed
from coinkit.manifest import Photo, read_manifest
from coinkit.photos import PhotoError, prefetch, read_photo_file


def training_rows(dataset: Path) -> list[Photo]:
    """Return the rows of the training photos in a dataset's manifest.csv; none if there is no such file."""
    return [photo for photo in manifest_rows(dataset) if photo.split == "train" and photo.output]


def training_digests(digests: Sequence[int | None], rows: list[Photo]) -> Tensor:
    """Return the digests of training photos and of their sources, sorted, each once: (N,), int64.

    Args:
        digests: of the training photos, as `file_digests` returns them.
        rows: as `training_rows` returns them, for the sources.
    """
    sources = [int64(photo.digest) for photo in rows]
    files = [digest for digest in digests if digest is not None]
    return torch.tensor(sources + files, dtype=torch.long).unique()


def were_cut_out(rows: list[Photo]) -> bool | None:
    """Return whether prepare_dataset.py has cut out the coins of the training photos; None if only some, or unknown.

    Takes what `training_rows` returns.
    """
    answers = {bool(photo.circles) for photo in rows if photo.digest}
    return answers.pop() if len(answers) == 1 else None


def merge_digests(digests: Tensor, checkpoint: dict) -> Tensor:
    """Return digests with those that a checkpoint has; older ones have none."""
    more = checkpoint.get("training_photos")
    is_list = isinstance(more, Tensor) and more.dtype == torch.long and more.dim() == 1
    return torch.cat([digests, more]).unique() if is_list else digests


def find_in_training(paths: Sequence[Path | Faces], rows: dict[Path, Photo], checkpoints: Iterable[dict]) -> np.ndarray:
    """Return whether one of the networks of these checkpoints was trained on a photo or on its source, (N,), bool.

    Args:
        paths: of the photos, or the faces to cut out.
        rows: theirs, as `dataset_rows` returns them.
        checkpoints: of the networks.
    """
    digests = torch.empty(0, dtype=torch.long)
    for checkpoint in checkpoints:
        digests = merge_digests(digests, checkpoint)
    known = set(digests.tolist())
    if not known:  # then the files need not be read
        return np.zeros(len(paths), dtype=bool)
    sources = [int64(rows[path].digest) if path in rows and rows[path].digest else None for path in paths]
    files = file_digests(list(map(first_file, paths)))
    return np.array([not known.isdisjoint(digests) for digests in zip(files, sources, strict=True)], dtype=bool)


def count_coins(paths: Sequence[Path | Faces], rows: dict[Path, Photo]) -> int:
    """Return how many coins photos show, by their rows, as `dataset_rows` returns them."""
    return len({rows[path].group if path in rows and rows[path].group else path for path in paths})


def find_sources(paths: Sequence[Path | Faces]) -> dict[Path, Path]:
    """Return the source of each photo of a dataset, <dataset>/<split>/<grade>/<name>, if it is still there."""
    sources = {path: Path(photo.source) for path, photo in dataset_rows(paths).items()}
    return {path: source for path, source in sources.items() if source.is_file()}


def dataset_rows(paths: Sequence[Path | Faces]) -> dict[Path, Photo]:
    """Return the manifest's row of each photo of a dataset, <dataset>/<split>/<grade>/<name>, that has one."""
    path_of = {composed(str(path)): path for path in paths if isinstance(path, Path)}
    datasets = {path.parents[2] for path in path_of.values() if len(path.parents) > 2}
    rows = ((composed(str(folder / photo.output)), photo) for folder in datasets for photo in manifest_rows(folder))
    return {path_of[name]: photo for name, photo in rows if name in path_of}


def manifest_rows(dataset: Path) -> list[Photo]:
    """Return the rows of manifest.csv; none if it is damaged, since it is only asked for more than is needed."""
    try:
        return read_manifest(dataset)
    except (UserError, OSError):
        return []


def file_digests(paths: Sequence[Path]) -> list[int | None]:
    """Return the digest of each file; None for one that cannot be read."""
    cores = usable_cores()
    with ThreadPoolExecutor(cores) as pool:
        digests = prefetch(pool, file_digest, paths, ahead=8 * cores)
        return list(tqdm(digests, "Checking photos", len(paths), unit="photo", leave=False, disable=None))


def file_digest(path: Path) -> int | None:
    """Return the start of the SHA-256 of a photo's file as a number, or None if it cannot be read."""
    try:
        return int64(hashlib.sha256(read_photo_file(path)).hexdigest())
    except PhotoError:
        return None


def int64(digest: str) -> int:
    """Return the first 8 bytes of a digest, given in hexadecimal digits, as a signed number."""
    return int.from_bytes(bytes.fromhex(digest[:16]), "big", signed=True)
