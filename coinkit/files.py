"""Write files and folders completely or not at all; hard links; a lock against a second run; disk space."""

import errno
import hashlib
import os
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from coinkit.cli import UserError

DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None)}
NO_FSYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # from some network disks
MAX_NAME_BYTES = 255  # of a file or folder
# What macOS, Windows, Linux desktops, network disks, cloud drives and editors put into any folder, and no user would
# miss.
SYSTEM_FILES = re.compile(
    r"\._.*|\.ds_store|icon\r|\.(?:spotlight-v100|trashes|fseventsd|temporaryitems|apdisk|localized|volumeicon\.icns)"
    r"|__macosx|\.apple(?:double|db|desktop)|\.(?:documentrevisions-v100|metadata_never_index|com\.apple\..*)"
    r"|ehthumbs.*\.db|thumbs\.db.*|desktop\.ini|\$recycle\.bin|system volume information|~\$.*|.*zone\.identifier"
    r"|\.directory|\.trash(?:-.*)?|\.thumb(?:nail)?s|lost\+found|lost\.dir|\.nomedia|\.?picasa\.ini"
    r"|\.nfs[0-9a-f]+|\.fuse_hidden.*|\.smbdelete.*|\.afpdeleted.*|network trash folder|temporary items"
    r"|@eadir|@tmp|@syno.*|@recycle|@recently-snapshot|\.@__thumb|#recycle|#snapshot|\.synologyworkingdirectory"
    r"|\.dropbox.*|\.sync.*|\.stfolder|\.tmp\.drive(?:up|down)load|\.owncloudsync.*"
    r"|\.~lock\..*|.*~|\.#.*|#.*#|\..*\.sw[op]|\.goutputstream-.*|\.ipynb_checkpoints|\.bridge(?:sort|cache.*|labels.*)"
    r"|\..*\.(?:lock|staging|partial|previous|complete)",  # what `hidden_sibling` names
    re.IGNORECASE,
)
# Seconds to wait, each time that a file cannot be replaced. On Windows, it cannot while another program has it open, as
# virus scanners and cloud drives do for a moment.
REPLACE_WAITS = (0.1, 0.5, 2, 5) if os.name == "nt" else ()
LOCK_TIMEOUT = 1  # in seconds; the workers of a killed run may hold its lock a moment longer


def is_system_file(name: str) -> bool:
    """Tell whether a file or folder has a name that systems give, so that it is nothing a user would miss."""
    return SYSTEM_FILES.fullmatch(name) is not None


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is hidden, or one of the system."""
    return name.startswith(".") or is_system_file(name)


def composed(name: str) -> str:
    """Return a name with each accent as part of its letter: macOS writes it as a character of its own."""
    return unicodedata.normalize("NFC", name)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source` (following symbolic links), or a copy if the file system has no links.

    A file that is read-only is copied on Windows, which could not delete the link.
    """
    with suppress(OSError):
        if sys.platform != "win32" or os.access(source, os.W_OK):
            os.link(os.path.realpath(source), target)
            return
    shutil.copyfile(source, target)


def short_name(name: str, suffix: str) -> str:
    """Return a name with a suffix. If that is too long, a digest takes the place of the end of the name."""
    if len(os.fsencode(name + suffix)) <= MAX_NAME_BYTES:
        return name + suffix
    suffix = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}{suffix}"
    return os.fsencode(name)[: MAX_NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix


def relative_path(path: Path, folder: Path) -> str:
    """Return the path as seen from a folder, or the whole path if there is none, as between two drives of Windows."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:
        return os.path.abspath(path)


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it is in, unless it is there.

    Raises:
        UserError: there is a file where a folder should be, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder} is not a folder, or lies in a file: choose another name.") from None
    except OSError as error:
        raise cannot_write(folder, error) from None


def cannot_write(folder: Path, error: OSError) -> UserError:
    """Return an error with words for what the system says."""
    return UserError(f"cannot write in {folder.absolute()}: {error.strerror or error}. Choose another folder.")


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` to write to; it replaces `target` at the end, unless there is an error.

    Raises:
        UserError: `target` is a folder, its own folder cannot be made, nothing can be written there, or `target` cannot
            be replaced; then what was written stays beside it.
    """
    if target.is_dir():
        raise UserError(f"{target} is a folder: give the name of a file.")
    partial = target.with_name(short_name(target.name, ".partial"))
    make_folder(target.parent)
    try:
        partial.unlink(missing_ok=True)  # a killed run may have left it, as a hard link to a file that must not change
        yield partial
        write_to_disk(partial)
        if not replace(partial, target):
            kept = partial.with_name(short_name(target.name, ".new"))
            os.replace(partial, kept)
            raise UserError(f"{target} is protected, or open in another program. What was to be in it is in {kept}.")
    except OSError as error:
        if str(error.filename) != str(partial) or error.errno in DISK_FULL:
            raise
        if error.errno == errno.ENOENT:
            raise UserError(f"another run is writing {target}, too: write to another file, or wait.") from None
        raise cannot_write(target.parent, error) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def replace(source: Path, target: Path) -> bool:
    """Rename a file, which may replace another, or a folder; return False if that is not allowed now."""
    for wait in (*REPLACE_WAITS, None):
        try:
            os.replace(source, target)
            return True
        except PermissionError:
            if wait is None:
                return False
            time.sleep(wait)


def write_to_disk(path: Path) -> None:
    """Wait until a file is on the disk: a crash of the computer could leave its new name without its content."""
    with path.open("rb+" if os.name == "nt" else "rb") as file:  # Windows asks for the right to write
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            if error.errno not in NO_FSYNC:
                raise cannot_write(path.parent, error) from None


def atomic_link(file: Path, target: Path) -> None:
    """Replace `target` by a hard link to a file, or by a copy, completely or not at all."""
    with atomic_write(target) as partial:
        link_or_copy(file, partial)


def hidden_sibling(folder: Path, suffix: str) -> Path:
    """Return a hidden path beside a folder: ".coin_dataset.lock" for "coin_dataset" and "lock".

    If the folder cannot be renamed, the path is inside of it.
    """
    name = short_name(f".{folder.name}", f".{suffix}")
    return folder.with_name(name) if can_rename(folder) else folder / name


@cache
def can_rename(folder: Path) -> bool:
    """Tell whether a folder can be renamed, if there is one.

    A mount, such as a Docker volume, cannot. The folder that a shell is in should not: the shell would stay in the old
    one, which is deleted.
    """
    if not folder.is_dir():
        return True
    if Path.cwd().is_relative_to(folder):
        return False
    try:
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name[:20]}.") as occupied:
            Path(occupied, "file").touch()
            os.rename(folder, occupied)  # never succeeds, but the error tells
    except OSError as error:
        return error.errno in (errno.ENOTEMPTY, errno.EEXIST)
    return True


def replace_folder(folder: Path, partial: Path) -> None:
    """Replace `folder` by the finished `partial`. If that fails, `folder` is there as before.

    A folder that cannot be renamed gets another content instead: the old content moves to "previous", `partial` is
    renamed to "complete", and from then on its content is what counts.

    Raises:
        UserError: a file in one of them is open in another program, on Windows.
    """
    previous = hidden_sibling(folder, "previous")
    try:
        if can_rename(folder):
            if (folder.exists() and not replace(folder, previous)) or not replace(partial, folder):
                raise UserError(f"{folder} is open in another program. Close it there, and run this again.")
        else:
            previous.mkdir()  # fails if a network disk has kept files of it, before anything has moved
            move_content(folder, previous)
            os.rename(partial, hidden_sibling(folder, "complete"))
    finally:
        restore_previous(folder)


def restore_previous(folder: Path) -> None:
    """Finish or undo what `replace_folder` has begun, in case a run was killed there."""
    previous = hidden_sibling(folder, "previous")
    if can_rename(folder):
        if previous.exists() and not folder.exists():
            os.rename(previous, folder)
        shutil.rmtree(previous, ignore_errors=True)
        return
    complete = hidden_sibling(folder, "complete")
    if not complete.exists() and previous.exists():
        move_content(previous, folder)
    shutil.rmtree(previous, ignore_errors=True)
    if complete.exists():
        move_content(complete, folder)
        if not previous.exists():  # or it would be put back
            complete.rmdir()


def move_content(source: Path, target: Path) -> None:
    """Move what is in a folder to another, but for the files of the system and our own hidden ones."""
    for path in list(source.iterdir()):
        if not is_system_file(path.name):
            os.rename(path, target / path.name)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` to write to; it replaces `target` at the end, unless there is an error."""
    target = Path(os.path.realpath(target))
    restore_previous(target)
    partial = hidden_sibling(target, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    try:
        yield partial
        replace_folder(target, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def exclusive_lock(lock_file: Path, what: object, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Hold a lock file. The system releases the lock when this process ends, even if it is killed.

    Args:
        lock_file: created, and deleted at the end.
        what: what is being written, for the message.
        timeout: how long to wait for another process, in seconds.

    Raises:
        UserError: another process holds it, or the folder cannot be written to.
    """
    from filelock import FileLock, Timeout  # slow to import, and predict.py does not need it

    make_folder(lock_file.parent)
    try:
        lock_file.touch()
    except OSError as error:
        raise cannot_write(lock_file.parent, error) from None
    lock = FileLock(lock_file, timeout=timeout, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another run is writing {what}: wait until it ends, or choose another --output.") from None
    except (OSError, NotImplementedError) as error:
        reason = f"this disk has no locks ({error})"
        print(f"Warning: {reason}. Make sure that no other run is writing {what}.", file=sys.stderr)
    try:
        yield
    finally:
        if os.name == "posix":
            lock_file.unlink(missing_ok=True)  # on Windows, FileLock deletes it
        lock.release()


@contextmanager
def require_disk_space(needed: int, folder: Path) -> Iterator[None]:
    """Check that `folder` has enough free disk space, and turn a full disk later on into an error message.

    Disks that do not tell how much is free, or tell that nothing is, are tried.

    Args:
        needed: estimate in bytes.
        folder: created if it does not exist.

    Raises:
        UserError: there is not enough space.
    """
    make_folder(folder)
    advice = f"about {format_bytes(needed)} are needed in {folder.absolute()}: free some, or choose another --output"
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        free = 0
    if 0 < free < needed:
        raise UserError(f"{format_bytes(free)} are free, and {advice}.")
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
