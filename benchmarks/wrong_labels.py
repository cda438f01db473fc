"""How many wrong labels training finds: plant some in real coins, train, and see how far down the list they are

    python -m benchmarks.wrong_labels --coins ../coins               the trainings that are missing, then the table
    python -m benchmarks.wrong_labels --coins ../coins --seeds 2 3   other wrong labels, splits and networks
    python -m benchmarks.wrong_labels --table                        only the table of what wrong_labels.jsonl has

In 5 % of the training photos of the set COINS/morgan, as 5 classes, the label is moved: by one grade, by two, or to any
other. A training on all of them gives what coinkit.label_errors ranks by, and what it might rank by instead. Two more,
each on one half of the photos, grade the other half: confident learning by cross-validation (Northcutt et al. 2021,
arXiv 1911.00068), for which one trains twice as long. Each training's logits are kept in benchmarks/scratch until the
three are done, and the result is then added to wrong_labels.jsonl. After an interruption, the same command goes on.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import coin_classifier_custom as coin
from benchmarks.accuracy import (
    HERE,
    ROOT,
    SCALES,
    SCRATCH,
    add_result,
    mean_and_deviation,
    prepare,
    read_results,
    train,
)
from coinkit.dataset import Split, find_classes, find_split
from coinkit.devices import find_device
from coinkit.inference import load_networks
from coinkit.label_errors import LabelCheck
from coinkit.report import evaluate

WRONG = 0.05  # share of the training photos
OFF = {"1 grade off": [1], "2 grades off": [2], "any grade": [1, 2, 3, 4]}  # kinds of wrong labels, in grades
PARTS = ("all", "even", "odd")  # which training photos a network learns
LISTED = (0.05, 0.1)  # shares of the training photos: how many of the wrong labels are among so many of the lowest
COLUMNS = (*(f"lowest {share:.0%}" for share in LISTED), "ROC AUC")
RESULTS = HERE / "wrong_labels.jsonl"
TASK, SCALE = "morgan-5", "small"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coins", type=Path, help="folder of the sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # the process of a single training
    args = parser.parse_args()
    if args.one:
        kind, seed, part = args.one
        train_one(kind, int(seed), part)
        return
    if not args.table:
        if not args.coins:
            parser.error("--coins: name the folder of the sets")
        done = {(result["kind"], result["seed"]) for result in read_results(RESULTS)}
        for seed, kind in product(args.seeds, OFF):
            if (kind, seed) not in done:
                prepare(args.coins / "morgan", TASK, seed)
                for part in PARTS:
                    run_apart(kind, seed, part)
                result = {"kind": kind, "seed": seed, "found": score_all(kind, seed)}
                add_result(result, RESULTS)
    print_table(read_results(RESULTS))


def training_file(kind: str, seed: int, part: str) -> Path:
    """Return where the logits of a training are kept."""
    return SCRATCH / f"wrong-labels-{kind.replace(' ', '-')}-{seed}-{part}.npz"


def run_apart(kind: str, seed: int, part: str) -> None:
    """Train in a process of its own, since it changes modules, unless that has been done."""
    file = training_file(kind, seed, part)
    if not file.exists():
        command = [sys.executable, "-m", "benchmarks.wrong_labels", "--one", kind, str(seed), part]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with file.with_suffix(".log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd=ROOT, env=environment)
        print(f"{kind}, seed {seed}, {part}: done", flush=True)


# ---------------------------------------------------------------- one training


def train_one(kind: str, seed: int, part: str) -> None:
    """Train on a dataset with wrong labels, and keep the logits of each epoch and the final probabilities."""
    dataset, wrong = plant_wrong_labels(SCRATCH / f"dataset-{TASK}-{seed}", kind, seed)
    classes = find_classes(dataset)
    photos = find_split(dataset / "train", classes)
    number = torch.arange(len(photos.paths))
    learned = {"all": number, "even": number[::2], "odd": number[1::2]}[part]
    coin.find_split = lambda folder, classes: select(find_split(folder, classes), folder, learned)
    coin.LabelCheck = Recorder
    folder = training_file(kind, seed, part).with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    best = train(dataset, folder, ["--seed", str(seed), *SCALES[SCALE].split()])
    networks, _ = load_networks([best], find_device("auto"))
    evaluation = evaluate(networks, classes, photos)
    with training_file(kind, seed, part).open("wb") as file:
        np.savez(
            file,
            logits=torch.stack(Recorder.logits).numpy(),  # (epochs, learned photos, classes)
            learned=learned.numpy(),
            labels=photos.labels.numpy(),
            wrong=np.array([path.name in wrong for path in photos.paths]),
            probabilities=evaluation.predictions.probabilities,
        )
    shutil.rmtree(folder)


class Recorder(LabelCheck):
    """A check that keeps the logits of all epochs."""

    logits: list[Tensor] = []  # for each epoch, (photos, classes)

    def add(self, photos: Tensor, logits: Tensor) -> None:
        """Keep the logits of some photos in an epoch."""
        super().add(photos, logits)
        while len(self.logits) < self.epochs.max():
            self.logits.append(torch.full(self.sums.shape, torch.nan))
        self.logits[-1][photos] = logits


def plant_wrong_labels(dataset: Path, kind: str, seed: int) -> tuple[Path, set[str]]:
    """Copy a dataset, and move some training photos to the folders of other grades; return it, and their names."""
    target = training_file(kind, seed, "dataset").with_suffix("")
    if not target.exists():
        copied = target.with_suffix(".partial")
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(dataset, copied)
        classes = find_classes(copied)
        train = find_split(copied / "train", classes)
        rng = np.random.default_rng([seed, 1 + list(OFF).index(kind)])
        wrong = []
        for photo in rng.permutation(len(train.paths)):
            path, grade = train.paths[photo], int(train.labels[photo])
            others = [other for other in range(len(classes)) if abs(other - grade) in OFF[kind]]
            if others and len(wrong) < round(WRONG * len(train.paths)):
                path.rename(copied / "train" / classes[rng.choice(others)] / path.name)
                wrong.append(path.name)
        (copied / "wrong.json").write_text(json.dumps(wrong))
        copied.rename(target)
    return target, set(json.loads((target / "wrong.json").read_text()))


def select(split: Split, folder: Path, photos: Tensor) -> Split:
    """Return the photos with these indices if the folder is that of the training photos, or else all of a split."""
    if folder.name != "train":
        return split
    return Split([split.paths[photo] for photo in photos.tolist()], split.labels[photos])


# ---------------------------------------------------------------- how to rank photos: the lower, the more doubtful


def margin(values: Tensor, labels: Tensor) -> Tensor:
    """Return by how much the value of the label exceeds the highest of the others, (..., N)."""
    own = labels.expand(values.shape[:-1])[..., None]
    return values.gather(-1, own)[..., 0] - values.scatter(-1, own, -torch.inf).amax(-1)


def own(values: Tensor, labels: Tensor) -> Tensor:
    """Return the value of the label, (N,)."""
    return values.gather(1, labels[:, None])[:, 0]


def closeness(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the expected number of grades between prediction and label, negative, (N,)."""
    distance = (torch.arange(probabilities.shape[1]) - labels[:, None]).abs()
    return -(probabilities * distance).sum(1)


def confident_learning(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the margins, and below all of them those of photos that confident learning takes for wrong, (N,).

    These are more likely of another grade than the mean photo with that label (Northcutt et al. 2021, section 3).
    """
    classes = range(probabilities.shape[1])
    thresholds = torch.stack([probabilities[labels == label, label].mean() for label in classes])
    confident = torch.where(probabilities >= thresholds, probabilities, -1.0)
    is_wrong = (confident.amax(1) > 0) & (confident.argmax(1) != labels)
    return margin(probabilities, labels) - 10.0 * is_wrong


def score_all(kind: str, seed: int) -> dict[str, list[float]]:
    """Return for each way to rank the photos how well it finds the wrong labels: a number for each of `COLUMNS`."""
    results = {part: np.load(training_file(kind, seed, part)) for part in PARTS}
    whole = results["all"]
    labels, wrong = torch.from_numpy(whole["labels"]), torch.from_numpy(whole["wrong"])
    logits = torch.from_numpy(whole["logits"])
    mean, of_mean_logits = logits.softmax(2).nanmean(0), logits.nanmean(0).softmax(1)
    unseen = torch.zeros_like(mean)  # probabilities of the photos that a network has not learned
    for part, other in (("even", "odd"), ("odd", "even")):
        unseen[results[other]["learned"]] = torch.from_numpy(results[part]["probabilities"])[results[other]["learned"]]
    rankings = {
        "probability of the label, of the mean logits (this toolkit)": own(of_mean_logits, labels),
        "distance from the label, of the mean logits": closeness(of_mean_logits, labels),
        "margin of the mean logits": margin(logits.nanmean(0), labels),
        "area under the margin": margin(logits, labels).nanmean(0),
        "margin of the mean probabilities": margin(mean, labels),
        "mean probability of the label": own(mean, labels),
        "mean distance from the label": closeness(mean, labels),
        "confident learning, of the mean probabilities": confident_learning(mean, labels),
        "margin of the trained network's probabilities": margin(torch.from_numpy(whole["probabilities"]), labels),
        "margin, by cross-validation (twice the training)": margin(unseen, labels),
        "confident learning, by cross-validation": confident_learning(unseen, labels),
    }
    return {name: score_ranking(scores, wrong) for name, scores in rankings.items()}


def score_ranking(scores: Tensor, wrong: Tensor) -> list[float]:
    """Return which share of the wrong labels is among the lowest scores, by `LISTED`, and the area under the ROC curve.

    That area is the chance that a wrong label has a lower score than a right one.

    Args:
        scores: (N,), of the photos.
        wrong: (N,), bool, whether their labels are wrong.
    """
    counts, ranked = [round(share * len(scores)) for share in LISTED], scores.argsort(stable=True)
    lower = scores[wrong][:, None] < scores[~wrong]
    return [*(float(wrong[ranked[:count]].sum() / wrong.sum()) for count in counts), lower.float().mean().item()]


def print_table(results: list[dict]) -> None:
    """Print how well wrong labels are found: mean and standard deviation over the seeds."""
    titles = [f"{kind}, {column}" for kind in OFF for column in COLUMNS]
    print(f"\n| ranked by | {' | '.join(titles)} |", "| --- " * (1 + len(titles)) + "|", sep="\n")
    for name in results[0]["found"] if results else ():
        cells = [
            [result["found"][name][place] for result in results if result["kind"] == kind] or [math.nan]
            for kind in OFF
            for place in range(len(COLUMNS))
        ]
        print(f"| {name} | {' | '.join(map(mean_and_deviation, cells))} |")


if __name__ == "__main__":
    main()
