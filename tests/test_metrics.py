import math

import numpy as np
import pytest

from coinkit.metrics import (
    calibration_error,
    confusion_matrix,
    estimate_score,
    estimate_share,
    score,
    score_grades,
    uncalibrated,
)

GRADES = ["g04", "vf20", "au50", "ms65"]


def test_a_score_counts_distances_along_the_scale():
    result = score(np.eye(4)[[0, 1, 3, 3]], np.array([0, 2, 3, 0]), GRADES)
    assert (result.count, result.exact, result.within_one, result.within_three) == (4, 0.5, 0.75, 1.0)
    assert (result.mean_error, result.sheldon_error) == (1.0, (30 + 61) / 4)
    assert result.balanced_accuracy == pytest.approx((0.5 + 0 + 1) / 3)  # no photo of vf20
    assert str(result).startswith("50.0% exact (2 of 4 photos), 75.0% within one grade, 1.00 grades off")


def test_kappa_knows_chance_and_distance():
    labels = np.array([0, 1, 2, 3])
    perfect, near, far = (
        score(np.eye(4)[choice], labels, GRADES).kappa for choice in ([0, 1, 2, 3], [0, 1, 2, 2], [3, 1, 2, 3])
    )
    assert perfect == 1 and near > far
    assert score(np.eye(4)[[2, 2, 2, 2]], labels, GRADES).kappa == 0


def test_grades_that_are_not_on_the_scale_have_no_points():
    assert math.isnan(score(np.eye(2), np.array([0, 1]), ["details", "ms65"]).sheldon_error)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy():
    assert calibration_error(np.array([0.75] * 4), np.array([True, True, True, False])) == 0
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    both = calibration_error(np.array([0.2, 0.2, 0.9, 0.9]), np.array([True, False, True, True]))
    assert both == pytest.approx((0.3 * 2 + 0.1 * 2) / 4)


def make_predictions(count, seed=0):
    """Random probabilities (N, 4), and labels that are as likely as these say."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(4, 0.3), count)
    return probabilities, np.array([rng.choice(4, p=row) for row in probabilities])


def test_what_is_computed_here_is_what_scikit_learn_computes():
    from sklearn import metrics

    probabilities, labels = make_predictions(200)
    predicted = probabilities.argmax(axis=1)
    result, confusion = score(probabilities, labels, GRADES), confusion_matrix(predicted, labels, 4)
    assert result.kappa == pytest.approx(metrics.cohen_kappa_score(labels, predicted, weights="quadratic"))
    assert result.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert (confusion == metrics.confusion_matrix(labels, predicted)).all()
    precision, recall, _, counts = metrics.precision_recall_fscore_support(labels, predicted)
    grades = score_grades(confusion, GRADES).values()
    assert [grade.precision.value for grade in grades] == pytest.approx(precision)
    assert [grade.recall.value for grade in grades] == pytest.approx(recall)
    assert [grade.count for grade in grades] == counts.tolist()


def test_the_interval_of_a_share_is_wilsons():
    # Wilson 1927; 8 of 10 is the example of Newcombe 1998's method 3, to three digits
    assert estimate_share(8, 10) == pytest.approx((0.8, 0.490, 0.943), abs=5e-4)
    assert estimate_share(0, 5).low == 0 and estimate_share(5, 5).high == 1
    assert all(map(math.isnan, estimate_share(0, 0)))


def test_intervals_hold_the_value_and_shrink_with_more_photos():
    few, many = (estimate_score(*make_predictions(count), GRADES) for count in (30, 600))
    assert few == estimate_score(*make_predictions(30), GRADES)
    for name in few:
        for estimates in (few, many):
            assert estimates[name].low <= estimates[name].value <= estimates[name].high
        if few[name].low < few[name].high:
            assert many[name].high - many[name].low < few[name].high - few[name].low


def test_intervals_of_more_photos_than_are_corrected_are_near_to_the_corrected_ones(monkeypatch):
    corrected = estimate_score(*make_predictions(600), GRADES)
    monkeypatch.setattr("coinkit.metrics.MAX_BCA_PHOTOS", 599)
    percentiles = estimate_score(*make_predictions(600), GRADES)
    assert percentiles != corrected
    for name in ("mean_error", "sheldon_error", "kappa", "balanced_accuracy"):
        assert percentiles[name] == pytest.approx(corrected[name], rel=0.02)


def test_what_few_photos_cannot_tell_has_no_interval():
    for count in (1, 3):
        estimates = estimate_score(np.eye(4)[:count], np.arange(count), GRADES)
        assert estimates["mean_error"].value == 0 and math.isnan(estimates["mean_error"].low)
        assert estimates["exact"].low < 0.5 and estimates["exact"].high == 1
    assert math.isnan(score(np.eye(4)[:1], np.array([0]), GRADES).kappa)


def test_a_temperature_can_be_taken_out_of_probabilities():
    logits = np.array([[2.0, -1.0, 0.5, 0.0]])
    raw, calibrated = (np.exp(values) / np.exp(values).sum() for values in (logits, logits / 0.4))
    assert uncalibrated(calibrated, 0.4) == pytest.approx(raw)
