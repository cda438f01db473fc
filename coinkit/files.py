"""Files that share their content, and files and folders that are whole or absent."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a name beside `target` to write to; it takes the place of `target` at the end, if nothing went wrong."""
    partial = target.with_name(f"{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def beside(folder: Path, word: str) -> Path:
    """Return the hidden folder beside a folder that holds the next ("partial") or the "previous" one."""
    return folder.with_name(f".{folder.name}.{word}")


def replace_folder(folder: Path, partial: Path) -> None:
    """Put the finished `partial` in the place of `folder`; whatever goes wrong, one of the two is there."""
    previous = beside(folder, "previous")
    if folder.exists():
        os.rename(folder, previous)
    try:
        os.rename(partial, folder)
    except BaseException:
        recover(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put the previous folder back if a run was killed in the instant between the two renames."""
    previous = beside(folder, "previous")
    if previous.exists() and not folder.exists():
        os.rename(previous, folder)
    shutil.rmtree(previous, ignore_errors=True)


@contextmanager
def folder_written_whole(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` to write to; it takes the place of `target` if nothing goes wrong."""
    target = target.resolve()
    recover(target)
    partial = beside(target, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        replace_folder(target, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
