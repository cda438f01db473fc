"""Coins that are photographed face by face: find the pairs of photos, cut each coin out, and join its faces.

    ms65/obverse/12345678.jpg, ms65/reverse/12345678.jpg -> one photo, obverse left, that shows nothing but the coin

Every script opens coins here, so that the model always sees the same pixels.
"""

import csv
import filecmp
import math
import os
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from coinkit.cli import UserError, printable
from coinkit.coin_finder import MARGIN, SURE, Circle, CoinNotFound, cut_out, find_coin, join_faces
from coinkit.files import composed
from coinkit.manifest import Photo
from coinkit.photos import (
    FACE_FOLDERS,
    ONE_FACE,
    TURNED,
    PhotoError,
    as_photo_error,
    certificate_numbers,
    describe_shape,
    fit,
    open_photo,
    open_whole,
    photo_notes,
)
from coinkit.tables import table_reader

CIRCLES = "circles.csv"  # in a folder above the photos: circles that count instead of those that are found

# A photo is searched in the same copy whatever size is asked for, so that the same circles are found. In a copy of this
# size, a coin fills a half of 1024x512 if it is a quarter as wide as the photo.
LEAST_SIDE = 2048  # of the copy, in pixels, if the photo has them

# Faces are cut out at no less than the usual size of prepared photos, and then shrunk like those, so that a pair and
# its prepared photo look the same to a small network.
CUT_SIDE = 512

# A word in the name of a photo that may tell its face, as in 1_obv.jpg, "coin front 1.jpg" or rev1.jpg; and a letter at
# the end, if the other photo has one as well, since it may be a mint mark: 1_o.jpg and 1_r.jpg.
_WORDS = {"obverse": "obverse|obv|front|heads", "reverse": "reverse|rev|back|tails"}
FACE_WORDS = {face: re.compile(rf"(?<![^\W\d_])(?:{words})(?![^\W\d_])[\W_]*") for face, words in _WORDS.items()}
FACE_LETTERS = {face: re.compile(rf"[\W_]+{face[0]}[\W_]*$") for face in _WORDS}
MAX_NAMED = 5  # photos whose names are too alike


class Faces(NamedTuple):
    """Where the faces of a coin are that are to be cut out: in two photos, or in the halves of one."""

    obverse: Path
    reverse: Path | None = None  # None: both are in `obverse`
    # Where the coin is known to be, in pixels of the file: in either photo; or anywhere in the one, the surest first
    circles: tuple[Circle | None, ...] = (None, None)

    def __str__(self) -> str:
        return f"{self.obverse} + {self.reverse}" if self.reverse else str(self.obverse)


class OpenedCoin(NamedTuple):
    """Both faces of a coin in one photo."""

    photo: Image.Image  # RGB, of the size that was asked for
    original_size: tuple[int, int]  # width and height of the file; of cut faces, those of the two side by side
    circles: tuple[Circle, ...] = ()  # where the faces were cut out, in pixels of their files

    @property
    def notes(self) -> list[str]:
        """What is unusual about it; it can still be used."""
        unsure = [face for face, circle in zip(FACE_FOLDERS, self.circles, strict=False) if circle.certainty < SURE]
        notes = [f"check how the coin was cut out ({', '.join(unsure)})"] if unsure else []
        return photo_notes(self.photo, self.original_size) + notes


def open_coin(source: Path | Faces, width: int, height: int) -> OpenedCoin:
    """Open a photo of both faces of a coin, or cut them out and join them.

    Args:
        source: a photo that is used as it is, or the faces to cut out.
        width, height: requested size in pixels.

    Raises:
        PhotoError: a file is no photo, is damaged or exceeds a limit, or no coin is found in it.
    """
    if isinstance(source, Path):
        return OpenedCoin(*open_photo(source, width, height))
    faces, known, shape = _open_faces(source), source.circles, ""
    if not source.reverse:
        shape = describe_shape(faces[1].left + faces[1].photo.width, faces[1].photo.height)
        middle = faces[1].left / faces[1].scale
        known = [next((c for c in known if c and (c.x >= middle) == is_right), None) for is_right in (False, True)]
    side = max(height, CUT_SIDE)
    cut, circles = [], []
    for name, face, circle in zip(FACE_FOLDERS, faces, known, strict=True):
        with _named(name, shape):
            circle = face.from_file(circle) if circle else find_coin(face.photo)
            right, bottom = face.photo.size
            if not (0 <= circle.x <= right and 0 <= circle.y <= bottom and circle.radius <= max(right, bottom)):
                raise PhotoError(f"the circle in {CIRCLES} is not within the photo")
            cut.append(cut_out(face.photo, circle, side))
            circles.append(face.to_file(circle))
    photo = fit(join_faces(*cut, side), width, height)
    diameter = round(2 * min(circle.radius for circle in circles) * (1 + MARGIN))
    return OpenedCoin(photo, (2 * diameter, diameter), tuple(circles))


class _Face(NamedTuple):
    """A photo of one face, shrunk and perhaps the half of a file, with the scale and the left edge of the half."""

    photo: Image.Image
    scale: float
    left: int = 0

    def from_file(self, circle: Circle) -> Circle:
        """Return a circle in pixels of this photo, from pixels of the file."""
        x, y, radius, certainty = circle
        return Circle(x * self.scale - self.left, y * self.scale, radius * self.scale, certainty)

    def to_file(self, circle: Circle) -> Circle:
        """Return a circle in pixels of the file, from pixels of this photo."""
        x, y, radius, certainty = circle
        return Circle((x + self.left) / self.scale, y / self.scale, radius / self.scale, certainty)


def _open_faces(source: Faces) -> list[_Face]:
    """Return the photos of the obverse and of the reverse."""
    if source.reverse:
        faces = []
        for name, path in zip(FACE_FOLDERS, (source.obverse, source.reverse), strict=True):
            with _named(name):
                photo, (width, _) = open_whole(path, LEAST_SIDE, LEAST_SIDE)
                faces.append(_Face(photo, photo.width / width))
        with as_photo_error():
            if filecmp.cmp(source.obverse, source.reverse, shallow=False):
                raise PhotoError("the same picture is given for both faces")
        return faces
    photo, (width, _) = open_whole(source.obverse, LEAST_SIDE, LEAST_SIDE)
    middle = photo.width // 2
    edges = ((0, middle), (middle, photo.width))
    return [_Face(photo.crop((left, 0, right, photo.height)), photo.width / width, left) for left, right in edges]


@contextmanager
def _named(face: str, shape: str = "") -> Iterator[None]:
    """Turn whatever goes wrong with the photo of a face into a PhotoError that names the face.

    Args:
        face: "obverse" or "reverse".
        shape: of the photo, as `describe_shape` returns it, if it should show both faces.
    """
    with as_photo_error():
        try:
            yield
        except CoinNotFound as error:
            advice = shape if shape in (ONE_FACE, TURNED) else f"{CIRCLES} can tell where the coin is"
            raise PhotoError(f"{face}: {error} ({advice})") from None
        except PhotoError as error:
            raise type(error)(f"{face}: {error}") from None


# ---------------------------------------------------------------- finding the photos


def find_coins(
    paths: Collection[Path], cut: bool = False, pairs: Iterable[tuple[Path, Path]] = ()
) -> tuple[list[Path | Faces], dict[Path, str]]:
    """Join photos in folders named obverse and reverse to pairs.

    The two photos of a coin have the same name, but for a word for the face at its start or end, or the same
    certificate number.

    Args:
        paths: of photos; those in other folders show both faces.
        cut: cut the faces out of those, too.
        pairs: of more photos, of the obverse and the reverse of a coin, whatever their names.

    Returns:
        The coins, in the order of the paths and pairs, with their circles in the circles.csv of the folders above
        them; and the photos without a partner, with the reason.

    Raises:
        UserError: circles.csv has a mistake.
    """
    by_folder = defaultdict(list)
    for path in paths:
        if _shows_one_face(path):
            by_folder[_folder(path).parent].append(path)
    reverse_of, alone = {}, {}
    for photos in by_folder.values():
        joined, others = _join_namesakes(photos)
        reverse_of |= joined
        alone |= others

    read = cache(read_circles)

    def known(path: Path) -> list[Circle]:  # what the nearest circles.csv says comes last
        folders, key = reversed(Path(os.path.abspath(path)).parents), _key(path)
        return [circle for folder in folders for circle in read(folder).get(key, [])]

    def faces(*pair: Path) -> Faces:
        return Faces(*pair, tuple((None, *known(photo))[-1] for photo in pair))

    coins = []
    for path in paths:
        if path in reverse_of:
            coins.append(faces(path, reverse_of[path]))
        elif not _shows_one_face(path):
            coins.append(Faces(path, None, (*reversed(known(path)), None, None)) if cut else path)
    return coins + [faces(*pair) for pair in pairs], alone


def _shows_one_face(path: Path) -> bool:
    return _face(path) in FACE_FOLDERS


def _face(path: Path) -> str:
    return _folder(path).name.lower()


def _folder(path: Path) -> Path:
    return Path(os.path.abspath(path)).parent  # which of "1.jpg" may be obverse, too


def _join_namesakes(photos: list[Path]) -> tuple[dict[Path, Path], dict[Path, str]]:
    """Join the photos of one face to pairs: those of which one of each face, and no other, has the same name.

    Returns:
        The reverse of each obverse; and the photos without a partner, with the reason.
    """
    pairs, alone = {}, {}
    both = len(set(map(_face, photos))) == 2
    for path in photos:
        other = FACE_FOLDERS[1 - FACE_FOLDERS.index(_face(path))]
        no_namesake = f"no photo of its {other} among these has the same name: give both the same name"
        alone[path] = no_namesake if both else f"its {other} is missing: no photo in a folder {other} was given"
    for name_of in (_name, _name_without_word, _name_without_letter, _numbers):
        by_name = defaultdict(list)
        for path in alone:
            by_name[name_of(path)].append(path)
        for name, namesakes in by_name.items():
            if not name or len(set(map(_face, namesakes))) == 1:
                continue
            if len(namesakes) == 2:
                obverse, reverse = sorted(namesakes, key=_face)
                pairs[obverse] = reverse
                del alone[obverse], alone[reverse]
            else:
                names = [f"{path.parent.name}/{path.name}" for path in namesakes]
                listed = ", ".join(names[:MAX_NAMED] + ["..."] * (len(names) > MAX_NAMED))
                alone |= dict.fromkeys(namesakes, f"several photos have its name or number: {listed}")
    return pairs, alone


def _name(path: Path) -> str:
    return composed(path.stem).lower()


def _name_without_word(path: Path) -> str:
    without, count = FACE_WORDS[_face(path)].subn("", _name(path))
    return re.sub(r"[\W_]+$", "", without) or "-" * count  # of obverse.jpg, nothing is left


def _name_without_letter(path: Path) -> str:
    without, count = FACE_LETTERS[_face(path)].subn("", _name(path))
    return without if count else ""


def _numbers(path: Path) -> str:
    return " ".join(certificate_numbers(path))


def first_file(source: Path | Faces) -> Path:
    """Return the file that a coin is named after."""
    return files_of(source)[0]


def files_of(source: Path | Faces) -> list[Path]:
    """Return the photos of a coin: one, or one of each face."""
    return [source.obverse, *filter(None, [source.reverse])] if isinstance(source, Faces) else [source]


def read_circles(folder: Path) -> dict[str, list[Circle]]:
    """Return the circles in <folder>/circles.csv by the `_key` of each photo; none if there is no such file.

    Its columns are file (relative to the folder), x, y and radius, in pixels of the upright photo. A photo with both
    faces has two rows. A row for a photo that is gone is told on stderr and passed over.

    Raises:
        UserError: a row cannot be read.
    """
    circles = defaultdict(list)
    path = folder / CIRCLES
    if not path.is_file():
        return circles
    with table_reader(path) as rows:
        try:
            if not {"file", "x", "y", "radius"} <= {*rows.fieldnames}:
                raise KeyError
            for row in rows:
                name = row["file"].strip().replace("\\", "/")
                forms = (name, composed(name), unicodedata.normalize("NFD", name))
                is_there = any((folder / form).is_file() for form in forms)
                circle = Circle(*(float(row[name].replace(",", ".")) for name in ("x", "y", "radius")), certainty=1)
                if not (circle.radius > 0 and all(map(math.isfinite, circle))):
                    raise ValueError
                if is_there:
                    circles[_key(folder / name)].append(circle)
                else:
                    missing = printable(folder / name)
                    print(f"{path}, line {rows.line_num + 1}: ignored, no file {missing}", file=sys.stderr)
        except (KeyError, AttributeError, ValueError, csv.Error):
            raise UserError(
                f"{path}, line {rows.line_num + 1}: write the name of a photo and three numbers, as in the first line: "
                "file,x,y,radius"
            ) from None
    return circles


def _key(path: Path) -> str:
    """Return the same for all names that the system takes for one file."""
    name = composed(os.path.normcase(os.path.abspath(path)))
    return name.lower() if sys.platform == "darwin" else name


# ---------------------------------------------------------------- faces in the manifest


def format_circles(circles: Iterable[Circle | None]) -> str:
    """Return circles as text: x, y, radius and certainty of each; "?" for one that is to be found."""
    return "; ".join("{:.1f} {:.1f} {:.1f} {:.3f}".format(*circle) if circle else "?" for circle in circles)


def source_of(photo: Photo) -> Path | Faces:
    """Return what a row of the manifest was prepared from, or is to be."""
    if not photo.circles:
        return Path(photo.source)
    circles = [None if text == "?" else Circle(*map(float, text.split())) for text in photo.circles.split("; ")]
    return Faces(Path(photo.source), Path(photo.reverse) if photo.reverse else None, tuple(circles))
