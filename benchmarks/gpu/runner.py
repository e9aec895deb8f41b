"""Run steps one after the other, each in a process of its own with a time limit, and keep what each has measured."""

from __future__ import annotations

import contextlib
import json
import multiprocessing.connection
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.gpu.steps import NO_GPU, Setting, Step

PRELOAD = "benchmarks.gpu.preload"
SHORTEST_S = 5.0  # what is left to a step below this is not worth its start
TAIL_LINES = 20
HEADER = f"{'step':<16} {'ended':<8} {'s':>6}  result"
Figures = dict[str, Any]


@dataclass(eq=False)
class _Running:
    """A step under way, since `begun` on the monotonic clock; no process where it was skipped."""

    step: Step
    limit_s: float
    begun: float
    process: BaseProcess | None = None


class Session:
    """A run of some steps.

    Args:
        context: starts processes that have the slow imports behind them.
        seconds: for all steps together.
    """

    def __init__(self, context: ForkServerContext, setting: Setting, seconds: float) -> None:
        self._context, self._setting = context, setting
        self._deadline = time.monotonic() + seconds
        self._lines: list[Figures] = []
        self._running: list[_Running] = []
        self._machine: Figures = {}

    def run(self, steps: Sequence[Step]) -> int:
        """Run the steps; return the exit status.

        Returns:
            0 if all ran; 1 if one failed; 2 without a GPU; 128 and the signal's number after SIGINT or SIGTERM.
        """
        _show(HEADER)
        number = self._run_all(steps)
        if any(line.get("exit") == NO_GPU for line in self._lines):
            print("no GPU: torch sees none here; make gpu TOY=1 rehearses the steps", file=sys.stderr)
            return NO_GPU
        _show(f"\nlines are in {self._path()}\n{HEADER}")
        for line in self._lines:
            _show(_row(line))
        failed = {"failed", "cut"} if self._setting.toy else {"failed"}
        return 128 + number if number else int(any(line["ended"] in failed for line in self._lines))

    def _run_all(self, steps: Sequence[Step]) -> int:
        """Run the steps until a signal comes; return its number, or 0."""
        with _stopped_by_signals():
            try:
                for step in steps:
                    self._begin(step)
                    if not step.beside:
                        self._finish_all()
                self._finish_all()
            except _StoppedError as exc:
                return exc.number
            finally:
                for running in list(self._running):
                    self._keep(running, "stopped")
        return 0

    def _begin(self, step: Step) -> None:
        limit = min(step.limit_s, self._deadline - time.monotonic())
        running = _Running(step, limit, time.monotonic())
        missing = step.skip(self._setting) or ("no time is left" if limit < SHORTEST_S else "")
        if missing:
            self._keep(running, "skipped", {"result": missing})
            return
        told, log = self._files(step)
        told.unlink(missing_ok=True)
        running.process = self._context.Process(target=_run, args=(step, self._setting, str(told), str(log)))
        self._running.append(running)
        running.process.start()

    def _finish_all(self) -> None:
        """Wait for the step that was begun last, and then for what runs beside it."""
        for running in reversed(self._running[:]):
            process = running.process
            assert process is not None
            process.join(max(0.0, running.begun + running.limit_s - time.monotonic()))
            if process.is_alive():
                self._keep(running, "cut", {"limit_s": round(running.limit_s)})
            elif process.exitcode:
                self._keep(running, "failed", {"exit": process.exitcode})
            else:
                self._keep(running, "done")
            if process.exitcode == NO_GPU:
                raise _StoppedError(0)

    def _files(self, step: Step) -> tuple[Path, Path]:
        folder = Path(self._setting.work)
        return folder / f"step-{step.name}.jsonl", folder / f"step-{step.name}.log"

    def _read(self, step: Step) -> Figures:
        """Merge what a step has told so far; a line that its end cut short is left out."""
        figures: Figures = {}
        told = self._files(step)[0]
        for line in told.read_text().splitlines(keepends=True) if told.exists() else []:
            if line.endswith("\n"):
                figures |= json.loads(line)
        return figures

    def _keep(self, running: _Running, ended: str, more: Figures | None = None) -> None:
        """End a step's process with all that it started, and write its line."""
        if running.process is not None:
            _end(running.process)
            self._running.remove(running)
        line: Figures = {"benchmark": "gpu", "step": running.step.name, "ended": ended}
        line |= {"seconds": round(time.monotonic() - running.begun, 1), "machine": self._machine}
        line |= (self._read(running.step) if running.process is not None else {}) | (more or {})
        if ended in ("failed", "cut", "stopped"):
            line["log"] = _tail(self._files(running.step)[1])
        self._machine = line["machine"]
        self._lines.append(line)
        if line.get("exit") == NO_GPU:
            return
        with self._path().open("a") as file:
            file.write(json.dumps(line) + "\n")
        _show("\n".join([_row(line), *(f"    {text}" for text in line.get("log", []))]))

    def _path(self) -> Path:
        slug = re.sub(r"[^a-z0-9]+", "-", str(self._machine.get("device", "unknown")).lower()).strip("-")
        return Path(self._setting.out) / ("gpu-toy.jsonl" if self._setting.toy else f"gpu-{slug}.jsonl")


def _show(text: str) -> None:
    print(text, flush=True)


def _row(line: Figures) -> str:
    results = str(line.get("result", "")).splitlines() or [""]
    first = f"{line['step']:<16} {line['ended']:<8} {line['seconds']:>6.1f}  {results[0]}"
    return "\n".join([first, *(f"{'':<32}  {more}" for more in results[1:])])


def _run(step: Step, setting: Setting, told: str, log: str) -> None:
    """Run a step in its own process: a session of its own, so that what it started ends with it."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(log, "wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    with open(told, "w", buffering=1) as file:

        def tell(**figures: Any) -> None:
            file.write(json.dumps(figures) + "\n")

        begun = time.monotonic()
        try:
            step.load()(setting, tell, **step.arguments)
            tell(seconds=round(time.monotonic() - begun, 1))  # of a step beside another, less than until it was seen
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None
        finally:
            sys.stdout.flush()
            sys.stderr.flush()


def _end_with_parent() -> None:
    """End this step with all that it started when the process that watches it is gone, also by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.killpg(os.getpid(), signal.SIGKILL)


def _end(process: BaseProcess) -> None:
    """End a step and all that it started, which is its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(int(process.pid or 0), signal.SIGKILL)
    process.kill()  # it may have no session yet
    process.join()


def _tail(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [line[:300] for line in lines[-TAIL_LINES:]]


class _StoppedError(BaseException):
    """No further step is to run: a signal came (its number), or there is no GPU (0)."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into an exception, so that the step under way leaves its line."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise _StoppedError(number)

    before: dict[int, Callable[..., Any] | int | None] = {
        number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
