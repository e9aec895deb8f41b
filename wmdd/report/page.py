"""The page ``report.html``: a single file that needs no others."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import jinja2
import markupsafe
import numpy as np
import torch

from wmdd.config.distill import to_yaml
from wmdd.config.methods import SELECTING
from wmdd.data.batches import class_images
from wmdd.data.geometry import Geometry
from wmdd.engine.progress import clock
from wmdd.engine.run import load_value
from wmdd.engine.task import Plan
from wmdd.errors import DataError
from wmdd.method.artifacts import Barycenter, DistilledClass
from wmdd.models.teacher import Teacher
from wmdd.report.costs import cost_line
from wmdd.report.gains import LABELS, gain_lines
from wmdd.report.pictures import Series, curves_svg, strip_uri
from wmdd.report.scores import is_worth, left_out, protocols_of_run, rule_of, score_rows
from wmdd.report.worth import worth_lines, worth_tables
from wmdd.stages.evaluate import StudentResult
from wmdd.storage.store import ArtifactStore
from wmdd.text import on_a_page

MAX_CLASSES = 20


def render(package: str, **values: Any) -> str:
    """Return a package's ``template.html``, filled with values as text."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=on_a_page)
    environment.filters["clock"] = clock
    template = environment.from_string(files(package).joinpath("template.html").read_text(encoding="utf-8"))
    return template.render(**values)


def report_html(plan: Plan, store: ArtifactStore, metrics: dict[str, Any], manifest: dict[str, Any]) -> str:
    """Return the page."""
    classes = [load_value(ref, store) for ref in plan.made[1][:MAX_CLASSES]]
    atoms = plan.config.ipc if plan.config.method in SELECTING else plan.config.atoms
    refs = [unit.ref for unit in plan.units("barycenter") if unit.params.ipc == atoms]
    barycenters = [load_value(ref, store) for ref in refs[:MAX_CLASSES]]
    return render(
        "wmdd.report",
        metrics=metrics,
        protocols=protocols_of_run(metrics),
        manifest=manifest,
        rows=score_rows(metrics),
        runs=max((len(scores["runs"]) for scores in _summaries(metrics)), default=0),
        gains=[*gain_lines(metrics), *worth_lines(metrics)],
        worth=worth_tables(metrics),
        cost=cost_line(metrics),
        left_out=left_out(metrics),
        optimised=metrics["method"] not in SELECTING,
        gallery=_gallery(plan, classes, barycenters),
        curves=_curves(plan, store, classes, barycenters) + _worth_svgs(metrics),
        norms=_norms(plan, barycenters),
        config=markupsafe.escape(to_yaml(plan.config)),
        held_out=plan.index.val_held_out,
        seconds={stage: seconds for stage, seconds in metrics["seconds"].items() if seconds},
        longest=max(metrics["seconds"].values()) or 1.0,
        more=len(plan.index.class_names) - MAX_CLASSES,
    )


def _summaries(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """List the scores of the first student on each set of images."""
    return [scores for scores in (metrics["distilled"], *metrics["baselines"].values()) if scores]


def _gallery(plan: Plan, classes: list[DistilledClass], barycenters: list[Barycenter]) -> list[dict[str, str]]:
    """Return each class's images and, if they were optimised, the real images nearest to its atoms."""
    data = plan.config.data
    barycenters = [] if plan.config.method in SELECTING else barycenters
    geometry = Geometry(data.image_size, data.crop_ratio, data.normalization)
    gallery = []
    for position, item in enumerate(classes):
        try:
            rows = np.asarray(barycenters[position].nearest) if barycenters else np.zeros(0, int)
            nearest = strip_uri(class_images(plan.index, item.class_id, geometry, rows)) if len(rows) else ""
        except DataError:  # the real images may have moved since; the distilled ones are here
            nearest = ""
        name = plan.index.class_names[item.class_id]
        gallery.append({"name": name, "distilled": strip_uri(item.images), "nearest": nearest})
    return gallery


def _curves(
    plan: Plan, store: ArtifactStore, classes: list[DistilledClass], barycenters: list[Barycenter]
) -> list[str]:
    pictures = []
    teacher: Teacher = load_value(plan.units("pretrain")[0].ref, store)
    points = [point for point in teacher.curve if "top1" in point]
    if points:
        series: list[Series] = [("top-1", [p["epoch"] for p in points], [p["top1"] for p in points])]
        pictures.append(curves_svg("Teacher, validation top-1", "epoch", series, percent=True))
    objective: list[Series] = [
        (plan.index.class_names[item.class_id], range(len(item.objective)), item.objective) for item in barycenters
    ]
    if objective:
        pictures.append(curves_svg("Barycenters, squared Wasserstein distance", "step", objective))
    if classes and classes[0].terms and len(losses := torch.stack([item.losses for item in classes]).mean(dim=0)):
        steps = torch.linspace(0, plan.config.recover.iterations, len(losses) + 1)[:-1].tolist()
        terms: list[Series] = [
            (name.replace("_", " "), steps, losses[:, column].tolist()) for column, name in enumerate(classes[0].terms)
        ]
        pictures.append(curves_svg("Recovery, mean loss terms", "iteration", terms, log=True))
    if students := _student_curves(plan, store):
        pictures.append(curves_svg("Students, validation top-1", "epoch", students, percent=True))
    return pictures


def _student_curves(plan: Plan, store: ArtifactStore) -> list[Series]:
    results: list[StudentResult] = [load_value(ref, store) for ref in plan.refs("evaluate")]
    series: list[Series] = []
    for student in dict.fromkeys(result.student for result in results):
        curves_of: dict[str, list[Any]] = {}
        for result in results:
            if result.student == student and not is_worth(result.images):
                curves_of.setdefault(rule_of(result.images, plan.config.method), []).append(result.curve)
        for rule, curves in curves_of.items():
            for score, suffix in (("top1", ""), ("top1_ema", ", EMA")):
                if score in curves[0][0]:
                    means = np.mean([[point[score] for point in curve] for curve in curves], axis=0)
                    epochs = [point["epoch"] for point in curves[0]]
                    series.append((f"{LABELS.get(rule, rule)}, {student}{suffix}", epochs, means.tolist()))
    return series


def _worth_svgs(metrics: dict[str, Any]) -> list[str]:
    """Draw, for each student, top-1 on random real images against their number, and that of the run's images."""
    pictures = []
    for name, scores in metrics["students"].items():
        if scores.get("worth"):
            curve = scores["worth"]["curve"]
            numbers = [point["ipc"] for point in curve]
            series: list[Series] = [("random real", numbers, [point["top1_last_mean"] for point in curve])]
            if scores["distilled"]:
                made = metrics["method"] if metrics["method"] in SELECTING else "distilled"
                label = f"{metrics['ipc']} {made} per class"
                series.append((label, numbers, [scores["distilled"]["top1_last_mean"]] * len(numbers)))
            pictures.append(
                curves_svg(f"Worth, {name}", "random real images per class", series, percent=True, log_x=True)
            )
    return pictures


def _norms(plan: Plan, barycenters: list[Barycenter]) -> list[dict[str, Any]]:
    """Return quantiles of the feature norms: one far above the median draws an atom to outliers."""
    return [
        {
            "name": plan.index.class_names[item.class_id],
            "quantiles": [f"{value:.1f}" for value in item.norms],
            "tail": item.norms[4] / max(item.norms[2], 1e-9),
            "weights": _spread(item.mass.tolist()),
            "steps": len(item.objective),
            "converged": item.converged,
        }
        for item in barycenters
    ]


def _spread(weights: list[float]) -> str:
    """Return the least and the largest weight of a class's atoms; empty for a single atom, whose weight is 1."""
    least, largest = f"{min(weights):.3f}", f"{max(weights):.3f}"
    if len(weights) == 1:
        return ""
    return f"{least} each" if least == largest else f"{least} to {largest}"
