"""Find training photos whose label may be wrong: how sure was a network, while it learned, of the grade it was told?

A photo with a right label is like others of its grade, so the network becomes sure of the label early. A wrong label it
learns by heart, late or never. So the photos are ranked by the probability of their label: the softmax of their mean
logits over the epochs. That costs nothing, since each step of the training has these logits. The area under the margin
(Pleiss et al. 2020, arXiv 2001.10528) finds as many: benchmarks/wrong_labels.py measures it.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from coinkit.dataset import Split
from coinkit.files import atomic_write
from coinkit.review import ShownCoin
from coinkit.tables import table_writer
from coinkit.training_photos import file_digests, find_sources

DOUBTFUL_SHARE, MAX_DOUBTFUL = 0.05, 100  # of the training photos: how many a person is asked to look at


class LabelCheck:
    """What a network said of each training photo while it learned.

    Args:
        digests: of the N photos' files, as `coinkit.training_photos.file_digests` returns them.
        labels: (N,), the indices of their classes.
        num_classes: how many there are.
    """

    def __init__(self, digests: Sequence[int | None], labels: Tensor, num_classes: int):
        self.digests = torch.tensor([digest or 0 for digest in digests], dtype=torch.long)
        self.labels = labels
        self.sums = torch.zeros(len(labels), num_classes)  # of the logits in each epoch
        self.epochs = torch.zeros(len(labels), dtype=torch.long)  # in which the photo was seen

    def add(self, photos: Tensor, logits: Tensor) -> None:
        """Add the logits (n, classes) that some photos, given by their indices (n,), have in an epoch."""
        self.sums[photos] += logits
        self.epochs[photos] += 1

    def probabilities(self) -> Tensor:
        """Return the softmax of the mean logits of each photo, (N, classes); nan for one that was never seen."""
        return (self.sums / self.epochs[:, None]).softmax(dim=1)

    def label_probabilities(self) -> Tensor:
        """Return the probability of the label of each photo, (N,); nan for one that was never seen."""
        return self.probabilities().gather(1, self.labels[:, None])[:, 0]

    def others(self) -> Tensor:
        """Return the likeliest grade of each photo that is not its label, (N,), as an index."""
        return self.sums.scatter(1, self.labels[:, None], -torch.inf).argmax(dim=1)

    def ranked(self) -> list[int]:
        """Return the indices of the photos: the least probable label first, and those that were never seen last."""
        return self.label_probabilities().argsort(stable=True).tolist()

    def doubtful(self) -> list[int]:
        """Return the indices of the photos to look at: those with the least probable labels, if another is likelier.

        There are none if the network agrees with no more labels than one that always names the commonest grade. Then it
        has learned too little to judge.
        """
        label, likeliest = self.label_probabilities(), self.probabilities().amax(dim=1)
        if (label == likeliest).sum() <= self.labels.bincount(minlength=1).max():
            return []
        most = min(MAX_DOUBTFUL, round(DOUBTFUL_SHARE * len(label)))
        return [photo for photo in self.ranked()[:most] if label[photo] < likeliest[photo]]

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds of it."""
        return {"digests": self.digests, "labels": self.labels, "sums": self.sums, "epochs": self.epochs}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what is known of the photos that are still here, with the same content and the same label.

        Raises:
            Exception: of any kind, if something is missing or wrong.
        """
        keys = zip(state["digests"].tolist(), state["labels"].tolist(), strict=True)
        row_of = {key: row for row, key in enumerate(keys) if key[0]}
        keys = zip(self.digests.tolist(), self.labels.tolist(), strict=True)
        rows = [(photo, row_of[key]) for photo, key in enumerate(keys) if key in row_of]
        here, there = torch.tensor(rows, dtype=torch.long).reshape(-1, 2).unbind(dim=1)
        self.sums.zero_()[here], self.epochs.zero_()[here] = state["sums"][there], state["epochs"][there]


def doubtful_coins(check: LabelCheck, train: Split, classes: list[str]) -> list[ShownCoin]:
    """Return the training photos whose labels a person should look at, the most doubtful first, for a page."""
    photos, probabilities = check.doubtful(), check.probabilities().numpy()
    paths = [train.paths[photo] for photo in photos]
    sources = find_sources(paths)
    return [
        ShownCoin(path, probabilities[photo], classes[train.labels[photo]], source=sources.get(path))
        for photo, path in zip(photos, paths, strict=True)
    ]


def write_label_table(check: LabelCheck, train: Split, classes: list[str], target: Path) -> None:
    """Write a row for each training photo, the most doubtful label first, to a CSV file."""
    paths, doubtful = list(train.paths), set(check.doubtful())
    probabilities, others = check.probabilities(), check.others().tolist()
    sources = find_sources(paths)
    with atomic_write(target) as partial, table_writer(partial) as table:
        table.writerow(["rank", "look", "photo", "source", "grade", "rather", "p(grade)", "p(rather)", "epochs"])
        for rank, photo in enumerate(check.ranked(), start=1):
            grade, other, path = int(train.labels[photo]), others[photo], paths[photo]
            look, source = "yes" if photo in doubtful else "", sources.get(path, "")
            numbers = probabilities[photo][grade], probabilities[photo][other]
            row = [rank, look, path, source, classes[grade], classes[other], *(f"{number:.4f}" for number in numbers)]
            table.writerow([*row, int(check.epochs[photo])])


def doubtful_in_checkpoint(checkpoint: dict, train: Split, classes: list[str]) -> list[ShownCoin]:
    """Return what `doubtful_coins` does, of the training photos that are still there, from a checkpoint.

    Raises:
        Exception: of any kind, if the checkpoint is damaged.
    """
    if "label_check" not in checkpoint:  # older ones, and those from export.py, have none
        return []
    check = LabelCheck(file_digests(train.paths), train.labels, len(classes))
    check.load_state_dict(checkpoint["label_check"])
    return doubtful_coins(check, train, classes)
