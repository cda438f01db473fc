"""Files and folders that are whole or absent, or share their content; one run at a time, and room on the disk."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coinkit.cli import UserError

DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None)}
SYSTEM_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}  # what systems put into folders
LOCK_PATIENCE = 1  # seconds; workers of a run that was killed may hold its lock a moment longer than it


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or to what that points to, or a copy where the file system cannot link."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a name beside `target` to write to; it takes the place of `target` at the end, if nothing went wrong."""
    partial = target.with_name(f"{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)  # a run that was killed may have left it, as another name of a file to be kept
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())  # else a computer that crashes may have the new name before the new content
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def atomic_link(file: Path, target: Path) -> None:
    """Make `target` another name of a file, or a copy; it takes the place of what was there, whole or not at all."""
    with atomic_write(target) as partial:
        link_or_copy(file, partial)


def hidden_sibling(folder: Path, word: str) -> Path:
    """Return a hidden name beside a folder for what belongs to it: its "lock", its "previous" content, ..."""
    return folder.with_name(f".{folder.name}.{word}")


def replace_folder(folder: Path, partial: Path) -> None:
    """Put the finished `partial` in the place of `folder`; whatever goes wrong, one of the two is there."""
    previous = hidden_sibling(folder, "previous")
    if folder.exists():
        os.rename(folder, previous)
    try:
        os.rename(partial, folder)
    except BaseException:
        restore_previous(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def restore_previous(folder: Path) -> None:
    """Put the previous folder back if a run was killed in the instant between the two renames."""
    previous = hidden_sibling(folder, "previous")
    if previous.exists() and not folder.exists():
        os.rename(previous, folder)
    shutil.rmtree(previous, ignore_errors=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` to write to; it takes the place of `target` if nothing goes wrong."""
    target = target.resolve()
    restore_previous(target)
    partial = hidden_sibling(target, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        replace_folder(target, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def exclusive_lock(lock_file: Path, what: str) -> Iterator[None]:
    """Hold a lock, which the system lets go of when this process ends, whatever ends it.

    Args:
        lock_file: made for the time.
        what: the lock stands for, for the message.

    Raises:
        UserError: another process holds it.
    """
    from filelock import FileLock, Timeout  # takes time that predict.py can save

    lock_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock_file, timeout=LOCK_PATIENCE):
            try:
                yield
            finally:
                if os.name == "posix":
                    lock_file.unlink(missing_ok=True)  # elsewhere FileLock does it
    except Timeout:
        raise UserError(f"another run is writing {what}: wait for its end, or choose another --output.") from None


@contextmanager
def require_disk_space(needed: int, folder: Path) -> Iterator[None]:
    """Tell the user how many bytes are needed in `folder`: now if they are not there, or when the disk fills up.

    Raises:
        UserError: there is no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    advice = f"about {format_bytes(needed)} are needed in {folder.resolve()}: make room, or choose another --output"
    if shutil.disk_usage(folder).free < needed:
        raise UserError(f"{format_bytes(shutil.disk_usage(folder).free)} are free, and {advice}.")
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(f"the disk is full ({error.strerror}). What was there before is untouched; {advice}.") from None


def format_bytes(count: float) -> str:
    """Return a number of bytes for people: "1.8 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
