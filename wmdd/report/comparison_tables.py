"""Tables of a comparison: for people, for papers and for programs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.table import Table

from wmdd.config.cases import Case
from wmdd.config.methods import SELECTING
from wmdd.report import costs
from wmdd.report.gains import gain_text
from wmdd.report.scores import protocol_line, scored_on, teachers_of
from wmdd.report.tables import console_table, latex_table, markdown_table, of_students, percent
from wmdd.text import escape_markdown

_SCORES = {"top1_last": "", "top1_ema_last": ", EMA"}


class Setting(NamedTuple):
    """What all methods of a comparison are compared at: a `Case` without its method."""

    ipc: int
    regime: str | None
    epochs: int | None


def setting_of(row: Mapping[str, Any]) -> Setting:
    """Return the setting of a row of ``compare.json``."""
    return Setting(row["ipc"], row.get("regime"), row.get("epochs"))


def settings_of(comparison: Mapping[str, Any], regime: str | None) -> list[Setting]:
    """List the settings of a regime: the columns of a table."""
    pairs = itertools.product(comparison["ipc"], comparison.get("epochs") or [None])
    return [Setting(ipc, regime, epochs) for ipc, epochs in pairs]


def regimes_of(comparison: Mapping[str, Any]) -> list[str | None]:
    """List the regimes; a single None if they are not compared."""
    return comparison.get("regimes") or [None]


def texts_of(comparison: Mapping[str, Any]) -> int:
    """Return how many cells of a row come before its numbers: method, student and, if regimes are compared, labels."""
    return 3 if comparison.get("regimes") else 2


def _has_gains(comparison: dict[str, Any]) -> bool:
    return any(row.get("gain") for row in comparison["rows"])


class Style(NamedTuple):
    """How scores are written.

    Args:
        plus_minus: between mean and sample standard deviation over the students' seeds; one student has none.
        mark: around each cell.
        best: around the highest cell of its column, student, labels and score (students as they are, or averaged).
    """

    plus_minus: str = " ± "
    mark: str = "{}"
    best: str = "{}"


PLAIN = Style()


def cells(comparison: dict[str, Any], style: Style = PLAIN) -> list[list[str]]:
    """Return the rows of the table: method, student, labels if they differ, and a cell in % for each setting.

    If selecting methods are compared with others, a cell with the gain over the best of them follows each.

    Args:
        comparison: content of ``compare.json``, as in all functions here.
    """
    table = []
    for student in students_of(comparison):
        for regime, score in itertools.product(regimes_of(comparison), _SCORES):
            of_regime = [row for row in comparison["rows"] if row["student"] == student and row.get("regime") == regime]
            for method in comparison["methods"]:
                line = _numbers(comparison, of_regime, method, regime, score, style)
                if any(line):
                    labels = [regime] if regime else []
                    table.append([method + _SCORES[score], student, *labels, *line])
        if full := comparison["full_data"][student]:
            bound = [percent(full["top1"], None), *[""] * _has_gains(comparison)]
            count = len(settings_of(comparison, None))
            table.append([every_of(full), student, *[""] * (texts_of(comparison) - 2), *bound * count])
    return table


def _numbers(
    comparison: dict[str, Any],
    rows: list[dict[str, Any]],
    method: str,
    regime: str | None,
    score: str,
    style: Style,
) -> list[str]:
    """Return the cells of a method, from the rows of its student and regime; empty ones for scores that are missing."""
    line: list[str] = []
    for setting in settings_of(comparison, regime):
        beside = {row["method"]: row for row in rows if setting_of(row) == setting}
        row, mean = beside[method], beside[method].get(f"{score}_mean")
        text = "" if mean is None else style.mark.format(percent(mean, row[f"{score}_std"], style.plus_minus))
        top = max(other.get(f"{score}_mean", 0) for other in beside.values())
        line.append(style.best.format(text) if text and mean == top else text)
        if _has_gains(comparison):
            gain = row["gain"] if score == "top1_last" else None
            line.append(style.mark.format(gain_text(gain, style.plus_minus)) if gain else "")
    return line


def students_of(comparison: Mapping[str, Any]) -> list[str]:
    """List the students."""
    return list(dict.fromkeys(row["student"] for row in comparison["rows"]))


def every_of(full: dict[str, Any]) -> str:
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
    protocols = {(row["student"], setting_of(row), row["method"]): row["protocol"] for row in comparison["rows"]}
    return protocol_line(protocols, lambda cases: _shortest(cases, comparison))


def _shortest(cases: list[tuple[str, Setting, str]], comparison: dict[str, Any]) -> str:
    """Return cases (student, setting, method) by no more than distinguishes them from the others."""
    students, methods = students_of(comparison), comparison["methods"]
    settings = [setting for regime in regimes_of(comparison) for setting in settings_of(comparison, regime)]
    sizes: dict[str, list[str]] = {}
    for student in students:
        whole = [setting for setting in settings if all((student, setting, name) in cases for name in methods)]
        parts = ["all"] if whole == settings else [setting_text(setting, comparison) for setting in whole]
        parts += [
            f"{method} at {setting_text(setting, comparison, '{}')}"
            for name, setting, method in cases
            if name == student and setting not in whole
        ]
        sizes.setdefault(", ".join(parts), []).append(student)
    texts = []
    for size, of in sizes.items():
        if size:
            names = "" if of == students else ", ".join(of)
            texts.append(" at ".join(part for part in (names, "" if size == "all" else size) if part))
    return ", ".join(texts)


def setting_text(setting: Setting, comparison: Mapping[str, Any], size: str = "{} per class") -> str:
    """Return a setting by what differs among those of a comparison, but at least by its images per class."""
    parts = [setting.regime or "", f"{setting.epochs:,} epochs" if setting.epochs else ""]
    if len(comparison["ipc"]) > 1 or not any(parts):
        parts.insert(0, size.format(setting.ipc))
    return " ".join(filter(None, parts))


def _caption(comparison: dict[str, Any], name: str) -> str:
    seeds = len(comparison["rows"][0]["runs"])
    return (
        f"{name}{_size(comparison)}: top-1 in % on {scored_on(comparison)}, last epoch, {of_students(seeds)}; "
        f"{protocols_of(comparison)}; {teachers_of(comparison)}{changed(comparison)}{_about_gains(comparison)}"
    )


def _size(comparison: dict[str, Any]) -> str:
    """Return the images per class, to be added to a title whose columns do not have them."""
    (ipc, *others), named = comparison["ipc"], comparison.get("epochs")
    return f", {ipc} image{'' if ipc == 1 else 's'} per class" if named and not others else ""


def _about_gains(comparison: dict[str, Any]) -> str:
    """Return what the columns of gains hold, to be added to a caption."""
    if not _has_gains(comparison):
        return ""
    error = ", ± standard error" if len(comparison["rows"][0]["runs"]) > 1 else ""
    names = ", ".join(name for name in comparison["methods"] if name in SELECTING)
    return f"; gain: points over the best selection of real images ({names}){error}"


def _head(comparison: dict[str, Any], size: str = "{} per class") -> list[str]:
    gains = ["gain"] if _has_gains(comparison) else []
    columns = [setting_text(setting, comparison, size) for setting in settings_of(comparison, None)]
    labels = ["labels"] if comparison.get("regimes") else []
    return ["method", "student", *labels, *itertools.chain(*([column, *gains] for column in columns))]


def markdown(comparison: dict[str, Any]) -> str:
    """Return the table and its caption for a README."""
    table = markdown_table(_head(comparison), cells(comparison, Style(best="**{}**")))
    caption = _caption(comparison, escape_markdown(comparison["set"]))
    taken = markdown_table(_cost_head(comparison), _cost_cells(comparison))
    return f"{table}\n\n{caption}\n\n{taken}\n\n{costs.CAPTION}.\n"


def latex(comparison: dict[str, Any]) -> str:
    """Return the table for a paper."""
    head = _head(comparison, "ipc {}")
    rows = cells(comparison, Style(r" \pm ", "${}$", r"{{\boldmath {}}}"))
    name = comparison["set"]
    table = latex_table(head, rows, texts=texts_of(comparison), name=name, caption=_caption(comparison, name))
    taken, texts = _cost_cells(comparison), len(_cost_head(comparison))
    return table + latex_table(_cost_head(comparison), taken, texts=texts, name=f"{name}, costs", caption=costs.CAPTION)


def columns(comparison: dict[str, Any]) -> list[Table]:
    """Return the tables for a terminal: one for each number of images if epochs are compared, else a single one."""
    if len(comparison["ipc"]) > 1 and comparison.get("epochs"):
        return [table for ipc in comparison["ipc"] for table in columns(_of_size(comparison, ipc))]
    title = (
        f"{comparison['set']}{_size(comparison)}: top-1 of the last epoch in % on {scored_on(comparison)}, "
        f"{protocols_of(comparison)}{changed(comparison)}{_about_gains(comparison)}"
    )
    return [console_table(_head(comparison), cells(comparison), names=texts_of(comparison), title=title)]


def _of_size(comparison: dict[str, Any], ipc: int) -> dict[str, Any]:
    return comparison | {"ipc": [ipc], "rows": [row for row in comparison["rows"] if row["ipc"] == ipc]}


def _cost_head(comparison: dict[str, Any]) -> list[str]:
    return ["method", "at", *costs.HEAD]


def _cost_cells(comparison: dict[str, Any]) -> list[list[str]]:
    """Return a row for each case: method, setting, bytes of images and labels, and seconds of work."""
    table = []
    for row in comparison["rows"]:
        case = Case(row["method"], *setting_of(row))
        if row["student"] == students_of(comparison)[0] and case.folder in comparison.get("bytes", {}):
            sizes, seconds = comparison["bytes"][case.folder], comparison["seconds"][case.folder]
            table.append([case.method, setting_text(setting_of(row), comparison), *costs.cost_cells(sizes, seconds)])
    return table


def cost_columns(comparison: dict[str, Any]) -> Table:
    """Return what each case takes as a table for a terminal."""
    return console_table(_cost_head(comparison), _cost_cells(comparison), names=2, title=costs.CAPTION)
