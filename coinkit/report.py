"""The report on a model: grade labelled photos, compute the metrics, and write a folder of tables and pictures.

index.html         the whole report on one page, with the coins to look at
photos/            the photos of these coins
confusion.png      confusion matrix: which grades are taken for which
reliability.png    reliability diagram: accuracy by confidence
predictions.csv    a row for each photo
metrics.json       the metrics with their 95 % intervals
differences.csv    what another model graded otherwise, if there was one to compare with
"""

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from coinkit.classes import Bands, bands_of
from coinkit.cli import UserError, printable
from coinkit.comparison import Comparison
from coinkit.dataset import Split
from coinkit.faces import Faces
from coinkit.figures import confusion_chart, reliability_diagram
from coinkit.files import atomic_folder, exclusive_lock, hidden_sibling, is_system_file
from coinkit.inference import CUT_OUT, NOT_CUT_OUT, Network, grade_photos
from coinkit.metrics import (
    UNKNOWN,
    Estimate,
    GradeScore,
    Metric,
    Predictions,
    confusion_matrix,
    estimate_score,
    score_grades,
    shown_metrics,
    summarise,
)
from coinkit.pages import data_uri, encode_picture
from coinkit.photos import ONE_FACE, TWO_PHOTOS, PhotoError
from coinkit.review import MAX_COINS, ShownCoin, draw_coins, write_coins_page
from coinkit.tables import table_writer
from coinkit.training_photos import count_coins, dataset_rows, find_in_training, find_sources

FILES = {"index.html", "confusion.png", "reliability.png", "predictions.csv", "metrics.json", "differences.csv"}
PHOTOS, PHOTO_NAME = "photos", "coin-{:03}.jpg"  # folder of the photos of the page, and their names
LEAST_SURE = 20  # coins on the page that were given their grade
MAX_WAIT = 600  # seconds for another writer of the same report to end


class Evaluation:
    """How a model graded labelled photos.

    Args:
        classes: the names of the grades, in the order of the scale.
        paths: the photos that could be read, N.
        labels: (N,), the indices of their true classes.
        probabilities: (N, classes), 0 to 1.
        unread: the photos that could not be read, and why.

    Attributes:
        in_training: whether the model was trained on a photo, (N,), bool; all False if that is not known.
        coins: how many coins the photos show.
    """

    def __init__(
        self,
        classes: list[str],
        paths: list[Path | Faces],
        labels: np.ndarray,
        probabilities: np.ndarray,
        unread: dict[Path | Faces, PhotoError],
    ):
        self.classes, self.paths, self.unread = classes, paths, unread
        self.predictions = Predictions.from_probabilities(probabilities, labels, classes)
        self.confusion = confusion_matrix(self.predictions.predicted, labels, len(classes))
        self.in_training = np.zeros(len(labels), dtype=bool)
        self.coins = len(paths)

    @cached_property
    def score(self) -> dict[str, Estimate]:
        """The value of each of `METRICS`, with its interval."""
        return estimate_score(self.predictions)

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics to show."""
        return shown_metrics(self.classes)

    @cached_property
    def grades(self) -> dict[str, GradeScore]:
        """The score of each grade."""
        return score_grades(self.confusion, self.classes)

    def worst(self) -> list[int]:
        """Return the indices of all mistakes: the furthest off first, and among equals the most confident first.

        If the classes have no order, no mistake is further off than another.
        """
        confidence, error = self.predictions.confidence, self.predictions.error
        order = np.lexsort((-confidence, -error)) if "mae" in self.metrics else np.argsort(-confidence)
        return [index for index in order.tolist() if not self.predictions.correct[index]]


def evaluate(
    networks: list[Network],
    classes: list[str],
    split: Split,
    checkpoints: Collection[dict] = (),
    bands: Bands | None = None,
) -> Evaluation:
    """Grade labelled photos. Those that cannot be read are left out.

    They are named on stderr, and so is how many show one face, or are cut out, or not, unlike in training.

    Args:
        networks: with several, their mean is taken.
        classes: the grades that they all know.
        split: the photos.
        checkpoints: of the networks, which tell what they have learned.
        bands: to sum the grades to, which are then evaluated; the labels of the photos are of these.

    Raises:
        UserError: none of the photos can be read.
    """
    read, probabilities, unread, noted = [], [], {}, Counter()
    graded = grade_photos(networks, split.paths, tta=False)
    bar = tqdm(graded, "Grading", len(split.paths), unit="photo", leave=False, disable=None)
    for index, (path, result) in enumerate(bar):
        if isinstance(result, PhotoError):
            unread[path] = result
        else:
            read.append(index)
            probabilities.append(result[0])
            noted.update(result[1])
    for path, reason in unread.items():
        print(f"{printable(path)}: {reason}", file=sys.stderr)
    if noted[ONE_FACE]:
        print(f"Warning: {noted[ONE_FACE]} of {len(read)} photos look like one face. {TWO_PHOTOS}", file=sys.stderr)
    for note in (NOT_CUT_OUT, CUT_OUT):
        if noted[note]:
            print(f"Warning: {noted[note]} of {len(read)} photos are {note}.", file=sys.stderr)
    if not read:
        raise UserError("none of the photos can be read.")
    paths, labels = [split.paths[index] for index in read], split.labels[read].numpy()
    shares = torch.stack(probabilities).numpy()
    if bands:
        classes, shares = bands.names, shares @ bands.members
    evaluation = Evaluation(classes, paths, labels, shares, unread)
    rows = dataset_rows(paths)
    evaluation.in_training, evaluation.coins = find_in_training(paths, rows, checkpoints), count_coins(paths, rows)
    return evaluation


def check_report(folder: Path) -> None:
    """Make sure that a folder holds nothing but a report, so that a new one can replace it.

    Raises:
        UserError: something else is there, and would be lost.
    """
    folder = Path(os.path.realpath(folder))
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"{folder} is no folder: move it away, the report goes there.")
    for path in sorted(folder.glob("*")) + sorted(folder.glob(f"{PHOTOS}/*")):
        in_report = path.name in FILES or path == folder / PHOTOS or path.match(f"{PHOTOS}/coin-*.jpg")
        if not in_report and not is_system_file(path.name):
            raise UserError(f"{path} is not part of a report and would be lost: move it away.")


def write_report(
    evaluation: Evaluation,
    model: nn.Module,
    words: list[str],
    about: dict,
    folder: Path,
    comparison: Comparison | None = None,
    doubtful: Sequence[ShownCoin] = (),
) -> None:
    """Write the report; it replaces an earlier one only when it is complete. Two writers take turns.

    Args:
        evaluation: what to report.
        model: a network that graded the photos, for the heatmaps.
        words: sentences for the top of the page.
        about: more lines for the top of the page, {name: text}: the checkpoint, for example.
        folder: where to write.
        comparison: with another model, if there is one.
        doubtful: training photos with labels to look at.

    Raises:
        UserError: what `check_report` says, or it cannot be written.
    """
    bands = bands_of(evaluation.classes)
    confusion = confusion_chart(evaluation.confusion, evaluation.classes)
    reliability = reliability_diagram(evaluation.predictions.confidence, evaluation.predictions.correct)
    coins = coins_to_check(evaluation, comparison)
    lock = exclusive_lock(hidden_sibling(Path(os.path.realpath(folder)), "lock"), folder, timeout=MAX_WAIT)
    check_report(folder)
    with lock, atomic_folder(folder) as partial:
        write_predictions(evaluation, partial / "predictions.csv")
        write_metrics(evaluation, about, partial / "metrics.json")
        Image.fromarray(confusion).save(partial / "confusion.png")
        Image.fromarray(reliability).save(partial / "reliability.png")
        if comparison:
            write_differences(evaluation, comparison, partial / "differences.csv")
        (partial / PHOTOS).mkdir()
        numbers = count(1)

        def store(picture: bytes) -> str:
            name = f"{PHOTOS}/{PHOTO_NAME.format(next(numbers))}"
            (partial / name).write_bytes(picture)
            return name

        shown = list(draw_coins(coins, evaluation.classes, bands, model, store))
        labels = draw_coins(list(doubtful), evaluation.classes, bands, model, store)
        kinds = {"mistake": "mistakes", "right": "right, but least sure"}
        write_coins_page(
            "report.html",
            partial / "index.html",
            title=f"Coin grades: {summarise(evaluation.predictions, evaluation.classes)}",
            evaluation=evaluation,
            words=words,
            about=about,
            comparison=comparison,
            format_estimate=format_estimate,
            confusion=picture_uri(confusion),
            reliability=picture_uri(reliability),
            coins_text=describe_coins(evaluation, coins),
            coins=shown,
            labels=[coin | {"title": f"{coin['true']}, or rather {coin['top'][0][0]}?"} for coin in labels],
            classes=evaluation.classes,
            kinds=kinds | ({"differs": "graded otherwise by the other model"} if comparison else {}),
            orders={
                "worst": "worst first",
                "confidence": "least sure first",
                "true": "true grade",
                "predicted": "predicted grade",
            },
        )


def coins_to_check(evaluation: Evaluation, comparison: Comparison | None) -> list[ShownCoin]:
    """Return the coins that a person should look at, at most `MAX_COINS`.

    These are all mistakes, the worst first; what the compared model grades otherwise; and the least sure of the others.
    """
    classes, predictions = evaluation.classes, evaluation.predictions
    differs = comparison.differs if comparison else np.zeros(len(evaluation.paths), dtype=bool)
    least_sure = np.argsort(predictions.confidence, kind="stable").tolist()
    others = [index for index in least_sure if predictions.correct[index]]
    shown = evaluation.worst() + [index for index in others if differs[index]]
    shown += [index for index in others if not differs[index]][:LEAST_SURE]
    shown = shown[:MAX_COINS]
    coins, sources = [], find_sources([evaluation.paths[index] for index in shown])
    for index in shown:
        path, true = evaluation.paths[index], classes[predictions.labels[index]]
        kinds, notes = ["right" if predictions.correct[index] else "mistake"], []
        if differs[index]:
            kinds.append("differs")
            notes.append(f"The other model says {classes[comparison.other.predicted[index]]}.")
        if evaluation.in_training[index]:
            notes.append("The model was trained on this photo.")
        coins.append(
            ShownCoin(path, predictions.probabilities[index], true, tuple(kinds), tuple(notes), sources.get(path))
        )
    return coins


def describe_coins(evaluation: Evaluation, coins: list[ShownCoin]) -> str:
    """Return which coins are shown, as text."""
    mistakes = sum("mistake" in coin.kinds for coin in coins)
    total = int((~evaluation.predictions.correct).sum())
    if mistakes < total:
        return f"The worst {mistakes} of {total} mistakes; predictions.csv has all photos."
    first = "furthest off" if "mae" in evaluation.metrics else "surest"
    said = f"All {total} mistakes, the {first} first." if total else "There are no mistakes."
    right = coins[mistakes:]
    if not right:
        return said
    differing = "those that the other model grades otherwise, and " if any("differs" in c.kinds for c in right) else ""
    return f"{said} {len(right)} right ones follow: {differing}those of which the model is least sure."


def format_estimate(estimate: Estimate, format: str) -> tuple[str, str]:
    """Return a value and its interval as text; a dash where there is none."""
    value, low, high = ("-" if math.isnan(number) else f"{number:{format}}" for number in estimate)
    return value, "-" if low == "-" else f"{low} to {high}"


def write_predictions(evaluation: Evaluation, path: Path) -> None:
    """Write a row for each photo: its grades, confidence, error ("" off the scale), the probability of each grade."""
    classes, predictions = evaluation.classes, evaluation.predictions
    with table_writer(path) as table:
        table.writerow(["photo", "true", "predicted", "confidence", "error, grades", *classes])
        for index, photo in enumerate(evaluation.paths):
            true, predicted = classes[predictions.labels[index]], classes[predictions.predicted[index]]
            confidence, *shares = (
                f"{share:.4f}" for share in (predictions.confidence[index], *predictions.probabilities[index])
            )
            error = predictions.error[index]
            table.writerow([photo, true, predicted, confidence, "" if math.isnan(error) else int(error), *shares])


def write_metrics(evaluation: Evaluation, about: dict, path: Path) -> None:
    """Write the metrics for programs; null is a value that says nothing of these classes, or that is not known."""

    def plain(estimate: Estimate) -> dict:
        return {name: None if math.isnan(value) else round(value, 6) for name, value in estimate._asdict().items()}

    metrics = about | {
        "photos": len(evaluation.paths),
        "photos_in_training": int(evaluation.in_training.sum()),
        "unread": {str(photo): str(reason) for photo, reason in evaluation.unread.items()},
        "classes": evaluation.classes,
        "score": {
            key: plain(estimate if key in evaluation.metrics else UNKNOWN) for key, estimate in evaluation.score.items()
        },
        "grades": {
            name: {"precision": plain(grade.precision), "recall": plain(grade.recall), "count": grade.count}
            for name, grade in evaluation.grades.items()
        },
        "confusion": evaluation.confusion.tolist(),
    }
    path.write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")


def write_differences(evaluation: Evaluation, comparison: Comparison, path: Path) -> None:
    """Write a row for each photo that two models grade differently."""
    classes, first, other = evaluation.classes, comparison.first, comparison.other
    with table_writer(path) as table:
        table.writerow(["photo", "true", "predicted", "confidence", "other predicted", "other confidence"])
        for index in np.flatnonzero(comparison.differs):
            grades = (classes[values[index]] for values in (first.labels, first.predicted, other.predicted))
            true, predicted, other_predicted = grades
            confidence, other_confidence = (f"{model.confidence[index]:.4f}" for model in (first, other))
            table.writerow([evaluation.paths[index], true, predicted, confidence, other_predicted, other_confidence])


def picture_uri(picture: np.ndarray) -> str:
    """Return a picture (H, W, 3), uint8, as a data: URI, which embeds it in the page."""
    return data_uri(encode_picture(Image.fromarray(picture), "png"), "png")
