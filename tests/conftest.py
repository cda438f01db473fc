import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks are faster so, and several may be tested at once
if threading.current_thread() is threading.main_thread():  # else commands started in the background ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


def draw_photo(seed: int, size=(240, 120), mode="RGB") -> Image.Image:
    """A picture with a look of its own, unlike that of any other seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


def add_photo(folder: Path, grade: str, name: str, seed: int, **save_options) -> Path:
    path = folder / grade / "6000x3000" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_photo(seed).save(path, **save_options)
    return path


@pytest.fixture
def images(tmp_path) -> Path:
    """12 photos of each of 2 grades."""
    for grade, first in (("vf30", 0), ("ms65", 100)):
        for seed in range(first, first + 12):
            add_photo(tmp_path / "images", grade, f"{10000000 + seed}.jpg", seed)
    return tmp_path / "images"


def run_script(name: str | Path, *arguments, cwd: Path, **options) -> subprocess.CompletedProcess:
    """Run a script in a process of its own: a forked one, unless subprocess.run is to have further options."""
    script, arguments = str(ROOT / name), list(map(str, arguments))
    command = [sys.executable, script, *arguments]
    if options or sys.platform != "linux":
        options.setdefault("env", os.environ | {"PYTHONPATH": str(ROOT)})
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", **options)
    server = fork_server()
    with tempfile.TemporaryDirectory() as folder:
        output = [Path(folder, name) for name in ("stdout", "stderr")]
        print(json.dumps([script, arguments, str(cwd), list(map(str, output))]), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(command, status, *(path.read_text("utf-8") for path in output))


@cache
def fork_server() -> subprocess.Popen:
    """Start tests/fork_server.py. It ends with this process, when its standard input is closed."""
    command = [sys.executable, str(ROOT / "tests" / "fork_server.py")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


SMALL = ["--image-width", 64, "--image-height", 32, "--channels", 8, 8, 8, 8, "--fc-features", 16, 16]
SMALL += ["--dropout", 0.1, "--learning-rate", 0.005, "--device", "cpu"]
SMALL += ["--precision", "fp32"]  # so that the same happens on processors with bf16


def make_dataset(folder: Path, grades=("g06", "vf30", "ms65"), train=8, val=3, test=0) -> Path:
    """A prepared dataset whose grades a small network tells apart: the better the grade, the finer the stripes.

    With test photos, training ends with a report on them, which takes longer than a small network's training.
    """
    for label, grade in enumerate(grades):
        for split, count in (("train", train), ("val", val), ("test", test)):
            (folder / split / grade).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                rng = np.random.default_rng([label, index, len(split)])
                stripes = np.sin(np.arange(128) * 0.25 * 2**label + rng.uniform(0, 6))
                pixels = 128 + 80 * stripes + rng.normal(0, 10, (64, 128))
                photo = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert("RGB")
                photo.save(folder / split / grade / f"{index}.jpg", quality=95)
    return folder


@pytest.fixture
def dataset(tmp_path) -> Path:
    return make_dataset(tmp_path / "coin_dataset")


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder with a dataset and a small model that has learned it; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    make_dataset(folder / "coin_dataset", test=3)
    result = train(folder, "--num-epochs", 30)
    assert result.returncode == 0, result.stderr
    return folder


def train(cwd: Path, *options, **settings) -> subprocess.CompletedProcess:
    return run_script("coin_classifier_custom.py", *SMALL, *options, cwd=cwd, **settings)


def assert_fails(result: subprocess.CompletedProcess, *words: str) -> None:
    """A user's mistake ends in a line or two that say what to do."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr and "usage:" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
