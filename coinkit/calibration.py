"""Calibration: find the temperature that logits are divided by, so that confidence says how often a grade is right."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

PRIOR_PHOTOS = 20  # how much `unsure_threshold` trusts the confidence: as if it had been right for so many photos


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature, 0.25 to 4, with which the network is calibrated (Guo et al. 2017, arXiv 1706.04599).

    It minimises the cross-entropy of the photos. A log-normal prior around 1, with a deviation of 0.5, keeps it near 1
    when there are only a few photos.

    Args:
        logits: (N, classes), of photos that the network was not trained on.
        labels: (N,), the indices of the true classes.
    """
    temperatures = torch.logspace(math.log10(0.25), math.log10(4), 201)
    losses = torch.stack([F.cross_entropy(logits / value, labels, reduction="sum") for value in temperatures])
    return temperatures[(losses + 2 * temperatures.log() ** 2).argmin()].item()


def unsure_threshold(confidence: Tensor, correct: Tensor) -> float:
    """Return the confidence below which a photo is more often wrong than right; 0 if there is no such confidence.

    Of all thresholds, it is the one below which the wrong photos outnumber the right ones most. That is where an
    isotonic regression of `correct` on `confidence` crosses one half. `PRIOR_PHOTOS` of a calibrated network are
    counted with them, with a confidence of 0 to 1 in even steps: so without any photos it is one half, and a few
    cannot move it far by chance.

    Args:
        confidence: (N,), 0 to 1, of photos that the network was not trained on.
        correct: (N,), bool.
    """
    confidence, order = confidence.sort()
    more_wrong_than_right = F.pad(torch.where(correct[order], -1, 1).cumsum(dim=0), (1, 0))
    thresholds = torch.cat([confidence, torch.tensor([0.0, 0.5, 1.0])])
    below = torch.searchsorted(confidence, thresholds)
    of_prior = PRIOR_PHOTOS * thresholds * (1 - thresholds)  # the integral of wrong less right: of 1 - 2 * confidence
    return thresholds[(more_wrong_than_right[below] + of_prior).argmax()].item()


def estimate_temperature(soft_labels: Tensor, labels: Tensor, train_accuracy: float) -> float:
    """Return a temperature, 0.25 to 1, for a network that has no validation photos to fit one on.

    A network that learns soft labels gives the right grade no more than the soft label does, however often it is right.
    With this temperature, a soft label gives its grade the share of photos on which the network is likely to be right.
    That is taken to be wrong twice as often as in training: a guess, which is better than none (docs/experiments.md).

    Args:
        soft_labels: (classes, classes), the target probabilities of each class.
        labels: (N,), the indices of the classes of the training photos.
        train_accuracy: of the last epoch, augmented and with dropout, 0 to 1.
    """
    expected = 1 - 2 * (1 - train_accuracy)
    for temperature in torch.linspace(1, 0.25, 76).tolist():
        confidence = (soft_labels.log() / temperature).softmax(dim=1).diagonal()[labels].mean()
        if confidence >= expected:
            break
    return temperature
