"""What the speed benchmarks share: photos to work on, commands that are measured, contenders that take turns."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tqdm import tqdm

from coinkit.photos import PHOTO_FOLDER

ROOT = Path(__file__).resolve().parent.parent
GRADES = ("g06", "ms65")
DRAWN = 8  # photos of each grade that are drawn, unless more are asked for; the others are copies of these
FIRST_COPY = 90_000_000

# Runs a command and prints its seconds and peak memory. The system counts a new process's peak from that of the process
# that started it (on Linux, at least), so the command is started by a small process: this one, without any packages.
MEASURE = """
import resource, subprocess, sys, time
started = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
PEAK_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in the unit of ru_maxrss: getrusage(2)


class Cost(NamedTuple):
    """What a command took."""

    seconds: float
    megabytes: float  # peak memory of the command, or of a process that it started, if that had more


def draw_photos(folder: Path, count: int, drawn: int = DRAWN) -> list[Path]:
    """Draw photos of synthetic coins into <folder>/<grade>/6000x3000/, the same number for each grade.

    Most are copies with some bytes after the picture, which decoders ignore, so that no two files are the same.
    """
    per_grade = math.ceil(count / len(GRADES))
    run("make_demo_coins.py", "--output", folder, "--grades", *GRADES, "--per-grade", min(per_grade, drawn))
    originals = sorted(folder.glob(f"*/{PHOTO_FOLDER}/*"))
    for index in range(len(originals), count):
        original = originals[index % len(originals)]
        copy = original.with_name(f"{FIRST_COPY + index}.jpg")
        copy.write_bytes(original.read_bytes() + str(index).encode())
    return sorted(folder.glob(f"*/{PHOTO_FOLDER}/*"))[:count]


def run(*arguments: object) -> Cost:
    """Run `python ARGUMENTS` in the project's folder, from start to exit; its output is not shown."""
    command = [sys.executable, "-S", "-c", MEASURE, sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"{arguments[0]} failed")
    seconds, peak = result.stdout.split()
    return Cost(float(seconds), int(peak) * PEAK_UNIT / 1e6)


def network_options(image_width: int, image_height: int, width: int) -> list[object]:
    """Return the options of coin_classifier_custom.py for a network whose first block has `width` channels."""
    sizes = ["--image-width", image_width, "--image-height", image_height]
    channels = ["--channels", width, 2 * width, 4 * width, 8 * width, 8 * width]
    return [*sizes, *channels, "--fc-features", 32 * width, 16 * width]


def alternate(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Let contenders take turns, so that other work on the machine slows all of them alike.

    Args:
        contenders: functions that do the work once and return the measurement.
        rounds: how often each is called; one more call comes first, to warm up, and does not count.

    Returns:
        For each contender, its measurements, one for each round.
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
        title: what was measured, and in which unit.
        rates: for each contender, its rates, one for each round.
        ours: the contender that is compared with each.
    """
    print(f"\n| {title} | rate | {ours} against it | lowest | highest |")
    print("| --- " * 5 + "|")
    for name, values in rates.items():
        ratios = [one / other for one, other in zip(rates[ours], values, strict=True)]
        print(f"| {name} | {median(values):.3g} | {median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")
    print(f"\nMedians of {len(rates[ours])} rounds; above 1, {ours} is faster.", flush=True)
