"""Import this before what is slow to import: Ctrl-C then ends a script at once, without a traceback.

`coinkit.cli.run` takes over. In a notebook, Ctrl-C must not end Python, and nothing is changed.
"""

import builtins
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler and not hasattr(builtins, "__IPYTHON__"):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
