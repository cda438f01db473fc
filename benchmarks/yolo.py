"""Accuracy of a general tool on the same photos: ultralytics' yolo11n-cls, trained from scratch with its own defaults

    pip install ultralytics==8.4.190
    python -m benchmarks.yolo --coins ../coins --tasks morgan-5 us-5     the runs that yolo.jsonl lacks, then the table
    python -m benchmarks.yolo --table                                    only the table of what yolo.jsonl has

Training, choice of the epoch and prediction are those of `yolo classify train data=DATASET model=yolo11n-cls.yaml
pretrained=False imgsz=256 epochs=100` and `yolo classify predict`. Datasets, splits and metrics are those of
benchmarks.accuracy. After an interruption, the same command starts the run that was not finished anew.
"""

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy import HERE, SCRATCH, SEEDS, TASKS, add_result, mean_and_deviation, prepare, read_results
from coinkit.cli import usable_cores
from coinkit.dataset import find_classes, find_split
from coinkit.metrics import METRICS, Predictions, score

RESULTS = HERE / "yolo.jsonl"
COLUMNS = ("accuracy", "accuracy_within_1", "mae", "ece")
SIZE, EPOCHS = 256, 100


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coins", type=Path, help="folder of the sets")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["morgan-5"])
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    if not args.table:
        if not args.coins:
            parser.error("--coins: name the folder of the sets")
        done = {(result["task"], result["seed"]) for result in read_results(RESULTS)}
        for task, seed in product(args.tasks, args.seeds):
            if (task, seed) not in done:
                prepare(args.coins / TASKS[task].coins, task, seed)
                result = {"task": task, "seed": seed} | train_and_test(task, seed)
                add_result(result, RESULTS)
    print_table(read_results(RESULTS))


def train_and_test(task: str, seed: int) -> dict[str, float]:
    """Train on the dataset of a task and a seed, and return the metrics on its test split."""
    from ultralytics import YOLO  # the table needs it not

    torch.set_num_threads(usable_cores())
    dataset = SCRATCH / f"dataset-{task}-{seed}"
    classes = find_classes(dataset)
    run = {"project": str(SCRATCH), "name": f"yolo-{task}-{seed}", "exist_ok": True, "device": "cpu", "seed": seed}
    model = YOLO("yolo11n-cls.yaml")
    model.train(data=str(dataset), pretrained=False, imgsz=SIZE, epochs=EPOCHS, **run)
    model = YOLO(SCRATCH / run["name"] / "weights" / "best.pt")
    test = find_split(dataset / "test", classes)
    found = [model.predict(path, imgsz=SIZE, device="cpu", verbose=False)[0] for path in test.paths]
    order = [{name: number for number, name in found[0].names.items()}[name] for name in classes]
    probabilities = np.stack([photo.probs.data.numpy()[order] for photo in found])
    return score(Predictions.from_probabilities(probabilities, test.labels.numpy(), classes))


def print_table(results: list[dict]) -> None:
    """Print mean and standard deviation over the seeds, a line for each task."""
    print(
        f"\n| task | seeds | {' | '.join(METRICS[column].name for column in COLUMNS)} |", "| --- " * 6 + "|", sep="\n"
    )
    for task in TASKS:
        found = [result for result in results if result["task"] == task]
        if found:
            cells = [mean_and_deviation([result[column] for result in found]) for column in COLUMNS]
            print(f"| {task} | {len(found)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
