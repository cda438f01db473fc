"""Coins with a photo of each face: drawn photos with known circles are found, cut out, joined, corrected and graded."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_fails, draw_photo, run_script, train
from PIL import Image
from test_coin_finder import draw_coin

from coinkit.coin_finder import GROUND, SURE, Circle
from coinkit.cut_page import write_cut_page
from coinkit.faces import Faces, OpenedCoin, find_coins, format_circles, open_coin
from coinkit.inference import CUT_OUT, NOT_CUT_OUT, read_photo
from coinkit.manifest import Photo, read_manifest, write_manifest
from coinkit.near_duplicates import assign_groups
from coinkit.photos import PhotoError
from coinkit.training_photos import training_rows, were_cut_out

CIRCLES = (Circle(300, 500, 170, 1), Circle(310, 480, 150, 1))


def draw_faces(folder: Path, name: str, seed: int, label: str = ".jpg", **save_options) -> Faces:
    """Photos of both faces of a coin in a holder, in <folder>/obverse/ and <folder>/reverse/."""
    paths = []
    for side, face in enumerate(("obverse", "reverse")):
        path = folder / face / f"{name}{label}"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_coin(600, 800, CIRCLES[side], holder=1.25, ground=225, seed=2 * seed + side).save(path, **save_options)
        paths.append(path)
    return Faces(*paths)


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Four coins of each of 2 grades."""
    for grade, first in (("vf30", 0), ("ms65", 100)):
        for seed in range(first, first + 4):
            draw_faces(tmp_path / "images" / grade, str(10000000 + seed), seed)
    return tmp_path / "images"


def prepare(cwd: Path, *options) -> dict[str, dict]:
    """Return the rows of the manifest, by source."""
    result = run_script("prepare_dataset.py", *options, cwd=cwd)
    assert result.returncode == 0, result.stderr
    with (cwd / "coin_dataset" / "manifest.csv").open(encoding="utf-8") as file:
        return {row["source"]: row for row in csv.DictReader(file)}


def assert_circles(text: str, *expected: Circle, tolerance: float = 5) -> None:
    circles = [list(map(float, circle.split())) for circle in text.split("; ")]
    assert np.allclose([circle[:3] for circle in circles], [coin[:3] for coin in expected], atol=tolerance), text


def test_pairs_become_photos_that_show_only_the_coins(pairs):
    rows = prepare(pairs.parent)
    assert len(rows) == 8 and len({row["group"] for row in rows.values()}) == 8
    row = rows["images/vf30/obverse/10000001.jpg"]
    assert row["reverse"] == "images/vf30/reverse/10000001.jpg" and len(row["digest"]) == 128
    assert_circles(row["circles"], *CIRCLES)
    photo = np.asarray(Image.open(pairs.parent / "coin_dataset" / row["output"]))
    assert photo.shape == (512, 1024, 3)
    assert np.abs(photo[[0, 0, 511, 511], [0, 511, 512, 1023]].astype(int) - GROUND).max() < 5
    page = (pairs.parent / "coin_dataset" / "cut_coins.html").read_text("utf-8")
    assert page.count("data:image/jpeg") == 8 and "vf30/obverse/10000001.jpg,300,500," in page


def test_the_page_of_cut_coins_says_which_face_to_check(tmp_path):
    draw_photo(1).save(tmp_path / "1.jpg")
    faces = tmp_path / "images" / "ms65" / "obverse" / "1.jpg", tmp_path / "images" / "ms65" / "reverse" / "1.jpg"
    circles = Circle(50, 60, 40, 1.0), Circle(51, 61, 41, SURE - 0.01)  # the first is from circles.csv
    photo = Photo(str(faces[0]), "ms65", "train", "1.jpg", reverse=str(faces[1]), circles=format_circles(circles))
    write_cut_page(tmp_path, [photo], tmp_path / "images")
    page = (tmp_path / "cut_coins.html").read_text("utf-8").partition("<main>")[2]
    obverse, reverse = (page.index(f"{name}, certainty") for name in ("obverse", "reverse"))
    assert obverse < page.index("<pre>ms65/obverse/1.jpg,50,60,40</pre>") < reverse
    assert reverse < page.index("check it") < page.index("<pre>ms65/reverse/1.jpg,51,61,41</pre>")
    assert page.count("check it") == 1
    (tmp_path / "1.jpg").write_bytes(b"damaged")
    write_cut_page(tmp_path, [photo], tmp_path / "images")
    assert "data:image" not in (tmp_path / "cut_coins.html").read_text("utf-8")


def test_pairs_are_read_again_only_when_a_file_changes(pairs):
    folder = pairs.parent
    before = prepare(folder)
    target = {source: folder / "coin_dataset" / row["output"] for source, row in before.items()}
    inodes = {source: path.stat().st_ino for source, path in target.items()}
    draw_faces(pairs / "vf30", "new", 50)
    changed = "images/vf30/obverse/10000002.jpg"
    draw_coin(600, 800, CIRCLES[1], holder=1.25, ground=225, seed=77).save(pairs / "vf30" / "reverse" / "10000002.jpg")
    after = prepare(folder)
    assert len(after) == 9 and all(after[source]["split"] == row["split"] for source, row in before.items())
    assert {source for source, path in target.items() if path.stat().st_ino != inodes[source]} == {changed}
    assert after[changed]["digest"][:64] == before[changed]["digest"][:64] != after[changed]["digest"][64:]

    path = folder / "coin_dataset" / "manifest.csv"  # as an earlier way of finding coins would have left it
    path.write_text(path.read_text("utf-8").replace("cut by finder ", "cut by finder 0"), "utf-8")
    inodes = {source: path.stat().st_ino for source, path in target.items()}
    again = prepare(folder)
    assert all(path.stat().st_ino != inodes[source] for source, path in target.items())
    assert {source: row["split"] for source, row in again.items()} == {s: row["split"] for s, row in after.items()}


def test_what_has_no_partner_or_no_coin_is_left_out_with_the_reason(pairs):
    (pairs / "vf30" / "reverse" / "10000001.jpg").unlink()
    draw_photo(0, (600, 800)).convert("L").point(lambda _: 200).save(pairs / "ms65" / "reverse" / "10000101.jpg")
    rows = prepare(pairs.parent)
    assert "no photo of its reverse" in rows["images/vf30/obverse/10000001.jpg"]["reason"]
    assert rows["images/ms65/obverse/10000101.jpg"]["reason"].startswith("reverse: ")
    assert sum(not row["reason"] for row in rows.values()) == 6


def test_a_circle_of_the_user_wins(pairs):
    before = prepare(pairs.parent)
    rows = ["File;X;Y;Radius", "vf30/reverse/10000000.jpg;1;2;3", ";;;;", "vf30/reverse/gone.jpg;1;2;3"]
    rows += ["vf30/reverse/10000000.jpg;200;210,5;99;;", *[";;;"] * 2000]
    (pairs / "circles.csv").write_text("\n".join(rows))
    after = prepare(pairs.parent)
    source = "images/vf30/obverse/10000000.jpg"
    assert_circles(after[source]["circles"], CIRCLES[0], Circle(200, 210.5, 99, 1))
    assert [name for name in after if after[name]["circles"] != before[name]["circles"]] == [source]
    assert after[source]["split"] == before[source]["split"]
    (pairs / "circles.csv").write_text("file,x,y,radius\nvf30/reverse/10000000.jpg,one,2,3\n")
    assert_fails(run_script("prepare_dataset.py", cwd=pairs.parent), "circles.csv, line 2")
    (pairs / "circles.csv").write_text("vf30/reverse/10000000.jpg,300,200,100\n")
    assert_fails(run_script("prepare_dataset.py", cwd=pairs.parent), "circles.csv, line 1", "file,x,y,radius")


def test_a_circle_is_of_its_photo_however_an_accent_is_written(tmp_path):
    coin = draw_faces(tmp_path, "mu\u0308nze", 0)
    (tmp_path / "circles.csv").write_text("file,x,y,radius\nobverse/m\u00fcnze.jpg,1,2,3\n", encoding="utf-8")
    (found,), alone = find_coins([coin.obverse, coin.reverse])
    assert found.circles == (Circle(1, 2, 3, 1), None) and not alone


def test_a_circle_is_of_its_photo_in_any_letters_that_a_mac_takes_for_the_same(tmp_path, monkeypatch):
    coin = draw_faces(tmp_path, "img", 0)
    draw_faces(tmp_path, "IMG", 0)  # there, this is the same file
    (tmp_path / "circles.csv").write_text("file,x,y,radius\nobverse/IMG.jpg,1,2,3\n", encoding="utf-8")
    assert find_coins([coin.obverse, coin.reverse])[0][0].circles == (None, None)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert find_coins([coin.obverse, coin.reverse])[0][0].circles == (Circle(1, 2, 3, 1), None)


def test_one_face_is_known_from_within_its_folder(tmp_path, monkeypatch):
    draw_faces(tmp_path, "1", 0)
    monkeypatch.chdir(tmp_path / "obverse")
    coins, alone = find_coins([Path("1.jpg")])
    assert not coins and "its reverse is missing" in alone[Path("1.jpg")]
    (found,), alone = find_coins([Path("1.jpg"), Path("../reverse/1.jpg")])
    assert found.reverse == Path("../reverse/1.jpg") and not alone


def test_a_dry_run_writes_nothing_and_pairs_lie_beside_photos_of_both_faces(pairs):
    (pairs / "vf30" / "6000x3000").mkdir()
    draw_photo(5).save(pairs / "vf30" / "6000x3000" / "10000000.jpg")
    result = run_script("prepare_dataset.py", "--dry-run", cwd=pairs.parent)
    assert result.returncode == 0 and "9" in result.stdout.split("all ")[1]
    assert not (pairs.parent / "coin_dataset").exists()
    rows = prepare(pairs.parent, "--full-size", "link")
    same = [rows[f"images/vf30/{folder}/10000000.jpg"] for folder in ("6000x3000", "obverse")]
    assert same[0]["group"] == same[1]["group"]  # by the certificate number
    assert not same[0]["circles"] and same[1]["circles"]


def join_pairs(grade: Path) -> Path:
    """Replace the pairs of a grade by photos of both faces, and return their folder."""
    folder = grade / "6000x3000"
    folder.mkdir()
    for path in sorted((grade / "obverse").iterdir()):
        both = Image.new("RGB", (1200, 800))
        both.paste(Image.open(path), (0, 0))
        both.paste(Image.open(grade / "reverse" / path.name), (600, 0))
        both.save(folder / path.name, quality=95)
    for face in ("obverse", "reverse"):
        shutil.rmtree(grade / face)
    return folder


def test_coins_are_cut_out_of_photos_of_both_faces(pairs, tmp_path):
    join_pairs(pairs / "vf30")
    folder = join_pairs(pairs / "ms65")
    (pairs / "circles.csv").write_text("file,x,y,radius\nvf30/6000x3000/10000001.jpg,900,400,111\n")
    Image.open(pairs / "vf30" / "6000x3000" / "10000000.jpg").crop((0, 0, 600, 800)).save(folder / "one face.png")
    rows = prepare(tmp_path, "--cut")
    assert rows["images/ms65/6000x3000/one face.png"]["reason"].endswith("(looks like one face)")
    right = Circle(CIRCLES[1].x + 600, *CIRCLES[1][1:])
    assert_circles(rows["images/vf30/6000x3000/10000000.jpg"]["circles"], CIRCLES[0], right)
    assert_circles(rows["images/vf30/6000x3000/10000001.jpg"]["circles"], CIRCLES[0], Circle(900, 400, 111, 1))
    assert len(read_manifest(tmp_path / "coin_dataset")) == 9
    warning = "8 photos were cut out before, and are not now"
    assert warning in run_script("prepare_dataset.py", "--dry-run", cwd=tmp_path).stdout
    assert warning not in run_script("prepare_dataset.py", "--dry-run", "--cut", cwd=tmp_path).stdout


def test_grades_that_the_ground_tells_apart_are_told(pairs, tmp_path):
    join_pairs(pairs / "vf30")
    warning = "Warning: most coins of ms65 are cut out, and most of vf30 are not"
    assert warning in run_script("prepare_dataset.py", "--dry-run", cwd=tmp_path).stdout
    assert "Warning" not in run_script("prepare_dataset.py", "--dry-run", "--cut", cwd=tmp_path).stdout


@pytest.mark.parametrize("label", [".jpg", ".png"])
def test_turned_photos_are_cut_out_upright(tmp_path, label):
    faces = draw_faces(tmp_path, "coin", 3, label)
    upright = np.asarray(open_coin(faces, 128, 64).photo).astype(int)
    for path in faces[:2]:
        photo = Image.open(path).transpose(Image.Transpose.ROTATE_90)
        exif = photo.getexif()
        exif[0x0112] = 6
        photo.save(path, exif=exif, **({"quality": 95} if label == ".jpg" else {}))
    turned = open_coin(faces, 128, 64)
    assert np.abs(np.asarray(turned.photo) - upright).mean() < 3
    assert np.allclose([circle[:3] for circle in turned.circles], [coin[:3] for coin in CIRCLES], atol=5)


def find(obverses: list[str], reverses: list[str]) -> tuple[set[tuple[str, str]], dict[str, str]]:
    """The pairs among photos in ms65/obverse and ms65/reverse, and the others with the reason."""
    paths = [Path("ms65", "obverse", name) for name in obverses] + [Path("ms65", "REVERSE", name) for name in reverses]
    coins, alone = find_coins(paths)
    pairs = {(coin.obverse.name, coin.reverse.name) for coin in coins}
    assert 2 * len(pairs) + len(alone) == len(paths)
    return pairs, {path.name: reason for path, reason in alone.items()}


@pytest.mark.parametrize(
    ("obverse", "reverse"),
    [
        ("A.jpg", "a.PNG"),
        ("12345678-front.jpg", "12345678 b.jpg"),
        ("1_obv.jpg", "1_rev.jpg"),
        ("coin12-obverse.jpg", "coin12-reverse.jpg"),
        ("5o_o.jpg", "5o_r.jpg"),
        ("IMG_0001 front.jpg", "IMG_0001 back.jpg"),
        ("1 (Heads).jpg", "1 (Tails).jpg"),
        ("front-7.heic", "back-7.heic"),
        ("7.jpg", "7_rev.jpg"),
        ("mercury_obv.jpg", "mercury_back.jpg"),
        ("coin front 1.jpg", "coin back 1.jpg"),
        ("1obv.jpg", "rev1.jpg"),
        ("obverse.jpg", "reverse.jpg"),
        ("1881-o.jpg", "1881-o_rev.jpg"),  # of New Orleans
        ("M\u00fcnze.jpg", "Mu\u0308nze.jpg"),  # written in two ways
    ],
)
def test_photos_are_joined_by_name_or_certificate_number(obverse, reverse):
    assert find([obverse, "other.jpg"], ["another.jpg", reverse])[0] == {(obverse, reverse)}
    assert find_coins([Path("ms65/both.jpg")]) == ([Path("ms65/both.jpg")], {})


@pytest.mark.parametrize(
    ("obverse", "reverse"),
    [
        ("1_rev.jpg", "1_obv.jpg"),
        ("1_a.jpg", "1_b.jpg"),
        ("mercuryobv.jpg", "mercuryrev.jpg"),
        ("o_1.jpg", "r_1.jpg"),
        ("1881-o.jpg", "1881_rev.jpg"),
        ("1889 O.jpg", "1889.jpg"),
    ],
)
def test_photos_with_other_names_are_not_joined(obverse, reverse):
    pairs, alone = find([obverse], [reverse])
    assert not pairs
    assert alone[obverse] == "no photo of its reverse among these has the same name: give both the same name"
    alone = find_coins([Path("ms65/obverse", obverse)])[1]
    assert set(alone.values()) == {"its reverse is missing: no photo in a folder reverse was given"}


def test_photos_that_several_others_fit_are_not_joined():
    pairs, alone = find(
        ["c.jpg", "c.png", "1_obv.jpg", "2.jpg", "2_obv.jpg"], ["C.jpg", "1_rev.jpg", "1_back.jpg", "2.jpg"]
    )
    assert pairs == {("2.jpg", "2.jpg")}
    assert alone["c.png"] == "several photos have its name or number: obverse/c.jpg, obverse/c.png, REVERSE/C.jpg"
    assert "obverse/1_obv.jpg, REVERSE/1_rev.jpg, REVERSE/1_back.jpg" in alone["1_back.jpg"]
    assert alone["2_obv.jpg"].startswith("no photo of its reverse")
    assert find([f"12345678_{number}.jpg" for number in range(9)], ["12345678.jpg"])[1]["12345678.jpg"].endswith("...")


def test_circles_are_read_from_every_folder_above_a_photo(tmp_path):
    draw_faces(tmp_path / "ms65", "1", 3)
    pair = tmp_path / "ms65" / "obverse" / "1.jpg", tmp_path / "ms65" / "reverse" / "1.jpg"
    Image.new("RGB", (800, 400)).save(both := tmp_path / "both.png")
    rows = ["file,x,y,radius", "ms65/obverse/1.jpg,1,1,9", "ms65/reverse/1.jpg,2,2,9"]
    rows += ["both.png,100,200,90", "both.png,600,200,91", "both.png,600,200,92"]
    (tmp_path / "circles.csv").write_text("\n".join(rows))
    (tmp_path / "ms65" / "circles.csv").write_text("file,x,y,radius\nobverse/1.jpg,3,3,9\n")
    expected = Faces(*pair, (Circle(3, 3, 9, 1), Circle(2, 2, 9, 1)))
    assert find_coins(pair)[0] == find_coins([], pairs=[pair])[0] == [expected]
    (coin,), _ = find_coins([both], cut=True)
    assert [circle.radius for circle in open_coin(coin, 64, 32).circles] == [90, 92]


def test_a_circle_beyond_the_photo_or_a_photo_of_nothing_has_a_reason(tmp_path):
    faces = draw_faces(tmp_path, "coin", 3)
    for circle in (Circle(9000, 10, 50, 1), Circle(300, 500, 1e9, 1)):
        with pytest.raises(PhotoError, match="reverse: the circle in circles.csv"):
            open_coin(faces._replace(circles=(None, circle)), 64, 32)
    for size in ((1, 1), (5000, 3), (40, 40)):
        Image.new("RGB", size, "white").save(faces.obverse)
        with pytest.raises(PhotoError, match="obverse: "):
            open_coin(faces, 64, 32)


def test_one_photo_is_not_taken_for_both_faces(tmp_path):
    faces = draw_faces(tmp_path, "coin", 3)
    shutil.copy(faces.obverse, faces.reverse)
    with pytest.raises(PhotoError, match="same picture is given for both faces"):
        open_coin(faces, 64, 32)
    faces.reverse.unlink()
    with pytest.raises(PhotoError, match="reverse: no such file"):
        open_coin(faces, 64, 32)


@pytest.mark.parametrize(("obverse", "reverse", "groups"), [("a", "d", 1), ("c", "b", 1), ("c", "a", 1), ("c", "d", 2)])
def test_coins_that_share_a_photo_stay_in_one_split(obverse, reverse, groups):
    photos = [Photo(name, "ms65", reverse=f"r{name}", perceptual_hash=name * 64) for name in ("1", "2")]
    photos[0].digest, photos[1].digest = "a" * 64 + "b" * 64, obverse * 64 + reverse * 64
    assign_groups(photos, "certificate")
    assert len({photo.group for photo in photos}) == groups
    assert photos[1].match == ("has a photo in common with 1" if groups == 1 else "")


def test_an_unsure_circle_is_noted():
    circles = Circle(50, 50, 40, SURE), Circle(50, 50, 40, SURE - 0.01)
    assert OpenedCoin(draw_photo(1), (200, 100), circles).notes == ["check how the coin was cut out (reverse)"]
    assert not OpenedCoin(draw_photo(1), (200, 100), circles[:1]).notes


def test_a_photo_that_cannot_be_opened_is_named_by_its_face(tmp_path):
    faces = draw_faces(tmp_path, "coin", 3)
    faces.reverse.write_bytes(b"nothing")
    with pytest.raises(PhotoError, match="reverse: not a"):
        open_coin(faces, 64, 32)


# ---------------------------------------------------------------- the other commands


@pytest.mark.parametrize("size", [(1024, 512), (64, 32)])
def test_a_photo_that_is_cut_otherwise_than_in_training_gets_a_note(tmp_path, size):
    faces = draw_faces(tmp_path, "1", 1)
    cut, whole = tmp_path / "cut.jpg", tmp_path / "whole.jpg"
    open_coin(faces, 1024, 512).photo.save(cut, quality=75)
    draw_photo(1, (1024, 512)).save(whole)
    for network, photo, note in (
        (True, faces, ""),
        (True, cut, ""),
        (True, whole, NOT_CUT_OUT),
        (False, faces, CUT_OUT),
        (False, whole, ""),
        (None, faces, ""),
        (None, whole, ""),
    ):
        notes = {NOT_CUT_OUT, CUT_OUT} & {*read_photo(photo, {size}, {network}).notes}
        assert notes == ({note} if note else set()), (network, photo)


def test_a_dataset_knows_whether_its_coins_were_cut_out(tmp_path):
    cut, whole = "1.0 1.0 1.0 1.000; 1.0 1.0 1.0 1.000", ""
    known = {"digest": 64 * "0", "perceptual_hash": 64 * "0"}
    for circles, answer in (((cut, cut), True), ((whole, whole), False), ((cut, whole), None), ((), None)):
        rows = [
            Photo(str(number), "ms65", "train", f"{number}.jpg", circles=text, **known)
            for number, text in enumerate(circles)
        ]
        write_manifest(tmp_path, rows)
        assert were_cut_out(training_rows(tmp_path)) is answer


def test_the_page_on_onnx_joins_two_photos_word_for_word_without_torch(tmp_path):
    page = (ROOT / "docs" / "onnx.md").read_text("utf-8")
    (snippet,) = re.findall(r"```python\n(from coinkit.faces.+?)```", page, re.DOTALL)
    for path in draw_faces(tmp_path, "coin", 3)[:2]:
        path.rename(tmp_path / f"{path.parent.name}.jpg")
    program = f"import sys\nfrom pathlib import Path\nwidth, height = 64, 32\n{snippet}"
    program += "\nassert photo.size == (64, 32) and not {'torch', 'scipy', 'tqdm'} & {*sys.modules}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True)
    assert result.returncode == 0, result.stderr


def test_a_pair_gets_the_grade_of_its_prepared_photo(trained, pairs):
    rows = prepare(pairs.parent)
    assert "predict.py --faces obverse.jpg reverse.jpg" in train(pairs.parent, "--num-epochs", 1).stdout
    checkpoint = pairs.parent / "model.pth"
    torch.save(
        torch.load(trained / "coin_classifier_custom_best.pth", weights_only=True) | {"cut_out": False}, checkpoint
    )
    sources = [pairs / "vf30" / face / "10000001.jpg" for face in ("obverse", "reverse")]
    prepared = pairs.parent / "coin_dataset" / rows["images/vf30/obverse/10000001.jpg"]["output"]
    (pairs / "ms65" / "obverse" / "10000102.jpg").unlink()
    names = [pairs, prepared, "--faces", *sources, "--checkpoint", checkpoint, "--json", "--heatmap", "why"]
    result = run_script("predict.py", *names, cwd=pairs.parent)
    assert result.returncode == 1 and "reverse/10000102.jpg: no photo of its obverse" in result.stderr
    lines = {line["photo"]: line for line in map(json.loads, result.stdout.splitlines())}
    assert (
        len(lines) == len(result.stdout.splitlines()) == 8
        and len(list((pairs.parent / "why").rglob("10000001.jpg.png"))) == 2
    )
    pair, whole = lines[f"{sources[0]} + {sources[1]}"], lines[str(prepared)]
    assert pair["grade"] == whole["grade"] and abs(pair["confidence"] - whole["confidence"]) < 0.02
    assert "2:1" not in pair["note"] and "small" not in pair["note"]
    assert CUT_OUT in pair["note"] and CUT_OUT not in whole["note"]

    result = run_script("evaluate.py", "--data", pairs, "--checkpoint", checkpoint, cwd=pairs.parent)
    assert result.returncode == 1 and "7 photos of" in result.stdout, result.stderr
    assert "reverse/10000102.jpg: no photo of its obverse" in result.stderr
    assert f"Warning: 7 of 7 photos are {CUT_OUT}." in result.stderr
    metrics = json.loads((pairs.parent / "report" / "metrics.json").read_text("utf-8"))
    assert [Path(name).name for name in metrics["unread"]] == ["10000102.jpg"]
    with (pairs.parent / "report" / "predictions.csv").open(encoding="utf-8-sig") as file:
        graded = {row["photo"]: row for row in csv.DictReader(file)}
    assert graded[f"{sources[0]} + {sources[1]}"]["predicted"] == pair["grade"]
