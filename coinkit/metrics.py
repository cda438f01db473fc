"""How good the grades are: exact, how far off where the grades have an order, and whether the confidence is right."""

import math
import warnings
from typing import NamedTuple

import numpy as np

from coinkit.grades import sheldon_number

CONFIDENCE_LEVEL = 0.95  # of intervals
RESAMPLES = 1000
MAX_BCA_PHOTOS = 5000  # of more, a bootstrap's percentiles are as good as the corrected ones, and need far less
CALIBRATION_BINS = 10


class Score(NamedTuple):
    """How well photos were graded. A distance in grades is one of places in the list of classes."""

    count: int  # of photos
    exact: float  # share of the photos, 0 to 1
    within_one: float  # share that is at most one grade off
    within_three: float
    mean_error: float  # mean distance in grades
    sheldon_error: float  # mean distance in points of the Sheldon scale; nan if a class is not on it
    kappa: float  # Cohen's, weighted by the square of the distance: 0 is chance, 1 is perfect; nan if all are the same
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
    predicted = probabilities.argmax(axis=1)
    distance = np.abs(predicted - labels)
    points = np.array([number if (number := sheldon_number(name)) else math.nan for name in classes])
    # Weighted by squares, kappa compares the squared distance within photos with that between any two of them (Fleiss &
    # Cohen 1973). scikit-learn's is the same and takes too long for a bootstrap.
    squares_by_chance = np.var(predicted) + np.var(labels) + (np.mean(predicted) - np.mean(labels)) ** 2
    of_grade = np.bincount(labels)
    exact_of_grade = np.bincount(labels, weights=distance == 0)
    return Score(
        count=len(labels),
        exact=float(np.mean(distance == 0)),
        within_one=float(np.mean(distance <= 1)),
        within_three=float(np.mean(distance <= 3)),
        mean_error=float(np.mean(distance)),
        sheldon_error=float(np.mean(np.abs(points[predicted] - points[labels]))),
        kappa=float(1 - np.mean(distance**2) / squares_by_chance) if squares_by_chance else math.nan,
        balanced_accuracy=float(np.mean(exact_of_grade[of_grade > 0] / of_grade[of_grade > 0])),
        calibration_error=calibration_error(probabilities.max(axis=1), distance == 0),
    )


class Estimate(NamedTuple):
    """A value measured on some photos, and its 95 % interval; nan where the photos cannot tell."""

    value: float
    low: float
    high: float


def estimate_score(probabilities: np.ndarray, labels: np.ndarray, classes: list[str]) -> dict[str, Estimate]:
    """Return each value of `score`, which takes the same arguments, but the count, with its interval.

    Shares of the photos have Wilson's interval. The others have that of a bootstrap over the photos, which cannot tell
    where all photos are alike, such as all exact. Up to `MAX_BCA_PHOTOS`, it is bias-corrected and accelerated (Efron
    1987); the time of that grows with the square of their number.
    """
    from scipy.stats import bootstrap  # takes a second that predict.py can save

    def values_of(photos: np.ndarray) -> np.ndarray:
        return np.array(score(probabilities[photos], labels[photos], classes))

    photos = np.arange(len(labels))
    ends = np.full((2, len(Score._fields)), math.nan)
    if len(photos) > 1:
        with warnings.catch_warnings(action="ignore"):  # about what comes out as nan
            result = bootstrap(
                (photos,),
                values_of,
                vectorized=False,
                n_resamples=RESAMPLES,
                batch=100,
                confidence_level=CONFIDENCE_LEVEL,
                method="BCa" if len(photos) <= MAX_BCA_PHOTOS else "percentile",
                rng=0,
            )
        ends = np.array(result.confidence_interval)
    values = np.stack([values_of(photos), *ends], axis=1).tolist()
    estimates = {name: Estimate(*value) for name, value in zip(Score._fields, values, strict=True)}
    count = int(estimates.pop("count").value)
    shares = ("exact", "within_one", "within_three")
    return estimates | {name: estimate_share(round(estimates[name].value * count), count) for name in shares}


def estimate_share(part: int, whole: int) -> Estimate:
    """Return the share that `part` is of `whole`, with Wilson's interval."""
    from scipy.stats import binomtest

    if not whole:
        return Estimate(math.nan, math.nan, math.nan)
    low, high = binomtest(part, whole).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
    return Estimate(part / whole, float(low), float(high))


class GradeScore(NamedTuple):
    """How well one grade was told from the others."""

    precision: Estimate  # share of the photos given this grade that have it
    recall: Estimate  # share of the photos of this grade that were given it
    count: int  # of photos of this grade


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return how many photos of each true grade, a row, were given each grade, a column: (classes, classes).

    Args:
        predicted, labels: (N,), the indices of the predicted and of the true classes.
        num_classes: how many there are.
    """
    confusion = np.zeros((num_classes, num_classes), dtype=int)
    np.add.at(confusion, (labels, predicted), 1)
    return confusion


def score_grades(confusion: np.ndarray, classes: list[str]) -> dict[str, GradeScore]:
    """Return the score of each grade, by its name.

    Args:
        confusion: (classes, classes), as `confusion_matrix` returns it.
        classes: the names of the grades.
    """
    exact, given, true = (counts.tolist() for counts in (confusion.diagonal(), confusion.sum(0), confusion.sum(1)))
    return {
        name: GradeScore(estimate_share(exact[i], given[i]), estimate_share(exact[i], true[i]), true[i])
        for i, name in enumerate(classes)
    }


def uncalibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return what probabilities (N, classes) were before the logits were divided by a temperature."""
    powers = probabilities**temperature
    return powers / powers.sum(axis=1, keepdims=True)


class CalibrationBins(NamedTuple):
    """Photos in bins of equal width by their confidence; each is an array (bins,), nan where a bin is empty."""

    count: np.ndarray  # of photos
    confidence: np.ndarray  # their mean, 0 to 1
    accuracy: np.ndarray  # share whose grade is right


def calibration_bins(confidence: np.ndarray, correct: np.ndarray, bins: int = CALIBRATION_BINS) -> CalibrationBins:
    """Return photos in bins by their confidence.

    Args:
        confidence: (N,), 0 to 1.
        correct: (N,), whether the grade was right.
        bins: how many.
    """
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    per_photo = 1 / np.where(count, count, math.nan)
    sums = (np.bincount(bin_of, weights=values, minlength=bins) for values in (confidence, correct))
    return CalibrationBins(count, *(values * per_photo for values in sums))


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Return the expected calibration error, 0 to 1 (Guo et al. 2017, arXiv 1706.04599).

    In each bin, mean confidence and accuracy should be the same. With few photos in a bin chance keeps them apart, so
    that even a well calibrated model has an error, of about 0.15 with 32 photos and 0.05 with 400.

    Args:
        confidence, correct, bins: as `calibration_bins` takes them.
    """
    count, mean_confidence, accuracy = calibration_bins(confidence, correct, bins)
    return float(np.nansum(count * np.abs(mean_confidence - accuracy)) / len(confidence))
