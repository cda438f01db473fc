"""Import this first: Ctrl-C and a missing package then end a script in a line, without a traceback.

`coinkit.cli.run` takes over. In a notebook, Ctrl-C must not end Python, and nothing is changed.
"""

import builtins
import signal
import sys
from types import TracebackType


def tell_of_missing_package(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Say in a line what to do if a package is missing; show any other error as usual."""
    if not isinstance(error, ModuleNotFoundError):
        sys.__excepthook__(kind, error, traceback)
        return
    activate = r".venv\Scripts\activate" if sys.platform == "win32" else "source .venv/bin/activate"
    install = "pip install -r requirements.txt"
    print(f"Error: no package {error.name}. Activate the environment ({activate}), or {install}", file=sys.stderr)


if not hasattr(builtins, "__IPYTHON__"):
    sys.excepthook = tell_of_missing_package
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
