"""Ours is 1.65 times as fast as the guide's way at 512x256, in 2 rounds on 2 cores of an AMD EPYC (AVX2, without bf16)

| photos/s (how fast ours is against it)  | 512x256                    | 256x128, --steps 8        |
| --------------------------------------- | -------------------------- | ------------------------- |
| the guide's way                         | 0.288 (1.65, 1.41 to 1.89) | 1.22 (1.49, 1.48 to 1.51) |
| timm, its defaults                      | 0.303 (1.55, 1.43 to 1.66) | 1.40 (1.30, 1.28 to 1.32) |
| timm, float32, channels_last            | 0.244 (1.91, 1.88 to 1.93) | 1.20 (1.52, 1.44 to 1.60) |
| ours, on the device                     | 0.475 (0.98, 0.93 to 1.03) | 1.79 (1.02, 0.99 to 1.05) |
| ours                                    | 0.465                      | 1.82                      |
| step, share of a matrix product's rate  | 81 % of 138 GFLOP/s        | 71 % of 147 GFLOP/s       |
| saving each epoch, share of the time    | 0.5 %                      | 1.6 %                     |

With bf16, on 2 cores of an AMD EPYC (AVX-512), 3 rounds, and 4 of --preset narrow (--width 16 --steps 12):

| photos/s (ours against) | 512x256                    | 256x128, --steps 8        | 256x128, narrow           |
| ----------------------- | -------------------------- | ------------------------- | ------------------------- |
| the guide's way         | 0.486 (2.98, 2.86 to 4.06) | 1.83 (3.06, 3.05 to 3.51) | 6.58 (7.90, 7.22 to 8.99) |
| timm, its defaults      | 0.440 (3.34, 2.99 to 3.49) | 1.92 (2.92, 2.72 to 3.39) | 7.86 (6.56, 6.07 to 6.86) |
| timm, channels_last     | 0.940 (1.54, 1.50 to 1.83) | 3.31 (1.71, 1.67 to 1.72) | 9.65 (5.44, 5.00 to 5.68) |
| ours, on the device     | 1.31 (1.10, 1.00 to 1.21)  | 5.70 (1.01, 0.98 to 1.02) | 51.5 (0.96, 0.88 to 1.03) |
| ours                    | 1.48                       | 5.71                      | 51.0                      |
| step, share of product  | 79 % of 392 GFLOP/s        | 83 % of 403 GFLOP/s       | 50 % of 392 GFLOP/s       |
| saving, share of time   | 2.4 %                      | 3.0 %                     | 0.7 %                     |

With OMP_NUM_THREADS=1, narrow has 34.4 photos/s, and its step 65 % of 204 GFLOP/s.

Without bf16, the guide's way reaches half of a matrix product's rate at 512x256, over all its time. So without anything
faster than fp32, no training of the same network can be much more than twice as fast.

How many photos a second training learns from, starting from photos of 6000x3000, and how near that is to what is
possible

    python -m benchmarks.training_speed                 512x256, 4 steps in a round, 5 rounds
    python -m benchmarks.training_speed --image-width 256 --image-height 128 --steps 8
    python -m benchmarks.training_speed --image-width 256 --image-height 128 --width 16 --steps 12
    python -m benchmarks.training_speed --image-width 64 --image-height 32 --width 4 --steps 1 --rounds 1

All train the same layers on batches of 4. timm trains the guide's network with timm's SGD and augmentation. Our time
includes preparing, once for 50 epochs. "On the device" is our step alone, on photos that are already there. The last
lines tell the step's share of a matrix product's rate, and the share of the time that saving takes if every epoch is
saved. For Linux and macOS.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from timm.data import create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from torchvision.datasets import ImageFolder

import coin_classifier_custom as coin
from benchmarks import guide_baseline as guide
from benchmarks import training_step
from benchmarks.timing import GRADES, alternate, draw_photos, network_options, print_table, run
from benchmarks.training_step import matrix_product_rate, seconds
from coinkit.cli import keep_freed_memory, usable_cores
from coinkit.devices import choose_dtype, find_device

TIMM_WORKERS = 4  # the defaults of timm's train.py
TIMM_RATE = 0.1 / 256  # learning rate for each photo of a batch
TIMM_WEIGHT_DECAY = 2e-5
EPOCH_PHOTOS = 280  # training photos of a collection of 400, for the share of the time that saving takes


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-width", type=int, default=coin.IMAGE_WIDTH)
    parser.add_argument("--image-height", type=int, default=coin.IMAGE_HEIGHT)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=coin.CHANNELS[0], help="channels of the first block")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    architecture = {name: getattr(args, name) for name in ("image_width", "image_height", "width")}
    device, count = find_device(args.device), args.steps * guide.BATCH_SIZE
    dtype = choose_dtype("auto", device)
    precision = str(dtype).removeprefix("torch.")

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images, dataset = folder / "images", folder / "coin_dataset"
        draw_photos(images, count)
        prepared = run("prepare_dataset.py", "--source", images, "--output", dataset, "--ratios", 1, 0, 0)
        epochs = {
            "the guide's way": guides_way(images, architecture, device),
            "timm, its defaults": timms_way(images, architecture, device),
            f"timm, {precision}, channels_last": timms_way(images, architecture, device, best_flags=True),
        }
        # In its own process, since keep_freed_memory, which our commands call, changes the whole process
        ours = (dataset, folder, [*network_options(**architecture), "--device", device])
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=start_ours, initargs=ours) as process:

            def ask(function: Callable, *arguments: object) -> Any:
                return process.submit(function, *arguments).result()

            contenders = {name: lambda epoch=epoch: count / seconds(epoch, device) for name, epoch in epochs.items()}
            contenders |= {
                "ours, on the device": lambda: count / ask(seconds_of_steps, args.steps),
                "ours": lambda: count / (prepared.seconds / coin.NUM_EPOCHS + ask(seconds_of_epoch)),
                "matrix product": lambda: matrix_product_rate(device, dtype),
            }
            rates = alternate(contenders, args.rounds)
            saving = median(ask(seconds_of_save) for _ in range(args.rounds))
            flop = ask(flop_per_photo)

    peaks = rates.pop("matrix product")
    print_table(f"{args.image_width}x{args.image_height}, photos/s", rates, "ours")
    shares = [flop * rate / peak for rate, peak in zip(rates["ours, on the device"], peaks, strict=True)]
    print(f"A photo takes {flop / 1e9:.3g} GFLOP, forward and backward. On the device, the step reaches")
    print(f"{median(shares):.0%} of a {precision} matrix product's rate, {median(peaks) / 1e9:.3g} GFLOP/s.")
    share = saving / (saving + EPOCH_PHOTOS / median(rates["ours"]))
    print(f"A save takes {saving:.2f} s: {share:.1%} of the time if each epoch of {EPOCH_PHOTOS} photos is saved.")


def guides_way(images: Path, architecture: dict[str, int], device: torch.device) -> Callable[[], object]:
    """Return a function that trains the guide's network for one epoch, as a person would write it."""
    model = guide.CoinClassifier(len(GRADES), **architecture).to(device)
    loader = guide.make_loader(images, architecture["image_width"], architecture["image_height"])
    return partial(guide.train_epoch, model, guide.make_optimizer(model), loader, device)


def timms_way(
    images: Path, architecture: dict[str, int], device: torch.device, best_flags: bool = False
) -> Callable[[], None]:
    """Return a function that trains the guide's network for one epoch as timm's train.py does.

    Args:
        images: folder of <grade>/6000x3000/.
        architecture: arguments of the network.
        device: where to train.
        best_flags: with --amp --channels-last, and one worker for each core.
    """
    memory_format = torch.channels_last if best_flags else torch.contiguous_format
    dtype = choose_dtype("auto", device) if best_flags else torch.float32
    model = guide.CoinClassifier(len(GRADES), **architecture).to(device, memory_format=memory_format)
    rate = TIMM_RATE * guide.BATCH_SIZE
    optimizer = create_optimizer_v2(model, "sgd", lr=rate, momentum=0.9, weight_decay=TIMM_WEIGHT_DECAY)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    criterion = LabelSmoothingCrossEntropy(0.1)
    loader = create_loader(
        ImageFolder(images),
        (3, architecture["image_height"], architecture["image_width"]),
        guide.BATCH_SIZE,
        is_training=True,
        interpolation="random",
        num_workers=usable_cores() if best_flags else TIMM_WORKERS,
        device=device,
    )

    def train_epoch() -> None:
        model.train()
        for photos, labels in loader:
            photos = photos.contiguous(memory_format=memory_format)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = criterion(model(photos), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    return train_epoch


def start_ours(dataset: Path, output: Path, options: list[object]) -> None:
    """Make our trainer and one batch in this process, for the functions below."""
    global trainer, photos, indices
    keep_freed_memory()
    trainer = training_step.make_trainer(dataset, output, options)
    photos, indices = training_step.read_batch(trainer)


def seconds_of_epoch() -> float:
    """Return how long our training takes for an epoch."""
    trainer.progress.begin_epoch()
    trainer.writer.written_at = time.perf_counter()  # so that it does not save now: `seconds_of_save` measures that
    return seconds(trainer.train_epoch, trainer.device)


def seconds_of_steps(steps: int) -> float:
    """Return how long our training takes for steps on photos that are on the device."""
    return training_step.seconds_of_steps(trainer, photos, indices, steps)


def seconds_of_save() -> float:
    """Return for how long saving stops our training."""
    return seconds(trainer.save, trainer.device)


def flop_per_photo() -> float:
    """Return the floating-point operations of one photo in our network, forward and backward."""
    return training_step.flop_per_photo(trainer, photos)


if __name__ == "__main__":
    main()
