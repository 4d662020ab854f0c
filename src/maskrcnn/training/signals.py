"""Signals that ask a training to stop.

Ctrl-C, SIGTERM (a batch system, a container), SIGUSR1 (SLURM with ``--signal``) and SIGHUP (a terminal).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Record the first signal instead of being stopped by it, so that the present step can be completed.

    Yields a function that returns the signal's number, and 0 before there is one. A second signal raises what
    `interruption` returns. So does the end of a reading process after a signal: ``timeout`` and batch systems
    send it to all processes. SIGHUP stays ignored where it was (nohup). Only the main thread can receive
    signals; in another the function always returns 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    received: list[int] = []

    def record(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise interruption(number)

    before = {number: signal.signal(number, record) for number in _handled()}
    try:
        yield lambda: received[0] if received else 0
    except (RuntimeError, ValueError) as error:
        if received:
            raise interruption(received[0]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interruption(number: int) -> BaseException:
    """Return the exception that ends the process as a signal does: 130 after Ctrl-C, else 128 + `number`."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def _handled() -> list[int]:
    numbers = [signal.SIGINT, signal.SIGTERM]
    for name in ("SIGHUP", "SIGUSR1"):  # absent on Windows
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            numbers.append(number)
    return [int(number) for number in numbers]
