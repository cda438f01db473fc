import pytest

from coinkit.grades import class_name, scale_order, sheldon_number


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("au58+", "au58"),
        ("g06bn", "g06"),
        ("pr69dcam", "pr69"),
        ("MS64RB", "ms64"),
        ("g4", "g04"),
        ("MS 65", "ms65"),
        ("vf", "vf"),
        ("details", "details"),
        ("1881", "1881"),
    ],
)
def test_a_class_is_the_name_up_to_the_last_digit(folder, expected):
    assert class_name(folder) == expected


def test_variants_can_be_kept_apart():
    assert [class_name(name, keep_variants=True) for name in ("AU58+", "g4bn")] == ["au58+", "g04bn"]


def test_classes_are_in_the_order_of_the_scale():
    grades = ["fr02", "ag03", "g04", "vf20", "xf40", "au58", "au58+", "ms60", "ms65", "pr65", "ms67", "cleaned"]
    assert sorted(reversed(grades), key=scale_order) == grades
    assert sorted(["ms", "xf", "vf", "g", "f"], key=scale_order) == ["g", "f", "vf", "xf", "ms"]


def test_a_name_off_the_scale_has_no_number():
    assert [sheldon_number(name) for name in ("vf30", "vf", "65", "details", "lot12", "ms71", "ms0")] == [
        30, 20, 65, None, None, None, None,
    ]  # fmt: skip
