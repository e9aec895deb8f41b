"""The picture of a comparison: top-1 of each method against images per class or student steps, panel by panel."""

from __future__ import annotations

import contextlib
import io
import itertools
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from wmdd.report.comparison_tables import every_of, regimes_of, setting_of, students_of
from wmdd.report.fonts import label, with_escapes
from wmdd.report.gains import gain_text
from wmdd.report.pictures import as_percent, figure
from wmdd.report.tables import percent

GAIN_LINE, GAIN_WIDTH = 0.15, 52  # height of a line of gains below a panel, inches, and its characters
TITLE_LINE, TITLE_WIDTH = 0.2, 32  # the same of titles, for each panel that a title is above
NAME_WIDTH = TITLE_WIDTH - 2  # characters of a name in a title, with a comma in the same line


class Panel(NamedTuple):
    """Rows of a comparison that are drawn together.

    Args:
        title: what they have in common, and other panels have not.
    """

    student: str
    title: str
    rows: list[dict[str, Any]]


def plot_png(comparison: dict[str, Any]) -> bytes:
    """Draw a panel for each student and regime of labels, and for each number of images if epochs are compared.

    A panel has top-1 against student steps if epochs are compared, against images per class if these are, else bars.
    """
    out = io.BytesIO()
    with drawn(comparison) as drawing:
        drawing.savefig(out, format="png", dpi=150)
    return out.getvalue()


@contextlib.contextmanager
def drawn(comparison: dict[str, Any]) -> Iterator[Any]:
    """Yield the figure of a comparison, in the style that it must be saved in."""
    panels, draw = panels_of(comparison), _drawing(comparison)
    below = [_gains_below(comparison, panel.rows) for panel in panels]
    titles = [_wrapped(panel.title, TITLE_WIDTH) for panel in panels]
    above = _wrapped(title_of(comparison), TITLE_WIDTH * len(panels))
    height = 3.0 + GAIN_LINE * max(map(len, below)) + TITLE_LINE * (len(above) + max(map(len, titles)))
    with figure(4.0 * len(panels) + 1.4, height, len(panels)) as (drawing, axes_of):
        for axes, panel, title, lines in zip(axes_of, panels, titles, below, strict=True):
            draw(axes, comparison, panel.rows)
            axes.set_xlabel("\n".join([axes.get_xlabel(), *lines]))
            if full := comparison["full_data"][panel.student]:
                axes.axhline(full["top1"], color="0.5", linestyle="--", linewidth=1, label=every_of(full))
            axes.set_title("\n".join(title), parse_math=False)
            axes.set(ylabel="top-1")
            as_percent(axes)
        if draw is _bars:  # from 0, with room for the values above
            axes_of[0].set_ylim(0, 1.05 * axes_of[0].get_ylim()[1])
        # On the left, because the legend is at the right of the panels and reaches as high.
        drawing.suptitle("\n".join(above), x=0.01, ha="left", parse_math=False)
        handles, names = axes_of[0].get_legend_handles_labels()
        if handles:
            drawing.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8)
        yield drawing


def _wrapped(title: str, width: int) -> list[str]:
    """Return the lines of a title."""
    return textwrap.wrap(with_escapes(title), width)


def title_of(comparison: dict[str, Any]) -> str:
    """Return what all panels of a comparison's picture have in common: the set, and the student if there is one."""
    students = students_of(comparison)
    names = [comparison["set"], *(students if len(students) == 1 else [])]
    return ", ".join(label(name, NAME_WIDTH) for name in names)


def panels_of(comparison: dict[str, Any]) -> list[Panel]:
    """Return the panels of a comparison's picture, from left to right."""
    by_size = bool(comparison.get("epochs"))
    students = students_of(comparison)
    sizes: list[int | None] = comparison["ipc"] if by_size else [None]
    panels = []
    for student, regime, ipc in itertools.product(students, regimes_of(comparison), sizes):
        parts = [label(student, NAME_WIDTH) if len(students) > 1 else "", f"labels: {regime}" if regime else ""]
        parts.append(f"{ipc} per class" if ipc else "")
        rows = [row for row in comparison["rows"] if (row["student"], row.get("regime")) == (student, regime)]
        rows = [row for row in rows if ipc in (None, row["ipc"])]
        panels.append(Panel(student, ", ".join(filter(None, parts)), rows))
    return panels


def _drawing(comparison: dict[str, Any]) -> Callable[[Any, dict[str, Any], list[dict[str, Any]]], None]:
    if comparison.get("epochs"):
        return _budgets
    return _bars if len(comparison["ipc"]) == 1 else _lines


def _gains_below(comparison: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Return lines for below a panel: the gains of each method over the best selection of real images."""
    several = len({setting_of(row) for row in rows}) > 1
    lines: list[str] = []
    for method in comparison["methods"]:
        texts = []
        for row in rows:
            if row["method"] == method and row.get("gain"):
                at = (f" at {row['steps']:,} steps" if row.get("epochs") else f" at {row['ipc']}") if several else ""
                texts.append(f"{gain_text(row['gain'])}{at} ({row['gain']['over']})")
        lines += textwrap.wrap(f"{method}, points over real images: {', '.join(texts)}", GAIN_WIDTH) if texts else []
    return lines


def _lines(axes: Any, comparison: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Draw a student's top-1 against images per class, each method in a colour."""
    for method in comparison["methods"]:
        points = sorted((row for row in rows if row["method"] == method), key=lambda row: int(row["ipc"]))
        # Points of several hashes do not compare, so no line leads from one to the next.
        line = "-" if len({row["protocol"]["hash"] for row in points}) == 1 else ""
        _draw_points(axes, method, "ipc", points, line)
    axes.set(xlabel="images per class", xscale="log")
    axes.set_xticks(comparison["ipc"], [str(ipc) for ipc in comparison["ipc"]])
    axes.minorticks_off()


def _budgets(axes: Any, comparison: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Draw a student's top-1 against its steps, each method in a colour; each number of epochs has its own hash."""
    for method in comparison["methods"]:
        points = sorted((row for row in rows if row["method"] == method), key=lambda row: int(row["steps"]))
        _draw_points(axes, method, "steps", points, "-")
    steps = sorted({row["steps"] for row in rows})
    axes.set(xlabel="student steps", xscale="log")
    axes.set_xticks(steps, [f"{number:,}" for number in steps])
    axes.minorticks_off()


def _draw_points(axes: Any, method: str, across: str, points: list[dict[str, Any]], line: str) -> None:
    heights, errors = _scores(points)
    places = [row[across] for row in points]
    axes.errorbar(places, heights, errors, label=method, marker="o", linestyle=line, capsize=3)


def _bars(axes: Any, comparison: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Draw a student's top-1 as a bar for each method, with its value."""
    by_method = {row["method"]: row for row in rows}
    methods = comparison["methods"]
    heights, errors = _scores([by_method[method] for method in methods])
    colours = [f"C{number}" for number in range(len(methods))]
    bars = axes.bar(range(len(methods)), heights, 0.6, yerr=errors, color=colours, capsize=3)
    axes.bar_label(bars, [percent(height, None) for height in heights], padding=2, fontsize=8)
    turned = {"rotation": 20, "ha": "right"} if len(methods) > 3 else {}
    axes.set_xticks(range(len(methods)), methods, **turned)
    ipc = comparison["ipc"][0]
    axes.set(xlabel=f"{ipc} image{'' if ipc == 1 else 's'} per class", xlim=(-0.7, len(methods) - 0.3))
    axes.grid(visible=False, axis="x")
    axes.set_axisbelow(True)


def _scores(rows: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [row["top1_last_mean"] for row in rows], [row["top1_last_std"] or 0.0 for row in rows]
