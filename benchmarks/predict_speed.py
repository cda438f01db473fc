"""Ours is 2.2 times as fast on one photo, 1.5 times on 100, on 2 cores of an AMD EPYC (AVX2, without bf16)

| photos | rounds | the guide's snippet, photos/s | predict.py, photos/s | times as fast       |
| ------ | ------ | ----------------------------- | -------------------- | ------------------- |
| 1      | 5      | 0.100                         | 0.235                | 2.20 (2.13 to 2.50) |
| 100    | 1      | 0.954                         | 1.45                 | 1.52                |

With bf16, on 2 cores of an AMD EPYC (AVX-512):

| photos | rounds | the guide's snippet, photos/s | predict.py, photos/s | times as fast       |
| ------ | ------ | ----------------------------- | -------------------- | ------------------- |
| 1      | 5      | 0.177                         | 0.461                | 2.62 (2.24 to 2.72) |
| 40     | 3      | 1.31                          | 3.89                 | 2.98 (2.84 to 2.99) |

Without bf16, importing torch is 2.7 of the 4 s that one photo takes. Of a photo among many, nearly all is the network.

How fast predict.py grades photos of 6000x3000 from the shell, and in how much memory, against the guide's snippet

    python -m benchmarks.predict_speed                  the default network, 200 photos, 5 rounds
    python -m benchmarks.predict_speed --photos 3 --rounds 1 --width 4 --image-width 64 --image-height 32

Each run is a whole process: start, read the checkpoint, predict. The checkpoints, 1.8 GB each, are made in a temporary
folder and lie in the system's file cache, as they would on second use. Megabytes are the peak memory of the process.
For Linux and macOS.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks import guide_baseline as guide
from benchmarks.timing import GRADES, alternate, draw_photos, network_options, print_table, run
from coin_classifier_custom import BEST
from coinkit.files import link_or_copy

DEVICE = torch.device("cpu")  # the snippet knows no other


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=200, help="the largest number; before it, 1 and a tenth of it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=64, help="channels of the first block")
    parser.add_argument("--image-width", type=int, default=512)
    parser.add_argument("--image-height", type=int, default=256)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = draw_photos(folder / "images", max(args.photos, guide.BATCH_SIZE))
        make_checkpoints(folder, [*photos[:2], *photos[-2:]], args)  # 2 of each grade
        commands = {
            "the guide's snippet": ["-m", "benchmarks.guide_baseline", folder / "guide.pth"],
            "predict.py": ["predict.py", "--device", DEVICE, "--checkpoint", folder / BEST],
        }
        memory = []
        for count in sorted({1, max(1, args.photos // 10), args.photos}):
            runs = {name: partial(run, *command, *photos[:count]) for name, command in commands.items()}
            costs = alternate(runs, args.rounds)
            rates = {name: [count / cost.seconds for cost in costs[name]] for name in commands}
            print_table(f"{count} photos from the shell, photos/s", rates, "predict.py")
            megabytes = [f"{max(cost.megabytes for cost in costs[name]):.0f}" for name in commands]
            memory.append(f"| {count} | {' | '.join(megabytes)} |")
    print(f"\n| photos | {' | '.join(f'megabytes, {name}' for name in commands)} |")
    print("| --- | --- | --- |", *memory, sep="\n")


def make_checkpoints(folder: Path, photos: list[Path], args: argparse.Namespace) -> None:
    """Train both networks on a few photos for one epoch; write guide.pth and `BEST` into the folder."""
    images = folder / "few"
    for photo in photos:
        target = images / photo.relative_to(folder / "images")
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(photo, target)
    architecture = {name: getattr(args, name) for name in ("image_width", "image_height", "width")}
    model = guide.CoinClassifier(len(GRADES), **architecture)
    optimizer = guide.make_optimizer(model)
    guide.train_epoch(model, optimizer, guide.make_loader(images, args.image_width, args.image_height), DEVICE)
    guide.save(model, optimizer, list(GRADES), folder / "guide.pth", **architecture)

    run("prepare_dataset.py", "--source", images, "--output", folder / "few_prepared", "--ratios", 1, 0, 0)
    options = ["--data", folder / "few_prepared", "--output", folder, "--runs", folder, "--num-epochs", 1]
    run("coin_classifier_custom.py", *options, *network_options(**architecture), "--device", DEVICE)


if __name__ == "__main__":
    main()
