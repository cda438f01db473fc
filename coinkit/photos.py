"""Find and open photos. Every script opens photos here, so that the model always sees the same pixels.

`open_photo` returns a photo upright, in RGB and at the requested size. JPEG files are shrunk while they are decoded: an
18-megapixel photo is never decoded at full size to become 1024x512.
"""

import io
import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, ImageStat, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from coinkit.cli import is_out_of_memory
from coinkit.files import is_hidden

PHOTO_FOLDER = "6000x3000"  # the folder of a grade's photos that show both faces
FACE_FOLDERS = ("obverse", "reverse")  # the folders of its photos that show one face; see coinkit.faces
DATASET = Path("coin_dataset")  # made by prepare_dataset.py
SPLITS = ("train", "val", "test")  # folders of the dataset

# Files with these extensions count as photos. Those of the last line cannot be read, but are listed so that the user is
# told.
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".tif", ".tiff", ".bmp"}
SUFFIXES |= {".gif", ".hif", ".jif", ".pjp", ".pjpeg"}
RAW_SUFFIXES = {".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw"}  # of cameras
SUFFIXES |= {".jxl", ".jp2", *RAW_SUFFIXES}
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")  # and HEIF, see `_formats`
FORMAT_NAMES = "JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP or GIF"
HEIF_START = re.compile(rb"....ftyp(?:hei[cxms]|hev[cxms]|(?:mif1|msf1)(?!.{,32}avif))", re.DOTALL)

# A small file can demand any amount of memory and time. Within these limits, no photo takes more than 1 GB or 6 s.
MAX_PIXELS = 40_000_000  # that are decoded: twice the usual 6000x3000
MAX_JPEG_PIXELS = 5 * MAX_PIXELS  # a JPEG is shrunk while it is decoded; phones take up to 200 megapixels
MAX_PROGRESSIVE_PIXELS = 3 * MAX_PIXELS  # of a JPEG with several scans, which libjpeg keeps whole, at 6 bytes a pixel
MAX_HEIC_PIXELS = MAX_PIXELS * 5 // 4  # decoded in 0.7 GB; phones take 48 megapixels
MAX_BYTES = 4 * MAX_PIXELS  # size of that many pixels without compression
MAX_SCANS = 50  # of a progressive JPEG; each scan decodes all pixels again, and encoders write about 10
SCAN_START = re.compile(rb"\xff\xda\0[\x06\x08\x0a\x0c\x0e]")  # marker and length, so that pixel data never matches
JPEG_END = b"\xff\xd9"  # marker

DECODE_MARGIN = 1.4  # JPEG decoding shrinks to at least this many times the requested size; `fit` does the rest
REDUCING_GAP = 2.0  # other photos are first averaged to at least this many times the size, which looks the same
STRETCH_LIMIT = 0.05  # photos are stretched if their aspect ratio is off by up to this share, or else padded

# A certificate number of PCGS (7 to 10 digits) or NGC (6 or 7 digits, a hyphen, 3 digits). A date, such as 20240131 or
# 31012024, is not one, nor the hour or the time behind it, as in PXL_20240131_142233123.
CERTIFICATE = re.compile(r"(?<!\d)(?:\d{6,7}-\d{3}|\d{7,10})(?!\d)")
YEAR, MONTH, DAY = "(?:19|20)[0-9]{2}", "(?:0[1-9]|1[0-2])", "(?:0[1-9]|[12][0-9]|3[01])"
HOUR, SIXTY = "(?:[01][0-9]|2[0-3])", "[0-5][0-9]"
DATES = "|".join("[-_.]?".join(parts) for parts in ((YEAR, MONTH, DAY), (DAY, MONTH, YEAR), (MONTH, DAY, YEAR)))
DATE = re.compile(rf"(?<!\d)(?:{DATES})(?:{HOUR}|[-_ ]?{HOUR}{SIXTY}{SIXTY}(?:\d{{3}})?)?(?!\d)")

# When a photo gets a note.
ASPECT_RATIO = 2  # usual width / height
ASPECT_RATIO_TOLERANCE = 0.1  # as a share
MAX_ONE_FACE_RATIO = 1.5  # cameras and phones have photos from 9:16 to 3:2
ONE_FACE, TURNED = "looks like one face", "looks turned on its side"
TWO_PHOTOS = (
    "Two photos of a coin, one of each face, go into <grade>/obverse/ and <grade>/reverse/, with the same name."
)
BLANK_BELOW = 8  # standard deviation of each colour, 0 to 255; real coins have 20 or more

# A photo of 16 bits whose brightest pixel is below this, of 255, holds 10 to 14 bits, and would be nearly black.
DARK_16_BIT = 64

NEW_SUBFILE_TYPE = 254  # tag of a TIFF; 1 for a smaller copy of another picture in the file

Image.MAX_IMAGE_PIXELS = None  # our limit raises an error, Pillow's only warns
PngImagePlugin.MAX_TEXT_CHUNK = 2**26  # bytes of XMP, unpacked; only one such text is read
warnings.filterwarnings("ignore", module="PIL")  # the reason of a PhotoError says it once


class PhotoError(Exception):
    """A photo that cannot be used. The message is a short reason."""


class PhotoMemoryError(PhotoError):
    """A photo for which there was not enough memory. It may be opened later."""


def is_photo_name(path: Path) -> bool:
    """Tell whether a file has the extension of a photo and is not hidden ("._1.jpg")."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def find_photos(folder: Path, recursive: bool = False) -> list[Path]:
    """Return the photos in a folder, sorted; if recursive, also in subfolders that are not hidden or of the system.

    A camera's raw file counts only if there is no photo of the same name beside it, which was made from it.
    """
    if not recursive:
        return _sorted_without_raw(filter(is_photo_name, folder.iterdir()))
    photos, visited = [], set()

    def name_unreadable(error: OSError) -> None:  # opening it will give the reason
        photos.append(Path(error.filename))

    for parent, folders, names in os.walk(folder, onerror=name_unreadable, followlinks=True):
        if (real := os.path.realpath(parent)) in visited:  # links may lead in circles
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        photos += filter(is_photo_name, (Path(parent, name) for name in names))
    return _sorted_without_raw(photos)


def _sorted_without_raw(paths: Iterable[Path]) -> list[Path]:
    photos = sorted(paths)
    raw = {path for path in photos if path.suffix.lower() in RAW_SUFFIXES}
    made = {path.with_suffix("") for path in photos if path not in raw} if raw else ()
    return [path for path in photos if path not in raw or path.with_suffix("") not in made]


def open_photo(path: Path, width: int, height: int) -> tuple[Image.Image, tuple[int, int]]:
    """Open a photo, decode all of it, and fit it to a size.

    Args:
        path: a JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP or GIF file in any colour mode.
        width, height: requested size in pixels.

    Returns:
        The photo in RGB, upright by its EXIF orientation, of `width` x `height` pixels; and its original (width,
        height), also upright.

    Raises:
        PhotoMemoryError: there is not enough memory now.
        PhotoError: the file is no photo, is damaged, or exceeds a limit above.
    """
    photo, original_size = open_whole(path, round(DECODE_MARGIN * width), round(DECODE_MARGIN * height))
    with as_photo_error():
        return fit(photo, width, height), original_size


def read_photo_file(path: Path) -> bytes:
    """Return the content of a photo's file. Raises what `open_photo` raises."""
    with as_photo_error():
        if path.is_dir():
            os.listdir(path)  # fails if it may not be read
            raise PhotoError("no photo in this folder")
        if not path.is_file():
            raise PhotoError("not a file" if path.exists() else "no such file")
        if path.suffix.lower() in RAW_SUFFIXES:  # Pillow would open the small preview in some
            raise PhotoError("a camera's raw file: save it as JPEG")
        if not path.stat().st_size:
            raise PhotoError("an empty file: copy it again, or remove it")
        if path.stat().st_size > MAX_BYTES:
            size, limit = path.stat().st_size / 1e6, MAX_BYTES / 1e6
            raise PhotoError(f"too large: {size:.0f} MB, and the limit is {limit:.0f} MB: save it as JPEG, or smaller")
        return path.read_bytes()


def open_whole(path: Path, least_width: int, least_height: int) -> tuple[Image.Image, tuple[int, int]]:
    """Open a photo in its own aspect ratio, as `open_photo` does.

    Args:
        path: as for `open_photo`.
        least_width, least_height: a JPEG is shrunk while it is decoded, but to no less than this, in pixels.

    Returns:
        The photo in RGB, upright; and its original (width, height).
    """
    data = read_photo_file(path)
    with as_photo_error():
        return _decode_or_mend(data, (least_width, least_height))


def fit(photo: Image.Image, width: int, height: int) -> Image.Image:
    """Return a photo in RGB resized to a size, padded with the colour of its border if its aspect ratio is another."""
    # For shrinking, Hamming's filter is nearly as sharp as the bicubic one, in two thirds of the time.
    shrinks = photo.width * photo.height > width * height
    resampling = Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC
    distortion = (photo.width / photo.height) / (width / height)
    if abs(distortion - 1) <= STRETCH_LIMIT:
        return photo.resize((width, height), resampling, reducing_gap=REDUCING_GAP)
    pixels = np.asarray(photo)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = tuple(int(value) for value in np.median(border, axis=0))
    return ImageOps.pad(photo, (width, height), resampling, color=colour)


def photo_notes(photo: Image.Image, original_size: tuple[int, int]) -> list[str]:
    """Return what is unusual about a photo; it can still be used. Takes what `open_photo` returns."""
    notes = [describe_shape(*original_size)]
    if max(ImageStat.Stat(photo).stddev) < BLANK_BELOW:
        notes.append("blank")
    return list(filter(None, notes))


def describe_shape(width: int, height: int) -> str:
    """Return what a photo looks like that is not twice as wide as high, as one of both faces is; "" if it is."""
    if abs(width / height / ASPECT_RATIO - 1) <= ASPECT_RATIO_TOLERANCE:
        return ""
    if abs(height / width / ASPECT_RATIO - 1) <= ASPECT_RATIO_TOLERANCE:
        return TURNED
    return ONE_FACE if 1 / ASPECT_RATIO < width / height <= MAX_ONE_FACE_RATIO else "not 2:1"


def certificate_numbers(path: Path) -> list[str]:
    """Return what may be certificate numbers in a file's name, without hyphens: NGC's are written in both ways."""
    return [number.replace("-", "") for number in CERTIFICATE.findall(without_dates(path.stem))]


def without_dates(name: str) -> str:
    """Return the name of a file without the dates in it."""
    return DATE.sub(" ", name)


def prefetch(pool: Executor, function: Callable, items: Iterable, ahead: int) -> Iterator[Any]:
    """Yield function(item) for each item, in order, while a pool works on the next items, at most `ahead` of them."""
    pending = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@contextmanager
def as_photo_error() -> Iterator[None]:
    """Turn whatever goes wrong with a photo into a PhotoError."""
    try:
        yield
    except PhotoError:
        raise
    except UnidentifiedImageError:
        raise PhotoError(f"not a {FORMAT_NAMES} photo that can be read: save it as JPEG, or remove it") from None
    except Exception as error:  # a decoder may raise anything when a file is damaged
        if is_out_of_memory(error):
            raise PhotoMemoryError("not enough memory for it now: close other programs") from error
        if isinstance(error, OSError) and error.errno:
            raise PhotoError(f"cannot be read: {error.strerror}") from error
        raise PhotoError(f"damaged: {' '.join(str(error).split()) or type(error).__name__}") from error


# ---------------------------------------------------------------- decoding


def _decode_or_mend(data: bytes, least_size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    try:
        return _decode(data, least_size)
    except OSError:
        if not data.startswith(b"\xff\xd8") or data.rstrip(b"\0").endswith(JPEG_END):
            raise
        return _decode_without_end(data, least_size)


def _decode(data: bytes, least_size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """Return a photo in RGB, upright, and its original size; a JPEG is shrunk, but not below `least_size`."""
    with Image.open(io.BytesIO(_without_packed_text(data)), formats=_formats(data)) as photo:
        _check_pixels(photo, data)
        if isinstance(photo, TiffImageFile):
            _check_tiff(photo)
        has_16_bits = _has_16_bits(photo)
        on_its_side = _orientation(photo) >= 5
        original_size = photo.size[::-1] if on_its_side else photo.size
        photo.draft(None, least_size[::-1] if on_its_side else least_size)
        if isinstance(photo, JpegImageFile) and photo.width * photo.height > MAX_PIXELS:
            raise _too_large(original_size, MAX_PIXELS)
        photo.load()
        upright = ImageOps.exif_transpose(photo) if _orientation(photo) > 1 else photo
        if isinstance(photo, TiffImageFile):  # which Pillow turns upright by itself
            original_size = upright.size
        if has_16_bits and _brightest(upright) < DARK_16_BIT:
            raise PhotoError("only the lower ones of its 16 bits are used: save it with 8 bits for each colour")
        return _to_rgb(upright), original_size


def _formats(data: bytes) -> tuple[str, ...]:
    """Return the formats that a file may have. Pillow reads HEIC, as iPhones write it, through pillow-heif.

    Raises:
        PhotoError: it is HEIC, and pillow-heif is not installed, or does not work on this computer.
    """
    if not HEIF_START.match(data):
        return FORMATS
    try:
        from pillow_heif import register_heif_opener  # takes a while, and few photos need it
    except ImportError:
        raise PhotoError("HEIC needs another package: pip install pillow-heif; or save it as JPEG") from None
    register_heif_opener()
    return ("HEIF",)


def _decode_without_end(data: bytes, least_size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a JPEG that lacks its end marker, but no pixel.

    Where pixels are missing, libjpeg goes on with whatever comes next. So they are all there if what comes next makes
    no difference.
    """
    data = data.removesuffix(b"\xff")  # half of the end marker
    photo, original_size = _decode(data + JPEG_END, least_size)
    other, _ = _decode(data + 64 * b"\x55" + JPEG_END, least_size)
    if photo != other or not _has_all_scans(data):
        raise PhotoError("damaged: its end is missing")
    return photo, original_size


def _without_packed_text(data: bytes) -> bytes:
    """Return a PNG without texts and colour profiles, which may unpack to any size; anything else as it is.

    One XMP text is kept, since it may tell the orientation.
    """
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    kept, has_xmp, start = [data[:8]], False, 8
    while start < len(data):
        length, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        end = start + 12 + length
        is_xmp = not has_xmp and data.startswith(b"iTXtXML:com.adobe.xmp\0", start + 4)
        if is_xmp or kind not in (b"iTXt", b"tEXt", b"zTXt", b"iCCP"):
            kept.append(data[start:end])
        has_xmp, start = has_xmp or is_xmp, end
    return b"".join(kept)


def _check_pixels(photo: Image.Image, data: bytes) -> None:
    """Raise a PhotoError if decoding a photo would take too much memory or time."""
    limit = MAX_PIXELS
    if isinstance(photo, JpegImageFile):
        components = [(data[match.end() - 1] - 6) // 2 for match in SCAN_START.finditer(data)]
        max_scans = int(MAX_SCANS * min(1, MAX_PIXELS / (photo.width * photo.height)))
        if len(components) > max(1, max_scans):
            raise PhotoError(f"a JPEG of this size with more than {max_scans} scans: save it anew")
        one_scan = "progressive" not in photo.info and all(count == photo.layers for count in components)
        limit = MAX_JPEG_PIXELS if one_scan else MAX_PROGRESSIVE_PIXELS
    elif photo.format == "HEIF":
        limit = MAX_HEIC_PIXELS
    if photo.width * photo.height > limit:
        raise _too_large(photo.size, limit)


def _too_large(size: tuple[int, int], limit: int) -> PhotoError:
    advice = "make it smaller" if limit > MAX_HEIC_PIXELS else "save it as JPEG, or smaller"
    return PhotoError(f"too large: {size[0]}x{size[1]} pixels, and the limit is {limit / 1e6:.0f} million: {advice}")


def _has_all_scans(data: bytes) -> bool:
    """Tell whether the scans of a JPEG hold all 64 coefficients of each component in full."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as photo:
        data = data.replace(photo.info.get("exif", b"-"), b"")  # which may hold a small JPEG
        held = set()
        for match in SCAN_START.finditer(data):
            place, count = match.end() + 1, (data[match.end() - 1] - 6) // 2
            first, last, bits = data[place + 2 * count : place + 2 * count + 3]
            if bits & 15 == 0:  # no bits are left for later scans
                held |= set(product(data[place : place + 2 * count : 2], range(first, last + 1)))
        return len(held) == 64 * photo.layers


def _check_tiff(photo: TiffImageFile) -> None:
    """Raise a PhotoError if Pillow would open this TIFF, but not rightly."""
    tags = photo.tag_v2
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    separate = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 and photo.mode not in ("L", "I;16", "I;16B")
    subsampling = tags.get(TiffImagePlugin.YCBCRSUBSAMPLING, (2, 2))
    raw_ycbcr = photo.mode == "YCbCr" and photo.info["compression"] == "raw"
    problems = {
        f"{bits} bits for each colour": bits > 16,
        "signed or floating-point numbers": set(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))) != {1},
        "separate planes, not of 8 bits in colour": separate and (bits > 8 or photo.mode in ("LA", "La")),
        "Lab colours": photo.mode == "LAB",
        "a small copy before the photo": tags.get(NEW_SUBFILE_TYPE, 0) & 1 == 1,
        "YCbCr colours without compression": raw_ycbcr and tuple(subsampling) != (1, 1),
    }
    for problem, applies in problems.items():
        if applies:
            raise PhotoError(f"a TIFF with {problem}: save it as JPEG, or as TIFF with 8 bits for each colour")


def _has_16_bits(photo: Image.Image) -> bool:
    """Tell whether a photo that is not decoded yet has more than 8 bits for each colour."""
    if isinstance(photo, TiffImageFile):
        return max(photo.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8
    return isinstance(photo, PngImageFile) and any("16" in str(tile.args) for tile in photo.tile)


def _orientation(photo: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; from 5 on, the pixels lie on their side."""
    try:
        orientation = int(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels may be fine even if the EXIF data is damaged
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _to_rgb(photo: Image.Image) -> Image.Image:
    """Return a photo of any colour mode in RGB."""
    if photo.mode.startswith("I;16"):  # 16-bit integers, which Pillow would clip at 255
        grey, transparent = _grey_16_bits(photo), photo.info.get("transparency")
        photo = Image.fromarray((grey // 256).astype(np.uint8))
        if transparent is not None:  # a level of grey
            photo.putalpha(Image.fromarray(np.where(grey == transparent, 0, 255).astype(np.uint8)))
    if photo.mode == "La":
        photo = photo.convert("LA")
    if photo.has_transparency_data:  # a cut-out coin gets a white background
        photo, cut_out = Image.new("RGB", photo.size, "white"), photo.convert("RGBA")
        photo.paste(cut_out, mask=cut_out)
        return photo
    return photo if photo.mode == "RGB" else photo.convert("RGB")


def _brightest(photo: Image.Image) -> int:
    """Return the level of the brightest pixel of a photo, 0 to 255, before a cut-out coin is put on white."""
    if photo.mode.startswith("I;16"):
        return _grey_16_bits(photo).max() // 256
    return max(high for _, high in photo.convert("RGB").getextrema())


def _grey_16_bits(photo: Image.Image) -> np.ndarray:
    """Return the pixels of a grey photo of 12 or 16 bits, (height, width), from 0 for black to 65535."""
    pixels = np.asarray(photo)
    if isinstance(photo, TiffImageFile):
        if max(photo.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE)) == 12:
            pixels = pixels * 16
        if photo.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0:  # 0 is white
            pixels = 65535 - pixels
    return pixels
