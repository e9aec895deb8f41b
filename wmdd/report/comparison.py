"""Tables and the plot of a comparison: for people, for papers and for programs."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from wmdd.config.distill import DistillConfig
from wmdd.engine.run_names import portable_yaml, set_title
from wmdd.report.fonts import label, with_escapes
from wmdd.report.pictures import as_percent, figure
from wmdd.report.scores import committee, scored_on
from wmdd.storage.folder import Folder
from wmdd.text import escape_markdown, escape_tex, printable

Results = dict[tuple[str, int], dict[str, Any]]
_KINDS = {"top1_last": "", "top1_ema_last": ", EMA"}


def write_comparison(
    url: str, config: DistillConfig, results: Results, changes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Write ``compare.json``, ``.md``, ``.tex`` and ``.png``; give the content of the first.

    Args:
        changes: options of single methods, which every table names.
    """
    folder = Folder(url)
    facts = _facts(config, results) | {"changes": {name: dict(options) for name, options in changes.items()}}
    for kind, data in (("md", markdown(facts)), ("tex", latex(facts)), ("json", json.dumps(facts, indent=1))):
        folder.write(f"compare.{kind}", data.encode())
    folder.write("compare.png", plot_png(facts))
    folder.write("config.yaml", portable_yaml(config).encode())
    return facts


def _facts(config: DistillConfig, results: Results) -> dict[str, Any]:
    first = next(iter(results.values()))
    rows = []
    for (method, ipc), metrics in results.items():
        for student, scores in metrics["students"].items():
            found = scores["random_real"] if method == "random" else scores["distilled"]
            rows.append({"method": method, "ipc": ipc, "student": student, "protocol": scores["protocol"], **found})
    full = {name: scores["full_data"] for name, scores in first["students"].items()}
    return {
        "schema": 1,
        "recipe": config.recipe,
        "set": set_title(config),
        "seed": config.seed,
        "methods": list(dict.fromkeys(method for method, _ in results)),
        "ipc": list(dict.fromkeys(ipc for _, ipc in results)),
        "classes": first["classes"],
        "train_images": first["train_images"],
        "validation_images": first["validation_images"],
        "validation_digest": first["validation_digest"],
        "teacher": first["teacher"],
        "labelled_with": first["labelled_with"],
        "full_data": full,
        "protocol": first["protocol"],
        "rows": rows,
        "seconds": {f"{method}-ipc-{ipc}": metrics["seconds"] for (method, ipc), metrics in results.items()},
    }


def cells(facts: dict[str, Any], plus_minus: str = " ± ", mark: str = "{}", best: str = "{}") -> list[list[str]]:
    """Lay out the table: method, student, and a cell in % for each number of images per class.

    Args:
        plus_minus: between mean and sample deviation over the students' seeds; one student has no deviation.
        mark: around each cell.
        best: around the highest cell of its column, student and kind (students as they are, or averaged).
    """
    found = {(row["method"], row["student"], row["ipc"]): row for row in facts["rows"]}
    table = []
    for student in dict.fromkeys(row["student"] for row in facts["rows"]):
        for kind, suffix in _KINDS.items():
            for method in facts["methods"]:
                line = [method + suffix, student]
                for ipc in facts["ipc"]:
                    row = found[method, student, ipc]
                    if f"{kind}_mean" not in row:
                        continue  # no average of this student's weights was kept
                    mean, std = row[f"{kind}_mean"], row[f"{kind}_std"]
                    text = mark.format(plus_minus.join(f"{100 * part:.1f}" for part in (mean, std) if part is not None))
                    top = max(found[other, student, ipc].get(f"{kind}_mean", 0) for other in facts["methods"])
                    line.append(best.format(text) if mean == top else text)
                if len(line) > 2:
                    table.append(line)
        full = facts["full_data"][student]
        if full:
            table.append([_every(full), student, *[f"{100 * full['top1']:.1f}"] * len(facts["ipc"])])
    return table


def changed(facts: dict[str, Any]) -> str:
    """Name the options that single methods were given, to be added to a caption."""
    told = [
        f"{method} with {', '.join(f'{field} {value}' for field, value in options.items())}"
        for method, options in facts["changes"].items()
    ]
    return f"; {'; '.join(told)}" if told else ""


def _every(full: dict[str, Any]) -> str:
    """Name the bound of all data; what a loaded teacher was trained on is not known."""
    return {"loaded teacher": "loaded teacher", "teacher": "all data (the teacher)"}.get(full["from"], "all data")


def protocols_of(facts: dict[str, Any]) -> str:
    """Name the protocol of all scores, or each with the cases that have it: only equal hashes compare."""
    cases: dict[str, list[tuple[str, int, str]]] = {}
    for row in facts["rows"]:
        name = f"{row['protocol']['name']} {row['protocol']['hash']}"
        cases.setdefault(name, []).append((row["student"], row["ipc"], row["method"]))
    if len(cases) == 1:
        return f"protocol {next(iter(cases))}"
    return "protocols " + "; ".join(f"{name} ({_shown(own, facts)})" for name, own in cases.items())


def _shown(own: list[tuple[str, int, str]], facts: dict[str, Any]) -> str:
    """Name cases (student, images per class, method) by no more than tells them from the others."""
    every = list(dict.fromkeys(row["student"] for row in facts["rows"]))
    sizes: dict[str, list[str]] = {}
    for student in every:
        whole = [ipc for ipc in facts["ipc"] if all((student, ipc, method) in own for method in facts["methods"])]
        parts = ["all"] if whole == facts["ipc"] else [f"{ipc} per class" for ipc in whole]
        parts += [f"{method} at {ipc}" for name, ipc, method in own if name == student and ipc not in whole]
        sizes.setdefault(", ".join(parts), []).append(student)
    told = []
    for size, students in sizes.items():
        if size:
            names = "" if students == every else ", ".join(students)
            told.append(" at ".join(part for part in (names, "" if size == "all" else size) if part))
    return ", ".join(told)


def _caption(facts: dict[str, Any]) -> str:
    seeds = len(facts["rows"][0]["runs"])
    over = f"mean ± sample deviation of {seeds} students" if seeds > 1 else "one student"
    teacher = facts["teacher"]
    return (
        f"{facts['set']}: top-1 in % on {scored_on(facts)}, last epoch, {over}; "
        f"{protocols_of(facts)}; teacher {teacher['model']}, {100 * teacher['top1']:.1f} %"
        + (" (loaded)" if teacher["loaded"] else "")
        + committee(facts)
        + changed(facts)
    )


def markdown(facts: dict[str, Any]) -> str:
    """Write a table for a README."""
    name = escape_markdown(facts["set"])
    head = ["method", "student", *(f"{ipc} per class" for ipc in facts["ipc"])]
    lines = [head, ["---"] * len(head), *cells(facts, best="**{}**")]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_caption(facts | {'set': name})}\n"


def latex(facts: dict[str, Any]) -> str:
    """Write a table for a paper; it needs the package booktabs."""
    head = ["method", "student", *(f"ipc {ipc}" for ipc in facts["ipc"])]
    rows = [head, *cells(facts, r" \pm ", "${}$", r"{{\boldmath {}}}")]
    lines = [" & ".join([*map(escape_tex, row[:2]), *row[2:]]) + r" \\" for row in rows]
    caption = escape_tex(_caption(facts))
    columns = "ll" + "r" * len(facts["ipc"])
    body = "\n".join([lines[0], r"\midrule", *lines[1:]])
    return (
        f"% {printable(facts['set'])}\n"
        f"\\begin{{table}}\n\\centering\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n"
        f"\\bottomrule\n\\end{{tabular}}\n\\caption{{{caption}}}\n\\end{{table}}\n"
    )


def plot_png(facts: dict[str, Any]) -> bytes:
    """Draw top-1, a panel for each student: against images per class, or as bars if there is one number of them."""
    students = list(dict.fromkeys(row["student"] for row in facts["rows"]))
    draw, out = _bars if len(facts["ipc"]) == 1 else _lines, io.BytesIO()
    with figure(4.0 * len(students) + 1.4, 3.2, len(students)) as (drawn, panels):
        for axes, student in zip(panels, students, strict=True):
            draw(axes, facts, [row for row in facts["rows"] if row["student"] == student])
            full = facts["full_data"][student]
            if full:
                axes.axhline(full["top1"], color="0.5", linestyle="--", linewidth=1, label=_every(full))
            axes.set_title(with_escapes(label(f"{facts['set']}, {student}", 60)), parse_math=False)
            axes.set(ylabel="top-1")
            as_percent(axes)
        if draw is _bars:  # from 0, with room for the values above
            panels[0].set_ylim(0, 1.05 * panels[0].get_ylim()[1])
        handles, names = panels[0].get_legend_handles_labels()
        if handles:
            drawn.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8)
        drawn.savefig(out, format="png", dpi=150)
    return out.getvalue()


def _lines(axes: Any, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Draw a student's top-1 against images per class, each method in a colour."""
    for method in facts["methods"]:
        own = sorted((row for row in rows if row["method"] == method), key=lambda row: int(row["ipc"]))
        heights, errors = _scores(own)
        # Points of several hashes do not compare, so no line leads from one to the next.
        line = "-" if len({row["protocol"]["hash"] for row in own}) == 1 else ""
        sizes = [row["ipc"] for row in own]
        axes.errorbar(sizes, heights, errors, label=method, marker="o", linestyle=line, capsize=3)
    axes.set(xlabel="images per class", xscale="log")
    axes.set_xticks(facts["ipc"], [str(ipc) for ipc in facts["ipc"]])
    axes.minorticks_off()


def _bars(axes: Any, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Draw a student's top-1 as a bar for each method, with its value."""
    by_method = {row["method"]: row for row in rows}
    own = [by_method[method] for method in facts["methods"]]
    heights, errors = _scores(own)
    colours = [f"C{place}" for place in range(len(own))]
    bars = axes.bar(range(len(own)), heights, 0.6, yerr=errors, color=colours, capsize=3)
    axes.bar_label(bars, [f"{100 * height:.1f}" for height in heights], padding=2, fontsize=8)
    turned = {"rotation": 20, "ha": "right"} if len(own) > 3 else {}
    axes.set_xticks(range(len(own)), facts["methods"], **turned)
    number = facts["ipc"][0]
    axes.set(xlabel=f"{number} image{'' if number == 1 else 's'} per class", xlim=(-0.7, len(own) - 0.3))
    axes.grid(visible=False, axis="x")
    axes.set_axisbelow(True)


def _scores(rows: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [row["top1_last_mean"] for row in rows], [row["top1_last_std"] or 0.0 for row in rows]
