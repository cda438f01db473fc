"""Drawn photos with known coins, photos of anything else, and photos of real coins where they are at hand."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageDraw

from benchmarks import coin_finding
from coinkit import coin_finder
from coinkit.coin_finder import GROUND, MARGIN, SURE, Circle, CoinNotFound, cut_out, find_coin, join_faces
from coinkit.photos import open_photo

PHOTOS = Path(os.environ.get("RAW_COIN_PHOTOS", ROOT.parent / "shared" / "coins" / "raw"))
SILVER, COPPER = (170, 170, 165), (165, 105, 70)


def draw_coin(width, height, coin, *, metal=SILVER, ground=245, light=0.0, holder=0.0, seed=0) -> Image.Image:
    """A coin with a rim, denticles, a legend and a design.

    `light` is how much brighter the photo is on the right than in the middle; `holder` is the radius of a holder's
    ring, in radii of the coin, or 0 for none.
    """
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:height, :width] + 0.5
    distance = np.hypot(across - coin.x, down - coin.y) / coin.radius
    angle = np.arctan2(down - coin.y, across - coin.x)
    grey = ground + rng.normal(0, 2, (height, width))
    if holder:
        grey[distance < holder] -= 12
        grey[abs(distance - holder) < 0.02] -= 80
    noise = Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8))
    design = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), float)
    relief = np.where(distance < 0.6, 0.35 * (design - 128), 0)
    letters = (abs(distance - 0.8) < 0.06) & (np.sin(30 * angle) + np.sin(47 * angle) > 0)
    denticles = (abs(distance - 0.935) < 0.025) & (np.sin(120 * angle) > 0)
    relief = relief + 45 * letters - 40 * denticles - 70 * (distance > 0.985)  # the rim turns away at its edge
    on_coin = np.clip((1 - distance) * coin.radius + 0.5, 0, 1)[..., None]
    face = np.array(metal) + relief[..., None] + rng.normal(0, 3, (height, width, 1))
    pixels = (on_coin * face + (1 - on_coin) * grey[..., None]) * (1 + light * (2 * across / width - 1))[..., None]
    photo = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if holder:
        draw = ImageDraw.Draw(photo)
        draw.rectangle((0.1 * width, 0.03 * height, 0.9 * width, 0.2 * height), fill=(90, 140, 200), outline=(0, 0, 0))
        draw.text((0.15 * width, 0.08 * height), "1889-CC  $1  VF 30  7300.30/29471203", fill=(0, 0, 0), font_size=20)
    return photo


@pytest.mark.parametrize(
    ("size", "coin", "options"),
    [
        ((600, 600), Circle(300, 310, 200, 1), {}),
        ((600, 600), Circle(280, 300, 220, 1), {"ground": 15, "metal": COPPER}),
        ((800, 600), Circle(430, 280, 120, 1), {"ground": 90, "light": 0.5}),
        ((600, 800), Circle(300, 500, 170, 1), {"holder": 1.25, "ground": 225}),
        ((600, 800), Circle(310, 520, 165, 1), {"holder": 1.25, "ground": 50, "light": 0.3, "metal": COPPER}),
        ((500, 500), Circle(250, 250, 250, 1), {}),
        ((500, 500), Circle(235, 250, 245, 1), {"ground": 20}),
        ((300, 300), Circle(150, 150, 90, 1), {"light": -0.4, "ground": 200}),
        ((2000, 1500), Circle(1050, 700, 450, 1), {"ground": 120, "metal": (200, 170, 90)}),
    ],
)
def test_coins_are_found_at_their_rim(size, coin, options):
    found = find_coin(draw_coin(*size, coin, **options))
    assert coin_finding.error(found, coin) < coin_finding.RIGHT
    assert SURE <= found.certainty <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_photos_of_any_mode_are_searched(mode, tmp_path):
    coin = Circle(160, 150, 110, 1)
    photo = draw_coin(320, 300, coin)
    if mode == "I;16":
        photo = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    (photo.convert(mode) if photo.mode != mode else photo).save(path)
    assert coin_finding.error(find_coin(open_photo(path, *photo.size)[0]), coin) < 0.03


def test_a_coin_that_was_cut_out_is_found_on_white(tmp_path):
    coin = Circle(160, 150, 110, 1)
    photo = draw_coin(320, 300, coin, ground=0)
    mask = Image.new("L", photo.size)
    ImageDraw.Draw(mask).circle((coin.x, coin.y), coin.radius, fill=255)
    photo.putalpha(mask)
    photo.save(tmp_path / "photo.png")
    assert coin_finding.error(find_coin(open_photo(tmp_path / "photo.png", *photo.size)[0]), coin) < coin_finding.RIGHT


def test_of_two_coins_one_is_found_and_it_is_not_sure():
    left, right = Circle(200, 200, 150, 1), Circle(560, 210, 140, 1)
    photo = draw_coin(750, 400, left)
    photo.paste(draw_coin(750, 400, right, seed=1).crop((380, 0, 750, 400)), (380, 0))
    found = find_coin(photo)
    assert min(coin_finding.error(found, left), coin_finding.error(found, right)) < coin_finding.RIGHT
    assert found.certainty < SURE < find_coin(draw_coin(750, 400, left)).certainty


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (Image.new("RGB", (1, 1)), "too small: 1x1 pixels"),
        (Image.new("RGB", (2000, 3)), "too small"),
        (Image.new("RGB", (0, 0)), "too small"),
        (Image.new("RGB", (500, 400), "white"), "plain"),
        (Image.linear_gradient("L").convert("RGB"), "plain"),
        (Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)), "round"),
        (draw_coin(600, 600, Circle(0, 300, 200, 1)), "cut off"),
        (draw_coin(600, 600, Circle(600, 0, 300, 1)), "cut off"),
    ],
)
def test_photos_without_a_coin_have_a_reason(photo, reason):
    with pytest.raises(CoinNotFound, match=reason):
        find_coin(photo)


@pytest.mark.parametrize(
    ("coin", "ground"), [(Circle(171.2, 148.4, 172.5, 1), 255), (Circle(149.4, 157.1, 170.3, 1), 200)]
)
def test_a_coin_that_fills_the_photo_is_not_cut_off(coin, ground):
    found = find_coin(draw_coin(320, 320, coin, ground=ground, seed=8))
    assert np.abs(np.subtract(found[:3], coin[:3])).max() < 3


@pytest.mark.parametrize("size", [(33, 32), (32, 4000), (8000, 6000)])
@pytest.mark.parametrize("seed", [0, 1])
def test_odd_photos_have_an_answer_or_a_reason(size, seed):
    noise = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    try:
        found = find_coin(noise.resize(size, Image.Resampling.NEAREST if seed else Image.Resampling.BILINEAR))
    except CoinNotFound as reason:
        assert str(reason)
    else:
        assert 0 <= found.certainty <= 1 and found.radius > 0


def test_a_cut_out_coin_fills_its_picture(monkeypatch):
    coin = Circle(180, 130, 100, 1)
    photo = Image.new("RGB", (300, 200), "black")  # the coin is cut off below
    ImageDraw.Draw(photo).circle((coin.x, coin.y), coin.radius, fill="white")
    face = np.asarray(cut_out(photo, coin, 204))
    assert face.shape == (204, 204, 3)
    assert (face[102, 2:202] > 200).all() and (face[102, [0, 203]] < 100).all()  # a coin of 200, and its margin
    assert (face[[0, 0, 203, 203], [0, 203, 0, 203]] == GROUND).all()
    assert (face[185:] == GROUND).all()  # beyond the photo
    assert MARGIN < 0.05
    monkeypatch.setattr(coin_finder, "MARGIN", 0.5)
    assert cut_out(photo, coin, 50).getpixel((25, 5)) == (0, 0, 0)


def test_faces_are_joined_obverse_left():
    coin = join_faces(Image.new("RGB", (90, 90), "red"), Image.new("L", (40, 40), 255), 64)
    assert coin.size == (128, 64) and coin.mode == "RGB"
    assert coin.getpixel((10, 10)) == (255, 0, 0) and coin.getpixel((100, 10)) == (255, 255, 255)


def test_the_benchmark_prints_figures_and_draws_the_worst(tmp_path, monkeypatch, capsys):
    rows = []
    for number in range(4):
        coin = Circle(150, 160, 100 + number, 1)
        draw_coin(300, 300, coin, seed=number).save(tmp_path / f"{number}.png")
        rows.append({"file": f"{number}.png", "x": coin.x, "y": coin.y, "r": coin.radius})
    Image.new("RGB", (300, 300)).save(tmp_path / "none.png")
    rows.append({"file": "none.png", "x": 150, "y": 150, "r": 100})
    (tmp_path / "circles.json").write_text(json.dumps(rows))
    sheet = tmp_path / "scratch" / "sheet.png"
    monkeypatch.setattr("sys.argv", ["coin_finding", "--photos", str(tmp_path), "--sheet", str(sheet)])
    coin_finding.main()
    output = capsys.readouterr().out
    assert "| photos | right |" in output and "| inf% |" in output
    assert Image.open(sheet).width == coin_finding.COLUMNS * coin_finding.TILE


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photos of real coins: set RAW_COIN_PHOTOS")
def test_real_coins_are_found():
    results = [coin_finding.measure(PHOTOS, row) for row in coin_finding.read_circles(PHOTOS)]
    errors = np.array([result.error for result in results])
    assert np.mean(errors <= coin_finding.RIGHT) > 0.92
    assert np.mean(errors <= 0.05) > 0.98
    assert max(result.error for result in results if result.found and result.found.certainty >= SURE) < 0.05
