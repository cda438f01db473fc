"""Accuracy on real coins: train the recipe, and the recipe without each of its parts, on folds that it has not seen

    python -m benchmarks.accuracy --coins ../coins                 the runs that accuracy.jsonl lacks, then the tables
    python -m benchmarks.accuracy --coins ../coins --tasks us-29-series --scale small --rows ours --seeds 0 1 2
    python -m benchmarks.accuracy --table                          only the tables of what accuracy.jsonl has
    python -m benchmarks.accuracy --table --plots docs             and pictures: by the number of photos, and by time

A set of coins is a folder with a folder of photos for each grade: COINS/morgan/<grade>/*.jpg. Each row of a table is
trained for each task and seed. The seed chooses the split; in a task by series it is the number of the fold, 0 to 4.
Choices are made on validation photos; the test photos are scored once, at the end of a run. Each result is added to
accuracy.jsonl as soon as it is there. After an interruption, the same command goes on.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import coin_classifier_custom as coin
from coinkit import augment, optim
from coinkit.checkpoints import load_checkpoint
from coinkit.classes import JOINED, bands_of, join_grade
from coinkit.cli import keep_freed_memory, usable_cores
from coinkit.dataset import Split, find_split
from coinkit.devices import find_device
from coinkit.inference import build_networks
from coinkit.metrics import METRICS, Predictions, score
from coinkit.photos import PHOTO_FOLDER
from coinkit.report import evaluate

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "accuracy.jsonl"
SCRATCH = HERE / "scratch"
SEEDS = (0, 1, 2)
FOLDS = 5  # of a task by series
VAL_SHARE = 12  # percent of the photos to learn from, in a task by series


class Task(NamedTuple):
    """What is learned, and on which photos it is tested."""

    coins: str  # folder of the set
    single_grades: bool = False  # every grade is a class; else there are five
    by_series: bool = False  # test on series of coins that are not in training; their name ends at the last "-"
    cut: bool = False  # prepare with --cut

    @property
    def columns(self) -> list[str]:
        """The metrics in its table."""
        return ["accuracy", "accuracy_within_1", *(["accuracy_within_3"] if self.single_grades else []), "mae", "ece"]

    @property
    def five_class_columns(self) -> list[str]:
        """The metrics in its table for the grades summed to five classes."""
        return ["accuracy", "accuracy_within_1", "mae"] if self.single_grades else []


TASKS = {
    "morgan-5": Task("morgan"),
    "morgan-5-cut": Task("morgan", cut=True),
    "morgan-27": Task("morgan", single_grades=True),
    "us-5": Task("us"),
    "us-29": Task("us", single_grades=True),
    "us-5-series": Task("us", by_series=True),
    "us-29-series": Task("us", single_grades=True, by_series=True),
}

START_TASK, START_SEED = "us-29", 0  # what a network learns that others start from
LARGER_PHOTOS = "--image-width 512 --image-height 256"
# A run of the default network takes hours without a GPU, so what is compared is narrower and sees smaller photos.
SCALES = {
    "default": "",
    "default-256x128": "--preset small",
    "quarter-512x256": f"--preset narrow {LARGER_PHOTOS}",
    "quarter": "--preset narrow",
    "small": "--preset narrow --image-width 128 --image-height 64 --num-epochs 30",
}


def half_of_training(folder: Path, classes: list[str]) -> Split:
    """Find the photos of a split; for training only every second one, twice, so that there are as many steps."""
    split = find_split(folder, classes)
    if folder.name != "train":
        return split
    return Split(list(split.paths)[::2] * 2, split.labels[::2].repeat(2))


def few_photos(count: int, folder: Path, classes: list[str]) -> Split:
    """Find the photos of a split; for training only `count` of each class, for validation a seventh as many.

    The names begin with the grade, so photos at even distances are of all its grades.
    """
    split = find_split(folder, classes)
    count = {"train": count, "val": max(1, count // 7)}.get(folder.name, len(split.paths))
    by_class = [(split.labels == label).nonzero().flatten() for label in range(len(classes))]
    places = [torch.linspace(0, len(indices) - 1, min(count, len(indices))).long() for indices in by_class]
    kept = torch.cat([indices[chosen] for indices, chosen in zip(by_class, places, strict=True)])
    return Split([split.paths[index] for index in kept.tolist()], split.labels[kept])


# Changes to the recipe: module, name in it, what replaces it
PLAIN_CONVOLUTIONS = (coin, "StandardisedConv2d", lambda *args, bias, **options: nn.Conv2d(*args, **options))
NO_WEIGHT_STANDARDISATION = (coin, "StandardisedConv2d", nn.Conv2d)
NO_GROUP_NORM = (nn, "GroupNorm", lambda groups, channels: nn.Identity())
NO_GREY = (augment, "GREYSCALE", 0.0)
NARROW_LABELS = (optim, "label_spread", lambda share_done, spread, *_: spread)
NO_GROWTH = (optim, "regularisation_factor", lambda *_: 1.0)
ONE_LEARNING_RATE = (optim, "FULL_RATE_INPUTS", math.inf)
CONSTANT_LEARNING_RATE = (optim, "learning_rate_factor", lambda progress, warmup: 1.0)
HALF_OF_TRAINING = (coin, "find_split", half_of_training)
PHOTO_COUNTS = (10, 20, 40, 80, 160)  # of each class
EPOCHS_OF_160 = {count: 30 * 160 // count for count in PHOTO_COUNTS if count < 160}  # as many steps as 30 epochs of 160
FEW_PHOTOS = {count: (coin, "find_split", partial(few_photos, count)) for count in PHOTO_COUNTS}
DEFAULT_WEIGHTS = (nn.init, "kaiming_normal_", lambda *args, **options: None)
DEFAULT_BIASES = (nn.init, "zeros_", lambda *args, **options: None)

HARD_LABELS, NO_CLIPPING, NO_DECAY = "--label-spread 0", "--clip-grad-norm 0", "--weight-decay 0"
GUIDE = f"{HARD_LABELS} {NO_CLIPPING} {NO_DECAY} --warmup 0"  # AdamW without decay is Adam
GUIDE_LIMITS = {"ROTATION": 8, "SHIFT": 0.03, "ZOOM": 0.06, "GAMMA": 0, "LIGHT": 0, "COLOUR": 0.15}
GUIDE_AUGMENTATION = [(augment, name, limit) for name, limit in GUIDE_LIMITS.items()]
GUIDE_CHANGES = [PLAIN_CONVOLUTIONS, NO_GROUP_NORM, DEFAULT_BIASES, NO_GREY, NO_GROWTH, *GUIDE_AUGMENTATION]

FROM_PHOTOS = "ours, from {} photos of each class"
IN_AS_MANY_STEPS = {
    count: FROM_PHOTOS.format(count) + (f", {EPOCHS_OF_160[count]} epochs" if count in EPOCHS_OF_160 else "")
    for count in PHOTO_COUNTS
}
MEAN_OF_3 = "ours, mean of 3 networks"
WITH_NARROW_LABELS = "ours without labels that are wide at first"
FIXED_GUIDE = "guide, with He initialisation and a learning rate for each layer"


class Row(NamedTuple):
    """What is trained for a row of the table."""

    flags: str = ""  # of the training; {start} is the network of US coins
    changes: Sequence[tuple] = ()  # to the recipe
    networks: Sequence[str] = ("",)  # further flags of each network; with several, their mean is scored


PARTS = {  # of the recipe: the rows by default
    "guide": Row(GUIDE, [*GUIDE_CHANGES, DEFAULT_WEIGHTS, ONE_LEARNING_RATE]),
    "guide, with a learning rate for each layer": Row(GUIDE, [*GUIDE_CHANGES, DEFAULT_WEIGHTS]),
    FIXED_GUIDE: Row(GUIDE, GUIDE_CHANGES),
    "ours": Row(),
    "ours without weight standardisation": Row(changes=[NO_WEIGHT_STANDARDISATION]),
    "ours without group norm and weight standardisation": Row(changes=[PLAIN_CONVOLUTIONS, NO_GROUP_NORM]),
    "ours without a learning rate for each layer": Row(changes=[ONE_LEARNING_RATE]),
    "ours without warm-up and annealing": Row(changes=[CONSTANT_LEARNING_RATE]),
    "ours without soft labels": Row(HARD_LABELS),
    "ours without growing dropout and augmentation": Row(changes=[NO_GROWTH]),
    "ours without augmentation": Row("--augment 0"),
    "ours without grey photos": Row(changes=[NO_GREY]),
    "ours without clipping": Row(NO_CLIPPING),
    "ours without weight decay": Row(NO_DECAY),
    "ours without dropout": Row("--dropout 0"),
    "ours, from half of the photos": Row(changes=[HALF_OF_TRAINING]),
    "resnet50": Row("--model resnet50"),
    "resnet50, from half of the photos": Row("--model resnet50", [HALF_OF_TRAINING]),
}
FROM_US = "--init-from {start}"
TRIALS = {
    "ours, from a network of US coins": Row(FROM_US),
    "ours, from half of the photos and a network of US coins": Row(FROM_US, [HALF_OF_TRAINING]),
    WITH_NARROW_LABELS: Row(changes=[NARROW_LABELS]),
    MEAN_OF_3: Row(networks=["", "", ""]),
    "ours, mean of 3 networks, one at 512x256": Row(networks=[LARGER_PHOTOS, "", ""]),
    "ours, dropout 0.2": Row("--dropout 0.2"),
    "ours, half of the augmentation": Row("--augment 0.5"),
    "ours, learning rate 0.002": Row("--learning-rate 0.002"),
    "ours, 60 epochs": Row("--num-epochs 60"),
    "ours, 16 epochs": Row("--num-epochs 16"),
    "ours, residual": Row("--residual"),
    "ours, each face averaged": Row(changes=[(coin, "MAX_FEATURE_MAP", (2, 1))]),
    "ours, turned by up to 180 degrees": Row(changes=[(augment, "ROTATION", 180)]),
    **{FROM_PHOTOS.format(count): Row(changes=[FEW_PHOTOS[count]]) for count in PHOTO_COUNTS},
    **{
        IN_AS_MANY_STEPS[count]: Row(f"--num-epochs {epochs}", [FEW_PHOTOS[count]])
        for count, epochs in EPOCHS_OF_160.items()
    },
}
ROWS = PARTS | TRIALS

TIMED_TASKS = {"morgan-5": "264 photos of Morgan dollars", "us-5": "990 photos of 79 US series"}
TIMED_ROWS = {  # scale and row, and their name in the picture
    ("small", "ours"): "narrow, 128x64",
    ("quarter", "ours"): "narrow, 256x128",
    ("quarter", MEAN_OF_3): "mean of 3 narrow",
    ("default-256x128", "ours"): "default, 256x128",
    ("default-256x128", "ours, 16 epochs"): "default, 256x128",
}
WITH_THE_RATE = {row for _, row in TIMED_ROWS} | {WITH_NARROW_LABELS}  # rows whose trainings are as fast
MINUTES = (1, 3, 10, 30, 100, 300)  # ticks


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coins", type=Path, help="folder of the sets")
    parser.add_argument("--scale", choices=SCALES, default="quarter")
    rows_help = f"by default {'; '.join(PARTS)}. Others: {'; '.join(TRIALS)}"
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(PARTS), metavar="ROW", help=rows_help)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["morgan-5", "morgan-27"])
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="how many to train at once, sharing the cores")
    parser.add_argument("--table", action="store_true", help="train nothing")
    plots_help = "folder for two pictures: accuracy by the number of photos of each class, and by training time"
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help=plots_help)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # the process of a single run
    args = parser.parse_args()
    if args.one:
        train_and_test(args.scale, args.rows[0], args.tasks[0], args.seeds[0])
        return
    if not args.table:
        if not args.coins:
            parser.error("--coins: name the folder of the sets")
        for task, seed in product(args.tasks, args.seeds):
            prepare(args.coins / TASKS[task].coins, task, seed)
        if any("{start}" in ROWS[row].flags for row in args.rows):
            train_start(args.coins, args.scale)
        done = {key(result) for result in read_results()}
        jobs = [job for job in product([args.scale], args.rows, args.tasks, args.seeds) if job not in done]
        threads = max(1, usable_cores() // args.jobs)
        with ThreadPoolExecutor(args.jobs) as pool:
            for job in jobs:
                pool.submit(run_apart, job, threads)
    print_tables(read_results())
    if args.plots:
        plot_accuracy_by_photos(read_results(), args.plots / "accuracy_by_photos.png")
        plot_accuracy_by_time(read_results(), args.plots / "accuracy_by_time.png")


def key(result: dict) -> tuple:
    """Return what tells a result from all others."""
    return tuple(result[name] for name in ("scale", "row", "task", "seed"))


def read_results(file: Path = RESULTS) -> list[dict]:
    """Return the results in a file with a line of JSON for each; none if there is no such file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def add_result(result: dict, file: Path) -> None:
    """Add a result to a file as `read_results` reads it."""
    with file.open("a") as results:
        results.write(json.dumps(result) + "\n")


def prepare(coins: Path, task: str, seed: int) -> None:
    """Prepare the dataset of a task and a seed, if it is not there yet."""
    images, dataset = SCRATCH / f"images-{task}-{seed}", SCRATCH / f"dataset-{task}-{seed}"
    joined = not TASKS[task].single_grades
    if dataset.exists():
        return
    if TASKS[task].by_series and seed >= FOLDS:
        sys.exit(f"{task} has the seeds 0 to {FOLDS - 1}")
    photos = sorted(coins.glob("*/*.jpg"))
    if not photos:
        sys.exit(f"no photos in {coins}/<grade>/")
    held_out = photos_of_fold(photos, seed) if TASKS[task].by_series else set()
    for photo in photos:
        if photo not in held_out:
            copy(photo, images / photo.parent.name / PHOTO_FOLDER)
    unfinished = SCRATCH / f"unfinished-{task}-{seed}"
    shutil.rmtree(unfinished, ignore_errors=True)  # of an interrupted run, perhaps with photos that are held out
    command = [sys.executable, ROOT / "prepare_dataset.py", "--source", images, "--output", unfinished]
    command += ["--seed", str(seed), *(["--classes", "five"] if joined else [])]
    command += ["--ratios", str(100 - VAL_SHARE), str(VAL_SHARE), "0"] if held_out else []
    command += ["--cut"] if TASKS[task].cut else []
    subprocess.run(command, check=True)
    for photo in held_out:
        grade = photo.parent.name
        copy(photo, unfinished / "test" / (join_grade(grade, JOINED["five"]) if joined else grade))
    unfinished.rename(dataset)
    shutil.rmtree(images)


def train_start(coins: Path, scale: str) -> None:
    """Train the network of US coins that others start from, if it is not there yet."""
    folder, unfinished = start_folder(scale), SCRATCH / f"unfinished-start-{scale}"
    if folder.exists():
        return
    prepare(coins / TASKS[START_TASK].coins, START_TASK, START_SEED)
    train(SCRATCH / f"dataset-{START_TASK}-{START_SEED}", unfinished, SCALES[scale].split())
    unfinished.rename(folder)


def start_folder(scale: str) -> Path:
    """Return the folder of the network of US coins."""
    return SCRATCH / f"start-{scale}"


def photos_of_fold(photos: list[Path], fold: int) -> set[Path]:
    """Return the photos of every fifth series, from the one with the number of the fold on."""
    series = sorted({photo.stem.rpartition("-")[0] for photo in photos})
    return {photo for photo in photos if series.index(photo.stem.rpartition("-")[0]) % FOLDS == fold}


def copy(photo: Path, folder: Path) -> None:
    """Copy a photo to a folder, under a name that tells its grade."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(photo, folder / f"{photo.parent.name}-{photo.name}")


def run_folder(scale: str, row: str, task: str, seed: int) -> Path:
    """Return the folder for the files of a run."""
    return SCRATCH / f"{scale}-{row.replace(' ', '-').replace(',', '')}-{task}-{seed}"


def run_apart(job: tuple, threads: int) -> None:
    """Run a job in a process of its own, since it changes modules."""
    scale, row, task, seed = job
    command = [sys.executable, "-m", "benchmarks.accuracy", "--one", "--scale", scale, "--rows", row, "--tasks", task]
    command += ["--seeds", str(seed)]
    log = Path(f"{run_folder(*job)}.log")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with log.open("a") as output:
        status = subprocess.run(command, stdout=output, stderr=output, cwd=ROOT, env=environment)
    print(
        f"{row}, {scale}, task {task}, seed {seed}: {'failed, see ' + str(log) if status.returncode else 'done'}",
        flush=True,
    )


def train_and_test(scale: str, row: str, task: str, seed: int) -> None:
    """Train, score the test split, and add the result to accuracy.jsonl."""
    flags, changes, flags_of_networks = ROWS[row]
    for module, name, replacement in changes:
        if not hasattr(module, name):  # it has been renamed
            raise AttributeError(f"{module.__name__} has no {name} to replace")
        setattr(module, name, replacement)
    folder, dataset = run_folder(scale, row, task, seed), SCRATCH / f"dataset-{task}-{seed}"
    paths = []
    for number, more_flags in enumerate(flags_of_networks):
        options = f"--seed {seed + 100 * number} {SCALES[scale]} {flags} {more_flags}".split()
        options = [option.format(start=start_folder(scale) / coin.BEST) for option in options]
        paths.append(train(dataset, folder / str(number), options))
    checkpoints = {path: load_checkpoint(path) for path in paths}
    networks, classes = build_networks(checkpoints, find_device("auto"))
    best = checkpoints[paths[-1]]
    test = find_split(dataset / "test", classes)
    uncalibrated = [network._replace(temperature=1.0) for network in networks]
    predictions, before = (evaluate(graders, classes, test).predictions for graders in (networks, uncalibrated))
    result = {"scale": scale, "row": row, "task": task, "seed": seed, "count": len(predictions.labels)}
    result |= score(predictions) | {"ece_before": score(before)["ece"]}
    if TASKS[task].single_grades:
        result["five_classes"] = score(sum_to_five_classes(predictions, classes))
    result |= {"best_epoch": best["progress"]["best_epoch"], "val_accuracy": best["best_val_acc"]}
    result |= {"parameters": sum(parameter.numel() for parameter in networks[-1].model.parameters())}
    log_dir = folder / str(number) / best["progress"]["log_dir"]
    log = {name: EventAccumulator(str(log_dir / name)).Reload() for name in ("train", "val")}
    result["val_accuracy_by_epoch"] = [point.value for point in log["val"].Scalars("accuracy")]
    epochs = len(result["val_accuracy_by_epoch"])
    photos = len(coin.find_split(dataset / "train", classes).paths)  # a row may have changed coin.find_split
    result["photos_trained"] = photos * epochs * len(networks)
    result["photos_per_second"] = median(point.value for point in log["train"].Scalars("photos per second"))
    add_result(result, RESULTS)
    shutil.rmtree(folder)


def train(dataset: Path, folder: Path, options: list[str]) -> Path:
    """Train a network, or resume its training, and return the file of its best checkpoint."""
    sys.argv = ["coin_classifier_custom.py", "--data", str(dataset), "--output", str(folder), "--runs", str(folder)]
    sys.argv += ["--batch-size", "4", *options]
    if (folder / coin.LAST).exists():
        sys.argv.append("--resume")
    keep_freed_memory()
    if coin.main():
        sys.exit("stopped")
    return folder / coin.BEST


def sum_to_five_classes(predictions: Predictions, grades: list[str]) -> Predictions:
    """Return the predictions of the five classes, whose probabilities are the sums of those of their grades."""
    five = bands_of(grades, "five")
    labels = five.members.argmax(axis=1)[predictions.labels]
    return Predictions.from_probabilities(predictions.probabilities @ five.members, labels, five.names)


def print_tables(results: list[dict]) -> None:
    """Print mean and standard deviation over the seeds, a table for each task, a line for each row and scale."""
    names = {key: metric.name for key, metric in METRICS.items()}
    for name, task in TASKS.items():
        titles = [names[column] for column in task.columns]
        titles += [f"{names[column]}, of 5 classes" for column in task.five_class_columns]
        titles += ["ECE without the temperature", "epochs to the fixed guide's accuracy"]
        lines = []
        for scale, row in product(SCALES, ROWS):
            if found := select(results, scale, row, name):
                values = [[result[column] for result in found] for column in task.columns]
                values += [
                    [result.get("five_classes", {}).get(column, math.nan) for result in found]
                    for column in task.five_class_columns
                ]
                values += [[result["ece_before"] for result in found]]
                values += [[epochs_to_fixed_guide(result, results) for result in found]]
                lines.append(f"| {row} ({scale}) | {len(found)} | {' | '.join(map(mean_and_deviation, values))} |")
        if lines:
            print(f"\n| {name} | seeds | {' | '.join(titles)} |", "| --- " * (2 + len(titles)) + "|", *lines, sep="\n")


def plot_accuracy_by_photos(results: list[dict], target: Path) -> None:
    """Draw accuracy by the number of photos of each class of us-5, trained in as many steps, at the scale small."""
    figure, axes = draw_axes("training photos of each of 5 classes", ylim=(0, 1))
    by_count = {count: select(results, "small", row, "us-5") for count, row in IN_AS_MANY_STEPS.items()}
    counts = [count for count, found in by_count.items() if len(found) > 1]
    for column in ("accuracy", "accuracy_within_1"):
        values = [[result[column] for result in by_count[count]] for count in counts]
        deviations = [np.std(of_count, ddof=1) for of_count in values]
        axes.errorbar(counts, list(map(np.mean, values)), deviations, marker="o", capsize=3, label=METRICS[column].name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, counts)
    axes.legend(loc="lower right")
    figure.savefig(target, dpi=100)


def plot_accuracy_by_time(results: list[dict], target: Path) -> None:
    """Draw accuracy by the time of the training, for 5 classes of two sets of coins.

    The trainings ran on several machines. So their times are worked out: from how many photos they were shown, and from
    the highest rate of one core with their network and size of photos.
    """
    figure, axes = draw_axes("minutes of one core", ylim=(0.4, 0.9))
    timed = [result for result in results if result["row"] in WITH_THE_RATE]
    for task, name in TIMED_TASKS.items():
        points = []
        for (scale, row), label in TIMED_ROWS.items():
            if found := select(results, scale, row, task):
                rate = max(result["photos_per_second"] for result in timed if result["scale"] == scale)
                accuracies = [result["accuracy"] for result in found]
                minutes = np.mean([result["photos_trained"] for result in found]) / rate / 60
                deviation = np.std(accuracies, ddof=1) if len(accuracies) > 1 else 0
                points.append((minutes, np.mean(accuracies), deviation))
                axes.annotate(label, points[-1][:2], xytext=(5, 5), textcoords="offset points", fontsize="small")
        minutes, means, deviations = zip(*points, strict=True)
        axes.errorbar(minutes, means, deviations, fmt="o", capsize=3, label=name)
    axes.set_xscale("log")
    axes.set_xlim(MINUTES[0], MINUTES[-1])
    axes.set_xticks(MINUTES, MINUTES)
    axes.legend(loc="lower right")
    figure.savefig(target, dpi=100)


def draw_axes(xlabel: str, ylim: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return a figure and its axes, for the share of the test photos that are graded right."""
    figure = Figure((6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel="share of test photos", ylim=ylim)
    axes.grid(alpha=0.3)
    return figure, axes


def select(results: list[dict], scale: str, row: str, task: str) -> list[dict]:
    """Return the results of all seeds."""
    return [result for result in results if key(result)[:3] == (scale, row, task)]


def epochs_to_fixed_guide(result: dict, results: list[dict]) -> float:
    """Return after how many epochs a run had the validation accuracy of the fixed guide's best epoch; nan if never."""
    fixed = (result["scale"], FIXED_GUIDE, result["task"], result["seed"])
    wanted = next((other["val_accuracy"] for other in results if key(other) == fixed), math.inf)
    accuracies = result.get("val_accuracy_by_epoch", [])
    return next((epoch for epoch, accuracy in enumerate(accuracies, 1) if accuracy >= wanted), math.nan)


def mean_and_deviation(values: list[float]) -> str:
    """Return mean and standard deviation as a cell of the table; "-" if there is nothing to average."""
    if np.isnan(values).all():
        return "-"
    return f"{np.nanmean(values):.3f}" + (f" ± {np.nanstd(values, ddof=1):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
