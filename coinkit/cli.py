"""How commands look and end: help with examples and defaults, a user's mistake in a line or two, no tracebacks."""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt, in malloc.h


class UserError(Exception):
    """Something the user can put right. The message says what was wrong and what to do."""


class ArgumentParser(argparse.ArgumentParser):
    """Shows a script's docstring as it is written, and defaults as one would type them; tells a mistake in a line."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(2, f"Error: {message} (--help explains the options)\n")

    def check_minimum(self, args: argparse.Namespace, least: float, *names: str) -> None:
        """Exit with 2 if one of these options, or one of its numbers, is not at least so large; nan is not."""
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
        if action.default is None or action.default is False:
            return action.help
        if action.default is True:
            return f"{action.help} (default: {action.option_strings[0]})"
        if isinstance(action.default, list | tuple):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


def run(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and exit: with 0 or what it returns, 1 after a mistake or a full disk, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # file names may hold what the terminal cannot show
    keep_freed_memory()
    try:
        sys.exit(main())
    except BrokenPipeError:  # what reads our output (head, less) has gone; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, OSError) as error:
        sys.exit(f"Error: {error}")
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit("Error: out of memory: close other programs, or take smaller photos or a smaller network.")
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether Python, or PyTorch on any device, had no memory left."""
    said = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def keep_freed_memory() -> None:
    """Have glibc keep the memory of a freed tensor or photo for the next one.

    By itself it returns large pieces to the system, and gets them anew page by page (mallopt(3)): up to a quarter of a
    training step on a CPU. Other systems' C libraries stay as they are.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def set_stop_handler(handler: Callable[[int, Any], None] | None) -> None:
    """Choose what Ctrl-C and SIGTERM call; with None, they stop the command at once."""
    signal.signal(signal.SIGINT, handler or signal.default_int_handler)
    signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def config_from_args(args: argparse.Namespace, without: Collection[str]) -> dict:
    """Return options as values that a checkpoint may hold."""
    values = {name: value for name, value in vars(args).items() if name not in without}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def config_to_flags(config: dict) -> list[str]:
    """Return options as one would type them, so that those of a checkpoint are checked like those of the user."""
    typed = []
    for name, value in config.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            typed.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            typed += [f"--{flag}", *map(str, value)]
        elif value is not None:
            typed.append(f"--{flag}={value}")
    return typed


def printable(text: object) -> str:
    r"""Return a text, such as the name of a file, with line breaks and other control characters as \n, \x1b."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
