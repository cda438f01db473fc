"""Grade coins from photos with a trained network: photo.jpg -> its grade, the confidence, and the top 3

    python predict.py photo.jpg
    python predict.py photos/ "more/*.jpg" --top-k 5        folders and patterns
    python predict.py photos/ --json > grades.jsonl         a line of JSON for each photo

A photo that cannot be read is named, the others are graded all the same, and the exit status is 1.
"""

import argparse
import glob
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from coin_classifier_custom import BEST, CoinClassifier, build_model, load_checkpoint
from coinkit.batches import normalise, to_tensor
from coinkit.cli import HelpFormatter, on_one_line, run, usable_cores
from coinkit.devices import find_device
from coinkit.photos import PhotoError, find_photos, map_ahead, open_photo

TOP_K = 3
BATCH_SIZE = 8


def main() -> int:
    """Run the command; the exit status is 1 if a photo could not be read."""
    args = parse_arguments()
    paths = find_inputs(args.photos)
    device = find_device(args.device)
    checkpoint = load_checkpoint(args.checkpoint)
    model = build_model(checkpoint, args.checkpoint).to(device)
    classes = checkpoint["classes"]

    unread = 0
    for path, result in predict(model, checkpoint["temperature"], paths, device):
        if isinstance(result, PhotoError):
            print(f"{on_one_line(path)}: {result}", file=sys.stderr)
            unread += 1
            continue
        confidences, indices = result.topk(min(args.top_k, len(classes)))
        top = [(classes[index], value) for index, value in zip(indices.tolist(), confidences.tolist(), strict=True)]
        if args.json:
            print_json(path, top)
        else:
            print_text(path if len(paths) > 1 else None, top)
    return 1 if unread else 0


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="files, folders of photos, or patterns such as 'photos/*.jpg'")
    add("--checkpoint", type=Path, default=Path(BEST), help="trained by coin_classifier_custom.py")
    add("--top-k", type=int, default=TOP_K, help="how many grades to name")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--json", action="store_true", help="print a line of JSON for each photo")
    args = parser.parse_args()
    if args.top_k < 1:
        parser.error("--top-k must be at least 1")
    return args


def find_inputs(names: list[str]) -> list[Path]:
    """Return the photos that files, folders and patterns name, each once."""
    paths = []
    for name in names:
        path = Path(name)
        if os.path.isdir(name):
            found = find_photos(path, recursive=True)
        elif os.path.exists(name) or not glob.has_magic(name):
            found = [path]
        else:  # a pattern that no shell has replaced
            found = sorted(Path(match) for match in glob.glob(name, recursive=True))
        paths += found or [path]  # what names no photo is told later, among those that cannot be read
    return list(dict.fromkeys(paths))


def predict(
    model: CoinClassifier, temperature: float, paths: list[Path], device: torch.device
) -> Iterator[tuple[Path, Tensor | PhotoError]]:
    """Yield each path with the probabilities of its grades, (classes,), or with why it cannot be read."""
    read = partial(read_photo, width=model.image_width, height=model.image_height)
    with ThreadPoolExecutor(usable_cores()) as pool, torch.inference_mode():
        photos = map_ahead(pool, read, paths, ahead=2 * BATCH_SIZE)
        for start in range(0, len(paths), BATCH_SIZE):
            batch = [(path, next(photos)) for path in paths[start : start + BATCH_SIZE]]
            readable = [photo for _, photo in batch if isinstance(photo, Tensor)]
            if readable:
                logits = model(normalise(torch.stack(readable).to(device)))
                probabilities = iter((logits / temperature).softmax(dim=1).cpu())
            for path, photo in batch:
                yield path, next(probabilities) if isinstance(photo, Tensor) else photo


def read_photo(path: Path, width: int, height: int) -> Tensor | PhotoError:
    """Return a photo, (3, height, width), uint8, or why it cannot be read."""
    try:
        return to_tensor(open_photo(path, width, height)[0])
    except PhotoError as error:
        return error


def print_text(path: Path | None, top: list[tuple[str, float]]) -> None:
    """Print the grades of a photo for people, the likeliest first; its path only where there are several photos."""
    if path:
        print(on_one_line(path))
    grade, confidence = top[0]
    print(f"Predicted Grade: {grade}")
    print(f"Confidence: {confidence:.2%}")
    print(f"\nTop {len(top)} Prediction{'s' if len(top) > 1 else ''}:")
    for grade, confidence in top:
        print(f"  {grade}: {confidence:.2%}")
    if path:
        print()


def print_json(path: Path, top: list[tuple[str, float]]) -> None:
    """Print the grades of a photo for programs, the likeliest first."""
    grades = [{"grade": grade, "confidence": round(confidence, 6)} for grade, confidence in top]
    print(json.dumps({"photo": str(path), **grades[0], "top": grades}))


if __name__ == "__main__":
    run(main)
