"""SIGTERM, SIGHUP and Ctrl-C in a command: an orderly end, or an immediate one if it takes long or is requested twice.

Only the command installs this. A program that calls wmdd from Python keeps its own signal handlers.

Ray's core installs a handler of SIGTERM, below Python and for good, which prints a stack trace and aborts, and while it
does so Python cannot run. So SIGTERM and SIGHUP are blocked in all threads but for one that waits for them, and no
handler runs. That thread interrupts the main one as Ctrl-C does, and ends the process where the main thread does not.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

GRACE_S = 8.0  # for the orderly end: a Ray takes two seconds, more on a busy machine
AGAIN_S = 0.05  # after an interruption that was dropped
SAME_S = 0.3  # make, Slurm and others pass on a signal that their whole group has received
SAVE_S = 1.0  # for a last snapshot
GONE_S = 2.0  # within which processes that were killed have ended


class _Watch:
    """Receives the signals of this process."""

    def __init__(self) -> None:
        # What was ignored at the start stays so: SIGHUP under nohup, Ctrl-C in a shell's background.
        names = (signal.SIGTERM, signal.SIGHUP)
        self._stops = {number for number in names if signal.getsignal(number) != signal.SIG_IGN}
        self._ignores_int = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        self._main = threading.get_ident()
        self.number = 0
        self.line = "wmdd: interrupted"
        self.at_once = self.is_raised = self._is_saved = self._is_written = self._is_repeated = False
        self._writing, self._leaving = threading.Lock(), threading.Lock()
        self._started: list[Any] = []
        self._received, self._wakeup = os.pipe()

    def start(self) -> None:
        """Start to receive; all threads that start after this one have the signals blocked."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._stops)
        os.register_at_fork(after_in_child=self._forked)
        os.set_blocking(self._wakeup, False)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._interrupt)
        self._dropped, sys.unraisablehook = sys.unraisablehook, self._drop
        for number in self._stops:  # multiprocessing unblocks SIGTERM; then this wakes the thread
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._wait, daemon=True, name="stop-signals").start()
        threading.Thread(target=self._handle, daemon=True, name="interruptions").start()

    def _forked(self) -> None:
        """Make SIGTERM end a child; not called for programs that subprocess starts without preexec_fn."""
        signal.set_wakeup_fd(-1)
        for number in self._stops:
            signal.signal(number, signal.SIG_DFL)
        accept()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.is_raised or (self._ignores_int and not self.number):
            return
        if _saves and not self._is_saved:
            return  # the work goes on for a last snapshot, after which `_first` interrupts it
        self.is_raised = True  # another one would cut the orderly end short, with a traceback
        raise KeyboardInterrupt

    def _drop(self, unraisable: Any) -> None:
        """Interrupt again where Python drops the KeyboardInterrupt: in finalizers and callbacks, which cannot raise."""
        if not (self.is_raised and issubclass(unraisable.exc_type, KeyboardInterrupt)):
            self._dropped(unraisable)
            return
        self.is_raised, self._is_repeated = False, True
        again = threading.Timer(AGAIN_S, signal.pthread_kill, (self._main, signal.SIGINT))
        again.daemon = True
        again.start()

    def _wait(self) -> None:
        while self._stops:
            os.write(self._wakeup, bytes([signal.sigwait(self._stops)]))

    def _handle(self) -> None:
        while not self.number:
            self._first(os.read(self._received, 1)[0])
        begun = time.monotonic()
        while (left := begun + GRACE_S - time.monotonic()) > 0:
            if select.select([self._received], [], [], left)[0]:
                again = self._counts(os.read(self._received, 1)[0])
                if self._is_repeated:  # by this process, not by the sender of the first
                    self._is_repeated = False
                elif again and time.monotonic() > begun + SAME_S:
                    break
        self.end()

    def _counts(self, number: int) -> bool:
        """Whether a signal asks for the end; Python also reports others that have handlers."""
        return number in self._stops or (number == signal.SIGINT and not self._ignores_int)

    def _first(self, number: int) -> None:
        if not self._counts(number):
            return
        self.number = number
        if self.at_once:
            self.end()
        # Listed before any of them ends: the children of a process that has ended have no parent to find them by.
        self._started = _family()
        for save in _saves:
            save(SAVE_S)
        self._is_saved = True
        signal.pthread_kill(self._main, signal.SIGINT)  # nothing, where Ctrl-C has interrupted it already

    def tell(self, line: str) -> None:
        """Write the last line of the command, once."""
        with self._writing:
            if not self._is_written:
                self._is_written = True
                with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
                    sys.stderr.write(f"{line}\n")
                    sys.stderr.flush()

    def end(self) -> NoReturn:
        """End this process and all that it has started, at once."""
        with self._leaving:
            _kill([*self._started, *_family()])
            with contextlib.suppress(OSError):
                if not self._is_written:
                    for stream in (1, 2):
                        if os.isatty(stream):
                            os.write(stream, b"\x1b[?25h\n")  # the live view hides the cursor
                    # Below Python's own buffer, whose lock the main thread may hold.
                    os.write(2, f"{self.line}\n".encode(errors="replace"))
            os._exit(128 + self.number)

    def leave(self, status: int) -> NoReturn:
        """End the process after the orderly end, without what would run at the exit of a half-imported library."""
        with self._leaving:
            _kill([*self._started, *_family()])
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(status)


_watch: _Watch | None = None


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Handle the signals of this process, whose whole work is inside."""
    global _watch
    if _watch is None and hasattr(signal, "sigwait"):
        _watch = _Watch()
        _watch.start()
    try:
        yield
    except BaseException as exc:
        if _watch is None or not (_is_interrupted() or isinstance(exc, KeyboardInterrupt)):
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if isinstance(exc, SystemExit) and not exc.code:
            _watch.leave(0)  # all was done before the signal took effect
        _watch.tell(_watch.line)
        _watch.leave(status())
    finally:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is over: no traceback out of Python's own end


@contextlib.contextmanager
def before_errors() -> Iterator[None]:
    """Raise KeyboardInterrupt for an error inside that follows a signal: workers may have received it, too."""
    try:
        yield
    except Exception:
        if _is_interrupted():
            raise KeyboardInterrupt from None
        raise


def _is_interrupted() -> bool:
    return _watch is not None and bool(_watch.number or _watch.is_raised)


def status() -> int:
    """Return the exit status of an interrupted command: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + (_watch.number if _watch and _watch.number else signal.SIGINT)


_saves: list[Callable[[float], None]] = []


def before_end(save: Callable[[float], None]) -> None:
    """Call a function, with the seconds that it may take, after the first signal while the work still goes on."""
    _saves.append(save)


def announce(line: str) -> None:
    """Set the line that an interruption ends the command with."""
    if _watch:
        _watch.line = line


def tell(line: str) -> None:
    """Write the line that the interrupted command ends with; a second one is not written."""
    if _watch:
        _watch.tell(line)
    else:
        sys.stderr.write(f"{line}\n")


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Make a signal end the process at once while the block starts what cannot stay half started, such as Ray."""
    if _watch is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    missed = []
    before = signal.signal(signal.SIGINT, lambda *_: missed.append(True))
    _watch.at_once = True
    try:
        yield
    finally:
        _watch.at_once = False
        signal.signal(signal.SIGINT, before)
    if missed:
        raise KeyboardInterrupt


def accept(*_: Any) -> None:
    """Unblock SIGTERM and SIGHUP in this process, which inherits them blocked from the command that started it."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGHUP})


def _family() -> list[Any]:
    """Return all descendants of this process, but for the one that clears Python's shared memory after it."""
    try:
        import psutil
    except ImportError:  # comes with Ray; without it there are loaders at most
        multiprocessing = sys.modules.get("multiprocessing")
        return multiprocessing.active_children() if multiprocessing else []
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    children = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process().children(recursive=True)
    return [process for process in children if process.pid != getattr(tracker, "_pid", None)]


def _kill(processes: list[Any]) -> None:
    for process in processes:
        with contextlib.suppress(Exception):  # it has ended
            process.kill()
    limit = time.monotonic() + GONE_S
    while any(map(_is_alive, processes)) and time.monotonic() < limit:
        time.sleep(0.02)


def _is_alive(process: Any) -> bool:
    with contextlib.suppress(Exception):  # it has ended
        alive = getattr(process, "is_alive", None)
        return bool(alive() if alive else process.is_running() and process.status() != "zombie")
    return False
