"""Calibration: find the temperature that logits are divided by, so that confidence says how often a grade is right."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_UNSURE = 10  # fewer photos cannot tell whether a grade with such a confidence is mostly wrong


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
    isotonic regression of `correct` on `confidence` crosses one half. Where too few photos can tell, it is one half,
    as for a network that is well calibrated.

    Args:
        confidence: (N,), 0 to 1, of photos that the network was not trained on.
        correct: (N,), bool.
    """
    confidence, order = confidence.sort()
    more_wrong_than_right = torch.where(correct[order], -1, 1).cumsum(dim=0)
    count = int(more_wrong_than_right.argmax()) + 1  # photos below the threshold
    if count >= MIN_UNSURE and more_wrong_than_right[count - 1] > 0:
        return confidence[count].item() if count < len(confidence) else 1.0
    return 0.5 if (confidence < 0.5).sum() < MIN_UNSURE else 0.0


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
