"""The names of data sets and of default run folders: a folder belongs to one configuration, and its name says which."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from wmdd.config.distill import DistillConfig, override, section_names, to_yaml
from wmdd.config.recipes import DEBUG, recipe, recipes
from wmdd.config.resolve import under_protocol, with_method
from wmdd.errors import ConfigError
from wmdd.keys import content_key
from wmdd.models.names import is_file
from wmdd.storage.folder import absolute_url
from wmdd.text import counted

# What changes nothing that a report shows, and the protocol, which `_named` has.
_NOT_COMPARED = re.compile(r"ray\..*|runtime\.(?!precision$).*|data\.download|evaluate\.(val_batch_size|protocol)")
_SHORT = {"ipc": "ipc", "seed": "seed", "evaluate.num_students": "students"}
_SPELLED = 2  # more options than these, or long ones, become a digest
_PLAIN = re.compile(r"[A-Za-z0-9._+-]{1,24}")
_SUFFIXES = (".parquet", ".tar.gz", ".tgz", ".tar", ".zip")
_DEBUG_SUFFIX = "-debug"


def located(config: DistillConfig) -> DistillConfig:
    """Return the configuration with absolute paths, which mean the same in every folder; keys do not depend on it."""
    changes: dict[str, Any] = {}
    path, weights = config.data.path, config.pretrain.checkpoint
    if path is not None and not path.startswith("torchvision:"):
        changes["data"] = config.data.model_copy(update={"path": absolute_url(path)})
    if weights is not None and is_file(weights):
        changes["pretrain"] = config.pretrain.model_copy(update={"checkpoint": absolute_url(weights)})
    return config.model_copy(update=changes)


def portable_yaml(config: DistillConfig) -> str:
    """Return a configuration as YAML, without the cluster that it ran on: it is to run anywhere."""
    return to_yaml(config.model_copy(update={"ray": config.ray.model_copy(update={"address": None})}))


def set_name(config: DistillConfig) -> str:
    """Return a short name of the data set, safe as a part of a file name; empty if its path has none."""
    path = located(config).data.path or ""
    if path.startswith(("torchvision:", "builtin:")):
        path = path.partition(":")[2].partition("?")[0]
    parts = [_stem(part.partition("://")[2] or part) for part in path.split("::")]
    name = "-".join(part for part in parts if part)
    return f"{name}-{config.data.subset}" if config.data.subset else name


def _stem(path: str) -> str:
    name = posixpath.basename(path.rstrip("/"))
    suffix = next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), "")
    return _safe(name[: len(name) - len(suffix)])


def _safe(name: str) -> str:
    kept = (c if c.isalnum() or c in "._+-" else "_" for c in unicodedata.normalize("NFC", name))
    return "".join(kept).strip("._-")[:32]


def subject(config: DistillConfig) -> str:
    """Return what a report is about: the set, with the recipe if its name differs, and the images per class."""
    return f"{set_title(config)}, {config.ipc} image{'' if config.ipc == 1 else 's'} per class"


def set_title(config: DistillConfig) -> str:
    """Return the set's name, with the recipe's if it differs."""
    name = set_name(config)
    if not name or name.casefold() == config.recipe:
        return config.recipe
    return f"{name} (recipe {config.recipe})"


def run_name(config: DistillConfig, skip: Collection[str] = ()) -> str:
    """Return the name of a configuration's default run folder.

    It is the recipe's name, with what differs from the recipe: set, protocol, method, images per class, options. If
    these are many or long, a digest stands for them.

    Args:
        skip: dotted options in which several runs of the folder differ.
    """
    base, by_protocol = _base(config)
    changed = {name: value for name, value in _differences(base, config).items() if name not in skip}
    parts = [_safe(config.recipe) or "custom"]
    data = set_name(config)
    if data and changed.keys() & {"data.path", "data.subset"}:
        changed = {name: value for name, value in changed.items() if name not in ("data.path", "data.subset")}
        is_recipes_own = f"{config.recipe}-".startswith(f"{data.casefold()}-")
        parts += [] if is_recipes_own else [data]
    parts += [f"protocol-{config.evaluate.protocol}"] if by_protocol else []
    parts += [config.method] if config.method != "wmdd" else []
    parts += [f"{short}{changed.pop(name)}" for name, short in _SHORT.items() if name in changed]
    spelled = {name: _spelled(value) for name, value in changed.items()}
    if len(spelled) > _SPELLED or not all(_PLAIN.fullmatch(text) for text in spelled.values()):
        return "-".join([*parts, content_key(changed)[:8]])
    return "-".join([*parts, *(f"{name}-{text}" for name, text in spelled.items())])


def _spelled(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_spelled, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def digest(config: DistillConfig, options: Mapping[str, Any] | None = None) -> str:
    """Return a short hash of a run's configuration and of a command's other options."""
    return content_key({**settled_options(located(config)), **({"more": dict(options)} if options else {})})[:8]


def contrast(before: DistillConfig, now: DistillConfig, skip: Collection[str] = ()) -> str:
    """Return in words what differs between two configurations; empty if they are the same run.

    Options of ``ray`` and ``runtime`` make no difference, except the precision, which is part of keys.
    """
    old, new = (settled_options(located(config)) for config in (before, now))
    names = [name for name in new if name not in skip and old[name] != new[name]]
    if not names:
        return ""
    first, *others = names
    more = f", and {counted(len(others), 'other option', 'other options')}" if others else ""
    return f"{first}={_shortened(old[first])} (not {_shortened(new[first])}){more}"


def same_but(before: DistillConfig, now: DistillConfig, skip: Collection[str]) -> str:
    """Return in words how two configurations differ from their recipes in different ways, except in some options.

    What a protocol derives from those options, such as rates from the images per class, makes no difference.
    """
    if not skip or _named(before) != _named(now):
        return contrast(before, now, skip)
    changed = [_differences(_base(config)[0], located(config)) for config in (before, now)]
    kept = [{name: value for name, value in one.items() if name not in skip} for one in changed]
    return contrast(before, now, skip) if kept[0] != kept[1] else ""


def _named(config: DistillConfig) -> dict[str, str]:
    return {"recipe": config.recipe, "method": config.method, "protocol": config.evaluate.protocol}


def settled_options(config: DistillConfig) -> dict[str, Any]:
    """Return every option that defines a run, by its dotted name."""
    config = config.settled()
    options: dict[str, Any] = _named(config) | {"seed": config.seed, "ipc": config.ipc}
    for section in section_names():
        values = getattr(config, section).model_dump(mode="json")
        options |= {f"{section}.{name}": value for name, value in values.items()}
    return {name: value for name, value in options.items() if not _NOT_COMPARED.fullmatch(name)}


def _differences(base: DistillConfig, config: DistillConfig) -> dict[str, Any]:
    plain, named = settled_options(base), _named(config)
    return {
        name: value for name, value in settled_options(config).items() if name not in named and value != plain[name]
    }


def _base(config: DistillConfig) -> tuple[DistillConfig, bool]:
    """Return the recipe under the configuration's method and protocol, and whether the protocol sets its options."""
    name = config.recipe.removesuffix(_DEBUG_SUFFIX)
    known = recipe(name) if name in recipes() else DistillConfig(recipe=config.recipe)
    known = known.model_copy(update={"ipc": config.ipc}).settled().model_copy(update={"ipc": known.ipc})
    base = with_method(known, config.method)
    try:
        laid = under_protocol(base, config.evaluate.protocol, config)
        evaluate = laid.evaluate.model_copy(update={"students": base.evaluate.students})
        laid = laid.model_copy(update={"evaluate": evaluate})
    except ConfigError:  # settings that no protocol can be laid over
        laid = base
    if config.recipe.endswith(_DEBUG_SUFFIX):
        base, laid = override(base, DEBUG), override(laid, DEBUG)
    if config.evaluate.protocol != base.evaluate.protocol:
        return laid, True
    # A recipe may set other values under a protocol's name.
    by_protocol = len(_differences(laid, config)) < len(_differences(base, config))
    return (laid, True) if by_protocol else (base, False)


def _shortened(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else _spelled(value)
    return text if len(text) <= 80 else f"{text[:40]}...{text[-30:]}"
