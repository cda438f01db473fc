"""Grade coins from photos with a trained network: photo.jpg -> its grade, the confidence, and the top 3

    python predict.py photo.jpg
    python predict.py photo.jpg --heatmap why.png           where the network saw what speaks for the grade
    python predict.py photos/ "more/*.jpg"                  folders and patterns: a line for each photo
    python predict.py photos/ --csv grades.csv              the same, and a table
    python predict.py photos/ --json > grades.jsonl         a line of JSON for each photo
    python predict.py photo.jpg --checkpoint a.pth b.pth    the mean of several networks

A note says where a photo is not like that of a coin (not 2:1, small, blank) and, with --min-confidence, where the
network is unsure. A photo that cannot be read is named, the others are graded all the same, and the exit status is 1.
"""

import argparse
import csv
import glob
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from coin_classifier_custom import BEST, build_model
from coinkit.checkpoints import load_checkpoint
from coinkit.cli import ArgumentParser, UserError, printable, run
from coinkit.dataset import normalise, to_tensor
from coinkit.devices import find_device
from coinkit.files import atomic_write
from coinkit.inference import TTA_VIEWS, Network, grade_photos
from coinkit.photos import SUFFIXES, PhotoError, find_photos, open_photo

TOP_K = 3
HEATMAP_WIDTH = 1024  # pixels


class Prediction(NamedTuple):
    """What there is to say of a photo."""

    photo: Path
    top: list[tuple[str, float]]  # grades and their probabilities, the likeliest first
    note: str


def main() -> int:
    """Run the command; the exit status is 1 if a photo could not be read."""
    args = parse_arguments()
    paths = find_inputs(args.photos)
    heatmap_of = name_heatmaps(args.heatmap, paths) if args.heatmap else {}
    device = find_device(args.device)
    networks, classes = load_networks(args.checkpoint, device)
    top_k = min(args.top_k, len(classes))
    if args.json:
        describe = format_json
    elif len(paths) == 1:
        describe = format_text
    else:
        describe = partial(
            format_line, width=max(len(printable(path)) for path in paths), grade_width=max(map(len, classes))
        )

    unread = 0
    with csv_table(args.csv, top_k) as table:
        graded = grade_photos(networks, paths, args.tta, device)
        for path, result in tqdm(graded, total=len(paths), unit="photo", leave=False, disable=len(paths) == 1 or None):
            if isinstance(result, PhotoError):
                tqdm.write(f"{printable(path)}: {result}", file=sys.stderr)
                unread += 1
                continue
            probabilities, notes = result
            confidences, indices = (values.tolist() for values in probabilities.topk(top_k))
            if confidences[0] < args.min_confidence:
                notes.append("unsure")
            top = [(classes[index], round(value, 6)) for index, value in zip(indices, confidences, strict=True)]
            verdict = Prediction(path, top, ", ".join(notes))
            tqdm.write(describe(verdict))
            if table:
                table.writerow(format_row(verdict))
            if heatmap_of:
                write_heatmap(networks[0].model, path, indices[0], heatmap_of[path], device)
    return 1 if unread else 0


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line, checked."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO", help="files, folders of photos, or patterns such as 'photos/*.jpg'")
    add(
        "--checkpoint",
        nargs="+",
        default=[BEST],
        metavar="FILE.pth",
        help="trained by coin_classifier_custom.py; of several, the mean is taken",
    )
    add("--tta", action="store_true", help=f"see each photo {1 + len(TTA_VIEWS)} times, turned and shifted a little")
    add("--top-k", type=int, default=TOP_K, help="how many grades to name")
    add("--min-confidence", type=float, default=0, metavar="SHARE", help="below this, 0 to 1, a note says unsure")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--json", action="store_true", help="print a line of JSON for each photo")
    add("--csv", type=Path, metavar="FILE.csv", help="write a table with a row for each photo")
    add("--heatmap", type=Path, metavar="FILE.png", help="picture of what decided; for several photos, a folder")
    args = parser.parse_args()

    # After --checkpoint, only the names tell where the checkpoints end and the photos begin.
    first, *more = args.checkpoint
    args.checkpoint = [Path(first), *(Path(name) for name in more if name.endswith(".pth"))]
    args.photos += [name for name in more if not name.endswith(".pth")]
    if not args.photos:
        parser.error("name a photo, a folder, or a pattern")
    parser.check_minimum(args, 1, "top_k")
    if not 0 <= args.min_confidence <= 1:
        parser.error("--min-confidence must be between 0 and 1")
    if args.csv and args.csv.suffix.lower() != ".csv":  # it might be a photo, to be written over
        parser.error("--csv: give a name that ends in .csv")
    if args.heatmap and args.heatmap.suffix.lower() in SUFFIXES - {".png"}:
        parser.error("--heatmap: give a name that ends in .png, or a folder")
    if args.heatmap and len(args.checkpoint) > 1:
        parser.error("--heatmap shows what one network saw: give one --checkpoint")
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


def name_heatmaps(target: Path, paths: list[Path]) -> dict[Path, Path]:
    """Return the file for each photo's heatmap: the target, or one in it that lies there as the photo does in its own.

    Raises:
        UserError: the target is one file for several photos, or a heatmap would replace a photo.
    """
    photos = [Path(os.path.abspath(path)) for path in paths]
    if target.suffix.lower() == ".png":
        if len(paths) > 1:
            raise UserError(f"--heatmap {target} is one file, but there are {len(paths)} photos: name a folder.")
        files = [target]
    else:
        try:
            root = os.path.commonpath([photo.parent for photo in photos])
        except ValueError:
            raise UserError("--heatmap: the photos are on several drives; take them one drive at a time.") from None
        files = [target / f"{photo.relative_to(root)}.png" for photo in photos]
    if replaced := {Path(os.path.abspath(file)) for file in files} & set(photos):
        raise UserError(f"--heatmap would replace the photo {replaced.pop()}: name another file or folder.")
    return dict(zip(paths, files, strict=True))


def load_networks(paths: list[Path], device: torch.device) -> tuple[list[Network], list[str]]:
    """Return the networks of checkpoints, and the grades that they all know.

    Raises:
        UserError: a checkpoint cannot be used, or knows other grades than the first.
    """
    networks, classes = [], []
    for path in paths:
        checkpoint = load_checkpoint(path)
        classes = classes or checkpoint["classes"]
        if checkpoint["classes"] != classes:
            raise UserError(f"{path} has other grades than {paths[0]}: average checkpoints of the same grades.")
        model = build_model(checkpoint, path).to(device)
        networks.append(Network(model, checkpoint["temperature"]))
    return networks, classes


def format_text(verdict: Prediction) -> str:
    """Return what is said of one photo to people."""
    grade, confidence = verdict.top[0]
    lines = [f"Predicted Grade: {grade}", f"Confidence: {confidence:.2%}", ""]
    lines += [f"Top {len(verdict.top)} Prediction{'s' if len(verdict.top) > 1 else ''}:"]
    lines += [f"  {grade}: {confidence:.2%}" for grade, confidence in verdict.top]
    return "\n".join(lines + (["", f"Note: {verdict.note}"] if verdict.note else []))


def format_line(verdict: Prediction, width: int, grade_width: int) -> str:
    """Return what is said of one of many photos to people; its path and grade get columns of these widths."""
    grade, confidence = verdict.top[0]
    return f"{printable(verdict.photo):{width}}  {grade:{grade_width}}  {confidence:7.2%}  {verdict.note}".rstrip()


def format_json(verdict: Prediction) -> str:
    """Return what is said of a photo to programs."""
    grades = [{"grade": grade, "confidence": confidence} for grade, confidence in verdict.top]
    return json.dumps({"photo": str(verdict.photo), **grades[0], "note": verdict.note, "top": grades})


def format_row(verdict: Prediction) -> list:
    """Return what is said of a photo to spreadsheets."""
    best, *others = verdict.top
    return [verdict.photo, *best, verdict.note, *chain(*others)]


@contextmanager
def csv_table(path: Path | None, top_k: int) -> Iterator[Any]:
    """Yield a CSV writer for `format_row`, whose file is there at the end; None without a path."""
    if path is None:
        yield None
        return
    # Names of files that are not valid Unicode stay as they are.
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        others = [f"{column}_{rank}" for rank in range(2, top_k + 1) for column in ("grade", "confidence")]
        table.writerow(["photo", "grade", "confidence", "note", *others])
        yield table


def write_heatmap(model: nn.Module, path: Path, grade: int, target: Path, device: torch.device) -> None:
    """Write the photo as a PNG file, with what speaks for a grade, an index into the classes, laid over it."""
    from coinkit.figures import overlay
    from coinkit.heatmaps import heatmaps

    seen = to_tensor(open_photo(path, model.image_width, model.image_height)[0])
    heat = heatmaps(model, normalise(seen[None].to(device)), torch.tensor([grade], device=device))
    height = HEATMAP_WIDTH * model.image_height // model.image_width
    heat = F.interpolate(heat[None], (height, HEATMAP_WIDTH), mode="bilinear")[0, 0].cpu().numpy()
    picture = overlay(np.asarray(open_photo(path, HEATMAP_WIDTH, height)[0]), heat)
    with atomic_write(target) as part:
        Image.fromarray(picture).save(part, "PNG")


if __name__ == "__main__":
    run(main)
