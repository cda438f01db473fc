"""Not measured yet: run it, and write here the machine, the number of rounds, and the last tables

How many photos a second training takes, from the user's photos of 6000x3000, and how near that is to what is possible

    python -m benchmarks.training_speed                 512x256, 4 steps in a round, 5 rounds
    python -m benchmarks.training_speed --image-width 256 --image-height 128 --steps 16
    python -m benchmarks.training_speed --image-width 64 --image-height 32 --width 4 --steps 1 --rounds 1

All train the same layers on batches of 4; timm's have the guide's network, its SGD, and its augmentation. Preparing is
a part of our time, once for 50 epochs. "On the device" is our step alone, on photos that are there already. The last
lines tell which share of a matrix product's rate that step reaches, and which share of the time saving takes if each
epoch is better than the one before. For Linux and macOS.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from timm.data import create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import ImageFolder

import coin_classifier_custom as coin
from benchmarks import guide
from benchmarks.contest import GRADES, alternate, draw_photos, network_options, print_table, run
from coinkit.batches import find_classes, find_split, read_batches
from coinkit.cli import usable_cores
from coinkit.devices import choose_dtype, find_device

TIMM_WORKERS = 4  # the defaults of timm's train.py
TIMM_RATE = 0.1 / 256  # for each photo of a batch
TIMM_WEIGHT_DECAY = 2e-5
EPOCH_PHOTOS = 280  # of a collection of 400, for the share of saving
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
PRODUCTS = 5  # in a round


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

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images, dataset = folder / "images", folder / "coin_dataset"
        draw_photos(images, count)
        prepared = run("prepare_dataset.py", "--source", images, "--output", dataset, "--ratios", 1, 0, 0)
        trainer = make_trainer(dataset, folder, network_options(**architecture), device)
        photos, labels = first_batch(trainer)

        def ours() -> None:
            trainer.progress.begin_epoch()
            trainer.last_save = time.perf_counter()  # so that it does not save now; the last line is about that
            trainer.train_epoch()

        def ours_on_device() -> None:
            for _ in range(args.steps):
                trainer.train_step(photos, labels, len(photos))

        dtype = str(trainer.dtype).removeprefix("torch.")
        epochs = {
            "the guide's way": guides_way(images, architecture, device),
            "timm, its defaults": timms_way(images, architecture, device),
            f"timm, {dtype}, channels_last": timms_way(images, architecture, device, best_flags=True),
            "ours, on the device": ours_on_device,
            "ours": ours,
        }

        def rate(name: str) -> float:
            preparing = prepared.seconds / coin.NUM_EPOCHS if name == "ours" else 0
            return count / (preparing + seconds(epochs[name], device))

        contenders = {name: partial(rate, name) for name in epochs}
        contenders["matrix product"] = partial(matrix_product_rate, device, trainer.dtype)
        rates = alternate(contenders, args.rounds)
        saving = median(seconds(trainer.save, device) for _ in range(args.rounds))

    peaks = rates.pop("matrix product")
    print_table(f"{args.image_width}x{args.image_height}, photos/s", rates, "ours")
    work = operations(trainer, photos, labels) / len(photos)
    shares = [work * rate / peak for rate, peak in zip(rates["ours, on the device"], peaks, strict=True)]
    print(f"A photo takes {work / 1e9:.3g} GFLOP, forward and backward. On the device, the step reaches")
    print(f"{median(shares):.0%} of a {dtype} matrix product's rate, {median(peaks) / 1e9:.3g} GFLOP/s.")
    share = saving / (saving + EPOCH_PHOTOS / median(rates["ours"]))
    print(f"A save takes {saving:.2f} s: {share:.1%} of the time if each epoch of {EPOCH_PHOTOS} photos is saved.")


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long a piece of work takes until the device has finished it."""
    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - started


def guides_way(images: Path, architecture: dict[str, int], device: torch.device) -> Callable[[], object]:
    """Return what trains the guide's network for an epoch, as a person would write it."""
    model = guide.CoinClassifier(len(GRADES), **architecture).to(device)
    loader = guide.make_loader(images, architecture["image_width"], architecture["image_height"])
    return partial(guide.train_epoch, model, guide.make_optimizer(model), loader, device)


def timms_way(
    images: Path, architecture: dict[str, int], device: torch.device, best_flags: bool = False
) -> Callable[[], None]:
    """Return what trains the guide's network for an epoch, as timm's train.py does: --amp --channels-last if asked."""
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


def make_trainer(dataset: Path, output: Path, options: list[object], device: torch.device) -> coin.Trainer:
    """Return the training that coin_classifier_custom.py does with these options."""
    files = ["--data", dataset, "--output", output, "--runs", output]
    sys.argv = list(map(str, ["coin_classifier_custom.py", *files, *options]))
    args, _ = coin.parse_arguments()
    classes = find_classes(dataset)
    train, val = (find_split(dataset / split, classes) for split in ("train", "val"))
    return coin.Trainer(args, classes, train, val, device)


def first_batch(trainer: coin.Trainer) -> tuple[Tensor, Tensor]:
    """Return photos (N, 3, H, W), uint8, and their labels (N,), on the device."""
    size = trainer.args.batch_size
    photos, indices = next(read_batches(trainer.train.paths, torch.arange(size), size, trainer.read, trainer.pool))
    return photos.to(trainer.device), trainer.train.labels[indices].to(trainer.device)


def operations(trainer: coin.Trainer, photos: Tensor, labels: Tensor) -> int:
    """Return how many additions and multiplications the network takes for photos, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        losses, _ = trainer.losses(photos, labels)
        losses.sum().backward()
    return counter.get_total_flops()


def matrix_product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return how many additions and multiplications a second a product of large matrices makes."""
    side = MATRIX_SIDE.get(device.type, 4096)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    return PRODUCTS * 2 * side**3 / seconds(lambda: [matrix @ matrix for _ in range(PRODUCTS)], device)


if __name__ == "__main__":
    main()
