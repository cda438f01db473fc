"""The one way to see a photo: every script opens its photos here, so that the model is always shown the same thing.

A photo comes out upright, RGB and of the size asked for. The JPEG decoder does most of the shrinking itself: an
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
from PIL import ExifTags, Image, ImageOps, ImageStat, JpegImagePlugin, UnidentifiedImageError

PHOTO_FOLDER = "6000x3000"  # of the folders in the folder of a grade, the one that is used
DATASET = Path("coin_dataset")  # what prepare_dataset.py makes of them
SPLITS = ("train", "val", "test")  # its folders

# What counts as a photo in a folder. HEIC cannot be read, but is named so that no photo is passed over in silence.
SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif"}
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")

# A small file can ask for any memory and time. Within these limits no format takes a worker above 1 GB or 5 s.
MAX_PIXELS = 40_000_000  # twice the usual 6000x3000; Pillow's own limit warns instead of refusing
MAX_BYTES = 4 * MAX_PIXELS  # as much as so many pixels take without compression
MAX_SCANS = 50  # of a progressive JPEG, each of which goes over all its pixels; encoders write about 10
SCAN = re.compile(rb"\xff\xda\0[\x06\x08\x0a\x0c\x0e]")  # where one starts, with its length: so none is by chance
ASPECT_TOLERANCE = 0.05  # a photo further off the wanted shape than this is padded; nearer, stretching does not show
ASPECT, FAR_OFF = 2, 0.1  # width / height of a coin photo, and the share by which it may be off without a note
BLANK = 8  # standard deviation of each colour, 0 to 255, below which there is a note; photos of real coins have 20
DECODE_MARGIN = 1.4  # the decoder shrinks to no less than this times the wanted size; a better filter does the rest

Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module="PIL")  # what is wrong with a photo is told once, as the reason


class PhotoError(Exception):
    """A photo that cannot be used. The message is the reason, short enough for a table."""


def is_photo_name(path: Path) -> bool:
    """Tell whether a file is named like a photo, and not hidden ("._1.jpg")."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def find_photos(folder: Path, recursive: bool = False) -> list[Path]:
    """Return what is named like a photo in a folder (and below it), sorted."""
    return sorted(filter(is_photo_name, folder.rglob("*") if recursive else folder.iterdir()))


def open_photo(path: Path, width: int, height: int) -> tuple[Image.Image, tuple[int, int]]:
    """Open a photo, decode it to its last byte, and fit it to a size.

    Args:
        path: a JPEG, PNG, WebP, TIFF or BMP file, of any colour mode.
        width, height: the size wanted, in pixels.

    Returns:
        The photo, RGB, upright by its EXIF, `width` x `height`; and the (width, height) it came with, upright.

    Raises:
        PhotoError: if it is not a photo, damaged, or beyond `MAX_PIXELS`, `MAX_BYTES` or `MAX_SCANS`.
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
            if isinstance(photo, JpegImagePlugin.JpegImageFile) and len(SCAN.findall(path.read_bytes())) > MAX_SCANS:
                raise PhotoError(f"a JPEG of more than {MAX_SCANS} scans")
            on_its_side = _orientation(photo) >= 5
            original_size = photo.size[::-1] if on_its_side else photo.size
            room = (round(DECODE_MARGIN * width), round(DECODE_MARGIN * height))
            photo.draft(None, room[::-1] if on_its_side else room)
            photo.load()
            upright = ImageOps.exif_transpose(photo) if _orientation(photo) > 1 else photo
            return _fit(_to_rgb(upright), width, height), original_size
    except PhotoError:
        raise
    except UnidentifiedImageError:
        raise PhotoError("not a JPEG, PNG, WebP, TIFF or BMP photo: convert it to one") from None
    except Exception as error:  # over a damaged file a decoder may raise anything
        if isinstance(error, OSError) and error.errno:
            raise PhotoError(f"cannot be read: {error.strerror}") from error
        raise PhotoError(f"damaged: {' '.join(str(error).split()) or type(error).__name__}") from error


def photo_notes(photo: Image.Image, original_size: tuple[int, int]) -> list[str]:
    """Return how a photo, as `open_photo` returns it, is unlike that of a coin; it can be used all the same."""
    width, height = original_size
    tests = {
        "not 2:1": abs(width / height / ASPECT - 1) > FAR_OFF,
        "blank": max(ImageStat.Stat(photo).stddev) < BLANK,
    }
    return [note for note, is_so in tests.items() if is_so]


def prefetch(pool: Executor, function: Callable, items: Iterable, ahead: int) -> Iterator[Any]:
    """Yield function(item) for each item, in order, while the pool works on the next `ahead` items and no more."""
    pending = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _orientation(photo: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; from 5 on, the photo lies on its side."""
    try:
        return int(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF says nothing against the pixels
        return 1


def _to_rgb(photo: Image.Image) -> Image.Image:
    if photo.mode.startswith("I"):  # whole numbers of 16 bits, which Pillow would cut off at 255
        photo = Image.fromarray((np.clip(np.asarray(photo), 0, 65535) // 256).astype(np.uint8))
    if photo.has_transparency_data:  # a coin that was cut out: lay it on white
        photo, cut_out = Image.new("RGB", photo.size, "white"), photo.convert("RGBA")
        photo.paste(cut_out, mask=cut_out)
        return photo
    return photo if photo.mode == "RGB" else photo.convert("RGB")


def _fit(photo: Image.Image, width: int, height: int) -> Image.Image:
    distortion = (photo.width / photo.height) / (width / height)
    if abs(distortion - 1) <= ASPECT_TOLERANCE:
        return photo.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(photo)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = tuple(int(value) for value in np.median(border, axis=0))
    return ImageOps.pad(photo, (width, height), Image.Resampling.BICUBIC, color=colour)
