"""Tell what a trained network is worth: labelled photos -> scores with 95 % intervals, and report/index.html

    python evaluate.py                                  the test split of coin_dataset
    python evaluate.py --split val                      another split
    python evaluate.py --data images                    photos as prepare_dataset.py takes them
    python evaluate.py --data more --output report2     any folder with a folder of photos for each grade
    python evaluate.py --checkpoint a.pth b.pth         the mean of several networks; heatmaps show what the first saw

Scores on photos that the network has learned from tell nothing: images/ holds them too. A photo that cannot be read is
named, the others are scored all the same, and the exit status is 1.
"""

import argparse
import sys
from pathlib import Path

import torch

from coin_classifier_custom import BEST
from coinkit.checkpoints import damage_as_user_error, load_checkpoint
from coinkit.cli import ArgumentParser, UserError, run
from coinkit.dataset import Split, describe_changes, find_split, fingerprint
from coinkit.devices import find_device
from coinkit.grades import class_name
from coinkit.photos import DATASET, PHOTO_FOLDER, SPLITS, find_photos
from coinkit.report import MEASURES, Evaluation, check_report, evaluate, format_estimate, write_report
from predict import load_networks

OUTPUT = Path("report")


def main() -> int:
    """Run the command; the exit status is 1 if a photo could not be read."""
    args = parse_arguments()
    check_report(args.output)
    folder = find_folder(args.data, args.split)
    device = find_device(args.device)
    networks, classes = load_networks(args.checkpoint, device)
    if folder != args.data:
        warn_of_learned(args.data, folder, args.checkpoint, classes)
    evaluation = evaluate(networks, classes, find_labelled(folder, classes), device)
    print_score(evaluation)
    about = {"checkpoint": ", ".join(map(str, args.checkpoint)), "data": str(folder)}
    write_report(evaluation, networks[0].model, device, about, args.output)
    print(f"\nThe report is in {args.output / 'index.html'}.")
    return 1 if evaluation.unread else 0


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        default=DATASET,
        help=f"a dataset, or <grade>/ or <grade>/{PHOTO_FOLDER}/ folders of photos",
    )
    add("--split", choices=SPLITS, help="of a dataset (default: test)")
    add(
        "--checkpoint",
        type=Path,
        nargs="+",
        default=[Path(BEST)],
        metavar="FILE.pth",
        help="trained by coin_classifier_custom.py; of several, the mean is taken",
    )
    add("--output", type=Path, default=OUTPUT, help="folder for the report")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    return parser.parse_args()


def find_folder(data: Path, split: str | None) -> Path:
    """Return the folder with the folders of grades: that of a split if `data` is a dataset, or else `data` itself.

    Raises:
        UserError: there is none.
    """
    is_dataset = any((data / name).is_dir() for name in SPLITS)
    folder = data / (split or "test") if is_dataset or split else data
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: run python prepare_dataset.py first, or name another one with --data.")
    return folder


def warn_of_learned(dataset: Path, folder: Path, checkpoints: list[Path], classes: list[str]) -> None:
    """Warn that networks may have learned photos of a split, if they were not trained on its dataset as it is now."""
    now = {"train": fingerprint(find_split(dataset / "train", classes), classes)}
    for path in checkpoints:
        checkpoint = load_checkpoint(path)
        if "dataset" in checkpoint:  # not in one that export.py has made
            with damage_as_user_error(path):
                changes = describe_changes(checkpoint["dataset"], now)
            if changes:
                print(
                    f"Warning: {path} was not trained on {dataset} as it is now: {changes}. "
                    f"If it has learned photos of {folder}, these scores are too good.",
                    file=sys.stderr,
                )


def find_labelled(folder: Path, classes: list[str]) -> Split:
    """Return the photos of the grades that the model knows; the other grades are named.

    Raises:
        UserError: there are none.
    """
    photos = []
    for grade_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        names = (grade_folder.name, class_name(grade_folder.name, keep_variants=True), class_name(grade_folder.name))
        label = next((classes.index(name) for name in names if name in classes), None)
        below = [folder for folder in grade_folder.iterdir() if folder.is_dir() and folder.name.lower() == PHOTO_FOLDER]
        found = find_photos((below or [grade_folder])[0])
        if label is not None:
            photos += [(path, label) for path in found]
        elif found:
            print(f"{grade_folder}: the model does not know this grade; {len(found)} photos left out", file=sys.stderr)
    if not photos:
        known = ", ".join(classes)
        raise UserError(f"no photo in {folder}/<grade>/ or {folder}/<grade>/{PHOTO_FOLDER}/ for a grade of {known}.")
    return Split([path for path, _ in photos], torch.tensor([label for _, label in photos]))


def print_score(evaluation: Evaluation) -> None:
    """Print the values of the score and of each grade, with their intervals."""
    print(f"{len(evaluation.paths)} photos of {len(evaluation.classes)} grades\n")
    print(f"{'':28}{'value':>8}   95 % interval")
    for key, measure in MEASURES.items():
        value, interval = format_estimate(evaluation.score[key], measure.format)
        print(f"{measure.name:28}{value:>8}   {interval}")
    width = max(map(len, [*evaluation.classes, "grade"]))
    print(f"\n{'grade':{width}}  photos   recall   95 % interval   precision   95 % interval")
    for name, grade in evaluation.grades.items():
        (recall, recall_interval), (precision, interval) = (
            format_estimate(grade.recall, ".0%"),
            format_estimate(grade.precision, ".0%"),
        )
        print(f"{name:{width}}  {grade.count:6}   {recall:>6}   {recall_interval:13}   {precision:>9}   {interval}")


if __name__ == "__main__":
    run(main)
