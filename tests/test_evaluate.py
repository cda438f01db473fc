import csv
import json
import os
import re
import shutil
import subprocess
import sys
from codecs import BOM_UTF8
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, add_photo, assert_fails, make_dataset, run_script, train
from PIL import Image

from coin_classifier_custom import BEST
from coinkit import report
from coinkit.classes import bands_of
from coinkit.cli import UserError
from coinkit.comparison import Comparison, estimate_accuracy_difference, estimate_difference
from coinkit.dataset import Split, find_split
from coinkit.files import atomic_folder, exclusive_lock
from coinkit.inference import load_networks
from coinkit.metrics import METRICS, Predictions
from coinkit.report import FILES, Evaluation, check_report, coins_to_check, describe_coins
from coinkit.summary import Training, describe_accuracy, describe_training, summarise_in_words
from coinkit.training_photos import count_coins, dataset_rows, file_digest
from evaluate import compare, find_folder, find_labelled_photos

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
    assert {path.name for path in report.iterdir()} >= FILES - {"differences.csv"}

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
    for key, metric in METRICS.items():
        # Each of these grades is a band; and there are three, so none is more than three off.
        shown = key not in ("band_accuracy", "accuracy_within_3")
        assert bool(re.search(rf"^{re.escape(metric.name)} ", result.stdout, re.MULTILINE)) == shown
        assert (f">{metric.name}<" in page) == (f">{metric.meaning}<" in page) == shown
    fine = ["vf20", "vf30", "vf35", "au55", "ms65"]
    assert Evaluation(fine, [], np.array([0]), np.eye(5)[:1], {}).metrics == METRICS

    assert "Warning" not in result.stderr

    # Training has ended with the same report.
    after_training = read_metrics(trained / "report")
    assert all(after_training[name] == metrics[name] for name in ("checkpoint", "data", "photos", "confusion"))


def test_single_grades_are_tested_in_wider_classes(trained, tmp_path):
    (tmp_path / "mine.csv").write_text("grade,class\ng6,worn\nvf30,worn\nms65,new\n")
    options = ("--classes", tmp_path / "mine.csv", "--against", BEST)
    for name, more in (("single", ()), ("joined", options)):
        result = evaluate(trained, *more, "--output", tmp_path / name)
        assert result.returncode == 0, result.stderr
    single, joined = (
        {Path(row["photo"]): row for row in csv.DictReader(file.read_text("utf-8-sig").splitlines())}
        for file in (tmp_path / name / "predictions.csv" for name in ("single", "joined"))
    )
    assert single.keys() == joined.keys()
    for photo, row in joined.items():
        worn = float(single[photo]["g06"]) + float(single[photo]["vf30"])
        assert (float(row["worn"]), float(row["new"])) == pytest.approx((worn, 1 - worn), abs=3e-4)
        assert row["true"] == ("new" if single[photo]["true"] == "ms65" else "worn")
        assert row["predicted"] == ("worn" if worn > 0.5 else "new")
    metrics = read_metrics(tmp_path / "joined")
    assert metrics["classes"] == ["new", "worn"] and sum(map(sum, metrics["confusion"])) == 9
    # They have no place on the scale, so no distance either.
    assert metrics["score"]["mae"]["value"] is None and {row["error, grades"] for row in joined.values()} == {""}
    assert "MAE" not in result.stdout and "furthest off" not in (tmp_path / "joined/index.html").read_text("utf-8")
    assert "It was trained" not in result.stdout  # which is told of the grades that it learned
    assert "The two give the same grade to each of the 9 photos." in result.stdout
    (tmp_path / "mine.csv").write_text("grade,class\ng6,worn\n")
    result = evaluate(trained, "--classes", tmp_path / "mine.csv", "--output", tmp_path / "joined")
    assert_fails(result, "has no line for vf30, ms65")


def test_the_page_needs_only_its_folder_and_tells_what_is_wrong(trained, tmp_path):
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
    beside = {f"photos/{path.name}" for path in (tmp_path / "report" / "photos").iterdir()}
    assert beside and all(image["alt"] for image in images)
    assert all(image["src"].startswith("data:image/") or image["src"] in beside for image in images)
    assert not {"iframe", "object"} & {tag for tag, _ in page.tags}
    assert not any("src" in attributes for tag, attributes in page.tags if tag == "script")
    assert not re.search(r"https?:|@import|url\(", page.text)
    assert "a&amp;b.jpg" in page.text
    mistakes = [image["alt"] for image in images if "taken for" in image["alt"]]
    assert len(mistakes) == 6 - np.trace(metrics["confusion"]) > 0
    assert mistakes[0].startswith("vf30 taken for ms65")


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


def test_a_mistake_of_the_user_is_told_and_changes_nothing(trained, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert_fails(evaluate(trained, "--output", tmp_path / "mine"), "letter.txt", "move it away")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "letter.txt"]


def test_the_metrics_are_printed_even_if_the_report_cannot_be_written(trained, tmp_path):
    (tmp_path / "file").write_text("")
    result = evaluate(trained, "--output", tmp_path / "file" / "report")
    assert result.returncode == 1 and "accuracy within 1 grade" in result.stdout and "is not a folder" in result.stderr


def test_a_report_takes_no_place_of_other_files(tmp_path):
    check_report(tmp_path / "new")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="no folder"):
        check_report(tmp_path / "file")
    (tmp_path / "report" / "photos").mkdir(parents=True)
    (tmp_path / "report" / "photos" / "coin-001.jpg").write_text("of a report")
    check_report(tmp_path / "report")
    (tmp_path / "report" / "photos" / "12345678.jpg").write_text("mine")
    with pytest.raises(UserError, match="12345678.jpg is not part of a report"):
        check_report(tmp_path / "report")


def test_where_photos_are_looked_for(trained, tmp_path, capsys):
    dataset = trained / "coin_dataset"
    assert find_folder(dataset, None) == dataset / "test" and find_folder(dataset, "val") == dataset / "val"
    assert find_folder(dataset / "val", None) == dataset / "val"
    for data, split in ((tmp_path / "nowhere", None), (tmp_path, "test")):
        with pytest.raises(UserError, match="no folder"):
            find_folder(data, split)

    split, _ = find_labelled_photos(dataset / "val", ["vf30", "vf30+", "ms65"])
    assert split.labels.tolist() == [2, 2, 2, 0, 0, 0]
    assert "g06" in capsys.readouterr().err
    for photo in ("VF30+/1.jpg", "vf30rb/2.jpg"):
        (tmp_path / photo).parent.mkdir()
        shutil.copy(dataset / "val" / "vf30" / "0.jpg", tmp_path / photo)
    assert find_labelled_photos(tmp_path, ["vf30", "vf30+"])[0].labels.tolist() == [1, 0]
    with pytest.raises(UserError, match="no photo in"):
        find_labelled_photos(tmp_path, ["ms65"])
    for classes in (["g", "f", "xf"], ["g", "f", "xf", "fine12"]):
        with pytest.raises(UserError, match="add --classes bands or five"):
            find_labelled_photos(tmp_path, classes)
    shutil.copytree(dataset / "val" / "vf30", tmp_path / ".thumbnails")
    capsys.readouterr()
    assert len(find_labelled_photos(tmp_path, ["vf30"])[0].paths) == 2 and not capsys.readouterr().err
    assert find_labelled_photos(tmp_path, ["g", "f", "vf", "xf", "ms", "au58 details"])[0].labels.tolist() == [2, 2]
    assert "Grades are joined as by --classes five: if a table" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"add --classes FILE\.csv, the table that has joined"):
        find_labelled_photos(tmp_path, ["low", "high"])
    for photo in ("ms/1.jpg", "ms/Front/2.jpg", "vf30rb/6000x3000/3.jpg"):  # beside the last, others are not used
        (tmp_path / photo).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dataset / "val" / "ms65" / "0.jpg", tmp_path / photo)
    assert len(find_labelled_photos(tmp_path, ["vf", "ms"])[0].paths) == 1
    said = capsys.readouterr()
    assert "single grades, add --classes bands or five." in said.err
    assert f"1 in {tmp_path / 'ms' / 'Front'}" in said.out and f"1 in {tmp_path / 'vf30rb'}" in said.out
    for folder in ("ms", "vf30rb/6000x3000"):
        shutil.rmtree(tmp_path / folder)
    (tmp_path / "classes.csv").write_text("grade,class\nvf30,worn\n")
    for joined, known in (("bands", ["g", "vf"]), (str(tmp_path / "classes.csv"), ["new", "worn"])):
        assert find_labelled_photos(tmp_path, known, joined=joined)[0].labels.tolist() == [1, 1]
    (tmp_path / "classes.csv").write_text("grade,class\nvf30,worn\nvf30+,new\nvf30rb,new\n")
    kept = find_labelled_photos(tmp_path, ["new", "worn"], joined=str(tmp_path / "classes.csv"), keep_variants=True)
    assert kept[0].labels.tolist() == [0, 0]


def test_several_networks_are_averaged_before_grades_are_summed(trained, tmp_path):
    """predict.py does so, and its classes are what is tested."""
    checkpoint = torch.load(trained / BEST, weights_only=True)
    torch.save(checkpoint | {"temperature": 0.1 * checkpoint["temperature"]}, tmp_path / "surer.pth")
    networks, classes = load_networks([trained / BEST, tmp_path / "surer.pth"], torch.device("cpu"))
    (tmp_path / "classes.csv").write_text("grade,class\ng06,worn\nvf30,worn\nms65,new\n")
    bands = bands_of(classes, str(tmp_path / "classes.csv"))
    split, _ = find_labelled_photos(trained / "coin_dataset/test", bands.names, joined=str(tmp_path / "classes.csv"))
    single = report.evaluate(networks, classes, split).predictions.probabilities
    joined = report.evaluate(networks, classes, split, bands=bands)
    assert joined.classes == ["new", "worn"] == bands.names
    assert joined.predictions.probabilities == pytest.approx(single @ bands.members)


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
    unordered = Evaluation(["g06", "vf30", "vf30 details"], [], np.array([1, 2, 0, 1, 0]), shares, {})
    assert unordered.worst()[:2] in ([0, 1], [1, 0]) and unordered.worst()[2:] == [3, 2]  # none is further off


def make_evaluation(shares, labels):
    """An evaluation of photos that are nowhere."""
    return Evaluation(CLASSES, [Path(f"{index}.jpg") for index in range(len(labels))], np.array(labels), shares, {})


def test_a_report_shows_all_mistakes_and_the_least_sure_within_a_limit(monkeypatch):
    monkeypatch.setattr("coinkit.report.LEAST_SURE", 2)
    shares = np.array([[0.9, 0.1, 0], [0.5, 0.3, 0.2], [0, 0.1, 0.9], [0.6, 0.2, 0.2], [0.7, 0.2, 0.1]])
    evaluation = make_evaluation(shares, [0, 0, 0, 1, 0])
    coins = coins_to_check(evaluation, None)
    assert [coin.path.stem for coin in coins] == ["2", "3", "1", "4"]
    assert [coin.kinds for coin in coins] == [("mistake",)] * 2 + [("right",)] * 2
    right = "2 right ones follow: those of which the model is least sure."
    assert describe_coins(evaluation, coins) == f"All 2 mistakes, the furthest off first. {right}"
    assert describe_coins(evaluation, coins[:2]) == "All 2 mistakes, the furthest off first."

    other = Predictions.from_probabilities(shares[[2, 1, 2, 3, 4]], np.array([0, 0, 0, 1, 0]), CLASSES)
    coins = coins_to_check(evaluation, Comparison("b.pth", evaluation.predictions, other))
    assert [coin.path.stem for coin in coins] == ["2", "3", "0", "1", "4"]
    assert coins[2].kinds == ("right", "differs") and coins[2].notes == ("The other model says ms65.",)
    assert "3 right ones follow: those that the other model grades otherwise, and" in describe_coins(evaluation, coins)

    monkeypatch.setattr("coinkit.report.MAX_COINS", 1)
    coins = coins_to_check(evaluation, None)
    assert describe_coins(evaluation, coins) == "The worst 1 of 2 mistakes; predictions.csv has all photos."


def test_a_score_is_told_in_words():
    """Against guessing, with its interval; what it confuses most; and whether it names only a few grades."""
    labels = np.repeat([0, 1, 2], 20)
    good = summarise_in_words(make_evaluation(np.eye(3)[labels], labels), None)
    assert len(good) == 2
    assert good[0].startswith("60 of 60 photos get their grade: 100% (95 % interval: 94% to 100%)")
    assert good[1].startswith("Naming the commonest grade, g06, every time would get 33%.")

    predicted = labels.copy()
    predicted[20:29] = 2
    said = summarise_in_words(make_evaluation(np.eye(3)[predicted], labels), None)
    assert said[2] == "vf30 is taken for ms65 in 9 of 20: more photos of both help."

    said = summarise_in_words(make_evaluation(np.eye(3)[np.full(60, 1)], labels), None)
    assert said[1].endswith("the model may be no better than that guess.")
    assert said[2].startswith("It has not learned to tell these 3 grades apart: it names only vf30.")
    said = summarise_in_words(make_evaluation(np.eye(3)[(labels + 1) % 3], labels), None)
    assert said[1].endswith("the model is worse than that guess.")
    often = np.repeat([0, 2], [80, 20])
    predicted = np.concatenate([np.repeat([0, 2], [56, 24]), np.repeat([2, 0], [15, 5])])
    said = summarise_in_words(make_evaluation(np.eye(3)[predicted], often), None)
    assert said[1].endswith("would get 80%, but no other grade right. With as many photos of each, the model gets 72%.")
    rare = np.repeat([0, 1, 2], [1, 98, 1])
    assert len(summarise_in_words(make_evaluation(np.eye(3)[np.full(100, 1)], rare), None)) == 2  # 2 coins say nothing
    one_coin = make_evaluation(np.eye(3)[labels], labels)
    one_coin.coins = 20
    assert "These are photos of only 20 coins, so all intervals are too narrow." in describe_accuracy(one_coin)
    said = summarise_in_words(make_evaluation(np.eye(3)[np.zeros(5, dtype=int)], [0] * 5), None)
    five = Evaluation(["g", "f", "vf", "xf", "ms"], [Path("1.jpg")], np.array([0]), np.eye(5)[:1], {})
    assert summarise_in_words(five, None)[-1].startswith("With --classes five, g is up to G6, f up to F15, ")
    assert not any("--classes five" in said for said in summarise_in_words(five, None, explain=False))
    assert said[1].endswith("All of these photos are g06: add photos of other grades to learn more.")


def test_a_training_is_told_in_words():
    labels = np.repeat([0, 1, 2], 20)
    predicted = np.where(np.arange(60) % 2, labels, 0)
    evaluation = make_evaluation(np.eye(3)[predicted], labels)

    def said(train, val, losses, num_epochs, steps_in_epoch=100):
        history = [[train, val, loss] for loss in losses]
        return describe_training(evaluation, Training(history, num_epochs, steps_in_epoch))

    falling, flat = np.linspace(2, 1, 30), np.full(30, 1.0)
    assert "still getting better at the end: first train anew, for longer (--num-epochs 60)" in said(
        0.6, 0.6, falling, 30
    )
    assert said(0.99, 0.6, falling, 30) == said(0.6, 0.6, falling[:29], 30) == said(0.6, 0.6, falling, 30)
    assert said(0.6, 0.6, flat, 30) == said(0.6, 0.6, falling, 90) == ""
    assert "right on 99% of its training photos" in said(0.99, 0.6, flat, 30) and not said(0.8, 0.5, flat, 30)
    assert "these may differ from them" in said(0.99, 0.9, flat, 30)
    assert said(0.6, 0.6, flat[:5], 5) == said(0.6, 0.6, [], 5) == said(0.6, 0.6, flat[:1], 5)
    assert "for only 500 steps: first train anew, for longer (--num-epochs 60)" in said(0.6, 0.6, flat[:5], 5)
    assert "for only 1250 steps: first train anew, for longer (--num-epochs 240)" in said(
        0.6, 0.6, np.full(50, 1.0), 50, 25
    )

    stopped = Training([[0.6, 0.6, 1.0]] * 5, 5, 100, stopped_early=True)
    assert "for longer (without --patience)" in describe_training(evaluation, stopped)
    finetuned = Training([[0.6, 0.6, 1.0]] * 5, 5, 100, from_scratch=False)
    assert describe_training(evaluation, finetuned) == ""

    words = summarise_in_words(evaluation, Training([[0.63, 0.46, 1.0]] * 12, 12, 100))
    assert "first train anew, for longer (--num-epochs 60)" in words[2] and "more photos" in words[3]


def test_photos_of_the_training_are_known_wherever_they_lie(tmp_path):
    """By content: a prepared photo under another name, and the source photos in the user's own folder."""
    for grade, first in (("vf30", 0), ("ms65", 100)):
        for seed in range(first, first + 12):
            add_photo(tmp_path / "images", grade, f"{10000000 + seed}.jpg", seed)
    assert run_script("prepare_dataset.py", cwd=tmp_path).returncode == 0
    assert train(tmp_path, "--num-epochs", 1).returncode == 0
    assert torch.load(tmp_path / BEST, weights_only=True)["cut_out"] is False
    learned = [*(tmp_path / "coin_dataset" / "train").glob("*/*.jpg")]
    for data, split in (("images", None), ("coin_dataset", "train"), ("coin_dataset", "val"), ("renamed", None)):
        if data == "renamed":
            (tmp_path / data / "vf30").mkdir(parents=True)
            shutil.copy(
                next((tmp_path / "coin_dataset" / "train" / "vf30").iterdir()), tmp_path / data / "vf30" / "a.jpg"
            )
            shutil.copy(
                next((tmp_path / "coin_dataset" / "test" / "vf30").iterdir()), tmp_path / data / "vf30" / "b.jpg"
            )
        result = evaluate(tmp_path, "--data", data, *(["--split", split] if split else []))
        assert result.returncode == 0, result.stderr
        told = {
            "images": f"{len(learned)} of these 24 photos were in its training",
            "train": f"All {len(learned)} photos were in its training",
            "renamed": "1 of these 2 photos were in its training",
        }.get(split or data)
        page = (tmp_path / "report" / "index.html").read_text("utf-8")
        assert (told in result.stdout and told in page) if told else "in its training" not in result.stdout
    assert "was trained on this photo" in page

    # A network that goes on from another one has learned its photos, too.
    other = make_dataset(tmp_path / "other", grades=("vf30", "ms65"), train=2, val=1)
    result = train(tmp_path, "--num-epochs", 1, "--data", other, "--init-from", BEST, "--output", "next")
    assert result.returncode == 0, result.stderr
    digests = torch.load(tmp_path / "next" / BEST, weights_only=True)["training_photos"].tolist()
    assert {file_digest(path) for path in [*learned, *(other / "train").glob("*/*.jpg")]} <= {*digests}

    # Prepared anew in another size, and split anew: the sources tell.
    options = ("--size", 64, 32, "--reshuffle", "--seed", 3)
    assert run_script("prepare_dataset.py", *options, cwd=tmp_path).returncode == 0
    told = evaluate(tmp_path).stdout
    assert re.search(r"\d of these \d photos were in its training|All \d photos were in its training", told)
    result = train(tmp_path, "--num-epochs", 1, "--init-from", BEST, "--output", "next")
    assert "in its training" in result.stdout  # the report at the end of the training knows it, too


def test_photos_of_one_coin_are_counted_once(tmp_path):
    for number in range(4):
        for view in range(2):
            name = f"{10000000 + number} ({view}).jpg"
            add_photo(tmp_path / "images", "vf30" if number < 2 else "ms65", name, 10 * number + view)
    assert run_script("prepare_dataset.py", cwd=tmp_path).returncode == 0
    photos = [*(tmp_path / "coin_dataset").glob("*/*/*.jpg")]
    assert len(photos) == 8 and count_coins(photos, dataset_rows(photos)) == 4
    photos = [*(tmp_path / "images").glob("*/*/*.jpg")]
    assert count_coins(photos, dataset_rows(photos)) == 8  # there, nothing tells


def test_two_networks_are_compared_on_the_same_photos(trained, tmp_path):
    checkpoint = torch.load(trained / BEST, weights_only=True)
    weights = checkpoint["model_state_dict"]
    swapped = weights | {f"fc3.{name}": weights[f"fc3.{name}"][[1, 0, 2]] for name in ("weight", "bias")}
    torch.save(checkpoint | {"model_state_dict": swapped}, tmp_path / "swapped.pth")
    result = evaluate(trained, "--against", tmp_path / "swapped.pth", "--output", tmp_path / "report")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^accuracy +100\.0% +33\.3% +-66\.7% +-66\.7% to -5\.4%$", result.stdout, re.MULTILINE)
    words = (
        "different grades to 6 of 9 photos: only this model is right on 6, only the other on 0. This model is better"
    )
    assert words in result.stdout and words in (tmp_path / "report" / "index.html").read_text("utf-8")
    for name in ("differences.csv", "predictions.csv"):
        assert (tmp_path / "report" / name).read_bytes().startswith(BOM_UTF8)  # or Excel shows other letters
    rows = list(csv.DictReader((tmp_path / "report" / "differences.csv").open(encoding="utf-8-sig", newline="")))
    assert len(rows) == 6 and all({row["predicted"], row["other predicted"]} == {"g06", "vf30"} for row in rows)
    assert all(f"{row['photo']}: {row['true']}, this says" in result.stdout for row in rows)

    torch.save(checkpoint | {"classes": ["g04", "vf30", "ms65"]}, tmp_path / "other.pth")
    assert_fails(evaluate(trained, "--against", tmp_path / "other.pth"), "other.pth", "other grades")


def test_a_photo_that_cannot_be_read_again_is_named(trained, tmp_path):
    (tmp_path / "ms65").mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(trained / "coin_dataset/test/ms65/0.jpg", tmp_path / "ms65" / name)
    (network,), classes = load_networks([trained / BEST], torch.device("cpu"))
    photos = Split(sorted((tmp_path / "ms65").iterdir()), torch.full((2,), classes.index("ms65")))
    evaluation = report.evaluate([network], classes, photos)
    photos.paths[1].write_bytes(b"gone")
    with pytest.raises(UserError, match=r"b\.jpg could be read at first"):
        compare(trained / BEST, evaluation, torch.device("cpu"), joined=None)


def test_photos_of_one_face_are_told(trained, tmp_path):
    (tmp_path / "ms65").mkdir()
    Image.new("RGB", (300, 400), "grey").save(tmp_path / "ms65" / "front.jpg")
    result = evaluate(trained, "--data", tmp_path, "--output", tmp_path / "report")
    assert "1 of 1 photos look like one face" in result.stderr and "not cut out" not in result.stderr


def test_photos_of_a_dataset_are_not_cut_out_again(trained, tmp_path):
    result = evaluate(trained, "--cut", "--output", tmp_path / "report")
    assert_fails(result, "coin_dataset is a dataset", "leave out --cut")
    assert not (tmp_path / "report").exists()


def test_what_was_put_into_the_report_meanwhile_is_not_lost(trained, tmp_path):
    (network,), classes = load_networks([trained / BEST], torch.device("cpu"))
    test = find_split(trained / "coin_dataset/test", classes)
    evaluation = report.evaluate([network], classes, test)
    (tmp_path / "report").mkdir()
    (tmp_path / "report/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        report.write_report(evaluation, network.model, [], {}, tmp_path / "report")
    assert (tmp_path / "report/notes.txt").read_text() == "mine"


def test_a_difference_has_a_paired_interval():
    right = np.arange(100) % 3 > 0
    value, low, high = estimate_difference(right, right | (np.arange(100) < 6))
    assert value == pytest.approx(0.02) and 0 <= low < value < high < 0.06
    assert np.isnan(estimate_difference(right, right).low)


def test_a_difference_in_accuracy_is_told_from_0_where_the_test_says_so():
    wrong = np.zeros(75, dtype=bool)
    for better, is_sure in ((5, False), (6, True)):  # exact McNemar: p = 0.062 and 0.031
        first, other = (Predictions(*[right] * 7)._replace(labels=~wrong) for right in (wrong, np.arange(75) < better))
        ((*_, interval),) = (comparison := Comparison("b.pth", first, other)).rows({"accuracy"})
        assert interval.startswith("+0" if is_sure else "-0")
        assert ("The other is better" in comparison.in_words()) == is_sure
    assert np.isnan(estimate_accuracy_difference(wrong, wrong).low)


def test_two_writers_of_a_report_take_turns(trained, tmp_path, monkeypatch):
    networks, classes = load_networks([trained / BEST], torch.device("cpu"))
    evaluation = report.evaluate(networks, classes, find_split(trained / "coin_dataset" / "test", classes))
    monkeypatch.setattr("coinkit.report.MAX_WAIT", 0)
    with exclusive_lock(tmp_path / ".report.lock", "a report"), pytest.raises(UserError, match="another run is writ"):
        report.write_report(evaluation, networks[0].model, [], {}, tmp_path / "report")
    assert not (tmp_path / "report").exists()

    arguments = [sys.executable, ROOT / "evaluate.py", "--device", "cpu", "--output", tmp_path / "report"]
    options = {"cwd": trained, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    for writer in [subprocess.Popen(arguments, **options) for _ in range(2)]:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert read_metrics(tmp_path / "report")["photos"] == 9


@pytest.mark.skipif(os.name != "posix", reason="no pipe is closed so here")
def test_a_reader_that_closes_the_pipe_does_not_lose_the_report(trained, tmp_path):
    arguments = [sys.executable, ROOT / "evaluate.py", "--device", "cpu", "--output", tmp_path / "report"]
    with subprocess.Popen(arguments, cwd=trained, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert "Traceback" not in errors and read_metrics(tmp_path / "report")["photos"] == 9, errors
