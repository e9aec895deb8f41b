"""Turn stored results into the numbers of ``metrics.json``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wmdd.config.distill import DistillConfig
from wmdd.config.protocols import is_exact
from wmdd.data.index import DatasetIndex
from wmdd.engine.plan import BESIDE, Plan, protocol_hash
from wmdd.engine.run import load_value
from wmdd.engine.run_names import set_title, subject
from wmdd.models.teacher import Teacher
from wmdd.stages.evaluate import StudentResult
from wmdd.storage.store import ArtifactStore


@dataclass(frozen=True)
class ScoreRow:
    """One line of the result table, as text; `mean` is the fraction for a bar."""

    name: str
    images: str
    last: str
    best: str
    mean: float


def collect_metrics(plan: Plan, store: ArtifactStore) -> dict[str, Any]:
    """Give every score of a run, fractions in [0, 1]; the top level holds the first student's."""
    teacher: Teacher = load_value(plan.units("pretrain")[0].ref, store)
    results = [load_value(ref, store) for ref in plan.refs("evaluate")]
    students = dict.fromkeys(plan.config.evaluate.students)
    by_student = {name: _student(name, plan, store, teacher, results) for name in students}
    return {
        "schema": 1,
        "recipe": plan.config.recipe,
        "set": set_title(plan.config),
        "subject": subject(plan.config),
        "method": plan.config.method,
        "seed": plan.config.seed,
        "ipc": plan.config.barycenter.ipc,
        "classes": len(plan.index.class_names),
        "train_images": len(plan.index.train),
        "validation_images": len(plan.index.val),
        "validation_digest": validation_digest(plan.index),
        "teacher": {"top1": teacher.top1, "model": teacher.model, "loaded": plan.config.pretrain.weights},
        "labelled_with": _beside(plan, store),
        **by_student[next(iter(students))],
        "students": by_student,
        "protocol": by_student[next(iter(students))]["protocol"],
        "seconds": {stage: _seconds(stage, plan, store) for stage in plan.tasks},
        "until": plan.until,
        "missing": _missing(plan),
    }


def _missing(plan: Plan) -> list[str]:
    parts = {"images": plan.made[1], "labels": plan.refs("relabel"), "students": plan.refs("evaluate")}
    return [name for name, refs in parts.items() if plan.until and not refs]


def validation_digest(index: DatasetIndex) -> str:
    """Tell apart what is scored on: a protocol's hash says how, and two sets of one name may have other images."""
    return index.digest("val")[:12]


def scored_on(facts: Mapping[str, Any]) -> str:
    """Name the validation images of metrics, or of a comparison or ranking."""
    return f"{facts['validation_images']} validation images ({facts['validation_digest']})"


def teachers_of(results: Mapping[str, Any]) -> str:
    """Return the teacher of metrics, of a comparison or ranking, and the networks that labelled with it."""
    teacher = results["teacher"]
    others = [f"{other['model']}, {100 * other['top1']:.1f} %" for other in results["labelled_with"]]
    return (
        f"teacher {teacher['model']}, {100 * teacher['top1']:.1f} %"
        + (" (loaded)" if teacher["loaded"] else "")
        + (f", labels also by {'; '.join(others)}" if others else "")
    )


def protocol_of(config: DistillConfig, student: str) -> dict[str, str]:
    """Name the protocol of a student, and say when its settings were changed."""
    name = config.evaluate.protocol
    return {"name": name if is_exact(config) else f"{name} (changed)", "hash": protocol_hash(config, student)}


def protocol_line(protocols: Mapping[str, Mapping[str, str]]) -> str:
    """Name the protocols of students: only equal hashes compare, so each is named with its students if they differ."""
    students: dict[str, list[str]] = {}
    for student, protocol in protocols.items():
        students.setdefault(f"{protocol['name']} {protocol['hash']}", []).append(student)
    if len(students) == 1:
        return f"protocol {next(iter(students))}"
    return "protocols " + "; ".join(f"{name} ({', '.join(own)})" for name, own in students.items())


def left_out(metrics: Mapping[str, Any]) -> str:
    """Return a line on what a run that ended early lacks; empty for others."""
    if not metrics.get("until"):
        return ""
    ended = f"ended after {metrics['until']} (--until), without {', '.join(metrics['missing'])}"
    return f"{ended}; the same run without --until goes on from there"


def protocols_of_run(metrics: dict[str, Any]) -> str:
    """Name the protocols of a run's students."""
    return protocol_line({name: scores["protocol"] for name, scores in metrics["students"].items()})


def _beside(plan: Plan, store: ArtifactStore) -> list[dict[str, Any]]:
    """List the networks that label beside the teacher, with their accuracy."""
    found = {other.ref.unit: other.ref for other in plan.units("pretrain")[1:]}
    weights = {other.ref.unit: other.params["weights"] for other in plan.units("pretrain")}
    named = [
        found.get(f"{BESIDE}{name}") or found[f"full-{name}"]
        for name in plan.config.relabel.teachers
        if plan.refs("relabel")
    ]
    networks: list[Teacher] = [load_value(ref, store) for ref in named]
    return [
        {"model": network.model, "top1": network.top1, "loaded": weights[ref.unit]}
        for ref, network in zip(named, networks, strict=True)
    ]


def _student(
    name: str, plan: Plan, store: ArtifactStore, teacher: Teacher, results: list[StudentResult]
) -> dict[str, Any]:
    own = [result for result in results if result.student == name]
    made = [result for result in own if result.images == "distilled"]
    random = [result for result in own if result.images != "distilled"]
    return {
        "student": name,
        "protocol": protocol_of(plan.config, name),
        "full_data": _full_data(name, plan, store, teacher),
        "distilled": _summary(made) if made else None,
        "random_real": _summary(random) if random else None,
    }


def _full_data(name: str, plan: Plan, store: ArtifactStore, teacher: Teacher) -> dict[str, Any] | None:
    if name == teacher.model:
        return {"top1": teacher.top1, "from": "loaded teacher" if plan.config.pretrain.weights else "teacher"}
    for unit in plan.units("pretrain"):
        if unit.ref.unit == f"full-{name}":
            return {"top1": load_value(unit.ref, store).top1, "from": "trained as the teacher was"}
    return None


def _summary(results: list[StudentResult]) -> dict[str, Any]:
    averaged = _averaged(results)
    last, best = [result.top1_last for result in results], [result.top1_best for result in results]
    runs = [
        {"images": result.images, "seed": result.seed, "top1_last": result.top1_last, "top1_best": result.top1_best}
        for result in results
    ]
    return {
        "top1_last_mean": statistics.mean(last),
        "top1_last_std": deviation(last),
        "top1_best_mean": statistics.mean(best),
        "top1_best_std": deviation(best),
        **averaged,
        "runs": runs,
    }


def deviation(values: list[float]) -> float | None:
    """Give the sample standard deviation; None of one value, which has none."""
    return statistics.stdev(values) if len(values) > 1 else None


def _averaged(results: list[StudentResult]) -> dict[str, float | None]:
    """Give the scores of the averaged students, reported apart; nothing where there are none."""
    found: dict[str, float | None] = {}
    for name in ("top1_ema_last", "top1_ema_best"):
        values = [getattr(result, name) for result in results if getattr(result, name) is not None]
        if values:
            found |= {f"{name}_mean": statistics.mean(values)}
            found |= {f"{name}_std": deviation(values)}
    return found


def _seconds(stage: str, plan: Plan, store: ArtifactStore) -> float:
    commits = (store.commit_of(ref) for ref in plan.refs(stage))
    return round(sum(float(commit.get("seconds", 0.0)) for commit in commits if commit), 3)


def score_rows(metrics: dict[str, Any]) -> list[ScoreRow]:
    """Lay the scores out as a table: teacher, then per student the distilled set, random real images and all data."""
    teacher = metrics["teacher"]
    count = str(metrics["classes"] * metrics["ipc"])
    every = str(metrics["train_images"])
    loaded = teacher["loaded"]
    name = f"teacher {teacher['model']}" + (", loaded" if loaded else "")
    rows = [ScoreRow(name, "" if loaded else every, f"{teacher['top1']:.1%}", "", teacher["top1"])]
    for other in metrics["labelled_with"]:
        name = f"labels too: {other['model']}"
        rows.append(ScoreRow(name, "" if other["loaded"] else every, f"{other['top1']:.1%}", "", other["top1"]))
    method = metrics.get("method", "wmdd")
    made = {"wmdd": "distilled", "herding": "herding"}.get(method, f"distilled ({method})")
    for name, scores in metrics["students"].items():
        for label, key in ((made, "distilled"), ("random real", "random_real")):
            if scores[key]:
                rows.append(_score_row(f"{label}, {name}", count, scores[key], "top1"))
                if "top1_ema_last_mean" in scores[key]:
                    rows.append(_score_row(f"{label}, {name}, EMA", count, scores[key], "top1_ema"))
        full = scores["full_data"]
        scored = scores["distilled"] or scores["random_real"]
        if scored and full and full["from"] != "loaded teacher":  # whose images are not known here
            every_image = "full data (the teacher)" if full["from"] == "teacher" else "full data"
            rows.append(ScoreRow(f"{every_image}, {name}", every, f"{full['top1']:.1%}", "", full["top1"]))
    return rows


_IN_BRIEF = 6  # lines of a result table


def brief(metrics: dict[str, Any]) -> str:
    """Return what a run is of and its scores, in one line."""
    scores = [f"{row.name}: {row.last}" for row in score_rows(metrics)]
    shown = "; ".join(scores[:_IN_BRIEF] + (["..."] if len(scores) > _IN_BRIEF else []))
    without = f"; without {', '.join(metrics['missing'])}" if metrics["missing"] else ""
    return f"{metrics['subject']}, {metrics['classes']} classes; top-1: {shown}{without}"


def _score_row(name: str, count: str, scores: dict[str, Any], kind: str) -> ScoreRow:
    def shown(epoch: str) -> str:
        mean, spread = scores[f"{kind}_{epoch}_mean"], scores[f"{kind}_{epoch}_std"]
        return f"{mean:.1%}" if spread is None else f"{mean:.1%} ± {100 * spread:.1f}"

    return ScoreRow(name, count, shown("last"), shown("best"), scores[f"{kind}_last_mean"])
