import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALL, assert_fails, make_dataset, run_script, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

BEST, LAST = "coin_classifier_custom_best.pth", "coin_classifier_custom_last.pth"


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
    points = curves(trained)
    assert set(points) == {
        ("train", "loss"), ("train", "accuracy"), ("train", "learning rate"), ("val", "loss"), ("val", "accuracy"),
    }  # fmt: skip
    assert all([epoch for epoch, _ in curve] == list(range(1, 31)) for curve in points.values())
    (run,) = (trained / "runs").glob("coin_custom_*")
    events = EventAccumulator(str(run / "train")).Reload()
    assert events.Tags()["images"] == ["augmented training photos"]
    assert b"learning_rate | 0.005" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def test_the_checkpoint_holds_what_the_guide_promises(trained):
    checkpoint = load(trained, BEST)
    assert {"model_state_dict", "optimizer_state_dict", "best_val_acc", "classes", "format_version"} <= set(checkpoint)
    assert checkpoint["classes"] == ["g06", "vf30", "ms65"]  # in the order of the scale, not of the alphabet
    modules = {name.split(".")[0] for name in checkpoint["model_state_dict"]}
    assert modules == {"conv_block1", "conv_block2", "conv_block3", "conv_block4", "fc1", "fc2", "fc3"}
    assert checkpoint["config"]["learning_rate"] == 0.005


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
    assert process.wait() == 130 and "--resume" in rest
    steps = load(stopped)["progress"]["steps"]
    assert 30 < steps < 90
    assert train(stopped, "--num-epochs", 3, "--resume").returncode == 0

    for name in (LAST, BEST):
        expected, actual = (load(folder, name) for folder in (straight, stopped))
        for key, tensor in expected["model_state_dict"].items():
            assert torch.equal(tensor, actual["model_state_dict"][key]), key
    assert curves(straight) == curves(stopped)


def test_a_finished_run_can_be_given_more_epochs(dataset, tmp_path):
    train(tmp_path, "--num-epochs", 1)
    result = run_script("coin_classifier_custom.py", "--resume", "--num-epochs", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    checkpoint = load(tmp_path)
    assert checkpoint["progress"]["epochs"] == 2
    assert checkpoint["config"]["channels"] == [8, 8, 8, 8]  # of the run, not the defaults
    result = run_script("coin_classifier_custom.py", "--resume", cwd=tmp_path)
    assert "has finished its 2 epochs" in result.stdout and "Epoch" not in result.stdout


def test_accumulated_batches_make_the_same_step_as_large_ones(tmp_path):
    weights = []
    for name, options in (("large", ["--batch-size", 4]), ("small", ["--batch-size", 2, "--accumulate", 2])):
        make_dataset(tmp_path / name / "coin_dataset")
        result = train(tmp_path / name, "--num-epochs", 1, "--dropout", 0, *options)
        assert result.returncode == 0, result.stderr
        weights.append(load(tmp_path / name)["model_state_dict"])
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-3), name  # a step may move a weight by 5e-3


@pytest.mark.parametrize(
    "options",
    [
        ["--residual", "--activation", "leaky_relu", "--channels", 4, 4, 4, 4, 4],
        ["--class-weights", "--label-spread", 0, "--augment", "strong", "--clip-grad-norm", 0, "--no-fused"],
        ["--precision", "bf16", "--no-channels-last", "--augment", "none", "--cache-gb", 0],
    ],
)
def test_the_advice_of_the_guide_is_a_setting(dataset, tmp_path, options):
    result = train(tmp_path, "--num-epochs", 1, *options)
    assert result.returncode == 0, result.stderr
    assert "Test, with the best weights" in result.stdout


def test_it_stops_early_when_asked(dataset, tmp_path):
    result = train(tmp_path, "--num-epochs", 50, "--learning-rate", 1e-9, "--patience", 2)
    assert "stopped early" in result.stdout
    assert load(tmp_path)["progress"]["epochs"] < 50


def test_without_validation_photos_the_last_epoch_is_kept(tmp_path):
    make_dataset(tmp_path / "coin_dataset", val=0, test=0)
    result = train(tmp_path, "--num-epochs", 2)
    assert result.returncode == 0, result.stderr
    assert load(tmp_path, BEST)["progress"]["best_epoch"] == 2


def test_an_earlier_model_is_kept(dataset, tmp_path):
    (tmp_path / BEST).write_bytes(b"mine")
    assert_fails(train(tmp_path, "--data", "nowhere"))
    assert (tmp_path / BEST).read_bytes() == b"mine"
    train(tmp_path, "--num-epochs", 1)
    assert (tmp_path / "coin_classifier_custom_best.previous.pth").read_bytes() == b"mine"
    assert load(tmp_path, BEST)["classes"]


def test_mistakes_are_told_in_a_line(tmp_path):
    assert_fails(train(tmp_path), "prepare_dataset.py")
    make_dataset(tmp_path / "coin_dataset", train=1)
    assert_fails(train(tmp_path, "--resume"), LAST)
    for options in (["--batch-size", 0], ["--image-width", 8], ["--channels", 8], ["--dropout", 1], ["--augment", "x"]):
        assert_fails(train(tmp_path, *options), options[0])
    assert_fails(train(tmp_path, "--device", "cuda:99"), "--device cuda:99")
    photo = tmp_path / "coin_dataset" / "train" / "vf30" / "0.jpg"
    photo.write_bytes(b"no photo")
    assert_fails(train(tmp_path), "0.jpg", "prepare_dataset.py")
    photo.unlink()
    assert_fails(train(tmp_path), "vf30", "prepare_dataset.py")


def test_resume_refuses_another_network_or_other_grades(dataset, tmp_path):
    train(tmp_path, "--num-epochs", 1)
    before = (tmp_path / LAST).read_bytes()
    result = run_script("coin_classifier_custom.py", "--resume", "--fc-features", 8, 8, cwd=tmp_path)
    assert_fails(result, "another architecture")
    make_dataset(dataset, grades=["au58"])
    assert_fails(run_script("coin_classifier_custom.py", "--resume", cwd=tmp_path), "other grades")
    assert (tmp_path / LAST).read_bytes() == before


def test_resnet50_trains_in_the_same_loop(dataset, tmp_path):
    result = train(tmp_path, "--model", "resnet50", "--num-epochs", 1, "--image-width", 64, "--image-height", 64)
    assert result.returncode == 0, result.stderr
    assert "23.5 million parameters" in result.stdout
    result = run_script("predict.py", "coin_dataset/test/ms65/0.jpg", cwd=tmp_path)
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
    given, taken = load(trained, BEST)["model_state_dict"], load(tmp_path)["model_state_dict"]
    assert torch.allclose(taken["fc1.weight"], given["fc1.weight"], atol=1e-6)
    assert taken["fc3.weight"].shape == (2, 16) and given["fc3.weight"].shape == (3, 16)
    assert_fails(train(tmp_path, *options, "--fc-features", 8, 8), "another architecture", "fc1.weight")
