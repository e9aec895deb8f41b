"""The command ``wmdd tune``."""

from __future__ import annotations

import functools
import shlex
from typing import Any

import click

from tuning.config import TuneConfig
from wmdd.cli.errors import needs_extra
from wmdd.cli.fields import ConfigCommand
from wmdd.cli.options import ADDRESS, as_typed, check_address, common, configure
from wmdd.cli.progress import shown_on
from wmdd.cli.types import shown
from wmdd.config.distill import DistillConfig, override
from wmdd.errors import ConfigError
from wmdd.process.terminal import Terminal, full_path


@click.command(cls=ConfigCommand, more={"tune": TuneConfig()})
@common
@ADDRESS
@click.option(
    "--resume", type=full_path, metavar="URL", help="Go on with the search in this run folder, in place of RECIPE."
)
@click.argument("words", nargs=-1, metavar="[FIELD=DOMAIN]...")
def tune(run_url: str | None, store: str | None, resume: str | None, words: tuple[str, ...], **params: Any) -> None:
    """Search RECIPE's options, recover.bn_weight if no others are named, for the best top-1.

    Students are scored on a part of the training images, which the search trains on nowhere. Started again with the
    same words, or with --resume RUN, it goes on where it was.
    """
    if params["recipe_name"] and params["file"] and "=" in params["recipe_name"]:
        words, params["recipe_name"] = (params["recipe_name"], *words), None  # the file names the recipe
    if resume is None and params["recipe_name"] is None and params["file"] is None:
        raise ConfigError("tune: give a RECIPE (wmdd recipes lists them), or --resume RUN")
    if resume is not None:
        from tuning.search import read_search

        config, options, store = read_search(resume)
        config = override(config, {"ray.address": params["address"]}) if params["address"] else config
    else:
        options = _search_options(params, words)
        config = configure(params)
    check_address(config)
    _search(config, options, resume or run_url, store)


def _search_options(params: dict[str, Any], words: tuple[str, ...]) -> TuneConfig:
    """Return a search's options among a command's parameters; ``FIELD=DOMAIN`` words join the space."""
    given = {name: value for name, value in params.items() if name.startswith("tune.") and value not in (None, ())}
    for word in words:
        if "=" not in word:
            raise ConfigError(f"{word}: not understood; after the options come FIELD=DOMAIN words only")
    if words:
        given["tune.space"] = (*given.get("tune.space", ()), *words)
    try:
        return TuneConfig.checked({name.removeprefix("tune."): value for name, value in given.items()})
    except ConfigError as exc:
        texts = {name: value if isinstance(value, str) else " ".join(value) for name, value in given.items()}
        raise as_typed(exc, {name: f"--{name} {shown(text)}" for name, text in texts.items()}) from exc


def _search(config: DistillConfig, options: TuneConfig, run_url: str | None, store: str | None) -> None:
    """Search, and print the winner."""
    with needs_extra("tune", "Ray Tune or Optuna"):
        from tuning.search import search

    console = Terminal()
    write = functools.partial(console.print, soft_wrap=True)
    with shown_on(console) as reports:
        outcome = search(config, options, run=run_url, store=store, **reports)
    winner = outcome.winner
    setting = ", ".join(f"{field}: {value}" for field, value in winner.values.items())
    write(f"winner  {setting}   top-1 {winner.score:.1%} ± {winner.spread:.1%} on held-out training images")
    write(f"        {outcome.lead}")
    write(f"        students by {outcome.protocol}")
    for name, rows in outcome.final_rows().items():
        for row in rows:
            write(f"        {name}, {row.name}: {row.last} on the validation images")
    for name, lead in outcome.final_leads().items():
        write(f"        {name}: {lead}")
    best = shlex.quote(f"{outcome.url}/best.yaml")
    write(f"config  {outcome.url}/best.yaml   (wmdd distill --config {best})")
    write(f"report  {outcome.url}/tune.html   table {outcome.url}/trials.parquet")
