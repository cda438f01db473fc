"""How far a training has come, and which of its epochs is the best."""

import math
from dataclasses import dataclass, fields

from torch import Tensor
from torch.nn import functional as F

from coinkit.calibration import fit_temperature


@dataclass
class Progress:
    """How far a run has come: plain values that go into its checkpoints."""

    log_dir: str
    steps: int = 0  # taken, over all epochs
    epochs: int = 0  # finished and validated
    halvings: int = 0  # of --batch-size, to fit into memory
    rate_cuts: int = 0  # to a tenth, after an explosion
    bad_steps: int = 0  # without a finite loss and gradient, in a row
    lowest_loss: float = math.inf  # of validation, calibrated
    lowest_epoch: int = 0
    loss_margin: float = 0.0  # two standard errors of the lowest loss
    best_epoch: int = 0
    best_val_acc: float = 0.0  # of the best epoch
    temperature: float = 1.0  # of the best epoch
    learning_rate: float = 0.0  # of the last step, in layers of few inputs
    # Of the epoch at hand, so that it can be stopped in the middle:
    seen: int = 0  # photos
    loss_sum: float = 0.0
    correct: int = 0
    gradient_sum: float = 0.0  # of the norms before clipping
    seconds: float = 0.0

    @classmethod
    def load(cls, values: dict) -> "Progress":
        """Return what a checkpoint holds.

        Raises:
            Exception: of any kind, if that is none.
        """
        progress = cls(**values)
        for field in fields(cls):
            value = getattr(progress, field.name)
            if type(value) is not field.type or (field.type is not str and value < 0):
                raise ValueError(f"a progress of {field.name}: {value}")
        return progress

    def begin_epoch(self) -> None:
        """Forget the epoch at hand."""
        self.seen, self.loss_sum, self.correct, self.gradient_sum, self.seconds = 0, 0.0, 0, 0.0, 0.0

    def end_epoch(self, logits: Tensor, labels: Tensor) -> bool:
        """Count the epoch at hand, and return whether it is the best so far.

        The best is the latest whose loss is not above the lowest by more than two standard errors (after Breiman et al.
        1984, "Classification and Regression Trees", whose rule has one). So few photos cannot tell such epochs apart,
        and as the learning rate falls, the latest is likely to be the best on other photos. Without validation photos
        it is the latest of all.

        The losses are those after calibration, since late epochs are too sure of what they say, and are not the worse
        for it: the temperature puts that right.

        Args:
            logits: (N, classes), of the validation photos.
            labels: (N,), the indices of their classes.
        """
        self.epochs += 1
        self.begin_epoch()
        if not len(labels):
            self.lowest_epoch = self.epochs
            return True
        temperature = fit_temperature(logits, labels)
        losses = F.cross_entropy(logits / temperature, labels, reduction="none")
        loss = losses.mean().item()
        if loss < self.lowest_loss:
            self.lowest_loss, self.lowest_epoch = loss, self.epochs
            self.loss_margin = 2 * losses.std(correction=0).item() / math.sqrt(len(losses))
        best = loss <= self.lowest_loss + self.loss_margin
        if best:
            self.temperature = temperature
        return best
