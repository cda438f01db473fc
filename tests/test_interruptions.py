"""A run that is killed time and again ends with the same weights and curves as one that was left alone.

KILLS=200 python -m pytest tests/test_interruptions.py        more of it
"""

import os
import random
import signal
import subprocess
import sys
import time

import torch
from conftest import ROOT, SMALL, make_dataset, train
from test_training import BEST, LAST, curves, load

KILLS = int(os.environ.get("KILLS", 8))
SIGNALS = ["SIGKILL", "SIGINT", "SIGTERM"] if os.name == "posix" else ["SIGTERM"]


def test_a_run_that_is_killed_time_and_again_ends_as_if_it_had_not_been(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        make_dataset(folder / "coin_dataset", train=4, val=1)
    options = [*SMALL, "--num-epochs", 5 * KILLS, "--accumulate", 2, "--clip-grad-norm", 0.5]
    assert train(straight, *options).returncode == 0

    rng = random.Random(KILLS)
    kills = 0
    while True:
        resume = ["--resume"] if (killed / LAST).exists() else []
        command = [sys.executable, ROOT / "coin_classifier_custom.py", *options, *resume]
        process = subprocess.Popen(list(map(str, command)), cwd=killed, stdout=subprocess.PIPE, text=True)
        epochs_left = rng.randint(0, 2)
        for line in process.stdout:
            if line.startswith(("Watch it", "Epoch")):
                if kills < KILLS and epochs_left == 0:
                    time.sleep(rng.uniform(0, 0.3))
                    process.send_signal(getattr(signal, SIGNALS[kills % len(SIGNALS)]))
                    kills += 1
                epochs_left -= 1
        if process.wait() == 0:
            break
        assert process.returncode != 1  # an error of its own
    assert kills == KILLS
    for name in (LAST, BEST):
        expected, actual = load(straight, name), load(killed, name)
        for key, tensor in expected["model_state_dict"].items():
            assert torch.equal(tensor, actual["model_state_dict"][key]), key
        assert expected["progress"]["best_val_acc"] == actual["progress"]["best_val_acc"]
    assert curves(straight) == curves(killed)
