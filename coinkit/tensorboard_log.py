"""What TensorBoard shows of a run: curves, settings and pictures. It takes little time and a few megabytes."""

import math
import threading
import time
import warnings
from concurrent.futures import Executor
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from coinkit.augment import augment
from coinkit.cli import UserError, printable, told_if_it_fails
from coinkit.dataset import PhotoReader, Split, read_batches, to_tensor
from coinkit.devices import device_of
from coinkit.faces import open_coin
from coinkit.figures import confusion_chart, overlay, photo_grid
from coinkit.heatmaps import heatmaps
from coinkit.photos import PhotoError
from coinkit.report import Evaluation
from coinkit.review import describe

PICTURES = 10  # draw at most this many times in a run; at the sizes below, that makes 20 MB at most
MAX_PICTURE_SHARE = 0.01  # leave pictures out while they have taken more than this share of the time
EXAMPLES = 9  # augmented training photos
MISTAKES = 6  # photos in the picture of the worst mistakes
WIDTH = 1024  # pixels; wider pictures are made smaller
# TensorBoard shows pictures 350 pixels wide, or 210 high: a confusion matrix can still be read at this size.
CONFUSION_SIDE, CONFUSION_FONT_SIZE = 3.2, 9  # inches and points
SHOWN_FIRST = ("learning_rate", "batch_size", "num_epochs", "image_width", "image_height", "dropout", "augment")
SHOWN_FIRST += ("label_spread", "weight_decay", "channels", "seed")  # the options by which people compare runs


class TensorBoardLog:
    """Two runs for TensorBoard, "train" and "val", whose curves of the same name share a chart.

    Nothing is written before there is something to log. What cannot be logged is told in a line, and left out.

    Args:
        folder: where the two runs go.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.train = self.val = self.next_epoch = None
        self.started, self.picture_seconds = time.perf_counter(), 0.0

    def open(self, first_epoch: int) -> None:
        """Open new files. Points that earlier files have of this epoch or a later one are no longer shown.

        Raises:
            UserError: they cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter  # takes a second, which predict.py saves

        self.close()
        threading.excepthook = tell_of_thread
        try:
            self.train, self.val = (
                SummaryWriter(self.folder / name, purge_step=first_epoch) for name in ("train", "val")
            )
        except (OSError, UnicodeError) as error:  # a name that is not valid Unicode is too much for TensorBoard
            raise UserError(f"cannot write to {self.folder} ({error}): give another folder by --runs.") from None
        self.next_epoch = first_epoch

    def close(self) -> None:
        """Finish the files, if there are any."""
        for writer in (self.train, self.val):
            if writer:
                with left_out_if_it_fails("end of the curves"):
                    writer.close()
        self.train = self.val = None

    def start(self, config: dict, dataset: dict[str, dict]) -> None:
        """Log what a run begins with: its options, and its photos by {split: {grade: [count, ...]}}."""
        self.open(first_epoch=1)
        self.train.add_text("config", table(["option", "value"], config.items()))
        counts = [(grade, *(split[grade][0] for split in dataset.values())) for grade in next(iter(dataset.values()))]
        self.train.add_text("dataset", table(["grade", *dataset], counts))

    def photos(self, train: Split, classes: list[str], strength: float, read: PhotoReader, pool: Executor) -> None:
        """Log some training photos, by chance, as augmentation of this strength varies them.

        Raises:
            UserError: too many photos cannot be read.
        """
        chosen = torch.randperm(len(train.paths))[:EXAMPLES]
        photos, indices = next(read_batches(train.paths, chosen, EXAMPLES, read, pool))
        with left_out_if_it_fails("augmented training photos"):
            pictures = (augment(photos, strength) * 255).byte().permute(0, 2, 3, 1).numpy()
            grid = photo_grid(pictures, [classes[label] for label in train.labels[indices]], columns=3)
            self.train.add_image("augmented training photos", shrunk(grid), dataformats="HWC")

    def graph(self, model: nn.Module) -> None:
        """Log the graph of a network."""
        photos = torch.zeros(1, 3, model.image_height, model.image_width, device=device_of(model))
        with left_out_if_it_fails("graph"), warnings.catch_warnings(action="ignore", category=FutureWarning):
            self.train.add_graph(model, photos)  # which calls functions that PyTorch is going to remove

    def epoch(self, number: int, train: dict[str, float], val: dict[str, float], evaluation: Evaluation) -> None:
        """Log a point of each curve, and of the accuracy of each grade that has validation photos."""
        with left_out_if_it_fails(f"curves of epoch {number}"):
            if number != self.next_epoch:  # the run was resumed, or has gone back to an earlier epoch
                self.open(number)
            for writer, values in ((self.train, train), (self.val, val)):
                for name, value in values.items():
                    writer.add_scalar(name, value, number)
            grades = list(map(printable, evaluation.classes))
            # Runs share the charts of tags that they share, so only runs of the same grades have the same tags. The
            # number puts the grades in the order of the scale, since TensorBoard sorts tags.
            group = f"accuracy of {len(grades)} grades from {grades[0]} to {grades[-1]}"
            for label, counts in enumerate(evaluation.confusion):
                if counts.any():
                    tag = f"{group}/{label + 1:02} {grades[label]}"
                    self.val.add_scalar(tag, counts[label] / counts.sum(), number)
            self.next_epoch = number + 1

    def pictures(
        self,
        epoch: int,
        num_epochs: int,
        is_last: bool,
        evaluation: Evaluation,
        model: nn.Module,
    ) -> None:
        """Log the confusion matrix and the worst mistakes: of the last epoch, and of some others if there is time."""
        due = epoch % math.ceil(num_epochs / PICTURES) == 0
        affordable = self.picture_seconds < MAX_PICTURE_SHARE * (time.perf_counter() - self.started)
        if not self.val or not (is_last or (due and affordable)):
            return
        started = time.perf_counter()
        with left_out_if_it_fails("confusion matrix"):
            chart = confusion_chart(evaluation.confusion, evaluation.classes, CONFUSION_SIDE, CONFUSION_FONT_SIZE)
            self.val.add_image("confusion matrix", chart, epoch, dataformats="HWC")
        with left_out_if_it_fails("worst mistakes"):
            if mistakes := mistake_pictures(evaluation, MISTAKES, model):
                captions, photos = zip(*mistakes, strict=True)
                grid = photo_grid(np.stack(photos), list(captions))
                self.val.add_image("worst mistakes", shrunk(grid), epoch, dataformats="HWC")
        self.picture_seconds += time.perf_counter() - started

    def result(self, config: dict, values: dict[str, float]) -> None:
        """Log options and results side by side, so that runs can be compared by them (HParams)."""
        ordered = {name: config[name] for name in (*SHOWN_FIRST, *config)}
        settings = {
            name: value if isinstance(value, int | float) else printable(value) for name, value in ordered.items()
        }
        with left_out_if_it_fails("comparison of runs"):
            self.val.add_hparams(settings, values, run_name=".")


def mistake_pictures(evaluation: Evaluation, count: int, model: nn.Module) -> list[tuple[str, np.ndarray]]:
    """Return the worst mistakes: for each a caption, and a picture of the photo beside its heatmap.

    The heatmap shows what spoke for the predicted grade. The pictures are (height, 2 * width, 3), uint8. Photos that
    can no longer be read are left out.
    """
    pictures, classes, predictions = [], evaluation.classes, evaluation.predictions
    for index in evaluation.worst()[:count]:
        with suppress(PhotoError):
            photo = to_tensor(open_coin(evaluation.paths[index], model.image_width, model.image_height).photo)
            predicted = predictions.predicted[index]
            heatmap = heatmaps(model, photo[None], [predicted])[0].numpy()
            photo = photo.permute(1, 2, 0).numpy()
            picture = np.hstack([photo, overlay(photo, heatmap)])
            true = classes[predictions.labels[index]]
            pictures.append((describe(true, classes[predicted], predictions.confidence[index]), picture))
    return pictures


def left_out_if_it_fails(what: str) -> AbstractContextManager:
    """Tell in a line that something cannot be drawn or logged, and go on."""
    return told_if_it_fails(f"TensorBoard shows no {what} this time")


def tell_of_thread(failure: threading.ExceptHookArgs) -> None:
    """Tell in a line, and not in a traceback, that a thread in which TensorBoard writes has ended."""
    with left_out_if_it_fails("more"):
        raise failure.exc_value


def table(header: list[str], rows: object) -> str:
    """Return rows of values as a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(printable, line))} |" for line in lines)


def shrunk(picture: np.ndarray) -> np.ndarray:
    """Return a picture, (height, width, 3), uint8, at most `WIDTH` wide."""
    height, width, _ = picture.shape
    if width <= WIDTH:
        return picture
    return np.asarray(Image.fromarray(picture).resize((WIDTH, height * WIDTH // width)))
