"""Checkpoint files: written completely or not at all, and safe to load even if they come from a stranger."""

import argparse
import glob
import os
import pickletools
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coinkit.cli import UserError, config_to_flags, in_a_line, is_out_of_memory, quoted
from coinkit.files import atomic_link, atomic_write
from coinkit.training_progress import Progress

FORMAT_VERSION = 3
FALSE_START = 300  # seconds of training
MAX_SAVING_SHARE = 0.02  # of the time
NEEDED_TO_PREDICT = {
    "model_state_dict": dict,
    "classes": list,
    "model": str,
    "architecture": dict,
    "temperature": float,
    "unsure_below": float,
    "unsure_band_below": float,
}
NEEDED_TO_RESUME = NEEDED_TO_PREDICT | dict.fromkeys(
    ("optimizer_state_dict", "scaler_state_dict", "dataset", "config", "progress"), dict
)

# What the pickle inside a file may call. torch's own list (weights_only) also allows bytearray and encode, with which a
# file of a kilobyte can take all memory.
ALLOWED = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict"}


def bytes_to_write(parameters: int, resumed: bool) -> int:
    """Return how much disk space the checkpoints of a run take, in bytes, beside those that a resumed run has.

    A checkpoint has the weights and two averages of each, in 4 bytes. Best, last and the next one exist at once.
    """
    return (2 if resumed else 3) * 3 * 4 * parameters


def load_checkpoint(path: Path, needed: dict[str, type] = NEEDED_TO_PREDICT, mmap: bool = True) -> dict:
    """Return a checkpoint; nothing in it is executed.

    Args:
        path: where it is.
        needed: what it must hold, and of what type.
        mmap: map its tensors from the file, so that only what is used is read. Not if the file is to be replaced.

    Raises:
        UserError: there is no checkpoint, it is damaged or lacks something, or another version of the program wrote it.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the checkpoint in it, such as {path / '*_best.pth'}.")
    if not path.is_file():
        others = ("*_best.pth", "*.pth") if needed == NEEDED_TO_PREDICT else ()  # --resume needs the latest state
        nearby = find_nearby(path, glob.escape(path.name), *others)
        advice = f"did you mean {nearby}?" if nearby else "run python coin_classifier_custom.py first, or name another."
        if nearby and others and read_progress(nearby).get("epochs") == 0:
            advice = f"the training of {nearby} has not finished its first epoch."
        raise UserError(f"no checkpoint {path.absolute()}: {advice}")
    if path.suffix.lower() == ".onnx":
        raise UserError(f"{path} is for ONNX Runtime (docs/onnx.md): name the .pth file that it was exported from.")
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


def find_nearby(path: Path, *names: str) -> Path | None:
    """Return a file that may be meant instead of one that is not there, or None if there is none nearby.

    Args:
        path: what is not there. Its folder, the current one, and the folders in these are searched.
        names: patterns; the first that matches decides, and of several files the newest.
    """
    folders = (path.parent, Path())
    matches = (list(folder.glob(f"{below}{name}")) for name in names for folder in folders for below in ("", "*/"))
    return next((max(found, key=lambda file: file.lstat().st_mtime) for found in matches if found), None)


def describe_other_network(checkpoint: dict, args: argparse.Namespace) -> str:
    """Return in words which options make another network than a checkpoint has; "" if none does."""
    before = {"model": checkpoint["model"]} | checkpoint["architecture"]
    now = {name: getattr(args, name) for name in before}
    changed = [name for name in before if now[name] != before[name]]
    given, needed = (" ".join(config_to_flags({name: values[name] for name in changed})) for values in (now, before))
    return f"{needed}, not {given}" if changed else ""


def ignored_flags(checkpoint: dict, args: argparse.Namespace) -> list[str]:
    """Return the flags that a resumed run does not follow, since its folder and its network are there already."""
    before = checkpoint["config"]
    names = [name for name in ("preset", "graph", "name", "runs") if getattr(args, name)]
    return [f"--{name}" for name in names if str(getattr(args, name)) != str(before.get(name))]


class CheckpointWriter:
    """Writes the checkpoints of a run: its latest state to `last`, and its best epoch to `best`.

    While writing would take more than `MAX_SAVING_SHARE` of the time, the best epoch is held in memory. It is written
    before the next state that is, so `best` is never older than `last` says. The two share no content on the disk, so
    that a user can copy another file over one of them. Files of another run are kept as *.previous.pth.
    """

    def __init__(self, last: Path, best: Path):
        self.last, self.best = last, best
        self.held: dict | None = None
        self.replaced: set[Path] = set()  # what this process has written, so that it is of this run
        self.written_at, self.seconds_to_write = time.perf_counter(), 0.0

    def seconds_since(self) -> float:
        """Return for how many seconds nothing has been written."""
        return time.perf_counter() - self.written_at

    def is_due(self) -> bool:
        """Return whether enough time has passed to write again."""
        return self.seconds_since() * MAX_SAVING_SHARE > self.seconds_to_write

    def hold_best(self, checkpoint: dict) -> None:
        """Hold a copy of the best epoch in memory, in place of the one before it."""
        self.held = on_cpu(checkpoint, copy=True)

    def write(self, checkpoint: dict, is_best: bool = False) -> None:
        """Write the latest state, which may be the best epoch; before it the best epoch, if one is held."""
        started = time.perf_counter()
        best, self.held = checkpoint if is_best else self.held, None  # an older best epoch is of no use any more
        for content, path in ((best, self.best), (checkpoint, self.last)):
            if content:
                if path not in self.replaced:
                    keep_previous(path, checkpoint["progress"]["run"])
                save_tensors(content, path)
                self.replaced.add(path)
        self.written_at = time.perf_counter()
        self.seconds_to_write = self.written_at - started

    def bring_back(self, checkpoint: dict, path: Path) -> bool:
        """Make `last` and `best` those of the run to go on with; return False if its best epoch is lost.

        They may be *.previous.pth, if another run has been in between. The latest state may be the best epoch as well.

        Args:
            checkpoint: its latest state.
            path: where that was, `last` or its *.previous.pth.
        """
        progress = checkpoint["progress"]
        run = progress.get("run", "")
        if path.name != self.last.name:
            swap_with_previous(self.last)
        if not progress["best_epoch"]:
            return True
        if not is_of_run(self.best, run) and is_of_run(previous_of(self.best), run):
            swap_with_previous(self.best)
        if not is_of_run(self.best, run) and progress["best_epoch"] == progress["epochs"] and not progress["seen"]:
            keep_previous(self.best, run)
            save_tensors(checkpoint, self.best)
        return is_of_run(self.best, run)

    def write_held(self) -> None:
        """Write the best epoch, if one is held, as the latest state, too."""
        if self.held:
            self.write(self.held, is_best=True)


def save_tensors(content: Any, target: Path) -> None:
    """Save tensors and plain values with torch.save; `target` is replaced only when all is written.

    Raises:
        OSError: it cannot be written: the disk is full, for example.
    """
    with atomic_write(target) as partial, partial.open("wb") as file:
        try:
            torch.save(on_cpu(content), file)
        except RuntimeError as error:  # torch wraps what went wrong with the file
            cause = error.__context__
            raise (cause if isinstance(cause, OSError | KeyboardInterrupt) else error) from None


def on_cpu(content: Any, copy: bool = False) -> Any:
    """Return tensors and plain values with all tensors on the CPU, so that torch.load opens them on any computer.

    Args:
        content: dicts and lists of them.
        copy: copy those that are on the CPU as well, so that they stay as they are when the network learns on.
    """
    if isinstance(content, Tensor):
        return content.to("cpu", copy=copy)
    if isinstance(content, dict):
        return {name: on_cpu(value, copy) for name, value in content.items()}
    return [on_cpu(value, copy) for value in content] if isinstance(content, list) else content


def load_tensors(path: Path, mmap: bool = True) -> Any:
    """Load what torch.save has written, onto the CPU. That takes no more memory than the file is large.

    Args:
        path: where it is.
        mmap: map its tensors from the file, if the disk can, so that only what is used is read. Not if the file is to
            be replaced.

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
    if mmap and os.name != "nt":  # Windows could not replace the file while it is mapped
        with suppress(OSError, RuntimeError, UnicodeError):  # some disks, or names, do not let it; then it is read
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    with path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def is_storage(name: str) -> bool:
    """Return whether a name in a pickle is a type of numbers, such as "torch FloatStorage"."""
    return name.startswith("torch ") and name.endswith("Storage")


@contextmanager
def damage_as_user_error(path: Path | str) -> Iterator[None]:
    """Turn any exception within it into a UserError: the checkpoint is damaged, unless it is the disk that fails."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if isinstance(path, Path) and (failure := read_error(path)):
            raise UserError(
                f"{path} cannot be read now ({failure.strerror}). That need not mean that it is damaged: try again, or "
                "copy it to another disk."
            ) from None
        raise UserError(
            f"{path} is damaged, or no checkpoint of this program ({in_a_line(error)}): use another, or train again."
        ) from None


def read_error(path: Path) -> OSError | None:
    """Return the error that the system reports when a file is read to its end, or None."""
    try:
        with path.open("rb") as file:
            while file.read(2**20):
                pass
    except OSError as error:
        return error
    return None


def assign_weights(weights: dict[str, Tensor], model: nn.Module, file_size: int) -> None:
    """Give a network on the meta device the weights of a file, which may be anybody's, without copying them.

    Args:
        weights: by their names.
        model: as the file describes it.
        file_size: in bytes.

    Raises:
        Exception: of any kind, if they do not fit.
    """
    state = model.state_dict()
    if sum(tensor.numel() * weights[name].element_size() for name, tensor in state.items()) > file_size:
        raise ValueError("a network larger than the file")
    if any(weights[name].is_floating_point() != tensor.is_floating_point() for name, tensor in state.items()):
        raise ValueError("weights of another type of number")
    model.load_state_dict(dict(weights), assign=True)  # a copy of the dict, since torch changes what it is given


def copy_weights(weights: dict[str, Tensor], model: nn.Module, source: Path | str, without: str | None) -> None:
    """Copy weights into a network, which may leave one layer as it is.

    Args:
        weights: by their names.
        model: where they go.
        source: where they are from, for the message.
        without: name of the layer to leave out, or None.

    Raises:
        UserError: they are of another architecture.
    """
    with damage_as_user_error(source):
        for name, tensor in model.state_dict().items():
            if without is None or not name.startswith(f"{without}."):
                if name not in weights or weights[name].shape != tensor.shape:
                    raise UserError(
                        f"{source} is of another architecture (see {name}). --init-from takes that of its training: "
                        "leave out --preset, and other flags of the network."
                    )
                tensor.copy_(weights[name])


def keep_previous(checkpoint: Path, run: str) -> None:
    """Keep a checkpoint as *.previous.pth if it is of another run than this one, which is about to take its place.

    A false start is not kept, so that it does not replace the *.previous.pth before it.
    """
    if checkpoint.exists() and not is_of_run(checkpoint, run) and not is_false_start(read_progress(checkpoint)):
        atomic_link(checkpoint, previous_of(checkpoint))
        print(f"{checkpoint} of an earlier run is kept as {previous_of(checkpoint)}.", flush=True)


def is_false_start(progress: dict) -> bool:
    """Tell whether a run has trained for less than `FALSE_START` seconds, and no whole epoch."""
    return progress.get("epochs") == 0 and progress.get("seconds", 0) < FALSE_START


def is_of_run(checkpoint: Path, run: str) -> bool:
    """Return whether there is a checkpoint, and it is of this run."""
    progress = read_progress(checkpoint)
    return bool(progress) and progress.get("run", "") == run


def swap_with_previous(checkpoint: Path) -> None:
    """Swap a checkpoint, which may be gone, and the one that was kept as *.previous.pth."""
    aside = checkpoint.with_suffix(".aside.pth")
    if checkpoint.exists():
        os.replace(checkpoint, aside)
    os.replace(previous_of(checkpoint), checkpoint)
    if aside.exists():
        os.replace(aside, previous_of(checkpoint))


def previous_of(checkpoint: Path) -> Path:
    """Return where the checkpoint of the run before is kept."""
    return checkpoint.with_suffix(".previous.pth")


def describe_unfinished(last: Path) -> str:
    """Return in words how to go on with the run of a last checkpoint instead of a new one; "" if it had ended."""
    try:
        checkpoint = load_checkpoint(last, NEEDED_TO_RESUME)
        with damage_as_user_error(last):
            progress, num_epochs = Progress.load(checkpoint["progress"]), checkpoint["config"]["num_epochs"]
            has_ended = progress.epochs >= progress.last_epoch(num_epochs, checkpoint["config"]["patience"])
    except UserError:
        return ""
    if has_ended or is_false_start(checkpoint["progress"]):
        return ""
    return (
        f"The run before this one has done {progress.epochs} of its {num_epochs} epochs. To go on with it instead, "
        f"stop this one: python coin_classifier_custom.py --resume {quoted(previous_of(last))}"
    )


def read_progress(checkpoint: Path) -> dict:
    """Return how far the run of a checkpoint has come, as `coinkit.training_progress` has it; {} if unknown."""
    try:
        return load_checkpoint(checkpoint, NEEDED_TO_RESUME)["progress"]
    except UserError:
        return {}
