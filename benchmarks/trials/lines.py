"""A line of results for each idea, and the table of the last ones."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from benchmarks.steps import output_of
from benchmarks.trials.bench import Bench
from benchmarks.trials.ideas import IDEAS
from wmdd.config.recipes import recipe
from wmdd.report.tables import markdown_table

ROOT = Path(__file__).parents[2]
MARK, END = "<!-- trials -->", "<!-- end -->"
RECIPE = "cifar10-quick"
Line = dict[str, Any]


def measure(bench: Bench, name: str, students: int) -> Line:
    """Return the line of an idea."""
    idea = IDEAS[name]
    classes, seconds = bench.images(idea)
    return {
        "benchmark": "trials",
        "recipe": RECIPE,
        "ipc": bench.config.ipc,
        "label_epochs": bench.config.relabel.epochs,
        "idea": name,
        "top1": bench.top1(classes, idea, students),
        "loop_s": round(seconds, 1),
        "unseen_loss": bench.unseen_loss(classes),
        "commit": output_of("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"),
        "machine": machine(),
    }


def table(lines: list[Line]) -> str:
    """Return the last line of each idea, size and number of label epochs as a table in Markdown, sorted as `IDEAS`."""
    usual = recipe(RECIPE).relabel.epochs
    last = {(line["ipc"], line.get("label_epochs", usual), line["idea"]): line for line in lines}
    sizes = sorted({(ipc, epochs) for ipc, epochs, _ in last})
    rows = []
    for name, idea in IDEAS.items():
        of_sizes = [last.get((*size, name)) for size in sizes]
        if any(of_sizes):
            about = " ".join((idea.__doc__ or "").split()).rstrip(".")
            rows.append([about, *(cell for line in of_sizes for cell in _cells(line))])
    heads = [f"{ipc} per class" + (f", {epochs} epochs" if epochs != usual else "") for ipc, epochs in sizes]
    return markdown_table(["idea", *(f"{head}{of}" for head in heads for of in ("", ": unseen loss"))], rows)


def _cells(line: Line | None) -> tuple[str, str]:
    """Return the top-1 with its deviation, and the loss of the unseen network."""
    if line is None:
        return "", ""
    top1 = line["top1"]
    spread = f" ± {statistics.stdev(top1):.1f}" if len(top1) > 1 else ""
    return f"{statistics.mean(top1):.1f}{spread}", f"{line['unseen_loss']:.2f}"


def with_table(page: str, lines: list[Line]) -> str:
    """Return a page whose table of trials is that of the lines."""
    return re.sub(f"{MARK}\n.*?{END}", lambda _: f"{MARK}\n{table(lines)}\n{END}", page, flags=re.DOTALL)


def kept(out: Path) -> list[Line]:
    """Return the lines of a file of results."""
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
