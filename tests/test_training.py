import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, assert_fails, make_dataset, run_script, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import EXPERIMENT_TAG, parse_experiment_plugin_data
from torch.nn import functional as F

import coin_classifier_custom as coin
from benchmarks import gpu, training_step
from coinkit.augment import augment, relight_faces
from coinkit.checkpoints import is_false_start
from coinkit.optim import LEAST_STRENGTH
from coinkit.training_progress import Progress, format_duration

BEST, LAST = "coin_classifier_custom_best.pth", "coin_classifier_custom_last.pth"
PREVIOUS = "coin_classifier_custom_last.previous.pth"


def load(folder, name=LAST):
    return torch.load(folder / name, weights_only=True)


def curves(folder):
    """{(run, tag): [(epoch, value), ...]} as TensorBoard shows them, without speeds."""
    (run,) = (folder / "runs").glob("coin_custom_*")
    points = {}
    for name in ("train", "val"):
        events = EventAccumulator(str(run / name)).Reload()
        for tag in events.Tags()["scalars"]:
            if tag != "photos per second":
                points[name, tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    return points


def test_it_learns_and_tells(trained):
    checkpoint = load(trained, BEST)
    assert checkpoint["best_val_acc"] >= 0.7
    assert load(trained)["progress"]["learned"] > 0.5
    points = curves(trained)
    both = {("train", "loss"), ("train", "accuracy"), ("val", "loss"), ("val", "accuracy")}
    group = "accuracy of 3 grades from g06 to ms65"
    by_grade = {("val", f"{group}/{grade}") for grade in ("01 g06", "02 vf30", "03 ms65")}  # in the order of the scale
    result = {("val", "best accuracy"), ("val", "lowest loss")}
    assert set(points) == both | by_grade | result | {("train", "learning rate"), ("train", "gradient norm")}
    assert all([epoch for epoch, _ in points[name]] == list(range(1, 31)) for name in set(points) - result)


def test_tensorboard_shows_settings_and_pictures(trained):
    (run,) = (trained / "runs").glob("coin_custom_*")
    train_events, val_events = (
        EventAccumulator(str(run / name), size_guidance={"images": 0}).Reload() for name in ("train", "val")
    )
    texts = {
        tag: train_events.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0] for tag in ("config", "dataset")
    }
    assert b"| learning_rate | 0.005 |" in texts["config"] and b"| vf30 | 8 | 3 |" in texts["dataset"]
    assert train_events.Tags()["images"] == ["augmented training photos"]
    epochs = [image.step for image in val_events.Images("confusion matrix")]
    assert epochs[-1] == 30 and len(epochs) <= 10
    assert sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) < 5e6
    hparams = parse_experiment_plugin_data(val_events.SummaryMetadata(EXPERIMENT_TAG).plugin_data.content).hparam_infos
    assert [info.name for info in hparams][:3] == ["learning_rate", "batch_size", "num_epochs"]
    assert "data" in [info.name for info in hparams][10:]


def test_the_best_epoch_is_the_latest_that_validation_cannot_tell_from_the_lowest_loss():
    def end_epoch(progress, photos, right, sureness=2.0):
        labels = torch.arange(photos) % 2
        said = torch.where(torch.arange(photos) < right * photos, labels, 1 - labels)
        return progress.end_epoch(sureness * F.one_hot(said, 2), labels, torch.eye(2))

    for photos, expected in ((16, [True, True, True, False, True]), (1600, [True, True, False, False, False])):
        progress = Progress("runs")
        shares = (0.5, 0.875, 0.8125, 0.25, 0.8125)  # losses of 0.69, 0.38, 0.48, 0.85 and 0.48
        assert [end_epoch(progress, photos, right) for right in shares] == expected
        assert progress.lowest_epoch == 2
        assert end_epoch(progress, photos, 0.875, sureness=6.0), "calibration takes out how sure it is"
        assert progress.temperature == pytest.approx(3, rel=0.3)
    no_photos = torch.empty(0, 2), torch.empty(0, dtype=torch.long)
    assert Progress("runs").end_epoch(*no_photos, torch.eye(2))


def test_an_epoch_is_told_in_a_line_and_the_best_one_in_words():
    progress, labels = Progress("runs", seen=100, seconds=25), torch.arange(16) % 2
    assert progress.seconds_left(photos=1000, num_epochs=20) == 4975
    train = {"loss": 0.5, "accuracy": 0.75, "photos per second": 4.0}
    for right, is_best in ((14, True), (13, False)):
        said = torch.where(torch.arange(16) < right, labels, 1 - labels)
        progress.end_epoch(2.0 * F.one_hot(said, 2), labels, torch.eye(2))
        line = progress.describe_epoch(train, {"loss": 0.6, "accuracy": 0.7}, photos=1200, num_epochs=20)
        assert line.endswith("   best so far") == is_best
    loss = f"{progress.history[-1][2]:.3f}"  # after calibration, by which epochs are compared
    assert f"Epoch  2/20   loss 0.500 (validation {loss})   accuracy 75% (validation 70%)   4.0 photos/s" in line
    assert line.endswith("   90 minutes left")
    assert progress.describe_best().startswith("Epoch 2 is kept. Its validation loss cannot be told from the lowest, ")
    without = {"loss": math.nan, "accuracy": math.nan}
    assert "validation" not in Progress("runs", epochs=20).describe_epoch(train, without, photos=1440, num_epochs=20)
    durations = [format_duration(seconds) for seconds in (40, 120, 5400, 31 * 3600)]
    assert durations == ["40 seconds", "2 minutes", "90 minutes", "31 hours"]


def test_the_time_of_a_long_training_is_told_once(dataset, tmp_path):
    result = train_with(tmp_path, "coin.TIMED_SECONDS = 1e-9", "--num-epochs", 2)
    assert (result.stdout + result.stderr).count("This takes about ") == 1, result.stderr


def test_half_of_the_training_photos_lose_their_colour():
    photos = torch.zeros(200, 3, 8, 16, dtype=torch.uint8)
    photos[:, 0] = 200
    torch.manual_seed(0)
    augmented = augment(photos, 0.1)
    colourful = augmented.amax(dim=1) - augmented.amin(dim=1) > 0.3
    assert 70 < colourful.all(dim=(1, 2)).sum() == colourful.any(dim=(1, 2)).sum() < 130


def test_each_change_grows_with_the_strength(monkeypatch):
    drawn = {}

    def affine(photos, angle, zoom, shift):
        drawn.update(angle=angle, zoom=zoom - 1, shift=shift)
        return photos

    def relight(photos, gamma, slope):
        drawn.update(gamma=gamma.log(), slope=slope)
        return photos

    monkeypatch.setattr("coinkit.augment.affine_faces", affine)
    monkeypatch.setattr("coinkit.augment.relight_faces", relight)
    torch.manual_seed(0)
    photos = augment(torch.full((200, 3, 4, 8), 100, dtype=torch.uint8), 0.5)
    drawn["brightness"] = photos.mean(dim=(1, 2, 3)) / (100 / 255) - 1
    limits = {"angle": math.radians(20), "zoom": 0.1, "shift": 0.04, "gamma": 0.4, "slope": 0.3, "brightness": 0.3}
    for name, limit in limits.items():
        assert 0.45 * limit < drawn[name].abs().max() <= 0.501 * limit, name


def test_each_face_has_its_own_light():
    photos = torch.full((1, 3, 40, 80), 0.5)
    lit = relight_faces(photos, gamma=torch.tensor([1.0, 2.0]), slope=torch.tensor([[0.4, 0.2], [0.0, 0.0]]))
    first, second = lit.split(40, dim=3)
    top_left, bottom_right = first[0, :, 0, 0], first[0, :, -1, -1]
    assert torch.allclose(top_left, torch.tensor(0.2)) and torch.allclose(bottom_right, torch.tensor(0.8))
    assert torch.allclose(first.mean(), torch.tensor(0.5)) and torch.allclose(second, torch.tensor(0.25))


def test_the_checkpoint_holds_what_the_guide_promises(trained):
    checkpoint = load(trained, BEST)
    assert {"model_state_dict", "optimizer_state_dict", "best_val_acc", "classes", "format_version"} <= set(checkpoint)
    assert checkpoint["classes"] == ["g06", "vf30", "ms65"]  # in the order of the scale, not of the alphabet
    modules = {name.split(".")[0] for name in checkpoint["model_state_dict"]}
    assert modules == {"conv_block1", "conv_block2", "conv_block3", "conv_block4", "fc1", "fc2", "fc3"}
    assert checkpoint["config"]["learning_rate"] == 0.005


def test_the_checkpoint_holds_how_the_training_went_and_which_photos_it_had(trained):
    checkpoint = load(trained, BEST)
    progress = checkpoint["progress"]
    assert len(progress["history"]) == progress["epochs"]
    assert progress["history"][-1][1] == checkpoint["best_val_acc"]
    by_epoch = [accuracy for _, accuracy in curves(trained)["train", "accuracy"]]
    assert [accuracy for accuracy, *_ in progress["history"]] == pytest.approx(by_epoch[: progress["epochs"]])
    assert all(0 <= value <= 1 for *accuracies, _ in progress["history"] for value in accuracies)
    assert min(loss for *_, loss in progress["history"]) == progress["lowest_loss"]
    assert len(checkpoint["training_photos"]) == 24
    older = {name: value for name, value in progress.items() if name not in ("history", "unsure_below")}
    assert Progress.load(older).history == []
    with pytest.raises(ValueError, match="history"):
        Progress.load(progress | {"history": "none"})


def test_a_run_is_resumed_with_its_own_options_not_those_of_a_preset(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    result = run_script("coin_classifier_custom.py", "--resume", "--preset", "demo", cwd=tmp_path / "copy")
    assert "This run has trained 30 epochs already" in result.stdout, result.stderr


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    for folder in (straight, stopped):
        make_dataset(folder / "coin_dataset", train=40)
    assert train(straight, "--num-epochs", 3).returncode == 0

    command = [sys.executable, str(ROOT / "coin_classifier_custom.py"), *map(str, SMALL), "--num-epochs", "3"]
    process = subprocess.Popen(command, cwd=stopped, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("Epoch"):
            process.send_signal(signal.SIGINT)  # in the middle of the second epoch
            break
    rest = process.stdout.read()
    assert process.wait() == 130
    steps = load(stopped)["progress"]["steps"]
    assert f"Stopped at step {steps}, in epoch 2 of 3. To go on: python coin_classifier_custom.py --resume\n" in rest
    assert 30 < steps < 90
    result = train(stopped, "--num-epochs", 3, "--resume")
    assert result.returncode == 0 and f"Going on after step {steps}, in epoch 2 of 3\n" in result.stdout

    for name in (LAST, BEST):
        expected, actual = (load(folder, name) for folder in (straight, stopped))
        assert all(torch.equal(values, actual["label_check"][key]) for key, values in expected["label_check"].items())
        for key, tensor in expected["model_state_dict"].items():
            assert torch.equal(tensor, actual["model_state_dict"][key]), key
    assert curves(straight) == curves(stopped)


def test_a_finished_run_can_be_given_more_epochs(dataset, tmp_path):
    train(tmp_path, "--num-epochs", 1, "--name", "two words")
    options = ["--resume", "--num-epochs", 2, "--precision", "fp16"]  # as on another GPU, by itself
    result = run_script("coin_classifier_custom.py", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    checkpoint = load(tmp_path)
    assert checkpoint["progress"]["epochs"] == 2
    assert checkpoint["config"]["channels"] == [8, 8, 8, 8]  # of the run, not the defaults
    (run,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"coin_custom_\d{8}-\d{6}-\d{6}-two words", run.name)
    result = run_script("coin_classifier_custom.py", "--resume", cwd=tmp_path)
    assert "has trained 2 epochs already" in result.stdout and "Epoch 3" not in result.stdout


def test_an_accumulated_step_takes_the_memory_of_one_batch(dataset, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(coin, "augment", lambda photos, strength: sizes.append(len(photos)) or photos / 255)
    options = [*SMALL, "--data", dataset, "--output", tmp_path, "--runs", tmp_path, "--num-epochs", 1]
    monkeypatch.setattr(sys, "argv", ["", *map(str, [*options, "--batch-size", 2, "--accumulate", 5])])
    assert not coin.main()
    assert sizes == [2] * 12


def test_accumulated_batches_make_the_same_step_as_large_ones(tmp_path):
    weights = []
    for name, options in (("large", ["--batch-size", 4]), ("small", ["--batch-size", 2, "--accumulate", 2])):
        make_dataset(tmp_path / name / "coin_dataset")
        result = train(tmp_path / name, "--num-epochs", 1, "--dropout", 0, "--augment", 0, *options)
        assert result.returncode == 0, result.stderr
        weights.append(load(tmp_path / name)["model_state_dict"])
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-3), name  # a step may move a weight by 5e-3


@pytest.mark.parametrize(
    "options",
    [
        ["--graph", "--residual", "--activation", "leaky_relu", "--channels", 4, 4, 4, 4, 4],
        ["--class-weights", "--label-spread", 0, "--augment", 2, "--clip-grad-norm", 0, "--no-fused"],
        ["--precision", "bf16", "--augment", 0, "--cache-gb", 0],
        ["--precision", "fp16", "--channels", 9, 18, 30, 50, "--cache-gb", "inf"],
    ],
)
def test_the_advice_of_the_guide_is_a_setting(dataset, tmp_path, options):
    result = train(tmp_path, "--num-epochs", 1, *options)
    assert result.returncode == 0 and "TensorBoard shows no" not in result.stderr, result.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert EventAccumulator(str(run / "train")).Reload().Tags()["graph"] == ("--graph" in options)


def test_settings_reach_the_training(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)  # make_trainer sets it
    for path in sorted((dataset / "train" / "vf30").iterdir())[2:]:
        path.unlink()
    options = ["--class-weights", "--label-spread", 0, "--activation", "leaky_relu", "--weight-decay", 0.3]
    plain, changed = (
        training_step.make_trainer(dataset, tmp_path, [*SMALL, *flags]) for flags in ([], [*options, "--no-fused"])
    )
    rare, common = (changed.classes.index(grade) for grade in ("vf30", "ms65"))
    assert changed.class_weights[rare] == 4 * changed.class_weights[common] and len(plain.class_weights.unique()) == 1
    assert changed.targets.amax(dim=1).tolist() == [1.0] * len(changed.classes) and plain.targets.max() < 1
    assert [type(trainer.model.activation) for trainer in (plain, changed)] == [torch.nn.ReLU, torch.nn.LeakyReLU]
    groups = changed.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, 0.3} and not any(group["fused"] for group in groups)


def test_labels_narrow_over_the_first_half(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)  # make_trainer sets it
    monkeypatch.setattr("coinkit.optim.WIDEST_LABELS", 1.0)
    trainer = training_step.make_trainer(dataset, tmp_path, [*SMALL, "--num-epochs", 4])
    final = trainer.targets
    trainer.train_epoch()
    assert trainer.targets.max() < final.max()
    for epochs, init_from in ((2, None), (0, Path("other.pth"))):
        trainer.progress.epochs, trainer.args.init_from = epochs, init_from
        trainer.train_epoch()
        assert torch.equal(trainer.targets, final)


def test_it_stops_early_when_asked_and_has_then_ended(tmp_path):
    make_dataset(tmp_path / "coin_dataset", test=1)
    result = train(tmp_path, "--num-epochs", 50, "--learning-rate", 1e-9, "--patience", 2)
    assert result.stdout.count("Stopped early (--patience)") == 1
    assert "first train anew, for longer (without --patience)" in result.stdout
    epochs = load(tmp_path)["progress"]["epochs"]
    assert epochs < 20
    (run,) = (tmp_path / "runs").iterdir()
    pictures = EventAccumulator(str(run / "val")).Reload().Images("confusion matrix")
    assert pictures[-1].step == epochs
    steps = f"It was trained for only {6 * epochs} steps"  # 6 of 4 photos in an epoch
    assert steps in result.stdout and steps in run_script("evaluate.py", cwd=tmp_path).stdout
    assert "--resume" not in train(tmp_path, "--num-epochs", 1).stdout


def test_without_validation_photos_the_last_epoch_is_kept(tmp_path):
    make_dataset(tmp_path / "coin_dataset", val=0, test=1)
    result = train(tmp_path, "--num-epochs", 2)
    assert result.returncode == 0, result.stderr
    assert "Without validation photos" in result.stdout and "fitted on the validation" not in result.stdout
    assert load(tmp_path, BEST)["progress"]["best_epoch"] == 2
    (run,) = (tmp_path / "runs").iterdir()
    assert "best accuracy" not in EventAccumulator(str(run / "val")).Reload().Tags()["scalars"]


def test_best_weights_that_are_gone_are_found_again_or_missed(dataset, tmp_path):
    train(tmp_path, "--num-epochs", 1)
    best = load(tmp_path, BEST)
    torch.save(best | {"progress": best["progress"] | {"run": "another"}}, tmp_path / BEST)
    assert train(tmp_path, "--resume").returncode == 0  # the last epoch is the best
    assert load(tmp_path, BEST)["progress"] == best["progress"]
    assert load(tmp_path, "coin_classifier_custom_best.previous.pth")["progress"]["run"] == "another"

    last = load(tmp_path)
    torch.save(last | {"progress": last["progress"] | {"epochs": 2}}, tmp_path / LAST)
    (tmp_path / BEST).unlink()
    assert_fails(train(tmp_path, "--resume", "--num-epochs", 2), "no coin_classifier_custom_best.pth of this run")
    result = train(tmp_path, "--resume", "--num-epochs", 3)
    assert "best of the epochs from here on" in result.stdout and load(tmp_path, BEST)["progress"]["best_epoch"] == 3


def test_another_file_copied_over_the_best_leaves_the_last_as_it_is(dataset, tmp_path):
    train(tmp_path, "--num-epochs", 1)
    (tmp_path / BEST).write_bytes(b"another")
    assert load(tmp_path)["progress"]["epochs"] == 1


def test_a_run_that_has_trained_for_long_is_no_false_start():
    runs = ({"epochs": 0, "seconds": 20.0}, {"epochs": 0, "seconds": 4000.0}, {"epochs": 1, "seconds": 0.0}, {})
    assert [is_false_start(progress) for progress in runs] == [True, False, False, False]


def test_an_earlier_model_is_kept(dataset, tmp_path):
    (tmp_path / BEST).write_bytes(b"mine")
    assert_fails(train(tmp_path, "--data", "nowhere"))
    assert (tmp_path / BEST).read_bytes() == b"mine"
    assert "coin_classifier_custom_best.previous.pth" in train(tmp_path, "--num-epochs", 1).stdout
    assert (tmp_path / "coin_classifier_custom_best.previous.pth").read_bytes() == b"mine"
    assert load(tmp_path, BEST)["classes"]
    first = (tmp_path / BEST).read_bytes()
    os.link(tmp_path / BEST, tmp_path / f"{BEST}.partial")  # of a run that was killed in between
    assert train(tmp_path, "--num-epochs", 1, "--seed", 1).returncode == 0
    assert (tmp_path / "coin_classifier_custom_best.previous.pth").read_bytes() == first

    # A start that has not come to the end of an epoch is not worth the place of what was before it.
    before = (tmp_path / "coin_classifier_custom_last.previous.pth").read_bytes()
    begun = load(tmp_path, LAST)
    torch.save(begun | {"progress": begun["progress"] | {"epochs": 0}}, tmp_path / LAST)
    assert train(tmp_path, "--num-epochs", 1, "--seed", 2).returncode == 0
    assert (tmp_path / "coin_classifier_custom_last.previous.pth").read_bytes() == before


def test_mistakes_are_told_in_a_line(tmp_path):
    assert_fails(train(tmp_path), "prepare_dataset.py")
    make_dataset(tmp_path / "coin_dataset", train=1)
    assert_fails(train(tmp_path, "--resume"), LAST)
    for options in (
        ["--batch-size", 0],
        ["--image-width", 8],
        ["--channels", 8],
        ["--dropout", 1],
        ["--dropout", "nan"],
        ["--augment", "nan"],
        ["--weight-decay", "nan"],
        ["--learning-rate", "nan"],
        ["--seed", 2**63],
        ["--name", "a/b"],
    ):
        assert_fails(train(tmp_path, *options), options[0])
    assert_fails(train(tmp_path, "--device", "cuda:99"), "--device cuda:99")
    (tmp_path / "coin_dataset" / "train" / "vf30" / "0.jpg").unlink()
    assert_fails(train(tmp_path), "vf30", "prepare_dataset.py")


def test_resume_refuses_another_network_or_dataset(dataset, tmp_path):
    train(tmp_path, "--num-epochs", 1)
    before = (tmp_path / LAST).read_bytes()
    result = run_script("coin_classifier_custom.py", "--resume", "--fc-features", 8, 8, cwd=tmp_path)
    assert_fails(result, "another architecture")
    (dataset / "train" / "vf30" / "0.jpg").unlink()
    result = run_script("coin_classifier_custom.py", "--resume", "--num-epochs", 2, cwd=tmp_path)
    assert_fails(result, "train/vf30 (8 photos then, 7 now)", "--accept-changes")
    make_dataset(dataset, grades=["au58"])
    assert_fails(run_script("coin_classifier_custom.py", "--resume", cwd=tmp_path), "other grades", "(au58)")
    assert (tmp_path / LAST).read_bytes() == before


def test_resnet50_trains_in_the_same_loop(dataset, tmp_path):
    result = train(tmp_path, "--model", "resnet50", "--num-epochs", 1, "--image-width", 64, "--image-height", 64)
    assert result.returncode == 0, result.stderr
    assert "23.5 million parameters" in result.stdout
    result = run_script("predict.py", "coin_dataset/train/ms65/0.jpg", cwd=tmp_path)
    assert "Predicted Grade" in result.stdout, result.stderr

    weights = load(tmp_path)["model_state_dict"]
    weights |= {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}  # as torchvision's have it
    torch.save(weights, tmp_path / "imagenet.pth")
    options = ["--model", "resnet50", "--num-epochs", 1, "--learning-rate", 1e-9, "--output", "tuned"]
    result = train(tmp_path, "--pretrained", "imagenet.pth", *options)
    assert result.returncode == 0, result.stderr
    tuned = load(tmp_path / "tuned")["model_state_dict"]
    assert torch.allclose(tuned["layer4.2.conv3.weight"], weights["layer4.2.conv3.weight"], atol=1e-6)
    assert tuned["fc.weight"].shape == (3, 2048)
    assert_fails(train(tmp_path, "--pretrained", "nowhere.pth", *options), "nowhere.pth", "--pretrained FILE")
    assert_fails(train(tmp_path, "--pretrained"), "resnet50")


def test_it_starts_from_another_model_though_its_grades_differ(trained, tmp_path):
    make_dataset(tmp_path / "coin_dataset", grades=("g06", "ms65"))
    options = ["--init-from", trained / BEST, "--num-epochs", 1, "--learning-rate", 1e-9]
    result = train(tmp_path, *options)
    assert result.returncode == 0, result.stderr
    assert "all but its last layer" in result.stdout
    given, taken = load(trained, BEST)["model_state_dict"], load(tmp_path)["model_state_dict"]
    assert torch.allclose(taken["fc1.weight"], given["fc1.weight"], atol=1e-6)
    assert taken["fc3.weight"].shape == (2, 16) and given["fc3.weight"].shape == (3, 16)
    assert_fails(train(tmp_path, *options, "--fc-features", 8, 8), "another architecture", "fc1.weight")

    # Without flags for the network, it is the same as that of the other model.
    result = run_script("coin_classifier_custom.py", *options, "--device", "cpu", "--output", "same", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert load(tmp_path / "same")["architecture"] == load(trained)["architecture"]


def test_resume_goes_on_with_a_changed_dataset_when_told_to(dataset, tmp_path):
    train(tmp_path, "--num-epochs", 1)
    (dataset / "train" / "vf30" / "0.jpg").rename(dataset / "train" / "ms65" / "9.jpg")
    again = ["--resume", "--accept-changes", "--num-epochs"]
    result = run_script("coin_classifier_custom.py", *again, 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert load(tmp_path)["progress"]["epochs"] == 2
    assert load(tmp_path)["label_check"]["epochs"].tolist() == [2] * 23 + [1]  # of the label it has now
    older = load(tmp_path)
    del older["label_check"]
    torch.save(older, tmp_path / LAST)
    result = run_script("coin_classifier_custom.py", *again, 3, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert load(tmp_path)["label_check"]["epochs"].tolist() == [1] * 24


def test_other_validation_photos_begin_the_comparison_of_epochs_anew(dataset, tmp_path):
    train(tmp_path, "--num-epochs", 2)
    content = load(tmp_path, LAST)
    content["progress"] |= {"lowest_loss": 0.001, "loss_margin": 0.0, "unsure_below": 0.9}  # of easier photos
    torch.save(content, tmp_path / LAST)
    again = ["--resume", "--accept-changes", "--num-epochs"]
    result = run_script("coin_classifier_custom.py", *again, 3, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    progress = load(tmp_path, LAST)["progress"]
    assert progress["lowest_loss"] == 0.001 and progress["best_epoch"] < 3

    val = dataset / "val"
    next((val / "vf30").iterdir()).rename(val / "ms65" / "moved.jpg")
    result = run_script("coin_classifier_custom.py", *again, 4, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    progress = load(tmp_path, LAST)["progress"]
    assert progress["best_epoch"] == progress["lowest_epoch"] == 4
    assert progress["lowest_loss"] == progress["history"][-1][2] > 0.001
    assert load(tmp_path, BEST)["progress"]["epochs"] == 4

    shutil.rmtree(val)
    result = run_script("coin_classifier_custom.py", *again, 5, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Epoch 5 is kept, the last." in result.stdout
    assert not re.search("Epoch +5/5.*validation", result.stdout)
    best = load(tmp_path, BEST)
    assert best["progress"]["history"] == [] and best["unsure_below"] == 0.5


def test_photos_that_go_bad_are_left_out_up_to_a_limit(dataset, tmp_path):
    photos = sorted((dataset / "train" / "vf30").iterdir())
    photos[0].write_bytes(b"no photo")
    result = train(tmp_path, "--num-epochs", 1, "--learning-rate", 1e-9)
    assert result.returncode == 0, result.stderr
    assert f"Left out: {photos[0].relative_to(tmp_path)}: not a JPEG" in result.stdout + result.stderr
    assert curves(tmp_path)["train", "loss"] == [(1, pytest.approx(math.log(3)))]  # of the photos that are left
    for photo in photos:
        photo.write_bytes(b"no photo")
    assert_fails(train(tmp_path), "more photos are unreadable than the 3", "prepare_dataset.py")


def run_with(cwd, change, script, *arguments):
    """Run a script after a change to the training's code, Python source that sees it as `coin`."""
    lines = [f"import sys; sys.path.insert(0, {str(ROOT)!r})", "import torch; from torch import nn", "step = 0"]
    lines += ["import coin_classifier_custom as coin", change, f"import {script}", f"coin.run({script}.main)"]
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder, f"{script}.py")
        changed.write_text("\n".join(lines), encoding="utf-8")
        return run_script(changed, *arguments, cwd=cwd)


def train_with(cwd, change, *options):
    return run_with(cwd, change, "coin_classifier_custom", *SMALL, *options)


TINY = """
from coinkit.backbones import BACKBONES, Backbone
def make_tiny(num_classes, image_width, image_height, dropout):
    features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout))
    return nn.Sequential(features, pool, nn.Linear(4, num_classes))
BACKBONES["tiny"] = Backbone(make_tiny, head="2", heatmap_layer="0.1")
"""


def test_another_backbone_takes_one_entry(tmp_path):
    make_dataset(tmp_path / "coin_dataset", test=1)
    options = ["--model", "tiny", "--num-epochs", 1, "--learning-rate", 1e-9]
    result = train_with(tmp_path, TINY, *options)
    assert result.returncode == 0, result.stderr
    words, report, model = result.stdout.split("\n\n")[-3:]
    assert " of 3 photos get their grade: " in words and "\nNaming the commonest grade, g06, every time" in words
    assert report.startswith("The report is in report") and model.startswith("The model is in")
    architecture = load(tmp_path, BEST)["architecture"]
    assert architecture == {"image_width": 64, "image_height": 32, "dropout": 0.1}
    (run,) = (tmp_path / "runs").glob("coin_custom_*")
    assert "worst mistakes" in EventAccumulator(str(run / "val")).Reload().Tags()["images"]

    photo = "coin_dataset/test/ms65/0.jpg"
    result = run_with(tmp_path, TINY, "predict", photo, "--heatmap", "why.png")
    assert "Predicted Grade" in result.stdout and (tmp_path / "why.png").exists(), result.stderr
    result = run_with(tmp_path, TINY, "evaluate", "--output", "evaluated")
    assert result.returncode == 0 and (tmp_path / "evaluated" / "index.html").exists(), result.stderr

    make_dataset(tmp_path / "other", grades=("g06", "ms65"))
    options += ["--data", "other", "--output", "tuned", "--init-from", BEST]
    result = train_with(tmp_path, TINY, *options)
    assert "all but its last layer" in result.stdout, result.stderr
    given, tuned = (load(folder, BEST)["model_state_dict"] for folder in (tmp_path, tmp_path / "tuned"))
    assert torch.allclose(given["0.0.weight"], tuned["0.0.weight"], atol=1e-6)
    assert (len(given["2.weight"]), len(tuned["2.weight"])) == (3, 2)


NO_PICTURES = """
from coinkit import tensorboard_log
def fail(*arguments):
    epochs = torch.load(coin.LAST)["progress"]["epochs"]
    raise ValueError(f"no pictures today, and {epochs} epochs are saved")
for name in ("photo_grid", "confusion_chart", "mistake_pictures"):
    setattr(tensorboard_log, name, fail)
"""


def test_a_picture_that_cannot_be_drawn_costs_a_line_and_no_epoch(dataset, tmp_path):
    result = train_with(tmp_path, NO_PICTURES, "--num-epochs", 2)
    assert result.returncode == 0, result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("TensorBoard")]
    assert len(told) == len(result.stderr.splitlines())
    names = ["augmented training photos", "confusion matrix", "worst mistakes"]
    assert all(sum(name in line for line in told) >= 1 for name in names)
    assert "2 epochs are saved" in told[-1]  # by the time that its pictures are drawn
    assert [epoch for epoch, _ in curves(tmp_path)["val", "loss"]] == [1, 2]


PHOTOS_GO = """
end_epoch = coin.Trainer.end_epoch
def photos_go(self, *evaluated):
    for path in self.val.paths:
        path.unlink()
    end_epoch(self, *evaluated)
coin.Trainer.end_epoch = photos_go
"""


def test_validation_photos_that_go_while_it_trains_are_missed_in_pictures_alone(dataset, tmp_path):
    result = train_with(tmp_path, PHOTOS_GO, "--num-epochs", 1, "--learning-rate", 1e-9)
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "runs").glob("coin_custom_*")
    assert EventAccumulator(str(run / "val")).Reload().Tags()["images"] == ["confusion matrix"]


STOPPED = """
validate = coin.Trainer.validate
def stopped(self):
    self.ask_to_stop()
    return validate(self)
coin.Trainer.validate = stopped
"""


def test_a_run_that_was_stopped_while_validating_goes_on_with_that(dataset, tmp_path):
    result = train_with(tmp_path, STOPPED, "--num-epochs", 2)
    assert result.returncode == 130 and "--resume" in result.stdout, result.stderr
    assert load(tmp_path)["progress"]["seen"] == 24
    result = train(tmp_path, "--num-epochs", 2, "--resume")
    assert result.returncode == 0, result.stderr
    assert [epoch for epoch, _ in curves(tmp_path)["val", "loss"]] == [1, 2]


STOPPED_LATER = """
validate = coin.Trainer.validate
def stopped(self):
    if self.progress.epochs:
        self.ask_to_stop()
    return validate(self)
coin.Trainer.validate = stopped
"""


def test_a_run_whose_resume_was_forgotten_can_be_brought_back(dataset, tmp_path):
    result = train_with(tmp_path, STOPPED_LATER, "--num-epochs", 3)
    assert result.returncode == 130, result.stderr
    assert "The best epoch so far, 1, can already predict: python predict.py photo.jpg" in result.stdout
    result = train(tmp_path, "--num-epochs", 1, "--name", "again")  # the same network, whose first epoch is the same
    told = "The run before this one has done 1 of its 3 epochs. To go on with it instead, stop this one: "
    assert f"{told}python coin_classifier_custom.py --resume {PREVIOUS}\n" in result.stdout

    result = train(tmp_path, "--resume", PREVIOUS, "--num-epochs", 1)  # goes on, but has nothing to do
    assert result.returncode == 0 and "has trained 1 epochs already" in result.stdout, result.stderr
    names = (LAST, BEST, PREVIOUS, "coin_classifier_custom_best.previous.pth")
    assert [load(tmp_path, name)["config"]["name"] for name in names] == [None, None, "again", "again"]
    assert load(tmp_path)["progress"]["seen"] == 24

    assert_fails(train(tmp_path, "--resume", BEST), "--resume takes", LAST, PREVIOUS)
    assert_fails(train(tmp_path, "--resume", tmp_path / LAST, "--output", "b"), "leave out --output")


NO_MEMORY_BEYOND = """
forward = coin.CoinClassifier.forward
def limited(self, photos):
    if len(photos) > {limit}:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return forward(self, photos)
coin.CoinClassifier.forward = limited
"""

NO_MEMORY_TO_STEP = """
def step(self, closure=None):
    raise torch.OutOfMemoryError("CUDA out of memory")
torch.optim.AdamW.step = step
"""


# Augmented photos have no equal pixels, of which pooling would take one or another by rounding errors.
AUGMENTED_AT_ONCE = "coin.optim.regularisation_factor = lambda *_: 1.0"


def test_out_of_memory_takes_fewer_photos_at_once_with_the_same_result(tmp_path):
    weights = []
    for folder, limit in ((tmp_path / "enough", 4), (tmp_path / "little", 1)):
        make_dataset(folder / "coin_dataset")
        change = NO_MEMORY_BEYOND.format(limit=limit) + AUGMENTED_AT_ONCE
        result = train_with(folder, change, "--num-epochs", 1, "--dropout", 0)
        assert result.returncode == 0, result.stderr
        told = [line for line in (result.stdout + result.stderr).splitlines() if gpu.OUT_OF_MEMORY in line]
        assert len(told) == (0 if limit == 4 else 2)  # 4 to 2 to 1, each told once
        weights.append(load(folder)["model_state_dict"])
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-3), name
    assert_fails(train_with(folder, NO_MEMORY_BEYOND.format(limit=0)), "one photo at a time", "--image-width")
    assert_fails(train_with(folder, NO_MEMORY_TO_STEP), "out of memory", "smaller")


GROWING = """
augment, logits = coin.augment, coin.Trainer.compute_logits
def told_augment(photos, strength):
    print("strength", strength)
    return augment(photos, strength)
def told_logits(self, photos):
    if self.model.training:
        print("dropout", self.model.dropout1.p, self.model.dropout2.p)
    return logits(self, photos)
coin.augment, coin.Trainer.compute_logits = told_augment, told_logits
coin.share_learned = lambda *_: 0.3
"""


def test_augmentation_and_dropout_grow_no_faster_than_the_network_learns(dataset, tmp_path):
    result = train_with(tmp_path, GROWING, "--num-epochs", 3, "--augment", 2, "--dropout", 0.4)
    assert result.returncode == 0, result.stderr
    told = [line.split() for line in result.stdout.splitlines()]
    strengths = [float(words[1]) for words in told if words[:1] == ["strength"]]
    dropouts = [[float(share) for share in words[1:]] for words in told if words[:1] == ["dropout"]]
    growth = [LEAST_STRENGTH] * 6 + [min(0.6, (step + 0.5) / 9) for step in range(6, 18)]  # 18 steps of 4 photos
    assert strengths == pytest.approx([2 * share for share in growth])
    assert dropouts == pytest.approx(np.array([[0.4 * share] * 2 for share in growth]))


HOLD_BEST = "from coinkit import checkpoints; checkpoints.MAX_SAVING_SHARE = 0"  # nothing is due before the end
SAVE_ALL = "from coinkit import checkpoints; checkpoints.MAX_SAVING_SHARE = float('inf')"
DIE_BEFORE_STEP_5 = """
import os
coin.SAVE_EVERY = 0
train_step = coin.Trainer.train_step
def dying(self, *step):
    return os._exit(9) if self.progress.steps == 4 else train_step(self, *step)
coin.Trainer.train_step = dying
"""


def test_a_run_that_dies_within_an_epoch_goes_on_from_within_it(tmp_path):
    for folder in (tmp_path / "straight", tmp_path / "died"):
        make_dataset(folder / "coin_dataset")
    assert train(tmp_path / "straight", "--num-epochs", 1).returncode == 0
    result = train_with(tmp_path / "died", f"{SAVE_ALL}\n{DIE_BEFORE_STEP_5}", "--num-epochs", 1)
    assert result.returncode == 9 and load(tmp_path / "died")["progress"]["seen"] == 16, result.stderr
    assert run_script("coin_classifier_custom.py", "--resume", cwd=tmp_path / "died").returncode == 0
    expected, resumed = (load(tmp_path / name)["model_state_dict"] for name in ("straight", "died"))
    assert all(weight.equal(resumed[name]) for name, weight in expected.items())


SPOIL_AFTER_EPOCH_6 = """
train_step = coin.Trainer.train_step
def spoiling(self, *step):
    if self.progress.epochs >= 6:
        self.model.fc1.weight.data.zero_()
    return train_step(self, *step) or {stop} and self.progress.epochs == 7
coin.Trainer.train_step = spoiling
"""


@pytest.mark.parametrize("stop", [False, True])
def test_a_best_epoch_that_waits_in_memory_is_written_as_it_was(tmp_path, stop):
    make_dataset(tmp_path / "coin_dataset")
    best, last = [], []
    for when in (HOLD_BEST, SAVE_ALL):
        folder = str(len(best))
        change = f"{when}\n{SPOIL_AFTER_EPOCH_6.format(stop=stop)}"
        result = train_with(tmp_path, change, "--num-epochs", 8, "--output", folder)
        assert result.returncode == (130 if stop else 0), result.stderr
        best.append(load(tmp_path / folder, BEST))
        last.append(load(tmp_path / folder))
    assert {checkpoint["progress"]["best_epoch"] for checkpoint in best + last} == {6}
    for name, tensor in best[0]["model_state_dict"].items():
        assert torch.equal(tensor, best[1]["model_state_dict"][name])


EXPLODING = """
compute_logits = coin.Trainer.compute_logits
def exploding(self, photos):
    global step
    step += self.model.training
    logits = compute_logits(self, photos)
    return logits * (float("nan") if step in {steps} and self.model.training else 1)
coin.Trainer.compute_logits = exploding
"""


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_without_a_finite_loss_changes_nothing(tmp_path, precision):
    make_dataset(tmp_path / "coin_dataset", train=4)
    change = EXPLODING.format(steps="range(2, 4)")
    result = train_with(tmp_path, change, "--num-epochs", 1, "--precision", precision)
    assert result.returncode == 0, result.stderr
    checkpoint = load(tmp_path)
    assert all(tensor.isfinite().all() for tensor in checkpoint["model_state_dict"].values())
    assert checkpoint["optimizer_state_dict"]["state"][0]["step"] == 1 and checkpoint["progress"]["steps"] == 3


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_exploding_run_goes_back_and_slows_down_then_gives_up(tmp_path, precision):
    make_dataset(tmp_path / "coin_dataset")
    options = ["--num-epochs", 3, "--precision", precision]
    result = train_with(tmp_path, HOLD_BEST + EXPLODING.format(steps="range(9, 14)"), *options)
    assert result.returncode == 0, result.stderr
    assert "a tenth of the rate" in result.stdout + result.stderr
    progress = load(tmp_path)["progress"]
    assert (progress["epochs"], progress["steps"], progress["rate_cuts"]) == (3, 18, 1)
    assert [epoch for epoch, _ in curves(tmp_path)["train", "loss"]] == [1, 2, 3]

    result = train_with(tmp_path, HOLD_BEST + EXPLODING.format(steps="range(9, 1000)"), *options)
    assert_fails(result, "exploded 3 times", "--learning-rate 0.0005")
    assert load(tmp_path)["progress"]["epochs"] == load(tmp_path, BEST)["progress"]["epochs"] == 2
