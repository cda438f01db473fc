import json
import pickle
import shutil

import pytest
import torch
from conftest import assert_fails, run_script
from PIL import Image

BEST = "coin_classifier_custom_best.pth"


def predict(cwd, *arguments):
    return run_script("predict.py", *arguments, "--device", "cpu", cwd=cwd)


def as_json(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_photo_gets_its_grade_as_the_guide_shows_it(trained):
    result = predict(trained, "coin_dataset/train/ms65/0.jpg")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "Predicted Grade: ms65"
    assert lines[1].startswith("Confidence: ") and lines[1].endswith("%")
    assert lines[2:4] == ["", "Top 3 Predictions:"]
    assert lines[4] == f"  ms65: {lines[1].removeprefix('Confidence: ')}"
    assert {line.split(":")[0].strip() for line in lines[4:]} == {"g06", "vf30", "ms65"}


def test_files_folders_and_patterns(trained):
    photos = as_json(predict(trained, "coin_dataset/test/g06", "coin_dataset/t*/vf30/1.jpg", "--json", "--top-k", 2))
    names = [photo["photo"].replace("\\", "/").removeprefix("coin_dataset/") for photo in photos]
    assert names == ["test/g06/0.jpg", "test/g06/1.jpg", "test/g06/2.jpg", "test/vf30/1.jpg", "train/vf30/1.jpg"]
    for photo in photos:
        assert len(photo["top"]) == 2 and photo["top"][0]["grade"] == photo["grade"]
        assert 1 >= photo["top"][0]["confidence"] >= photo["top"][1]["confidence"] >= 0


def test_a_photo_and_its_shrunk_copy_get_the_same_grade(trained, tmp_path):
    with Image.open(trained / "coin_dataset/train/vf30/0.jpg") as photo:
        large = photo.resize((6000, 3000), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=92)
    large.resize((1024, 512), Image.Resampling.BICUBIC).save(tmp_path / "small.jpg", quality=95, subsampling=0)
    small, large = (
        {top["grade"]: top["confidence"] for top in photo["top"]}
        for photo in as_json(predict(trained, tmp_path / "small.jpg", tmp_path / "large.jpg", "--json"))
    )
    assert all(abs(small[grade] - large[grade]) < 0.02 for grade in small)


def test_the_temperature_of_the_checkpoint_decides_how_sure_it_is(trained, tmp_path):
    confidences = []
    for temperature in (0.5, 1.0, 2.0):
        checkpoint = torch.load(trained / BEST, weights_only=True) | {"temperature": temperature}
        torch.save(checkpoint, tmp_path / BEST)
        photo = trained / "coin_dataset/train/vf30/0.jpg"
        confidences.append(as_json(predict(tmp_path, photo, "--json"))[0]["confidence"])
    assert confidences == sorted(confidences, reverse=True) and confidences[0] > confidences[2]


def test_a_photo_that_cannot_be_read_is_named_and_the_others_graded(trained, tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    result = predict(trained, tmp_path / "text.jpg", "missing.jpg", "coin_dataset/test/g06/0.jpg", "--json")
    assert result.returncode == 1 and len(as_json(result)) == 1
    assert "text.jpg: not a" in result.stderr and "missing.jpg: no such file" in result.stderr
    assert_fails(predict(trained, tmp_path / "text.jpg"), "text.jpg")
    (tmp_path / "empty").mkdir()
    result = predict(trained, tmp_path / "empty", "no*.jpg", "coin_dataset/test/g06/0.jpg", "--json")
    assert result.returncode == 1 and len(as_json(result)) == 1
    assert "empty: not a" in result.stderr and "no*.jpg: no such file" in result.stderr


class Hostile:
    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.mark.parametrize(
    "kind", ["missing", "cut short", "text", "pickle", "of another program", "incomplete", "wrong"]
)
def test_a_bad_checkpoint_is_an_error_and_nothing_in_it_is_executed(trained, tmp_path, kind):
    path = tmp_path / BEST
    checkpoint = torch.load(trained / BEST, weights_only=True)
    match kind:
        case "cut short":
            path.write_bytes((trained / BEST).read_bytes()[:-1000])
        case "text":
            path.write_text("no checkpoint")
        case "pickle":
            path.write_bytes(pickle.dumps(Hostile()))
        case "foreign":
            torch.save({"model_state_dict": {}, "hostile": Hostile()}, path)
        case "incomplete":
            del checkpoint["architecture"]
            torch.save(checkpoint, path)
        case "wrong":
            checkpoint["classes"] = ["g06"]
            torch.save(checkpoint, path)
    shutil.copy(trained / "coin_dataset/test/g06/0.jpg", tmp_path / "photo.jpg")
    assert_fails(predict(tmp_path, "photo.jpg"), BEST)
    assert not (tmp_path / "executed").exists()
