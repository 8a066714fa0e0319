"""Ctrl-C: a command ends by the signal, at once, as a program in C or Go does.

Python's own way, an exception somewhere in the middle, prints tracebacks of whatever was being imported or closed,
and can crash gRPC's threads at the interpreter's end.  What a command leaves half-done is what ``kill -9`` leaves,
which the datastores stand.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


def end_by_signal() -> None:
    """From now on; unless the signal is ignored, as under nohup."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def raised() -> Iterator[None]:
    """Inside, Ctrl-C is a ``KeyboardInterrupt``: for what leaves files to be removed."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
