from conftest import assert_fails, run_script
from PIL import Image

from coinkit.faces import find_coins, open_coin


def draw(cwd, *options):
    result = run_script("make_demo_coins.py", "--per-grade", 1, "--grades", "vf30", "ms65", *options, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return {path.relative_to(cwd).as_posix(): path.read_bytes() for path in sorted(cwd.rglob("*.jpg"))}


def test_coins_are_drawn_the_same_each_time(tmp_path):
    photos = {}
    for folder, options in (("a", []), ("b", []), ("c", ["--seed", 1])):
        (tmp_path / folder).mkdir()
        photos[folder] = draw(tmp_path / folder, *options)
    assert [name.rsplit("/", 1)[0] for name in photos["a"]] == [
        "demo/images/ms65/6000x3000",
        "demo/images/vf30/6000x3000",
    ]
    assert photos["a"] == photos["b"]
    assert all(photos["a"][name] != photos["c"][name] for name in photos["a"])
    with Image.open(next((tmp_path / "a").rglob("*.jpg"))) as photo:
        assert photo.size == (6000, 3000)


def test_photos_of_each_face_are_cut_out(tmp_path):
    names = draw(tmp_path, "--faces", 1)
    coins, alone = find_coins([tmp_path / name for name in names])
    assert len(names) == 4 and len(coins) == 2 and not alone
    for coin in coins:
        assert all(0.19 < circle.radius / 1500 < 0.29 for circle in open_coin(coin, 256, 128).circles)


def test_a_name_off_the_scale_is_an_error(tmp_path):
    assert_fails(run_script("make_demo_coins.py", "--grades", "details", cwd=tmp_path), "details")
