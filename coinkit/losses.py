"""Targets and weights of the loss: labels that know the order of grades, classes that count the same."""

import torch
from torch import Tensor

from coinkit.grades import sheldon_number


def soft_labels(classes: list[str], spread: float) -> Tensor:
    """Return a row of target probabilities for each class: most on itself, some on its neighbours on the scale.

    A Gaussian over the distance in grades (Diaz & Marathe 2019, "Soft Labels for Ordinal Regression"). Classes that are
    not on the scale, and all with spread 0, have hard labels.
    """
    on_scale = torch.tensor([sheldon_number(name) is not None for name in classes])
    places = torch.arange(len(classes), dtype=torch.float)
    distance = places[:, None] - places
    near = torch.exp(-0.5 * (distance / spread) ** 2) if spread else torch.eye(len(classes))
    near = torch.where(on_scale[:, None] & on_scale, near, torch.eye(len(classes)))
    return near / near.sum(dim=1, keepdim=True)


def balanced_class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return a weight for each class so that all count the same; over the photos, the mean is 1."""
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * counts)
