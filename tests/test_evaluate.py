import csv
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from conftest import assert_fails, run_script
from PIL import Image

from coin_classifier_custom import BEST
from coinkit.cli import UserError
from coinkit.files import atomic_folder
from coinkit.metrics import METRICS
from coinkit.report import FILES, Evaluation, check_report
from evaluate import find_folder, find_labelled_photos

CLASSES = ["g06", "vf30", "ms65"]


def evaluate(cwd, *arguments):
    return run_script("evaluate.py", *arguments, "--device", "cpu", cwd=cwd)


def read_metrics(report):
    return json.loads((report / "metrics.json").read_text("utf-8"))


class Page(HTMLParser):
    """The tags of a page, each with its attributes."""

    def __init__(self, path):
        super().__init__()
        self.tags = []
        self.text = path.read_text("utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_the_report_on_the_test_split(trained, tmp_path):
    result = evaluate(trained, "--output", tmp_path / "report")
    assert result.returncode == 0, result.stderr
    report, metrics = tmp_path / "report", read_metrics(tmp_path / "report")
    assert {path.name for path in report.iterdir()} >= FILES - {"mistakes.png"}

    rows = list(csv.DictReader((report / "predictions.csv").open(encoding="utf-8-sig", newline="")))
    assert len(rows) == metrics["photos"] == 9
    assert all(row["predicted"] == max(CLASSES, key=lambda grade: float(row[grade])) for row in rows)
    assert all(f"/{row['true']}/" in row["photo"].replace("\\", "/") for row in rows)
    right = sum(row["true"] == row["predicted"] for row in rows)
    assert metrics["score"].keys() == METRICS.keys()
    accuracy, mae = metrics["score"]["accuracy"], metrics["score"]["mae"]
    assert accuracy["value"] == pytest.approx(right / 9, abs=1e-6)
    assert accuracy["low"] < accuracy["value"] <= accuracy["high"]
    assert mae["value"] == pytest.approx(sum(int(row["error, grades"]) for row in rows) / 9, abs=1e-6)
    assert np.trace(metrics["confusion"]) == right
    assert re.search(rf"^accuracy +{right / 9:.1%} +\d+\.\d% to \d+\.\d%$", result.stdout, re.MULTILINE)
    for grade in CLASSES:
        assert re.search(rf"^{grade} +3 ", result.stdout, re.MULTILINE)
    page = (report / "index.html").read_text("utf-8")
    assert f"accuracy {right / 9:.1%} ({right} of 9 photos), within 1 grade " in page
    for metric in METRICS.values():
        assert re.search(rf"^{re.escape(metric.name)} ", result.stdout, re.MULTILINE)
        assert f">{metric.name}<" in page and f">{metric.meaning}<" in page

    assert "Warning" not in result.stderr

    # Training has ended with the same report.
    after_training = read_metrics(trained / "report")
    assert all(after_training[name] == metrics[name] for name in ("checkpoint", "data", "photos", "confusion"))


def test_the_page_needs_no_other_file_and_tells_what_is_wrong(trained, tmp_path):
    """Photos under wrong grades are mistakes; the user's own layout, other names of grades, and unreadable photos."""
    images = tmp_path / "images"
    for grade, true in (("VF30+", "ms65"), ("g6", "g06"), ("xf45", "vf30")):
        shutil.copytree(trained / "coin_dataset" / "test" / true, images / grade / "6000X3000")
    (images / "g6" / "6000X3000" / "a&b.jpg").write_text("no photo")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("the report before this one")
    checkpoint = trained / "coin_classifier_custom_best.pth"
    result = evaluate(tmp_path, "--data", "images", "--checkpoint", checkpoint)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "a&b.jpg: not a" in result.stderr and "xf45: the model does not know this grade; 3 photos" in result.stderr

    metrics = read_metrics(tmp_path / "report")
    assert metrics["photos"] == 6 and [sum(row) for row in metrics["confusion"]] == [3, 3, 0]
    assert metrics["grades"]["ms65"]["recall"]["value"] is None  # there is no photo of it
    page = Page(tmp_path / "report" / "index.html")
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in images)
    assert not {"script", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|@import|url\(", page.text)
    assert "a&amp;b.jpg" in page.text
    mistakes = [image["alt"] for image in images if "taken for" in image["alt"]]
    assert len(mistakes) == 6 - np.trace(metrics["confusion"]) > 0
    assert mistakes[0].startswith("vf30 taken for ms65")
    with Image.open(tmp_path / "report" / "mistakes.png") as gallery:
        gallery.load()
        assert gallery.width > 2 * 2 * 64  # two mistakes in a row, each a photo and its heatmap


def test_several_networks_are_scored_as_their_mean(trained, tmp_path):
    checkpoint = torch.load(trained / BEST, weights_only=True)
    unsure, between = tmp_path / "unsure.pth", tmp_path / "between.pth"
    torch.save(checkpoint | {"temperature": 4.0}, unsure)
    torch.save(checkpoint | {"temperature": 2 / (1 / checkpoint["temperature"] + 1 / 4)}, between)  # of the mean logits
    shares = []
    for name, checkpoints in (("a", [BEST]), ("b", [unsure]), ("c", [BEST, unsure]), ("d", [between])):
        result = evaluate(trained, "--checkpoint", *checkpoints, "--output", tmp_path / name)
        assert result.returncode == 0, result.stderr
        rows = csv.DictReader((tmp_path / name / "predictions.csv").open(encoding="utf-8-sig", newline=""))
        shares.append(np.array([[float(row[grade]) for grade in CLASSES] for row in rows]))
    one, other, both, mean = shares
    assert np.abs(one - other).max() > 0.05 and np.allclose(both, mean, atol=2e-4)

    torch.save(checkpoint | {"classes": ["g04", "vf30", "ms65"]}, tmp_path / "other.pth")
    assert_fails(evaluate(trained, "--checkpoint", BEST, tmp_path / "other.pth"), "other.pth", "other grades")


def test_a_warning_if_the_training_photos_have_changed(trained, tmp_path):
    """A training photo has become a test photo, as by prepare_dataset.py --reshuffle."""
    data = tmp_path / "coin_dataset"
    shutil.copytree(trained / "coin_dataset", data)
    (data / "train" / "vf30" / "0.jpg").rename(data / "test" / "vf30" / "learned.jpg")
    result = evaluate(tmp_path, "--checkpoint", trained / BEST)
    assert result.returncode == 0, result.stderr
    assert "train/vf30 (8 photos then, 7 now)" in result.stderr and "too good" in result.stderr


def test_a_mistake_of_the_user_is_told_and_changes_nothing(trained, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert_fails(evaluate(trained, "--output", tmp_path / "mine"), "letter.txt", "move it away")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "letter.txt"]


def test_a_report_takes_no_place_of_other_files(tmp_path):
    check_report(tmp_path / "new")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="no folder"):
        check_report(tmp_path / "file")


def test_where_photos_are_looked_for(trained, tmp_path, capsys):
    dataset = trained / "coin_dataset"
    assert find_folder(dataset, None) == dataset / "test" and find_folder(dataset, "val") == dataset / "val"
    assert find_folder(dataset / "val", None) == dataset / "val"
    for data, split in ((tmp_path / "nowhere", None), (tmp_path, "test")):
        with pytest.raises(UserError, match="no folder"):
            find_folder(data, split)

    split = find_labelled_photos(dataset / "val", ["vf30", "vf30+", "ms65"])
    assert split.labels.tolist() == [2, 2, 2, 0, 0, 0]
    assert "g06" in capsys.readouterr().err
    for photo in ("VF30+/1.jpg", "vf30rb/2.jpg"):
        (tmp_path / photo).parent.mkdir()
        shutil.copy(dataset / "val" / "vf30" / "0.jpg", tmp_path / photo)
    assert find_labelled_photos(tmp_path, ["vf30", "vf30+"]).labels.tolist() == [1, 0]
    with pytest.raises(UserError, match="no photo in"):
        find_labelled_photos(tmp_path, ["ms65"])


def test_a_folder_is_whole_or_as_it_was(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "report") as partial:
        (partial / "new").write_text("new")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["report", "old"]
    with atomic_folder(tmp_path / "report") as partial:
        (partial / "new").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["report", "new"]


def test_the_worst_mistake_is_the_furthest_off_then_the_most_confident():
    shares = np.array([[0.9, 0.1, 0], [0.9, 0.1, 0], [0, 0.4, 0.6], [0, 0.2, 0.8], [1, 0, 0]])
    evaluation = Evaluation(CLASSES, [], np.array([1, 2, 0, 1, 0]), shares, {})
    assert evaluation.worst() == [1, 2, 0, 3]
