"""Disks that are not like the usual ones: mounts, network disks, disks that can only be read; and long names."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT, add_photo, assert_fails, draw_photo, run_script, train

from coinkit import cli, files
from coinkit.cli import UserError, worker_pool
from coinkit.files import atomic_link
from coinkit.training_photos import find_sources

BEST = "coin_classifier_custom_best.pth"
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")


def mount(folder, *options: str):
    """Mount something at a folder, or skip the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    if not shutil.which("mount") or subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed")


@pytest.fixture(params=["another disk", "the same disk"])
def volume(request, tmp_path):
    """A folder that cannot be renamed, as a volume of Docker is."""
    folder, other = tmp_path / "volume", tmp_path / "other"
    other.mkdir()
    mount(folder, *(["-t", "tmpfs", "tmpfs"] if request.param == "another disk" else ["--bind", str(other)]))
    (folder / "lost+found").mkdir()
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def open_elsewhere(path, tries, monkeypatch):
    """Let a file or folder be renamed or replaced only after some tries, as on Windows if a program has it open."""
    replace, refusals = os.replace, []

    def refusing(source, to):
        if path in (source, to) and len(refusals) < tries:
            refusals.append(to)
            raise PermissionError(errno.EACCES, "Access is denied", str(source))
        replace(source, to)

    monkeypatch.setattr(os, "replace", refusing)
    monkeypatch.setattr(files, "REPLACE_WAITS", (0.01, 0.01))


def test_a_file_that_another_program_has_open_loses_nothing(tmp_path, monkeypatch):
    target = tmp_path / "grades.csv"
    open_elsewhere(target, 2, monkeypatch)
    with files.atomic_write(target) as partial:
        partial.write_text("new")
    open_elsewhere(target, 9, monkeypatch)
    refusal = pytest.raises(UserError, match=r"open in another program.*grades\.csv\.new")
    with refusal, files.atomic_write(target) as partial:
        partial.write_text("newer")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "grades.csv": "new",
        "grades.csv.new": "newer",
    }


def test_a_dataset_and_a_report_are_written_to_a_volume(images, trained, tmp_path, volume):
    outside = names(tmp_path)
    for _ in range(2):
        result = run_script("prepare_dataset.py", "--output", volume, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert names(volume) == {"lost+found", "train", "val", "test", "manifest.csv", ".manifest.csv"}
        assert len(list(volume.rglob("*.jpg"))) == 24 and names(tmp_path) == outside
    for name in ("train", "val", "test"):
        shutil.rmtree(volume / name)
    for name in ("manifest.csv", ".manifest.csv"):
        (volume / name).unlink()
    options = ("--data", trained / "coin_dataset", "--checkpoint", trained / BEST, "--device", "cpu")
    for _ in range(2):
        result = run_script("evaluate.py", *options, "--output", volume, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert names(volume) >= {"lost+found", "index.html", "metrics.json"} and names(tmp_path) == outside
    (volume / "mine.txt").write_text("mine")
    assert_fails(run_script("evaluate.py", *options, "--output", volume, cwd=tmp_path), "mine.txt", "would be lost")


def test_the_folder_that_a_shell_is_in_is_written_to(images, tmp_path):
    (tmp_path / "set").mkdir()
    inode = (tmp_path / "set").stat().st_ino
    for _ in range(2):
        result = run_script("prepare_dataset.py", "--source", images, "--output", ".", cwd=tmp_path / "set")
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "set").stat().st_ino == inode
    assert names(tmp_path / "set") == {"train", "val", "test", "manifest.csv", ".manifest.csv"}


@pytest.mark.parametrize("name", ["diary.txt", ".secret"])
def test_what_somebody_else_keeps_on_a_volume_is_not_touched(images, tmp_path, volume, name):
    (volume / name).write_text("mine")
    assert_fails(run_script("prepare_dataset.py", "--output", volume, cwd=tmp_path), name, "would be lost")
    assert names(volume) == {"lost+found", name}


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV, errno.EACCES])
@pytest.mark.parametrize("fatal", [True, False], ids=["killed", "failed"])
def test_a_folder_that_cannot_be_renamed_has_the_old_or_the_new_content(tmp_path, monkeypatch, code, fatal):
    """However many renames an interrupted run has made."""
    real, contents = os.rename, []

    def write(number: int, renames: float) -> None:
        left = renames

        def rename(source, target):
            nonlocal left
            if os.fspath(source) == os.fspath(folder):
                raise OSError(code, "cannot be renamed")
            left -= 1
            if left == -1 or (fatal and left < 0):
                raise KeyboardInterrupt
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", rename)
            with files.atomic_folder(folder) as partial:
                for name in ("a", "b", f"only{number}"):
                    (partial / name).mkdir()
                    (partial / name / "file").write_text(str(number))

    for renames in range(12):
        folder = tmp_path / str(renames)
        folder.mkdir()
        write(1, 99)
        try:
            write(2, renames)
        except KeyboardInterrupt:
            files.restore_previous(folder)
        shutil.rmtree(files.hidden_sibling(folder, "partial"), ignore_errors=True)
        contents.append({path.parent.name: path.read_text() for path in folder.rglob("file")})
    old, new = ({"a": number, "b": number, f"only{number}": number} for number in "12")
    assert contents[0] == old and contents[-1] == new and all(content in (old, new) for content in contents)


def test_a_folder_that_another_program_has_open_loses_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "report"
    folder.mkdir()
    open_elsewhere(folder, 2, monkeypatch)
    with files.atomic_folder(folder) as partial:
        (partial / "new").touch()
    open_elsewhere(folder, 9, monkeypatch)
    refusal = pytest.raises(UserError, match="report is open in another program")
    with refusal, files.atomic_folder(folder) as partial:
        (partial / "newer").touch()
    assert names(folder) == {"new"} and names(tmp_path) == {"report"}


# ---------------------------------------------------------------- network disks


@POSIX
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL, errno.EIO])
def test_a_disk_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, capsys, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    with files.exclusive_lock(tmp_path / "set" / ".lock", "the dataset"):
        assert "no other run is writing the dataset" in capsys.readouterr().err
    assert not list((tmp_path / "set").iterdir())


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_that_cannot_flush_a_file_is_used(tmp_path, monkeypatch, code):
    write_with_fsync(tmp_path, monkeypatch, code)
    assert (tmp_path / "file").read_text() == "new"


def test_a_disk_that_fails_to_flush_a_file_is_said_and_the_old_file_is_kept(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot write in .*: .*Choose another"):
        write_with_fsync(tmp_path, monkeypatch, errno.EIO)
    assert (tmp_path / "file").read_text() == "old" and names(tmp_path) == {"file"}


def write_with_fsync(folder, monkeypatch, code: int) -> None:
    def fsync(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    (folder / "file").write_text("old")
    with files.atomic_write(folder / "file") as partial:
        partial.write_text("new")


@pytest.mark.parametrize("free", [0, OSError(errno.EIO, "Input/output error")])
def test_a_disk_that_does_not_tell_its_free_space_is_used(tmp_path, monkeypatch, free):
    def disk_usage(_):
        if isinstance(free, OSError):
            raise free
        return namedtuple("usage", "total used free")(0, 0, free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    with files.require_disk_space(10**9, tmp_path / "set"):
        (tmp_path / "set" / "file").write_text("written")


def predict(trained, cwd, *options):
    test, checkpoint = trained / "coin_dataset" / "test", trained / BEST
    return run_script("predict.py", test, "--checkpoint", checkpoint, "--device", "cpu", *options, cwd=cwd)


def test_a_disk_that_is_full_is_said_in_words_and_ends_no_training(trained, tmp_path):
    disk = tmp_path / "disk"
    mount(disk, "-t", "tmpfs", "-o", "size=40k", "tmpfs")
    try:
        training = train(tmp_path, "--data", trained / "coin_dataset", "--runs", disk, "--num-epochs", 2)
        grading = predict(trained, tmp_path, "--html", disk / "grades.html")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert_fails(grading, "No space left", "free some space")
    assert "[Errno" not in grading.stderr
    assert training.returncode == 0 and "The model is in" in training.stdout
    lines = training.stderr.splitlines()
    assert lines and all(line.startswith("TensorBoard shows no") for line in lines)


def test_two_writers_of_one_file_are_told(tmp_path):
    with (
        pytest.raises(UserError, match="another run is writing .*grades.csv"),
        files.atomic_write(tmp_path / "grades.csv") as first,
    ):
        first.write_text("first")
        with files.atomic_write(tmp_path / "grades.csv") as second:
            second.write_text("second")
    assert [path.name for path in tmp_path.iterdir()] == ["grades.csv"]


def test_a_disk_that_can_only_be_read_is_said_in_words(images, trained, tmp_path):
    disk = tmp_path / "disk"
    mount(disk, "-t", "tmpfs", "-o", "ro", "tmpfs")
    try:
        results = [
            run_script("prepare_dataset.py", "--output", disk / "set", cwd=tmp_path),
            run_script("prepare_dataset.py", "--output", disk, cwd=tmp_path),
            train(tmp_path, "--data", trained / "coin_dataset", "--output", disk, "--num-epochs", 1),
            predict(trained, tmp_path, "--csv", disk / "grades.csv"),
            predict(trained, tmp_path, "--html", disk / "grades.html"),
        ]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    for result in results:
        assert_fails(result, "cannot write in", "Read-only", "Choose another")


def test_without_shared_memory_photos_are_read_by_threads(images, tmp_path):
    command = f"mount -t tmpfs -o ro tmpfs /dev/shm && exec {sys.executable} {ROOT / 'prepare_dataset.py'}"
    if subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs -o ro tmpfs /dev/shm"]).returncode:
        pytest.skip("mounting is not allowed")
    result = subprocess.run(["unshare", "-m", "sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "coin_dataset" / "manifest.csv").exists()


def test_a_pool_without_semaphores_has_threads(monkeypatch):
    def semaphore(*_, **__):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", semaphore)
    with worker_pool(2) as pool:
        assert list(pool.map(str, [1, 2])) == ["1", "2"]


@pytest.mark.skipif(os.name == "nt", reason="Windows asks for the right to write")
def test_a_file_that_is_protected_can_be_linked(tmp_path, monkeypatch):
    open_file = Path.open

    def open_protected(path, mode="r", *args, **options):
        if path.name.startswith("kept") and set(mode) & {"+", "w", "a"}:  # root may write all the same
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, mode, *args, **options)

    (tmp_path / "model.pth").write_bytes(b"weights")
    monkeypatch.setattr(Path, "open", open_protected)
    atomic_link(tmp_path / "model.pth", tmp_path / "kept.pth")
    assert (tmp_path / "kept.pth").read_bytes() == b"weights"


def test_a_read_only_photo_is_copied_on_windows(tmp_path, monkeypatch):
    (photo := tmp_path / "photo.jpg").write_bytes(b"photo")
    files.link_or_copy(photo, tmp_path / "link.jpg")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    files.link_or_copy(photo, tmp_path / "copy.jpg")
    assert (tmp_path / "link.jpg").samefile(photo) and not (tmp_path / "copy.jpg").samefile(photo)
    assert (tmp_path / "copy.jpg").read_bytes() == b"photo"


def test_a_disk_may_write_accents_in_its_own_way(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (images / "vf30").rename(images / "sch\u00f6n")
    assert run_script("prepare_dataset.py", cwd=tmp_path).returncode == 0
    for folder in (tmp_path / "coin_dataset").glob("*/sch*"):
        folder.rename(folder.with_name("scho\u0308n"))
    photos = [*(tmp_path / "coin_dataset").glob("*/sch*/*.jpg")]
    assert photos and {*find_sources(photos)} == {*photos}
    result = run_script("prepare_dataset.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_windows_gets_no_more_processes_than_it_can_wait_for(monkeypatch):
    started = []

    def pool_of(workers, initializer):
        started.append(workers)
        return ThreadPoolExecutor(1)

    monkeypatch.setattr(cli, "ProcessPoolExecutor", pool_of)
    monkeypatch.setattr(sys, "platform", "win32")
    with worker_pool(100):
        pass
    assert started == [61]


def test_after_an_interruption_no_more_work_is_begun():
    with pytest.raises(KeyboardInterrupt), worker_pool(1) as pool:
        futures = [pool.submit(time.sleep, 0.1) for _ in range(20)]
        raise KeyboardInterrupt
    assert any(future.cancelled() for future in futures)


def test_a_worker_that_is_killed_is_told_in_words():
    with pytest.raises(UserError, match="a worker process was killed"), worker_pool(1) as pool:
        list(pool.map(os._exit, [1]))


# ---------------------------------------------------------------- long names


def test_photos_with_the_longest_names_get_heatmaps_and_tables(trained, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in (1, 2):
        draw_photo(number).save(tmp_path / "photos" / f"{'x' * 245}{number}.png")
    options = ("--checkpoint", trained / BEST, "--device", "cpu", "--heatmap", "why", "--csv", f"{'y' * 246}.csv")
    result = run_script("predict.py", "photos", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(names(tmp_path / "why")) == 2 and (tmp_path / f"{'y' * 246}.csv").exists()


def test_a_dataset_and_a_report_may_have_the_longest_names(images, trained, tmp_path):
    name = "ü" * 120
    add_photo(images, "ms65", "ü" * 120 + ".jpg", 500)
    result = run_script("prepare_dataset.py", "--output", name, cwd=tmp_path)
    assert result.returncode == 0 and (tmp_path / name / "manifest.csv").exists(), result.stderr
    options = ("--data", trained / "coin_dataset", "--checkpoint", trained / BEST, "--device", "cpu")
    result = run_script("evaluate.py", *options, "--output", "r" * 255, cwd=tmp_path)
    assert result.returncode == 0 and (tmp_path / ("r" * 255) / "index.html").exists(), result.stderr
