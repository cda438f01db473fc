"""Training on datasets, disks and names that are not as they should be."""

import argparse
import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_fails, draw_photo, make_dataset, run_script, train
from PIL import Image
from test_training import BEST, LAST, curves, load, run_with, train_with

from coinkit.calibration import estimate_temperature
from coinkit.checkpoints import ignored_flags
from coinkit.dataset import PhotoReader, describe_gaps, find_classes, find_split, split_folder
from coinkit.figures import choose_font, confusion_chart, photo_grid
from coinkit.losses import soft_labels
from coinkit.photos import open_photo
from coinkit.tensorboard_log import CONFUSION_FONT_SIZE, CONFUSION_SIDE

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs links and names as POSIX systems have them")


def rename_grade(dataset, split, before, after):
    (dataset / split / before).rename(dataset / split / after)


# ---------------------------------------------------------------- classes and splits that do not match


def test_grades_in_upper_case_are_the_same_grades_in_the_order_of_the_scale(dataset, tmp_path):
    for split, before, after in (("train", "ms65", "MS65"), ("val", "vf30", "VF30"), ("train", "g06", "G6")):
        rename_grade(dataset, split, before, after)
    result = train(tmp_path, "--num-epochs", 1)
    assert "Photos: 24 for training, 9 for validation" in result.stdout and "Warning" not in result.stdout
    assert load(tmp_path)["classes"] == ["g06", "vf30", "ms65"]


def test_folders_of_one_grade_are_joined(dataset):
    shutil.copytree(dataset / "train" / "ms65", dataset / "train" / "Ms 65")
    split = find_split(dataset / "train", find_classes(dataset))
    assert torch.bincount(split.labels).tolist() == [8, 8, 16] and len(set(split.paths)) == 32


def test_photos_that_no_training_photo_goes_with_are_told(dataset, tmp_path):
    rename_grade(dataset, "val", "vf30", "au50")
    shutil.copy(dataset / "val" / "ms65" / "0.jpg", dataset / "train" / "loose.jpg")
    shutil.copytree(dataset / "val", dataset / "holdout")
    told = train(tmp_path, "--num-epochs", 1).stdout
    assert f"3 photos in {os.path.join('coin_dataset', 'val')} are not used" in told and "of au50" in told
    assert "val has no photo of vf30" in told and "loose.jpg" in told and "holdout is not used" in told


def test_photos_in_deeper_folders_and_a_split_that_is_no_folder_are_told(dataset):
    (dataset / "train" / "vf30" / "6000x3000").mkdir()
    (dataset / "train" / "vf30" / "0.jpg").rename(dataset / "train" / "vf30" / "6000x3000" / "0.jpg")
    shutil.rmtree(dataset / "val")
    (dataset / "val.zip").write_bytes(b"PK")
    zipped, deeper = describe_gaps(dataset, find_classes(dataset))
    assert "val.zip is not used" in zipped
    assert f"1 photos in {dataset / 'train'} are not used: they lie deeper than vf30/" in deeper


@pytest.mark.parametrize("name", ["valid", "validation", "Val"])
def test_the_validation_split_may_have_another_name(dataset, name):
    (dataset / "val").rename(dataset / name)
    assert len(find_split(split_folder(dataset, "val"), find_classes(dataset)).paths) == 9
    assert not describe_gaps(dataset, find_classes(dataset))
    (dataset / "vaLIDation2").mkdir()
    assert "vaLIDation2" in describe_gaps(dataset, find_classes(dataset))[0]


def test_two_validation_splits_are_refused(dataset, tmp_path):
    shutil.copytree(dataset / "val", dataset / "valid")
    assert_fails(train(tmp_path), "valid", "both the val split")


def test_folders_of_the_system_are_no_grades(dataset, tmp_path):
    for split in ("train", "val"):
        for name in (".ipynb_checkpoints", ".backup"):
            shutil.copytree(dataset / split / "ms65", dataset / split / name)
        for name in ("@eaDir", "__MACOSX", "lost+found"):
            (dataset / split / name).mkdir()
    (dataset / "@eaDir").mkdir()
    result = train(tmp_path, "--num-epochs", 1)
    assert "Grades: g06, vf30, ms65" in result.stdout and "Warning" not in result.stdout, result.stderr


# ---------------------------------------------------------------- photos


def test_training_on_photos_larger_than_prepared_is_told_at_once(dataset, tmp_path):
    options = ["--image-width", 256, "--image-height", 128, "--num-epochs", 1]
    told = train(tmp_path, *options).stdout
    assert "128x64 pixels, and are enlarged to 256x128" in told and "--size 256 128" in told
    assert told.index("enlarged") < told.index("Epoch")
    assert "enlarged" not in train(tmp_path, "--image-width", 128, "--image-height", 64, "--num-epochs", 1).stdout


@POSIX
def test_a_link_to_nowhere_and_a_pipe_are_left_out_and_named(dataset, tmp_path):
    for split in ("train", "val", "test"):
        (dataset / split / "vf30" / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(dataset / "train" / "vf30" / "pipe.jpg")
    result = train(tmp_path, "--num-epochs", 1, timeout=100)
    assert result.returncode == 0, result.stderr
    for split in ("train", "val"):
        assert f"Left out: {os.path.join('coin_dataset', split, 'vf30', 'gone.jpg')}: no such file" in result.stderr
    assert "pipe.jpg: not a file" in result.stderr
    result = run_script("evaluate.py", "--split", "val", "--output", "evaluated", cwd=tmp_path)
    assert "gone.jpg: no such file" in result.stderr and (tmp_path / "evaluated" / "index.html").exists()
    assert train(tmp_path, "--num-epochs", 2, "--resume").returncode == 0


def test_a_photo_without_memory_is_tried_again(tmp_path, monkeypatch, capsys):
    path, failures = tmp_path / "photo.jpg", 0
    draw_photo(0).save(path)
    open_image = Image.open

    def fail(*arguments, **options):
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise MemoryError
        return open_image(*arguments, **options)

    monkeypatch.setattr(Image, "open", fail)
    read = PhotoReader(64, 32, cache_gb=1, max_unreadable=0)
    failures = 1
    assert read(path).shape == (3, 32, 64)  # the second try, alone and with a smaller cache
    failures, read.cache = 2, {}
    assert read(path) is None and "photo.jpg: not enough memory" in capsys.readouterr().err
    assert read(path).shape == (3, 32, 64)  # in the next epoch


def test_photos_within_the_limit_of_the_memory_are_decoded_once(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "coinkit.dataset.open_photo", lambda path, *size: opened.append(path) or open_photo(path, *size)
    )
    first, second = tmp_path / "1.jpg", tmp_path / "2.jpg"
    for path in (first, second):
        draw_photo(0).save(path)
    read = PhotoReader(64, 32, cache_gb=1.5 * 3 * 64 * 32 / 1e9, max_unreadable=0)
    for path in (first, first, second, second, first):
        read(path)
    assert opened == [first, second, second]


def test_a_photo_that_can_be_read_again_is_used_again(tmp_path, capsys):
    path, read = tmp_path / "photo.jpg", PhotoReader(64, 32, max_unreadable=1)
    assert read(path) is None and read(path) is None
    assert capsys.readouterr().err.count("Left out") == 1
    draw_photo(0).save(path)
    assert read(path).shape == (3, 32, 64) and not read.unreadable


# ---------------------------------------------------------------- confidence without validation photos


def test_without_validation_photos_a_sure_network_is_not_called_unsure(tmp_path):
    make_dataset(tmp_path / "coin_dataset", val=0, test=3)
    result = train(tmp_path, "--num-epochs", 30)
    assert "estimated, without validation photos" in result.stdout, result.stderr
    result = run_script("predict.py", "coin_dataset/train", "--min-confidence", 0.6, cwd=tmp_path)
    unsure = sum("unsure" in line for line in result.stdout.splitlines())
    assert len(result.stdout.splitlines()) == 24 and unsure <= 4, result.stdout


def test_the_estimated_temperature_takes_out_the_spread_of_the_labels():
    labels = torch.arange(5).repeat(4)
    soft = soft_labels(["f12", "vf20", "ef40", "au50", "ms60"], spread=0.7)
    for accuracy, expected in ((0.9, 0.8), (0.95, 0.9)):
        temperature = estimate_temperature(soft, labels, accuracy)
        confidence = (soft.log() / temperature).softmax(dim=1).diagonal()[labels].mean()
        assert confidence.item() == pytest.approx(expected, abs=0.02)
    assert estimate_temperature(soft, labels, 0.5) == 1  # no reason to be surer than the labels
    assert estimate_temperature(torch.eye(5), labels, 0.9) == 1  # hard labels


# ---------------------------------------------------------------- checkpoints on other disks

NO_MAPPING = """
load_file = torch.load
def load(*arguments, mmap=None, **options):
    if mmap:
        raise RuntimeError("unable to mmap 4096 bytes from file: No such device (19)")
    return load_file(*arguments, **options)
torch.load = load
"""


def test_a_disk_that_cannot_map_files_is_read(trained, tmp_path):
    make_dataset(tmp_path / "coin_dataset", test=3)
    result = train_with(tmp_path, NO_MAPPING, "--num-epochs", 1)
    assert "The report is in" in result.stdout and not result.stderr
    photo = "coin_dataset/test/ms65/0.jpg"
    assert "Predicted Grade" in run_with(tmp_path, NO_MAPPING, "predict", photo).stdout


DISK_FAILS = """
import errno, io, os
from pathlib import Path
class Failing(io.FileIO):
    def readinto(self, buffer):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
open_file = Path.open
def fail(self, mode="r", *arguments, **options):
    if self.suffix == ".pth" and "r" in mode:
        return io.BufferedReader(Failing(self))
    return open_file(self, mode, *arguments, **options)
Path.open = fail
def load(*arguments, **options):
    raise RuntimeError("PytorchStreamReader failed reading file data/0: file read failed")
torch.load = load
"""


def test_a_disk_that_fails_is_not_called_damage(trained, tmp_path):
    photo = trained / "coin_dataset" / "test" / "ms65" / "0.jpg"
    result = run_with(tmp_path, DISK_FAILS, "predict", photo, "--checkpoint", trained / BEST)
    assert_fails(result, os.strerror(errno.EIO), "try again")
    assert "train again" not in result.stderr


# ---------------------------------------------------------------- pictures, curves and the report

NO_REPORT = """
from coinkit import report, tensorboard_log
def fail(*arguments, **options):
    raise ValueError("nothing is drawn today")
for name in ("photo_grid", "confusion_chart", "reliability_diagram", "mistake_pictures"):
    for module in (report, tensorboard_log):
        if hasattr(module, name):
            setattr(module, name, fail)
"""

NO_CURVES = """
from torch.utils.tensorboard import SummaryWriter
def fail(*arguments, **options):
    raise OSError(28, "No space left on device")
for name in ("add_scalar", "add_image", "add_hparams", "close"):
    setattr(SummaryWriter, name, fail)
"""


@pytest.mark.parametrize("change", [NO_REPORT, NO_CURVES])
def test_what_cannot_be_drawn_or_logged_ends_no_training(tmp_path, change):
    make_dataset(tmp_path / "coin_dataset", test=1)
    result = train_with(tmp_path, change, "--num-epochs", 2)
    assert result.returncode == 0 and "The model is in" in result.stdout, result.stderr
    assert load(tmp_path, BEST)["progress"]["epochs"] == load(tmp_path)["progress"]["epochs"] == 2
    lines = result.stderr.splitlines()
    assert lines and all(line.startswith(("TensorBoard shows no", "There is no report")) for line in lines)


@POSIX
def test_any_name_of_a_grade_gets_curves_and_a_report(tmp_path):
    grades = ["$$", "a_b^$", "精美", "ms65", os.fsdecode(b"\xff\xe9")]
    try:
        make_dataset(tmp_path / "coin_dataset", grades=grades, train=2, val=1, test=1)
    except OSError:
        pytest.skip("this disk has Unicode names only")
    result = train(tmp_path, "--num-epochs", 1)
    assert result.returncode == 0 and not result.stderr, result.stderr
    assert {"index.html", "confusion.png"} <= {path.name for path in (tmp_path / "report").iterdir()}
    shown = {tag.rpartition("/")[2] for _, tag in curves(tmp_path)}
    assert {"02 $$", "04 精美", r"05 \udcff\udce9"} <= shown
    assert train(tmp_path, "--num-epochs", 2, "--resume").returncode == 0


@pytest.mark.filterwarnings("error")  # Matplotlib warns of characters that become boxes
def test_captions_have_no_boxes():
    texts = ["ms65", "精美", "монета", "🪙", os.fsdecode(b"\xff"), "$$"]
    _, shown = choose_font(texts)
    assert shown[0] == "ms65" and shown[4:] == [r"\udcff", "$$"]
    assert all(text in (before, ascii(before)[1:-1]) for before, text in zip(texts, shown, strict=True))
    confusion_chart(np.eye(6, dtype=int), texts)
    blank = np.zeros((6, 20, 100, 3), np.uint8)
    assert not np.array_equal(photo_grid(blank, texts), photo_grid(blank, [""] * 6))


def test_a_confusion_chart_of_many_grades_is_no_larger_than_one_of_29():
    some, many = (confusion_chart(np.eye(count, dtype=int), list(map(str, range(count)))) for count in (29, 200))
    assert some.shape[0] > 1900 and many.shape[0] < 1.1 * some.shape[0]
    long_names = confusion_chart(np.eye(3, dtype=int), ["x" * 250 + name for name in "abc"])
    assert (long_names[..., 0] < 100).mean() > 0.01, "the diagonal is there"


def test_pictures_for_tensorboard_can_be_read_when_they_are_shrunk():
    names = [f"ms{number}" for number in range(29)]
    small, unnamed = (
        confusion_chart(np.eye(29, dtype=int), texts, CONFUSION_SIDE, CONFUSION_FONT_SIZE)
        for texts in (names, [""] * 29)
    )
    assert max(small.shape) <= 500  # shown 350 pixels wide or 210 high
    assert (small < 100).sum() > 1.2 * (unnamed < 100).sum()
    photos = np.zeros((2, 128, 512, 3), np.uint8)
    captions = (photo_grid(photos, texts)[:, :, 0] == 255 for texts in (["i" * 9] * 2, ["i" * 999] * 2))
    heights = [white.any(axis=1).sum() for white in captions]
    assert heights[0] == heights[1] > 1024 / 30


# ---------------------------------------------------------------- going on


def test_an_option_that_is_newer_than_the_run_cannot_change_either(dataset, tmp_path):
    train(tmp_path, "--num-epochs", 1)
    older = torch.load(tmp_path / LAST, weights_only=True)
    del older["architecture"]["residual"], older["config"]["residual"]
    torch.save(older, tmp_path / LAST)
    result = run_script("coin_classifier_custom.py", "--resume", "--residual", cwd=tmp_path)
    assert_fails(result, "another architecture", "--no-residual, not --residual")


def test_what_cannot_change_in_a_resumed_run_is_named(dataset, tmp_path):
    train(tmp_path, "--num-epochs", 1)
    before = (tmp_path / LAST).read_bytes()
    for option, needed in ((["--dropout", 0.3], "--dropout=0.1"), (["--channels", 8, 8, 8, 9], "--channels 8 8 8 8")):
        result = run_script("coin_classifier_custom.py", "--resume", *option, cwd=tmp_path)
        assert_fails(result, "another architecture", needed, str(option[-1]))
    for option in ("--init-from", "--pretrained"):
        assert_fails(run_script("coin_classifier_custom.py", "--resume", option, "missing.pth", cwd=tmp_path), option)
    assert (tmp_path / LAST).read_bytes() == before
    assert_fails(run_script("coin_classifier_custom.py", "--resume", ".", cwd=tmp_path), f"--resume takes {LAST}")
    options = ["--resume", "--preset", "small", "--num-epochs", 2, "--learning-rate", 0.001, "--batch-size", 8]
    options += ["--name", "b", "--runs", "other"]
    result = run_script("coin_classifier_custom.py", *options, cwd=tmp_path)
    assert result.returncode == 0 and "so this is ignored: --preset, --name, --runs." in result.stdout
    assert not (tmp_path / "other").exists()
    same = argparse.Namespace(preset=None, graph=False, name="b", runs=Path("other"))
    assert not ignored_flags(load(tmp_path), same)  # the same command again
    assert load(tmp_path)["progress"]["epochs"] == 2 and load(tmp_path)["config"]["learning_rate"] == 0.001
    groups = load(tmp_path)["optimizer_state_dict"]["param_groups"]
    assert max(group["full_lr"] for group in groups) == 0.001


@pytest.mark.parametrize("output", [".", "networks/a"])
def test_curves_go_on_in_the_folder_of_the_run(dataset, tmp_path, output):
    assert train(tmp_path, "--num-epochs", 1, "--output", output).returncode == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = ["--resume", "--num-epochs", 2, "--data", dataset, "--output", tmp_path / output]
    result = run_script("coin_classifier_custom.py", *options, cwd=elsewhere)
    assert result.returncode == 0 and f"--logdir={os.path.join('..', 'runs')}" in result.stdout, result.stderr
    assert [epoch for epoch, _ in curves(tmp_path)["val", "loss"]] == [1, 2] and not list(elsewhere.iterdir())

    shutil.rmtree(tmp_path / "runs")
    options[2] = 3
    result = run_script("coin_classifier_custom.py", *options, cwd=elsewhere)
    assert "The curves so far are gone" in result.stdout and result.returncode == 0, result.stderr
    assert [epoch for epoch, _ in curves(elsewhere)["val", "loss"]] == [3]
