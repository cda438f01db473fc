"""How good the grades are: exact, and how far off where the grades have an order."""

from typing import NamedTuple

import numpy as np


class Score(NamedTuple):
    """How well photos were graded. Distances are in grades: places in the list of classes."""

    count: int  # of photos
    exact: float  # share of the photos, 0 to 1
    within_one: float  # share that is at most one grade off, 0 to 1
    mean_error: float  # mean distance from the true grade

    def __str__(self) -> str:
        return (
            f"{self.exact:.1%} exact ({round(self.exact * self.count)} of {self.count} photos), "
            f"{self.within_one:.1%} within one grade, {self.mean_error:.2f} grades off on average"
        )


def score(predicted: np.ndarray, actual: np.ndarray) -> Score:
    """Return the score of predicted classes, given the actual ones; both (N,), indices in the order of the scale."""
    distance = np.abs(predicted - actual)
    return Score(len(actual), float(np.mean(distance == 0)), float(np.mean(distance <= 1)), float(np.mean(distance)))
