"""Two processes on the CPU, as torchrun starts them, against one."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALL, make_dataset, train
from test_training import BEST, LAST, curves, load

# Of 21 photos, the last step of an epoch has one, so that the second process has none. What is random differs between
# processes.
SAME = ["--num-epochs", 2, "--augment", 0, "--dropout", 0]
PHOTOS = {"train": 7, "val": 3, "test": 1}


def torchrun(cwd, *options, second_process="pass"):
    """Train in two processes; in its ninth step, the second one does something else as well, given as Python source."""
    script = cwd / "train.py"
    script.write_text(f"""
import os, signal, torch
import coin_classifier_custom as coin

logits = coin.Trainer.compute_logits
def changed(self, photos):
    if os.environ["RANK"] == "1" and self.progress.steps == 8:
        {second_process}
    return logits(self, photos)
coin.Trainer.compute_logits = changed
coin.run(coin.main)
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", script, *SMALL, *options]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8", timeout=300
    )


@pytest.fixture(scope="module")
def start(trained):
    """Options to start from a trained network. In a new one, the first gradients are so small that AdamW takes the
    rounding of their sums for a direction.
    """
    return [*SAME, "--init-from", trained / BEST]


@pytest.fixture(scope="module")
def one_process(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    make_dataset(folder / "coin_dataset", **PHOTOS)
    result = train(folder, *start)
    assert result.returncode == 0, result.stderr
    return folder


def assert_same(folder, other):
    for name in (BEST, LAST):
        checkpoint, other_checkpoint = load(folder, name), load(other, name)
        sums, other_sums = (values["label_check"]["sums"] for values in (checkpoint, other_checkpoint))
        assert torch.allclose(sums, other_sums, atol=1e-3)
        weights, others = checkpoint["model_state_dict"], other_checkpoint["model_state_dict"]
        assert list(weights) == list(others)
        for key, tensor in weights.items():
            assert torch.allclose(tensor, others[key], atol=1e-4), key  # a step may move a weight by 5e-3
    expected, actual = curves(folder), curves(other)
    assert list(expected) == list(actual)
    for name, points in expected.items():
        assert actual[name] == [(epoch, pytest.approx(value, rel=1e-3, abs=1e-4)) for epoch, value in points], name


def test_two_processes_learn_what_one_does(start, one_process, tmp_path):
    make_dataset(tmp_path / "coin_dataset", **PHOTOS)
    result = torchrun(tmp_path, *start)
    assert result.returncode == 0, result.stderr
    assert_same(one_process, tmp_path)
    for once in ("Processes: 2", "Network:", "Epoch 2/2", "Test, with the best weights", "Next:"):
        assert result.stdout.count(once) == 1, result.stdout


def test_a_signal_to_one_stops_both_and_one_process_goes_on(start, one_process, tmp_path):
    make_dataset(tmp_path / "coin_dataset", **PHOTOS)
    result = torchrun(tmp_path, *start, second_process="os.kill(os.getpid(), signal.SIGTERM)")
    assert "Stopped at step 9, in epoch 2 of 2." in result.stdout, result.stderr
    assert load(tmp_path)["progress"]["steps"] == 9
    result = train(tmp_path, *SAME, "--resume")
    assert result.returncode == 0, result.stderr
    assert_same(one_process, tmp_path)


@pytest.mark.parametrize(
    ("second_process", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", ["another process has gone", "rank      : 1", "Signal 9"]),
        (
            "raise torch.OutOfMemoryError('out of memory')",
            ["Error: out of memory: give a smaller --batch-size", "rank      : 1"],
        ),
    ],
)
def test_the_end_of_one_ends_both(tmp_path, second_process, told):
    make_dataset(tmp_path / "coin_dataset", **PHOTOS)
    result = torchrun(tmp_path, *SAME, second_process=second_process)
    assert result.returncode != 0
    assert all(words in result.stderr for words in told), result.stderr
    lines = result.stderr.splitlines()
    assert len([line for line in lines if line.startswith("Error: ")]) == 1
    assert len([line for line in lines if line.startswith("Traceback")]) == 1  # torchrun's own
    assert load(tmp_path)["progress"]["epochs"] == 1  # as saved after it


def test_a_step_must_be_shared_out_evenly(tmp_path):
    result = torchrun(tmp_path, "--batch-size", 3)
    assert result.returncode != 0
    assert result.stderr.count("--accumulate must be a multiple of the 2 processes") == 1
