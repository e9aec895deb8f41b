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
        self._machine: Figures = {}

    def run(self, steps: Sequence[Step]) -> int:
        """Run the steps; return the exit status.

        Returns:
            0 if all ran; 1 if one failed; 2 without a GPU; 128 and the signal's number after SIGINT or SIGTERM.
        """
        _show(HEADER)
        status = 0
        with _stopped_by_signals():
            try:
                for step in steps:
                    line = self._step(step)
                    if line.get("exit") == NO_GPU:
                        print("no GPU: torch sees none here; make gpu TOY=1 rehearses the steps", file=sys.stderr)
                        return NO_GPU
                    self._keep(line)
                    cut_short = self._setting.toy and line["ended"] == "cut"
                    status = max(status, int(line["ended"] == "failed" or cut_short))
            except _StoppedError as stopped:
                self._keep(stopped.line)
                status = 128 + stopped.number
        _show(f"\nlines are in {self._path()}\n{HEADER}")
        for line in self._lines:
            _show(_row(line))
        return status

    def _step(self, step: Step) -> Figures:
        limit, begun = min(step.limit_s, self._deadline - time.monotonic()), time.monotonic()
        line: Figures = {"benchmark": "gpu", "step": step.name, "ended": "stopped", "seconds": 0.0}
        line |= {"machine": self._machine}
        missing = step.skip(self._setting) or ("no time is left" if limit < SHORTEST_S else "")
        if missing:
            return line | {"ended": "skipped", "result": missing}
        try:
            ended, figures = self._in_process(step, limit)
        except _StoppedError as stopped:
            stopped.line = line | self._read(step) | {"seconds": round(time.monotonic() - begun, 1)}
            raise
        return line | {"ended": ended, "seconds": round(time.monotonic() - begun, 1)} | figures

    def _in_process(self, step: Step, limit: float) -> tuple[str, Figures]:
        told, log = self._files(step)
        process = self._context.Process(target=_run, args=(step, self._setting, str(told), str(log)))
        process.start()
        try:
            process.join(limit)
            late = process.is_alive()
        finally:
            _end(process)
        figures = self._read(step)
        if late:
            return "cut", figures | {"limit_s": round(limit)}
        if process.exitcode:
            return "failed", figures | {"exit": process.exitcode, "log": _tail(log)}
        return "done", figures

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

    def _keep(self, line: Figures) -> None:
        self._machine = line["machine"]
        self._lines.append(line)
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

        try:
            step.load()(setting, tell, **step.arguments)
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
    """SIGINT or SIGTERM came; `line` is what the step under way had measured."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.line: Figures = {"benchmark": "gpu", "step": "", "ended": "stopped", "seconds": 0.0, "machine": {}}


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
