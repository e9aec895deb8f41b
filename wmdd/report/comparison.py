"""A comparison: its content, and the files that show it to people, papers and programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wmdd.config.cases import Case
from wmdd.config.distill import DistillConfig
from wmdd.config.methods import SELECTING
from wmdd.engine.run_names import portable_yaml
from wmdd.report.comparison_plots import plot_png
from wmdd.report.comparison_tables import latex, markdown, setting_of
from wmdd.report.gains import gain_of
from wmdd.report.scores import SHARED, scores_of
from wmdd.storage.folder import Folder

Results = dict[Case, dict[str, Any]]


def write_comparison(
    folder: Folder, config: DistillConfig, results: Results, changes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Write ``compare.json``, ``.md``, ``.tex`` and ``.png``, and return the content of the first.

    Args:
        results: metrics of each case.
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
    first, rows = next(iter(results.values())), []
    for case, metrics in results.items():
        for student, scores in metrics["students"].items():
            row = {**case._asdict(), "student": student, "steps": metrics["training"]["steps"]}
            rows.append(row | {"protocol": scores["protocol"], **scores_of(case.method, scores)})
    for row in rows:
        row["gain"] = _gain(row, rows)
    axes = {name: list(dict.fromkeys(getattr(case, name) for case in results)) for name in Case._fields}
    sizes = {case.folder: metrics["bytes"] for case, metrics in results.items()}
    return {
        "schema": 2,
        **{name: first[name] for name in SHARED},
        # Cases of hard labels have no further teachers, and may come first.
        "labelled_with": next((case["labelled_with"] for case in results.values() if case["labelled_with"]), []),
        "protocol": first["protocol"],
        "methods": axes["method"],
        "ipc": axes["ipc"],
        "regimes": [regime for regime in axes["regime"] if regime],
        "epochs": [count for count in axes["epochs"] if count],
        "full_data": {name: scores["full_data"] for name, scores in first["students"].items()},
        "rows": rows,
        "bytes": sizes,
        "seconds": {case.folder: metrics["seconds"] for case, metrics in results.items()},
    }


def _gain(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the gain of a distilling method over the best selecting method that is compared with it; None without."""
    if row["method"] in SELECTING:
        return None
    beside = (other for other in rows if (other["student"], setting_of(other)) == (row["student"], setting_of(row)))
    return gain_of(row, {other["method"]: other for other in beside if other["method"] in SELECTING})
