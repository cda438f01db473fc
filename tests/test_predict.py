import base64
import csv
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_fails, draw_photo, run_script
from PIL import Image

import predict as command
from coin_classifier_custom import CoinClassifier
from coinkit.augment import affine_faces
from coinkit.checkpoints import FORMAT_VERSION, load_checkpoint
from coinkit.classes import JOINED, bands_of
from coinkit.cli import UserError
from coinkit.dataset import normalise, to_tensor
from coinkit.faces import Faces
from coinkit.inference import TTA_VIEWS, views
from coinkit.photos import PhotoError, open_photo
from coinkit.review import write_grades

BEST, LAST = "coin_classifier_custom_best.pth", "coin_classifier_custom_last.pth"


def predict(cwd, *arguments):
    return run_script("predict.py", *arguments, "--device", "cpu", cwd=cwd)


def parse_json(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def grade(checkpoints, photos, tta=False):
    """The probabilities of the grades of photos, (photos, grades)."""
    networks, _ = command.load_networks(checkpoints, torch.device("cpu"))
    return torch.stack([result[0] for _, result in command.grade_photos(networks, photos, tta)])


def test_a_photo_gets_its_grade_as_the_guide_shows_it(trained):
    result = predict(trained, "coin_dataset/train/ms65/0.jpg")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "Predicted Grade: ms65"
    assert lines[1].startswith("Confidence: ") and lines[1].endswith("%")
    assert lines[2:4] == ["", "Top 3 Predictions:"]
    assert lines[4] == f"  ms65: {lines[1].removeprefix('Confidence: ')}"
    assert {line.split(":")[0].strip() for line in lines[4:]} == {"g06", "vf30", "ms65"}


def test_the_classes_that_join_grades_are_explained():
    five, bands = (bands_of(list(JOINED[name])).explained for name in ("five", "bands"))
    assert "With --classes five, g is up to G6" in bands_of(["f", "vf", "xf", "ms"]).explained
    prediction = command.Prediction(Path("1.jpg"), [("vf", 0.8), ("xf", 0.2)], None, "small")
    assert command.format_text(prediction, five).splitlines()[-3:] == ["Note: small", "", five] and not bands


def test_files_folders_and_patterns(trained):
    photos = parse_json(predict(trained, "coin_dataset/test/g06", "coin_dataset/t*/vf30/1.jpg", "--json", "--top-k", 2))
    names = [photo["photo"].replace("\\", "/").removeprefix("coin_dataset/") for photo in photos]
    assert names == ["test/g06/0.jpg", "test/g06/1.jpg", "test/g06/2.jpg", "test/vf30/1.jpg", "train/vf30/1.jpg"]
    for photo in photos:
        assert len(photo["top"]) == 2 and photo["top"][0]["grade"] == photo["grade"]
        assert 1 >= photo["top"][0]["confidence"] >= photo["top"][1]["confidence"] >= 0


def test_patterns_in_a_folder_with_brackets_and_of_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("coins [2020]/a[1].jpg", "coins [2020]/more/b.jpg", "2/c.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        draw_photo(1).save(name)

    def found(*names):
        return [path.as_posix() for path in command.find_inputs(list(names))]

    assert found("coins [2020]/*.jpg") == ["coins [2020]/a[1].jpg"]
    assert found("coins [2020]/a[1].jpg") == ["coins [2020]/a[1].jpg"]
    assert found(f"{tmp_path}/coins [2020]/*/*.jpg") == [f"{tmp_path.as_posix()}/coins [2020]/more/b.jpg"]
    assert found("coins*") == found("coins [2020]") == ["coins [2020]/a[1].jpg", "coins [2020]/more/b.jpg"]
    assert found("[0-9]") == ["2/c.jpg"] and found("*/**/*.jpg")[0] == "2/c.jpg"
    assert found("*.png") == ["*.png"]
    Path("empty").mkdir()
    assert found("emp*") == ["empty"], "which has no photo, and not: no such file"


def test_linked_folders_are_looked_into_and_those_of_thumbnails_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.jpg", "photos/@eaDir/a.jpg", "photos/.thumbs/a.jpg", "elsewhere/b.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        draw_photo(1).save(name)
    try:
        (tmp_path / "photos/link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "photos/circle").symlink_to(tmp_path / "photos")
    except OSError:
        pytest.skip("links are not allowed")
    expected = ["photos/a.jpg", "photos/link/b.jpg"]
    assert [path.as_posix() for path in command.find_inputs(["photos"])] == expected
    assert "photos/link/b.jpg" in [path.as_posix() for path in command.find_inputs(["photos/*"])]


def test_a_photo_and_its_shrunk_copy_get_the_same_grade(trained, tmp_path):
    with Image.open(trained / "coin_dataset/train/vf30/0.jpg") as photo:
        large = photo.resize((6000, 3000), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=92)
    large.resize((1024, 512), Image.Resampling.BICUBIC).save(tmp_path / "small.jpg", quality=95, subsampling=0)
    small, large = grade([trained / BEST], [tmp_path / "small.jpg", tmp_path / "large.jpg"])
    assert torch.allclose(small, large, atol=0.02)


def test_the_temperature_of_the_checkpoint_decides_how_sure_it_is(trained, tmp_path):
    confidences = []
    for temperature in (0.5, 1.0, 2.0):
        checkpoint = torch.load(trained / BEST, weights_only=True) | {"temperature": temperature}
        torch.save(checkpoint, tmp_path / BEST)
        confidences.append(grade([tmp_path / BEST], [trained / "coin_dataset/train/vf30/0.jpg"]).max().item())
    assert confidences == sorted(confidences, reverse=True) and confidences[0] > confidences[2]


def test_a_photo_that_cannot_be_read_is_named_and_the_others_graded(trained, tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    (tmp_path / "nothing.jpg").touch()
    assert_fails(predict(trained, tmp_path / "nothing.jpg"), "nothing.jpg: an empty file: copy it again")
    result = predict(trained, tmp_path / "text.jpg", "missing.jpg", "coin_dataset/test/g06/0.jpg", "--json")
    assert result.returncode == 1 and len(parse_json(result)) == 1
    assert "text.jpg: not a" in result.stderr and "missing.jpg: no such file" in result.stderr
    assert_fails(predict(trained, tmp_path / "text.jpg"), "text.jpg")
    assert_fails(predict(trained, "--faces", tmp_path, tmp_path), "--faces takes two photos")
    (tmp_path / "empty").mkdir()
    result = predict(trained, tmp_path / "empty", "no*.jpg", "coin_dataset/test/g06/0.jpg", "--json")
    assert result.returncode == 1 and len(parse_json(result)) == 1
    assert "empty: no photo in this folder" in result.stderr and "no*.jpg: no such file" in result.stderr

    draw_photo(1).save(tmp_path / "empty/a.dng", "TIFF")
    result = predict(trained, tmp_path / "empty")
    assert result.returncode == 1 and "a.dng: a camera's raw file: save it as JPEG" in result.stderr
    draw_photo(1).save(tmp_path / "empty/a.jpg")
    assert predict(trained, tmp_path / "empty").returncode == 0


class Hostile:
    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.mark.parametrize(
    "kind", ["missing", "cut short", "text", "pickle", "of another program", "incomplete", "wrong"]
)
def test_a_bad_checkpoint_is_an_error_and_nothing_in_it_is_executed(trained, tmp_path, kind):
    path = tmp_path / BEST
    checkpoint = torch.load(trained / BEST, weights_only=True)
    match kind:
        case "cut short":
            path.write_bytes((trained / BEST).read_bytes()[:-1000])
        case "text":
            path.write_text("no checkpoint")
        case "pickle":
            path.write_bytes(pickle.dumps(Hostile()))
        case "of another program":
            torch.save({"model_state_dict": {}, "hostile": Hostile()}, path)
        case "incomplete":
            del checkpoint["architecture"]
            torch.save(checkpoint, path)
        case "wrong":
            checkpoint["classes"] = ["g06"]
            torch.save(checkpoint, path)
    shutil.copy(trained / "coin_dataset/test/g06/0.jpg", tmp_path / "photo.jpg")
    assert_fails(predict(tmp_path, "photo.jpg"), BEST)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_that_is_not_there_is_looked_for_nearby(trained, tmp_path):
    draw_photo(1).save(tmp_path / "photo.jpg")
    full = tmp_path.resolve() / BEST
    assert_fails(predict(tmp_path, "photo.jpg"), f"no checkpoint {full}: run python coin_classifier_custom.py first")
    for epochs, advice in ((0, "the training of {} has not finished its first epoch."), (1, "did you mean {}?")):
        last = torch.load(trained / LAST, weights_only=True)
        torch.save(last | {"progress": last["progress"] | {"epochs": epochs}}, tmp_path / LAST)
        with pytest.raises(UserError, match=re.escape(advice.format(tmp_path / LAST))):
            load_checkpoint(tmp_path / BEST)
    (tmp_path / LAST).unlink()
    for name in ("a/other.pth", "b/x_best.pth", f"c/{BEST}"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(trained / BEST, tmp_path / name)
        result = predict(tmp_path, "photo.jpg")
        assert_fails(result, f"no checkpoint {full}: did you mean {Path(name)}?")
    assert_fails(predict(tmp_path, "photo.jpg", "--checkpoint", "b/best.pth"), f"did you mean {Path('b/x_best.pth')}?")
    result = run_script("coin_classifier_custom.py", "--resume", "--output", "c", cwd=tmp_path)
    assert_fails(result, "coin_classifier_custom_last.pth: run")  # nothing else can be resumed


def test_a_model_for_onnx_runtime_is_not_taken_for_a_checkpoint(tmp_path):
    for name in ("photo.jpg", "model.onnx"):
        draw_photo(1).save(tmp_path / name, "JPEG")
    result = predict(tmp_path, "photo.jpg", "--checkpoint", "model.onnx")
    assert_fails(result, "model.onnx is for ONNX Runtime (docs/onnx.md): name the .pth file")


def test_many_photos_get_a_line_and_a_row_each_with_what_is_odd_about_them(trained, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(trained / "coin_dataset/test/ms65", folder / "good")
    draw_photo(1, (120, 120)).save(folder / "square.png")
    draw_photo(2, (40, 20)).save(folder / "small and ünnamed.png")
    Image.new("RGB", (240, 120), (20, 60, 200)).save(folder / "blank.png")
    result = predict(trained, folder, "--min-confidence", 1, "--top-k", 2, "--csv", tmp_path / "tables/grades.csv")
    assert (result.returncode, result.stderr) == (0, f"The table is in {tmp_path / 'tables/grades.csv'}.\n")
    assert not set("\r\x1b") & set(result.stdout)

    with (tmp_path / "tables/grades.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["photo", "grade", "confidence", "note", "grade_2", "confidence_2"]
    notes = {str(Path(row["photo"]).relative_to(folder)): row["note"] for row in rows}
    assert notes.pop("square.png") == "looks like one face (give both with --faces); unsure"
    assert notes.pop("small and ünnamed.png") == "small; unsure"
    assert notes.pop("blank.png") == "blank; unsure"
    assert list(notes.values()) == ["unsure"] * 3
    assert all(1 > float(row["confidence"]) >= float(row["confidence_2"]) > 0 for row in rows)

    width = max(len(row["photo"]) for row in rows)
    for line, row in zip(result.stdout.splitlines(), rows, strict=True):
        grade, confidence, note = line[width:].split(maxsplit=2)
        assert (line[:width].rstrip(), grade, note) == (row["photo"], row["grade"], row["note"])
        assert confidence == f"{float(row['confidence']):.2%}"


def test_a_page_shows_the_least_sure_first_and_needs_no_other_file(trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "coin_dataset/test", tmp_path / "photos")
    shutil.copy(tmp_path / "photos/g06/0.jpg", tmp_path / "photos" / ("<b>.jpg" if os.name == "posix" else "b.jpg"))
    draw_photo(1, (120, 120)).save(tmp_path / "photos" / "square.png")
    (tmp_path / "photos" / "text.jpg").write_text("no photo")
    page = tmp_path / "pages" / "grades.html"
    result = predict(trained, tmp_path / "photos", "--html", page, "--csv", tmp_path / "grades.csv")
    assert result.returncode == 1 and "text.jpg: not a" in result.stderr
    with (tmp_path / "grades.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    (unread,) = (row for row in rows if not row["grade"])
    assert unread["photo"].endswith("text.jpg") and unread["note"].startswith("not a ") and not unread["confidence"]
    rows = sorted((row for row in rows if row["grade"]), key=lambda row: float(row["confidence"]))
    text = page.read_text("utf-8")
    assert [path.name for path in page.parent.iterdir()] == ["grades.html"]
    shown = re.findall(r'data-predicted="(\w+)" data-confidence="([\d.]+)"', text)
    assert [(grade, float(confidence)) for grade, confidence in shown] == [
        (row["grade"], pytest.approx(float(row["confidence"]), abs=1e-6)) for row in rows
    ]
    pictures = re.findall(r'<img [^>]*src="([^"]+)"', text)
    assert len(pictures) == 2 * len(rows) and all(picture.startswith("data:image/") for picture in pictures)
    assert "Note: looks like one face (give both with --faces)" in text and "<b>" not in text
    assert re.search(r"<h2>Photos without a grade</h2>\s*<ul>\s*<li>\S*text.jpg: not a", text)
    with Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2]))) as picture:
        assert picture.width >= 512 and picture.height >= 256
    with Image.open(io.BytesIO(base64.b64decode(pictures[1].partition(",")[2]))) as heatmap:
        opacity = np.asarray(heatmap.convert("RGBA"))[..., 3]
        assert opacity.min() < opacity.max() <= 0.6 * 255

    monkeypatch.setattr("coinkit.review.MAX_COINS", 2)
    networks, classes = command.load_networks([trained / BEST], torch.device("cpu"))
    shares = np.array([[0.9, 0.1, 0], [0.6, 0.2, 0.2], [0.8, 0.1, 0.1]])
    photos = [(tmp_path / f"photos/g06/{index}.jpg", shares[index], "") for index in range(3)]
    write_grades(photos, {}, classes, bands_of(classes), networks[0].model, [trained / BEST], page)
    assert "of which the model is least sure" in page.read_text("utf-8")
    assert re.findall(r'data-confidence="([\d.]+)"', page.read_text("utf-8")) == ["0.6", "0.8"]


def test_unsure_is_said_where_validation_says_so(trained, tmp_path):
    photo = trained / "coin_dataset/test/g06/0.jpg"
    checkpoint = torch.load(trained / BEST, weights_only=True)
    torch.save(checkpoint | {"unsure_below": 1.0}, tmp_path / "unsure.pth")
    torch.save(checkpoint | {"unsure_below": 0.0}, tmp_path / "unknown.pth")
    torch.save(checkpoint | {"unsure_below": "wrong"}, tmp_path / "wrong.pth")
    torch.save(checkpoint | {"cut_out": torch.zeros(2)}, tmp_path / "cut.pth")
    with pytest.raises(UserError, match=r"cut\.pth is damaged"):
        command.load_networks([tmp_path / "cut.pth"], torch.device("cpu"))
    for name, options, note in (
        ("unsure.pth", [], "unsure"),
        ("unsure.pth", ["--min-confidence", 0], ""),
        ("unknown.pth", [], ""),
        ("unknown.pth", ["--min-confidence", 1], "unsure"),
    ):
        result = predict(trained, photo, "--json", "--checkpoint", tmp_path / name, *options)
        assert parse_json(result)[0]["note"] == note, result.stderr
    assert_fails(predict(trained, photo, "--checkpoint", tmp_path / "wrong.pth"), "wrong.pth")


def test_photos_that_are_not_cut_out_are_told_whichever_network_comes_first(trained):
    photo = trained / "coin_dataset/test/g06/0.jpg"
    (network,), _ = command.load_networks([trained / BEST], torch.device("cpu"))
    for answers in ((True, False), (False, True)):
        networks = [network._replace(cut_out=cut_out) for cut_out in answers]
        ((_, (_, notes)),) = command.grade_photos(networks, [photo], False)
        assert any("not cut out" in note for note in notes)


def test_grades_are_summed_to_bands(trained, tmp_path):
    classes = ["g04", "g06", "vf20", "vf30", "ms65"]
    checkpoint = save_network(tmp_path / "model.pth", classes)
    photos = [trained / "coin_dataset/test/g06" / name for name in ("0.jpg", "1.jpg")]
    probabilities = grade([checkpoint], photos)
    sums = torch.stack([probabilities[:, :2].sum(1), probabilities[:, 2:4].sum(1), probabilities[:, 4]], dim=1)
    expected = [
        (("g", "vf", "ms")[band], share) for share, band in zip(*map(torch.Tensor.tolist, sums.max(1)), strict=True)
    ]

    options = ["--checkpoint", checkpoint, "--csv", tmp_path / "grades.csv", "--html", tmp_path / "grades.html"]
    result = predict(trained, *photos, "--json", *options)
    for line, (band, share) in zip(parse_json(result), expected, strict=True):
        assert (line["band"], line["band_confidence"]) == (band, pytest.approx(share, abs=1e-5))
    with (tmp_path / "grades.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["band"] for row in csv.DictReader(file)] == [band for band, _ in expected]
    assert re.findall(r"<p>Band (\w+): ", (tmp_path / "grades.html").read_text("utf-8"))
    band, share = expected[0]
    result = predict(trained, *photos, "--checkpoint", checkpoint)
    header, first, _ = result.stdout.splitlines()
    assert header.split() == ["photo", "grade", "confidence", "band", "confidence", "note"]
    assert re.search(rf"%  {band} +{share:.2%}$", first) and first.index(f"  {band} ") + 2 == header.index("band")

    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"unsure_band_below": share + 0.01}, checkpoint)
    result = predict(trained, photos[0], "--checkpoint", checkpoint)
    assert f"Band: {band}: {share:.2%}" in result.stdout and "Note: unsure of the band" in result.stdout
    assert not bands_of(["g06", "vf30", "ms65"]).tell and bands_of(["g06", "vf30", "ms65"], "five").tell

    (tmp_path / "mine.csv").write_text("grade,class\nG4,worn\nG6,worn\nVF20,worn\nVF30,fine\nMS65,fine\n")
    for bands, names, members in (
        ("five", ["g", "vf", "ms"], [[0, 1], [2, 3], [4]]),
        ("bands", ["g", "vf", "ms"], [[0, 1], [2, 3], [4]]),
        (tmp_path / "mine.csv", ["worn", "fine"], [[0, 1, 2], [3, 4]]),
    ):
        page = tmp_path / "bands.html"
        result = predict(trained, *photos, "--checkpoint", checkpoint, "--classes", bands, "--json", "--html", page)
        for line, shares in zip(parse_json(result), probabilities, strict=True):
            sums = [shares[labels].sum().item() for labels in members]
            assert (line["band"], line["band_confidence"]) == (
                names[int(np.argmax(sums))],
                pytest.approx(max(sums), abs=1e-5),
            )
            threshold = share + 0.01 if bands == "bands" else 0.5  # which validation has not told
            assert ("unsure of the band" in line["note"]) == (max(sums) < threshold)
            assert f"<p>Band {line['band']}: {max(sums):.0%}" in page.read_text("utf-8")
        assert ("g is up to G6" in page.read_text("utf-8")) == (bands == "five")
    (tmp_path / "mine.csv").write_text("grade,class\nG4,worn\nG6,worn\nMS65,fine\n")
    result = predict(trained, *photos, "--checkpoint", checkpoint, "--classes", tmp_path / "mine.csv")
    assert_fails(result, "mine.csv has no line for vf20, vf30, which the network names")


def test_a_grade_outside_the_likeliest_band_is_noted():
    classes = ["g06", "vf20", "vf30"]
    bands = bands_of(classes)
    for shares, disagree in {(0.4, 0.3, 0.3): True, (0.4, 0.5, 0.1): False, (0.6, 0.2, 0.2): False}.items():
        answer = command.make_prediction(Path("photo.jpg"), torch.tensor(shares), [], classes, bands, 3, 0.0, 0.0)
        assert answer.note == ("another band is likelier than that of the grade" if disagree else "")
    unsure = command.make_prediction(Path("a.jpg"), torch.tensor([0.4, 0.3, 0.3]), [], classes, bands, 3, 0, 0.9)
    assert unsure.note == "unsure of the band; another band is likelier than that of the grade"
    unsure = command.make_prediction(Path("a.jpg"), torch.tensor([0.6, 0.2, 0.2]), [], classes, bands, 3, 0.9, 0)
    assert unsure.note == "unsure of the grade"
    alone = command.make_prediction(Path("a.jpg"), torch.tensor([0.6, 0.2, 0.2]), [], classes, bands, 3, 0.5, 0.9)
    assert alone.note == ""  # the band holds this grade only, of which it is sure


def test_a_terminal_shows_a_bar_that_the_output_is_free_of(trained):
    termios = pytest.importorskip("termios", reason="there are no pseudo-terminals here")
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    arguments = [sys.executable, ROOT / "predict.py", "coin_dataset/test/g06", "--device", "cpu"]
    result = subprocess.run(arguments, cwd=trained, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.set_blocking(ours, False)
    assert "0/3" in os.read(ours, 10000).decode()
    os.close(theirs)
    os.close(ours)
    assert len(result.stdout.splitlines()) == 3 and "\r" not in result.stdout


def save_network(path, classes=("g06", "vf30", "ms65"), width=64, height=32):
    torch.manual_seed(width)
    architecture = {"image_width": width, "image_height": height, "channels": [4, 4, 4, 4, 4], "fc_features": [8, 8]}
    model = CoinClassifier(len(classes), **architecture)
    torch.nn.init.normal_(model.fc3.weight)
    checkpoint = {"format_version": FORMAT_VERSION, "model": "custom", "architecture": architecture}
    checkpoint |= {"classes": list(classes), "temperature": 0.7, "unsure_below": 0.0, "unsure_band_below": 0.0}
    checkpoint |= {"model_state_dict": model.state_dict()}
    torch.save(checkpoint, path)
    return path


def test_several_checkpoints_give_the_mean_of_their_logits(trained, tmp_path):
    photo = trained / "coin_dataset/test/vf30/0.jpg"
    checkpoints = [trained / BEST, save_network(tmp_path / "other.pth", width=128, height=64)]
    first, second = (grade([checkpoint], [photo])[0] for checkpoint in checkpoints)
    assert not torch.allclose(first, second, atol=0.05)
    result = predict(trained, "--checkpoint", *checkpoints, photo, "--json")
    assert result.returncode == 0, result.stderr
    shares = {top["grade"]: top["confidence"] for top in parse_json(result)[0]["top"]}
    mean = ((first.log() + second.log()) / 2).softmax(dim=0)
    assert shares == pytest.approx(dict(zip(("g06", "vf30", "ms65"), mean.tolist(), strict=True)), abs=1e-4)


def test_checkpoints_of_other_grades_are_not_averaged(trained, tmp_path):
    other = save_network(tmp_path / "other.pth", classes=("g06", "vf30", "au50"))
    with pytest.raises(UserError, match="other.pth has other grades"):
        grade([trained / BEST, other], [])


def test_tta_takes_the_mean_over_views_whatever_the_other_photos(trained, monkeypatch):
    monkeypatch.setattr("coinkit.inference.choose_dtype", lambda *_: torch.float32)
    photos = sorted((trained / "coin_dataset/test").glob("*/*.jpg"))
    plain, mean = grade([trained / BEST], photos), grade([trained / BEST], photos, tta=True)
    assert (plain - mean).abs().max() > 0.001
    assert torch.allclose(grade([trained / BEST], photos[:1], tta=True), mean[:1], atol=1e-4)

    (network,), _ = command.load_networks([trained / BEST], torch.device("cpu"))
    pixels = torch.stack([to_tensor(open_photo(path, *network.size)[0]) for path in photos])
    shown = list(views(pixels, tta=True))
    assert len(shown) == 1 + len(TTA_VIEWS) and shown[0] is pixels
    with torch.inference_mode():
        logits = torch.stack([network.model(normalise(view)) / network.temperature for view in shown])
    assert torch.allclose(logits.mean(dim=0).softmax(dim=1), mean, atol=1e-4)


def test_faces_move_on_their_own():
    photos = torch.zeros(1, 1, 40, 80)
    photos[..., 19:21, 29:31] = 1  # in the first face, to the right of the middle
    photos[..., 19:21, 59:61] = 1  # in the middle of the second
    angle, shift = torch.tensor([torch.pi / 2, 0]), torch.tensor([[0, 0], [0.25, 0.1]])
    expected = torch.zeros(1, 1, 40, 80)
    expected[..., 9:11, 19:21] = 1  # turned to the left
    expected[..., 15:17, 49:51] = 1  # shifted by 10 pixels to the left and 4 upwards
    assert torch.allclose(affine_faces(photos, angle, torch.ones(2), shift), expected, atol=0.01)


def test_a_heatmap_lies_over_its_photo_and_a_note_follows_the_grades(trained, tmp_path):
    with Image.open(trained / "coin_dataset/test/ms65/0.jpg") as photo:
        photo.resize((64, 64)).save(tmp_path / "square.png")
    result = predict(trained, tmp_path / "square.png", "--heatmap", tmp_path / "why.png")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Predicted Grade: ") and lines[-2:] == [
        "",
        "Note: looks like one face (give both with --faces)",
    ], result.stderr
    assert result.stderr == f"The heatmap is in {tmp_path / 'why.png'}.\n"
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.format == "PNG" and picture.size == (1024, 512)
        colours = np.ptp(np.asarray(picture).astype(int), axis=2)
    assert colours.max() > 60  # the photo itself is grey


def test_a_photo_that_cannot_be_read_again_loses_its_heatmap_and_not_the_table(trained, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise PhotoError("cannot be read (Input/output error)")

    photo, table = trained / "coin_dataset/test/ms65/0.jpg", tmp_path / "grades.csv"
    options = ["--checkpoint", trained / BEST, "--heatmap", tmp_path / "why.png", "--csv", table, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, [photo, *options])])
    monkeypatch.setattr(command, "open_coin", fail)
    assert command.main() == 1
    assert f"No heatmap of {photo}: cannot be read" in capsys.readouterr().err
    assert table.read_text("utf-8-sig").count("\n") == 2


def test_coins_without_a_partner_are_in_the_table_even_if_all_are(trained, tmp_path):
    for name in ("obverse/a.jpg", "reverse/b.jpg"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(trained / "coin_dataset/test/ms65/0.jpg", tmp_path / name)
    result = predict(trained, tmp_path, "--csv", tmp_path / "grades.csv")
    assert result.returncode == 1 and result.stderr.count("\n") == 3
    rows = (tmp_path / "grades.csv").read_text("utf-8-sig").splitlines()
    assert len(rows) == 3 and all("partner" in row or "no photo" in row for row in rows[1:])


def test_heatmaps_of_several_photos_lie_in_a_folder_as_the_photos_do(trained, tmp_path):
    photos = ["coin_dataset/test/g06/0.jpg", "coin_dataset/test/vf30/0.jpg"]
    result = predict(trained, *photos, trained / "missing.jpg", "--heatmap", tmp_path / "why")
    assert result.returncode == 1 and len(result.stdout.splitlines()) == 2, result.stderr
    written = sorted(path.relative_to(tmp_path / "why").as_posix() for path in tmp_path.rglob("*.*"))
    assert written == [f"{photo}.png" for photo in photos]


def test_a_heatmap_never_replaces_a_photo(tmp_path):
    photos = [tmp_path / "a.png", tmp_path / "a.png.png"]
    with pytest.raises(UserError, match="one file"):
        command.heatmap_paths(tmp_path / "out.png", photos)
    with pytest.raises(UserError, match="would replace"):
        command.heatmap_paths(tmp_path / "a.png", photos[:1])
    with pytest.raises(UserError, match="would replace"):
        command.heatmap_paths(tmp_path, photos)
    pairs = [Faces(photos[0], tmp_path / name) for name in ("b.png", "c.png")]
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    for target in (tmp_path / "b.png", tmp_path / "linked" / "b.png"):
        with pytest.raises(UserError, match="would replace"):
            command.heatmap_paths(target, pairs[:1])
    with pytest.raises(UserError, match="same obverse"):
        command.heatmap_paths(tmp_path / "why", pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--csv", "photo.jpg"], "ends in .csv"),
        (["--html", "photo.jpg"], "ends in .html"),
        (["--heatmap", "photo.jpg"], "ends in .png"),
        (["--heatmap", "why.png", "--checkpoint", "a.pth", "b.pth"], "one network"),
        (["--min-confidence", "70"], "between 0 and 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["predict.py", "photo.jpg", *options])
    with pytest.raises(SystemExit) as exit_info:
        command.parse_arguments()
    assert exit_info.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="no pipe is closed so here")
@pytest.mark.parametrize("files", [True, False])
def test_a_reader_that_closes_the_pipe_does_not_lose_the_files(trained, tmp_path, files):
    table, page = tmp_path / "grades.csv", tmp_path / "grades.html"
    command = [sys.executable, ROOT / "predict.py", "coin_dataset/test", "--device", "cpu"]
    command += ["--csv", table, "--html", page] if files else []
    options = {"cwd": trained, "env": os.environ | {"PYTHONUNBUFFERED": "1"}}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        process.stdout.close()
        told = [f"The table is in {table}.", f"The page is in {page}."] if files else []
        assert process.stderr.read().decode().splitlines() == told
    assert process.returncode == (0 if files else 141)
    if files:
        assert len(table.read_text("utf-8-sig").splitlines()) == 1 + 9 and page.read_text("utf-8").count("<h3") == 9


def test_predicting_does_without_the_slow_imports(trained):
    photo = trained / "coin_dataset/test/g06/0.jpg"
    check = (
        "import predict, sys\n"
        f"sys.argv = ['predict.py', {str(photo)!r}, '--checkpoint', {str(trained / BEST)!r}, '--device', 'cpu']\n"
        "predict.main()\n"
        "slow = {'captum', 'jinja2', 'matplotlib', 'scipy', 'sklearn', 'sympy', 'tensorboard', 'torchvision'}\n"
        "print(slow & {*sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.startswith("Predicted Grade: g06"), result.stderr
    assert result.stdout.splitlines()[-1] == "set()"
