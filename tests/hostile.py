"""Photos that somebody has broken: mutate valid ones, and see what prepare_dataset.py and predict.py make of them

    python tests/hostile.py                        2,000 files, a few minutes
    python tests/hostile.py --count 100 --seed 7

Valid JPEG, PNG, TIFF, WebP, AVIF and GIF photos get flipped bits, cut ends, other headers, sizes and EXIF. Both
commands must end by themselves, without a traceback and within a gigabyte, name every file that they cannot use, and
keep every good one.
"""

import argparse
import csv
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

from conftest import ROOT, add_photo, draw_photo, train
from PIL import Image

COUNT, SEED = 2000, 0
GOOD = 24  # untouched photos among them, half of them in each of two grades
SECONDS = 5  # for a file, at most
MEMORY = 1e9  # bytes for a process that decodes photos, or for a thread that does, at most
SIZE = (240, 120)

# Runs a command for so many seconds at most, and says how much memory its largest process took. In a process of its
# own, since a system counts the memory of a process before it became the command as well.
WATCH = """
import subprocess, sys
status = subprocess.run(sys.argv[2:], timeout=float(sys.argv[1])).returncode
try:
    from resource import RUSAGE_CHILDREN, getrusage
    print(getrusage(RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
except ImportError:  # Windows
    print(0, file=sys.stderr)
sys.exit(status)
"""


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT, help="how many files to make")
    parser.add_argument("--seed", type=int, default=SEED, help="the same seed makes the same files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_files(folder / "images", args.count, args.seed)
        prepared = check_prepare(folder)
        assert train(folder, "--num-epochs", 1).returncode == 0
        predicted = check_predict(folder, folder / "coin_classifier_custom_best.pth")
    for command, found in (("prepare_dataset.py", prepared), ("predict.py", predicted)):
        print(f"\n{command}: {found['files']} files, {found['kept']} kept, in {found['seconds']:.0f} s, ", end="")
        print(f"of which {found['slowest']:.1f} s without a line; {found['bytes'] / 1e6:.0f} MB")
        for reason, count in found["reasons"].most_common():
            print(f"{count:6}  {reason}")


# ---------------------------------------------------------------- making them


def make_files(images: Path, count: int, seed: int) -> None:
    """Make `count` mutated files and `GOOD` untouched ones, half of each in two grades."""
    for number in range(GOOD):
        add_photo(images, ("vf30", "ms65")[number % 2], f"good{number}.jpg", 1000 + number)
    originals = valid_photos()
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        kind, data = rng.choice(originals)
        mutate = rng.choice(MUTATIONS)
        folder = images / ("vf30", "ms65")[number % 2] / "6000x3000"
        (folder / f"{number:05}_{mutate.__name__}.{kind}").write_bytes(mutate(data, rng))


def valid_photos() -> list[tuple[str, bytes]]:
    """Return the suffix and the content of photos in all the ways that the formats know."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    ways = {
        "jpg": [{}, {"progressive": True, "exif": exif}, {"subsampling": 0, "dpi": (72, 72), "comment": b"a coin"}],
        "png": [{}, {"mode": "RGBA", "exif": exif}, {"mode": "P"}, {"mode": "I;16"}],
        "tif": [{"compression": way} for way in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")] + [{"mode": "RGBA"}],
        "webp": [{"exif": exif}, {"lossless": True}, {"mode": "RGBA"}],
        "avif": [{"exif": exif}, {"mode": "RGBA"}],
        "gif": [{}, {"mode": "P"}],
    }
    photos = []
    for suffix, options in ways.items():
        for seed, way in enumerate(options):
            file, mode = io.BytesIO(), way.pop("mode", "RGB")
            draw_photo(seed, SIZE, mode).save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix), **way)
            photos.append((suffix, file.getvalue()))
    return photos


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """Flip some bits anywhere."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 4, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut_end(data: bytes, rng: random.Random) -> bytes:
    """Cut the end off, or put other bytes in its place."""
    length = rng.randrange(len(data))
    return data[:length] + rng.randbytes(rng.choice((0, 0, 100)))


def change_header(data: bytes, rng: random.Random) -> bytes:
    """Put random bytes, or the extremes, somewhere near the beginning."""
    place, length = rng.randrange(200), rng.choice((1, 2, 4, 8))
    filler = rng.choice((b"\0", b"\xff", b"\x7f", rng.randbytes(1))) * length
    return with_checksums(data[:place] + filler + data[place + length :])


def change_size(data: bytes, rng: random.Random) -> bytes:
    """Declare another width or height, wherever it may be written."""
    old, new = rng.choice(SIZE), rng.choice((0, 1, 241, 6000, 20000, 65535, 2**31 - 1, 2**32 - 1))
    for form in rng.sample((">I", "<I", ">H", "<H"), 4):
        limit = 2 ** (8 * struct.calcsize(form)) - 1
        changed = data.replace(struct.pack(form, old), struct.pack(form, min(new, limit)), 1)
        if changed != data:
            return with_checksums(changed)
    return flip_bits(data, rng)  # WebP packs its sizes into bits


def change_exif(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes of the EXIF, which is a small TIFF, or of the TIFF itself."""
    starts = [match.start() for match in re.finditer(rb"Exif|eXIf|EXIF|II\*\0|MM\0\*", data)]
    if not starts:
        return change_header(data, rng)
    changed, start = bytearray(data), rng.choice(starts)
    for _ in range(rng.choice((1, 2, 8))):
        changed[min(start + rng.randrange(120), len(data) - 1)] = rng.choice((0, 1, 255, rng.randrange(256)))
    return with_checksums(bytes(changed))


def move_parts(data: bytes, rng: random.Random) -> bytes:
    """Repeat, drop or swap a stretch of the file."""
    first, second, third = sorted(rng.randrange(len(data)) for _ in range(3))
    before, one, two, after = data[:first], data[first:second], data[second:third], data[third:]
    return before + rng.choice((one + one + two, two, two + one)) + after


MUTATIONS = (flip_bits, cut_end, change_header, change_size, change_exif, move_parts)


def with_checksums(data: bytes) -> bytes:
    """Return a PNG with the right checksums, so that its decoder looks further; anything else as it is."""
    parts, place = [data[:8]], 8
    while data.startswith(b"\x89PNG") and place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(data):
            break
        parts += [data[place:end], struct.pack(">I", zlib.crc32(data[place + 4 : end]))]
        place = end + 4
    return b"".join(parts) + data[place:] if place > 8 else data


# ---------------------------------------------------------------- showing them to the commands


def check_prepare(folder: Path) -> dict:
    """Prepare <folder>/images with one worker, check what came out, and return how it went."""
    files = photo_files(folder)
    result = measure("prepare_dataset.py", "--workers", 1, cwd=folder, seconds=SECONDS * len(files))
    assert result["status"] == 0, result["lines"]
    with (folder / "coin_dataset" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["source"]: row for row in csv.DictReader(file)}
    assert set(rows) == files
    for source, row in rows.items():
        assert bool(row["split"]) != bool(row["reason"]), row
        assert row["split"] or "/good" not in source, row
        assert not row["split"] or (folder / "coin_dataset" / row["output"]).is_file(), row
    return result | count_reasons([row["reason"] for row in rows.values()])


def check_predict(folder: Path, checkpoint: Path) -> dict:
    """Grade <folder>/images, check that each file is graded or named, and return how it went."""
    files = photo_files(folder)
    options = ("images", "--json", "--device", "cpu", "--checkpoint", checkpoint)
    workers = max(2, os.cpu_count())  # PyTorch alone takes most of the memory of one
    result = measure("predict.py", *options, cwd=folder, seconds=SECONDS * len(files), workers=workers)
    assert result["status"] in (0, 1), result["lines"]
    reasons = {}
    for line in result["lines"]:
        graded = line.startswith("{")
        if not graded and not line.startswith("images"):
            continue  # libtiff itself says something
        path, reason = (json.loads(line)["photo"], "") if graded else line.split(": ", 1)
        path = Path(path).as_posix()
        assert path not in reasons and (graded or "/good" not in path), line
        reasons[path] = reason
    assert set(reasons) == files
    return result | count_reasons(list(reasons.values()))


def photo_files(folder: Path) -> set[str]:
    """Return the files in <folder>/images, relative to `folder`."""
    return {path.relative_to(folder).as_posix() for path in (folder / "images").glob("*/*/*")}


def count_reasons(reasons: list[str]) -> dict:
    """Return how many files there were, how many were kept, and how many left out for each reason, without details."""
    short = Counter(
        re.sub(r"[\d(:].*", "", reason.replace("damaged: ", "damaged, ")).strip() for reason in reasons if reason
    )
    return {"files": len(reasons), "kept": len(reasons) - short.total(), "reasons": short}


def measure(script: str | Path, *arguments, cwd: Path, seconds: float, workers: int = 1) -> dict:
    """Run a command for so many seconds at most; return its status, lines, and what it took.

    "slowest" is the longest wait between two lines, in seconds; "bytes" the memory of its largest
    process, 0 on Windows.
    """
    command = [sys.executable, "-u", str(ROOT / script), *map(str, arguments)]
    moments, lines = [], []
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            [sys.executable, "-c", WATCH, str(seconds), *command],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        ) as process,
    ):
        started = time.monotonic()
        for line in process.stdout:
            moments.append(time.monotonic())
            lines.append(line.rstrip("\n"))
        process.wait()
        took = {"seconds": time.monotonic() - started}
        errors.seek(0)
        *others, largest = errors.read().splitlines()
    lines += others
    took["slowest"] = max((after - before for before, after in pairwise(moments)), default=0)
    took["bytes"] = int(largest) * (1 if sys.platform == "darwin" else 1024)
    assert not any("Traceback" in line or "Warning:" in line for line in lines), lines
    assert took["bytes"] < MEMORY * workers, f"{took['bytes'] / 1e6:.0f} MB"
    return {"status": process.returncode, "lines": lines, **took}


if __name__ == "__main__":
    main()
