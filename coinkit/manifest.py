"""manifest.csv in a dataset's folder: one row for each source photo, and what became of it.

A hidden copy of it has the splits of the photos whose rows a spreadsheet has lost or spoilt.
"""

import csv
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import IO

from coinkit.cli import UserError
from coinkit.photos import SPLITS
from coinkit.tables import AS_THEY_ARE, OPEN_OPTIONS, table_reader

MANIFEST, COPY = "manifest.csv", ".manifest.csv"

# Reasons to leave out a photo that may be used again, with the split that it had.
MISSING = "no longer there"  # it was in the dataset, and its file is gone
NOT_CHOSEN = "its grade is not used (--grades, --classes)"

FULL_SIZE = ("link", "copy")  # a photo's `preparation`, if its file is kept as it is


@dataclass(slots=True)
class Photo:
    """A row of manifest.csv; the fields are its columns.

    A new column is a new field here, of type str or int. Rows written before it get its default.
    """

    source: str  # path of the source photo
    grade: str  # its class
    split: str = ""  # a photo that is left out keeps the split it had, in case it can be used again
    output: str = ""  # path in the dataset's folder; empty if left out
    output_bytes: int = 0  # size of the prepared photo, which tells whether it is damaged; 0 if that is not known
    width: int = 0  # of the upright source photo, or of its cut faces side by side, in pixels; 0 if it was not read
    height: int = 0
    digest: str = ""  # SHA-256 of the source file; with a photo of the reverse, that of both, one after the other
    group: str = ""  # the same for all photos of one coin
    match: str = ""  # how the photo came into its group
    reason: str = ""  # why the photo was left out; empty if it is used
    note: str = ""  # what is unusual about a photo that is used
    perceptual_hash: str = ""
    other_hashes: str = ""  # see coinkit.near_duplicates.other_hashes
    file_bytes: int = 0  # size and modification time of the source file tell whether it has changed
    modified_ns: int = 0
    preparation: str = ""  # the settings that the prepared photo was made with
    reverse: str = ""  # path of the photo of the reverse, if it is one of its own; `source` then shows the obverse
    reverse_bytes: int = 0
    reverse_modified_ns: int = 0
    circles: str = ""  # where the faces were cut out: see coinkit.faces.format_circles; empty if they were not
    source_grade: str = ""  # the grade of its folder; `grade` differs if --classes has joined it to others


COLUMNS = {field.name: field.type for field in fields(Photo)}
NUMBERS = [name for name, kind in COLUMNS.items() if kind is int]
CIRCLE = r"(?:\?|-?\d+\.\d+(?: -?\d+\.\d+){3})"  # see coinkit.faces.format_circles
CIRCLES_CELL = re.compile(f"(?:{CIRCLE}(?:; {CIRCLE})+)?")
HEX_DIGITS = re.compile("(?:[0-9a-f]{64}){0,3}")  # a SHA-256 digest, perceptual hashes
_get_values = attrgetter(*COLUMNS)


def usable(photos: Iterable[Photo]) -> list[Photo]:
    """Return the photos that are not left out."""
    return [photo for photo in photos if not photo.reason]


def usable_now_or_later(photos: Iterable[Photo]) -> list[Photo]:
    """Return the photos that new ones are compared with: a photo that was read once may come back to its split."""
    return [photo for photo in photos if not photo.reason or (photo.reason in (MISSING, NOT_CHOSEN) and photo.width)]


def read_manifest(folder: Path) -> list[Photo]:
    """Return the rows of manifest.csv in `folder`, and those that only its copy has; none if there is no such file.

    A spreadsheet may have saved the file, with other separators and numbers. A number that it has rounded matches no
    photo, so that the photo is read again; it keeps its split.

    Raises:
        UserError: the file is damaged, and so is its copy, or there is none.
    """
    kept = _read_rows(folder / COPY) if (folder / COPY).is_file() else []
    try:
        rows = _read_rows(folder / MANIFEST) if (folder / MANIFEST).is_file() else []
    except UserError:
        if not kept:
            raise
        rows = []
    sources = {row.source for row in rows}
    return rows + [row for row in kept if row.source not in sources]


def _read_rows(path: Path) -> list[Photo]:
    with table_reader(path, AS_THEY_ARE) as rows:
        try:
            return [_parse_row(row) for row in rows]
        except (TypeError, ValueError, csv.Error) as error:
            raise UserError(
                f"{path} is damaged near line {rows.line_num + 1} ({error}): put a backup of it there. Without one, "
                f"move {path.parent} away; all photos are then split anew."
            ) from None


def read_interrupted(folder: Path) -> list[Photo]:
    """Return the rows that an interrupted run has added to manifest.csv, up to one that a crash of the computer cut."""
    photos = []
    path = folder / MANIFEST
    if path.is_file():
        with suppress(TypeError, ValueError, csv.Error, UserError), table_reader(path, AS_THEY_ARE) as rows:
            for row in rows:
                photos.append(_parse_row(row))
    return photos


def _parse_row(row: dict[str, str]) -> Photo:
    """Return a row of the manifest, from text."""
    known = {name: row[name] for name in COLUMNS if row.get(name) is not None}
    photo = Photo(**known | {name: _parse_number(known[name]) for name in NUMBERS if name in known})
    photo.split = photo.split or photo.output.partition("/")[0]
    if not photo.source or photo.split not in ("", *SPLITS):
        raise ValueError(f"source {photo.source!r}, split {photo.split!r}")
    hexadecimal = all(map(HEX_DIGITS.fullmatch, (photo.digest, photo.perceptual_hash, photo.other_hashes)))
    if not (hexadecimal and photo.digest and photo.perceptual_hash and CIRCLES_CELL.fullmatch(photo.circles)):
        photo.digest = photo.perceptual_hash = photo.other_hashes = ""
        photo.width = photo.height = 0
        photo.circles = ""
    return photo


def _parse_number(text: str) -> int:
    """Return a whole number, or 0, as if unknown, if a spreadsheet has written it in its own way ("1.70671E+18").

    Raises:
        ValueError: it is no number.
    """
    try:
        return int(text or 0)
    except ValueError:
        if re.fullmatch(r"[-\d.,\s']+(E\+?\d+)?|#+", text, re.IGNORECASE):
            return 0
        raise


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
    return (folder / MANIFEST).open(mode, encoding="utf-8", **OPEN_OPTIONS)
