"""Photos of all kinds are opened as they look, or refused with a reason."""

import errno
import io
import os
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
from conftest import draw_photo
from PIL import Image

from coinkit import photos
from coinkit.dataset import PhotoReader
from coinkit.photos import ONE_FACE, TURNED, PhotoError, PhotoMemoryError, describe_shape, open_photo

SIZE = (240, 120)
RGB = np.asarray(draw_photo(3, SIZE)).astype(int)
GREY = np.asarray(draw_photo(3, SIZE, "L")).astype(int)[..., None]
ALPHA = RGB[..., :1]
CUT_OUT = np.dstack([RGB, ALPHA])
ON_WHITE = (RGB * ALPHA + 255 * (255 - ALPHA)) / 255


def opened(path) -> np.ndarray:
    return np.asarray(open_photo(path, *SIZE)[0]).astype(int)


def assert_same_photo(path, photo: Image.Image, tolerance: float = 2) -> None:
    """A file is opened as this photo, but for a mean difference of so many levels."""
    pixels, size = open_photo(path, *SIZE)
    assert size == photo.size
    expected = np.asarray(photo.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(np.asarray(pixels) - expected).mean() < tolerance


def test_a_jpeg_is_shrunk_like_other_formats(tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (128, 256, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((1024, 512), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "photo.jpg", quality=95, subsampling=0)
    photo.save(tmp_path / "photo.png")
    for width in (64, 128, 256, 512):
        jpeg, png = (
            np.asarray(open_photo(tmp_path / name, width, width // 2)[0], int) for name in ("photo.jpg", "photo.png")
        )
        assert np.abs(jpeg - png).mean() < 1


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (6000, 3000, ""),
        (5757, 2905, ""),
        (3000, 3000, ONE_FACE),
        (3024, 4032, ONE_FACE),
        (4032, 3024, ONE_FACE),
        (2268, 4032, ONE_FACE),  # 9:16
        (3000, 6000, TURNED),
        (4000, 2250, "not 2:1"),
        (6000, 1000, "not 2:1"),
        (1000, 6000, "not 2:1"),
    ],
)
def test_the_shape_of_a_photo_tells_what_it_shows(width, height, expected):
    assert describe_shape(width, height) == expected


# ---------------------------------------------------------------- TIFF


def tiff(
    pixels: np.ndarray,
    bits: int = 8,
    photometric: int | None = None,
    sample_format: int = 1,
    separate: bool = False,
    packed: bool = False,
    order: str = "<",
    extra: tuple[int, ...] = (),
    tags: dict[int, tuple] | None = None,
) -> bytes:
    """Return a TIFF of pixels (height, width, samples), written by the rules of the TIFF 6.0 specification."""
    height, width, samples = pixels.shape
    if bits == 12:
        flat = pixels.reshape(height, -1).astype(int)
        first, second = flat[:, ::2], flat[:, 1::2]
        values = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2).astype(np.uint8)
    else:
        kind = {1: "u", 2: "i", 3: "f"}[sample_format]
        values = (pixels.transpose(2, 0, 1) if separate else pixels).astype(f"{order}{kind}{bits // 8}")
    strips = [strip.tobytes() for strip in values] if separate else [values.tobytes()]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    photometric = photometric if photometric is not None else 1 if samples - len(extra) == 1 else 2
    entries = {256: ("I", width), 257: ("I", height), 258: ("H", *[bits] * samples), 259: ("H", 8 if packed else 1)}
    entries |= {262: ("H", photometric), 277: ("H", samples), 278: ("I", height), 284: ("H", 2 if separate else 1)}
    entries |= {339: ("H", *[sample_format] * samples)} | ({338: ("H", *extra)} if extra else {}) | (tags or {})
    offsets = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    entries |= {273: ("I", *offsets), 279: ("I", *map(len, strips))}
    place = 8 + sum(map(len, strips))
    later, table = b"", struct.pack(f"{order}H", len(entries))
    end = place + 2 + 12 * len(entries) + 4
    for tag, (form, *values) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(values)}{form}", *values)
        table += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[form], len(values))
        if len(value) > 4:
            table += struct.pack(f"{order}I", end + len(later))
            later += value + bytes(len(value) % 2)
        else:
            table += value.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", place)
    return head + b"".join(strips) + table + bytes(4) + later


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("packed", [False, True])
def test_a_tiff_of_any_kind_is_opened_as_it_looks_or_refused(tmp_path, order, packed):
    grey = np.repeat(GREY, 3, axis=2)
    kinds = [
        (RGB, {"pixels": RGB}),
        (RGB, {"pixels": RGB, "separate": True}),
        (RGB, {"pixels": RGB * 257, "bits": 16}),
        (RGB, {"pixels": RGB * 257, "bits": 16, "separate": True}),
        (RGB, {"pixels": RGB * 0x1010101, "bits": 32}),
        (RGB, {"pixels": 255 - np.dstack([RGB, 0 * GREY + 255]), "photometric": 5}),
        (RGB, {"pixels": RGB, "photometric": 8}),  # Lab: other colours
        (ON_WHITE, {"pixels": CUT_OUT, "extra": (2,)}),
        (ON_WHITE, {"pixels": CUT_OUT, "extra": (2,), "separate": True}),
        (ON_WHITE, {"pixels": CUT_OUT * 257, "extra": (2,), "bits": 16}),
        (grey, {"pixels": GREY}),
        (grey, {"pixels": 255 - GREY, "photometric": 0}),
        (grey, {"pixels": GREY * 16, "bits": 12}),
        (grey, {"pixels": GREY * 257, "bits": 16}),
        (grey, {"pixels": 65535 - GREY * 257, "bits": 16, "photometric": 0}),
        (grey, {"pixels": GREY * 0x1010101, "bits": 32}),
        (grey, {"pixels": (GREY - 128) * 256, "bits": 16, "sample_format": 2}),
        (grey, {"pixels": GREY / 255, "bits": 32, "sample_format": 3}),
        (grey, {"pixels": np.dstack([GREY, 0 * GREY + 255]), "extra": (2,), "separate": True}),
        (grey, {"pixels": GREY * 16, "bits": 16}),  # 12 bits in 16
        (RGB, {"pixels": RGB * 64, "bits": 16}),  # 14 bits in 16
        (RGB, {"pixels": 0 * RGB, "tags": {254: ("I", 1)}}),  # a thumbnail, before the photo
    ]
    refused = []
    for expected, kind in kinds:
        (tmp_path / "photo.tif").write_bytes(tiff(**kind, order=order, packed=packed))
        try:
            assert np.abs(opened(tmp_path / "photo.tif") - expected).mean() < 1, kind
        except PhotoError as error:
            refused.append(str(error))
            assert "save it" in str(error)
    assert {reason.split(":")[0] for reason in refused} >= {
        "a TIFF with separate planes, not of 8 bits in colour",
        "a TIFF with Lab colours",
        "a TIFF with a small copy before the photo",
        "only the lower ones of its 16 bits are used",
    }
    assert len(kinds) - len(refused) >= 9


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P", "I;16"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_tiff_on_its_side_is_one_upright_coin_of_the_right_size(tmp_path, orientation, mode, compression):
    photo = draw_photo(5, SIZE)
    turn = {3: "ROTATE_180", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}.get(orientation)
    turned = photo.transpose(Image.Transpose[turn]) if turn else photo
    if mode == "I;16":
        photo = photo.convert("L")
        turned = Image.fromarray(np.asarray(turned.convert("L")).astype(np.uint16) * 257)
    elif mode == "P":
        turned = turned.quantize(256)
    else:
        turned = turned.convert(mode)
        photo = photo.convert(mode)
    turned.save(tmp_path / "photo.tif", compression=compression, tiffinfo={274: orientation})
    assert_same_photo(tmp_path / "photo.tif", photo, tolerance=10 if mode == "P" else 2)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_a_photo_with_an_orientation_that_does_not_exist_is_as_it_lies(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    for suffix in ("jpg", "png", "webp", "avif"):
        draw_photo(1, SIZE).save(tmp_path / f"photo.{suffix}", quality=95, exif=exif)
        assert_same_photo(tmp_path / f"photo.{suffix}", draw_photo(1, SIZE), tolerance=4)
    for packed in (False, True):
        (tmp_path / "photo.tif").write_bytes(tiff(RGB, packed=packed, tags={274: ("H", orientation)}))
        assert_same_photo(tmp_path / "photo.tif", Image.fromarray(RGB.astype(np.uint8)))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif"])
def test_a_photo_on_its_side_is_turned_upright(tmp_path, suffix):
    exif = Image.Exif()
    exif[274] = 6
    turned = draw_photo(1, SIZE).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / f"photo.{suffix}", quality=95, exif=exif)
    assert_same_photo(tmp_path / f"photo.{suffix}", draw_photo(1, SIZE), tolerance=4)


@pytest.mark.parametrize("depth", [10, 12, 14])
def test_a_png_with_few_bits_in_16_is_refused_and_not_black(tmp_path, depth):
    cut_out = np.dstack([RGB * 2 ** (depth - 8), ALPHA * 257])
    for pixels in (GREY[..., 0] * 2 ** (depth - 8), cut_out):
        cv2.imwrite(str(tmp_path / "photo.png"), pixels.astype(np.uint16))
        with pytest.raises(PhotoError, match="save it with 8 bits"):
            opened(tmp_path / "photo.png")


def test_a_dark_png_of_8_bits_whose_size_has_the_digits_16_is_opened(tmp_path):
    Image.new("RGB", (1600, 800), (40, 30, 20)).save(tmp_path / "photo.png")
    assert (opened(tmp_path / "photo.png") == (40, 30, 20)).all()


def test_a_grey_png_of_16_bits_has_its_transparent_level_on_white(tmp_path):
    grey = GREY[..., 0].clip(1).astype(np.uint16) * 257
    grey[:20] = 0
    Image.fromarray(grey).save(tmp_path / "photo.png", transparency=0)
    pixels = opened(tmp_path / "photo.png")
    assert (pixels[:20] == 255).all() and np.abs(pixels[20:] - GREY[20:].clip(1)).max() <= 1


# ---------------------------------------------------------------- JPEG, PNG and others


def jpeg(**options) -> bytes:
    file = io.BytesIO()
    draw_photo(7, SIZE).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_a_jpeg_without_its_end_marker_is_whole_and_one_without_pixels_is_damaged(tmp_path, options):
    data, path = jpeg(**options), tmp_path / "photo.jpg"
    for missing in (1, 2):
        path.write_bytes(data[:-missing])
        assert_same_photo(path, draw_photo(7, SIZE), tolerance=3)
    for missing in (10, 100, len(data) // 2):
        path.write_bytes(data[:-missing])
        with pytest.raises(PhotoError, match="damaged"):
            opened(path)


def test_a_progressive_jpeg_without_its_last_scans_is_damaged(tmp_path):
    data = jpeg(progressive=True)
    scans = [match.start() for match in photos.SCAN_START.finditer(data)]
    tables = [data.rindex(b"\xff\xc4", 0, scan) for scan in scans[1:]]  # a scan may follow its tables
    for end in (*scans[1:], *tables):
        (tmp_path / "photo.jpg").write_bytes(data[:end])
        with pytest.raises(PhotoError, match="damaged"):
            opened(tmp_path / "photo.jpg")


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG with more chunks behind its header."""
    file = io.BytesIO()
    draw_photo(8, SIZE).save(file, "PNG")
    data = file.getvalue()
    parts = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    ]
    return data[:33] + b"".join(parts) + data[33:]


def test_a_png_with_much_xmp_or_a_large_colour_profile_is_opened(tmp_path):
    megabytes = zlib.compress(5_000_000 * b" ")
    xmp = b"XML:com.adobe.xmp\0\1\0\0\0" + megabytes
    texts = [(b"iTXt", xmp), (b"iCCP", b"profile\0\0" + megabytes), (b"zTXt", b"Raw profile type exif\0\0" + megabytes)]
    (tmp_path / "photo.png").write_bytes(png(*texts))
    assert_same_photo(tmp_path / "photo.png", draw_photo(8, SIZE))


def test_a_png_full_of_texts_that_unpack_to_gigabytes_takes_no_memory(tmp_path):
    packed = zlib.compress(100_000_000 * b"\xff")  # no valid UTF-8, which Pillow does not count
    xmp, profile = b"XML:com.adobe.xmp\0\1\0\0\0" + packed, b"profile\0\0" + packed
    (tmp_path / "photo.png").write_bytes(png(*50 * [(b"iCCP", profile), (b"zTXt", profile)]))
    assert_same_photo(tmp_path / "photo.png", draw_photo(8, SIZE))
    (tmp_path / "photo.png").write_bytes(png((b"iTXt", xmp)))
    with pytest.raises(PhotoError, match="too large"):
        opened(tmp_path / "photo.png")


def test_a_photo_of_a_phone_with_48_megapixels_is_opened(tmp_path):
    draw_photo(9, (9800, 4900)).save(tmp_path / "photo.jpg")
    assert_same_photo(tmp_path / "photo.jpg", Image.new("RGB", (9800, 4900)), tolerance=255)
    opened_small = Image.fromarray(opened(tmp_path / "photo.jpg").astype(np.uint8))
    opened_small.save(tmp_path / "small.png")
    assert_same_photo(tmp_path / "small.png", draw_photo(9, SIZE), tolerance=4)


def test_a_photo_that_is_too_large_names_the_limit_and_what_to_do(tmp_path):
    Image.new("1", (10000, 5000)).save(tmp_path / "photo.png")
    with pytest.raises(
        PhotoError, match=r"10000x5000 pixels, and the limit is 40 million: save it as JPEG, or smaller"
    ):
        opened(tmp_path / "photo.png")
    Image.new("L", (20000, 10001)).save(tmp_path / "photo.jpg")
    with pytest.raises(PhotoError, match="limit is 200 million: make it smaller"):
        opened(tmp_path / "photo.jpg")


@pytest.mark.parametrize("name", ["photo.avif", "photo.gif", "photo.jpe", "photo.JFIF", "photo.pjpeg", "photo.HIF"])
def test_avif_gif_and_jpe_are_photos(tmp_path, name):
    options = {"format": "JPEG"} if name.lower().endswith(("jpe", "jfif", "jpeg", "hif")) else {}
    draw_photo(2, SIZE).save(tmp_path / name, **options)
    (path,) = photos.find_photos(tmp_path)
    assert_same_photo(path, draw_photo(2, SIZE), tolerance=10)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    draw_photo(2, SIZE).save(tmp_path / "1.png")
    (tmp_path / "secret").mkdir()

    def without_right(real):
        def refuse(path):
            if str(path).endswith("secret"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path)

        return refuse

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, without_right(getattr(os, name)))
    photo, folder = photos.find_photos(tmp_path, recursive=True)
    assert photo.name == "1.png" and folder.name == "secret"
    with pytest.raises(PhotoError, match="cannot be read: Permission denied"):
        open_photo(folder, *SIZE)


def test_the_first_picture_of_a_gif_is_the_photo(tmp_path):
    draw_photo(2, SIZE).save(tmp_path / "photo.gif", save_all=True, append_images=[Image.new("RGB", SIZE)])
    assert_same_photo(tmp_path / "photo.gif", draw_photo(2, SIZE), tolerance=10)


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError("out of memory error"), OSError(12, "Cannot allocate memory")]
)
def test_a_photo_for_which_there_is_no_memory_is_not_damaged(tmp_path, monkeypatch, error):
    draw_photo(1).save(tmp_path / "photo.jpg")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image.Image, "resize", fail)
    with pytest.raises(PhotoMemoryError, match="memory"):
        opened(tmp_path / "photo.jpg")


@pytest.mark.parametrize("place", ["PIL.Image.Image.resize", "coinkit.dataset.to_tensor"])
def test_training_reads_a_photo_again_for_which_there_was_no_memory(tmp_path, monkeypatch, capsys, place):
    path, read = tmp_path / "photo.jpg", PhotoReader(*SIZE)
    draw_photo(1).save(path)
    with monkeypatch.context() as patch:
        patch.setattr(place, lambda *_, **__: bytes(2**62))
        assert read(path) is None
    assert "Left out this time" in capsys.readouterr().err
    assert read(path).shape == (3, 120, 240)


# ---------------------------------------------------------------- HEIC and AVIF


def test_heic_and_avif_of_phones_are_opened_upright(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    photo = draw_photo(3, SIZE)
    turned = photo.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.heic", exif=exif.tobytes(), quality=95)
    photo.save(tmp_path / "photo.heif", quality=95)
    photo.save(tmp_path / "photo.avif", quality=95)
    for name in ("turned.heic", "photo.heif", "photo.avif"):
        assert_same_photo(tmp_path / name, photo, 3)


def test_hostile_heic_and_a_missing_package_give_a_reason(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    path = tmp_path / "photo.heic"
    draw_photo(3, SIZE).save(path)
    data = path.read_bytes()
    monkeypatch.setattr(photos, "MAX_PIXELS", 1000)
    assert_same_photo(path, draw_photo(3, SIZE), tolerance=5)  # phones write larger ones, and they take less memory
    monkeypatch.setattr(photos, "MAX_HEIC_PIXELS", 1000)
    with pytest.raises(PhotoError, match="too large"):
        open_photo(path, *SIZE)
    monkeypatch.undo()
    for length in (30, len(data) // 2, len(data) - 100):
        path.write_bytes(data[:length])
        with pytest.raises(PhotoError):
            open_photo(path, *SIZE)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PhotoError, match="pip install pillow-heif"):
        open_photo(path, *SIZE)
