"""manifest.csv in a dataset's folder: one row for each source photo, and what became of it."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import IO

from coinkit.cli import UserError

MISSING = "no longer there"  # the reason of a photo that was in the dataset, and whose file is gone


@dataclass(slots=True)
class Photo:
    """A row of manifest.csv; the fields are its columns.

    A new column is a new field here, of type str, int or float. Rows written before it get its default.
    """

    source: str  # path of the source photo
    grade: str
    split: str = ""  # a photo that is left out keeps the split it had, in case it can be used again
    output: str = ""  # path in the dataset's folder; empty if left out
    width: int = 0  # of the upright source photo, in pixels; 0 if it could not be read
    height: int = 0
    digest: str = ""  # SHA-256 of the source file
    group: str = ""  # the same for all photos of one coin
    reason: str = ""  # why the photo was left out; empty if it is used
    note: str = ""  # what is unusual about a photo that is used
    perceptual_hash: str = ""
    file_bytes: int = 0  # size and modification time of the source file tell whether it has changed
    modified_ns: int = 0
    preparation: str = ""  # the settings that the prepared photo was made with


COLUMNS = {field.name: field.type for field in fields(Photo)}
_get_values = attrgetter(*COLUMNS)


def usable(photos: Iterable[Photo]) -> list[Photo]:
    """Return the photos that are not left out."""
    return [photo for photo in photos if not photo.reason]


def usable_or_missing(photos: Iterable[Photo]) -> list[Photo]:
    """Return the photos that new ones are compared with: a missing photo may come back to its split."""
    return [photo for photo in photos if photo.reason in ("", MISSING)]


def read_manifest(folder: Path) -> list[Photo]:
    """Return the rows of manifest.csv in `folder`, none if there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    if not (folder / "manifest.csv").is_file():
        return []
    with _open_manifest(folder, "r") as file:
        try:
            return [
                Photo(**{name: kind(row[name]) for name, kind in COLUMNS.items() if name in row})
                for row in csv.DictReader(file)
            ]
        except (TypeError, ValueError):
            raise UserError(f"{folder / 'manifest.csv'} is damaged: move {folder} away and run this again.") from None


def write_manifest(folder: Path, photos: Iterable[Photo]) -> None:
    """Write manifest.csv."""
    with _open_manifest(folder, "w") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(map(_get_values, photos))


def append_to_manifest(folder: Path, photo: Photo) -> None:
    """Add a row to manifest.csv. It is in the file on return, even if this process is killed right after."""
    with _open_manifest(folder, "a") as file:
        csv.writer(file).writerow(_get_values(photo))


def _open_manifest(folder: Path, mode: str) -> IO[str]:
    """Open manifest.csv so that file names that are not valid Unicode can be written and read back."""
    return (folder / "manifest.csv").open(mode, newline="", encoding="utf-8", errors="surrogateescape")
