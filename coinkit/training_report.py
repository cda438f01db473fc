"""After training: list the doubtful labels, test the best epoch, say how good it is and what next, write the report."""

from pathlib import Path

import torch

from coinkit.checkpoints import load_checkpoint
from coinkit.cli import quoted, told_if_it_fails
from coinkit.dataset import Split, split_folder
from coinkit.inference import build_networks
from coinkit.label_errors import LabelCheck, doubtful_coins, write_label_table
from coinkit.metrics import describe_calibration, summarise
from coinkit.report import evaluate, write_report
from coinkit.summary import Training, summarise_in_words
from coinkit.training_progress import Progress


def report_labels(check: LabelCheck, train: Split, classes: list[str], table: Path) -> None:
    """Write the table of the training photos, the most doubtful labels first, and print how many are doubtful."""
    with told_if_it_fails(f"There is no {table}"):
        write_label_table(check, train, classes, table)
        print(f"Training photos with a doubtful label: {len(check.doubtful())}. {table} has all photos, these first.")


@told_if_it_fails("There is no report on the test photos, but python evaluate.py makes one")
def report_training(
    best: Path,
    train: Split,
    test: Split,
    data: Path,
    progress: Progress,
    check: LabelCheck,
    device: torch.device,
    folder: Path,
) -> None:
    """Print how good the best epoch is on the test photos, and write a report.

    Args:
        best: its checkpoint.
        train: the training photos, of which those with doubtful labels are shown.
        test: the photos to test it on.
        data: the dataset of both.
        progress: of the training.
        check: of the labels of the training photos.
        device: to grade on.
        folder: of the report.
    """
    checkpoint = load_checkpoint(best)
    (network,), classes = build_networks({best: checkpoint}, device)
    doubtful = doubtful_coins(check, train, classes)
    evaluation = evaluate([network], classes, test, [checkpoint])
    print(f"\nTest, with the best weights (epoch {progress.best_epoch}): {summarise(evaluation.predictions, classes)}")
    print(describe_calibration(evaluation.predictions, network.temperature, fitted=bool(progress.history)))
    words = summarise_in_words(evaluation, Training.of(progress, progress.epochs, checkpoint["config"]))
    about = {"checkpoint": str(best), "data": str(split_folder(data, "test"))}
    write_report(evaluation, network.model, words, about, folder, doubtful=doubtful)
    print("", *words, "", f"The report is in {folder / 'index.html'}.", sep="\n")


def predict_command(model: Path, has_pairs: bool, cut_out: bool | None) -> str:
    """Return the command that grades a coin like those of the training.

    Args:
        model: the best checkpoint, under its default name.
        has_pairs: whether coins had a photo of each face.
        cut_out: whether coins were cut out; None if that is not known.
    """
    one_photo = f"photo.jpg{' --cut' if cut_out else ''}"
    photo = "--faces obverse.jpg reverse.jpg" if has_pairs else one_photo
    return f"python predict.py{'' if model == Path(model.name) else f' --checkpoint {quoted(model)}'} {photo}"
