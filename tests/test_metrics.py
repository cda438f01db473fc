import math

import numpy as np
import pytest
import torch

from coinkit.calibration import unsure_threshold
from coinkit.classes import bands_of
from coinkit.metrics import (
    METRICS,
    Metric,
    Predictions,
    calibration_error_by_chance,
    confusion_matrix,
    describe_calibration,
    estimate_score,
    estimate_share,
    expected_calibration_error,
    score,
    score_grades,
    shown_metrics,
    summarise,
)
from coinkit.training_progress import Progress

GRADES = ["g04", "vf20", "au50", "ms65"]


def predict(predicted, labels, classes=GRADES):
    """Predictions of classes, given by their indices, with full confidence."""
    return Predictions.from_probabilities(np.eye(len(classes))[predicted], np.array(labels), classes)


def test_a_score_counts_errors_along_the_scale():
    predictions = predict([0, 1, 3, 3], [0, 2, 3, 0])
    result = score(predictions)
    assert [result[key] for key in ("accuracy", "accuracy_within_1", "accuracy_within_3")] == [0.5, 0.75, 1.0]
    assert (result["mae"], result["mae_sheldon"]) == (1.0, (30 + 61) / 4)
    assert result["balanced_accuracy"] == pytest.approx((0.5 + 0 + 1) / 3)  # no photo of vf20
    assert summarise(predictions, GRADES) == "accuracy 50.0% (2 of 4 photos), within 1 grade 75.0%, MAE 1.00 grades"


def test_what_means_nothing_for_the_classes_is_not_shown():
    for count, shown in ((2, set()), (3, {"accuracy_within_1"}), (5, {"accuracy_within_1", "accuracy_within_3"})):
        classes = ["g04", "f12", "vf20", "xf40", "ms65"][:count]
        assert {name for name in shown_metrics(classes) if "within" in name} == shown
    details = [*GRADES, "au50 details"]  # its place says nothing
    assert not {"accuracy_within_1", "mae", "kappa"} & shown_metrics(details).keys()
    for classes, more in ((GRADES[:2], ", MAE 0.50 grades"), (details, "")):
        assert summarise(predict([0, 0], [0, 1], classes), classes) == f"accuracy 50.0% (1 of 2 photos){more}"


def test_the_band_is_that_with_the_largest_sum():
    shares = np.array([[0.4, 0.3, 0.3], [0.6, 0.2, 0.2], [0.1, 0.6, 0.3]])
    predictions = Predictions.from_probabilities(shares, np.array([2, 2, 2]), ["g04", "vf20", "vf30"])
    assert predictions.right_band.tolist() == [True, False, True]
    assert score(predictions)["band_accuracy"] == pytest.approx(2 / 3) and score(predictions)["accuracy"] == 0


def test_the_unsure_threshold_of_bands_is_that_of_their_sums():
    # Each photo's two likeliest grades are in the right band, so that the band is sure where the grade is not.
    logits = torch.tensor([[2.0, 2.1, -2.0]] * 20)
    progress, in_band = Progress("runs"), torch.from_numpy(bands_of(["vf20", "vf30", "ms65"]).members)
    progress.end_epoch(logits, torch.zeros(20, dtype=torch.long), in_band)
    assert progress.unsure_below > 0.5 and progress.unsure_band_below == 0.5


def test_a_metric_is_added_by_an_entry(monkeypatch):
    largest = Metric("largest error", ".0f", "grades", lambda predictions: predictions.error.max())
    monkeypatch.setitem(METRICS, "largest_error", largest)
    predictions = predict([0, 1, 3, 3], [0, 2, 3, 0])
    assert score(predictions)["largest_error"] == estimate_score(predictions)["largest_error"].value == 3


def test_kappa_knows_chance_and_distance():
    labels = [0, 1, 2, 3]
    perfect, near, far = (
        score(predict(predicted, labels))["kappa"] for predicted in ([0, 1, 2, 3], [0, 1, 2, 2], [3, 1, 2, 3])
    )
    assert perfect == 1 and near > far
    assert score(predict([2, 2, 2, 2], labels))["kappa"] == 0


def test_grades_that_are_not_on_the_scale_have_no_points():
    assert math.isnan(score(predict([0, 1], [0, 1], ["details", "ms65"]))["mae_sheldon"])


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy():
    assert expected_calibration_error(np.array([0.75] * 4), np.array([True, True, True, False])) == 0
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    both = expected_calibration_error(np.array([0.2, 0.2, 0.9, 0.9]), np.array([True, False, True, True]))
    assert both == pytest.approx((0.3 * 2 + 0.1 * 2) / 4)


def make_predictions(count, seed=0):
    """Predictions with random probabilities, and labels that are as likely as these say."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(4, 0.3), count)
    labels = np.array([rng.choice(4, p=row) for row in probabilities])
    return Predictions.from_probabilities(probabilities, labels, GRADES)


def test_what_is_computed_here_is_what_scikit_learn_computes():
    from sklearn import metrics

    predictions = make_predictions(200)
    labels, predicted = predictions.labels, predictions.predicted
    result, confusion = score(predictions), confusion_matrix(predicted, labels, 4)
    assert result["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert result["mae"] == pytest.approx(metrics.mean_absolute_error(labels, predicted))
    assert result["kappa"] == pytest.approx(metrics.cohen_kappa_score(labels, predicted, weights="quadratic"))
    assert result["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
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
    few, many = (estimate_score(make_predictions(count)) for count in (30, 600))
    assert few == estimate_score(make_predictions(30))
    for name in few:
        if METRICS[name].interval == "none":
            assert math.isnan(few[name].low)
            continue
        for estimates in (few, many):
            assert estimates[name].low <= estimates[name].value <= estimates[name].high
        if few[name].low < few[name].high:
            assert many[name].high - many[name].low < few[name].high - few[name].low


def test_intervals_of_more_photos_than_are_corrected_are_near_to_the_corrected_ones(monkeypatch):
    corrected = estimate_score(make_predictions(600))
    monkeypatch.setattr("coinkit.metrics.MAX_BCA_PHOTOS", 599)
    percentiles = estimate_score(make_predictions(600))
    assert percentiles != corrected
    for name in ("mae", "mae_sheldon", "kappa", "balanced_accuracy"):
        assert percentiles[name] == pytest.approx(corrected[name], rel=0.02)


def test_what_few_photos_cannot_tell_has_no_interval():
    for count in (1, 3):
        estimates = estimate_score(predict(range(count), range(count)))
        assert estimates["mae"].value == 0 and math.isnan(estimates["mae"].low)
        assert estimates["accuracy"].low < 0.5 and estimates["accuracy"].high == 1
    assert math.isnan(score(predict([0], [0]))["kappa"])


def test_the_calibration_is_told_with_and_without_the_temperature():
    logits = np.array([[2.0, -1.0, 0.5, 0.0]])
    raw, calibrated = (
        Predictions.from_probabilities(np.exp(values) / np.exp(values).sum(), np.array([0]), GRADES)
        for values in (logits, logits / 0.4)
    )
    said = describe_calibration(calibrated, 0.4, fitted=True)
    ece, ece_before = score(calibrated)["ece"], score(raw)["ece"]
    assert ece < ece_before and said.startswith(f"ECE {ece:.3f}, and {ece_before:.3f} without the temperature 0.40")


def test_a_model_is_unsure_where_it_is_mostly_wrong():
    confidence = torch.linspace(0, 1, 101)
    correct = confidence > 0.4
    assert unsure_threshold(confidence, correct) == pytest.approx(0.41)
    shuffled = torch.randperm(101, generator=torch.Generator().manual_seed(0))
    assert unsure_threshold(confidence[shuffled], correct[shuffled]) == pytest.approx(0.41)
    mixed = correct | (torch.arange(101) % 3 == 0)  # below it, a third are right all the same
    assert unsure_threshold(confidence, mixed) == pytest.approx(0.41, abs=0.03)
    assert unsure_threshold(confidence, torch.ones(101, dtype=torch.bool)) == 0
    assert unsure_threshold(confidence, torch.zeros(101, dtype=torch.bool)) == 1
    for few in (confidence[:0], confidence[:3], confidence[42:]):  # too few can say so
        assert unsure_threshold(few, few > 0.4) == pytest.approx(0.5, abs=0.1)


def test_the_unsure_threshold_is_not_moved_far_by_chance():
    """37 photos of a calibrated network of 5 classes: the right threshold is one half."""
    draws = torch.Generator().manual_seed(0)
    found = []
    for _ in range(200):
        confidence = 0.2 + 0.8 * torch.rand(37, generator=draws)
        found.append(unsure_threshold(confidence, torch.rand(37, generator=draws) < confidence))
    assert min(found) > 0.2 and np.mean(found) == pytest.approx(0.5, abs=0.03) and np.std(found) < 0.12


def test_the_calibration_error_by_chance_is_that_of_a_calibrated_model():
    errors = [score(make_predictions(60, seed))["ece"] for seed in range(60)]
    by_chance = [calibration_error_by_chance(make_predictions(60, seed).confidence) for seed in range(5)]
    assert np.mean(errors) == pytest.approx(np.mean(by_chance), abs=0.01) and min(by_chance) > 0.05
    assert calibration_error_by_chance(np.ones(60)) == 0
