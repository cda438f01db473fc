"""How far a training has come, and which epoch is the best."""

import math
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from coinkit.calibration import fit_temperature, unsure_threshold


@dataclass
class Progress:
    """How far a run has come. A checkpoint holds these values, so that the run can be resumed."""

    log_dir: str  # of TensorBoard, as seen from --output: the two can be moved together
    run: str = ""  # a name that no other run has
    steps: int = 0  # taken so far, over all epochs
    epochs: int = 0  # trained and validated
    halvings: int = 0  # how often the number of photos at a time was halved, since the memory was not enough
    rate_cuts: int = 0  # how often the learning rate was cut to a tenth, since the loss had exploded
    bad_steps: int = 0  # the latest steps in a row without a finite loss and gradient
    lowest_loss: float = math.inf  # of validation, after calibration
    lowest_epoch: int = 0  # the one with the lowest loss
    loss_margin: float = 0.0  # two standard errors of the lowest loss
    best_epoch: int = 0  # as `end_epoch` defines it; 0 before the first
    best_val_acc: float = 0.0  # validation accuracy of the best epoch
    temperature: float = 1.0  # of the best epoch
    unsure_below: float = 0.0  # `unsure_threshold` of the best epoch
    unsure_band_below: float = 0.0  # the same for the bands that the grades are in
    learned: float = 0.0  # `share_learned` of the last epoch
    learning_rate: float = 0.0  # of the last step, in layers with few inputs
    # Of each epoch: training accuracy, validation accuracy, and validation loss after calibration
    history: list = field(default_factory=list)
    # What the current epoch has done so far:
    seen: int = 0  # photos
    learned_from: int = 0  # of them, those that could be read, in steps with a finite loss
    loss_sum: float = 0.0  # over these photos
    correct: int = 0  # of these photos that were given their grade
    gradient_sum: float = 0.0  # over these photos, of the norm before clipping
    seconds: float = 0.0

    @classmethod
    def load(cls, values: dict) -> "Progress":
        """Return the progress that a checkpoint holds.

        Raises:
            Exception: of any kind, if a value is missing or wrong.
        """
        progress = cls(**values)
        for entry in fields(cls):
            value = getattr(progress, entry.name)
            if type(value) is not entry.type or (entry.type in (int, float) and value < 0):
                raise ValueError(f"a progress of {entry.name}: {value}")
        return progress

    def last_epoch(self, num_epochs: int, patience: int) -> int:
        """Return after which epoch the training ends: with patience, that many after the lowest loss so far."""
        return min(num_epochs, self.lowest_epoch + patience) if patience else num_epochs

    def steps_in_epoch(self) -> int:
        """Return how many steps an epoch has, once one has been trained."""
        return max(1, self.steps // self.epochs)

    def forget_losses(self) -> None:
        """Let the next epoch be the best so far, since earlier losses cannot be compared with it."""
        self.lowest_loss, self.lowest_epoch = math.inf, self.epochs

    def forget_best(self) -> None:
        """Let the next epoch be the best so far, since the one before is lost."""
        self.forget_losses()
        self.best_epoch = 0

    def begin_epoch(self) -> None:
        """Set what the current epoch has done to 0."""
        self.seen, self.learned_from, self.correct = 0, 0, 0
        self.loss_sum, self.gradient_sum, self.seconds = 0.0, 0.0, 0.0

    def describe_resumed(self, num_epochs: int) -> str:
        """Say where a run goes on, or that it has ended."""
        if self.epochs >= num_epochs:
            return f"This run has trained {self.epochs} epochs already: a larger --num-epochs trains further."
        return f"Going on after {self.place(num_epochs)}"

    def place(self, num_epochs: int) -> str:
        """Return in words how far the run has come in a training of this many epochs."""
        return f"step {self.steps}, in epoch {self.epochs + 1} of {num_epochs}"

    def seconds_left(self, photos: int, num_epochs: int) -> float:
        """Return how long the training will take from here, at the speed of the current epoch of this many photos."""
        return ((num_epochs - self.epochs) * photos - self.seen) * self.seconds / self.seen

    def describe(self, photos: int, num_epochs: int) -> str:
        """Return loss, accuracy and the time left, for the progress bar of an epoch of this many photos."""
        left, means = tqdm.format_interval(self.seconds_left(photos, num_epochs)), self.train_metrics()
        return f"loss {means['loss']:.3f}, accuracy {means['accuracy']:.0%}, all done in {left}"

    def train_metrics(self) -> dict[str, float]:
        """Return the means over the photos of the current epoch so far, under their names in TensorBoard."""
        count = max(1, self.learned_from)
        return {
            "loss": self.loss_sum / count,
            "accuracy": self.correct / count,
            "learning rate": self.learning_rate,
            "gradient norm": self.gradient_sum / count,
            "photos per second": self.seen / self.seconds,
        }

    def describe_epoch(self, train: dict[str, float], val: dict[str, float], photos: int, num_epochs: int) -> str:
        """Return a line on the epoch that has just ended.

        Args:
            train: its `train_metrics`.
            val: loss and accuracy of the validation photos; nan without any.
            photos: in an epoch.
            num_epochs: that the training is to have.
        """
        if self.history:
            val = val | {"loss": self.history[-1][2]}  # after calibration, by which epochs are compared
        parts = [f"Epoch {self.epochs:{len(str(num_epochs))}}/{num_epochs}"]
        for name, form in (("loss", ".3f"), ("accuracy", ".0%")):
            validation = "" if math.isnan(val[name]) else f" (validation {val[name]:{form}})"
            parts.append(f"{name} {train[name]:{form}}{validation}")
        parts.append(f"{train['photos per second']:.1f} photos/s")
        if self.epochs < num_epochs:
            left = (num_epochs - self.epochs) * photos / train["photos per second"]
            parts.append(f"{format_duration(left)} left")
        if self.history and self.lowest_epoch == self.epochs:
            parts.append("best so far")
        return "   ".join(parts)

    def describe_best(self) -> str:
        """Return in words which epoch is the best, and why."""
        if not self.history:
            return f"Epoch {self.best_epoch} is kept, the last."
        if self.best_epoch == self.lowest_epoch:
            return f"Epoch {self.best_epoch} is kept: it has the lowest validation loss."
        return (
            f"Epoch {self.best_epoch} is kept. Its validation loss cannot be told from the lowest, of epoch "
            f"{self.lowest_epoch}, and the network has learned longer."
        )

    def end_epoch(self, logits: Tensor, labels: Tensor, in_band: Tensor, temperature: float = 1.0) -> bool:
        """End the current epoch, and return whether it is the best so far.

        The best epoch is the latest whose validation loss is within two standard errors of the lowest one (Breiman et
        al. 1984, "Classification and Regression Trees", use one standard error). A few photos cannot tell such epochs
        apart, and since the learning rate falls, the latest is likely to be the best on other photos. Without
        validation photos, the best epoch is the latest.

        The losses are those after calibration. Late epochs are often too confident, which raises their loss. That does
        not make them worse, since the temperature corrects it.

        Args:
            logits: (N, classes), of the validation photos.
            labels: (N,), the indices of their classes.
            in_band: (classes, bands), the `members` of `coinkit.classes.Bands`.
            temperature: of an epoch without validation photos.
        """
        self.epochs += 1
        train_accuracy = self.correct / max(1, self.learned_from)
        self.begin_epoch()
        if not len(labels):
            self.lowest_epoch = self.best_epoch = self.epochs
            self.temperature = temperature
            self.unsure_below = self.unsure_band_below = unsure_threshold(torch.empty(0), labels.bool())
            self.history, self.best_val_acc = [], 0.0  # there may have been validation photos earlier in the run
            return True
        temperature = fit_temperature(logits, labels)
        losses = F.cross_entropy(logits / temperature, labels, reduction="none")
        loss = losses.mean().item()
        correct = logits.argmax(1) == labels
        val_accuracy = correct.float().mean().item()
        self.history.append([train_accuracy, val_accuracy, loss])
        if loss < self.lowest_loss:
            self.lowest_loss, self.lowest_epoch = loss, self.epochs
            self.loss_margin = 2 * losses.std(correction=0).item() / math.sqrt(len(losses))
        is_best = loss <= self.lowest_loss + self.loss_margin
        if is_best:
            self.best_epoch, self.temperature = self.epochs, temperature
            self.best_val_acc = val_accuracy
            probabilities = (logits / temperature).softmax(dim=1)
            self.unsure_below = unsure_threshold(probabilities.amax(dim=1), correct)
            confidence, band = (probabilities @ in_band).max(dim=1)
            self.unsure_band_below = unsure_threshold(confidence, band == in_band.argmax(dim=1)[labels])
        return is_best


def format_duration(seconds: float) -> str:
    """Return a duration in words, rounded: "31 hours", "25 minutes", "40 seconds"."""
    for unit, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 1.75 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
