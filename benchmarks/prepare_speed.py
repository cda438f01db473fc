"""Ours prepares 27.4 photos/s, libvips shrinks 38: 0.72 of it (0.70 to 0.73), 5 rounds, 2 cores of an AMD EPYC

How fast prepare_dataset.py shrinks photos of 6000x3000 to 1024x512, against libvips' thumbnailer

    python -m benchmarks.prepare_speed                  100 photos, 7 rounds
    python -m benchmarks.prepare_speed --photos 4 --rounds 1

Both use all cores. Ours is the whole command: start Python, hash, find duplicates, split, shrink, write the manifest.
libvips only shrinks, in a process that already runs, and writes JPEGs of the same quality. For Linux and macOS.
"""

import argparse
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.timing import alternate, draw_photos, print_table, run
from coinkit.cli import usable_cores
from prepare_dataset import JPEG_QUALITY, SIZE

os.environ["VIPS_CONCURRENCY"] = "1"  # one core for each photo is faster than all cores on one photo


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, dataset, thumbnails = (Path(folder) / name for name in ("images", "coin_dataset", "thumbnails"))
        photos = draw_photos(images, args.photos, drawn=args.photos)  # copies would be compared as one coin

        def ours() -> float:
            shutil.rmtree(dataset, ignore_errors=True)
            return len(photos) / run("prepare_dataset.py", "--source", images, "--output", dataset).seconds

        def libvips() -> float:
            shutil.rmtree(thumbnails, ignore_errors=True)
            thumbnails.mkdir()
            started = time.perf_counter()
            with ThreadPoolExecutor(usable_cores()) as pool:
                list(pool.map(lambda photo: shrink(photo, thumbnails / photo.name), photos))
            return len(photos) / (time.perf_counter() - started)

        rates = alternate({"libvips": libvips, "ours": ours}, args.rounds)
    print_table("prepare, photos/s", rates, "ours")


def shrink(photo: Path, target: Path) -> None:
    """Shrink a photo as prepare_dataset.py does, with libvips."""
    import pyvips  # here, after VIPS_CONCURRENCY is set, which it reads

    thumbnail = pyvips.Image.thumbnail(str(photo), SIZE[0], height=SIZE[1], size="force")
    thumbnail.jpegsave(str(target), Q=JPEG_QUALITY, subsample_mode="off")


if __name__ == "__main__":
    main()
