"""Figures of merit: their names, what they mean, how they are computed, and their 95 % intervals.

To add one, add an entry to `METRICS`: evaluate.py, the report and metrics.json then show it too.
"""

import math
import re
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from coinkit.classes import bands_of
from coinkit.grades import sheldon_number

CONFIDENCE_LEVEL = 0.95  # of intervals
RESAMPLES = 1000
MAX_BCA_PHOTOS = 5000  # with more, a plain percentile bootstrap is as good, and takes far less time
CALIBRATION_BINS = 10
CHANCE_DRAWS = 200


class Predictions(NamedTuple):
    """What a metric is computed from: for each of N photos, the true grade and what the model said."""

    probabilities: np.ndarray  # (N, classes), 0 to 1
    labels: np.ndarray  # (N,), the indices of the true classes
    predicted: np.ndarray  # (N,), the indices of the likeliest classes
    confidence: np.ndarray  # (N,), the probabilities of these
    error: np.ndarray  # (N,), grades between the true and the predicted one: places in the list; nan as the next
    sheldon_error: np.ndarray  # (N,), points of the Sheldon scale between the two; nan if one is not on the scale
    right_band: np.ndarray  # (N,), whether the likeliest band of the scale is that of the true grade

    @classmethod
    def from_probabilities(cls, probabilities: np.ndarray, labels: np.ndarray, classes: list[str]) -> "Predictions":
        """Return the predictions of probabilities (N, classes) for photos with labels (N,).

        Args:
            probabilities: of each class, 0 to 1.
            labels: the indices of the true classes.
            classes: the names of the grades, in the order of the scale.
        """
        predicted = probabilities.argmax(axis=1)
        points = np.array([number if (number := sheldon_number(name)) else math.nan for name in classes])
        places = np.where(np.isnan(points), math.nan, np.arange(len(classes)))
        error, sheldon_error = (np.abs(scale[predicted] - scale[labels]) for scale in (places, points))
        in_band = bands_of(classes).members
        right_band = (probabilities @ in_band).argmax(axis=1) == in_band.argmax(axis=1)[labels]
        return cls(probabilities, labels, predicted, probabilities.max(axis=1), error, sheldon_error, right_band)

    @property
    def correct(self) -> np.ndarray:
        """Whether the predicted grade is the true one, (N,)."""
        return self.predicted == self.labels

    def select(self, photos: np.ndarray) -> "Predictions":
        """Return the predictions of some photos, given by their indices."""
        return Predictions(*(values[photos] for values in self))


# ---------------------------------------------------------------- the metrics


def quadratic_weighted_kappa(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return Cohen's kappa, weighted by the square of the error (Cohen 1968); nan if all grades are the same.

    It compares the mean squared error with that between any label and any prediction (Fleiss & Cohen 1973).
    scikit-learn computes the same, but is too slow for a bootstrap.

    Args:
        labels, predicted: (N,), the indices of the true and of the predicted classes.
    """
    expected = np.var(predicted) + np.var(labels) + (np.mean(predicted) - np.mean(labels)) ** 2
    return 1 - np.mean((predicted - labels) ** 2) / expected if expected else math.nan


def balanced_accuracy(labels: np.ndarray, correct: np.ndarray) -> float:
    """Return the mean recall over the grades that have photos, 0 to 1.

    Args:
        labels: (N,), the indices of the true classes.
        correct: (N,), whether the predicted grade is the true one.
    """
    photos_of_grade, correct_of_grade = np.bincount(labels), np.bincount(labels, weights=correct)
    present = photos_of_grade > 0
    return np.mean(correct_of_grade[present] / photos_of_grade[present])


class CalibrationBins(NamedTuple):
    """Photos in bins of equal width by their confidence; each is an array (bins,), nan where a bin is empty."""

    count: np.ndarray  # of photos
    confidence: np.ndarray  # their mean, 0 to 1
    accuracy: np.ndarray  # 0 to 1


def calibration_bins(confidence: np.ndarray, correct: np.ndarray) -> CalibrationBins:
    """Return photos in `CALIBRATION_BINS` bins by their confidence.

    Args:
        confidence: (N,), 0 to 1.
        correct: (N,), whether the predicted grade is the true one.
    """
    bin_of = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    count = np.bincount(bin_of, minlength=CALIBRATION_BINS)
    divisor = np.where(count, count, math.nan)
    sums = (np.bincount(bin_of, weights=values, minlength=CALIBRATION_BINS) for values in (confidence, correct))
    return CalibrationBins(count, *(values / divisor for values in sums))


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the expected calibration error (ECE), 0 to 1 (Guo et al. 2017, arXiv 1706.04599).

    That is the mean difference between confidence and accuracy over the bins. With few photos in a bin the two differ
    by chance, too: see `calibration_error_by_chance`.

    Args:
        confidence, correct: as `calibration_bins` takes them.
    """
    count, mean_confidence, accuracy = calibration_bins(confidence, correct)
    return np.nansum(count * np.abs(mean_confidence - accuracy)) / len(confidence)


def calibration_error_by_chance(confidence: np.ndarray) -> float:
    """Return the mean ECE of a model that is right exactly as often as its confidence (N,) says, 0 to 1.

    This is the mean over `CHANCE_DRAWS` draws of which photos it is right on. Vaicenavicius et al. 2019 (arXiv
    1902.06977) test calibration by such draws.
    """
    rng = np.random.default_rng(0)
    draws = (rng.random(len(confidence)) < confidence for _ in range(CHANCE_DRAWS))
    return np.mean([expected_calibration_error(confidence, correct) for correct in draws])


class Metric(NamedTuple):
    """A figure of merit."""

    name: str  # as it is shown
    format: str  # of its value
    meaning: str  # in plain words
    compute: Callable[[Predictions], float]  # its value; nan if the photos cannot tell
    interval: str = "bootstrap"  # what its interval is: "bootstrap", "Wilson" for a share of the photos, or "none"


METRICS = {  # by their keys in metrics.json
    "accuracy": Metric(
        "accuracy",
        ".1%",
        "share of the photos given their grade",
        lambda p: np.mean(p.correct),
        interval="Wilson",
    ),
    "accuracy_within_1": Metric(
        "accuracy within 1 grade",
        ".1%",
        "share of the photos at most one grade off",
        lambda p: np.mean(p.error <= 1),
        interval="Wilson",
    ),
    "accuracy_within_3": Metric(
        "accuracy within 3 grades",
        ".1%",
        "share of the photos at most three grades off",
        lambda p: np.mean(p.error <= 3),
        interval="Wilson",
    ),
    "band_accuracy": Metric(
        "accuracy of the band",
        ".1%",
        "share of the photos given their band of the scale, such as vf for vf20 and vf30",
        lambda p: np.mean(p.right_band),
        interval="Wilson",
    ),
    "mae": Metric(
        "MAE, grades",
        ".2f",
        "mean absolute error: how many grades a photo is off on average",
        lambda p: np.mean(p.error),
    ),
    "mae_sheldon": Metric(
        "MAE, Sheldon points",
        ".2f",
        "the same in points of the Sheldon scale, 1 to 70",
        lambda p: np.mean(p.sheldon_error),
    ),
    "kappa": Metric(
        "quadratic weighted kappa",
        "z.3f",
        "agreement with the true grades, large errors counting more: 0 is chance, 1 is perfect",
        lambda p: quadratic_weighted_kappa(p.labels, p.predicted),
    ),
    "balanced_accuracy": Metric(
        "balanced accuracy",
        ".1%",
        "accuracy if each grade had as many photos: mean recall over the grades",
        lambda p: balanced_accuracy(p.labels, p.correct),
    ),
    "ece": Metric(
        "expected calibration error (ECE)",
        "z.3f",
        "how far confidence and accuracy differ, 0 to 1",
        lambda p: expected_calibration_error(p.confidence, p.correct),
        interval="none",  # a bootstrap's is far too high: drawing photos again adds as much chance once more
    ),
    "ece_by_chance": Metric(
        "ECE by chance alone",
        "z.3f",
        "what a well calibrated model would have on so few photos, on average",
        lambda p: calibration_error_by_chance(p.confidence),
        interval="none",
    ),
}


def shown_metrics(classes: list[str]) -> dict[str, Metric]:
    """Return the `METRICS` without those that say nothing of these classes."""
    hidden = set()
    if not bands_of(classes).tell:
        hidden.add("band_accuracy")  # which is the accuracy
    if not all(re.search(r"\d", name) for name in classes):
        hidden.add("mae_sheldon")  # a class of several grades has no number
    hidden |= {f"accuracy_within_{steps}" for steps in (1, 3) if len(classes) <= steps + 1}  # which is always 100 %
    if any(sheldon_number(name) is None for name in classes):  # their places in the list mean nothing
        hidden |= {"accuracy_within_1", "accuracy_within_3", "mae", "mae_sheldon", "kappa"}
    return {key: metric for key, metric in METRICS.items() if key not in hidden}


# ---------------------------------------------------------------- scores


def score(predictions: Predictions) -> dict[str, float]:
    """Return the value of each metric, by its key."""
    return {key: float(metric.compute(predictions)) for key, metric in METRICS.items()}


def summarise(predictions: Predictions, classes: list[str]) -> str:
    """Return the most important metrics in one line."""
    shown = {key: f"{metric.compute(predictions):{metric.format}}" for key, metric in shown_metrics(classes).items()}
    said = f"accuracy {shown['accuracy']} ({predictions.correct.sum()} of {len(predictions.labels)} photos)"
    if "accuracy_within_1" in shown:
        said += f", within 1 grade {shown['accuracy_within_1']}"
    if "mae" in shown:
        said += f", MAE {shown['mae']} grades"
    return said


class Estimate(NamedTuple):
    """A value measured on some photos, and its 95 % interval; nan where the photos cannot tell."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def estimate_score(predictions: Predictions) -> dict[str, Estimate]:
    """Return the value of each metric with its interval, by its key.

    The interval of a bootstrap over the photos is nan where all photos are alike, such as all correct. Up to
    `MAX_BCA_PHOTOS` photos, it is bias-corrected and accelerated (Efron 1987), which takes time in proportion to the
    square of their number.
    """
    count = len(predictions.labels)
    others = {key: metric.compute for key, metric in METRICS.items() if metric.interval == "bootstrap"}

    def compute_others(photos: np.ndarray) -> np.ndarray:
        selected = predictions.select(photos)
        return np.array([compute(selected) for compute in others.values()])

    lows = highs = np.full(len(others), math.nan)
    if count > 1:
        method = "BCa" if count <= MAX_BCA_PHOTOS else "percentile"
        lows, highs = bootstrap_interval(np.arange(count), compute_others, method)
    intervals = dict(zip(others, zip(lows.tolist(), highs.tolist(), strict=True), strict=True))
    return {
        key: estimate_share(round(value * count), count)
        if METRICS[key].interval == "Wilson"
        else Estimate(value, *intervals.get(key, (math.nan, math.nan)))
        for key, value in score(predictions).items()
    }


def bootstrap_interval(values: np.ndarray, statistic: Callable, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper end of a statistic's interval, by a bootstrap; nan where it cannot be told.

    Args:
        values: (N,), what is drawn from.
        statistic: computes one or several figures of drawn values.
        method: as scipy.stats.bootstrap takes it.
    """
    from scipy.stats import bootstrap  # slow to import, and predict.py does not need it

    settings = {"n_resamples": RESAMPLES, "batch": 100, "confidence_level": CONFIDENCE_LEVEL, "rng": 0}
    with warnings.catch_warnings(action="ignore"):  # about what is nan
        return bootstrap((values,), statistic, method=method, **settings).confidence_interval


def estimate_share(part: int, whole: int) -> Estimate:
    """Return the share that `part` is of `whole`, with the interval of Wilson 1927."""
    from scipy.stats import binomtest

    if not whole:
        return UNKNOWN
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
    correct, given, true = (counts.tolist() for counts in (confusion.diagonal(), confusion.sum(0), confusion.sum(1)))
    return {
        name: GradeScore(estimate_share(correct[i], given[i]), estimate_share(correct[i], true[i]), true[i])
        for i, name in enumerate(classes)
    }


def describe_calibration(predictions: Predictions, temperature: float, fitted: bool) -> str:
    """Return in a line how well calibrated predictions are, and would be without a temperature.

    Args:
        predictions: with the temperature.
        temperature: what the logits were divided by.
        fitted: whether it was fitted on validation photos.
    """
    powers = predictions.probabilities**temperature
    before = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)  # the confidence without the temperature
    ece, ece_before = (
        expected_calibration_error(confidence, predictions.correct) for confidence in (predictions.confidence, before)
    )
    return (
        f"ECE {ece:.3f}, and {ece_before:.3f} without the temperature "
        f"{temperature:.2f}, which was {'fitted on the' if fitted else 'estimated, without'} validation photos"
    )
