"""On photos of real coins, <grade>/*.jpg, which are not part of the project: COIN_PHOTOS names their folder."""

import io
import json
import os
import shutil
from itertools import combinations
from pathlib import Path

import imagehash
import numpy as np
import pytest
from conftest import ROOT, run_script, train
from PIL import Image

from coinkit import near_duplicates
from coinkit.manifest import Photo
from coinkit.near_duplicates import SAME_COIN_BITS, find_look_alikes
from coinkit.photos import open_photo

PHOTOS = Path(os.environ.get("COIN_PHOTOS", ROOT.parent / "shared" / "coins" / "morgan"))
pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photos of real coins: set COIN_PHOTOS")


def perceptual_hash(photo):
    return imagehash.hex_to_hash(near_duplicates.perceptual_hash(photo.resize((1024, 512), Image.Resampling.BICUBIC)))


def test_versions_of_a_photo_meet_and_different_coins_stay_apart():
    originals = {}
    for path in sorted(PHOTOS.glob("*/*.jpg")):
        with Image.open(path) as photo:
            original = perceptual_hash(photo)
            file = io.BytesIO()
            photo.resize((700, 350)).save(file, "JPEG", quality=40)
            right, bottom = photo.width // 200, photo.height // 200
            crop = photo.crop((right, bottom, photo.width - right, photo.height - bottom))
        with Image.open(file) as encoded_again:
            assert original - perceptual_hash(encoded_again) <= SAME_COIN_BITS, path
        assert original - perceptual_hash(crop) <= SAME_COIN_BITS, path
        originals[path.stem] = original
    same = {pair for pair in combinations(originals, 2) if originals[pair[0]] - originals[pair[1]] <= SAME_COIN_BITS}
    assert same == {("f15_04", "f15_16"), ("ms68_10", "ms68_19"), ("vf35_11", "vf35_13")}  # one coin each, as one sees


def look_alikes(paths: list[Path]) -> set[tuple[str, str]]:
    photos = []
    for path in paths:
        pixels = open_photo(path, 1024, 512)[0]
        hashes = near_duplicates.perceptual_hash(pixels), near_duplicates.other_hashes(pixels)
        photos.append(Photo(str(path), path.parent.name, perceptual_hash=hashes[0], other_hashes=hashes[1]))
    return {(paths[first].stem, paths[second].stem) for first, second in find_look_alikes(photos, [])}


def test_the_same_coin_is_found_by_its_details():
    same = {("f15_04", "f15_16"), ("ms68_10", "ms68_19"), ("vf35_11", "vf35_13")}
    assert look_alikes(sorted(PHOTOS.glob("*/*.jpg"))) == same


STUDIO = PHOTOS.parent / "us"


@pytest.mark.skipif(not STUDIO.is_dir(), reason="no studio photos beside them")
def test_coins_of_one_type_in_one_studio_are_different_coins():
    series = ("5Ind", "Mercury", "SBA", "Washington", "SAC", "DrapedHalfDime", "DrapedHalfDimeLE")
    paths = sorted(path for name in series for path in STUDIO.glob(f"*/{name}-*.jpg"))
    same = {("DrapedHalfDime-" + grade, "DrapedHalfDimeLE-" + grade) for grade in ("15", "30", "55", "58", "65")}
    assert len(paths) > 100 and look_alikes(paths) == same  # as one sees


def test_real_coins_are_prepared_trained_and_predicted(tmp_path):
    for grade in ("g4", "vf30", "ms65"):
        shutil.copytree(PHOTOS / grade, tmp_path / "images" / grade / "6000x3000")
    assert run_script("prepare_dataset.py", cwd=tmp_path).returncode == 0
    result = train(tmp_path, "--num-epochs", 3, "--image-width", 128, "--image-height", 64)
    assert result.returncode == 0, result.stderr
    source = next((tmp_path / "images" / "ms65" / "6000x3000").iterdir())
    prepared = next((tmp_path / "coin_dataset").glob(f"*/ms65/{source.stem}.jpg"))
    result = run_script("predict.py", source, prepared, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    one, other = (
        sorted((top["grade"], top["confidence"]) for top in json.loads(line)["top"])
        for line in result.stdout.splitlines()
    )
    assert [grade for grade, _ in one] == ["g04", "ms65", "vf30"]
    assert np.abs(np.subtract([share for _, share in one], [share for _, share in other])).max() < 0.02
