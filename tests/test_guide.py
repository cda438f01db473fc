"""The guide's snippet, as it stands in the README, on a checkpoint of the default architecture."""

import os
import re
import subprocess
import sys

import torch
from conftest import ROOT, make_dataset, run_script


def test_the_snippet_runs_word_for_word_on_a_trained_checkpoint(tmp_path):
    dataset = make_dataset(tmp_path / "coin_dataset", train=1, val=1)
    result = run_script("coin_classifier_custom.py", "--num-epochs", 1, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "148.7 million parameters" in result.stdout

    (tmp_path / "path" / "to").mkdir(parents=True)
    os.link(dataset / "train" / "ms65" / "0.jpg", tmp_path / "path" / "to" / "coin.jpg")
    (snippet,) = re.findall("```python\n(import torch.+?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    snippet_result = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert snippet_result.returncode == 0, snippet_result.stderr

    def grades(text):
        return {grade: float(share) / 100 for grade, share in re.findall(r"^  (\w+): ([\d.]+)%$", text, re.MULTILINE)}

    # The snippet does not calibrate its probabilities, and its resizing differs a little from ours.
    predicted = run_script("predict.py", "path/to/coin.jpg", cwd=tmp_path)
    ours, guides = grades(predicted.stdout), grades(snippet_result.stdout)
    assert set(ours) == set(guides) == {"g06", "vf30", "ms65"}
    temperature = torch.load(tmp_path / "coin_classifier_custom_best.pth", mmap=True)["temperature"]
    powers = {grade: share ** (1 / temperature) for grade, share in guides.items()}
    assert all(abs(ours[grade] - powers[grade] / sum(powers.values())) < 0.02 for grade in ours)
