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
        ("scho\u0308n", "sch\u00f6n"),  # as a Mac writes it
    ],
)
def test_a_class_is_the_name_up_to_the_last_digit(folder, expected):
    assert class_name(folder) == expected


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("AU58 details", "au58 details"),
        ("au58details", "au58 details"),
        ("AU-58_Details", "au58 details"),
        ("ms65 cleaned", "ms65 cleaned"),
        ("ms65+ genuine", "ms65 genuine"),
        ("VF 30 (scratched)", "vf30 (scratched)"),
        ("f12net", "f12 net"),
        ("au58, details", "au58 details"),
        ("AU58+ details", "au58 details"),
        ("ms64rb cleaned", "ms64 cleaned"),
        ("ms64 plated", "ms64 plated"),
        ("MS65 – cleaned", "ms65 cleaned"),
        ("ms65 copy of a coin", "ms65 copy of a coin"),
        ("vf20-30", "vf20 30"),
    ],
)
def test_a_details_grade_is_never_a_straight_grade(folder, expected):
    for keep_variants in (False, True):
        name = class_name(folder, keep_variants)
        assert sheldon_number(name) is None
        assert class_name(name, keep_variants) == name, "a class has one name"
    assert class_name(folder) == expected


@pytest.mark.parametrize(
    "folder",
    [
        *("ms65 (2)", "ms65(1)", "ms65 - Copy", "MS65 copy", "ms65 copy 2", "ms65 - Copy (3)", "Copy of ms65"),
        *("ms65 – Copy", "ms65 (another copy)", "ms65 (3rd copy)", "ms65 - Kopie (2)", "Kopie von ms65", "ms65 копия"),
        *("ms65 - copia", "Copie de ms65", "ms65 - 副本"),
    ],
)
def test_a_copied_folder_has_the_grade_of_its_original(folder):
    assert class_name(folder) == class_name(folder, keep_variants=True) == "ms65"


def test_known_variants_are_not_another_grade():
    for variant in ("+", "*", " RD", "bn", "_DCAM", "dmpl", " fbl", "FS", " 5FS", " pq CAC", "★", "rb+"):
        assert class_name(f"ms65{variant}") == "ms65", variant
        assert sheldon_number(class_name(f"ms65{variant}", keep_variants=True)) == 65, variant


def test_variants_can_be_kept_apart():
    assert [class_name(name, keep_variants=True) for name in ("AU58+", "g4bn")] == ["au58+", "g04bn"]


def test_classes_are_in_the_order_of_the_scale():
    grades = ["fr02", "ag03", "g04", "vf20", "xf40", "au58", "au58+", "ms60", "ms65", "ms67", "pr65", "cleaned"]
    assert sorted(reversed(grades), key=scale_order) == grades
    assert sorted(["ms", "xf", "vf", "g", "f"], key=scale_order) == ["g", "f", "vf", "xf", "ms"]


def test_a_name_off_the_scale_has_no_number():
    assert [sheldon_number(name) for name in ("vf30", "vf", "65", "details", "lot12", "ms71", "ms0")] == [
        30, 20, 65, None, None, None, None,
    ]  # fmt: skip
