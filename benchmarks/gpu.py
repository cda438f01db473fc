"""The default network on a GPU: how fast it trains, one full training with its test, and checks that need a GPU

    python -m benchmarks.gpu --data coin_dataset                        takes up to 8 minutes
    python -m benchmarks.gpu --data coin_dataset --device cpu --width 4 --image-width 64 --image-height 32 \\
        --max-batch-size 8 --num-epochs 1                               to try this script without a GPU

Not yet run on a GPU: so far only its small form on a CPU, which leaves out the test of running out of memory.

For one GPU, without network access, with PyTorch 2.11 and torchvision 0.26 or newer, on Linux. The dataset is one of
prepare_dataset.py, made with --size 512 256. Three parts:

1. Speed: photos/s for batches of 4, 8, 16, ... until one is out of memory, or a quarter of the time is over. "Training"
   is what an epoch does after the first: take decoded photos from memory, copy them to the GPU, augment them, take the
   step. "Step" has the photos on the GPU already. The share is that of a large matrix product's rate.
2. One full training with its test; it is stopped if time runs out.
3. Checks on a few photos: stop and resume, fp16, and running out of memory, for which this process fills the GPU.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

import coin_classifier_custom as coin
from benchmarks.timing import ROOT, network_options
from benchmarks.training_step import (
    flop_per_photo,
    make_trainer,
    matrix_product_rate,
    read_batch,
    seconds,
    seconds_of_steps,
)
from coinkit.cli import keep_freed_memory
from coinkit.dataset import read_batches
from coinkit.devices import choose_dtype, find_device
from coinkit.files import link_or_copy

STEPS = 10  # for each batch size
PEAKS = 5  # measurements of the matrix product, after one to warm up
SPEED_SHARE = 0.25  # of the time, after which no larger batch is tried
CHECK_PHOTOS = {"train": 16, "val": 4}  # of each grade
CHECK_EPOCHS = 4
CHECK_SECONDS = 100  # that the full training leaves for the checks
FREE_BYTES = 8 * 1024**3  # GPU memory left for the check that runs out of it: enough for a few photos at once,
LARGE_BATCH = 64  # but not for so many
OUT_OF_MEMORY = "Out of memory: now"  # what a training says then


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="dataset that prepare_dataset.py has made")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8, help="for everything")
    parser.add_argument("--max-batch-size", type=int, default=512, help="the largest to try")
    parser.add_argument("--num-epochs", type=int, default=coin.NUM_EPOCHS, help="of the full training")
    parser.add_argument("--batch-size", type=int, default=coin.BATCH_SIZE, help="of the full training")
    parser.add_argument("--image-width", type=int, default=coin.IMAGE_WIDTH)
    parser.add_argument("--image-height", type=int, default=coin.IMAGE_HEIGHT)
    parser.add_argument("--width", type=int, default=coin.CHANNELS[0], help="channels of the first block")
    args = parser.parse_args()
    device = find_device(args.device)
    options = [*network_options(args.image_width, args.image_height, args.width), "--device", args.device]
    started, budget = time.perf_counter(), 60 * args.minutes
    keep_freed_memory()
    print(f"{device_name(device)}, PyTorch {torch.__version__}")

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measure_speed(args, options, device, folder, deadline=started + SPEED_SHARE * budget)
        torch.cuda.empty_cache()  # so that the processes that follow have all of the GPU's memory
        full = ["--num-epochs", args.num_epochs, "--batch-size", args.batch_size]
        training = command(args.data, folder / "full", [*options, *full])
        finished = train_fully(training, deadline=started + budget - CHECK_SECONDS)
        passed = run_checks(args.data, options, device, folder)
    print(f"\nAll took {time.perf_counter() - started:.0f} s.")
    sys.exit(0 if passed and finished else 1)


def device_name(device: torch.device) -> str:
    """Return what a device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


# ---------------------------------------------------------------- speed


def measure_speed(
    args: argparse.Namespace, options: list[object], device: torch.device, folder: Path, deadline: float
) -> None:
    """Print a table of photos/s, a row for each batch size."""
    dtype = choose_dtype("auto", device)
    peak = median([matrix_product_rate(device, dtype) for _ in range(PEAKS + 1)][1:])
    precision = str(dtype).removeprefix("torch.")
    print(f"A large matrix product in {precision}: {peak / 1e12:.3g} TFLOP/s\n")
    print(f"| {args.image_width}x{args.image_height}, batch size | training, photos/s | step, photos/s | ", end="")
    print("share of a matrix product's rate | GPU memory, GB |")
    print("| --- " * 5 + "|")
    batch_size = min(coin.BATCH_SIZE, args.max_batch_size)
    while batch_size <= args.max_batch_size and time.perf_counter() < deadline:
        row = measure_batch_size(args.data, [*options, "--batch-size", batch_size], folder, peak)
        print(f"| {batch_size} | {row or 'out of memory | | |'} |", flush=True)
        if not row:
            break
        batch_size *= 2


def measure_batch_size(data: Path, options: list[object], folder: Path, peak: float) -> str | None:
    """Return the cells of a row of the table of speed; None if the memory is not enough."""
    trainer = make_trainer(data, folder, options)
    device, batch_size = trainer.device, trainer.args.batch_size
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of the batch size before
        torch.cuda.reset_peak_memory_stats(device)
    order = torch.arange(STEPS * batch_size) % len(trainer.train.paths)

    def train() -> None:
        for photos, indices in read_batches(trainer.train.paths, order, batch_size, trainer.read_photo, trainer.pool):
            trainer.train_step(photos, indices, len(photos))

    train()  # to warm up, and to decode the photos
    training_rate = len(order) / seconds(train, device)
    photos, indices = read_batch(trainer)
    step_rate = STEPS * batch_size / seconds_of_steps(trainer, photos, indices, STEPS)
    if trainer.progress.halvings:  # the trainer ran out of memory and went on with smaller parts
        return None
    memory = f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f}" if device.type == "cuda" else ""
    share = flop_per_photo(trainer, photos) * step_rate / peak
    return f"{training_rate:.3g} | {step_rate:.3g} | {share:.0%} | {memory}"


# ---------------------------------------------------------------- one full training


def train_fully(training: list[str], deadline: float) -> bool:
    """Train and test, with all output shown; stop at the deadline. Return whether it got to its end."""
    print("\nThe full training:", flush=True)
    started = time.perf_counter()
    process = subprocess.Popen(training)
    try:
        process.wait(max(0, deadline - started))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
        print("Stopped, since the time is over; --minutes gives more.")
    print(f"The full training took {time.perf_counter() - started:.0f} s.")
    return process.returncode == 0


# ---------------------------------------------------------------- checks


def run_checks(data: Path, options: list[object], device: torch.device, folder: Path) -> bool:
    """Run the checks, each in its own process, and print their results; return whether all passed."""
    few = few_photos(data, folder / "few")
    checks = {"stop and resume": check_resume, "fp16": check_fp16}
    if device.type == "cuda":
        checks["out of memory"] = check_out_of_memory
    else:
        print("\nout of memory: not checked, since only a GPU can be filled")
    passed = True
    for name, check in checks.items():
        started = time.perf_counter()
        problem = check(command(few, folder / name.replace(" ", "_"), options))
        passed = passed and not problem
        result = f"FAILED, {problem}" if problem else "passed"
        print(f"\n{name}: {result} ({time.perf_counter() - started:.0f} s)", flush=True)
    return passed


def few_photos(data: Path, folder: Path) -> Path:
    """Make a dataset of a few photos of another one, without a test split, which would cost time."""
    for split, count in CHECK_PHOTOS.items():
        for grade in (data / split).iterdir():
            (folder / split / grade.name).mkdir(parents=True)
            for photo in sorted(grade.iterdir())[:count]:
                link_or_copy(photo, folder / split / grade.name / photo.name)
    return folder


def command(data: Path, output: Path, options: list[object]) -> list[str]:
    """Return the command of a training."""
    files = ["--data", data, "--output", output, "--runs", output]
    output.mkdir()
    return list(map(str, [sys.executable, "-u", ROOT / "coin_classifier_custom.py", *files, *options]))


def check_resume(training: list[str]) -> str:
    """Stop a training by Ctrl-C after its first epoch and resume it; return what went wrong, or ""."""
    training = [*training, "--num-epochs", str(CHECK_EPOCHS)]
    process = subprocess.Popen(training, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("Epoch 1/"):
            process.send_signal(signal.SIGINT)
    if process.wait() != 130:
        return f"stopping it ended with status {process.returncode}"
    return expect(subprocess.run([*training, "--resume"], stdout=subprocess.PIPE, text=True), "Going on after step")


def check_fp16(training: list[str]) -> str:
    """Train in fp16, which needs a gradient scaler; return what went wrong, or ""."""
    training = [*training, "--num-epochs", "2", "--precision", "fp16"]
    return expect(subprocess.run(training, stdout=subprocess.PIPE, text=True), "float16")


def check_out_of_memory(training: list[str]) -> str:
    """Train with too large a batch while this process fills the GPU's memory; return what went wrong, or ""."""
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(0, free - FREE_BYTES), dtype=torch.uint8, device="cuda")
    training = [*training, "--num-epochs", "1", "--batch-size", str(LARGE_BATCH)]
    result = subprocess.run(training, stdout=subprocess.PIPE, text=True)
    del held
    torch.cuda.empty_cache()
    return expect(result, OUT_OF_MEMORY)


def expect(result: subprocess.CompletedProcess, words: str) -> str:
    """Return what is wrong with a training that should have ended well, with finite losses and these words; or ""."""
    if result.returncode:
        return f"the training ended with status {result.returncode}"
    if words not in result.stdout:
        return f"the training did not say {words!r}"
    if " nan" in result.stdout:
        return "a loss is not finite"
    return ""


if __name__ == "__main__":
    main()
