import math

import numpy as np
import pytest

from coinkit.metrics import calibration_error, score

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
