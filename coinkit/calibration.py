"""Make the confidence of predictions right: fit the temperature by which logits are divided."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return by what to divide logits, 0.25 to 4, so that the confidence of predictions is right (arXiv 1706.04599).

    It is the likeliest one given photos that the network has not learned from, and given that it should be about 1
    (log-normally, with a deviation of 0.5), so that a handful of photos does not decide.

    Args:
        logits: (N, classes).
        labels: (N,), the indices of the true classes.
    """
    temperatures = torch.logspace(math.log10(0.25), math.log10(4), 201)
    losses = torch.stack([F.cross_entropy(logits / value, labels, reduction="sum") for value in temperatures])
    return temperatures[(losses + 2 * temperatures.log() ** 2).argmin()].item()
