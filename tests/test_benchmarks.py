"""Each benchmark still runs, on a handful of photos, and ends with its table; how fast it is does not matter here."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, make_dataset
from conftest import SMALL as SMALL_RUN

from benchmarks import wrong_labels
from benchmarks.timing import run

SMALL = ["--rounds", "1", "--width", "4", "--image-width", "64", "--image-height", "32"]
HEADER = "rate | {} against it | lowest | highest |"


pytestmark = pytest.mark.skipif(os.name != "posix", reason="the benchmarks are for Linux and macOS")


@pytest.mark.parametrize(
    ("name", "options", "table"),
    [
        (
            "training_speed",
            [*SMALL, "--steps", "1", "--device", "cpu"],
            [
                f"| 64x32, photos/s | {HEADER.format('ours')}",
                "| the guide's way |",
                "| timm, its defaults |",
                ", channels_last |",
                "| ours, on the device |",
                "| ours |",
                " matrix product's rate",
                "A save takes",
            ],
        ),
        (
            "prepare_speed",
            ["--photos", "2", "--rounds", "1"],
            [f"| prepare, photos/s | {HEADER.format('ours')}", "| libvips |", "| ours |"],
        ),
        (
            "predict_speed",
            [*SMALL, "--photos", "1"],
            [
                f"| 1 photos from the shell, photos/s | {HEADER.format('predict.py')}",
                "| the guide's snippet |",
                "| predict.py |",
                "| photos | megabytes, the guide's snippet | megabytes, predict.py |",
            ],
        ),
        ("scaling", ["--sizes", "100"], ["100 photos", "prepare: find photos of one coin", "train: list the photos"]),
        (
            "wrong_labels",
            ["--table"],
            ["| ranked by | 1 grade off, lowest 5% | 1 grade off, lowest 10% | 1 grade off, ROC AUC |"],
        ),
        ("yolo", ["--table"], ["| task | seeds | accuracy | accuracy within 1 grade | MAE, grades |"]),
        ("accuracy", ["--table"], ["| morgan-5 | seeds | accuracy | accuracy within 1 grade | MAE, grades |"]),
    ],
)
def test_benchmarks_run_and_end_with_their_table(name, options, table):
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for words in table:
        assert words in result.stdout


def test_each_way_to_rank_labels_is_scored(tmp_path, monkeypatch, capsys):
    """Of 40 photos, a network is sure of the right grade, and the labels of the last two are wrong."""
    monkeypatch.setattr(wrong_labels, "SCRATCH", tmp_path)
    grades, wrong = np.arange(40) % 4, np.arange(40) >= 38
    labels, photos = (grades + wrong) % 4, np.arange(40)
    logits = np.eye(4, dtype=np.float32)[grades]
    for part, learned in (("all", photos), ("even", photos[::2]), ("odd", photos[1::2])):
        np.savez(
            wrong_labels.training_file("any grade", 0, part),
            logits=np.stack([3 * logits[learned], 5 * logits[learned]]),
            learned=learned,
            labels=labels,
            wrong=wrong,
            probabilities=logits,
        )
    found = wrong_labels.score_all("any grade", 0)
    assert all(scores == [1.0, 1.0, 1.0] for scores in found.values())
    wrong_labels.print_table([{"kind": "any grade", "seed": 0, "found": found}])
    assert "(this toolkit) | - | - | - | - | - | - | 1.000 | 1.000 | 1.000 |" in capsys.readouterr().out


def test_the_cost_of_tensorboard_is_told(dataset):
    options = [*map(str, SMALL_RUN), "--num-epochs", "2", "--data", dataset]
    command = [sys.executable, "-m", "benchmarks.tensorboard_cost", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "TensorBoard took" in result.stdout


def test_the_benchmark_of_a_gpu_runs_on_a_cpu_too(tmp_path):
    data = make_dataset(tmp_path / "coin_dataset", test=3)
    options = [*SMALL[2:], "--device", "cpu", "--max-batch-size", "8", "--num-epochs", "1", "--data", data]
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, options)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    for words in ("\n| 4 |", "\n| 8 |", "resume: passed", "fp16: passed", "out of memory: not checked"):
        assert words in result.stdout
    assert "accuracy" in result.stdout.split("The full training:")[1].split("The full training took")[0]


def test_the_peak_memory_of_a_command_is_its_own():
    ours = bytearray(b"x") * 500_000_000  # more than any of the commands takes
    small, large = (run("-c", f"x = bytearray(b'x') * {count}").megabytes for count in (1, 200_000_000))
    assert 190 < large - small < 250 < len(ours) / 1e6
    assert small < 100
