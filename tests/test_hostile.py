"""What comes from anywhere: photos, file names and checkpoints that nobody made in good faith; and full disks."""

import contextlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL, add_photo, assert_fails, run_script, train
from hostile import check_predict, check_prepare, make_files, measure
from PIL import Image

BEST, LAST = "coin_classifier_custom_best.pth", "coin_classifier_custom_last.pth"
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")


def test_mutated_photos_are_graded_or_left_out_with_a_reason(trained, tmp_path):
    make_files(tmp_path / "images", 100, seed=1)
    assert check_prepare(tmp_path)["kept"] < 124
    assert check_predict(tmp_path, trained / BEST)["kept"] < 124


# ---------------------------------------------------------------- photos and their names


def add_bombs(folder: Path) -> set[str]:
    """Write small files that ask for much memory or time, and return their names."""

    def save(photo: Image.Image, name: str, **options) -> bytes:
        photo.save(folder / name, **options)
        return (folder / name).read_bytes()

    save(Image.new("1", (30000, 20000)), "bomb.png")
    save(Image.new("1", (30000, 20000)), "bomb.tif", compression="group4")
    save(Image.new("RGB", (16000, 4000)), "bomb.webp", method=0, quality=0)
    header = (60000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    chunk = len(header).to_bytes(4, "big") + b"IHDR" + header + zlib.crc32(b"IHDR" + header).to_bytes(4, "big")
    (folder / "declared.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    data = save(Image.new("RGB", (2000, 1000)), "scans.jpg", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    (folder / "scans.jpg").write_bytes(data[:-2] + 100 * last_scan + data[-2:])
    (folder / "sparse.webp").write_bytes((folder / "bomb.webp").read_bytes())
    os.truncate(folder / "sparse.webp", 10**10)
    return {"bomb.png", "bomb.tif", "bomb.webp", "declared.png", "scans.jpg", "sparse.webp"}


@POSIX
def test_bombs_pipes_and_loops_are_left_out(images, tmp_path):
    folder = images / "vf30" / "6000x3000"
    hostile = add_bombs(folder) | {"pipe.jpg", "loop.jpg", "other.jpg", "nowhere.jpg"}
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "other.jpg").symlink_to("/dev/zero")
    (folder / "nowhere.jpg").symlink_to("gone.jpg")
    (images / "vf30" / "round").symlink_to(images)
    took = measure("prepare_dataset.py", cwd=tmp_path, seconds=60)
    assert took["status"] == 0, took["lines"]
    rows = (tmp_path / "coin_dataset" / "manifest.csv").read_text("utf-8").splitlines()[1:]
    left_out = {Path(row.split(",")[0]).name for row in rows if row.split(",")[2] == ""}
    assert left_out == hostile
    assert "too large" in " ".join(took["lines"]) and "scans" in " ".join(took["lines"])


@POSIX
def test_names_in_any_script_and_no_script_are_photos_too(trained, tmp_path):
    names = ["鑑定.jpg", "монета 1.jpg", "عملة.jpg", "🪙.jpg", "a\nb.jpg", "c\rd.jpg", 'quo",te.jpg', "-x.jpg"]
    names += ["x" * 250 + ".jpg", "\x1b[31mred.jpg", os.fsdecode(b"\xff\xfe.jpg")]
    for number, name in enumerate(names):
        add_photo(tmp_path / "images", "ms65", "photo.jpg", number).rename(tmp_path / "images/ms65/6000x3000" / name)
    for grade in ("vf30", ".hidden", " ..", "a\nb", os.fsdecode(b"\xff")):
        add_photo(tmp_path / "images", grade, "photo.jpg", 100 + len(grade) + ord(grade[0]))
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "coin_dataset" / "train" / "ms65").iterdir())) >= 7
    before = sorted(path for path in (tmp_path / "coin_dataset").rglob("*.jpg"))
    assert len(before) == len(names) + 3  # one for each grade but the two that are hidden
    assert run_script("prepare_dataset.py", cwd=tmp_path).returncode == 0
    assert sorted((tmp_path / "coin_dataset").rglob("*.jpg")) == before

    result = run_script("predict.py", "images/ms65", "y" * 300, "--json", "--checkpoint", trained / BEST, cwd=tmp_path)
    photos = [json.loads(line)["photo"] for line in result.stdout.splitlines()]
    assert {Path(photo).name for photo in photos} == set(names)
    assert result.stderr.count("\n") == 1 and "y: cannot be read" in result.stderr


@POSIX
def test_what_may_not_be_read_or_written_is_said(images, tmp_path):
    command = [sys.executable, str(ROOT / "prepare_dataset.py")]
    if os.geteuid() == 0:  # root may read and write everything, unless it gives that up
        if not shutil.which("setpriv"):
            pytest.skip("root has no setpriv to become an ordinary user with")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    (images / "vf30" / "6000x3000" / "10000000.jpg").chmod(0)
    tmp_path.chmod(0o555)
    dry, wet = (
        subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
        for options in (["--dry-run"], [])
    )
    tmp_path.chmod(0o755)
    assert dry.returncode == 0 and "10000000.jpg: cannot be read: Permission denied" in dry.stdout, dry.stderr
    assert_fails(wet, "Permission denied", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


# ---------------------------------------------------------------- checkpoints


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile_checkpoint(kind: str, checkpoint: dict, path: Path) -> None:
    """Write a checkpoint that is hostile in some way."""
    architecture, weights = checkpoint["architecture"], checkpoint["model_state_dict"]
    match kind:
        case "code":
            checkpoint["classes"] = Call(open, "executed", "w")
        case "a pickle of code":
            path.write_bytes(pickle.dumps(Call(open, "executed", "w")))
            return
        case "allocation":
            checkpoint["classes"] = Call(bytearray, 3 * 10**9)
        case "list of numbers":
            checkpoint = [1, 2, 3]
        case "classes of numbers":
            checkpoint["classes"] = [1, 2, 3]
        case "text for weights":
            checkpoint["model_state_dict"] = "weights"
        case "numbers for weights":
            checkpoint["model_state_dict"] = dict.fromkeys(weights, 1)
        case "whole numbers":
            checkpoint["model_state_dict"] = {name: weight.long() for name, weight in weights.items()}
        case "other shapes":
            checkpoint["model_state_dict"] = {name: weight[..., None] for name, weight in weights.items()}
        case "text for a temperature":
            checkpoint["temperature"] = "hot"
        case "no classes":
            del checkpoint["classes"]
        case "no weight":
            del weights["fc3.weight"]
        case "a future format":
            checkpoint["format_version"] = 99
        case "a format of tensors":
            checkpoint["format_version"] = torch.ones(3)
        case "unknown model":
            checkpoint["model"] = "vit"
        case "a terabyte":
            checkpoint["architecture"] = architecture | {"fc_features": [2**20, 2**18]}
        case "a terabyte of nothing":  # its weights have that shape, but all their numbers are the same one
            checkpoint["architecture"] = architecture | {"fc_features": [2**20, 2**18]}
            shapes = {"fc1.weight": (2**20, 64), "fc1.bias": (2**20,), "fc2.weight": (2**18, 2**20)}
            shapes |= {"fc2.bias": (2**18,), "fc3.weight": (3, 2**18)}
            weights |= {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
        case "large photos":
            checkpoint["architecture"] = architecture | {"image_width": 10**6, "image_height": 10**6}
    torch.save(checkpoint, path)
    if kind == "zip bomb":
        whole = io.BytesIO(path.read_bytes())
        with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name in archive.namelist():
                padding = b"\0" * 10**8 if name.endswith("data.pkl") else b""
                packed.writestr(name, archive.read(name) + padding)


HOSTILE = (
    "code", "a pickle of code", "allocation", "zip bomb", "list of numbers", "classes of numbers", "text for weights",
    "numbers for weights", "whole numbers", "other shapes", "text for a temperature", "no classes", "no weight",
    "a future format", "a format of tensors", "unknown model", "a terabyte", "a terabyte of nothing", "large photos",
)  # fmt: skip


LOAD_ALL = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from coin_classifier_custom import build_model
from coinkit.checkpoints import load_checkpoint
from coinkit.cli import UserError
for path in map(Path, sys.argv[1:]):
    try:
        build_model(load_checkpoint(path), path)
    except UserError as error:
        print(error)
"""


def test_a_hostile_checkpoint_is_an_error_line(trained, tmp_path):
    (tmp_path / "load_all.py").write_text(LOAD_ALL.format(root=str(ROOT)))
    for kind in HOSTILE:
        hostile_checkpoint(kind, torch.load(trained / BEST, weights_only=True), tmp_path / f"{kind}.pth")
    took = measure(tmp_path / "load_all.py", *(f"{kind}.pth" for kind in HOSTILE), cwd=tmp_path, seconds=60)
    assert [line.split(".pth")[0] for line in took["lines"]] == list(HOSTILE)
    assert not (tmp_path / "executed").exists()
    options = ("--checkpoint", "a terabyte of nothing.pth", "photo.jpg")
    took = measure("predict.py", *options, cwd=tmp_path, seconds=60)
    assert took["status"] == 1 and len(took["lines"]) == 1 and "larger than the file" in took["lines"][0]


@pytest.mark.parametrize(
    "kind", ["a terabyte", "text in the progress", "epochs below 0", "averages of another shape", "an option"]
)
def test_a_hostile_checkpoint_is_not_resumed(trained, tmp_path, kind):
    checkpoint = torch.load(trained / LAST, weights_only=True)
    match kind:
        case "text in the progress":
            checkpoint["progress"]["steps"] = "many"
        case "epochs below 0":
            checkpoint["progress"]["epochs"] = -1
        case "averages of another shape":
            checkpoint["optimizer_state_dict"]["state"][0]["exp_avg"] = torch.ones(1)
        case "an option":
            checkpoint["config"]["batch_size"] = [2.5]
    hostile_checkpoint(kind, checkpoint, tmp_path / LAST)
    before = (tmp_path / LAST).read_bytes()
    options = ("--resume", "--num-epochs", 40, "--data", trained / "coin_dataset")
    took = measure("coin_classifier_custom.py", *options, cwd=tmp_path, seconds=60)
    assert took["status"] in (1, 2) and "rror: " in took["lines"][-1], took["lines"]
    assert (tmp_path / LAST).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {LAST}


@pytest.mark.parametrize("kind", ["code", "list of numbers", "numbers for weights"])
def test_nobody_starts_from_hostile_weights(trained, tmp_path, kind):
    hostile_checkpoint(kind, torch.load(trained / BEST, weights_only=True), tmp_path / "weights.pth")
    for options in (("--init-from", "weights.pth"), ("--model", "resnet50", "--pretrained", "weights.pth")):
        command = ("coin_classifier_custom.py", *SMALL, *options, "--data", trained / "coin_dataset")
        took = measure(*command, cwd=tmp_path, seconds=60)
        assert took["status"] == 1 and "Error: " in took["lines"][-1], took["lines"]
    assert {path.name for path in tmp_path.iterdir()} == {"weights.pth"}


# ---------------------------------------------------------------- two at once, and full disks


def is_held(lock: Path) -> bool:
    import fcntl

    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def halted(script: str, *arguments, cwd: Path, lock: Path):
    """Start a command, and stop it while it holds its lock; it is killed in the end."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not is_held(lock) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.kill()


@POSIX
def test_two_at_once_do_not_mix(images, dataset, tmp_path):
    shutil.rmtree(dataset)
    with halted("prepare_dataset.py", cwd=tmp_path, lock=tmp_path / ".coin_dataset.lock"):
        assert_fails(run_script("prepare_dataset.py", cwd=tmp_path), "another run is writing coin_dataset")
        assert run_script("prepare_dataset.py", "--dry-run", cwd=tmp_path).returncode == 0
    assert run_script("prepare_dataset.py", cwd=tmp_path).returncode == 0  # the lock went with the killed run
    assert {path.name for path in tmp_path.iterdir()} == {"images", "coin_dataset"}
    lock = tmp_path / ".coin_classifier_custom.lock"
    with halted("coin_classifier_custom.py", *SMALL, cwd=tmp_path, lock=lock):
        assert_fails(train(tmp_path, "--num-epochs", 1), "another run is writing checkpoints")


def limited(file_bytes: int) -> dict:
    """Return the options of a process whose files cannot grow beyond so many bytes."""
    import resource

    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@POSIX
def test_a_disk_that_fills_up_leaves_what_was_there(images, trained, tmp_path):
    assert run_script("prepare_dataset.py", cwd=tmp_path).returncode == 0
    before = contents(tmp_path)
    for size in (10_000, 3_000):
        result = run_script("prepare_dataset.py", "--size", 900, 450, cwd=tmp_path, **limited(size))
        assert_fails(result, "the disk is full", "are needed", "MB")
        assert contents(tmp_path) == before and not (tmp_path / ".coin_dataset.partial").exists()

    for name in (BEST, LAST):
        shutil.copy(trained / name, tmp_path)
    before = contents(tmp_path)
    room = limited((tmp_path / LAST).stat().st_size // 4)  # less than a new run takes, which has no averages yet
    for options in (["--num-epochs", 1], ["--resume", "--num-epochs", 31]):
        result = train(tmp_path, "--data", trained / "coin_dataset", *options, **room)
        assert_fails(result, "the disk is full", "are needed", "kB")
        after = contents(tmp_path)
        assert {name: after[name] for name in before} == before
        assert not [name for name in after if name.endswith((".partial", ".lock"))]


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_too_small_is_told_ahead(images, trained, tmp_path, small_disk):
    assert_fails(run_script("prepare_dataset.py", "--output", small_disk / "set", cwd=tmp_path), "are free", "6 MB")
    options = ("--data", trained / "coin_dataset", "--output", small_disk, "--num-epochs", 1)
    assert_fails(train(tmp_path, *options), "are free", "are needed")
    assert not list(small_disk.iterdir())
