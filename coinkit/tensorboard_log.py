"""What TensorBoard shows of a run: curves, settings, and pictures, at a small share of its time and a few megabytes."""

import math
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from coinkit.figures import confusion_chart, photo_grid
from coinkit.report import Evaluation, caption, mistake_pictures

PICTURES = 10  # times in a run; with the sizes below, that makes 20 MB at most
MAX_PICTURE_SHARE = 0.01  # of the time of a run may go into pictures
MISTAKES = 6  # in a picture
WIDTH = 1024  # pixels that a picture is at most wide


class TensorBoardLog:
    """Two runs for TensorBoard, "train" and "val", whose curves of the same name share a chart."""

    def __init__(self, folder: str, first_epoch: int):
        from torch.utils.tensorboard import SummaryWriter  # here, since it takes a second that predict.py can save

        # After a resume, purge_step hides what an interrupted run had logged beyond its last checkpoint.
        self.train = SummaryWriter(Path(folder, "train"), purge_step=first_epoch)
        self.val = SummaryWriter(Path(folder, "val"), purge_step=first_epoch)
        self.started, self.picture_seconds = time.perf_counter(), 0.0

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.train.close()
        self.val.close()

    def start(self, config: dict, dataset: dict[str, dict], examples: np.ndarray) -> None:
        """Log what a run begins with.

        Args:
            config: the options.
            dataset: {split: {grade: [count, ...]}}.
            examples: augmented photos, as a picture (height, width, 3), uint8.
        """
        self.train.add_text("config", table(["option", "value"], config.items()))
        counts = [(grade, *(grades[grade][0] for grades in dataset.values())) for grade in next(iter(dataset.values()))]
        self.train.add_text("dataset", table(["grade", *dataset], counts))
        self.train.add_image("augmented training photos", shrunk(examples), dataformats="HWC")

    def graph(self, model: nn.Module, device: torch.device) -> None:
        """Log what a network computes from a photo, on the device that it is on."""
        photos = torch.zeros(1, 3, model.image_height, model.image_width, device=device)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # add_graph itself uses what is to go
            self.train.add_graph(model, photos)

    def epoch(self, number: int, train: dict[str, float], val: dict[str, float]) -> None:
        """Log a point of each curve."""
        for writer, values in ((self.train, train), (self.val, val)):
            for name, value in values.items():
                writer.add_scalar(name, value, number)

    def evaluation(
        self, epoch: int, num_epochs: int, evaluation: Evaluation, model: nn.Module, device: torch.device
    ) -> None:
        """Log the accuracy by grade, and now and then which grades are taken for which, and the worst mistakes."""
        for label, counts in enumerate(evaluation.confusion):
            if counts.any():
                tag = f"accuracy by grade/{evaluation.classes[label]}"
                self.val.add_scalar(tag, counts[label] / counts.sum(), epoch)
        due = epoch % math.ceil(num_epochs / PICTURES) == 0
        affordable = self.picture_seconds < MAX_PICTURE_SHARE * (time.perf_counter() - self.started)
        if epoch != num_epochs and not (due and affordable):
            return
        started = time.perf_counter()
        chart = confusion_chart(evaluation.confusion, evaluation.classes)
        self.val.add_image("confusion matrix", shrunk(chart), epoch, dataformats="HWC")
        if mistakes := mistake_pictures(evaluation, MISTAKES, model, device):
            photos = np.stack([picture for _, picture in mistakes])
            grid = photo_grid(photos, [caption(evaluation, index) for index, _ in mistakes])
            self.val.add_image("worst mistakes", shrunk(grid), epoch, dataformats="HWC")
        self.picture_seconds += time.perf_counter() - started

    def result(self, config: dict, values: dict[str, float]) -> None:
        """Log options and results side by side, so that runs can be compared by them (HParams)."""
        settings = {
            name: value if isinstance(value, int | float | str) else str(value) for name, value in config.items()
        }
        self.val.add_hparams(settings, values, run_name=".")


def table(header: list[str], rows: object) -> str:
    """Return rows of values as a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def shrunk(picture: np.ndarray) -> np.ndarray:
    """Return a picture, (height, width, 3), uint8, at most `WIDTH` wide."""
    height, width, _ = picture.shape
    if width <= WIDTH:
        return picture
    return np.asarray(Image.fromarray(picture).resize((WIDTH, height * WIDTH // width)))
