"""Runs scripts in processes that are forked from this one, which has imported what they need already.

Imports take most of the time of a script on a few small photos. conftest.run_script starts this once, and writes a line
of JSON for each run; the answer is a line with the exit status.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("coin_classifier_custom", "evaluate", "export", "make_demo_coins", "predict", "prepare_dataset")
IMPORTED_LATE = ("captum.attr", "jinja2", "matplotlib.backends.backend_agg", "scipy.stats", "torch._dynamo")
IMPORTED_LATE += ("torch.utils.tensorboard",)


def main() -> None:
    """Fork a process for each line of the standard input."""
    sys.path[0] = str(ROOT)
    for name in (*SCRIPTS, *IMPORTED_LATE):
        importlib.import_module(name)
    Image.init()
    gc.freeze()  # or a collection in a forked process copies the memory of all modules
    for line in sys.stdin:
        script, arguments, folder, output = json.loads(line)
        child = os.fork()
        if not child:
            run_script(script, arguments, folder, output)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)  # without taking down all modules, which takes a second


def run_script(script: str, arguments: list[str], folder: str, output: list[str]) -> None:
    """Run a script in a folder, without input, its standard output and errors in two files. End with its status."""
    os.chdir(folder)
    for descriptor, path in enumerate([os.devnull, *output]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), descriptor)
    sys.argv = [script, *arguments]
    status = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
    except BaseException:
        status = 1
        traceback.print_exc()
    atexit._run_exitfuncs()
    for stream in (sys.__stdout__, sys.__stderr__):
        if not stream.closed:
            stream.flush()
    os._exit(1 if isinstance(status, str) else status or 0)


if __name__ == "__main__":
    main()
