"""Targets and weights of the loss: soft labels along the scale, and classes that count the same; what a loss tells."""

import math

import torch
from torch import Tensor

from coinkit.grades import sheldon_number


def soft_labels(classes: list[str], spread: float) -> Tensor:
    """Return the target probabilities of each true class, (classes, classes): a Gaussian over the distance in grades.

    From Diaz & Marathe 2019, "Soft Labels for Ordinal Regression". A class that is not on the Sheldon scale has a hard
    label: 1 for itself, and 0 for the others.

    Args:
        classes: the names of the grades, in the order of the scale.
        spread: standard deviation, in grades; with 0, all labels are hard.
    """
    on_scale = torch.tensor([sheldon_number(name) is not None for name in classes])
    places = torch.arange(len(classes), dtype=torch.float)
    distance = places[:, None] - places
    near = torch.exp(-0.5 * (distance / spread) ** 2) if spread else torch.eye(len(classes))
    near = torch.where(on_scale[:, None] & on_scale, near, torch.eye(len(classes)))
    return near / near.sum(dim=1, keepdim=True)


def balanced_class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return a weight for each class, (num_classes,), so that all classes count the same; its mean over photos is 1.

    Args:
        labels: (N,), the indices of the photos' classes; each class has at least one.
        num_classes: how many there are.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * counts)


def share_learned(loss: float, targets: Tensor, labels: Tensor, class_weights: Tensor) -> float:
    """Return how much of what can be learned has been: 0 for a guess that is the same for each photo, 1 for all.

    Args:
        loss: mean cross-entropy of the training photos; it cannot be lower than the entropy of their soft labels.
        targets: (classes, classes), the target probabilities of each class, as `soft_labels` returns them.
        labels: (N,), the indices of the photos' classes.
        class_weights: (classes,), the weight of each class in training.
    """
    shares = torch.bincount(labels, minlength=len(targets)) / len(labels)
    answer = (shares * class_weights) @ targets  # of the best guess
    guess = -torch.xlogy(shares @ targets, answer / answer.sum()).sum()
    lowest = shares @ torch.special.entr(targets).sum(dim=1)
    learned = ((guess - loss) / (guess - lowest)).item()
    return max(0.0, learned) if math.isfinite(learned) else 0.0
