"""The classes of a set: all names, and those that a run uses."""

from __future__ import annotations

import difflib
import os
import posixpath
import re
from typing import Any

from wmdd.data.hf_parquet import open_parquet, parquet_class_names, parquet_columns
from wmdd.data.layouts.listing import Listing
from wmdd.data.layouts.set_files import is_junk_folder, open_file_system
from wmdd.data.layouts.sources import builtin_images
from wmdd.data.layouts.split_names import same_form
from wmdd.errors import SHOWN, DataError
from wmdd.storage.filesystem import entries, explain, tree
from wmdd.storage.marks import own_folders
from wmdd.text import and_more, printable, suggestion


def class_folders(url: str, listing: Listing) -> set[str]:
    """Return the training classes of an image folder, also those without images."""
    classes = {name for split, name in listing.layout.places.values() if split == "train"}
    if listing.layout.root is None:
        return classes
    fs, root = open_file_system(url)
    try:
        base = posixpath.join(root, listing.layout.root) if listing.layout.root else root
        items = entries(fs, base)
    except (OSError, EOFError) as exc:
        raise DataError(f"data.path={url}: cannot be listed {explain(exc)}") from exc
    folders = [x["name"] for x in items if x["type"] == "directory" or (x.get("islink") and fs.isdir(x["name"]))]
    names = {folder.rstrip("/").rpartition("/")[2] for folder in folders}
    empty = {name for name in names - listing.left_out - classes if not is_junk_folder(name)}
    return {name for name in empty if not _is_own(fs, base, name)} | classes


def _is_own(fs: Any, base: str, name: str) -> bool:
    """Whether a folder without images is, or holds, a store or run folder, which may be newer than the listing."""
    try:
        files = tree(fs, posixpath.join(base, name))
    except (OSError, EOFError):  # whatever it is: a class without images is refused by its name
        return False
    return bool(own_folders(path.removeprefix(base.rstrip("/") + "/") for path in files))


def all_class_names(url: str, listing: Listing) -> tuple[str, ...]:
    """Return all classes of a set, in the order of the class ids that it declares."""
    if listing.kind == "builtin":
        return builtin_images(url)[2]
    if listing.kind == "folder":
        return tuple(sorted(class_folders(url, listing)))
    with open_parquet(url, listing.files["train"][0]) as parquet:
        schema = parquet.schema_arrow
        return parquet_class_names(schema, parquet_columns(schema, url)[1]) or ()


def choose(url: str, classes: tuple[str, ...] | None, names: tuple[str, ...]) -> tuple[tuple[str, ...], list[int]]:
    """Return the kept class names, and the class id of every name of the set, -1 for one that is left out."""
    _refuse_undecoded(url, names)
    if classes is None:
        return names, list(range(len(names)))
    classes = tuple(  # a keyboard chooses the Unicode form of a name, and a disk may change it
        name if name in names else next((known for known in names if same_form(name, known)), name) for name in classes
    )
    for name in classes:
        if name not in names:
            raise DataError(f"data.classes={name or repr(name)}: not in {url}; {_names_for(name, names)}")
        if classes.count(name) > 1 or names.count(name) > 1:
            where = "data.classes" if classes.count(name) > 1 else url
            raise DataError(f"data.classes={name}: occurs twice in {where}; remove or rename one")
    return classes, [classes.index(name) if name in classes else -1 for name in names]


def _refuse_undecoded(url: str, names: tuple[str, ...]) -> None:
    """Raise DataError for class names that are no text: nothing could be written about them."""
    wrong = next((name for name in names if re.search("[\ud800-\udfff]", name)), None)
    if wrong is None:
        return
    try:
        data = os.fsencode(wrong)
        remedy = f"the name is not UTF-8; rename it, for instance to {data.decode('latin-1')}"
        data.decode()
        remedy = "this locale is not UTF-8, as the name is; set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
    except UnicodeDecodeError:
        pass
    except UnicodeEncodeError:  # half of a character, as JSON may hold it
        remedy = "the name is no text; rename it"
    raise DataError(f"data.path={url}: class {printable(wrong)}: {remedy}")


def _names_for(name: str, names: tuple[str, ...]) -> str:
    """Return a hint for an unknown class, and how several are written if the name seems to hold several."""
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    hint = suggestion(name, names, f"the classes are {', '.join(names[:SHOWN])}{more}")
    return f"{hint}; several are written {','.join(names[:2])}" if re.search(r"[][()'\";|\s]", name) else hint


def refuse_unknown(url: str, val_names: set[str], names: tuple[str, ...]) -> None:
    """Raise DataError if validation classes have no training images."""
    unknown = sorted(val_names - set(names))
    if not unknown:
        return
    hint = "; add or remove it"
    if near := difflib.get_close_matches(unknown[0], names, 1, 0.7):
        hint = f"; is it {near[0]}? rename"
    elif len(unknown) == len(val_names) > 1:
        hint = ", and no other has one, as in few-shot sets; put all classes into train, or move the validation away"
    name = f"{unknown[0]}{and_more(len(unknown) - 1)}"
    raise DataError(f"data.path={url}: validation class {name} has no training folder{hint}")
