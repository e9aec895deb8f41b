"""Options of the command line made from the fields of configuration sections."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

import click
from pydantic.fields import FieldInfo

from wmdd.config.base import Section
from wmdd.config.distill import DistillConfig, section_names
from wmdd.config.recipes import recipe, recipes

# The options that most people use: --help shows these, --help-all the others too.
COMMON = frozenset(
    {
        *("data.path", "data.classes", "data.subset", "data.image_size"),
        *("pretrain.model", "pretrain.checkpoint", "pretrain.epochs"),
        *("recover.iterations", "recover.lr", "recover.bn_weight", "recover.ce_weight"),
        *("relabel.epochs", "evaluate.students", "evaluate.num_students", "evaluate.lr", "evaluate.full_data"),
        *("runtime.device", "runtime.precision", "runtime.memory_gib", "ray.actors", "ray.gpus_per_actor"),
    }
)
_DEFAULTS, _SHOWS_ALL = "wmdd.defaults", "wmdd.shows_all"  # in the context of a command


class FieldOption(click.Option):
    """An option for one field; among the parameters of its command it has the field's dotted name.

    A field whose `json_schema_extra` has ``each``, such as ``FIELD=DOMAIN``, is given once for each of its items.
    """

    def __init__(self, section: str, name: str, field: FieldInfo) -> None:
        extra = field.json_schema_extra
        each = extra.get("each") if isinstance(extra, dict) else None
        metavar = str(each) if each else _metavar(field.annotation)
        super().__init__([f"--{section}.{name}", "field"], metavar=metavar, multiple=bool(each), help=field.description)
        self.name = f"{section}.{name}"

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return flag and meaning, with the default of the recipe that the command line names."""
        section, _, name = str(self.name).partition(".")
        if section in section_names() and self.name not in COMMON and _SHOWS_ALL not in ctx.meta:
            return None
        default = default_text(getattr(ctx.meta[_DEFAULTS][section], name))
        return f"--{self.name} {self.metavar}", f"{self.help} [default: {default}]"


class ConfigCommand(click.Command):
    """A command with an option for each field of the configuration and of `more` sections, by section in its help."""

    def __init__(self, *args: Any, more: Mapping[str, Section] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._more = dict(more or {})
        for section, values in self._sections(DistillConfig()).items():
            self.params += [FieldOption(section, name, field) for name, field in type(values).model_fields.items()]
        flag: dict[str, Any] = {"is_flag": True, "is_eager": True, "expose_value": False}
        self.params.append(click.Option(["--help-all"], callback=_show_all, help="Show all options and exit.", **flag))

    def _sections(self, config: DistillConfig) -> dict[str, Section]:
        return {**self._more, **{name: getattr(config, name) for name in section_names()}}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words; RECIPE comes first, because help, which ends the parsing, shows its values."""
        words, _, _ = self.make_parser(ctx).parse_args(list(args))
        name = words.get("recipe_name")
        ctx.meta[_DEFAULTS] = self._sections(recipe(name) if name in recipes() else DistillConfig())
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the command itself, then those of each section."""
        ctx.meta.setdefault(_DEFAULTS, self._sections(DistillConfig()))
        rows: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                section = str(param.name).partition(".")[0] if isinstance(param, FieldOption) else "Options"
                rows.setdefault(section, []).append(record)
        for title, records in rows.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=38)
        if _SHOWS_ALL not in ctx.meta:
            formatter.write_paragraph()
            formatter.write_text(f"These are the options that most people use; {ctx.command_path} --help-all has all.")


def _show_all(ctx: click.Context, param: click.Parameter, is_given: bool) -> None:
    if is_given and not ctx.resilient_parsing:
        ctx.meta[_SHOWS_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def _metavar(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _metavar(inner[0])
    if origin in (typing.Union, types.UnionType):
        return "|".join(_metavar(part) for part in inner)
    if origin is typing.Literal:
        return "|".join(str(value) for value in inner)
    if origin is tuple:
        return f"{_metavar(inner[0])},..."
    return {"str": "TEXT", "int": "INT", "float": "FLOAT", "bool": "true|false", "NoneType": "none"}[
        annotation.__name__
    ]


def default_text(value: Any) -> str:
    """Return a default as a user would write it."""
    if isinstance(value, tuple):
        is_nested = any(isinstance(item, tuple) for item in value)
        return (" " if is_nested else ",").join(
            ":".join(f"{part:g}" for part in item) if is_nested else str(item) for item in value
        )
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
