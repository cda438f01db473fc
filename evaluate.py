"""Measure how well a trained network grades labelled photos: metrics with 95 % intervals, and report/index.html

    python evaluate.py                                  the test split of coin_dataset
    python evaluate.py --split val                      another split
    python evaluate.py --data more --output report2     other photos, in a folder for each grade
    python evaluate.py --data more --cut                the coins cut out, as prepare_dataset.py --cut does
    python evaluate.py --classes five                   single grades, tested in wider classes (docs/classes.md)
    python evaluate.py --checkpoint a.pth b.pth         the mean of several networks; heatmaps are of the first
    python evaluate.py --checkpoint a.pth --against b.pth    which of two networks is better

Metrics on photos that the network was trained on are too good, so a line says how many there are. A photo that cannot
be read, or has no partner, is named and left out, and the exit status is then 1.
"""

if __name__ == "__main__":
    import coinkit.quiet_start  # noqa: F401

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from coin_classifier_custom import BEST  # the module also adds its network to BACKBONES
from coinkit.checkpoints import damage_as_user_error, load_checkpoint
from coinkit.classes import JOINED, Bands, bands_of, choose_classes, joined_by
from coinkit.cli import ArgumentParser, UserError, printable, run
from coinkit.comparison import Comparison
from coinkit.dataset import Split, find_split, split_folder
from coinkit.dataset_report import print_unused
from coinkit.devices import find_device
from coinkit.faces import find_coins, first_file
from coinkit.files import is_hidden
from coinkit.grades import class_name, sheldon_number
from coinkit.inference import AnswerInBands, build_networks
from coinkit.label_errors import doubtful_in_checkpoint
from coinkit.photos import DATASET, FACE_FOLDERS, PHOTO_FOLDER, SPLITS, find_photos
from coinkit.report import Evaluation, check_report, evaluate, format_estimate, write_report
from coinkit.review import ShownCoin
from coinkit.summary import Training, summarise_in_words
from coinkit.training_progress import Progress

OUTPUT = Path("report")
MAX_LISTED = 20  # photos on which two networks differ


def main() -> int:
    """Run the command. The exit status is 1 if a photo could not be read, or had no partner."""
    args = parse_arguments()
    check_report(args.output)
    folder = find_folder(args.data, args.split)
    if args.cut and folder != args.data:
        raise UserError(f"{args.data} is a dataset, whose photos are not cut out again: leave out --cut.")
    device = find_device(args.device)
    checkpoints = {path: load_checkpoint(path) for path in args.checkpoint}
    networks, learned = build_networks(checkpoints, device)
    bands = bands_to_test(learned, args.classes)
    classes = bands.names if bands else learned
    photos, alone = find_labelled_photos(folder, classes, args.cut, args.classes, args.keep_variants)
    evaluation = evaluate(networks, learned, photos, checkpoints.values(), bands)
    evaluation.unread |= alone
    comparison = compare(args.against, evaluation, device, args.classes) if args.against else None

    path, checkpoint = next(iter(checkpoints.items()))
    training = training_of(path, checkpoint) if len(checkpoints) == 1 and not bands else None
    words = summarise_in_words(evaluation, training, explain=args.classes in (None, *JOINED))
    about = {"checkpoint": ", ".join(map(str, args.checkpoint)), "data": str(folder)}
    doubtful = find_doubtful_labels(args.data, path, checkpoint) if folder != args.data and not bands else []
    model = AnswerInBands(networks[0], bands).eval() if bands else networks[0].model
    try:
        write_report(evaluation, model, words, about, args.output, comparison, doubtful)
    finally:  # after the report, since the reader of the output (head, less) may end; but also if it failed
        print_metrics(evaluation)
        if comparison:
            print_comparison(evaluation, comparison)
    print("", *words, "", f"The report is in {args.output / 'index.html'}.", sep="\n")
    return 1 if evaluation.unread else 0


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    data_help = (
        f"a dataset, or a folder with photos in <grade>/, <grade>/{PHOTO_FOLDER}/, <grade>/obverse/ and reverse/"
    )
    add("--data", type=Path, default=DATASET, help=data_help)
    add("--cut", action="store_true", help="cut the coins out of photos of both faces")
    classes_help = "join the grades of the folders, and of the network, as prepare_dataset.py --classes does"
    add("--classes", metavar="bands|five|FILE.csv", help=classes_help)
    add("--keep-variants", action="store_true", help="with --classes: keep au58+ apart from au58")
    add("--split", choices=SPLITS, help="which split of a dataset (default: test)")
    add(
        "--checkpoint",
        type=Path,
        nargs="+",
        default=[Path(BEST)],
        metavar="FILE.pth",
        help="of one network, or of several to average",
    )
    add("--against", type=Path, metavar="FILE.pth", help="compare with this network on the same photos")
    add("--output", type=Path, default=OUTPUT, help="folder for the report")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    return parser.parse_args()


def find_folder(data: Path, split: str | None) -> Path:
    """Return the folder that holds the <grade>/ folders: a split if `data` is a dataset, otherwise `data` itself.

    Raises:
        UserError: it does not exist.
    """
    is_dataset = any(split_folder(data, name).is_dir() for name in SPLITS)
    folder = split_folder(data, split or "test") if is_dataset or split else data
    if not folder.is_dir():
        raise UserError(
            f"no folder {folder.absolute()}: run python prepare_dataset.py first, or name another folder with --data."
        )
    return folder


def training_of(path: Path, checkpoint: dict) -> Training | None:
    """Return what a checkpoint, loaded from `path`, tells of its training; None without a finished epoch."""
    if "progress" not in checkpoint:  # export.py --weights-only leaves it out
        return None
    with damage_as_user_error(path):
        progress, config = Progress.load(checkpoint["progress"]), checkpoint["config"]
        if not progress.epochs:
            return None
        last_epoch = progress.last_epoch(int(config["num_epochs"]), int(config["patience"]))
        return Training.of(progress, last_epoch, config)


def bands_to_test(classes: list[str], joined: str | None) -> Bands | None:
    """Return the bands that --classes joins the classes of a network to; None if it names these already.

    Raises:
        UserError: what `bands_of` says.
    """
    bands = bands_of(classes, joined) if joined else None
    return bands if bands and bands.names != classes else None


def compare(against: Path, evaluation: Evaluation, device: torch.device, joined: str | None) -> Comparison:
    """Return how another network grades the photos that were evaluated; `joined` is what --classes says.

    Raises:
        UserError: it knows other grades, or a photo cannot be read a second time.
    """
    checkpoint = load_checkpoint(against)
    networks, learned = build_networks({against: checkpoint}, device)
    bands = bands_to_test(learned, joined)
    if (bands.names if bands else learned) != evaluation.classes:
        raise UserError(f"{against} has other grades: compare networks of the same grades.")
    photos = Split(evaluation.paths, torch.from_numpy(evaluation.predictions.labels))
    other = evaluate(networks, learned, photos, [checkpoint], bands)
    for photo, reason in other.unread.items():
        raise UserError(f"{printable(photo)} could be read at first, and then not: {reason}. Try again.")
    return Comparison(str(against), evaluation.predictions, other.predictions, int(other.in_training.sum()))


def find_labelled_photos(
    folder: Path, classes: list[str], cut: bool = False, joined: str | None = None, keep_variants: bool = False
) -> tuple[Split, dict[Path, str]]:
    """Return the photos of the grades that the model knows, and those without a partner, with the reason.

    The latter, and other grades, are named on stderr and left out.

    Args:
        folder: with a folder for each grade.
        classes: of the model.
        cut: as `find_coins` takes it.
        joined: what --classes says; if it says nothing, grades are joined as those of the model are.
        keep_variants: whether the grades that it joins have their variants, such as au58+.

    Raises:
        UserError: there are no such photos.
    """
    grade_folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(path.name)]
    grade_of = {path: class_name(path.name, keep_variants) for path in grade_folders}
    options = [] if joined else joined_by(classes)
    joined_as_learned = options[0] if len(options) == 1 else None
    class_of = choose_classes(grade_of.values(), None, joined or joined_as_learned, keep_variants)
    label_of, unused, left_out = {}, Counter(), False
    for grade_folder, grade in grade_of.items():
        names = (grade_folder.name, class_name(grade_folder.name, keep_variants=True), class_of.get(grade))
        label = next((classes.index(name) for name in names if name in classes), None)
        below = [path for path in sorted(grade_folder.iterdir()) if path.is_dir()]
        subfolders = [path for path in below if path.name.lower() in (PHOTO_FOLDER, *FACE_FOLDERS)]
        used = subfolders or [grade_folder]
        paths = [path for subfolder in used for path in find_photos(subfolder)]
        unused.update(path.parent for path in find_photos(grade_folder, recursive=True) if path.parent not in used)
        if label is not None:
            label_of |= dict.fromkeys(paths, label)
        elif paths:
            count = f"{len(paths)} photo{'' if len(paths) == 1 else 's'}"
            print(f"{grade_folder}: the model does not know this grade; {count} left out", file=sys.stderr)
            left_out = True
    print_unused(unused, folder)
    coins, alone = find_coins(label_of, cut)
    for path, reason in alone.items():
        print(f"{printable(path)}: {reason}", file=sys.stderr)
    if not joined and not any(map(sheldon_number, classes)):
        options = ["FILE.csv, the table that has joined the model's classes"]
    advice = ""
    if joined_as_learned and not {*grade_of.values()} <= {*classes}:
        advice = f"Grades are joined as by --classes {joined_as_learned}: if a table has joined them, give that."
    elif options and left_out:
        advice = f"If these folders are single grades, add --classes {' or '.join(options)}."
    if not coins:
        subfolders, known = f"{PHOTO_FOLDER}/, obverse/ or reverse/", ", ".join(classes)
        said = f"no photo in {folder}/<grade>/, or in {subfolders} there, for a grade of {known}. {advice}"
        raise UserError(said.strip())
    if advice:
        print(advice, file=sys.stderr)
    return Split(coins, torch.tensor([label_of[first_file(coin)] for coin in coins])), alone


def find_doubtful_labels(dataset: Path, path: Path, checkpoint: dict) -> list[ShownCoin]:
    """Return the training photos of a dataset whose labels the network of a checkpoint doubts."""
    train = find_split(split_folder(dataset, "train"), checkpoint["classes"])
    with damage_as_user_error(path):
        return doubtful_in_checkpoint(checkpoint, train, checkpoint["classes"])


def print_metrics(evaluation: Evaluation) -> None:
    """Print the metrics, and precision and recall of each grade, with their intervals."""
    print(f"{len(evaluation.paths)} photos of {len({*evaluation.predictions.labels.tolist()})} grades\n")
    width = max(len(metric.name) for metric in evaluation.metrics.values())
    print(f"{'':{width}}  {'value':>8}   95 % interval")
    for key, metric in evaluation.metrics.items():
        value, interval = format_estimate(evaluation.score[key], metric.format)
        print(f"{metric.name:{width}}  {value:>8}   {interval}")
    width = max(map(len, [*evaluation.classes, "grade"]))
    print(f"\n{'grade':{width}}  photos   recall   95 % interval   precision   95 % interval")
    for name, grade in evaluation.grades.items():
        recall, recall_interval = format_estimate(grade.recall, ".0%")
        precision, interval = format_estimate(grade.precision, ".0%")
        print(f"{name:{width}}  {grade.count:6}   {recall:>6}   {recall_interval:13}   {precision:>9}   {interval}")


def print_comparison(evaluation: Evaluation, comparison: Comparison) -> None:
    """Print the difference between two networks, and the photos that they grade differently."""
    print(f"\nCompared with {comparison.name}\n\n{'':12}  {'this':>8}   {'other':>8}   other - this   95 % interval")
    for name, first, other, difference, interval in comparison.rows(evaluation.metrics):
        print(f"{name:12}  {first:>8}   {other:>8}   {difference:>12}   {interval}")
    print(f"\n{comparison.in_words()}")
    classes, first, other = evaluation.classes, comparison.first, comparison.other
    differing = np.flatnonzero(comparison.differs)
    for index in differing[:MAX_LISTED]:
        true, this, that = (classes[values[index]] for values in (first.labels, first.predicted, other.predicted))
        print(f"{printable(evaluation.paths[index])}: {true}, this says {this}, the other {that}")
    if len(differing) > MAX_LISTED:
        print(f"... and {len(differing) - MAX_LISTED} more: differences.csv in the report has them all")


if __name__ == "__main__":
    run(main)
