"""Run steps one after the other, each in a separate process with a time limit, and keep what each measured."""

from __future__ import annotations

import contextlib
import json
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.steps import Setting, Step, card_slug, output_of

PRELOAD = "benchmarks.preload"
SHORTEST_S = 5.0  # less time than this is not worth a start
TAIL_LINES = 20
LOG_BYTES = 200_000  # of a step's output in the common log
ENDS = ("done", "failed", "cut", "stopped", "skipped")
STOPS = (signal.SIGINT, signal.SIGTERM)
BOTH_GIB = 24  # memory of a card that holds two steps at the same time
Figures = dict[str, Any]


@dataclass(eq=False)
class _Running:
    """A step under way, since `begun` on the monotonic clock."""

    step: Step
    limit_s: float
    begun: float
    process: BaseProcess


class Session:
    """A run of some steps.

    Args:
        context: starts processes in which the slow imports are done.
        seconds: for all steps together.
    """

    def __init__(self, context: ForkServerContext, setting: Setting, seconds: float) -> None:
        self._context, self._setting = context, setting
        self._deadline = time.monotonic() + seconds
        self._common = {"run": datetime.now(UTC).isoformat(timespec="seconds"), "commit": _commit()}
        self._common |= {"toy": setting.toy, "minutes": round(seconds / 60, 2)}
        self._lines: list[Figures] = []
        self._running: list[_Running] = []
        self._machine: Figures = {}

    def run(self, steps: Sequence[Step]) -> int:
        """Run the steps; return the exit status.

        Returns:
            0 if no step failed; 1 if one did (in a rehearsal also if one was cut); 2 if the machine or the data were
            refused; 128 plus the signal's number after SIGINT or SIGTERM.
        """
        with tempfile.TemporaryDirectory(prefix="wmdd-bench-") as folder:
            self._folder = Path(folder)
            status = self._run_all(steps)
        if refused := next((line["refused"] for line in self._lines if "refused" in line), ""):
            print(refused, file=sys.stderr)
            return 2
        self._print_table()
        failed = {"failed", "cut"} if self._setting.toy else {"failed"}
        return status or int(any(line["ended"] in failed for line in self._lines))

    def _run_all(self, steps: Sequence[Step]) -> int:
        """Run the steps until one refuses or a signal comes; return the exit status of the signal, or 0."""
        before = {number: signal.signal(number, _stop) for number in STOPS}
        try:
            for step, following in zip(steps, [*steps[1:], None], strict=True):
                self._begin(step)
                if following is None or not self._runs_beside(step, following):
                    self._finish_all()
                if any("refused" in line for line in self._lines):
                    break
            self._finish_all()
        except SystemExit as exc:
            return int(exc.code or 0)
        finally:
            for number in STOPS:
                signal.signal(number, signal.SIG_IGN)
            for running in list(self._running):
                self._finish(running, "stopped")
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0

    def _runs_beside(self, step: Step, following: Step) -> bool:
        """Whether a step goes on while the following one runs: not on a card that may be too small for both."""
        return step.beside == following.name and (self._setting.toy or self._machine.get("memory_gib", 0) >= BOTH_GIB)

    def _begin(self, step: Step) -> None:
        begun = time.monotonic()
        limit_s = min(step.limit_s, self._deadline - begun)
        if missing := step.skip(self._setting) or ("no time is left" if limit_s < SHORTEST_S else ""):
            self._keep({**self._line(step, "skipped", begun), "result": missing})
            return
        _show(f"{step.name:<23} begins  at most {limit_s:.0f} s")
        process = self._context.Process(target=_run, args=(step, self._setting, *self._files(step)))
        self._running.append(_Running(step, limit_s, begun, process))
        process.start()

    def _finish_all(self) -> None:
        """Wait for the step that was begun last, and then for what runs at the same time."""
        for running in reversed(list(self._running)):
            process = running.process
            process.join(max(0.0, running.begun + running.limit_s - time.monotonic()))
            self._finish(running, "cut" if process.is_alive() else "failed" if process.exitcode else "done")

    def _finish(self, running: _Running, ended: str) -> None:
        """End a step's process with all that it started, and keep what it measured."""
        _end(running.process)
        self._running.remove(running)
        figures_file, log = self._files(running.step)
        line = self._line(running.step, ended, running.begun) | _read(figures_file)
        if ended != "done":
            line |= {"log": _tail(log), "limit_s": round(running.limit_s), "exit": running.process.exitcode}
        self._machine = line["machine"]
        self._keep(line)
        if "refused" not in line and log.exists():
            with self._path().with_suffix(".log").open("ab") as file:
                file.write(f"--- {running.step.name}, {ended}\n".encode() + log.read_bytes()[-LOG_BYTES:])

    def _line(self, step: Step, ended: str, begun: float) -> Figures:
        seconds = round(time.monotonic() - begun, 1)
        line = {"benchmark": self._setting.on, "step": step.name, "ended": ended, "seconds": seconds}
        return {**line, **self._common, "machine": self._machine}

    def _keep(self, line: Figures) -> None:
        """Write and show a step's line, unless it says that nothing can be measured here."""
        self._lines.append(line)
        if "refused" in line:
            return
        with self._path().open("a") as file:
            file.write(json.dumps(line) + "\n")
        _show("\n".join([*_rows(line), *(f"    {text}" for text in line.get("log", []))]))

    def _files(self, step: Step) -> tuple[Path, Path]:
        return self._folder / f"{step.name}.jsonl", self._folder / f"{step.name}.log"

    def _path(self) -> Path:
        card = "toy" if self._setting.toy else card_slug(str(self._machine.get("device", "unknown")))
        return Path(self._setting.out) / f"{self._setting.on}-{card}.jsonl"

    def _print_table(self) -> None:
        counts = {ended: sum(line["ended"] == ended for line in self._lines) for ended in ENDS}
        _show("\n" + ", ".join(f"{count} {ended}" for ended, count in counts.items() if count))
        if self._setting.toy:
            _show("a rehearsal on the CPU at toy size: no figure of it means anything")
        _show(f"{'step':<23} {'ended':<8} {'s':>6}  result")
        for line in self._lines:
            _show(_rows(line)[0])
        if not self._setting.is_temporary:
            _show(f"lines are in {self._path()}")


def _show(text: str) -> None:
    print(text, flush=True)


def _stop(number: int, _frame: FrameType | None) -> None:
    """Raise SystemExit at a signal, so that the step under way leaves its line."""
    raise SystemExit(128 + number)


def _rows(line: Figures) -> list[str]:
    first, *others = str(line.get("result", "")).splitlines() or [""]
    return [
        f"{line['step']:<23} {line['ended']:<8} {line['seconds']:>6.1f}  {first}",
        *(f"{'':<39}  {other}" for other in others),
    ]


def _commit() -> str:
    """Return the checkout's commit, with a mark if files differ from it; "" outside a checkout."""
    return output_of("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12")


def _run(step: Step, setting: Setting, figures_file: Path, log: Path) -> None:
    """Run a step in this process, which becomes the leader of a session so that its children end with it."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(log, "wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    with open(figures_file, "w", buffering=1) as file:

        def record(**figures: Any) -> None:
            file.write(json.dumps(figures) + "\n")

        begun = time.monotonic()
        try:
            step.load()(setting, record, **step.arguments)
            record(
                seconds=round(time.monotonic() - begun, 1)
            )  # of two steps at a time, one is seen to end later than it does
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
    """Kill a step and its children, which are its session."""
    if process.pid is None:  # the signal came before it was started
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # it may have no session yet
    process.join()


def _read(figures_file: Path) -> Figures:
    """Merge the figures that a step has written; a line that its end cut short is left out."""
    figures: Figures = {}
    for line in figures_file.read_text().splitlines(keepends=True) if figures_file.exists() else []:
        if line.endswith("\n"):
            figures |= json.loads(line)
    return figures


def _tail(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [line[:300] for line in lines[-TAIL_LINES:]]
