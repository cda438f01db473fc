"""Compare two models on the same photos."""

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np

from coinkit.metrics import Estimate, Predictions, bootstrap_interval

CHANCE = 0.05  # a difference that chance makes at least as often as this may be chance


class Comparison(NamedTuple):
    """How another model grades the photos that a first one has graded."""

    name: str  # of the other model
    first: Predictions
    other: Predictions  # of the same N photos, in the same order
    in_training: int = 0  # of these photos, how many the other model was trained on

    @property
    def differs(self) -> np.ndarray:
        """Whether the two give a photo different grades, (N,)."""
        return self.first.predicted != self.other.predicted

    def rows(self, metrics: Collection[str]) -> list[tuple[str, str, str, str, str]]:
        """Return accuracy and MAE as text: name, value of the first, of the other, their difference, its interval.

        Args:
            metrics: keys of those to show.
        """
        first, other = self.first, self.other
        rows = {
            "accuracy": ("accuracy", first.correct, other.correct, estimate_accuracy_difference, ".1%"),
            "mae": ("MAE, grades", first.error, other.error, estimate_difference, ".2f"),
        }
        return [format_row(*row) for key, row in rows.items() if key in metrics]

    def in_words(self) -> str:
        """Return which model is better, and whether that may be chance: by the exact test of McNemar 1947."""
        from scipy.stats import binomtest

        if not self.differs.any():
            return f"The two give the same grade to each of the {len(self.differs)} photos."
        only_first, only_other = count_only_right(self.first.correct, self.other.correct)
        p_value = binomtest(only_first, only_first + only_other).pvalue if only_first + only_other else 1.0
        better = "This model is" if only_first > only_other else "The other is"
        verdict = f"{better} better" if p_value < CHANCE else "Such a difference may be chance"
        said = (
            f"The two give different grades to {self.differs.sum()} of {len(self.differs)} photos: "
            f"only this model is right on {only_first}, only the other on {only_other}. "
            f"{verdict} (p = {p_value:.2g}, exact McNemar test)."
        )
        if self.in_training:
            said += f" The other was trained on {self.in_training} of these photos, which favours it."
        return said


def count_only_right(first: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Return on how many photos only the first model is right, and only the other, of two arrays (N,), bool."""
    return int((first & ~other).sum()), int((~first & other).sum())


def format_row(
    name: str, first: np.ndarray, other: np.ndarray, estimate: Callable[..., Estimate], format: str
) -> tuple[str, str, str, str, str]:
    """Return the means of two arrays (N,), the difference of the second from the first, and its interval, as text."""
    value, low, high = estimate(first, other)
    interval = "-" if math.isnan(low) else f"{low:+{format}} to {high:+{format}}"
    return name, f"{first.mean():{format}}", f"{other.mean():{format}}", f"{value:+{format}}", interval


def estimate_accuracy_difference(first: np.ndarray, other: np.ndarray) -> Estimate:
    """Return how much higher the accuracy of the other is, with an interval that agrees with the exact McNemar test.

    It follows from the interval of Clopper & Pearson 1934 for the share of the other, among the photos on which only
    one is right. It is nan if there are none.

    Args:
        first, other: (N,), bool, whether a model is right.
    """
    from scipy.stats import binomtest

    only_first, only_other = count_only_right(first, other)
    either, count = only_first + only_other, len(first)
    if not either:
        return Estimate(0.0, math.nan, math.nan)
    low, high = ((2 * share - 1) * either / count for share in binomtest(only_other, either).proportion_ci())
    return Estimate((only_other - only_first) / count, float(low), float(high))


def estimate_difference(first: np.ndarray, other: np.ndarray) -> Estimate:
    """Return how much higher the mean of `other` is, with a paired interval: a bootstrap over the photos.

    The interval is nan where all photos differ alike, for example not at all.

    Args:
        first, other: (N,), values of the same photos.
    """
    difference = other.astype(float) - first
    low = high = math.nan
    if np.ptp(difference):
        low, high = bootstrap_interval(difference, np.mean, "percentile")
    return Estimate(difference.mean(), float(low), float(high))
