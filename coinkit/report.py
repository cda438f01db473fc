"""The report on a model: grade labelled photos, score the grades, and write a folder of tables and pictures to look at.

index.html         all of it on one page that needs no other file
confusion.png      which grades are taken for which
reliability.png    whether the confidence is right
mistakes.png       the worst mistakes, each beside what made the network decide
predictions.csv    a row for each photo
metrics.json       the scores, with their 95 % intervals
"""

import base64
import csv
import io
import json
import math
import sys
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from coinkit.cli import UserError
from coinkit.dataset import Split, normalise, to_tensor
from coinkit.figures import confusion_chart, overlay, photo_grid, reliability_diagram
from coinkit.files import SYSTEM_FILES, atomic_folder
from coinkit.heatmaps import heatmaps
from coinkit.inference import Network, grade_photos
from coinkit.metrics import Estimate, GradeScore, confusion_matrix, estimate_score, score_grades
from coinkit.photos import PhotoError, open_photo

FILES = {"index.html", "confusion.png", "reliability.png", "mistakes.png", "predictions.csv", "metrics.json"}
TEMPLATE = Path(__file__).with_name("report.html")
MISTAKES = 12  # in the gallery


class Measure(NamedTuple):
    """How a value of `Score` is told to people."""

    name: str
    format: str
    meaning: str


MEASURES = {
    "exact": Measure("exact", ".1%", "photos that were given their grade"),
    "within_one": Measure("within 1 grade", ".1%", "photos that are at most one grade off"),
    "within_three": Measure("within 3 grades", ".1%", "photos that are at most three grades off"),
    "mean_error": Measure("mean error, grades", ".2f", "how many grades a photo is off"),
    "sheldon_error": Measure("mean error, Sheldon points", ".2f", "how many points of the 70 a photo is off"),
    "kappa": Measure("quadratic kappa", "z.3f", "agreement, large errors counting more: 0 is chance, 1 is perfect"),
    "balanced_accuracy": Measure("balanced accuracy", ".1%", "what is exact, each grade counting the same"),
    "calibration_error": Measure("calibration error", "z.3f", "how far confidence and accuracy are apart, 0 to 1"),
}


class Evaluation:
    """What a model made of labelled photos.

    Args:
        classes: the names of the grades, in the order of the scale.
        paths: the photos that could be read, N.
        labels: (N,), the indices of their true classes.
        probabilities: (N, classes), 0 to 1.
        unread: the other photos, and why they could not be read.
    """

    def __init__(
        self,
        classes: list[str],
        paths: list[Path],
        labels: np.ndarray,
        probabilities: np.ndarray,
        unread: dict[Path, PhotoError],
    ):
        self.classes, self.paths, self.unread = classes, paths, unread
        self.labels, self.probabilities = labels, probabilities
        self.predicted, self.confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        self.distance = np.abs(self.predicted - labels)
        self.confusion = confusion_matrix(self.predicted, labels, len(classes))

    @cached_property
    def score(self) -> dict[str, Estimate]:
        """The values of `Score`, with their intervals."""
        return estimate_score(self.probabilities, self.labels, self.classes)

    @cached_property
    def grades(self) -> dict[str, GradeScore]:
        """The score of each grade."""
        return score_grades(self.confusion, self.classes)

    def worst(self) -> list[int]:
        """Return the indices of all mistakes: those furthest off, and of these the most confident, come first."""
        order = np.lexsort((-self.confidence, -self.distance))
        return [index for index in order.tolist() if self.distance[index]]


def evaluate(networks: list[Network], classes: list[str], split: Split, device: torch.device) -> Evaluation:
    """Grade labelled photos; those that cannot be read are named and left out.

    Args:
        networks: on the device; of several, the mean is taken.
        classes: the grades that they all know.
        split: the photos.
        device: where the networks are.

    Raises:
        UserError: none of the photos can be read.
    """
    read, probabilities, unread = [], [], {}
    graded = grade_photos(networks, split.paths, tta=False, device=device)
    bar = tqdm(graded, "Grading", len(split.paths), unit="photo", leave=False, disable=None)
    for index, (path, result) in enumerate(bar):
        if isinstance(result, PhotoError):
            unread[path] = result
        else:
            read.append(index)
            probabilities.append(result[0])
    for path, reason in unread.items():
        print(f"{path}: {reason}", file=sys.stderr)
    if not read:
        raise UserError("none of the photos can be read.")
    paths, labels = [split.paths[index] for index in read], split.labels[read].numpy()
    return Evaluation(classes, paths, labels, torch.stack(probabilities).numpy(), unread)


def check_report(folder: Path) -> None:
    """Make sure that a report may take the place of what is there.

    Raises:
        UserError: something else is there, and would be lost.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder: move it away, so that the report can be there.")
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        if path.name not in FILES | SYSTEM_FILES:
            raise UserError(f"{path} is no part of a report and would be lost: move it away.")


def write_report(evaluation: Evaluation, model: nn.Module, device: torch.device, about: dict, folder: Path) -> None:
    """Write the report; it takes the place of the one before it only when it is whole.

    Args:
        evaluation: what to tell.
        model: a network that graded the photos, to show what made it decide.
        device: where the network is.
        about: further facts to tell, as names and texts: the checkpoint, say.
        folder: where to, as `check_report` allows it.
    """
    from jinja2 import Template

    confusion = confusion_chart(evaluation.confusion, evaluation.classes)
    reliability = reliability_diagram(evaluation.confidence, evaluation.distance == 0)
    mistakes = mistake_pictures(evaluation, MISTAKES, model, device)
    with atomic_folder(folder) as partial:
        write_predictions(evaluation, partial / "predictions.csv")
        write_metrics(evaluation, about, partial / "metrics.json")
        Image.fromarray(confusion).save(partial / "confusion.png")
        Image.fromarray(reliability).save(partial / "reliability.png")
        if mistakes:
            captions = [caption(evaluation, index) for index, _ in mistakes]
            gallery = photo_grid(np.stack([picture for _, picture in mistakes]), captions)
            Image.fromarray(gallery).save(partial / "mistakes.png")
        page = Template(TEMPLATE.read_text("utf-8"), autoescape=True, trim_blocks=True, lstrip_blocks=True).render(
            evaluation=evaluation,
            about=about,
            measures=MEASURES,
            format_estimate=format_estimate,
            confusion=data_uri(confusion, "PNG"),
            reliability=data_uri(reliability, "PNG"),
            mistakes=[
                {
                    "picture": data_uri(picture, "JPEG"),
                    "caption": caption(evaluation, index),
                    "path": evaluation.paths[index],
                }
                for index, picture in mistakes
            ],
        )
        (partial / "index.html").write_text(page, "utf-8", "backslashreplace")  # file names may be invalid Unicode


def mistake_pictures(
    evaluation: Evaluation, count: int, model: nn.Module, device: torch.device
) -> list[tuple[int, np.ndarray]]:
    """Return the worst mistakes: the index of each photo, and it beside what in it spoke for the predicted grade.

    The pictures are (height, 2 * width, 3), uint8. Photos that cannot be read any more are left out.
    """
    pictures = []
    for index in evaluation.worst()[:count]:
        with suppress(PhotoError):
            photo = to_tensor(open_photo(evaluation.paths[index], model.image_width, model.image_height)[0])
            target = torch.tensor([evaluation.predicted[index]], device=device)
            heatmap = heatmaps(model, normalise(photo[None].to(device)), target)[0].cpu().numpy()
            photo = photo.permute(1, 2, 0).numpy()
            pictures.append((index, np.hstack([photo, overlay(photo, heatmap)])))
    return pictures


def caption(evaluation: Evaluation, index: int) -> str:
    """Tell the true grade of a photo, the predicted one, and how sure the model was of it."""
    true, predicted = (evaluation.classes[labels[index]] for labels in (evaluation.labels, evaluation.predicted))
    return f"{true} taken for {predicted}, {evaluation.confidence[index]:.0%} sure"


def format_estimate(estimate: Estimate, format: str) -> tuple[str, str]:
    """Return a value and its interval as people read them; a dash where there is none."""
    interval = f"{estimate.low:{format}} to {estimate.high:{format}}"
    return (
        "-" if math.isnan(estimate.value) else f"{estimate.value:{format}}",
        "-" if math.isnan(estimate.low) else interval,
    )


def write_predictions(evaluation: Evaluation, path: Path) -> None:
    """Write a row for each photo: its grades, the confidence, and the probability of each grade."""
    classes = evaluation.classes
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", "true", "predicted", "confidence", "grades off", *classes])
        for index, photo in enumerate(evaluation.paths):
            true, predicted = classes[evaluation.labels[index]], classes[evaluation.predicted[index]]
            shares = [f"{share:.4f}" for share in (evaluation.confidence[index], *evaluation.probabilities[index])]
            writer.writerow([photo, true, predicted, shares[0], evaluation.distance[index], *shares[1:]])


def write_metrics(evaluation: Evaluation, about: dict, path: Path) -> None:
    """Write the scores for programs; null is what the photos cannot tell."""

    def plain(estimate: Estimate) -> dict:
        return {name: None if math.isnan(value) else round(value, 6) for name, value in estimate._asdict().items()}

    metrics = about | {
        "photos": len(evaluation.paths),
        "unread": {str(photo): str(reason) for photo, reason in evaluation.unread.items()},
        "classes": evaluation.classes,
        "score": {name: plain(estimate) for name, estimate in evaluation.score.items()},
        "grades": {
            name: {"precision": plain(grade.precision), "recall": plain(grade.recall), "count": grade.count}
            for name, grade in evaluation.grades.items()
        },
        "confusion": evaluation.confusion.tolist(),
    }
    path.write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")


def data_uri(picture: np.ndarray, format: str) -> str:
    """Return a picture (H, W, 3), uint8, as text that a page can hold."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format, quality=90)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
