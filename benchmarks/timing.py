"""What the benchmarks of speed share: photos to work on, commands that are timed, and contenders that take turns."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tqdm import tqdm

from coinkit.photos import PHOTO_FOLDER

ROOT = Path(__file__).resolve().parent.parent
GRADES = ("g06", "ms65")
DRAWN = 8  # photos of each grade that are drawn; the others are copies of these
FIRST_COPY = 90_000_000


class Cost(NamedTuple):
    """What a command took."""

    seconds: float
    megabytes: float  # the most memory that it held, without that of processes it started


def draw_photos(folder: Path, count: int) -> list[Path]:
    """Put photos of 6000x3000 into <folder>/<grade>/6000x3000/, as many in each grade: synthetic coins.

    A copy has some bytes after the picture, which decoders pass over: for all commands, it is a file of its own.
    """
    per_grade = math.ceil(count / len(GRADES))
    run("make_demo_coins.py", "--output", folder, "--grades", *GRADES, "--per-grade", min(per_grade, DRAWN))
    drawn = sorted(folder.glob(f"*/{PHOTO_FOLDER}/*"))
    for index in range(len(drawn), count):
        original = drawn[index % len(drawn)]
        copy = original.with_name(f"{FIRST_COPY + index}.jpg")
        copy.write_bytes(original.read_bytes() + str(index).encode())
    return sorted(folder.glob(f"*/{PHOTO_FOLDER}/*"))[:count]


def run(*arguments: object) -> Cost:
    """Run Python with these arguments, as a process that has to start first; its output is not shown."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{arguments[0]} failed")
    return Cost(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6)


def network_options(image_width: int, image_height: int, width: int) -> list[object]:
    """Return the options of coin_classifier_custom.py for a network whose first block has `width` channels."""
    sizes = ["--image-width", image_width, "--image-height", image_height]
    channels = ["--channels", width, 2 * width, 4 * width, 8 * width, 8 * width]
    return [*sizes, *channels, "--fc-features", 32 * width, 16 * width]


def alternate(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Let contenders take turns, so that other work on the machine slows all of them alike.

    Args:
        contenders: each does its work once, and returns what it took.
        rounds: how often; one more comes first, to warm up, and does not count.

    Returns:
        What each contender returned, one for each round.
    """
    results = {name: [] for name in contenders}
    for turn in tqdm(range(rounds + 1), "Rounds", leave=False, disable=None):
        for name, contender in contenders.items():
            result = contender()
            if turn:
                results[name].append(result)
    return results


def print_table(title: str, rates: dict[str, list[float]], ours: str) -> None:
    """Print the median rate of each contender, and how many times as fast `ours` was in the same round.

    Args:
        title: what was measured, and the unit of the rates.
        rates: of each contender, one for each round.
        ours: the contender to compare with all.
    """
    print(f"\n| {title} | rate | {ours} against it | lowest | highest |")
    print("| --- " * 5 + "|")
    for name, values in rates.items():
        ratios = [one / other for one, other in zip(rates[ours], values, strict=True)]
        print(f"| {name} | {median(values):.3g} | {median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")
    print(f"\nMedian of the rounds, of which there were {len(rates[ours])}; above 1, {ours} is faster.", flush=True)
