"""A model that was exported gives the probabilities that predict.py gives, or is not written."""

import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT, assert_fails, draw_photo, run_script
from PIL import Image

import export
from coinkit.inference import grade_photos
from predict import load_networks

BEST = "coin_classifier_custom_best.pth"
PHOTO = "coin_dataset/test/ms65/0.jpg"


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """A copy of the trained model and its dataset, with coin_classifier.onnx."""
    folder = tmp_path_factory.mktemp("export") / "coins"
    shutil.copytree(trained, folder)
    result = run_script("export.py", cwd=folder)
    assert result.returncode == 0, result.stderr
    size, difference = result_of("fp32", result.stdout)
    assert size == pytest.approx(size_of(folder, "coin_classifier.onnx"), abs=0.06) and difference <= 1e-4
    assert result.stdout.endswith(f"{export.INSTALL}, and then the program in docs/onnx.md.\n")
    return folder


def result_of(precision, output):
    """The size in MB and the largest difference that export.py prints."""
    return map(float, re.search(rf"{precision} +([\d.]+) MB .* differ by up to (\S+)", output).groups())


def size_of(folder, name):
    return (folder / name).stat().st_size / 1e6


@pytest.fixture(scope="module")
def predicted(folder):
    return predict(folder, BEST)


def predict(folder, checkpoint, photo=PHOTO):
    """The probabilities that predict.py gives in fp32, as ONNX Runtime multiplies; in bf16, they differ a little."""
    device = torch.device("cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coinkit.inference.choose_dtype", lambda *_: torch.float32)
        networks, classes = load_networks([folder / checkpoint], device)
        ((_, (probabilities, _)),) = grade_photos(networks, [folder / photo], tta=False)
    return dict(zip(classes, probabilities.tolist(), strict=True))


def grade(folder, name, photos):
    session = onnxruntime.InferenceSession(folder / name)
    return session.run(None, {"photos": photos})[0]


@pytest.fixture(scope="module")
def snippet():
    (snippet,) = re.findall(r"```python\n(import json\n.+?)```", (ROOT / "docs/onnx.md").read_text("utf-8"), re.DOTALL)
    return snippet


def test_the_page_on_onnx_grades_a_photo_with_onnx_runtime_word_for_word(folder, predicted, snippet):
    assert len(snippet.strip().splitlines()) <= 12 and "torch" not in snippet
    assert export.INSTALL in (ROOT / "docs/onnx.md").read_text("utf-8")
    shutil.copy(folder / PHOTO, folder / "photo.jpg")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    others = {"torch", "tqdm", "cv2", "scipy", "filelock", "imagehash"}  # which the page does not ask to install
    command = [sys.executable, "-c", f"{snippet}\nimport sys\nassert not {others} & {{*sys.modules}}"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    name, confidence = re.fullmatch(r"(\w+): ([\d.]+)%\n", result.stdout).groups()
    assert name == max(predicted, key=predicted.get) == "ms65"
    assert float(confidence) / 100 == pytest.approx(predicted[name], abs=1e-4)


def odd_photos() -> dict[str, bytes]:
    """Photos of which ONNX Runtime and predict.py might see different pixels."""
    photo, exif = draw_photo(1), Image.Exif()
    exif[274] = 6  # lies on its side
    cut_out = photo.copy()
    cut_out.putalpha(draw_photo(2, mode="L"))
    grey = Image.fromarray(np.asarray(draw_photo(3, mode="L")).astype(np.uint16) * 257)
    large = draw_photo(5, (1200, 600))
    ways = {
        "cut-out PNG": (cut_out, {"format": "PNG"}),
        "16-bit PNG": (grey, {"format": "PNG"}),
        "palette with transparency": (photo.quantize(16), {"format": "PNG", "transparency": 0}),
        "square": (draw_photo(4, (120, 120)), {"format": "PNG"}),
        "turned": (photo.transpose(Image.Transpose.ROTATE_90), {"format": "JPEG", "exif": exif}),
        "large": (large, {"format": "JPEG"}),
    }
    files = {}
    for name, (picture, options) in ways.items():
        picture.save(file := io.BytesIO(), **options)
        files[name] = file.getvalue()
    return files


@pytest.mark.parametrize("kind", odd_photos())
def test_the_page_on_onnx_and_predict_see_the_same_photo(folder, tmp_path, monkeypatch, capsys, snippet, kind):
    (tmp_path / "photo.jpg").write_bytes(odd_photos()[kind])
    shutil.copy(folder / "coin_classifier.onnx", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    name, confidence = re.fullmatch(r"(\w+): ([\d.]+)%\n", capsys.readouterr().out).groups()
    expected = predict(folder, BEST, tmp_path / "photo.jpg")
    assert name == max(expected, key=expected.get)
    assert float(confidence) / 100 == pytest.approx(expected[name], abs=2e-4)


def test_a_damaged_test_photo_is_left_out_and_the_model_exported(folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(folder / "coin_dataset/test", tmp_path / "photos")
    damaged = tmp_path / "photos/g06/0.jpg"
    damaged.write_bytes(damaged.read_bytes()[:500])
    options = ("--photos", tmp_path / "photos", "--output", tmp_path / "coin.onnx")
    export_again(folder, monkeypatch, folder / "coin_classifier.onnx", *options)
    output = capsys.readouterr()
    assert "Left out" in output.err and str(damaged) in output.err
    assert "Compared on 8 photos" in output.out and (tmp_path / "coin.onnx").exists()
    for photo in (tmp_path / "photos").rglob("*.jpg"):
        photo.write_text("damaged")
    with pytest.raises(export.UserError, match="none of the photos .* --photos"):
        export_again(folder, monkeypatch, folder / "coin_classifier.onnx", *options)


def test_the_metadata_say_how_photos_are_to_be_prepared(folder):
    session = onnxruntime.InferenceSession(folder / "coin_classifier.onnx")
    assert str(ROOT).encode() not in (folder / "coin_classifier.onnx").read_bytes()  # nothing of this computer
    metadata = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    checkpoint = torch.load(folder / BEST)
    assert metadata["classes"] == checkpoint["classes"] and metadata["temperature"] == checkpoint["temperature"]
    assert (metadata["image_width"], metadata["image_height"]) == (64, 32)
    assert metadata["mean"] == list(export.MEAN) and metadata["std"] == list(export.STD)


def test_any_number_of_photos_is_graded_at_once(folder):
    photos = np.random.default_rng(0).integers(0, 256, (5, 32, 64, 3), dtype=np.uint8)
    together = grade(folder, "coin_classifier.onnx", photos)
    one_by_one = np.concatenate([grade(folder, "coin_classifier.onnx", photo[None]) for photo in photos])
    assert together.shape == (5, 3) and np.allclose(together, one_by_one, atol=1e-5)
    assert np.allclose(together.sum(axis=1), 1, atol=1e-5)


def run_here(folder, monkeypatch, *options):
    """Run export.py in this process, which has imported already what takes seconds."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, options)])
    export.main()


def export_again(folder, monkeypatch, exported, *options):
    """Export a model that has been exported before, since that takes long."""
    monkeypatch.setattr(export, "save_onnx", lambda grader, checkpoint, path: shutil.copy(exported, path))
    run_here(folder, monkeypatch, *options)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_smaller_model_tells_what_it_costs(folder, tmp_path, monkeypatch, capsys, precision):
    full, small = folder / "coin_classifier.onnx", tmp_path / "small.onnx"
    export_again(folder, monkeypatch, full, "--precision", precision, "--output", small)
    size, difference = result_of(precision, capsys.readouterr().out)
    assert size == pytest.approx(size_of(tmp_path, "small.onnx"), abs=0.06)
    assert 0 < difference < 0.05
    assert weight_bytes(small) < {"fp16": 0.6, "int8": 0.9}[precision] * weight_bytes(full)  # few are of FC layers here
    metadata = onnxruntime.InferenceSession(small).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["g06", "vf30", "ms65"]


def weight_bytes(path):
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(path).graph.initializer)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_checkpoint_to_share_is_small_and_predicts(folder, predicted, tmp_path, monkeypatch, precision):
    output = tmp_path / "shared.pth"
    run_here(folder, monkeypatch, "--weights-only", "--precision", precision, "--output", output)
    share = {"fp32": 0.45, "fp16": 0.3}[precision]  # without the two moments of AdamW
    assert output.stat().st_size < share * (folder / BEST).stat().st_size
    shared = torch.load(output)
    assert "optimizer_state_dict" not in shared
    assert shared["training_photos"].equal(
        torch.load(folder / BEST)["training_photos"]
    )  # so that evaluate.py knows them
    assert predict(folder, output) == pytest.approx(predicted, abs=1e-6 if precision == "fp32" else 0.01)


def test_a_model_that_grades_otherwise_is_not_written(folder, tmp_path, monkeypatch):
    export.shrink_onnx(shutil.copy(folder / "coin_classifier.onnx", tmp_path / "other.onnx"), "int8")
    before = (folder / "coin_classifier.onnx").read_bytes()
    with pytest.raises(export.UserError, match="differs by more than 0.0001"):
        export_again(folder, monkeypatch, tmp_path / "other.onnx")
    assert (folder / "coin_classifier.onnx").read_bytes() == before
    assert not list(folder.glob("*.partial*"))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_its_packages_onnx_is_refused_in_a_line_and_weights_are_exported(folder, tmp_path, package):
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{package}'\")")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = run_script("export.py", "--output", tmp_path / "coin.onnx", cwd=folder, env=environment)
    assert_fails(result, "pip install -r requirements-export.txt", package)
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / "coin.onnx").exists()

    weights = tmp_path / "coin.pth"
    result = run_script("export.py", "--weights-only", "--output", weights, cwd=folder, env=environment)
    assert result.returncode == 0 and weights.exists(), result.stderr


def test_the_packages_for_onnx_are_those_of_their_requirements():
    lines = (ROOT / "requirements-export.txt").read_text("utf-8").splitlines()
    assert {line.split("==")[0] for line in lines} == set(export.ONNX_PACKAGES)


def test_without_photos_nothing_is_exported(folder, tmp_path, monkeypatch):
    with pytest.raises(export.UserError, match="no photos in .* --photos"):
        run_here(folder, monkeypatch, "--photos", tmp_path)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--weights-only", "--output", BEST], "another name"),
        (["--weights-only", "--precision", "int8"], "fp16"),
        (["--output", "photo.jpg"], "ends in .onnx"),
        (["--weights-only", "--output", "coin.onnx"], "ends in .pth"),
    ],
)
def test_options_that_make_no_sense_are_refused(folder, monkeypatch, capsys, options, words):
    with pytest.raises(SystemExit):
        run_here(folder, monkeypatch, *options)
    assert words in capsys.readouterr().err
