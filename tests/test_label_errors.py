"""Photos with a wrong label are found among those of the training."""

import csv
import re

import torch
from conftest import make_dataset, run_script, train

from coin_classifier_custom import LABELS
from coinkit.label_errors import LabelCheck
from coinkit.manifest import Photo, write_manifest

CLASSES = ("g06", "vf30", "ms65")


def check_of(grades_said, labels, digests=None):
    """A check of photos for which a network is quite sure of a grade, in one epoch after the other."""
    check = LabelCheck(digests or range(1, len(labels) + 1), torch.tensor(labels), 3)
    for said in grades_said:
        check.add(torch.arange(len(labels)), 3.0 * torch.nn.functional.one_hot(torch.tensor(said), 3))
    return check


def test_the_photos_that_the_network_would_give_another_grade_come_first():
    labels = [0, 1, 2] * 20
    wrong = labels.copy()
    wrong[4], wrong[7] = 0, 2
    half_wrong = labels.copy()
    half_wrong[4], half_wrong[8], half_wrong[3] = 0, 0, 1
    check = check_of([wrong, wrong, half_wrong], labels)
    assert check.ranked()[:3] == [4, 7, 3] and check.doubtful() == [4, 7]
    assert check.others()[[4, 7]].tolist() == [0, 2]
    means = torch.tensor([[3.0, 0, 0], [2, 1, 0], [3, 0, 0], [1, 0, 2]])
    expected = means.softmax(dim=1)[range(4), [0, 0, 1, 2]]
    assert torch.allclose(check.label_probabilities()[[0, 3, 4, 8]], expected)
    unseen = check_of([], labels)
    assert unseen.ranked() == list(range(60)) and not unseen.doubtful()


def test_a_label_is_the_more_doubtful_the_less_probable_it_is():
    """Also if it is no further below the likeliest grade than another label: two other grades may be likely."""
    check = LabelCheck([1, 2], torch.tensor([1, 1]), 3)
    check.add(torch.arange(2), torch.tensor([[3.1, 0, -9], [3, 0, 3]]))
    assert check.ranked() == [1, 0]


def test_a_network_that_names_one_grade_doubts_no_label():
    assert not check_of([[1] * 60], [0, 1, 2] * 20).doubtful()


def test_photos_keep_what_is_known_of_them_if_their_content_and_label_are_the_same():
    before = check_of([[0, 1, 2, 0]], [0, 1, 2, 0], digests=[11, 12, 13, None])
    after = LabelCheck([12, 11, 13, None], torch.tensor([1, 0, 1, 0]), 3)  # in another order, and one with a new label
    after.load_state_dict(before.state_dict())
    assert after.epochs.tolist() == [1, 1, 0, 0]
    assert torch.equal(after.sums[:2], before.sums[[1, 0]]) and not after.sums[2:].any()


def test_a_wrong_label_is_found_in_a_training_and_shown(tmp_path):
    dataset = make_dataset(tmp_path / "coin_dataset", train=10, test=2)
    (dataset / "train" / "g06" / "5.jpg").rename(dataset / "train" / "ms65" / "wrong.jpg")
    source = tmp_path / "images" / "ms65" / "6000x3000" / "10000001.jpg"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"")
    write_manifest(dataset, [Photo(str(source), "ms65", "train", "train/ms65/wrong.jpg")])
    result = train(tmp_path, "--num-epochs", 15)
    assert result.returncode == 0, result.stderr
    assert re.search(rf"Training photos with a doubtful label: [12]\. {LABELS}", result.stdout)

    with (tmp_path / LABELS).open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30 and [row["rank"] for row in rows[:2]] == ["1", "2"]
    first, last = rows[0], rows[-1]
    assert first["photo"].endswith("wrong.jpg") and first["source"] == str(source)
    assert (first["grade"], first["rather"], first["look"], first["epochs"]) == ("ms65", "g06", "yes", "15")
    assert float(first["p(grade)"]) < float(first["p(rather)"]) and not last["look"]
    assert float(first["p(grade)"]) < float(last["p(grade)"]) > float(last["p(rather)"])
    for _ in range(2):
        page = (tmp_path / "report" / "index.html").read_text("utf-8")
        assert "Labels to check" in page and "ms65, or rather g06?" in page and str(source) in page
        result = run_script("evaluate.py", cwd=tmp_path)  # which writes another report
        assert result.returncode == 0, result.stderr
