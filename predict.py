"""Grade coins from photos with a trained network: photo.jpg -> its grade, the confidence, and the top 3

    python predict.py photo.jpg
    python predict.py photo.jpg --heatmap why.png           and a heatmap of what spoke for the grade
    python predict.py photo.jpg --classes five              single grades, and the wider class (docs/classes.md)
    python predict.py --faces front.jpg back.jpg            a coin with a photo of each face, which is cut out
    python predict.py photos/ "more/*.jpg"                  folders and patterns: a line for each photo
    python predict.py photos/ --csv grades.csv              the same, and a table
    python predict.py photos/ --html grades.html            the same, and a page with the photos, the least sure first
    python predict.py photos/ --json > grades.jsonl         a line of JSON for each photo
    python predict.py photo.jpg --checkpoint a.pth b.pth    the mean of several networks

A note marks a photo that does not look like one of both faces of a coin (not twice as wide as high, small, blank), and
a grade that the network is unsure of. Two photos with the same name in folders obverse/ and reverse/ are one coin. A
photo that cannot be read, or has no partner, gets no grade, but the reason, and the exit status is then 1.
"""

if __name__ == "__main__":
    import coinkit.quiet_start  # noqa: F401

import argparse
import glob
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from coin_classifier_custom import BEST  # the module also adds its network to BACKBONES
from coinkit.classes import Bands, bands_of
from coinkit.cli import ArgumentParser, UserError, discard_output, home_path, is_closed_pipe, printable, run
from coinkit.dataset import to_tensor
from coinkit.devices import find_device
from coinkit.faces import Faces, files_of, find_coins, first_file, open_coin
from coinkit.files import atomic_write, is_system_file, short_name
from coinkit.inference import TTA_VIEWS, UNSURE_BELOW, grade_photos, load_networks
from coinkit.photos import ONE_FACE, SUFFIXES, PhotoError, find_photos
from coinkit.tables import table_writer

TOP_K = 3
HEATMAP_WIDTH = 1024  # pixels


class Prediction(NamedTuple):
    """The grade of one photo; the format_ functions below write it."""

    photo: Path | Faces
    top: list[tuple[str, float]]  # the likeliest grades and their probabilities, the likeliest first
    band: tuple[str, float] | None  # the likeliest band; None if it is not to be told
    note: str  # "" if there is nothing to note


def main() -> int:
    """Run the command. The exit status is 1 if a photo could not be read."""
    args = parse_arguments()
    coins, alone = find_coins(find_inputs(args.photos), args.cut, args.faces)
    paths = list(dict.fromkeys(coins))
    heatmap_of = heatmap_paths(args.heatmap, paths) if args.heatmap and paths else {}
    networks, classes = load_networks(args.checkpoint, find_device(args.device))
    top_k = min(args.top_k, len(classes))
    bands = bands_of(classes, args.classes)
    thresholds = [args.min_confidence] * 2  # of the grade, and of the band
    if args.min_confidence is None:  # what validation says; of several networks, the mean
        thresholds = [mean(network.unsure_below for network in networks), UNSURE_BELOW]
        if args.classes in (None, "bands"):
            thresholds[1] = mean(network.unsure_band_below for network in networks)

    def tell(line: str) -> None:
        try:
            tqdm.write(line)
        except OSError as error:
            if not is_closed_pipe(error) or not (args.csv or args.html or args.heatmap):
                raise
            discard_output()  # the files are wanted all the same

    if args.json:
        format_prediction = format_json
    elif len(paths) <= 1:
        format_prediction = partial(format_text, explained=bands.explained)
    else:
        widths = max(len(printable(path)) for path in paths), max(map(len, [*classes, "grade"]))
        format_prediction = partial(format_line, widths=widths)
        if bands.explained:
            tqdm.write(bands.explained, file=sys.stderr)
        if bands.tell:  # of two answers in a line, it is told which is which
            tell(pad_line("photo", [("grade", "confidence"), ("band", "confidence")], "note", widths))

    shown, ungraded, heatmaps_missing = [], {}, 0
    results = chain(alone.items(), grade_photos(networks, paths, args.tta))
    count = len(alone) + len(paths)
    with csv_table(args.csv, top_k, bands) if args.csv else nullcontext() as table:
        for path, result in tqdm(results, total=count, unit="photo", leave=False, disable=count == 1 or None):
            if isinstance(result, str | PhotoError):  # why it has no grade
                tqdm.write(f"{printable(path)}: {result}", file=sys.stderr)
                ungraded[path] = result
                if table:
                    table.writerow([path, "", "", result])
                continue
            prediction = make_prediction(path, *result, classes, bands, top_k, *thresholds)
            tell(format_prediction(prediction))
            if table:
                table.writerow(format_row(prediction))
            if args.heatmap:
                label = classes.index(prediction.top[0][0])
                try:
                    write_heatmap(networks[0].model, path, label, heatmap_of[path])
                except PhotoError as error:
                    tqdm.write(f"No heatmap of {printable(path)}: {error}", file=sys.stderr)
                    heatmaps_missing += 1
            if args.html:
                shown.append((path, result[0].numpy(), prediction.note))
    if args.html:
        from coinkit.review import write_grades

        write_grades(shown, ungraded, classes, bands, networks[0].model, args.checkpoint, args.html)
    incomplete = bool(ungraded or heatmaps_missing)
    heatmap = None if incomplete else args.heatmap
    for what, path in {"table": args.csv, "page": args.html, "heatmap": heatmap}.items():
        if path:
            tqdm.write(f"The {what} is in {path}.", file=sys.stderr)
    return int(incomplete)


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line, checked. To add one, add it here and use it in `main`."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO", help="files, folders of photos, or patterns such as 'photos/*.jpg'")
    face_help = "the photos of a coin's obverse and reverse; may be repeated"
    add("--faces", nargs=2, type=Path, action="append", default=[], metavar=("OBVERSE", "REVERSE"), help=face_help)
    add(
        "--cut", action="store_true", help="cut the coins out of photos of both faces, as prepare_dataset.py --cut does"
    )
    checkpoint_help = "of one network, or of several to average"
    add("--checkpoint", nargs="+", default=[BEST], metavar="FILE.pth", help=checkpoint_help)
    add("--tta", action="store_true", help=f"average over {1 + len(TTA_VIEWS)} views: turned and shifted a little")
    add("--top-k", type=int, default=TOP_K, help="how many grades to show")
    unsure_help = "below this, 0 to 1, the note says unsure (default: where a grade is more often wrong than right)"
    add("--min-confidence", type=float, metavar="SHARE", help=unsure_help)
    classes_help = "name also the class that joins grades, as prepare_dataset.py --classes does (default: bands)"
    add("--classes", metavar="bands|five|FILE.csv", help=classes_help)
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--json", action="store_true", help="print a line of JSON for each photo")
    add("--csv", type=Path, metavar="FILE.csv", help="write a table with a row for each photo")
    add("--html", type=Path, metavar="FILE.html", help="write a page with the photos, the least sure first")
    add("--heatmap", type=Path, metavar="FILE.png", help="write a heatmap; for several photos, a folder of them")
    args = parser.parse_args()

    # argparse takes photos that follow --checkpoint for checkpoints; only the suffix tells them apart.
    first, *more = args.checkpoint
    args.checkpoint = [home_path(first), *(home_path(name) for name in more if name.endswith(".pth"))]
    args.photos += [name for name in more if not name.endswith(".pth")]
    if not args.photos and not args.faces:
        parser.error("name a photo, a folder, or a pattern")
    parser.check_minimum(args, 1, "top_k")
    if args.min_confidence is not None and not 0 <= args.min_confidence <= 1:
        parser.error("--min-confidence must be between 0 and 1")
    if any(face.is_dir() for pair in args.faces for face in pair):
        parser.error("--faces takes two photos; without it, give the folder that has obverse/ and reverse/")
    if args.csv and args.csv.suffix.lower() != ".csv":  # a photo, for example, which would be overwritten
        parser.error("--csv: give a name that ends in .csv")
    if args.html and args.html.suffix.lower() != ".html":
        parser.error("--html: give a name that ends in .html")
    if args.heatmap and args.heatmap.suffix.lower() in SUFFIXES - {".png"}:
        parser.error("--heatmap: give a name that ends in .png, or a folder")
    if args.heatmap and len(args.checkpoint) > 1:
        parser.error("--heatmap is of one network: give one --checkpoint")
    return args


def find_inputs(names: list[str]) -> list[Path]:
    """Return the photos that names of files, folders and patterns stand for, each once."""
    paths = []
    for name in map(os.path.expanduser, names):
        path = Path(name)
        matches = [path] if os.path.lexists(name) or not glob.has_magic(name) else expand_pattern(path)
        found = chain(*(find_photos(match, recursive=True) if os.path.isdir(match) else [match] for match in matches))
        paths += list(found) or matches or [path]  # without photos, these are reported later
    return list(dict.fromkeys(paths))


def expand_pattern(pattern: Path) -> list[Path]:
    """Return the files that a pattern such as photos/*.jpg matches, sorted, without those of the system.

    Brackets in the name of an existing folder are taken literally.
    """
    base = next(parent for parent in pattern.parents if os.path.isdir(parent) or parent == parent.parent)
    matches = glob.glob(str(pattern.relative_to(base)), root_dir=base, recursive=True)
    return [base / match for match in sorted(matches) if not any(map(is_system_file, Path(match).parts))]


def make_prediction(
    path: Path | Faces,
    probabilities: torch.Tensor,
    notes: list[str],
    classes: list[str],
    bands: Bands,
    top_k: int,
    min_confidence: float,
    min_band_confidence: float,
) -> Prediction:
    """Return the answer for a photo.

    Args:
        path: of the photo.
        probabilities: of the grades, (classes,).
        notes: on the photo.
        classes: the names of the grades.
        bands: that they are in.
        top_k: how many grades to name.
        min_confidence, min_band_confidence: below these it is unsure of the grade, or of the band.
    """
    confidences, labels = (values.tolist() for values in probabilities.topk(top_k))
    top = [(classes[label], round(value, 6)) for label, value in zip(labels, confidences, strict=True)]
    band = bands.likeliest(probabilities.numpy())
    notes = [f"{note} (give both with --faces)" if note == ONE_FACE else note for note in notes]
    if confidences[0] < min_confidence:
        notes.append("unsure of the grade" if band else "unsure")
    if band and confidences[0] < band[1] < min_band_confidence:  # a band with one grade only is as sure as that
        notes.append("unsure of the band")
    if band and bands.of_class(labels[0]) != band[0]:
        notes.append("another band is likelier than that of the grade")
    return Prediction(path, top, band, "; ".join(notes))


def heatmap_paths(target: Path, paths: list[Path | Faces]) -> dict[Path | Faces, Path]:
    """Return where to write the heatmap of each photo.

    That is the target if it is a PNG file. Otherwise the target is a folder, with subfolders like those of the photos.

    Raises:
        UserError: the target is one file for several photos, or a heatmap would replace a photo or another heatmap.
    """
    photos = [Path(os.path.abspath(first_file(path))) for path in paths]
    if target.suffix.lower() == ".png":
        if len(paths) > 1:
            raise UserError(f"--heatmap {target} is one file, but there are {len(paths)} photos: name a folder.")
        files = [target]
    elif target.exists() and not target.is_dir():
        raise UserError(f"--heatmap {target} is not a folder: choose another name.")
    else:
        try:
            root = os.path.commonpath([photo.parent for photo in photos])
        except ValueError:
            raise UserError("--heatmap: the photos are on several drives; grade one drive at a time.") from None
        files = [target / photo.relative_to(root).with_name(short_name(photo.name, ".png")) for photo in photos]
    inputs = chain(*map(files_of, paths))
    if replaced := set(map(os.path.realpath, files)) & set(map(os.path.realpath, inputs)):
        raise UserError(f"--heatmap would replace the photo {replaced.pop()}: name another file or folder.")
    if len(set(files)) < len(files):
        raise UserError("--heatmap: coins with the same obverse would have one heatmap; grade them one at a time.")
    return dict(zip(paths, files, strict=True))


def format_text(prediction: Prediction, explained: str) -> str:
    """Return the text for a single photo; `explained` says what the classes are, if that is not plain."""
    grade, confidence = prediction.top[0]
    lines = [f"Predicted Grade: {grade}", f"Confidence: {confidence:.2%}", ""]
    lines += [f"Top {len(prediction.top)} Prediction{'s' if len(prediction.top) > 1 else ''}:"]
    lines += [f"  {grade}: {confidence:.2%}" for grade, confidence in prediction.top]
    if prediction.band:
        lines += ["", "Band: {}: {:.2%}".format(*prediction.band)]
    if prediction.note:
        lines += ["", f"Note: {prediction.note}"]
    return "\n".join(lines + (["", explained] if explained else []))


def format_line(prediction: Prediction, widths: tuple[int, int]) -> str:
    """Return the line for one of many photos: path, grade, perhaps band, and note."""
    answers = filter(None, (prediction.top[0], prediction.band))
    answers = [(name, f"{confidence:.2%}") for name, confidence in answers]
    return pad_line(printable(prediction.photo), answers, prediction.note, widths)


def pad_line(photo: str, answers: list[tuple[str, str]], note: str, widths: tuple[int, int]) -> str:
    """Return a line of a table; the widths are those of the photo's path and of a grade."""
    cells = [f"{name:{widths[1]}}  {confidence:>10}" for name, confidence in answers]
    return "  ".join([f"{photo:{widths[0]}}", *cells, note]).rstrip()


def format_json(prediction: Prediction) -> str:
    """Return a line of JSON (--json)."""
    grades = [{"grade": grade, "confidence": confidence} for grade, confidence in prediction.top]
    band = dict(zip(("band", "band_confidence"), prediction.band, strict=True)) if prediction.band else {}
    return json.dumps({"photo": str(prediction.photo), **grades[0], **band, "note": prediction.note, "top": grades})


def format_row(prediction: Prediction) -> list:
    """Return a row for `csv_table` (--csv)."""
    best, *others = prediction.top
    return [prediction.photo, *best, prediction.note, *chain(*others), *(prediction.band or ())]


@contextmanager
def csv_table(path: Path, top_k: int, bands: Bands) -> Iterator[Any]:
    """Yield a CSV writer for rows of `format_row`; the file is there only when all rows are."""
    with atomic_write(path) as part, table_writer(part) as table:
        others = [f"{column}_{rank}" for rank in range(2, top_k + 1) for column in ("grade", "confidence")]
        band = ["band", "band_confidence"] if bands.tell else []
        table.writerow(["photo", "grade", "confidence", "note", *others, *band])
        yield table


def write_heatmap(model: nn.Module, path: Path | Faces, label: int, target: Path) -> None:
    """Write a photo as a PNG file, under a heatmap of what speaks for a grade, given by its index in the classes."""
    from coinkit.figures import overlay
    from coinkit.heatmaps import heatmaps

    photo = to_tensor(open_coin(path, model.image_width, model.image_height).photo)
    heatmap = heatmaps(model, photo[None], [label])
    height = HEATMAP_WIDTH * model.image_height // model.image_width
    heatmap = F.interpolate(heatmap[None], (height, HEATMAP_WIDTH), mode="bilinear")[0, 0].numpy()
    picture = overlay(np.asarray(open_coin(path, HEATMAP_WIDTH, height).photo), heatmap)
    with atomic_write(target) as part:
        Image.fromarray(picture).save(part, "PNG")


if __name__ == "__main__":
    run(main)
