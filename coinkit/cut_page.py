"""cut_coins.html in a dataset's folder: a page with the coins that were cut out, to check them in a minute."""

import csv
import io
import os
from contextlib import suppress
from pathlib import Path

from coinkit.coin_finder import SURE
from coinkit.faces import CIRCLES, source_of
from coinkit.manifest import Photo, usable
from coinkit.pages import data_uri, encode_picture, write_page
from coinkit.photos import FACE_FOLDERS, PhotoError, open_photo

CUT_PAGE = "cut_coins.html"
THUMBNAIL = (320, 160)  # pixels
MAX_SHOWN = 1000  # coins; each takes about 20 kB


def write_cut_page(dataset: Path, photos: list[Photo], source: Path) -> None:
    """Write the page, with the least sure coins first, unless no coin was cut out.

    Args:
        dataset: folder of the prepared photos.
        photos: the rows of its manifest.
        source: folder of the source photos, in which circles.csv may lie.
    """
    cut = sorted((photo for photo in usable(photos) if photo.circles), key=certainty)
    if not cut:
        return
    coins = []
    for photo in cut[:MAX_SHOWN]:
        with suppress(PhotoError):  # the prepared photo is damaged; training names it
            picture = thumbnail(dataset / photo.output)
            coins.append({"picture": picture, "name": photo.output, "faces": describe_faces(photo, source)})
    write_page(CUT_PAGE, dataset / CUT_PAGE, coins=coins, count=len(cut), sure=SURE, circles=source / CIRCLES)


def certainty(photo: Photo) -> float:
    """Return the certainty of the circle, of the two, that is less sure."""
    return min(circle.certainty for circle in source_of(photo).circles)


def describe_faces(photo: Photo, source: Path) -> list[dict]:
    """Return for each face its name, how certain its circle is, and the row of circles.csv that would give it."""
    faces, described = source_of(photo), []
    files = faces.obverse, faces.reverse or faces.obverse
    for name, path, circle in zip(FACE_FOLDERS, files, faces.circles, strict=True):
        row, file = io.StringIO(), Path(os.path.relpath(path, source)).as_posix()
        csv.writer(row).writerow([file, *(f"{number:.0f}" for number in (circle.x, circle.y, circle.radius))])
        described.append({"name": name, "certainty": circle.certainty, "row": row.getvalue().strip()})
    return described


def thumbnail(path: Path) -> str:
    """Return a small picture of a prepared photo as a data: URI, which embeds it in the page."""
    return data_uri(encode_picture(open_photo(path, *THUMBNAIL)[0], "jpeg", quality=85), "jpeg")
