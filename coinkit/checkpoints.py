"""Checkpoint files: saved whole, and loaded from anybody without running or allocating what they ask for."""

import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coinkit.cli import UserError, printable
from coinkit.files import atomic_link, atomic_write

FORMAT_VERSION = 2
NEEDED_TO_PREDICT = {
    "model_state_dict": dict,
    "classes": list,
    "model": str,
    "architecture": dict,
    "temperature": float,
}
NEEDED_TO_RESUME = NEEDED_TO_PREDICT | dict.fromkeys(
    ("optimizer_state_dict", "scaler_state_dict", "dataset", "config", "progress"), dict
)

# What the pickle inside a file may call. torch's own list, with weights_only, holds bytearray and encode as well, and
# with these a file of a kilobyte takes all memory.
ALLOWED = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict"}


def load_checkpoint(path: Path, needed: dict[str, type] = NEEDED_TO_PREDICT, mmap: bool = True) -> dict:
    """Return a checkpoint; nothing in it is executed.

    Args:
        path: where it is.
        needed: what it must hold, and of what type.
        mmap: map its tensors from the file, so that only what is used is read. Not if the file is to be replaced.

    Raises:
        UserError: there is none, or it was not written by this program.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the checkpoint in it, such as {path / '*_best.pth'}.")
    if not path.is_file():
        raise UserError(
            f"no checkpoint {path}: run python coin_classifier_custom.py first, or name another folder or file."
        )
    with damage_as_user_error(path):
        checkpoint = load_tensors(path, mmap)
    version = checkpoint.get("format_version") if isinstance(checkpoint, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path} is no checkpoint of this program.")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} was written by another version of this program (format {version}, not {FORMAT_VERSION}): "
            "use that one, or train again."
        )
    for name, kind in needed.items():
        if not isinstance(checkpoint.get(name), kind):
            raise UserError(f"{path} has no {name} of the right kind: use another checkpoint, or train again.")
    return checkpoint


def save_tensors(content: Any, target: Path) -> None:
    """Save tensors and plain values with torch.save; `target` is replaced once they are written.

    Raises:
        OSError: the disk is full, say.
    """
    with atomic_write(target) as partial, partial.open("wb") as file:
        try:
            torch.save(on_cpu(content), file)
        except RuntimeError as error:  # torch wraps what went wrong with the file
            cause = error.__context__
            raise (cause if isinstance(cause, OSError | KeyboardInterrupt) else error) from None


def on_cpu(content: Any) -> Any:
    """Return tensors and plain values with all tensors on the CPU, so that torch.load opens them on any computer."""
    if isinstance(content, Tensor):
        return content.cpu()
    if isinstance(content, dict):
        return {name: on_cpu(value) for name, value in content.items()}
    return [on_cpu(value) for value in content] if isinstance(content, list) else content


def load_tensors(path: Path, mmap: bool = True) -> Any:
    """Load what torch.save has written, onto the CPU; the memory it takes is bounded by the size of the file.

    Args:
        path: where it is.
        mmap: map its tensors from the file, so that only what is used is read. Not if the file is to be replaced.

    Raises:
        Exception: of any kind, since anything may be wrong with the file.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type for record in records):
            raise ValueError("compressed")
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise ValueError("its parts are larger than the whole")
        (pickled,) = (record for record in records if record.filename.endswith("data.pkl"))
        for opcode, argument, _ in pickletools.genops(archive.read(pickled)):
            if opcode.name == "GLOBAL" and argument not in ALLOWED and not is_storage(argument):
                raise ValueError(f"it calls {argument}")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def is_storage(name: str) -> bool:
    """Tell whether a name in a pickle is a type of numbers, such as "torch FloatStorage"."""
    return name.startswith("torch ") and name.endswith("Storage")


@contextmanager
def damage_as_user_error(path: Path) -> Iterator[None]:
    """Tell the user that a checkpoint is damaged, whatever is raised over what is in it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        raise UserError(
            f"{path} is damaged, or no checkpoint of this program ({printable(reason)}): use another, or train again."
        ) from None


def keep_previous(checkpoint: Path) -> None:
    """Give the checkpoint of an earlier run a second name, under which it stays when a new one takes its place.

    One that has not finished an epoch is not worth it: after a false start, what was there before the start stays.
    """
    if checkpoint.exists() and not has_no_finished_epoch(checkpoint):
        previous = checkpoint.with_suffix(".previous.pth")
        atomic_link(checkpoint, previous)
        print(f"{checkpoint} of an earlier run is kept as {previous}.", flush=True)


def has_no_finished_epoch(checkpoint: Path) -> bool:
    """Tell whether a checkpoint is of a run that has not finished an epoch."""
    try:
        return load_checkpoint(checkpoint, NEEDED_TO_RESUME)["progress"].get("epochs") == 0
    except UserError:
        return False
