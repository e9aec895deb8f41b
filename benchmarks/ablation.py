"""What is each option of the images worth? Options of a reference are changed, and students trained on the images.

    python -m benchmarks.ablation --data CIFAR10                       # every cell of cifar10-quick
    python -m benchmarks.ablation --data CIFAR10 --only reference,noise   # some
    python -m benchmarks.ablation --data CIFAR10 --ipc 1 --page ""     # at another size, without a page

All cells share one store (``--work``), so a call that was interrupted goes on, and one with more cells computes only
those. A cell's JSON line is written as soon as its students are scored; the table of the page is made from the last
line of each cell. The selections of real images are trained on in every cell, by the same labels and students: what is
equal in two cells has the same key, and is computed once.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.cells import BASES, CELLS, Cell, reference
from benchmarks.common import machine
from benchmarks.steps import output_of
from wmdd.commands.distill import distill
from wmdd.commands.plan import plan
from wmdd.config.distill import DistillConfig, override
from wmdd.config.recipes import recipe
from wmdd.engine.run_names import settled_options
from wmdd.errors import ConfigError, DataError
from wmdd.report.gains import gain_text
from wmdd.report.tables import markdown_table, percent

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "results" / "ablation.jsonl"
PAGE = ROOT / "docs" / "accuracy.md"
WORK = ROOT / "build" / "ablation"
BASELINES = ("random", "nearest", "easiest", "herding")
_HEAD = ("change", "options", "top-1", "difference", "gain over the best baseline", "recovery, s")
Line = dict[str, Any]


def config_of(args: argparse.Namespace, cell: Cell) -> DistillConfig:
    """Return the configuration of a cell."""
    base: dict[str, Any] = {"evaluate.num_students": args.students, "evaluate.full_data": False}
    base |= {"evaluate.baselines": args.baselines}
    base |= {"data.path": args.data} if args.data else {}
    base |= {"ipc": args.ipc} if args.ipc else {}
    return override(recipe(args.recipe), base | reference(args.recipe) | dict(cell.options))


def measure(args: argparse.Namespace, cell: Cell) -> Line:
    """Return the line of a cell, computed unless the store has it."""
    config = config_of(args, cell)
    folder = Path(args.work) / args.recipe / f"{cell.name}-ipc-{config.ipc}"
    metrics = distill(config, run=str(folder), store=_store(args), executor=args.executor).metrics
    students = {
        name: {part: scores[part] for part in ("protocol", "distilled", "baselines", "gain")}
        for name, scores in metrics["students"].items()
    }
    return {
        "benchmark": "ablation",
        "recipe": args.recipe,
        "cell": cell.name,
        "ipc": config.ipc,
        "options": dict(cell.options),
        "baselines": list(config.evaluate.baselines),
        "steps": metrics["training"]["steps"],
        "validation": metrics["validation_digest"],
        "teacher": metrics["teacher"],
        "students": students,
        "seconds": metrics["seconds"],
        "commit": output_of("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"),
        "machine": machine(),
    }


def _store(args: argparse.Namespace) -> str:
    return str(Path(args.work) / "store")


def latest(lines: Iterable[str], recipe_name: str) -> dict[tuple[int, str], Line]:
    """Return the last line of each cell of a recipe, by images per class and name."""
    parsed = (json.loads(line) for line in lines if line.strip())
    return {(line["ipc"], line["cell"]): line for line in parsed if line["recipe"] == recipe_name}


def table(lines: Mapping[tuple[int, str], Line], ipc: int) -> str:
    """Return the cells of one size as Markdown: a table of those that are nearest to each cell of `BASES`."""
    measured = {cell.name: cell for cell in CELLS if (ipc, cell.name) in lines}
    options = {name: _options(lines[ipc, name]["recipe"], ipc, cell) for name, cell in measured.items()}
    groups: dict[str, list[str]] = {}
    for name in measured:
        groups.setdefault(_base(name, options), []).append(name)
    return "\n\n".join(
        f'Changes of "{measured[base].about}":\n\n'
        + markdown_table(_HEAD, [row for name in names for row in _rows(lines, ipc, measured[name], base, options)])
        for base, names in groups.items()
    )


def _base(name: str, options: Mapping[str, Mapping[str, Any]]) -> str:
    """Return which of `BASES` differs from a cell in the fewest options, the first of equals.

    A base has one that stands before it. Without any, a cell has itself.
    """
    before = BASES[: BASES.index(name)] if name in BASES else BASES
    bases = [base for base in before if base in options]
    return min(bases, key=lambda base: len(_changed(options[base], options[name])), default=name)


def _changed(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in own.items() if value != base[name]}


def _options(recipe_name: str, ipc: int, cell: Cell) -> dict[str, Any]:
    """Return every option of a cell of a recipe, by dotted name, at this number of images per class."""
    return settled_options(override(recipe(recipe_name), {"ipc": ipc} | reference(recipe_name) | dict(cell.options)))


def _rows(
    lines: Mapping[tuple[int, str], Line], ipc: int, cell: Cell, base: str, options: Mapping[str, Mapping[str, Any]]
) -> Iterable[list[str]]:
    """Yield a row for each student of a cell, with its options and scores against those of the base."""
    line = lines[ipc, cell.name]
    before = lines[ipc, base]["students"] if base != cell.name else {}
    changed = _changed(options[base], options[cell.name])
    words = ", ".join(f"`{name} {_plain(value)}`" for name, value in changed.items())
    own_recipe = options[cell.name] == settled_options(override(recipe(line["recipe"]), {"ipc": ipc}))
    for student, scores in line["students"].items():
        top1, gain = scores["distilled"], scores["gain"]
        of = "" if len(line["students"]) == 1 else f" ({student})"
        of += " (**the recipe**)" if own_recipe else ""
        change = ""
        if student in before:
            change = _points(top1["top1_last_mean"] - before[student]["distilled"]["top1_last_mean"])
        shown = percent(top1["top1_last_mean"], top1["top1_last_std"])
        seconds = f"{line['seconds'].get('recover', 0):.0f}"
        told = "; ".join(part for part in (words, _training(scores, before.get(student, scores))) if part)
        yield [cell.about + of, told, shown, change, f"{gain_text(gain)} ({gain['over']})", seconds]


def _training(scores: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Return the protocol and the number of students of a cell, each if it is another one than its base's."""
    own, students = scores["protocol"]["hash"], len(scores["distilled"]["runs"])
    protocol = f"protocol `{own}`" if own != base["protocol"]["hash"] else ""
    count = f"{students} students" if students != len(base["distilled"]["runs"]) else ""
    return ", ".join(filter(None, (protocol, count)))


def _points(difference: float) -> str:
    return f"{round(100 * difference, 1) + 0.0:+.1f}"  # no -0.0


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def write_page(page: Path, lines: Mapping[tuple[int, str], Line], recipe_name: str) -> None:
    """Replace the tables of a page, each between ``<!-- ablation RECIPE IPC -->`` and ``<!-- end -->``.

    Raises:
        ConfigError: as `checked_page`.
    """
    sizes = {ipc for ipc, _ in lines}
    text = checked_page(page, sizes, recipe_name)
    for ipc in sorted(sizes):
        mark = _mark(recipe_name, ipc)
        text = re.sub(_between(mark), f"{mark}\n{table(lines, ipc)}\n<!-- end -->", text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


def checked_page(page: Path, sizes: Iterable[int], recipe_name: str) -> str:
    """Return the text of a page that has a place for the table of each size.

    Raises:
        ConfigError: if it has none for one of them, or cannot be read.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigError(f'--page {page}: cannot be read ({reason}); give a page with marks, or --page ""') from exc
    for mark in (_mark(recipe_name, ipc) for ipc in sorted(sizes)):
        if not re.search(_between(mark), text, flags=re.DOTALL):
            raise ConfigError(f'--page {page}: has no "{mark}" and "<!-- end -->"; add them, or give --page ""')
    return text


def _mark(recipe_name: str, ipc: int) -> str:
    return f"<!-- ablation {recipe_name} {ipc} -->"


def _between(mark: str) -> str:
    return rf"{re.escape(mark)}\n.*?<!-- end -->"


def main() -> int:
    """Measure the cells that were asked for; return the exit status."""
    args = _arguments()
    names = args.only.split(",") if args.only else [cell.name for cell in CELLS]
    known = {cell.name: cell for cell in CELLS}
    if unknown := [name for name in names if name not in known]:
        print(f"--only {unknown[0]}: there is no such cell; choose from {','.join(known)}", file=sys.stderr)
        return 2
    try:
        sizes = {config_of(args, known[name]).ipc for name in names}
        if args.page:  # a wrong one is found before anything is computed
            sizes |= {ipc for ipc, _ in _kept(args)}
            checked_page(Path(args.page), sizes, args.recipe)
        plan(config_of(args, CELLS[0]), store=_store(args))  # images that cannot be read are no matter of a cell
        args.out.parent.mkdir(parents=True, exist_ok=True)
        refused = [name for name in names if not _add(args, known[name])]
    except (ConfigError, DataError) as exc:
        print(exc, file=sys.stderr)
        return 2
    return 2 if refused else 0


def _add(args: argparse.Namespace, cell: Cell) -> bool:
    """Measure a cell and add its line; return False, after a line on stderr, if it is refused at this size."""
    try:
        line = measure(args, cell)
    except ConfigError as exc:
        print(f"{cell.name}: {exc}", file=sys.stderr, flush=True)
        return False
    with args.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps({"cell": cell.name, **line["students"]}), flush=True)
    if args.page:
        write_page(Path(args.page), _kept(args), args.recipe)
    return True


def _kept(args: argparse.Namespace) -> dict[tuple[int, str], Line]:
    """Return the last line of each cell of the recipe in ``--out``; none if there is no such file."""
    lines = args.out.read_text(encoding="utf-8").splitlines() if args.out.exists() else []
    return latest(lines, args.recipe)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="cifar10-quick")
    parser.add_argument("--data", help="real images of a recipe that brings none")
    parser.add_argument("--ipc", type=int, help="images per class (default: the recipe's)")
    parser.add_argument("--students", type=int, default=3, help="students of each cell and baseline (3)")
    parser.add_argument("--baselines", default=BASELINES, metavar="NAME,...", help=f"of {','.join(BASELINES)} (all)")
    parser.add_argument("--only", metavar="NAME,...", help=f"cells of {','.join(cell.name for cell in CELLS)}")
    parser.add_argument("--executor", default="ray", choices=("ray", "local"))
    parser.add_argument("--work", default=str(WORK), help="folder of runs and their store, kept (build/ablation)")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON lines, to which the cells are added")
    parser.add_argument("--page", default=str(PAGE), help='page whose tables are replaced (docs/accuracy.md; "": none)')
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
