"""Some grades only, or classes that join grades, from the same folder of photos."""

import csv
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import add_photo, assert_fails, run_script

from coinkit.classes import JOINED, join_grade, read_classes
from coinkit.cli import UserError
from coinkit.dataset_report import print_changed_classes
from coinkit.grades import scale_order
from coinkit.losses import soft_labels
from coinkit.manifest import Photo
from coinkit.metrics import Predictions

GRADES = ("g06", "vf20", "vf30", "au58", "au58 details", "ms65")


@pytest.fixture
def images(tmp_path) -> Path:
    """8 photos of each of `GRADES`, with the same names in each."""
    for number, grade in enumerate(GRADES):
        for seed in range(8):
            add_photo(tmp_path / "images", grade, f"{seed}.jpg", 100 * number + seed)
    return tmp_path / "images"


def prepare(cwd: Path, *options) -> tuple[dict[str, dict], str]:
    """Run the command; return the rows of the manifest by source, and what was printed."""
    result = run_script("prepare_dataset.py", *options, cwd=cwd)
    assert result.returncode == 0, result.stderr
    with (cwd / "coin_dataset" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return {row["source"]: row for row in csv.DictReader(file)}, result.stdout


def classes(rows: dict[str, dict]) -> dict[str, int]:
    """How many photos each class has in the manifest."""
    return Counter(row["grade"] for row in rows.values() if not row["reason"])


def files(cwd: Path) -> Counter:
    """How many photos each class has in the folders of the dataset."""
    return Counter(path.parent.name for path in (cwd / "coin_dataset").glob("*/*/*.jpg"))


@pytest.mark.parametrize(
    ("grade", "band", "five"),
    [
        ("po01", "po", "g"), ("fr02", "fr", "g"), ("ag03", "ag", "g"), ("g06", "g", "g"), ("vg10", "vg", "f"),
        ("f15", "f", "f"), ("vf35", "vf", "vf"), ("xf45", "xf", "xf"), ("ef40", "xf", "xf"), ("au58+", "au", "xf"),
        ("ms60", "ms", "ms"), ("bu", "ms", "ms"), ("65", "ms", "ms"), ("pr69dcam", "pr", "ms"), ("sp45", "pr", "xf"),
        ("pr", "pr", "ms"), ("au58 details", "au58 details", "au58 details"), ("cleaned", "cleaned", "cleaned"),
    ],
)  # fmt: skip
def test_each_grade_has_a_band_and_one_of_five_classes(grade, band, five):
    assert (join_grade(grade, JOINED["bands"]), join_grade(grade, JOINED["five"])) == (band, five)


@pytest.mark.parametrize("name", JOINED)
def test_joined_classes_have_the_order_and_the_distances_of_the_scale(name):
    names = list(JOINED[name])
    assert sorted(reversed(names), key=scale_order) == names
    near = soft_labels(names, 0.7)
    assert (near.argmax(dim=1) == torch.arange(len(names))).all()
    assert (near[0].diff() <= 0).all() and near[0, 1] > 0  # the further, the less alike
    predictions = Predictions.from_probabilities(near[[3, 3]].numpy(), torch.tensor([0, 4]).numpy(), names)
    assert predictions.error.tolist() == [3, 1]


def test_grades_are_joined_to_bands_and_come_apart_again(images, tmp_path):
    single, _ = prepare(tmp_path)
    joined, said = prepare(tmp_path, "--classes", "bands")
    assert classes(joined) == files(tmp_path) == {"g": 8, "vf": 16, "au": 8, "au58 details": 8, "ms": 8}
    assert {source: row["split"] for source, row in joined.items()} == {
        source: row["split"] for source, row in single.items()
    }
    assert all(row["source_grade"] == Path(source).parts[1] for source, row in joined.items())
    assert "Warning: 40 photos are of another class than before." in said and "run it again without --classes." in said
    assert "(vf20, vf30)" in said and "same number" not in said
    again, _ = prepare(tmp_path)
    assert classes(again) == files(tmp_path) == dict.fromkeys(GRADES, 8)
    assert {source: row["split"] for source, row in again.items()} == {
        source: row["split"] for source, row in single.items()
    }


def test_grades_that_are_not_chosen_keep_their_split_and_are_not_read(images, tmp_path):
    (images / "ms65" / "6000x3000" / "0.jpg").write_text("no photo")
    first, said = prepare(tmp_path, "--grades", "VF20", "vf30")
    assert classes(first) == files(tmp_path) == {"vf20": 8, "vf30": 8}
    assert "not used (--grades, --classes): 32 (g06: 8, au58: 8, ms65: 8, au58 details: 8)." in said
    assert "0.jpg" not in said
    every, _ = prepare(tmp_path)
    assert len(classes(every)) == 6
    fewer, _ = prepare(tmp_path, "--grades", "g06", "vf20")
    assert {source: row["split"] for source, row in fewer.items()} == {
        source: row["split"] for source, row in every.items()
    }
    assert all(row["digest"] for row in fewer.values() if row["split"])  # so that a renamed photo is known, too
    (images / "vf30" / "6000x3000" / "3.jpg").rename(images / "vf20" / "6000x3000" / "moved.jpg")
    moved, _ = prepare(tmp_path, "--grades", "g06", "vf20")
    split = every["images/vf30/6000x3000/3.jpg"]["split"]
    assert moved["images/vf20/6000x3000/moved.jpg"]["split"] == split


def test_a_coin_keeps_its_split_when_its_other_photo_is_not_chosen(images, tmp_path):
    every, _ = prepare(tmp_path)
    tested = next(source for source, row in every.items() if row["grade"] == "vf30" and row["split"] == "test")
    number = int(Path(tested).stem)
    add_photo(images, "vf20", "again.png", 200 + number)
    fewer, _ = prepare(tmp_path, "--grades", "g06", "vf20")
    assert fewer["images/vf20/6000x3000/again.png"]["split"] == "test"


def test_a_table_of_classes_is_read_from_any_spreadsheet(images, tmp_path):
    table = "grade;class\r\nVF 20;VF\r\nvf30;vf\r\nAU58_details;Details\r\nau58;au\r\nms70;ms\r\n"
    (tmp_path / "my classes.csv").write_text(table, encoding="utf-8-sig", newline="")
    rows, said = prepare(tmp_path, "--classes", "my classes.csv")
    assert classes(rows) == files(tmp_path) == {"vf": 16, "au": 8, "details": 8}
    assert "Photos of grades that are not used (--grades, --classes): 16 (g06: 8, ms65: 8)." in said
    assert "not on the Sheldon scale, so placed after its best grade: details." in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grade,class\nvf20,vf\nVF20,f\n", ["two classes for vf20, vf and f", "--keep-variants"]),
        ("grade,class\nvf20,vf/xf\n", ["line 2: write a grade"]),
        ("grade,class\nvf20,..\n", ["line 2: write a grade"]),
        ("grade,class\nvf20,circ.\n", ["line 2: write a grade"]),
        ("grade,class\nvf20,Aux\n", ["line 2: write a grade"]),
        ("grade,class\nvf20,VF20-35\n", ["class VF20-35: name a class after its lowest grade"]),
        ("grade,class\nG4-G6,g\n", ["grade G4-G6: write a line for each grade"]),
        ("grade,class\ng04,g\nvf20,\n", ["line 3: write a grade"]),
        ("vf20,vf\n", ["the first line must be grade,class"]),
        ("grade,band\nvf20,vf\n", ["the first line must be grade,class"]),
        ("grade,class\nvf20\n", ["line 2: write a grade"]),
        ("\0" * 200_000, ["classes.csv is damaged, or no CSV table"]),
    ],
)
def test_a_table_with_a_mistake_is_refused(tmp_path, text, words):
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(UserError) as error:
        read_classes(tmp_path / "classes.csv", keep_variants=False)
    assert all(word in str(error.value) for word in words), error.value


def test_a_table_that_is_not_in_utf_8_is_refused(tmp_path):
    (tmp_path / "classes.csv").write_bytes("grade,class\nschön,vf\n".encode("cp1252"))
    with pytest.raises(UserError, match="save it as CSV UTF-8"):
        read_classes(tmp_path / "classes.csv", keep_variants=False)
    (tmp_path / "classes.csv").write_text("grade,class\nschön,vf\n", encoding="utf-16")
    assert read_classes(tmp_path / "classes.csv", keep_variants=False) == {"schön": "vf"}


def test_forgotten_classes_are_named(capsys):
    before = [Photo(name, name, output=name) for name in JOINED["five"]]
    print_changed_classes([Photo(photo.source, f"{photo.source}60", output="a.jpg") for photo in before], before)
    assert "5 photos are of another class than before" in (said := capsys.readouterr().out)
    assert "run it again with --classes five." in said


def test_wrong_grades_and_classes_are_told(images, tmp_path):
    result = run_script("prepare_dataset.py", "--grades", "vf20", "f12", cwd=tmp_path)
    assert_fails(result, "no photos of f12", "but of g06, vf20")
    assert_fails(run_script("prepare_dataset.py", "--classes", "band", cwd=tmp_path), "Give bands, five")
    assert_fails(run_script("prepare_dataset.py", "--classes", "no.csv", cwd=tmp_path), "no such table", "grade,class")
    (tmp_path / "classes.csv").write_text("grade,class\nvf30,low\nms65,high\n")
    result = run_script("prepare_dataset.py", "--classes", "classes.csv", "--dry-run", cwd=tmp_path)
    assert "In the table of --classes, name classes after their grades" in result.stdout, result.stderr
    assert "rename their folders" not in result.stdout
    result = run_script("prepare_dataset.py", "--grades", "vf20", "vf30", "--classes", "bands", cwd=tmp_path)
    assert_fails(result, "fewer than 2 grades")
    assert not (tmp_path / "coin_dataset").exists()
