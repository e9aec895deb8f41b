"""The command ``wmdd compare``."""

from __future__ import annotations

import functools
from typing import Any

import click

from wmdd.cli.fields import ConfigCommand
from wmdd.cli.options import ADDRESS, EXECUTOR, SEEDS, as_typed, check_cluster, common, configure, file_of
from wmdd.cli.progress import shown_on
from wmdd.cli.types import OneOrMore, Value
from wmdd.config.base import Count
from wmdd.config.distill import DistillConfig, field_type, override
from wmdd.config.methods import methods as known_methods
from wmdd.config.methods import own_options
from wmdd.config.resolve import base_of, with_method
from wmdd.config.values import from_text
from wmdd.errors import ConfigError
from wmdd.process.terminal import Terminal


@click.command(cls=ConfigCommand)
@functools.partial(
    common,
    ipc=click.option("--ipc", type=Value(OneOrMore[Count]), metavar="INT,...", help="Distilled images per class."),
    method=click.option("--method", hidden=True),
)
@click.option(
    "--methods",
    default="wmdd,sre2l,easiest,random",
    metavar="NAME,...",
    help=f"What makes the images: {', '.join(known_methods())}.",
)
@click.option(
    "--regimes",
    type=Value(OneOrMore[str]),
    metavar="NAME,...",
    help="Labels: views (stored, soft), fixed (one for each image), hard (class names) [default: the recipe's].",
)
@click.option(
    "--epochs",
    type=Value(OneOrMore[Count]),
    metavar="INT,...",
    help="Budgets: epochs of labels and students [default: the recipe's].",
)
@SEEDS
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="METHOD:FIELD=VALUE",
    help="An option of one method, such as sre2l:recover.bn_weight=1; may be given often.",
)
@EXECUTOR
@ADDRESS
def compare(
    run_url: str | None,
    store: str | None,
    executor: str,
    methods: str,
    regimes: tuple[str, ...] | None,
    epochs: tuple[int, ...] | None,
    settings: tuple[str, ...],
    **params: Any,
) -> None:
    """Compare methods over RECIPE: the same teacher, labels and students, at one or more images per class.

    Started again after a crash, or with more methods, it computes only what is missing.
    """
    if params.pop("method"):
        raise ConfigError("--method: a comparison takes several; use --methods")
    axes: dict[str, Any] = {"regimes": regimes or (), "epochs": epochs or ()}
    _refuse_both(axes, params)
    config = configure(params)
    chosen = [name.strip() for name in methods.split(",") if name.strip()]
    changes = read_changes(settings, config)
    _refuse_dropped(config, base_of(params["recipe_name"], None, file_of(params)), chosen, changes)
    check_cluster(executor, config, params)
    from wmdd.commands.compare import compare as run
    from wmdd.report.comparison_tables import columns, cost_columns

    console = Terminal()
    sizes = params["ipc"] or [config.ipc]
    with shown_on(console) as reports:
        result = run(
            config, chosen, sizes, **axes, changes=changes, run=run_url, store=store, executor=executor, **reports
        )
    for table in (*columns(result.facts), cost_columns(result.facts)):
        console.print(table)
    names = "compare.json, compare.md, compare.tex, compare.png"
    console.print(f"in {result.url}: {names}, and a run folder for each case", soft_wrap=True)


def _refuse_both(axes: dict[str, Any], params: dict[str, Any]) -> None:
    """Refuse an option that is the same for all cases together with one that sets it for each."""
    for axis, option in (("regimes", "evaluate.labels"), ("epochs", "relabel.epochs")):
        if axes[axis] and params.get(option) is not None:
            given = ",".join(map(str, axes[axis]))
            raise ConfigError(f"--{axis} {given}, --{option} {params[option]}: set the same; leave one out")


def _refuse_dropped(
    config: DistillConfig, base: DistillConfig, chosen: list[str], changes: dict[str, dict[str, Any]]
) -> None:
    """Refuse an option for all methods that one of them would set in its own way."""
    for name in filter(known_methods().__contains__, chosen):
        for field in sorted(own_options(name) - changes.get(name, {}).keys()):
            section, option = field.split(".")
            given, before = (getattr(getattr(one, section), option) for one in (config, base))
            if given != before:
                raise ConfigError(
                    f"--{field} {given}: {name} sets it in its own way; give it to the methods that shall have it, "
                    f"as in --set {name}:{field}={given}"
                )


def read_changes(settings: tuple[str, ...], config: DistillConfig) -> dict[str, dict[str, Any]]:
    """Read the options of single methods; raise a `ConfigError` that names the one that cannot be."""
    by_method: dict[str, dict[str, Any]] = {}
    typed: dict[str, dict[str, str]] = {}
    for text in settings:
        method, colon, rest = text.partition(":")
        field, equals, value = rest.partition("=")
        if not (colon and equals and "." in field):
            raise ConfigError(f"--set {text}: not understood; write METHOD:SECTION.FIELD=VALUE")
        annotation = field_type(field)
        by_method.setdefault(method, {})[field] = value if annotation is None else from_text(annotation, value)
        typed.setdefault(method, {})[field] = f"--set {method}:{field}={value}"
    for method, changes in by_method.items():
        try:
            override(with_method(config, method), changes)
        except ConfigError as exc:
            before = f"--set {method}: "
            raise (as_typed(exc, typed[method], before) if exc.mistakes else ConfigError(f"{before}{exc}")) from exc
    return by_method
