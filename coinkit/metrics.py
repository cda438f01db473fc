"""How good the grades are: exact, how far off where the grades have an order, and whether the confidence is right."""

import math
from typing import NamedTuple

import numpy as np

from coinkit.grades import sheldon_number


class Score(NamedTuple):
    """How well photos were graded. A distance in grades is one of places in the list of classes."""

    count: int  # of photos
    exact: float  # share of the photos, 0 to 1
    within_one: float  # share that is at most one grade off
    within_three: float
    mean_error: float  # mean distance in grades
    sheldon_error: float  # mean distance in points of the Sheldon scale; nan if a class is not on it
    kappa: float  # Cohen's, weighted by the square of the distance: 0 is chance, 1 is perfect
    balanced_accuracy: float  # mean over the grades of the share that is exact
    calibration_error: float  # how far confidence and accuracy are apart, 0 to 1

    def __str__(self) -> str:
        return (
            f"{self.exact:.1%} exact ({round(self.exact * self.count)} of {self.count} photos), "
            f"{self.within_one:.1%} within one grade, {self.mean_error:.2f} grades off on average"
        )


def score(probabilities: np.ndarray, labels: np.ndarray, classes: list[str]) -> Score:
    """Return the score of predictions, the likeliest grade of each photo.

    Args:
        probabilities: (N, classes), 0 to 1.
        labels: (N,), the indices of the true classes.
        classes: the names of the grades, in the order of the scale.
    """
    from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score  # takes a second that predict.py can save

    predicted = probabilities.argmax(axis=1)
    distance = np.abs(predicted - labels)
    points = np.array([number if (number := sheldon_number(name)) else math.nan for name in classes])
    return Score(
        count=len(labels),
        exact=float(np.mean(distance == 0)),
        within_one=float(np.mean(distance <= 1)),
        within_three=float(np.mean(distance <= 3)),
        mean_error=float(np.mean(distance)),
        sheldon_error=float(np.mean(np.abs(points[predicted] - points[labels]))),
        kappa=float(cohen_kappa_score(labels, predicted, labels=range(len(classes)), weights="quadratic")),
        balanced_accuracy=float(balanced_accuracy_score(labels, predicted)),
        calibration_error=calibration_error(probabilities.max(axis=1), distance == 0),
    )


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error, 0 to 1 (Guo et al. 2017, arXiv 1706.04599).

    The photos are put in bins by their confidence; in each, mean confidence and accuracy should be the same.

    Args:
        confidence: (N,), 0 to 1.
        correct: (N,), whether the grade was right.
        bins: how many, of equal width.
    """
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))
