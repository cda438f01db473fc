"""What all commands share: help with defaults, errors in a line or two without a traceback, options as values."""

import argparse
import ctypes
import difflib
import errno
import multiprocessing
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

MAX_WINDOWS_WORKERS = 61  # Windows cannot wait for more processes at once
LEAST_LIKENESS = 0.7  # of a flag to the one that is proposed for it, 0 to 1, as difflib has it
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of mallopt, from malloc.h


class UserError(Exception):
    """A mistake that the user can correct. The message says what was wrong and what to do."""


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose help shows a script's docstring and the defaults, and whose errors take one line.

    It takes no abbreviations: a new flag could turn one that somebody's script uses into another flag.
    """

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
        self.register("type", Path, home_path)

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Return the options. An unknown one ends with status 2 and the name of the nearest flag."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = next((text.partition("=")[0] for text in unknown if text.startswith("-")), unknown[0])
            if name.startswith("--") and (others := scripts_with(name)):
                self.error(f"{name} belongs to {', '.join(others)}")
            flags = [flag for action in self._actions for flag in action.option_strings]
            nearest = difflib.get_close_matches(name, flags, n=1, cutoff=LEAST_LIKENESS)
            self.error(f"unknown argument {name}" + "".join(f": did you mean {flag}?" for flag in nearest))
        return options

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        self.exit(2, f"Error: {message} (--help explains the options)\n")

    def check_minimum(self, args: argparse.Namespace, least: float, *names: str) -> None:
        """Exit with status 2 if one of these options, or a number in its list, is below `least` or nan."""
        for name in names:
            value = getattr(args, name)
            numbers = value if isinstance(value, list | tuple) else [value]
            if not all(number >= least for number in numbers):
                self.error(f"--{name.replace('_', '-')} must be at least {least}")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        names = {int: "N", float: "X", Path: "PATH"}
        return names.get(action.type) or super()._get_default_metavar_for_optional(action)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help
        if action.default is True:
            return f"{action.help} (default: {action.option_strings[0]})"
        if isinstance(action.default, list | tuple):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


def scripts_with(flag: str) -> list[str]:
    """Return the names of the scripts that take a flag."""
    scripts = sorted(Path(__file__).parent.parent.glob("*.py"))
    return [script.name for script in scripts if f'"{flag}"' in script.read_text("utf-8")]


def run(main: Callable[[], int | None], to_go_on: str = "") -> None:
    """Run a script's `main`, then exit with its status: 0 or what it returned, 1 after an error, 130 after Ctrl-C.

    Args:
        main: the function.
        to_go_on: what to do after Ctrl-C.
    """
    prepare_streams()
    keep_freed_memory()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see coinkit.quiet_start
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main()
        sys.stdout.flush()
        sys.exit(status)
    except UserError as error:
        sys.exit(f"Error: {error}")
    except OSError as error:
        if not is_closed_pipe(error):
            sys.exit(f"Error: {in_words(error)}")
        discard_output()
        sys.exit(141)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit("Error: out of memory: close other programs, or use smaller photos or a smaller network.")
    except KeyboardInterrupt:
        print("\nStopped." + (f" To go on: {to_go_on}." if to_go_on else ""), file=sys.stderr)
        sys.exit(130)


def is_closed_pipe(error: OSError) -> bool:
    """Tell whether the reader of our output (head, more) has ended."""
    on_windows = sys.platform == "win32" and error.errno == errno.EINVAL and not error.filename  # cpython #79935
    return isinstance(error, BrokenPipeError) or on_windows


def in_words(error: OSError) -> str:
    """Return what the system says, and of which file, without its number."""
    if not error.strerror:
        return printable(error)
    advice = ": free some space, or write to another disk" if error.errno == errno.ENOSPC else ""
    return f"{printable(error.filename)}: {error.strerror}{advice}" if error.filename else f"{error.strerror}{advice}"


def prepare_streams() -> None:
    """Make sure that printing works: streams may be closed, or be those of a notebook or of IDLE."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for file names that the terminal cannot show


def discard_output() -> None:
    """Print nothing from here on, since the reader of our output (head, less) has ended."""
    with suppress(OSError):  # in a notebook, there is no such file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether Python, or PyTorch on any device, ran out of memory."""
    messages = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed")
    return isinstance(error, MemoryError) or any(message in str(error).lower() for message in messages)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next tensor or photo.

    By default, it returns large blocks to the system and gets them back page by page (see mallopt(3)), which takes up
    to a quarter of a training step on a CPU. Other C libraries are left as they are.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def set_stop_handler(handler: Callable[[int, Any], None] | None) -> None:
    """Set the function that Ctrl-C and SIGTERM call. With None, they stop the command at once."""
    signal.signal(signal.SIGINT, handler or signal.default_int_handler)
    signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def config_from_args(args: argparse.Namespace, without: Collection[str]) -> dict:
    """Return the options as plain values for a checkpoint, except those in `without`."""
    values = {name: value for name, value in vars(args).items() if name not in without}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def config_to_flags(config: dict) -> list[str]:
    """Return the options of a checkpoint as command-line flags, so that they are checked like the user's."""
    flags = []
    for name, value in config.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            flags += [f"--{flag}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{flag}={value}")
    return flags


def printable(text: object) -> str:
    r"""Return a text, such as a file name, with control characters escaped: a line break as \n."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


def in_a_line(error: Exception) -> str:
    """Return the type of an error and the start of its message in one line."""
    return printable(" ".join(f"{type(error).__name__}: {error}".split())[:200])


@contextmanager
def told_if_it_fails(what: str) -> Iterator[None]:
    """Tell in a line what an error means, and the error, and go on: a training must not end because of a picture."""
    try:
        yield
    except Exception as error:
        from tqdm import tqdm  # which a program that only opens photos need not have

        tqdm.write(f"{what}: {in_a_line(error)}", file=sys.stderr)


def quoted(path: object) -> str:
    """Return a path for a command that is printed to be pasted, in quotes where this platform's shell needs them."""
    if str(path).startswith(("-", "~")):  # else it would be taken for a flag, or for the user's home
        path = os.path.join(".", path)
    if sys.platform == "win32":
        return str(path) if re.fullmatch(r"[\w.:/\\+-]+", str(path)) else f'"{path}"'
    return shlex.quote(str(path))


def home_path(name: str) -> Path:
    """Return a path with "~" as the user's home: shells leave it as it is in --output=~/coins, and in quotes."""
    return Path(os.path.expanduser(name))


@contextmanager
def worker_pool(workers: int) -> Iterator[Executor]:
    """Yield a pool of processes, or of threads where there is no shared memory for processes.

    After an error or Ctrl-C, what has not begun is left undone.

    Raises:
        UserError: a process was killed.
    """
    if sys.platform == "win32":
        workers = min(workers, MAX_WINDOWS_WORKERS)
    try:
        pool = ProcessPoolExecutor(workers, initializer=start_worker)
        with ctrl_c_blocked():
            for _ in range(workers):
                pool.submit(bool)  # starts a process
    except (OSError, NotImplementedError):
        pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError("a worker process was killed, perhaps out of memory: try --workers 1.") from None
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """Leave Ctrl-C to the main process, and end when it ends, even if it is killed."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextmanager
def ctrl_c_blocked() -> Iterator[None]:
    """Hold Ctrl-C back until the end, and for ever from processes that are started meanwhile.

    Python would print a traceback of each that is starting, and go on. Windows cannot hold it back.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
