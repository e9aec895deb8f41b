"""Values as people write them: one text means one value, on the command line, in YAML and in Python."""

from __future__ import annotations

import enum
import os
import re
import types
import typing
from collections.abc import Iterable, KeysView, Mapping, Set
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from wmdd.errors import ConfigError
from wmdd.text import one_line

_NULLS = ("", "~", "null", "Null", "NULL")
_INFINITE = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
NOT_WHOLE, NOT_A_NUMBER, NOT_TEXT = "a whole number, such as 10", "a number, such as 0.1", "text; write it in quotes"
_WANTED = {int: NOT_WHOLE, float: NOT_A_NUMBER, str: NOT_TEXT}
_WORDS = {  # for texts, which pydantic says that it cannot parse
    "int_parsing": NOT_WHOLE,
    "int_from_float": NOT_WHOLE,
    "int_parsing_size": "a smaller number",
    "int_type": NOT_WHOLE,
    "float_parsing": NOT_A_NUMBER,
    "float_type": NOT_A_NUMBER,
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": NOT_TEXT,
    "tuple_type": "a list of values",
}


class _Loader(yaml.SafeLoader):
    """Reads every scalar as the text that it is, no value as None, and no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key.value in (other.value for other in keys[:number]):
                raise ConfigError(f"line {key.start_mark.line + 1}: {key.value} is given twice; leave one out")
        values = super().construct_mapping(node, deep=deep)
        empty = {key.value: _is_null(value) for key, value in node.value}
        return {key: None if empty.get(key) else value for key, value in values.items()}


def _is_null(node: yaml.Node) -> bool:
    """Whether a value without quotes is YAML's word for no value; in a list it is text."""
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value in _NULLS


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


# YAML 1.1 would take 010 for 8, 1e-4 for a word and no for false.
_Loader.add_constructor("tag:yaml.org,2002:str", _text)
_Loader.yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("^<<$"))]}


def load_yaml(text: str) -> dict[str, Any]:
    """Read YAML whose top is a mapping; scalars stay text, and no value is None. Empty text is an empty mapping.

    Raises:
        ConfigError: with the line, and what is wrong there.
    """
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as exc:
        raise ConfigError(f"not YAML: {_problem(exc)}") from exc
    except RecursionError as exc:
        raise ConfigError("not YAML of a configuration: it is nested too deeply") from exc
    if values is None or values in _NULLS:
        return {}
    if not isinstance(values, dict):
        what = "a list" if isinstance(values, list) else "one value"
        raise ConfigError(f"holds {what}; a configuration is a mapping of sections, such as recover: {{lr: 0.1}}")
    return values


def _problem(exc: yaml.YAMLError) -> str:
    text = getattr(exc, "problem", None) or one_line(exc)
    if "'\\t'" in text:
        text = "it is indented with a tab; use spaces"
    elif getattr(exc, "context", None):
        text = f"{exc.context}, {text}"  # type: ignore[attr-defined]
    mark = getattr(exc, "context_mark", None) or getattr(exc, "problem_mark", None)
    return f"line {mark.line + 1}: {text}" if mark else text


def decode(data: bytes) -> str:
    """Return the text of a file, UTF-8 or UTF-16 with its mark; raise a `ConfigError` with the line that is neither."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
        if "\0" in text:
            raise ConfigError("holds zero bytes, as UTF-16 without its mark, or UTF-32; save the file as UTF-8")
        return text
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"line {line} is not UTF-8 (byte 0x{data[exc.start]:02x}); save the file as UTF-8") from exc


def _tuple_of(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a tuple's items; none for a field that holds no tuple."""
    for part in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(part) is tuple:
            return typing.get_args(part)
    return ()


def _types(annotation: Any) -> set[Any]:
    """Return the types that a field, or an item of it, may have, without their bounds."""
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        return _types(inner[0])
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return set[Any]().union(*map(_types, inner)) if is_union else {annotation}


def from_text(annotation: Any, text: str) -> Any:
    """Return what a text means for a field of this type; its validation reads numbers and truth values."""
    if text in ("none", "None") and types.NoneType in typing.get_args(annotation):
        return None
    items = _tuple_of(annotation)
    if not items:
        return _INFINITE.get(text, str(text)) if float in _types(annotation) else str(text)
    if text in ("", "none", "None", "[]"):
        return ()
    if str not in items:
        text = text.strip("()[] ")  # as Python and YAML write a pair of numbers
    return _listed(text) or tuple(item.strip() for item in text.split(","))


def from_value(annotation: Any, value: Any) -> Any:
    """Return what a value given in Python means for a field of this type: what it means where it is written as text.

    Paths, members of an enum, and what numpy, torch and pandas hold are taken as the plain values that they stand for.
    A `ValueError` says what another value should be.
    """
    items = _tuple_of(annotation)
    if isinstance(value, os.PathLike):  # a file may be called none
        return (_plain(value),) if items else _plain(value)
    value = _plain(value)
    if isinstance(value, str):
        return from_text(annotation, value)
    if isinstance(value, Mapping):
        raise ValueError("holds a mapping; write one value")
    if not items and isinstance(value, list | tuple | Set):
        raise ValueError("holds a list; write one value")
    if value is None and not items and types.NoneType not in _types(annotation):
        raise ValueError("has no value; write one, or leave it out")
    if not items:
        return _fitting(annotation, value)
    if value is None:
        return from_text(annotation, "none")
    if isinstance(value, Set) and not isinstance(value, KeysView):
        raise ValueError("a set has no order; write a list")
    if not isinstance(value, Iterable):
        value = (value,)
    given = map(_plain, value)
    # In a list of names, as of classes, false is the name of a label; alone it may be a mistake.
    is_name = str in _types(items[0])
    return tuple(str(item) if is_name and isinstance(item, bool) else _fitting(items[0], item) for item in given)


def read_as(annotation: Any, value: Any) -> Any:
    """Return a value as an option of this type reads it; raise a `ValueError` that says what it should be."""
    try:
        return TypeAdapter(annotation).validate_python(from_value(annotation, value))
    except ValidationError as exc:
        raise ValueError(message_of(exc.errors()[0])) from exc


def message_of(error: Any) -> str:
    """Return pydantic's message about a value, in plain words if it is about parsing."""
    if error["type"] in _WORDS:
        return f"input should be {_WORDS[error['type']]}"
    if error["type"] == "too_short":
        return "is empty; name one or more"
    if error["type"] == "too_long":
        return f"has too many values; give {error['ctx']['max_length']}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}"


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes):
        return os.fsdecode(value)
    to_list = getattr(value, "tolist", None)  # of numpy's numbers and arrays, torch's tensors and pandas' columns
    return to_list() if callable(to_list) else value


def _fitting(annotation: Any, value: Any) -> Any:
    """Return one value as pydantic should read it, which takes True for 1 and no number for a name."""
    wanted = _types(annotation)
    if isinstance(value, bool) and bool not in wanted:
        words = next((words for known, words in _WANTED.items() if known in wanted), None)
        if words:
            raise ValueError(f"input should be {words}")
    elif isinstance(value, int) and str in wanted:
        return str(value)
    return value


def _listed(text: str) -> tuple[str, ...]:
    """Return the items of a text that is a whole list of YAML, such as ``[cat, 'dog, wild']``; none for another."""
    if not (text.startswith("[") and text.endswith("]")):
        return ()
    try:
        items = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:  # classes may be called [a and b]
        return ()
    return tuple(map(str, items)) if all(isinstance(item, str) for item in items) else ()
