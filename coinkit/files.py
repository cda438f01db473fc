"""Write files and folders completely or not at all; hard links; a lock against a second run; disk space."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coinkit.cli import UserError

DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None)}
# What macOS, Windows, Linux desktops, network disks and cloud drives put into any folder, and no user would miss.
SYSTEM_FILES = re.compile(
    r"\._.*|\.ds_store|icon\r|\.(?:spotlight-v100|trashes|fseventsd|temporaryitems|apdisk|localized|volumeicon\.icns)"
    r"|__macosx|ehthumbs.*\.db|thumbs\.db(?:-journal)?|desktop\.ini|\$recycle\.bin|system volume information|~\$.*"
    r"|\.directory|\.trash-.*|\.thumb(?:nail)?s|lost\+found|\.nfs[0-9a-f]+|\.fuse_hidden.*|\.~lock\..*|\.sync.*"
    r"|@eadir|@tmp|#recycle|#snapshot|\.dropbox.*|\.ipynb_checkpoints|.*:zone\.identifier",
    re.IGNORECASE,
)
LOCK_TIMEOUT = 1  # in seconds; the workers of a killed run may hold its lock a moment longer


def is_system_file(name: str) -> bool:
    """Tell whether a file or folder has a name that systems give, so that it is nothing a user would miss."""
    return SYSTEM_FILES.fullmatch(name) is not None


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source` (following symbolic links), or a copy if the file system has no links."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` to write to; it replaces `target` at the end, unless there is an error."""
    partial = target.with_name(f"{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)  # a killed run may have left it, as a hard link to a file that must not change
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())  # or a crash of the computer could leave the new name without its content
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def atomic_link(file: Path, target: Path) -> None:
    """Replace `target` by a hard link to a file, or by a copy, completely or not at all."""
    with atomic_write(target) as partial:
        link_or_copy(file, partial)


def hidden_sibling(folder: Path, suffix: str) -> Path:
    """Return a hidden path beside a folder: ".coin_dataset.lock" for "coin_dataset" and "lock"."""
    return folder.with_name(f".{folder.name}.{suffix}")


def replace_folder(folder: Path, partial: Path) -> None:
    """Replace `folder` by the finished `partial`. If that fails, `folder` is there as before."""
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
    """Put the previous folder back, in case a run was killed between the two renames of `replace_folder`."""
    previous = hidden_sibling(folder, "previous")
    if previous.exists() and not folder.exists():
        os.rename(previous, folder)
    shutil.rmtree(previous, ignore_errors=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` to write to; it replaces `target` at the end, unless there is an error."""
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
    """Hold a lock file. The system releases the lock when this process ends, even if it is killed.

    Args:
        lock_file: created, and deleted at the end.
        what: what is being written, for the message.

    Raises:
        UserError: another process holds it.
    """
    from filelock import FileLock, Timeout  # slow to import, and predict.py does not need it

    lock_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock_file, timeout=LOCK_TIMEOUT):
            try:
                yield
            finally:
                if os.name == "posix":
                    lock_file.unlink(missing_ok=True)  # on Windows, FileLock deletes it
    except Timeout:
        raise UserError(f"another run is writing {what}: wait until it ends, or choose another --output.") from None


@contextmanager
def require_disk_space(needed: int, folder: Path) -> Iterator[None]:
    """Check that `folder` has enough free disk space, and turn a full disk later on into an error message.

    Args:
        needed: estimate in bytes.
        folder: created if it does not exist.

    Raises:
        UserError: there is not enough space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    advice = f"about {format_bytes(needed)} are needed in {folder.resolve()}: free some, or choose another --output"
    if shutil.disk_usage(folder).free < needed:
        raise UserError(f"{format_bytes(shutil.disk_usage(folder).free)} are free, and {advice}.")
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(f"the disk is full ({error.strerror}). What was there before is untouched; {advice}.") from None


def format_bytes(count: float) -> str:
    """Return a number of bytes in a readable form, such as "1.8 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
