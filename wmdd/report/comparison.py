"""Tables and the plot of a comparison: for people, for papers and for programs."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from wmdd.config.distill import DistillConfig
from wmdd.config.methods import SELECTING
from wmdd.engine.run_names import portable_yaml
from wmdd.report.fonts import label, with_escapes
from wmdd.report.gains import gain_of, gain_text
from wmdd.report.pictures import as_percent, figure
from wmdd.report.scores import SHARED, protocol_line, scored_on, scores_of, teachers_of
from wmdd.report.tables import console_table, latex_table, markdown_table, of_students, percent
from wmdd.storage.folder import Folder
from wmdd.text import escape_markdown

Results = dict[tuple[str, int], dict[str, Any]]
GAIN_LINE, GAIN_WIDTH = 0.15, 52  # height of a line of gains below a panel, inches, and its characters
_SCORES = {"top1_last": "", "top1_ema_last": ", EMA"}


def write_comparison(
    folder: Folder, config: DistillConfig, results: Results, changes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Write ``compare.json``, ``.md``, ``.tex`` and ``.png``, and return the content of the first.

    Args:
        results: metrics of each case, by method and images per class.
        changes: options of single methods, which every table names.
    """
    comparison = _comparison(results) | {"changes": {name: dict(values) for name, values in changes.items()}}
    texts = {"md": markdown(comparison), "tex": latex(comparison), "json": json.dumps(comparison, indent=1)}
    for suffix, text in texts.items():
        folder.write(f"compare.{suffix}", text.encode())
    folder.write("compare.png", plot_png(comparison))
    folder.write("config.yaml", portable_yaml(config).encode())
    return comparison


def _comparison(results: Results) -> dict[str, Any]:
    first = next(iter(results.values()))
    rows = []
    for (method, ipc), metrics in results.items():
        for student, scores in metrics["students"].items():
            top1 = scores_of(method, scores)
            rows.append({"method": method, "ipc": ipc, "student": student, "protocol": scores["protocol"], **top1})
    for row in rows:
        row["gain"] = _gain(row, rows)
    return {
        "schema": 2,
        **{name: first[name] for name in SHARED},
        "protocol": first["protocol"],
        "methods": list(dict.fromkeys(method for method, _ in results)),
        "ipc": list(dict.fromkeys(ipc for _, ipc in results)),
        "full_data": {name: scores["full_data"] for name, scores in first["students"].items()},
        "rows": rows,
        "seconds": {f"{method}-ipc-{ipc}": metrics["seconds"] for (method, ipc), metrics in results.items()},
    }


def _gain(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the gain of a distilling method over the best selecting method that is compared with it; None without."""
    if row["method"] in SELECTING:
        return None
    beside = (other for other in rows if all(other[name] == row[name] for name in ("student", "ipc")))
    return gain_of(row, {other["method"]: other for other in beside if other["method"] in SELECTING})


def _has_gains(comparison: dict[str, Any]) -> bool:
    return any(row.get("gain") for row in comparison["rows"])


def cells(comparison: dict[str, Any], plus_minus: str = " ± ", mark: str = "{}", best: str = "{}") -> list[list[str]]:
    """Return the rows of the table: method, student, and a cell in % for each number of images per class.

    If selecting methods are compared with others, a cell with the gain over the best of them follows each.

    Args:
        comparison: content of ``compare.json``, as in all functions here.
        plus_minus: between mean and sample standard deviation over the students' seeds; one student has none.
        mark: around each cell.
        best: around the highest cell of its column, student and score (students as they are, or averaged).
    """
    cases = {(row["method"], row["student"], row["ipc"]): row for row in comparison["rows"]}
    gains, table = _has_gains(comparison), []
    for student in _students(comparison):
        for score, suffix in _SCORES.items():
            for method in comparison["methods"]:
                line = [method + suffix, student]
                for ipc in comparison["ipc"]:
                    case = cases[method, student, ipc]
                    if f"{score}_mean" not in case:
                        continue  # no average of this student's weights was kept
                    mean = case[f"{score}_mean"]
                    text = mark.format(percent(mean, case[f"{score}_std"], plus_minus))
                    top = max(cases[other, student, ipc].get(f"{score}_mean", 0) for other in comparison["methods"])
                    line.append(best.format(text) if mean == top else text)
                    if gains:
                        gain = case["gain"] if score == "top1_last" else None
                        line.append(mark.format(gain_text(gain, plus_minus)) if gain else "")
                if len(line) > 2:
                    table.append(line)
        if full := comparison["full_data"][student]:
            bound = [percent(full["top1"], None), *[""] * gains]
            table.append([_every(full), student, *bound * len(comparison["ipc"])])
    return table


def _students(comparison: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["student"] for row in comparison["rows"]))


def _every(full: dict[str, Any]) -> str:
    """Return the name of the bound of all data; what a loaded teacher was trained on is not known."""
    return {"loaded teacher": "loaded teacher", "teacher": "all data (the teacher)"}.get(full["from"], "all data")


def changed(comparison: dict[str, Any]) -> str:
    """Return the options that were changed for single methods, to be added to a caption."""
    parts = [
        f"{method} with {', '.join(f'{field} {value}' for field, value in options.items())}"
        for method, options in comparison["changes"].items()
    ]
    return f"; {'; '.join(parts)}" if parts else ""


def protocols_of(comparison: dict[str, Any]) -> str:
    """Return the protocol of all scores, or each with the cases that have it."""
    protocols = {(row["student"], row["ipc"], row["method"]): row["protocol"] for row in comparison["rows"]}
    return protocol_line(protocols, lambda cases: _shortest(cases, comparison))


def _shortest(cases: list[tuple[str, int, str]], comparison: dict[str, Any]) -> str:
    """Return cases (student, images per class, method) by no more than distinguishes them from the others."""
    students = _students(comparison)
    sizes: dict[str, list[str]] = {}
    for student in students:
        whole = [
            ipc for ipc in comparison["ipc"] if all((student, ipc, name) in cases for name in comparison["methods"])
        ]
        parts = ["all"] if whole == comparison["ipc"] else [f"{ipc} per class" for ipc in whole]
        parts += [f"{method} at {ipc}" for name, ipc, method in cases if name == student and ipc not in whole]
        sizes.setdefault(", ".join(parts), []).append(student)
    texts = []
    for size, of in sizes.items():
        if size:
            names = "" if of == students else ", ".join(of)
            texts.append(" at ".join(part for part in (names, "" if size == "all" else size) if part))
    return ", ".join(texts)


def _caption(comparison: dict[str, Any], name: str) -> str:
    seeds = len(comparison["rows"][0]["runs"])
    return (
        f"{name}: top-1 in % on {scored_on(comparison)}, last epoch, {of_students(seeds)}; "
        f"{protocols_of(comparison)}; {teachers_of(comparison)}{changed(comparison)}{_about_gains(comparison)}"
    )


def _about_gains(comparison: dict[str, Any]) -> str:
    """Return what the columns of gains hold, to be added to a caption."""
    if not _has_gains(comparison):
        return ""
    error = ", ± standard error" if len(comparison["rows"][0]["runs"]) > 1 else ""
    names = ", ".join(name for name in comparison["methods"] if name in SELECTING)
    return f"; gain: points over the best selection of real images ({names}){error}"


def _head(comparison: dict[str, Any], size: str = "{} per class") -> list[str]:
    gains = ["gain"] if _has_gains(comparison) else []
    return ["method", "student", *(name for ipc in comparison["ipc"] for name in (size.format(ipc), *gains))]


def markdown(comparison: dict[str, Any]) -> str:
    """Return the table and its caption for a README."""
    table = markdown_table(_head(comparison), cells(comparison, best="**{}**"))
    return f"{table}\n\n{_caption(comparison, escape_markdown(comparison['set']))}\n"


def latex(comparison: dict[str, Any]) -> str:
    """Return the table for a paper."""
    head = _head(comparison, "ipc {}")
    rows = cells(comparison, r" \pm ", "${}$", r"{{\boldmath {}}}")
    name = comparison["set"]
    return latex_table(head, rows, texts=2, name=name, caption=_caption(comparison, name))


def columns(comparison: dict[str, Any]) -> Table:
    """Return the table for a terminal."""
    title = (
        f"{comparison['set']}: top-1 of the last epoch in % on {scored_on(comparison)}, {protocols_of(comparison)}"
        f"{changed(comparison)}{_about_gains(comparison)}"
    )
    return console_table(_head(comparison), cells(comparison), names=2, title=title)


def plot_png(comparison: dict[str, Any]) -> bytes:
    """Draw top-1 against images per class, or as bars if there is one number of them, a panel for each student."""
    students = _students(comparison)
    draw = _bars if len(comparison["ipc"]) == 1 else _lines
    rows = {name: [row for row in comparison["rows"] if row["student"] == name] for name in students}
    below = {name: _gains_below(comparison, rows[name]) for name in students}
    height = 3.2 + GAIN_LINE * max(map(len, below.values()))
    out = io.BytesIO()
    with figure(4.0 * len(students) + 1.4, height, len(students)) as (drawing, panels):
        for axes, student in zip(panels, students, strict=True):
            draw(axes, comparison, rows[student])
            axes.set_xlabel("\n".join([axes.get_xlabel(), *below[student]]))
            if full := comparison["full_data"][student]:
                axes.axhline(full["top1"], color="0.5", linestyle="--", linewidth=1, label=_every(full))
            axes.set_title(with_escapes(label(f"{comparison['set']}, {student}", 60)), parse_math=False)
            axes.set(ylabel="top-1")
            as_percent(axes)
        if draw is _bars:  # from 0, with room for the values above
            panels[0].set_ylim(0, 1.05 * panels[0].get_ylim()[1])
        handles, names = panels[0].get_legend_handles_labels()
        if handles:
            drawing.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8)
        drawing.savefig(out, format="png", dpi=150)
    return out.getvalue()


def _gains_below(comparison: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Return lines for below a panel: the gains of each method over the best selection of real images."""
    lines: list[str] = []
    for method in comparison["methods"]:
        gains = [(row["ipc"], row["gain"]) for row in rows if row["method"] == method and row.get("gain")]
        sizes = [f" at {ipc}" if len(comparison["ipc"]) > 1 else "" for ipc, _ in gains]
        texts = [f"{gain_text(gain)}{size} ({gain['over']})" for size, (_, gain) in zip(sizes, gains, strict=True)]
        lines += textwrap.wrap(f"{method}, points over real images: {', '.join(texts)}", GAIN_WIDTH) if texts else []
    return lines


def _lines(axes: Any, comparison: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Draw a student's top-1 against images per class, each method in a colour."""
    for method in comparison["methods"]:
        points = sorted((row for row in rows if row["method"] == method), key=lambda row: int(row["ipc"]))
        heights, errors = _scores(points)
        # Points of several hashes do not compare, so no line leads from one to the next.
        line = "-" if len({row["protocol"]["hash"] for row in points}) == 1 else ""
        sizes = [row["ipc"] for row in points]
        axes.errorbar(sizes, heights, errors, label=method, marker="o", linestyle=line, capsize=3)
    axes.set(xlabel="images per class", xscale="log")
    axes.set_xticks(comparison["ipc"], [str(ipc) for ipc in comparison["ipc"]])
    axes.minorticks_off()


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
