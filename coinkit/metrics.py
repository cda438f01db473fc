"""How good the grades are: exact, how far off where the grades have an order, and whether the confidence is right."""

from typing import NamedTuple

import numpy as np


class Score(NamedTuple):
    """How well photos were graded. Distances are in grades: places in the list of classes."""

    count: int  # of photos
    exact: float  # share of the photos, 0 to 1
    within_one: float  # share that is at most one grade off, 0 to 1
    mean_error: float  # mean distance from the true grade
    calibration_error: float  # how far confidence and accuracy are apart, 0 to 1

    def __str__(self) -> str:
        return (
            f"{self.exact:.1%} exact ({round(self.exact * self.count)} of {self.count} photos), "
            f"{self.within_one:.1%} within one grade, {self.mean_error:.2f} grades off on average"
        )


def score(probabilities: np.ndarray, labels: np.ndarray) -> Score:
    """Return the score of predictions.

    Args:
        probabilities: (N, classes), 0 to 1, the classes in the order of the scale.
        labels: (N,), the indices of the true classes.
    """
    predicted = probabilities.argmax(axis=1)
    distance = np.abs(predicted - labels)
    return Score(
        count=len(labels),
        exact=float(np.mean(distance == 0)),
        within_one=float(np.mean(distance <= 1)),
        mean_error=float(np.mean(distance)),
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
