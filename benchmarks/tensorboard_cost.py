"""What TensorBoard costs a training run, in time and on the disk

    python -m benchmarks.tensorboard_cost --preset demo --data demo/coin_dataset      after make demo

Takes the options of coin_classifier_custom.py and runs it with a timer around everything that it does for TensorBoard,
from importing the package to closing the log. The share is smaller for larger photos and longer runs.
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import coin_classifier_custom as coin
from coinkit.tensorboard_log import TensorBoardLog

METHODS = ("__init__", "start", "photos", "graph", "epoch", "pictures", "result", "close")


def main() -> None:
    """Run the command."""
    seconds = Counter()
    for name in METHODS:
        setattr(TensorBoardLog, name, timed(getattr(TensorBoardLog, name), seconds, "TensorBoard"))
    coin.Trainer.fit = timed(coin.Trainer.fit, seconds, "training")
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder, "runs")
        sys.argv += ["--output", folder, "--runs", str(runs)]
        if coin.main():
            sys.exit("stopped")
        megabytes = sum(file.stat().st_size for file in runs.rglob("*") if file.is_file()) / 1e6
    share = seconds["TensorBoard"] / seconds["training"]
    print(f"\nTensorBoard took {seconds['TensorBoard']:.1f} s of {seconds['training']:.1f} s, ", end="")
    print(f"{share:.1%}, and {megabytes:.1f} MB")


def timed(function: Callable, seconds: Counter, name: str) -> Callable:
    """Wrap a function so that its seconds are added to seconds[name]."""

    @wraps(function)
    def with_timer(*args: object) -> object:
        started = time.perf_counter()
        try:
            return function(*args)
        finally:
            seconds[name] += time.perf_counter() - started

    return with_timer


if __name__ == "__main__":
    main()
