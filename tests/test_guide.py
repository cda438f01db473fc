"""The snippets that load a checkpoint: the guide's, word for word, and ours, which works for every preset."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from conftest import ROOT, make_dataset, run_script

GUIDE_SNIPPET = (ROOT / "tests" / "guide_snippet.py").read_text("utf-8")
(OUR_SNIPPET,) = re.findall("```python\n(.+?)```", (ROOT / "docs" / "python.md").read_text("utf-8"), re.DOTALL)


def run_snippet(snippet: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def grades(text: str) -> dict[str, float]:
    """Return the probability of each grade in the last lines of an output."""
    return {grade: float(share) / 100 for grade, share in re.findall(r"^ *([a-z]+\d+): ([\d.]+)%$", text, re.MULTILINE)}


def test_the_guides_snippet_runs_word_for_word_on_a_trained_checkpoint(tmp_path):
    dataset = make_dataset(tmp_path / "coin_dataset", train=1, val=1)
    result = run_script("coin_classifier_custom.py", "--num-epochs", 1, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "148.7 million parameters" in result.stdout

    (tmp_path / "path" / "to").mkdir(parents=True)
    os.link(dataset / "train" / "ms65" / "0.jpg", tmp_path / "path" / "to" / "coin.jpg")
    output = run_snippet(GUIDE_SNIPPET, tmp_path)

    # The snippet does not calibrate its probabilities, and its resizing differs a little from ours.
    predicted = run_script("predict.py", "path/to/coin.jpg", cwd=tmp_path)
    ours, guides = grades(predicted.stdout), grades(output)
    assert set(ours) == set(guides) == {"g06", "vf30", "ms65"}
    temperature = torch.load(tmp_path / "coin_classifier_custom_best.pth", mmap=True)["temperature"]
    powers = {grade: share ** (1 / temperature) for grade, share in guides.items()}
    assert all(abs(ours[grade] - powers[grade] / sum(powers.values())) < 0.02 for grade in ours)


def test_our_snippet_grades_a_photo_as_predict_does(tmp_path):
    dataset = make_dataset(tmp_path / "coin_dataset")
    result = run_script("coin_classifier_custom.py", "--preset", "demo", "--num-epochs", 6, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    shutil.copy(dataset / "val" / "ms65" / "0.jpg", tmp_path / "photo.jpg")

    predicted = grades(run_script("predict.py", "photo.jpg", cwd=tmp_path).stdout)
    ours = grades(run_snippet(OUR_SNIPPET, tmp_path))
    assert set(ours) == set(predicted) == {"g06", "vf30", "ms65"}
    assert all(abs(ours[grade] - predicted[grade]) < 0.02 for grade in ours)  # their resizing differs a little
