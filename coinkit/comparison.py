"""Compare two models on the same photos."""

import math
import warnings
from typing import NamedTuple

import numpy as np

from coinkit.metrics import CONFIDENCE_LEVEL, RESAMPLES, Estimate, Predictions

CHANCE = 0.05  # a difference that chance makes at least as often as this may be chance


class Comparison(NamedTuple):
    """How another model grades the photos that a first one has graded."""

    name: str  # of the other model
    first: Predictions
    other: Predictions  # of the same N photos, in the same order

    @property
    def differs(self) -> np.ndarray:
        """Whether the two give a photo different grades, (N,)."""
        return self.first.predicted != self.other.predicted

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return accuracy and MAE as text: name, value of the first, of the other, their difference, its interval."""
        first, other = self.first, self.other
        return [
            format_row("accuracy", first.correct, other.correct, ".1%"),
            format_row("MAE, grades", first.error, other.error, ".2f"),
        ]

    def p_value(self) -> float:
        """Return how often chance alone makes the accuracies differ so much: the exact test of McNemar 1947."""
        from scipy.stats import binomtest

        only_first = int((self.first.correct & ~self.other.correct).sum())
        only_other = int((~self.first.correct & self.other.correct).sum())
        return binomtest(only_first, only_first + only_other).pvalue if only_first + only_other else 1.0

    def in_words(self) -> str:
        """Return which model is better, and whether that may be chance."""
        first, other = self.first.correct, self.other.correct
        only_first, only_other = int((first & ~other).sum()), int((~first & other).sum())
        said = (
            f"The two give different grades to {self.differs.sum()} of {len(first)} photos: "
            f"only this model is right on {only_first}, only {self.name} on {only_other}."
        )
        p_value = self.p_value()
        if p_value >= CHANCE:
            return f"{said} That may be chance (p = {p_value:.2f}, exact McNemar test)."
        better = "This model" if only_first > only_other else self.name
        return f"{said} {better} is better (p = {p_value:.2g}, exact McNemar test)."


def format_row(name: str, first: np.ndarray, other: np.ndarray, format: str) -> tuple[str, str, str, str, str]:
    """Return the means of two arrays (N,), the difference of the second from the first, and its interval, as text."""
    value, low, high = estimate_difference(first, other)
    interval = "-" if math.isnan(low) else f"{low:+{format}} to {high:+{format}}"
    return name, f"{first.mean():{format}}", f"{other.mean():{format}}", f"{value:+{format}}", interval


def estimate_difference(first: np.ndarray, other: np.ndarray) -> Estimate:
    """Return how much higher the mean of `other` is, with a paired interval: a bootstrap over the photos.

    The interval is nan where all photos differ alike, for example not at all.

    Args:
        first, other: (N,), values of the same photos.
    """
    from scipy.stats import bootstrap

    difference = other.astype(float) - first
    low = high = math.nan
    if np.ptp(difference):
        with warnings.catch_warnings(action="ignore"):
            low, high = bootstrap(
                (difference,),
                np.mean,
                n_resamples=RESAMPLES,
                batch=100,
                confidence_level=CONFIDENCE_LEVEL,
                method="percentile",
                rng=0,
            ).confidence_interval
    return Estimate(difference.mean(), float(low), float(high))
