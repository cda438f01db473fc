import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


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


def run_script(name: str, *arguments, cwd: Path, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", **options)
