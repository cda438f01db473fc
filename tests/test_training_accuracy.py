"""The default recipe learns: on a few dozen of the demo's coins, as a user would see it."""

import re

from conftest import run_script


def test_the_default_recipe_learns_worn_from_new(tmp_path):
    draw = ["--output", "images", "--grades", "g06", "ms65", "--per-grade", 20]
    for script, options in (
        ("make_demo_coins.py", draw),
        ("prepare_dataset.py", ["--size", 256, 128, "--ratios", 60, 15, 25]),
        ("coin_classifier_custom.py", ["--preset", "demo", "--image-width", 128, "--image-height", 64, "--epochs", 16]),
    ):
        result = run_script(script, *options, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert "looks like" not in (tmp_path / "coin_dataset" / "manifest.csv").read_text()  # each is a coin of its own
    accuracies = [float(accuracy) for accuracy in re.findall(r"accuracy (\d+)% \(", result.stdout)]
    assert len(accuracies) == 16 and max(accuracies[-2:]) >= 90  # of the training photos; chance is 50 %
    (test_accuracy,) = re.findall(r"^Test.*: accuracy ([\d.]+)%", result.stdout, re.MULTILINE)
    assert float(test_accuracy) >= 70
