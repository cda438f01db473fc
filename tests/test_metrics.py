import numpy as np
import pytest

from coinkit.metrics import calibration_error, score


def test_a_score_counts_distances_along_the_scale():
    probabilities = np.eye(4)[[0, 1, 3, 3]]
    result = score(probabilities, np.array([0, 2, 3, 0]))
    assert (result.count, result.exact, result.within_one, result.mean_error) == (4, 0.5, 0.75, 1.0)
    assert str(result).startswith("50.0% exact (2 of 4 photos), 75.0% within one grade, 1.00 grades off")


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy():
    assert calibration_error(np.array([0.75] * 4), np.array([True, True, True, False])) == 0
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    both = calibration_error(np.array([0.2, 0.2, 0.9, 0.9]), np.array([True, False, True, True]))
    assert both == pytest.approx((0.3 * 2 + 0.1 * 2) / 4)
