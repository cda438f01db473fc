"""What the training benchmarks share: the trainer of coin_classifier_custom.py and its step, timed by themselves."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import coin_classifier_custom as coin
from coinkit.dataset import find_classes, find_split, read_batches
from coinkit.devices import find_device

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
PRODUCTS = 5  # in one measurement


def make_trainer(dataset: Path, output: Path, options: list[object]) -> coin.Trainer:
    """Return the trainer that coin_classifier_custom.py would make with these options."""
    files = ["--data", dataset, "--output", output, "--runs", output]
    sys.argv = list(map(str, ["coin_classifier_custom.py", *files, *options]))
    args, _ = coin.parse_arguments()
    classes = find_classes(dataset)
    train, val = (find_split(dataset / split, classes) for split in ("train", "val"))
    return coin.Trainer(args, classes, train, val, find_device(args.device))


def read_batch(trainer: coin.Trainer) -> tuple[Tensor, Tensor]:
    """Return a batch of training photos (N, 3, H, W), uint8, on the trainer's device, and their indices (N,)."""
    order = torch.arange(trainer.args.batch_size) % len(trainer.train.paths)
    batches = read_batches(trainer.train.paths, order, len(order), trainer.read_photo, trainer.pool)
    photos, indices = next(batches)
    return photos.to(trainer.device), indices


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long a piece of work takes until the device has finished it."""
    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - started


def seconds_of_steps(trainer: coin.Trainer, photos: Tensor, indices: Tensor, steps: int) -> float:
    """Return how long training steps on one batch take, augmentation included."""

    def work() -> None:
        for _ in range(steps):
            trainer.train_step(photos, indices, len(photos))

    return seconds(work, trainer.device)


def flop_per_photo(trainer: coin.Trainer, photos: Tensor) -> float:
    """Return the floating-point operations of one photo, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        trainer.compute_logits(photos).sum().backward()
    trainer.optimizer.zero_grad()
    return counter.get_total_flops() / len(photos)


def matrix_product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second of a product of large matrices."""
    side = MATRIX_SIDE.get(device.type, 4096)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    return PRODUCTS * 2 * side**3 / seconds(lambda: [matrix @ matrix for _ in range(PRODUCTS)], device)
