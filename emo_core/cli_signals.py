"""Signals that end a program, as Ctrl-C does: with all clean-up behind them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGTERM", "SIGHUP")
"""What timeout, kill and services send, and a terminal that is closed; Windows has no SIGHUP."""


class Ended(KeyboardInterrupt):
    """A signal that ends the program came; whatever cleans up after Ctrl-C does so now.

    Attributes:
        code: the exit code that shells give for it, 128 and the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.code = 128 + number


@contextmanager
def signals_end() -> Iterator[None]:
    """Raise Ended in the block when such a signal comes; the handlers are restored after it.

    A signal that is ignored (nohup) or handled by the caller's own program is left as it is, and
    so are all of them outside of the main thread, where Python sets no handlers.
    """
    main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in _NAMES if main and hasattr(signal, name)]
    ours = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]

    def end(number: int, _: FrameType | None) -> None:
        for each in ours:  # `timeout` sends it twice, and the second must not end the clean-up
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
