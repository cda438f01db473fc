"""Find and open photos. Every script opens photos here, so that the model always sees the same pixels.

`open_photo` returns a photo upright, in RGB and at the requested size. JPEG files are shrunk while they are decoded: an
18-megapixel photo is never decoded at full size to become 1024x512.
"""

import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, ImageStat, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

PHOTO_FOLDER = "6000x3000"  # the folder of a grade's photos; other folders are not used
DATASET = Path("coin_dataset")  # made by prepare_dataset.py
SPLITS = ("train", "val", "test")  # folders of the dataset

# Files with these extensions count as photos. HEIC cannot be read, but is listed so that the user is told.
SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif"}
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")

# A small file can demand any amount of memory and time. Within these limits, no photo takes more than 1 GB or 5 s.
MAX_PIXELS = 40_000_000  # twice the usual 6000x3000
MAX_BYTES = 4 * MAX_PIXELS  # size of that many pixels without compression
MAX_SCANS = 50  # of a progressive JPEG; each scan decodes all pixels again, and encoders write about 10
SCAN_START = re.compile(rb"\xff\xda\0[\x06\x08\x0a\x0c\x0e]")  # marker and length, so that pixel data never matches

DECODE_MARGIN = 1.4  # JPEG decoding shrinks to at least this many times the requested size; bicubic does the rest
STRETCH_LIMIT = 0.05  # photos are stretched if their aspect ratio is off by up to this share, or else padded

# When a photo gets a note.
ASPECT_RATIO = 2  # usual width / height
ASPECT_RATIO_TOLERANCE = 0.1  # as a share
BLANK_BELOW = 8  # standard deviation of each colour, 0 to 255; real coins have 20 or more

Image.MAX_IMAGE_PIXELS = None  # our limit raises an error, Pillow's only warns
warnings.filterwarnings("ignore", module="PIL")  # the reason of a PhotoError says it once


class PhotoError(Exception):
    """A photo that cannot be used. The message is a short reason."""


def is_photo_name(path: Path) -> bool:
    """Tell whether a file has the extension of a photo and is not hidden ("._1.jpg")."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def find_photos(folder: Path, recursive: bool = False) -> list[Path]:
    """Return the photos in a folder (and, if recursive, in its subfolders), sorted."""
    return sorted(filter(is_photo_name, folder.rglob("*") if recursive else folder.iterdir()))


def open_photo(path: Path, width: int, height: int) -> tuple[Image.Image, tuple[int, int]]:
    """Open a photo, decode all of it, and fit it to a size.

    Args:
        path: a JPEG, PNG, WebP, TIFF or BMP file in any colour mode.
        width, height: requested size in pixels.

    Returns:
        The photo in RGB, upright by its EXIF orientation, of `width` x `height` pixels; and its original (width,
        height), also upright.

    Raises:
        PhotoError: the file is no photo, is damaged, or exceeds `MAX_PIXELS`, `MAX_BYTES` or `MAX_SCANS`.
    """
    try:
        if not path.is_file():
            raise PhotoError(
                "no photo in this folder" if path.is_dir() else "not a file" if path.exists() else "no such file"
            )
        if path.stat().st_size > MAX_BYTES:
            raise PhotoError(f"too large: {path.stat().st_size / 1e6:.0f} MB")
        with Image.open(path, formats=FORMATS) as photo:
            if photo.width * photo.height > MAX_PIXELS:
                raise PhotoError(f"too large: {photo.width}x{photo.height} pixels")
            scans = len(SCAN_START.findall(path.read_bytes())) if isinstance(photo, JpegImageFile) else 1
            if scans > MAX_SCANS:
                raise PhotoError(f"a JPEG with more than {MAX_SCANS} scans")
            on_its_side = _orientation(photo) >= 5
            original_size = photo.size[::-1] if on_its_side else photo.size
            least_size = (round(DECODE_MARGIN * width), round(DECODE_MARGIN * height))
            photo.draft(None, least_size[::-1] if on_its_side else least_size)
            photo.load()
            upright = ImageOps.exif_transpose(photo) if _orientation(photo) > 1 else photo
            return _fit(_to_rgb(upright), width, height), original_size
    except PhotoError:
        raise
    except UnidentifiedImageError:
        raise PhotoError("not a JPEG, PNG, WebP, TIFF or BMP photo: convert it to one") from None
    except Exception as error:  # a decoder may raise anything when a file is damaged
        if isinstance(error, OSError) and error.errno:
            raise PhotoError(f"cannot be read: {error.strerror}") from error
        raise PhotoError(f"damaged: {' '.join(str(error).split()) or type(error).__name__}") from error


def photo_notes(photo: Image.Image, original_size: tuple[int, int]) -> list[str]:
    """Return what is unusual about a photo; it can still be used. Takes what `open_photo` returns."""
    width, height = original_size
    tests = {
        "not 2:1": abs(width / height / ASPECT_RATIO - 1) > ASPECT_RATIO_TOLERANCE,
        "blank": max(ImageStat.Stat(photo).stddev) < BLANK_BELOW,
    }
    return [note for note, applies in tests.items() if applies]


def prefetch(pool: Executor, function: Callable, items: Iterable, ahead: int) -> Iterator[Any]:
    """Yield function(item) for each item, in order, while a pool works on the next items, at most `ahead` of them."""
    pending = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _orientation(photo: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; from 5 on, the pixels lie on their side."""
    try:
        return int(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels may be fine even if the EXIF data is damaged
        return 1


def _to_rgb(photo: Image.Image) -> Image.Image:
    """Return a photo of any colour mode in RGB."""
    if photo.mode.startswith("I"):  # 16-bit integers, which Pillow would clip at 255
        photo = Image.fromarray((np.clip(np.asarray(photo), 0, 65535) // 256).astype(np.uint8))
    if photo.has_transparency_data:  # a cut-out coin gets a white background
        photo, cut_out = Image.new("RGB", photo.size, "white"), photo.convert("RGBA")
        photo.paste(cut_out, mask=cut_out)
        return photo
    return photo if photo.mode == "RGB" else photo.convert("RGB")


def _fit(photo: Image.Image, width: int, height: int) -> Image.Image:
    """Return a photo resized to a size, padded with the colour of its border if its aspect ratio is another one."""
    distortion = (photo.width / photo.height) / (width / height)
    if abs(distortion - 1) <= STRETCH_LIMIT:
        return photo.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(photo)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = tuple(int(value) for value in np.median(border, axis=0))
    return ImageOps.pad(photo, (width, height), Image.Resampling.BICUBIC, color=colour)
