"""The command ``wmdd tune``."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from typing import Any

import click

from wmdd.errors import ConfigError, WmddError
from wmdd.process.terminal import Terminal


def tune_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a search, with their meaning and defaults, to a command."""
    from tuning.config import TuneConfig

    for name, field in reversed(TuneConfig.model_fields.items()):
        shown = _shown(name, field.default)
        help_text = f"{field.description} [default: {shown}]"
        many = name in ("space", "levels")
        command = click.option(f"--tune.{name}", f"tune_{name}", metavar=_metavar(name), multiple=many, help=help_text)(
            command
        )
    return command


def _metavar(name: str) -> str:
    return {"space": "FIELD=DOMAIN", "levels": "A:B:C", "searcher": "tpe|random"}.get(name, "VALUE")


def _shown(name: str, value: Any) -> str:
    if name == "levels":
        return " ".join(":".join(f"{share:g}" for share in shares) for shares in value)
    if name == "space":
        return " ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_options(params: dict[str, Any], words: tuple[str, ...]) -> Any:
    """Take a search's options from a command's parameters; ``FIELD=DOMAIN`` words join the space.

    Raises:
        ConfigError: naming the option.
    """
    from tuning.config import parse_tune

    given = {name.removeprefix("tune_"): params.pop(name) for name in list(params) if name.startswith("tune_")}
    values = {name: value for name, value in given.items() if value not in (None, ())}
    for word in words:
        if "=" not in word:
            raise ConfigError(f"{word}: not understood; after the options come FIELD=DOMAIN words only")
    if words:
        values["space"] = (*values.get("space", ()), *words)
    if "levels" in values:
        texts = [text for item in values["levels"] for text in item.split()]
        values["levels"] = tuple(tuple(text.split(":")) for text in texts)
    return parse_tune(values)


def read_search(url: str) -> Any:
    """Read a search's configuration, options and store from its folder."""
    from tuning.search import read_search as read

    return read(url)


def run_search(config: Any, options: Any, run_url: str | None, store: str | None) -> None:
    """Search, and print the winner."""
    try:
        from tuning.search import search
    except ImportError as exc:
        raise WmddError(f"Ray Tune or Optuna is not installed ({exc}); pip install 'wmdd[tune]'") from exc
    from wmdd.engine.console import ConsoleListener, show_index

    console = Terminal()
    say = functools.partial(console.print, soft_wrap=True)
    with ConsoleListener(console) as listener:
        outcome = search(config, options, run=run_url, store=store, listener=listener, status=show_index(console))
    winner = outcome.winner
    shown = ", ".join(f"{field}: {value}" for field, value in winner.values.items())
    say(f"winner  {shown}   top-1 {winner.score:.1%} ± {winner.spread:.1%} on held-out training images")
    say(f"        {outcome.lead}")
    say(f"        students by {outcome.protocol}")
    for name, rows in outcome.final_rows().items():
        for row in rows:
            say(f"        {name}, {row.name}: {row.last} on the validation images")
    for name, told in outcome.final_leads().items():
        say(f"        {name}: {told}")
    best = shlex.quote(f"{outcome.url}/best.yaml")
    say(f"config  {outcome.url}/best.yaml   (wmdd distill --config {best})")
    say(f"report  {outcome.url}/tune.html   table {outcome.url}/trials.parquet")
