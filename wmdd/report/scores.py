"""The numbers of ``metrics.json``, from stored results, and how they are shown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wmdd.config.distill import DistillConfig
from wmdd.config.methods import SELECTING, made_set, selections
from wmdd.config.protocol_hash import protocol_hash
from wmdd.config.resolve import is_exact
from wmdd.data.index import DatasetIndex
from wmdd.engine.run import load_value
from wmdd.engine.run_names import set_title, subject
from wmdd.engine.task import Plan
from wmdd.report.costs import bytes_of, training_of
from wmdd.report.gains import LABELS, gain_lines, gain_of
from wmdd.report.worth import worth_lines, worth_of
from wmdd.stages.plans.pretrain import ensemble_of
from wmdd.storage.store import ArtifactStore

if TYPE_CHECKING:
    from wmdd.models.teacher import Teacher
    from wmdd.stages.evaluate import StudentResult

# Of a run's metrics, what all runs of a comparison or ranking share.
SHARED = (
    *("recipe", "set", "seed", "classes", "train_images", "validation_images", "validation_digest"),
    *("teacher", "labelled_with"),
)


@dataclass(frozen=True)
class ScoreRow:
    """One line of the result table, as text; `mean` is the fraction for a bar."""

    name: str
    images: str
    last: str
    best: str
    mean: float


def collect_metrics(plan: Plan, store: ArtifactStore) -> dict[str, Any]:
    """Return every score of a run, fractions in [0, 1]; the top level holds the first student's."""
    teacher: Teacher = load_value(plan.units("pretrain")[0].ref, store)
    results = [load_value(ref, store) for ref in plan.refs("evaluate")]
    students = dict.fromkeys(plan.config.evaluate.students)
    parts = {"images": plan.made[1], "labels": plan.refs("relabel"), "students": plan.refs("evaluate")}
    by_student = {name: _student(name, plan, store, teacher, results) for name in students}
    return {
        "schema": 2,
        "recipe": plan.config.recipe,
        "set": set_title(plan.config),
        "subject": subject(plan.config),
        "method": plan.config.method,
        "seed": plan.config.seed,
        "ipc": plan.config.ipc,
        "tiles": 1 if plan.config.method in SELECTING else plan.config.tiles,
        "classes": len(plan.index.class_names),
        "train_images": len(plan.index.train),
        "validation_images": len(plan.index.val),
        "validation_digest": validation_digest(plan.index),
        "teacher": {"top1": teacher.top1, "model": teacher.model, "loaded": plan.config.pretrain.checkpoint},
        "labelled_with": _other_teachers(plan, store),
        **by_student[next(iter(students))],
        "students": by_student,
        "training": training_of(plan),
        "bytes": bytes_of(plan, store),
        "seconds": {stage: _seconds(stage, plan, store) for stage in plan.tasks},
        "until": plan.until,
        "missing": [name for name, refs in parts.items() if plan.until and not refs],
    }


def validation_digest(index: DatasetIndex) -> str:
    """Return a short hash of the validation images, in which two sets of one name may differ."""
    return index.digest("val")[:12]


def scored_on(results: Mapping[str, Any]) -> str:
    """Return the validation images of metrics, of a comparison or of a ranking."""
    return f"{results['validation_images']} validation images ({results['validation_digest']})"


def teachers_of(results: Mapping[str, Any]) -> str:
    """Return the teacher of a comparison or ranking, and the networks that labelled with it."""
    teacher = results["teacher"]
    others = [f"{other['model']}, {100 * other['top1']:.1f} %" for other in results["labelled_with"]]
    return (
        f"teacher {teacher['model']}, {100 * teacher['top1']:.1f} %"
        + (" (loaded)" if teacher["loaded"] else "")
        + (f", labels also by {'; '.join(others)}" if others else "")
    )


def protocol_of(config: DistillConfig, student: str) -> dict[str, str]:
    """Return the name of a student's protocol, which says if its settings were changed, and its hash."""
    name = config.evaluate.protocol
    return {"name": name if is_exact(config) else f"{name} (changed)", "hash": protocol_hash(config, student)}


def protocol_line(protocols: Mapping[Any, Mapping[str, str]], listed: Callable[[list[Any]], str] = ", ".join) -> str:
    """Return the one protocol, or each with the students or cases that have it: scores of equal hashes compare.

    Args:
        listed: from the keys of one protocol to their text.
    """
    keys: dict[str, list[Any]] = {}
    for key, protocol in protocols.items():
        keys.setdefault(f"{protocol['name']} {protocol['hash']}", []).append(key)
    if len(keys) == 1:
        return f"protocol {next(iter(keys))}"
    return "protocols " + "; ".join(f"{name} ({listed(of)})" for name, of in keys.items())


def left_out(metrics: Mapping[str, Any]) -> str:
    """Return a line about what a run that ended early lacks; empty for others."""
    if not metrics.get("until"):
        return ""
    ended = f"ended after {metrics['until']} (--until), without {', '.join(metrics['missing'])}"
    return f"{ended}; the same run without --until goes on from there"


def protocols_of_run(metrics: dict[str, Any]) -> str:
    """Return the protocols of a run's students."""
    return protocol_line({name: scores["protocol"] for name, scores in metrics["students"].items()})


def _other_teachers(plan: Plan, store: ArtifactStore) -> list[dict[str, Any]]:
    """Return the networks that label with the teacher, and their accuracy."""
    networks = []
    labelled = plan.refs("relabel") or (plan.config.evaluate.labels == "fixed" and plan.refs("evaluate"))
    for unit in ensemble_of(plan.config.relabel, plan.units("pretrain")) if labelled else ():
        network: Teacher = load_value(unit.ref, store)
        networks.append({"model": network.model, "top1": network.top1, "loaded": unit.params.weights})
    return networks


def _student(
    name: str, plan: Plan, store: ArtifactStore, teacher: Teacher, results: list[StudentResult]
) -> dict[str, Any]:
    config = plan.config
    by_rule: dict[str, list[StudentResult]] = {}
    for result in results:
        if result.student == name:
            by_rule.setdefault(rule_of(result.images, config.method), []).append(result)
    summaries = {rule: _summary(of_rule) for rule, of_rule in by_rule.items()}
    names = selections(config.method, config.evaluate.baselines)
    baselines = {rule: summaries[rule] for rule in names if rule in summaries}
    distilled = summaries.get("distilled")
    return {
        "student": name,
        "protocol": protocol_of(config, name),
        "full_data": _full_data(name, plan, store, teacher),
        "distilled": distilled,
        "baselines": baselines,
        "gain": gain_of(distilled, baselines),
        "worth": worth_of(plan, distilled, _random_scores(config.ipc, summaries)),
    }


def _random_scores(ipc: int, summaries: Mapping[str, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the scores of students of random real images by images per class."""
    sizes = {"random": ipc} | {rule: int(rule.removeprefix("worth-")) for rule in summaries if is_worth(rule)}
    return {size: summaries[rule] for rule, size in sizes.items() if rule in summaries}


def is_worth(images: str) -> bool:
    """Whether a set of images is one of the random ones that show what others are worth."""
    return images.startswith("worth-")


def rule_of(images: str, method: str) -> str:
    """Return the baseline that a set of images belongs to; ``distilled`` for what the method makes, unless randomly.

    For ``worth-20-0``, it is ``worth-20``.
    """
    if images.startswith("random-"):
        return "random"
    if is_worth(images):
        return images.rpartition("-")[0]
    return "distilled" if images == made_set(method) else images


def scores_of(method: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of a student on the images that a method makes or selects."""
    summary: dict[str, Any] = scores["baselines"]["random"] if method == "random" else scores["distilled"]
    return summary


def _full_data(name: str, plan: Plan, store: ArtifactStore, teacher: Teacher) -> dict[str, Any] | None:
    if name == teacher.model:
        return {"top1": teacher.top1, "from": "loaded teacher" if plan.config.pretrain.checkpoint else "teacher"}
    for unit in plan.units("pretrain"):
        if unit.ref.unit == f"full-{name}":
            return {"top1": load_value(unit.ref, store).top1, "from": "trained as the teacher was"}
    return None


def _summary(results: list[StudentResult]) -> dict[str, Any]:
    """Return mean and sample standard deviation of each score; those of averaged weights only if they were kept."""
    summary = dict[str, Any]()
    for name in ("top1_last", "top1_best", "top1_ema_last", "top1_ema_best"):
        values = [getattr(result, name) for result in results if getattr(result, name) is not None]
        if values:
            summary[f"{name}_mean"] = statistics.mean(values)
            summary[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    runs = ("images", "seed", "top1_last", "top1_best")
    return summary | {"runs": [{name: getattr(result, name) for name in runs} for result in results]}


def _seconds(stage: str, plan: Plan, store: ArtifactStore) -> float:
    commits = (store.commit_of(ref) for ref in plan.refs(stage))
    return round(sum(float(commit.get("seconds", 0.0)) for commit in commits if commit), 3)


def score_rows(metrics: dict[str, Any]) -> list[ScoreRow]:
    """Return the rows of the result table: teacher, then per student the distilled set, baselines and all data."""
    teacher = metrics["teacher"]
    count = str(metrics["classes"] * metrics["ipc"])
    tiles = f", of {metrics['tiles'] ** 2} tiles each" if metrics.get("tiles", 1) > 1 else ""
    every = str(metrics["train_images"])
    name = f"teacher {teacher['model']}" + (", loaded" if teacher["loaded"] else "")
    networks = [(name, teacher), *((f"labels too: {other['model']}", other) for other in metrics["labelled_with"])]
    rows = [_network_row(name, "" if scores["loaded"] else every, scores) for name, scores in networks]
    method = metrics.get("method", "wmdd")
    distilled = LABELS.get(method, "distilled" if method == "wmdd" else f"distilled ({method})")
    for name, scores in metrics["students"].items():
        baselines = ((LABELS[rule], summary) for rule, summary in scores["baselines"].items())
        scored = [(label, summary) for label, summary in ((distilled, scores["distilled"]), *baselines) if summary]
        for label, summary in scored:
            images = count + tiles if summary is scores["distilled"] else count
            rows.append(_score_row(f"{label}, {name}", images, summary, "top1"))
            if "top1_ema_last_mean" in summary:
                rows.append(_score_row(f"{label}, {name}, EMA", images, summary, "top1_ema"))
        full = scores["full_data"]
        if scored and full and full["from"] != "loaded teacher":  # whose training images are not known
            every_image = "full data (the teacher)" if full["from"] == "teacher" else "full data"
            rows.append(_network_row(f"{every_image}, {name}", every, full))
    return rows


_IN_BRIEF = 6  # lines of a result table


def brief(metrics: dict[str, Any]) -> str:
    """Return what a run is about and its scores, in one line."""
    scores = [f"{row.name}: {row.last}" for row in score_rows(metrics)]
    shown = scores[:_IN_BRIEF] + (["..."] if len(scores) > _IN_BRIEF else [])
    parts = [*shown, *gain_lines(metrics), *worth_lines(metrics)]
    parts += [f"without {', '.join(metrics['missing'])}"] if metrics["missing"] else []
    return f"{metrics['subject']}, {metrics['classes']} classes; top-1: {'; '.join(parts)}"


def _network_row(name: str, images: str, scores: Mapping[str, Any]) -> ScoreRow:
    return ScoreRow(name, images, f"{scores['top1']:.1%}", "", scores["top1"])


def _score_row(name: str, images: str, scores: Mapping[str, Any], weights: str) -> ScoreRow:
    """Return the row of students with their last weights (``top1``) or averaged ones (``top1_ema``)."""

    def text(epoch: str) -> str:
        mean, std = scores[f"{weights}_{epoch}_mean"], scores[f"{weights}_{epoch}_std"]
        return f"{mean:.1%}" if std is None else f"{mean:.1%} ± {100 * std:.1f}"

    return ScoreRow(name, images, text("last"), text("best"), scores[f"{weights}_last_mean"])
