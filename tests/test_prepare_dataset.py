import csv
import errno
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, add_photo, assert_fails, draw_photo, run_script
from PIL import Image, ImageChops, ImageDraw, ImageOps

import prepare_dataset
from coinkit import near_duplicates
from coinkit.dataset_report import print_doubtful_counts, print_shares
from coinkit.manifest import Photo
from coinkit.near_duplicates import find_same_certificates
from coinkit.photos import certificate_numbers
from coinkit.splits import assign_splits


def prepare(cwd, *arguments):
    result = run_script("prepare_dataset.py", *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return manifest(cwd)


def manifest(cwd):
    with (cwd / "coin_dataset" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return {row["source"].removeprefix("images/"): row for row in csv.DictReader(file)}


def splits(rows):
    return {source: row["split"] for source, row in rows.items()}


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails(cwd, *arguments):
    result = run_script("prepare_dataset.py", *arguments, cwd=cwd)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    return result.stderr


def test_photos_are_split_by_grade_and_shrunk(images, tmp_path):
    rows = prepare(tmp_path)
    assert Counter((row["grade"], row["split"]) for row in rows.values()) == {
        (grade, split): count for grade in ("vf30", "ms65") for split, count in (("train", 9), ("val", 1), ("test", 2))
    }
    for row in rows.values():
        with Image.open(tmp_path / "coin_dataset" / row["output"]) as photo:
            assert photo.size == (1024, 512)
    written = {path.relative_to(tmp_path / "coin_dataset").as_posix() for path in tmp_path.glob("coin_dataset/*/*/*")}
    assert written == {row["output"] for row in rows.values()}
    assert {path.name for path in tmp_path.iterdir()} == {"images", "coin_dataset"}


def test_the_seed_decides_the_splits(images, tmp_path):
    first = splits(prepare(tmp_path))
    assert splits(prepare(tmp_path, "--reshuffle")) == first
    assert splits(prepare(tmp_path, "--reshuffle", "--seed", 1)) != first


def test_look_alikes_are_found_among_many_photos_without_comparing_all(monkeypatch):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (1000, 32), dtype=np.uint8)
    for copy in range(1, 200, 2):
        bits = np.zeros(256, dtype=np.uint8)
        bits[rng.choice(256, near_duplicates.SAME_COIN_BITS + (copy > 100), replace=False)] = 1  # beyond it from 101 on
        hashes[-copy] = hashes[copy] ^ np.packbits(bits)
    monkeypatch.setattr(near_duplicates, "MAYBE_SAME_COIN_BITS", near_duplicates.SAME_COIN_BITS)
    pairs = []
    for limit in (len(hashes), 0):
        monkeypatch.setattr(near_duplicates, "COMPARE_ALL_LIMIT", limit)
        found = near_duplicates.find_near_duplicates(hashes, hashes)
        pairs.append({frozenset(pair) for pair in found.T.tolist()})
    assert pairs[0] == pairs[1] == {frozenset((copy, 1000 - copy)) for copy in range(1, 100, 2)}


@pytest.mark.parametrize(("count", "links"), [(8, list(combinations(range(8), 2))), (12, [(1, 2)])])
def test_of_too_many_look_alikes_only_copies_stay_together(monkeypatch, count, links):
    likeness = dict.fromkeys(combinations(range(count), 2), 0.86) | {(1, 2): 0.99}
    candidates = [near_duplicates.Candidate(*pair, 10, near_duplicates.AS_IT_IS) for pair in likeness]
    monkeypatch.setattr(near_duplicates, "find_candidates", lambda _: candidates)
    monkeypatch.setattr(
        near_duplicates, "_compare_with_others", lambda pairs, faces: [(pair, likeness[pair[:2]]) for pair in pairs]
    )
    doubts = []
    assert near_duplicates.find_look_alikes([Photo(f"{index}.jpg", "ms65") for index in range(30)], doubts) == links
    assert [line.split(",")[0] for line in doubts] == (["12 photos look alike"] if count == 12 else [])


def test_photos_of_one_coin_stay_together(images, tmp_path):
    for seed in range(100, 112):  # the same picture in other encodings, and other pictures of the same certificate
        draw_photo(seed).resize((480, 240)).save(images / "ms65" / "6000x3000" / f"small{seed}.jpg", quality=60)
        add_photo(images, "ms65", f"{10000000 + seed}_toned.jpg", 1000 + seed)
    groups = {}
    for row in prepare(tmp_path).values():
        groups.setdefault(row["group"], []).append(row["split"])
    assert sorted(map(len, groups.values())) == [1] * 12 + [3] * 12
    assert all(len(set(group)) == 1 for group in groups.values())


def test_photos_are_the_same_however_their_folder_is_named(images, tmp_path):
    before = prepare(tmp_path)
    photo = tmp_path / "coin_dataset" / before["vf30/6000x3000/10000000.jpg"]["output"]
    age = photo.stat().st_mtime_ns
    result = run_script("prepare_dataset.py", "--source", images, cwd=tmp_path)
    assert result.returncode == 0 and "no longer there" not in result.stdout, result.stderr
    after = {Path(source).relative_to(images).as_posix(): row for source, row in manifest(tmp_path).items()}
    assert splits(after) == splits(before) and photo.stat().st_mtime_ns == age


def test_a_copy_over_a_photo_of_another_split_moves_none(images, tmp_path):
    before = splits(prepare(tmp_path))
    learned, tested = (next(name for name in before if before[name].startswith(split)) for split in ("train", "test"))
    shutil.copy(tmp_path / "images" / learned, tmp_path / "images" / tested)
    for _ in range(3):
        after = splits(prepare(tmp_path))
        assert after[learned] == before[learned]


def test_a_prepared_photo_that_is_damaged_is_prepared_again(images, tmp_path):
    row = next(iter(prepare(tmp_path).values()))
    damaged = tmp_path / "coin_dataset" / row["output"]
    size = damaged.stat().st_size
    for content in (b"", damaged.read_bytes()[:-100], bytes(size)):
        damaged.unlink()
        damaged.write_bytes(content)
        prepare(tmp_path)
        assert damaged.stat().st_size == size


def test_the_same_picture_is_kept_once_and_never_under_two_grades(images, tmp_path):
    photos = images / "vf30" / "6000x3000"
    shutil.copy(photos / "10000000.jpg", photos / "copy.jpg")
    shutil.copy(photos / "10000001.jpg", images / "ms65" / "6000x3000" / "wrong.jpg")
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    rows = manifest(tmp_path)
    assert [rows[f"vf30/6000x3000/{name}.jpg"]["split"] != "" for name in ("10000000", "copy")] == [True, False]
    for source in ("vf30/6000x3000/10000001.jpg", "ms65/6000x3000/wrong.jpg"):
        assert rows[source]["split"] == "" and "same picture" in rows[source]["reason"]
        assert source in result.stdout


def test_a_growing_collection_keeps_its_splits(images, tmp_path):
    before = prepare(tmp_path)
    old = tmp_path / "coin_dataset" / before["vf30/6000x3000/10000000.jpg"]["output"]
    age = old.stat().st_mtime_ns
    for seed in range(12, 40):
        add_photo(images, "vf30", f"{10000000 + seed}.jpg", seed)
    add_photo(images, "g4", "1.jpg", 500)
    after = prepare(tmp_path)
    assert {source: after[source]["split"] for source in before} == splits(before)
    assert Counter(row["split"] for row in after.values() if row["grade"] == "vf30") == {
        "train": 28, "val": 4, "test": 8,
    }  # fmt: skip
    assert old.stat().st_mtime_ns == age, "an unchanged photo was prepared again"


def test_photos_that_go_and_come_back_keep_their_splits(images, tmp_path):
    before = prepare(tmp_path)
    kept_elsewhere = shutil.move(images / "vf30", tmp_path / "vf30")
    for seed in range(4):
        add_photo(images, "g04", f"{seed}.jpg", 500 + seed)
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    assert "Photos of the dataset that are no longer there: 12;" in result.stdout
    rows = manifest(tmp_path)
    assert {row["reason"] for source, row in rows.items() if source.startswith("vf30")} == {"no longer there"}
    assert not list(tmp_path.glob("coin_dataset/*/vf30"))
    shutil.move(kept_elsewhere, images / "vf30")
    after = prepare(tmp_path)
    assert {source: after[source] for source in before} == before
    assert len(list(tmp_path.glob("coin_dataset/*/vf30/*.jpg"))) == 12


def test_another_source_does_not_empty_the_dataset(images, tmp_path):
    prepare(tmp_path)
    before = snapshot(tmp_path / "coin_dataset")
    for seed in range(6):
        add_photo(tmp_path / "more", ("vf30", "ms65")[seed % 2], f"{seed}.jpg", 700 + seed)
    for flags in ([], ["--reshuffle"], ["--dry-run"]):
        error = fails(tmp_path, "--source", "more", *flags)
        assert "24 photos of the dataset are not in more, but elsewhere, such as images/" in error
        assert snapshot(tmp_path / "coin_dataset") == before
    shutil.copytree(images, tmp_path / "copied")
    rows = prepare(tmp_path, "--source", "copied")
    assert len(rows) == 24 and not any(row["reason"] for row in rows.values()), "the same photos are there"


def test_a_grade_without_training_photos_is_told_of(images, tmp_path):
    for source, row in prepare(tmp_path).items():
        if row["grade"] == "vf30" and row["split"] == "train":
            (tmp_path / "images" / source).unlink()
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    assert "without photos in train, which cannot be learned: vf30" in result.stdout
    assert {path.name for path in tmp_path.glob("coin_dataset/train/*")} == {"ms65"}


def test_another_photo_of_a_coin_whose_photo_is_gone_gets_its_split(images, tmp_path):
    before = prepare(tmp_path)
    kept_elsewhere = shutil.move(images / "vf30" / "6000x3000", tmp_path / "vf30")
    (images / "vf30" / "6000x3000").mkdir()
    for photo in kept_elsewhere.iterdir():
        Image.open(photo).resize((220, 110)).save(images / "vf30" / "6000x3000" / f"again {photo.stem[-2:]}.jpg")
    after = prepare(tmp_path)
    again = {source: row["split"] for source, row in after.items() if "again" in source}
    assert len(again) == 12
    for source, split in again.items():
        assert split == before[source.replace("again ", "100000")]["split"]


def test_a_photo_that_could_not_be_read_is_read_again(images, tmp_path):
    photo = images / "vf30" / "6000x3000" / "10000000.jpg"
    whole, status = photo.read_bytes(), photo.stat()
    photo.write_bytes(b"x" * len(whole))
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    source = photo.relative_to(images).as_posix()
    assert prepare(tmp_path)[source]["reason"]
    photo.write_bytes(whole)
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if the disk had been away
    assert prepare(tmp_path)[source]["split"]


@pytest.mark.skipif(sys.platform == "win32", reason="there, links need a right that few users have")
def test_links_to_photos_are_followed(images, tmp_path):
    folder = images / "vf30" / "6000x3000"
    for photo in list(folder.iterdir()):
        photo.rename(tmp_path / photo.name)
        photo.symlink_to(os.path.relpath(tmp_path / photo.name, folder))
    rows = prepare(tmp_path, "--full-size", "link")
    for row in rows.values():
        output = tmp_path / "coin_dataset" / row["output"]
        assert output.is_file() and not output.is_symlink()


def test_a_photo_that_breaks_and_then_goes_keeps_its_split(images, tmp_path):
    before = prepare(tmp_path)
    broken = [images / "vf30" / "6000x3000" / f"1000000{number}.jpg" for number in range(2)]
    for photo in broken:
        photo.write_bytes(b"no photo any more")
    assert splits(prepare(tmp_path)) == splits(before)
    broken[0].unlink()
    assert splits(prepare(tmp_path)) == splits(before)


def test_a_photo_that_breaks_and_is_mended_under_another_name_keeps_its_split(images, tmp_path):
    before = prepare(tmp_path)
    photo = images / "vf30" / "6000x3000" / "10000000.jpg"
    whole = photo.read_bytes()
    photo.write_bytes(b"no photo any more")
    prepare(tmp_path)
    broken = prepare(tmp_path)[f"vf30/6000x3000/{photo.name}"]
    assert broken["reason"] and broken["digest"] == before[f"vf30/6000x3000/{photo.name}"]["digest"]
    photo.unlink()
    photo.with_name("good.jpg").write_bytes(whole)
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    assert "no longer there" not in result.stdout
    after = {source.replace("good", photo.stem): row for source, row in manifest(tmp_path).items()}
    assert splits(after) == splits(before)


def test_a_photo_that_moved_is_not_gone(images, tmp_path):
    before = prepare(tmp_path)
    (images / "vf30" / "6000x3000").rename(images / "vf30" / "6000X3000")
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    assert "no longer there" not in result.stdout
    after = {source.replace("6000X3000", "6000x3000"): row for source, row in manifest(tmp_path).items()}
    assert splits(after) == splits(before)


def test_a_manifest_without_a_newer_column_keeps_its_splits_and_a_damaged_one_is_an_error(images, tmp_path):
    before = prepare(tmp_path)
    path = tmp_path / "coin_dataset" / "manifest.csv"
    path.with_name(".manifest.csv").unlink()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [name for name in next(iter(before.values())) if name != "note"])
        writer.writeheader()
        for source, row in before.items():
            del row["note"]
            writer.writerow(row | {"source": f"images/{source}"})
    assert splits(prepare(tmp_path)) == splits(before)
    path.with_name(".manifest.csv").unlink()
    path.write_text(path.read_text("utf-8").replace(",240,", ",wide,"), "utf-8")
    damaged = path.read_bytes()
    assert_fails(run_script("prepare_dataset.py", cwd=tmp_path), "manifest.csv is damaged", "move")
    assert path.read_bytes() == damaged


def test_another_size_than_before_is_told(images, tmp_path):
    prepare(tmp_path, "--size", 256, 128)
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    assert "24 photos were 256x128 pixels before, and are 1024x512 now (--size)." in result.stdout
    assert "--size is WIDTH HEIGHT" in fails(tmp_path, "--size", 128, 256)
    prepare(tmp_path, "--full-size", "link")
    assert "before" not in run_script("prepare_dataset.py", cwd=tmp_path).stdout


def test_photos_in_other_folders_are_told_of(images, tmp_path):
    for folder in (images / "vf30" / "4000x2000", images / "vf30" / "6000x3000" / "more", images):
        folder.mkdir(exist_ok=True)
        draw_photo(301).save(folder / "lost.png")
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    for folder in ("images", "images/vf30/4000x2000", "images/vf30/6000x3000/more"):
        assert f"wrong folder: 1 in {Path(folder)}\n" in result.stdout
    assert "go into images/<grade>/6000x3000/. Two photos of a coin, one of each face, go into" in result.stdout
    assert len(manifest(tmp_path)) == 24
    (images / "vf30" / "4000x2000").rename(images / "vf30" / "Front")
    deep = images / "usa" / "morgan" / "ms65" / "6000x3000"
    deep.mkdir(parents=True)
    (images / "lost.png").rename(deep / "lost.png")
    result = run_script("prepare_dataset.py", "--dry-run", cwd=tmp_path)
    assert f"Rename {Path('images/vf30/Front')}, and others with this name, to obverse." in result.stdout
    assert f"wrong folder: 1 in {deep.parent.relative_to(tmp_path)}\n" in result.stdout
    for number in range(25):
        (images / f"xf{number + 40}").mkdir()
        draw_photo(302).save(images / f"xf{number + 40}" / "lost.png")
    result = run_script("prepare_dataset.py", "--dry-run", cwd=tmp_path)
    assert result.stdout.count("wrong folder") == 20 and "... and 8 more in 8 other folders" in result.stdout


def test_a_photo_that_joins_two_splits_is_left_out(images, tmp_path):
    before = prepare(tmp_path)
    by_split = {row["split"]: source for source, row in before.items() if row["grade"] == "vf30"}
    certificate = by_split["test"].split("/")[-1]
    with Image.open(images / by_split["train"]) as photo:
        photo.save(images / "vf30" / "6000x3000" / f"again_{certificate}", quality=50)
    row = prepare(tmp_path)[f"vf30/6000x3000/again_{certificate}"]
    assert row["split"] == "" and "test and train" in row["reason"]


def test_files_of_one_name_from_joined_folders_both_survive(images, tmp_path):
    add_photo(images, "vf30+", "10000000.jpg", 900)
    add_photo(images, "VF30", "10000000.png", 901)
    rows = prepare(tmp_path)
    outputs = [row["output"] for source, row in rows.items() if "10000000" in source]
    assert len(set(outputs)) == 3 and all(rows[source]["grade"] in ("vf30", "ms65") for source in rows)


def test_odd_photos_become_rgb_and_upright(images, tmp_path):
    folder = images / "vf30" / "6000x3000"
    for number, mode in enumerate(("L", "CMYK", "P", "RGBA", "LA", "1", "I;16")):
        photo = draw_photo(300 + number)
        if mode == "I;16":
            photo = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
        elif mode == "LA":
            photo = photo.convert("L").convert("LA")
        else:
            photo = photo.convert(mode)
        photo.save(folder / f"{mode.replace(';', '')}.{'tif' if mode == 'CMYK' else 'png'}")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees to look at it
    draw_photo(310).rotate(90, expand=True).save(folder / "turned.jpg", exif=exif, quality=95)
    draw_photo(310, (240, 120)).save(folder / "upright.png")
    draw_photo(320, (120, 120)).save(folder / "square.png")
    video = np.random.default_rng(0).bytes(8_000_000)  # behind a photo, as telephones put it there
    draw_photo(330).save(folder / "moving.jpg")
    with (folder / "moving.jpg").open("ab") as file:
        file.write(video)
    rows = prepare(tmp_path)
    pixels = {}
    for source, row in rows.items():
        assert row["split"], row["reason"]
        with Image.open(tmp_path / "coin_dataset" / row["output"]) as photo:
            assert (photo.mode, photo.size) == ("RGB", (1024, 512))
            pixels[source.split("/")[-1]] = np.asarray(photo).astype(int)
    assert abs(pixels["turned.jpg"] - pixels["upright.png"]).mean() < 3
    assert (rows["vf30/6000x3000/turned.jpg"]["width"], rows["vf30/6000x3000/turned.jpg"]["height"]) == ("240", "120")
    assert 60 < pixels["I16.png"].mean() < 200, "16 bits were cut off instead of scaled"
    assert pixels["square.png"][:, :200].std(axis=(0, 1)).max() < 3, "a square photo was stretched instead of padded"


def test_photos_that_cannot_be_used_are_named_and_the_rest_kept(images, tmp_path):
    folder = images / "vf30" / "6000x3000"
    whole = (folder / "10000000.jpg").read_bytes()
    (folder / "short.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no photo")
    (folder / "folder.jpg").mkdir()
    Image.new("1", (20000, 10000)).save(folder / "huge.png")
    rows = prepare(tmp_path)
    left_out = {source.split("/")[-1]: row["reason"] for source, row in rows.items() if not row["split"]}
    assert set(left_out) == {"short.jpg", "empty.jpg", "text.jpg", "folder.jpg", "huge.png"}
    assert "damaged" in left_out["short.jpg"] and "too large" in left_out["huge.png"]
    assert sum(row["split"] != "" for row in rows.values()) == 24


def test_full_size_files_can_be_kept(images, tmp_path):
    for way in ("link", "copy"):
        rows = prepare(tmp_path, "--full-size", way)
        for source, row in rows.items():
            output = tmp_path / "coin_dataset" / row["output"]
            assert output.read_bytes() == (images / source).read_bytes()
            assert output.samefile(images / source) == (way == "link")


def test_a_dry_run_writes_nothing(images, tmp_path):
    result = run_script("prepare_dataset.py", "--dry-run", cwd=tmp_path)
    assert "vf30" in result.stdout and "12" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_grade_with_few_photos_can_be_left_out(images, tmp_path):
    add_photo(images, "g04", "1.jpg", 500)
    add_photo(images, "au58", "2.jpg", 501)
    add_photo(images, "au58", "3.jpg", 502)
    rows = prepare(tmp_path, "--min-per-grade", 2)
    assert {row["grade"] for row in rows.values() if row["split"]} == {"vf30", "ms65", "au58"}


def test_no_photos_or_one_grade_is_an_error_that_draws_the_tree(images, tmp_path):
    shutil.rmtree(images / "ms65")
    for message in (fails(tmp_path), fails(tmp_path, "--source", "nowhere")):
        assert "6000x3000/" in message and "12345678.jpg" in message
    (images / "ms65" / "6000x3000").mkdir(parents=True)
    (images / "ms65" / "6000x3000" / "damaged.jpg").write_text("none")
    assert_fails(run_script("prepare_dataset.py", cwd=tmp_path), "fewer than 2 grades", "listed above")
    shutil.rmtree(images / "vf30")  # then no photo can be used
    assert_fails(run_script("prepare_dataset.py", cwd=tmp_path), "fewer than 2 grades", "listed above")
    assert not (tmp_path / "coin_dataset").exists()


def test_a_folder_of_somebody_else_is_not_replaced(images, tmp_path):
    (tmp_path / "coin_dataset").mkdir()
    (tmp_path / "coin_dataset" / "diary.txt").write_text("mine")
    assert "diary.txt" in fails(tmp_path)
    assert "choose another" in fails(tmp_path, "--output", "images")
    assert "not a folder" in fails(tmp_path, "--output", "coin_dataset/diary.txt")
    assert (tmp_path / "coin_dataset" / "diary.txt").read_text() == "mine"


def test_a_killed_run_leaves_the_previous_dataset_whole(images, tmp_path):
    prepare(tmp_path)
    before = snapshot(tmp_path / "coin_dataset")
    for seed in range(200, 260):
        add_photo(images, "ms65", f"{10000000 + seed}.jpg", seed)
    command = [sys.executable, str(ROOT / "prepare_dataset.py"), "--workers", "2"]
    durations = []
    for _ in range(2):  # the first may be slower, in a new environment
        started = time.monotonic()
        subprocess.run([*command, "--dry-run"], cwd=tmp_path, capture_output=True, check=True)
        durations.append(time.monotonic() - started)
    duration = min(durations)
    interrupted = 0
    for moment in sorted(random.Random(0).uniform(0.2, 0.95) for _ in range(6)):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment * duration)
        process.kill()
        process.wait()
        after = snapshot(tmp_path / "coin_dataset")
        if after != before:  # it was done first
            break
        interrupted += 1
    assert interrupted
    assert len(prepare(tmp_path)) == 84
    assert after in (before, snapshot(tmp_path / "coin_dataset"))
    assert {path.name for path in tmp_path.iterdir()} == {"images", "coin_dataset"}


def test_a_first_run_that_was_killed_goes_on_where_it_was(images, tmp_path):
    for seed in range(200, 260):
        add_photo(images, "ms65", f"{10000000 + seed}.jpg", seed)
    (images / "ms65" / "6000x3000" / "damaged.jpg").write_bytes(b"none")
    process = subprocess.Popen([sys.executable, str(ROOT / "prepare_dataset.py"), "--workers", "1"], cwd=tmp_path)
    staging = tmp_path / ".coin_dataset.staging"
    while len(list(staging.glob("*"))) < 20:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "coin_dataset").exists()

    with (staging / "manifest.csv").open(newline="") as file:
        finished = [row["source"] for row in csv.DictReader(file)]
    assert len(finished) >= 18
    with (staging / "manifest.csv").open("ab") as file:
        file.write(b"images/vf30/60" + b"\0" * 300)  # as a crash of the computer may leave it
    for source in finished:  # to decode one of them again would fail
        path = tmp_path / source
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    rows = prepare(tmp_path)
    assert [source for source, row in rows.items() if row["reason"]] == ["ms65/6000x3000/damaged.jpg"]
    assert len(snapshot(tmp_path / "coin_dataset")) == len(rows) + 1  # one less, and the manifest, twice
    assert {path.name for path in tmp_path.iterdir()} == {"images", "coin_dataset"}


def test_what_may_be_a_mistake_is_said(images, tmp_path):
    folder = images / "vf30" / "6000x3000"
    draw_photo(300, (200, 200)).save(folder / "square.png")
    draw_photo(302, (120, 240)).save(folder / "turned.png")
    Image.new("RGB", (240, 120), "white").save(folder / "blank.png")
    draw_photo(301).save(images / "vf30" / "too high.png")
    for name in ("edits.XMP", "other.xmp", "photo", ".hidden"):
        (folder / name).write_bytes(b"not a photo")
    for seed in range(400, 403):
        add_photo(images, "fine", f"{seed}.jfif", seed, format="JPEG")
        add_photo(images, "65", f"{seed}.jpg", seed + 10)
    rows = prepare(tmp_path, "--ratios", 100, 0, 0)
    noted = {source: row["note"] for source, row in rows.items() if row["note"]}
    assert noted == {
        "vf30/6000x3000/square.png": "looks like one face",
        "vf30/6000x3000/turned.png": "looks turned on its side",
        "vf30/6000x3000/blank.png": "blank",
    }
    assert all(row["split"] == "train" for row in rows.values())
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    for words in (
        "square.png: looks like one face",
        "go into <grade>/obverse/ and <grade>/reverse/",
        "wrong folder: 1 in images/vf30\n",
        "no photo is in val: the last epoch will be kept",
        "best grade: fine.",
    ):
        assert words in result.stdout
    assert "number on the Sheldon scale: 65 and ms65." in result.stdout
    assert f"(.xmp, none): 3 in {folder.relative_to(tmp_path)}\n" in result.stdout
    assert "--reshuffle splits anew" in result.stdout
    assert manifest(tmp_path) == rows


@pytest.mark.parametrize(
    ("grades", "photos_of_each", "is_told"),
    [
        (("vf20", "vf30", "ms65"), 19, True),
        (("vf20", "vf30", "ms65"), 20, False),
        (("vf30", "au58", "ms65"), 5, False),  # each is a band of its own
        (("ms63", "ms64", "ms65"), 5, False),  # nothing would be left to tell apart
        (("nice", "ugly"), 5, False),
    ],
)
def test_joining_grades_is_named_where_most_have_few_photos(grades, photos_of_each, is_told, capsys):
    photos = [Photo(f"{grade}/{number}.jpg", grade, "train") for grade in grades for number in range(photos_of_each)]
    print_doubtful_counts(photos)
    assert ("docs/classes.md" in capsys.readouterr().out) == is_told


def test_raw_files_of_cameras_are_named_unless_a_photo_was_made_of_them(images, tmp_path):
    folder = images / "vf30" / "6000x3000"
    draw_photo(300).save(folder / "alone.NEF", "TIFF")  # many raw files are a kind of TIFF
    draw_photo(301).save(folder / "10000000.CR2", "TIFF")
    rows = prepare(tmp_path)
    left_out = {source: row["reason"] for source, row in rows.items() if row["reason"]}
    assert left_out == {"vf30/6000x3000/alone.NEF": "a camera's raw file: save it as JPEG"} and len(rows) == 25


# ---------------------------------------------------------------- faults that users have reported


@pytest.mark.parametrize("way", ["renamed", "replaced"])
def test_one_coin_in_train_and_test_is_told_and_left_out_of_the_test(images, tmp_path, way):
    before = prepare(tmp_path)
    train, test = (
        next(source for source, row in before.items() if (row["split"], row["grade"]) == (split, "vf30"))
        for split in ("train", "test")
    )
    if way == "renamed":
        new = str(Path(test).with_name(Path(train).stem + "_b.jpg").as_posix())
        (images / test).rename(images / new)
        test = new
    else:
        with Image.open(images / train) as photo:
            photo.resize((200, 100)).save(images / test)
    for _ in range(2):
        result = run_script("prepare_dataset.py", cwd=tmp_path)
        after = manifest(tmp_path)
        assert (after[train]["split"], after[test]["split"]) == ("train", "test"), "the split is kept"
        assert after[train]["output"] and not after[test]["output"]
        assert f"images/{test} (test): in another split than a photo of the same coin: images/{train}" in result.stdout
        moving = int(result.stdout.split("--reshuffle uses them again, and moves ")[1].split()[0])
    again = prepare(tmp_path, "--reshuffle")
    assert again[train]["split"] == again[test]["split"]
    assert sum(row["split"] != after[source]["split"] for source, row in again.items()) == moving


@pytest.mark.parametrize(
    "pattern",
    [
        "31012024_{:02}",
        "01312024_{:02}",
        "2024013118_{}",
        "20240131_{}",
        "4567890_{:03}",
        "IMG_4567890 ({})",
    ],
)
def test_dates_and_camera_numbers_are_not_certificate_numbers(images, tmp_path, pattern):
    for grade in ("vf30", "ms65"):
        for number, photo in enumerate(sorted((images / grade / "6000x3000").iterdir())):
            photo.rename(photo.with_name(pattern.format(number) + ".jpg"))
    rows = prepare(tmp_path)
    assert len({row["group"] for row in rows.values()}) == 24
    assert {row["split"] for row in rows.values()} == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("grades", "others", "is_certificate"),
    [
        (["vf30", "vf35"], 0, True),
        (["vf30", "vf35", "xf40"], 0, False),  # more grades than a coin has
        (["vf30"] * 6, 20, True),
        (["vf30"] * 6, 4, False),  # most photos of a grade: the counter of a camera
    ],
)
def test_a_number_in_too_many_grades_or_in_most_of_one_is_no_certificate_number(grades, others, is_certificate):
    names = [(f"4567890_{number}", grade) for number, grade in enumerate(grades)]
    names += [(f"other{number}", "vf30") for number in range(others)]
    photos, doubts = [Photo(f"{grade}/{name}.jpg", grade) for name, grade in names], []
    pairs = find_same_certificates(photos, doubts)
    assert len(pairs) == (len(grades) - 1 if is_certificate else 0) and bool(doubts) != is_certificate


def test_a_seller_in_all_names_does_not_hide_the_certificate_numbers(images, tmp_path):
    for grade in ("vf30", "ms65"):
        for number, photo in enumerate(sorted((images / grade / "6000x3000").iterdir())):
            names = {"vf30": "10000001b", "ms65": "other"}  # of the first photos; vf30 has another photo of 10000001
            photo.rename(photo.with_name(f"7654321_{photo.stem if number else names[grade]}.jpg"))
    rows = prepare(tmp_path)
    assert len({row["group"] for row in rows.values()}) == 23


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("PCGS12345678", ["12345678"]),
        ("cert_12345678-obv", ["12345678"]),
        ("NGC 1234567-001", ["1234567001"]),
        ("ngc1234567001_rev", ["1234567001"]),
        ("123456-001", ["123456001"]),
        ("7654321_12345678", ["7654321", "12345678"]),
        ("PXL_20240131_142233123", []),
        ("IMG_20240131_142233123_12345678", ["12345678"]),
        ("2024-01-31 12345678", ["12345678"]),
        ("20240131142233", []),
        ("IMG-20240131-WA0001", []),
        ("1706712345123", []),
    ],
)
def test_certificate_numbers_are_read_from_any_name(name, numbers):
    assert certificate_numbers(Path(f"{name}.jpg")) == numbers


def test_a_number_that_is_not_believed_is_told(images, tmp_path):
    for number, photo in enumerate(sorted((images / "vf30" / "6000x3000").iterdir())):
        photo.rename(photo.with_name(f"4567890_{number}.jpg"))
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    assert "Ignored when looking for photos of one coin: 4567890 is in the names of 12 photos" in result.stdout


def test_a_split_that_is_empty_because_of_a_coin_with_many_photos_is_told(images, tmp_path):
    for grade, seeds in (("vf30", range(8)), ("ms65", range(100, 108))):
        for seed in seeds:
            (images / grade / "6000x3000" / f"{10000000 + seed}.jpg").rename(
                images / grade / "6000x3000" / f"{seeds[0] + 20000000}{chr(97 + seed % 50)}.jpg"
            )
    result = run_script("prepare_dataset.py", "--ratios", 40, 30, 30, cwd=tmp_path)
    assert "by its ratio it would have 10" in result.stdout
    assert "Photos of one coin stay in one split, up to 8 here" in result.stdout


def test_grades_that_are_too_small_for_the_ratios_are_no_reason_to_doubt_the_coins(capsys):
    photos = [Photo(f"{number}.jpg", f"ms{60 + number // 3}", group=str(number)) for number in range(30)]
    assign_splits(photos, [], prepare_dataset.RATIOS, seed=0)
    print_shares(photos, prepare_dataset.RATIOS)
    assert not capsys.readouterr().out and Counter(photo.split for photo in photos)["test"] == 10


def draw_coin(seed: int, share: float) -> Image.Image:
    """A coin whose faces fill a share of their halves, on a stand that is always the same."""
    rng = np.random.default_rng(seed)
    photo = draw_photo(999, (1024, 512))
    diameter = round(512 * share)
    for half in (0, 512):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        face = Image.fromarray(pixels).resize((diameter, diameter), Image.Resampling.BICUBIC)
        disc = Image.new("L", face.size)
        ImageDraw.Draw(disc).ellipse((0, 0, diameter - 1, diameter - 1), fill=255)
        photo.paste(face, (half + 256 - diameter // 2, 256 - diameter // 2), disc)
    return photo


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_different_coins_on_one_stand_are_different_coins(tmp_path, share):
    for grade, first in (("vf30", 0), ("ms65", 100)):
        folder = tmp_path / "images" / grade / "6000x3000"
        folder.mkdir(parents=True)
        for seed in range(first, first + 8):
            draw_coin(seed, share).save(folder / f"{seed}.jpg")
        draw_coin(first, share).resize((600, 300)).save(folder / "copy.jpg", quality=50)
    rows = prepare(tmp_path)
    assert len({row["group"] for row in rows.values()}) == 16
    for grade, first in (("vf30", 0), ("ms65", 100)):
        copies = [rows[f"{grade}/6000x3000/{name}.jpg"] for name in (first, "copy")]
        assert copies[0]["group"] == copies[1]["group"]
        assert [row["match"].split("/")[-1] for row in copies] == ["", f"{first}.jpg"]


def test_what_was_taken_for_one_coin_is_listed_and_can_be_turned_off(images, tmp_path):
    draw_photo(0).resize((480, 240)).save(images / "vf30" / "6000x3000" / "again.jpg")
    add_photo(images, "ms65", "10000100_b.jpg", 900)
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    assert "Coins with several photos: 2 (2 with 2 photos)" in result.stdout
    assert "images/vf30/6000x3000/again.jpg: looks like images/vf30/6000x3000/10000000.jpg" in result.stdout
    assert "10000100_b.jpg: certificate number 10000100, as images/ms65/6000x3000/10000100.jpg" in result.stdout
    for grouping, coins in (("certificate", 25), ("none", 26)):
        rows = prepare(tmp_path, "--group", grouping, "--reshuffle")
        assert len({row["group"] for row in rows.values()}) == coins


CHANGES = {
    "turned": lambda photo: photo.rotate(180),
    "on_its_side": lambda photo: photo.rotate(90, expand=True),
    "on_its_other_side": lambda photo: photo.rotate(-90, expand=True),
    "mirrored": ImageOps.mirror,
    "upside_down": ImageOps.flip,
    "swapped": lambda photo: ImageChops.offset(photo, photo.width // 2, 0),
    "white_border": lambda photo: ImageOps.expand(photo, 8, "white"),
    "black_border": lambda photo: ImageOps.expand(photo, 8, "black"),
    "cropped": lambda photo: ImageOps.crop(photo, round(0.03 * photo.height)),
    "cropped_wide": lambda photo: photo.crop((31, 15, photo.width - 31, photo.height - 15)),
}


def test_copies_that_were_changed_are_seen_as_copies(tmp_path):
    for grade, first in (("vf30", 0), ("ms65", 100)):
        folder = tmp_path / "images" / grade / "6000x3000"
        folder.mkdir(parents=True)
        for number, (name, change) in enumerate(CHANGES.items()):
            photo = draw_coin(first + number, 0.9)
            photo.save(folder / f"{name}.jpg")
            copy = f"{name}_copy" if grade == "vf30" else f"a_{name}"  # by name, after the photo or before
            change(photo).save(folder / f"{copy}.jpg", quality=80)
    rows = prepare(tmp_path)
    group = {source.removesuffix(".jpg"): row["group"] for source, row in rows.items()}
    assert len(set(group.values())) == 2 * len(CHANGES)
    for name in CHANGES:
        assert group[f"vf30/6000x3000/{name}"] == group[f"vf30/6000x3000/{name}_copy"], name
        assert group[f"ms65/6000x3000/{name}"] == group[f"ms65/6000x3000/a_{name}"], name


def test_a_details_grade_does_not_join_the_straight_grade_and_a_copied_folder_does(images, tmp_path):
    for seed, grade in enumerate(("AU58", "AU58 details", "ms65 cleaned", "ms65 (2)", "ms65 - Copy", "ms65+")):
        add_photo(images, grade, f"{seed}.jpg", 500 + seed)
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    assert Counter(row["grade"] for row in manifest(tmp_path).values()) == {
        "vf30": 12, "ms65": 15, "au58": 1, "au58 details": 1, "ms65 cleaned": 1,
    }  # fmt: skip
    assert "a grade of its own, apart from the straight one: au58 details, ms65 cleaned." in result.stdout


def save_as(
    path: Path,
    separator=",",
    encoding="utf-8",
    line_end="\r\n",
    columns=lambda names: names,
    change=lambda *cell: cell[1],
):
    """Save a manifest as a spreadsheet does."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=separator, lineterminator=line_end)
        names = columns(list(rows[0]))
        writer.writerow(names)
        writer.writerows([[change(name, row[name]) for name in names] for row in rows])


def rounded(name: str, value: str) -> str:
    return f"{float(value):.5E}".replace(".", ",") if name == "modified_ns" else value


SPREADSHEETS = {
    "Excel, CSV UTF-8": {"separator": ";", "encoding": "utf-8-sig", "change": rounded},
    "Excel, Unicode text": {"separator": "\t", "encoding": "utf-16", "change": rounded},
    "LibreOffice": {
        "line_end": "\n",
        "change": lambda name, value: f"{int(value):,}" if name == "file_bytes" else value,
    },
    "old Mac": {"line_end": "\r", "change": lambda name, value: "###" if name == "modified_ns" else value},
    "sorted columns": {"columns": sorted, "change": lambda name, value: value + ".0" if name == "width" else value},
    "hashes as numbers": {"change": lambda name, value: "1E+63" if name in ("digest", "perceptual_hash") else value},
    **{
        f"{column} deleted": {"columns": lambda names, column=column: [name for name in names if name != column]}
        for column in ("modified_ns", "split", "perceptual_hash")
    },
}


@pytest.mark.parametrize("spreadsheet", SPREADSHEETS)
def test_a_manifest_that_a_spreadsheet_has_saved_keeps_its_splits(images, tmp_path, spreadsheet):
    before = splits(prepare(tmp_path))
    save_as(tmp_path / "coin_dataset" / "manifest.csv", **SPREADSHEETS[spreadsheet])
    (tmp_path / "coin_dataset" / ".manifest.csv").unlink()  # datasets of earlier versions have none
    moved = images / "vf30" / "6000x3000" / "10000003.jpg"
    moved.rename(moved.with_name("elsewhere.jpg"))
    after = splits(prepare(tmp_path, "--seed", 5))
    if "hash" not in spreadsheet:  # without them, nothing tells that it is the same photo
        assert after["vf30/6000x3000/elsewhere.jpg"] == before["vf30/6000x3000/10000003.jpg"]
    assert {source: split for source, split in after.items() if source in before}.items() <= before.items()


SPOILT = {
    "rows deleted": lambda text: text[: len(text) // 2],
    "a line of its own": lambda text: f"Table 1\r\n{text}",
    "capital letters": lambda text: text.replace(",train,", ",TRAIN,"),
    "another kind of file": lambda _: "PK\3\4",
    "nothing left": lambda _: "",
}


@pytest.mark.parametrize("way", SPOILT)
def test_a_manifest_that_a_spreadsheet_has_spoilt_keeps_its_splits(images, tmp_path, way):
    before = splits(prepare(tmp_path))
    path = tmp_path / "coin_dataset" / "manifest.csv"
    path.write_text(SPOILT[way](path.read_text("utf-8")), "utf-8")
    assert splits(prepare(tmp_path, "--seed", 5)) == before


def test_an_error_while_preparing_keeps_what_was_decoded(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare_dataset.py"])
    for number, is_kept in ((errno.EIO, True), (errno.EACCES, True), (errno.ENOSPC, False)):

        def fail(*args, number=number):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch, pytest.raises((OSError, prepare_dataset.UserError)):
            patch.setattr(prepare_dataset, "write_cut_page", fail)  # the last step
            prepare_dataset.main()
        staged = list((tmp_path / ".coin_dataset.staging").glob("*"))
        assert (len(staged) == 25) == is_kept  # 24 photos and their manifest


def test_files_that_systems_leave_do_not_block(images, tmp_path):
    prepare(tmp_path)
    left = [
        "._10000000.jpg",
        ".directory",
        ".nfs000000000123abcd",
        "Thumbs.db",
        "thumbs.db",
        "desktop.ini",
        ".DS_Store",
    ]
    left += [".fuse_hidden0000001", "@eaDir/10000000.jpg", "__MACOSX/._x.jpg", ".Spotlight-V100/store", "lost+found/1"]
    left += [".AppleDouble/1.jpg", "@Recycle/1.jpg", ".~lock.manifest.csv#", "manifest.csv~", ".manifest.csv.swp"]
    left += [] if os.name == "nt" else ["Icon\r", "Thumbs.db:encryptable"]
    for folder in (
        tmp_path / "coin_dataset",
        tmp_path / "coin_dataset/train/ms65",
        images,
        images / "ms65" / "6000x3000",
    ):
        for name in left:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "not used" not in result.stdout
    assert len(manifest(tmp_path)) == 24
