"""What the sections of a configuration share: kinds of values, and the frozen section itself.

Defaults of options are the published method's values; `wmdd.config.recipes` has configurations for named data sets.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from wmdd.config.values import from_value, message_of
from wmdd.errors import ConfigError
from wmdd.process.home import expand_home
from wmdd.text import did_you_mean

Fraction = Annotated[float, Field(gt=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _rises(scale: tuple[float, float]) -> tuple[float, float]:
    if scale[0] > scale[1]:
        raise ValueError(f"the low end must not be above the high end; try {scale[1]},{scale[0]}")
    return scale


Scale = Annotated[tuple[Fraction, Fraction], AfterValidator(_rises)]
SMALL_BELOW_PX = 100  # smaller images keep their size in the first layers
Stem = Literal["auto", "standard", "small", "stride2"]
Subset = Literal["imagenette", "imagewoof", "imagemeow", "imagesquawk", "imagefruit", "imageyellow"]
Augment = Literal[
    "none", "randaugment", "trivialaugment", "augmix", "autoaugment-imagenet", "autoaugment-cifar10", "autoaugment-svhn"
]

# Options of earlier versions, and what became of them.
FORMER = {
    "barycenter.ipc": "is ipc now, an option of the run",
    "barycenter.weights": "is barycenter.mass now (uniform or learned)",
    "evaluate.random_real": "is evaluate.baselines now (true: random, false: none)",
    "evaluate.seeds": "is evaluate.num_students now",
    "pretrain.repeats": "is pretrain.repeated_augmentation now",
    "pretrain.weights": "is pretrain.checkpoint now",
    "ray.speculate": "no longer exists, since no task gets a second copy; leave it out",
    "relabel.bn": "is relabel.bn_mode now",
    "tune.student_seeds": "is tune.num_students now",
}


def option(
    default: Any,
    description: str,
    *,
    keyed: bool = True,
    protocol: bool = True,
    only_with: Mapping[str, tuple[Any, ...]] | None = None,
    unless: dict[str, Any] | None = None,
    **bounds: Any,
) -> Any:
    """Declare an option of a section.

    Args:
        description: one line, which the command line prints as its help.
        keyed: another value changes what the stage yields, and is not among the params of the stage's units.
        protocol: another value changes how a student is trained or scored.
        only_with: values of other options of the section, one of which they must have for this to change anything.
        unless: values of other options of the section with any of which this one changes nothing.
        bounds: as pydantic's `Field` takes them, such as ``ge=0``.
    """
    needed = {"only_with": dict(only_with or {}), "unless": unless or {}}
    extra: dict[str, Any] = {"keyed": keyed, "protocol": protocol, **needed}
    return Field(default, description=description, json_schema_extra=extra, **bounds)


def refuse_twice(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names; raise a `ValueError` for one that is empty, or given twice."""
    if "" in names:
        raise ValueError("holds an empty name; leave it out")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"names {twice[0]} twice; leave one out")
    return names


def in_full(path: str | None) -> str | None:
    """Return a path or URL with the home folder in place of ``~``; raise a `ValueError` if it is empty."""
    if path is not None and not path.strip():
        raise ValueError("it is empty; give a path or URL, or none")
    return path and expand_home(path)


class _Short:
    """A section as the default of a signature: without its values."""

    def __init__(self, section: Section) -> None:
        self._shown = f"{type(section).__name__}()"

    def __repr__(self) -> str:
        return self._shown


class Section(BaseModel):
    """A frozen part of the configuration that knows all of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Describe its options in its help, which pydantic begins with all annotations and defaults at full length."""
        super().__pydantic_init_subclass__(**kwargs)
        parameters, lines = [], []
        for name, field in cls.model_fields.items():
            default = field.get_default(call_default_factory=True)
            meaning = f"{field.description} [default: {default!r}]"
            if isinstance(default, Section):
                meaning = (type(default).__doc__ or "").partition("\n")[0]
                default = _Short(default)
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
            lines.append(f"    {name}: {meaning}")
        cls.__signature__ = inspect.Signature(parameters)
        cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Options:", *lines])

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        is_section = isinstance(annotation, type) and issubclass(annotation, Section)
        return value if is_section else from_value(annotation, value)

    @classmethod
    def option(cls, name: str) -> str:
        """Return the dotted name of one of its fields, such as ``pretrain.epochs``."""
        return f"{cls.__name__.removesuffix('Config').lower()}.{name}"

    @classmethod
    def near(cls, dotted: str) -> str:
        """Return a question with the options that a wrong name may stand for; nothing where none is near."""
        return did_you_mean(difflib.get_close_matches(dotted, map(cls.option, cls.model_fields), 1, 0.8))

    @classmethod
    def checked(cls, values: dict[str, Any]) -> Self:
        """Build it from plain values; raise a `ConfigError` with option, value and what is allowed of each mistake."""
        try:
            return cls.model_validate(values)
        except ValidationError as exc:
            raise _refusal(exc, cls) from exc

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with fields changed; raise a `ConfigError` for what `wmdd.override` would refuse."""
        if update is None or update == {}:
            return super().model_copy(deep=deep)
        check_changes("update", update)
        values = dict(self)
        for name, value in update.items():
            if name.partition(".")[0] in values and "." in name:
                raise ConfigError(f"{name}: is inside a section; config = override(config, {{{name!r}: {value!r}}})")
            inner = values.get(name)
            if isinstance(inner, Section) and isinstance(value, Mapping):
                value = inner.model_copy(update=value)
            values[name] = value
        return self.checked(values)

    if not TYPE_CHECKING:  # a type checker that sees these would let every argument and assignment pass

        def __init__(self, **values: Any) -> None:
            """Build it from values; what is wrong is one line, as in `wmdd.override`."""
            try:
                super().__init__(**values)
            except ValidationError as exc:
                raise _refusal(exc, type(self)) from exc

        __init__.__pydantic_base_init__ = True  # without, pydantic would build sections one by one, and not all at once

        def copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
            """Return a copy with fields changed: `model_copy`, by the name that pydantic had for it before."""
            return self.model_copy(update=update, deep=deep)

        def __setattr__(self, name: str, value: Any) -> None:
            """Refuse every change in place, and name the way."""
            shown = "..." if isinstance(value, BaseModel) else repr(value)
            self._refuse(name, f"config = override(config, {{{self.option(name)!r}: {shown}}})")

        def __delattr__(self, name: str) -> None:
            """Refuse every change in place, and name the way."""
            self._refuse(name, f"config = override(config, {{{self.option(name)!r}: ...}})")

    def _refuse(self, name: str, remedy: str) -> None:
        if name not in type(self).model_fields:
            raise ConfigError(f"{self.option(name)}: no such option; {_known(type(self), ())}")
        raise ConfigError(f"{self.option(name)}: a configuration does not change in place; write {remedy}")

    @property
    def uncompiled(self) -> str:
        """Why what the section describes is not compiled, whatever `runtime.compile` is; empty if it may be."""
        return ""

    def for_key(self, fact: Literal["keyed", "protocol"] = "keyed") -> dict[str, Any]:
        """Return the plain values that belong to keys of the store, or to the hash of the protocol.

        Values at their default are left out, so a new option leaves all keys as they were. A default may therefore
        change only together with the version of each stage that reads it; tests/engine/defaults.json holds them all.
        """
        values = self.model_dump(mode="json")
        return {name: values[name] for name, default in self.defaults(fact).items() if self._differs(name, default)}

    @classmethod
    def defaults(cls, fact: Literal["keyed", "protocol"]) -> dict[str, Any]:
        """Return the defaults of the options that belong to keys, or to the hash of the protocol."""
        return {name: field.default for name, field in cls.model_fields.items() if _facts(field).get(fact, True)}

    def _differs(self, name: str, default: Any) -> bool:
        facts = _facts(type(self).model_fields[name])
        needed, idle = facts.get("only_with", {}), facts.get("unless", {})
        matters = all(getattr(self, other) in values for other, values in needed.items())
        matters = matters and not any(getattr(self, other) == value for other, value in idle.items())
        return matters and getattr(self, name) != default


def _facts(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def check_changes(argument: str, changes: Any, such: str = '{"recover.lr": 0.1}') -> None:
    """Raise a `ConfigError` for an argument that is no mapping from names to values, such as the one in the message."""
    if not isinstance(changes, Mapping):
        raise ConfigError(f"{argument}: is of type {type(changes).__name__}; give a mapping, such as {such}")
    for name in changes:
        if not isinstance(name, str):
            raise ConfigError(f"{argument}: {name!r} is no option's name; write it in full, such as recover.lr")


def _refusal(exc: ValidationError, root: type[Section]) -> ConfigError:
    mistakes = list(dict.fromkeys(_explain(error, root) for error in exc.errors()))
    lines = (f"{name}={_shortened(value)}: {text}" if value else f"{name}: {text}" for name, value, text in mistakes)
    return ConfigError("; ".join(lines), mistakes)


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:60]}...{text[-60:]}"


def _explain(error: Any, root: type[Section]) -> tuple[str, str, str]:
    """Return the option of a mistake, its value as text, if that matters, and what is wrong with it."""
    path = root.option(".".join(str(part) for part in error["loc"]))
    if error["type"] == "extra_forbidden":
        unknown = f"no such option; {_known(root, error['loc'][:-1])}{root.near(path)}"
        return path, "", FORMER.get(path, unknown)
    if error["type"] == "string_unicode":
        return path, str(error["input"]), "is no UTF-8 text; write it again"
    value = error["input"]
    if error["type"] == "missing" and isinstance(value, (tuple, list)):
        return path.rpartition(".")[0], ",".join(map(str, value)), "has too few values; give two, such as 0.5,0.9"
    if error["type"] == "model_type":
        first = next(iter(_section_at(root, error["loc"]).model_fields))
        return path, repr(value), f"is a section; write its options, such as {path}.{first}"
    shown = ",".join(map(str, value)) if isinstance(value, tuple) and value else repr(value)
    return path, shown, message_of(error)


def _known(root: type[Section], path: tuple[str | int, ...]) -> str:
    return f"the options here are {', '.join(_section_at(root, path).model_fields)}"


def _section_at(root: type[Section], path: tuple[str | int, ...]) -> type[Section]:
    for part in path:
        inner: Any = root.model_fields[str(part)].annotation
        root = inner
    return root
