"""What a score means, in plain sentences: is it good, and what next?"""

import math
from typing import NamedTuple

import numpy as np

from coinkit.classes import describe_classes
from coinkit.report import Evaluation
from coinkit.training_progress import Progress

MIN_PHOTOS = 10  # with fewer, a model may name few of the grades by chance
FEW_GRADES = 0.5  # a model that names at most this share of the grades names only a few
OVERFITTING = 0.2  # training accuracy this much above the accuracy that is told
# With fewer steps than the first, a training is too short: on 264 photos of Morgan dollars, 800, 2000 and 3300 steps
# had an accuracy of 0.55, 0.65 and 0.68; on 100 photos of many series, 750 and 6000 had 0.42 and 0.48.
MIN_STEPS, ENOUGH_STEPS = 2000, 6000
STILL_FALLING = 0.9  # lowest validation loss of the last third of the epochs, as a share of the lowest before
GOOD_ENOUGH = 0.95  # accuracy above which training longer is not worth it


class Training(NamedTuple):
    """What is known of a model's training."""

    history: list[list[float]]  # as `Progress` has it
    num_epochs: int  # that it had in the end
    steps_in_epoch: int
    from_scratch: bool = True  # not from a trained network
    stopped_early: bool = False  # by --patience

    @classmethod
    def of(cls, progress: Progress, num_epochs: int, config: dict) -> "Training":
        """Return what is known of a training with these options that has come so far."""
        history = [[float(train), float(val), float(loss)] for train, val, loss in progress.history]
        from_scratch = not (config.get("init_from") or config.get("pretrained"))
        stopped_early = num_epochs < int(config["num_epochs"])
        return cls(history, num_epochs, progress.steps_in_epoch(), from_scratch, stopped_early)


def summarise_in_words(evaluation: Evaluation, training: Training | None, explain: bool = True) -> list[str]:
    """Return a few sentences on how good a model is, and what to do next.

    Args:
        evaluation: how it graded labelled photos.
        training: None if it is not known.
        explain: say what the five classes join, if they have the names of these; not if a table has joined others.
    """
    sentences = [
        describe_in_training(evaluation),
        describe_accuracy(evaluation),
        describe_guess(evaluation),
        describe_training(evaluation, training) if training else "",  # before the photos: to train longer costs least
        describe_confusion(evaluation),
        describe_classes(evaluation.classes) if explain else "",
    ]
    return [sentence for sentence in sentences if sentence]


def describe_in_training(evaluation: Evaluation) -> str:
    """Say how many of the photos the model was trained on."""
    in_training, correct = evaluation.in_training, evaluation.predictions.correct
    if not in_training.any():
        return ""
    count, others = len(in_training), int((~in_training).sum())
    if not others:
        return f"All {count} photos were in its training: these figures say nothing about new coins."
    right = int(correct[~in_training].sum())
    return (
        f"{in_training.sum()} of these {count} photos were in its training, so the figures are too good. "
        f"Of the other {others}, {right} get their grade: {right / others:.0%}."
    )


def describe_accuracy(evaluation: Evaluation) -> str:
    """Say how many photos were given their grade, or nearly."""
    correct, share = evaluation.predictions.correct, evaluation.score["accuracy"]
    said = (
        f"{correct.sum()} of {len(correct)} photos get their grade: {share.value:.0%} "
        f"(95 % interval: {share.low:.0%} to {share.high:.0%})"
    )
    if "accuracy_within_1" in evaluation.metrics:
        said += f", and {evaluation.score['accuracy_within_1'].value:.0%} are at most one grade off"
    if evaluation.coins < len(correct):
        said += f". These are photos of only {evaluation.coins} coins, so all intervals are too narrow"
    return f"{said}."


def describe_guess(evaluation: Evaluation) -> str:
    """Say how many photos a guess would get right, and whether the model does better."""
    accuracy, counts = evaluation.score["accuracy"], evaluation.confusion.sum(axis=1)
    commonest, share = evaluation.classes[counts.argmax()], counts.max() / counts.sum()
    if share == 1:
        return f"All of these photos are {commonest}: add photos of other grades to learn more."
    said = f"Naming the commonest grade, {commonest}, every time would get {share:.0%}"
    if accuracy.low > share:
        return f"{said}."
    balanced, guess = evaluation.score["balanced_accuracy"], 1 / np.count_nonzero(counts)
    if balanced.low > guess:
        return f"{said}, but no other grade right. With as many photos of each, the model gets {balanced.value:.0%}."
    if accuracy.high < share:
        return f"{said}: the model is worse than that guess."
    return f"{said}: the model may be no better than that guess."


def describe_confusion(evaluation: Evaluation) -> str:
    """Say whether only a few grades are named; or else which grade is most often taken for which."""
    confusion, classes = evaluation.confusion, evaluation.classes
    there, named = np.flatnonzero(confusion.sum(axis=1) > 1), np.flatnonzero(confusion.sum(axis=0))
    few = len(named) <= FEW_GRADES * len(there) and len(evaluation.paths) >= MIN_PHOTOS
    if few and len(there) > 1:
        names = " and ".join(classes[index] for index in named) if len(named) < 3 else f"{len(named)} of them"
        return (
            f"It has not learned to tell these {len(there)} grades apart: it names only {names}. "
            "Train longer (--num-epochs), add photos, or join grades (prepare_dataset.py --classes)."
        )
    mistakes = confusion - np.diag(confusion.diagonal())
    if mistakes.max(initial=0) < 2:
        return ""
    true, predicted = np.unravel_index(mistakes.argmax(), mistakes.shape)
    return (
        f"{classes[true]} is taken for {classes[predicted]} in {mistakes[true, predicted]} of {confusion[true].sum()}: "
        "more photos of both help."
    )


def describe_training(evaluation: Evaluation, training: Training) -> str:
    """Say whether the training was too short, or else whether it has learned its photos by heart."""
    history, num_epochs, steps_in_epoch, from_scratch, stopped_early = training
    accuracy, losses = evaluation.score["accuracy"], [loss for *_, loss in history]
    before, after = losses[: 2 * num_epochs // 3], losses[2 * num_epochs // 3 :]
    steps = num_epochs * steps_in_epoch
    is_falling = before and after and min(after) < STILL_FALLING * min(before)
    is_short = steps < MIN_STEPS and from_scratch
    if accuracy.value <= GOOD_ENOUGH and (is_short or is_falling):
        why = f"It was trained for only {steps} steps" if is_short else "It was still getting better at the end"
        enough = math.ceil(ENOUGH_STEPS / steps_in_epoch) if is_short else 2 * num_epochs
        flag = "without --patience" if stopped_early else f"--num-epochs {enough}"
        return f"{why}: first train anew, for longer ({flag})."
    if not history:
        return ""
    train, val, _ = history[-1]
    if train - accuracy.value < OVERFITTING or train <= accuracy.high:
        return ""
    if train - val < OVERFITTING and val > accuracy.high:
        return (
            f"At the end it was right on {train:.0%} of its training photos and on {val:.0%} of its validation photos: "
            "these may differ from them, in series, light or how the coin is cut out."
        )
    return (
        f"At the end it was right on {train:.0%} of its training photos, so it has learned some by heart: "
        "more photos help most, then the mean of three networks (docs/results.md)."
    )
