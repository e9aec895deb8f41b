"""Why the folders of a set may be no classes, or which notes they need, from their names."""

from __future__ import annotations

from collections.abc import Mapping
from posixpath import join

from wmdd.data.layouts.folder_tree import Folders, some
from wmdd.data.layouts.split_names import Role, is_generic, is_paired, is_segmentation, is_sure

_FEW = 6  # of folders with equal subfolders that may be splits; more of them are classes


def class_doubts(tree: Folders, base: str, roles: Mapping[str, Role]) -> tuple[str, list[str]]:
    """Return why the folders of a set may be no classes ("" if nothing speaks against it), and notes."""
    names, notes = tree.below(base), list[str]()
    inner = {name: set(tree.below(join(base, name))) for name in names}
    bare = [name for name in names if not tree.count(join(base, name))]
    if wrong := no_classes(names, bare):
        return wrong, notes
    shared = set.intersection(*inner.values())
    # Splits may lack a class or two.
    if len(names) > 1 and len(bare) == len(names) and 1 < len(shared) >= len(set.union(*inner.values())) / 2:
        same = f"hold the same folders ({some(sorted(shared), 3)}) and no images themselves"
        if len(names) <= _FEW:
            return f"{some(names, 3)} {same}: if they are splits, call them train and val; {_chosen(names)}", notes
        notes.append(f"{len(names)} classes {same}; all of their images are read")
    else:
        notes += deep_notes(tree, base)
    for name in bare:
        if len(inner[name]) > 1 and inner[name] <= set(names) - {name}:
            remedy = "move it away, or name all classes in data.classes"
            return f"{name} holds folders named as the other classes; {remedy}", notes
    for name in (name for name in roles if name not in bare):
        text = f"{name} holds images and no class folders"
        if len(names) > 2 and is_sure(name):
            remedy = "move it away, or, if it is a class, name all in data.classes"
            return f"{text}, and looks like a split; {remedy}", notes
        notes.append(f"{text}, and is read as a class")
    return "", notes


def _chosen(names: list[str]) -> str:
    return f"if they are classes, name them: data.classes {','.join(names[:3])}{',...' if len(names) > 3 else ''}"


def no_classes(names: list[str], bare: list[str]) -> str:
    """Return why folders, of which the bare ones hold no images, are sides of the same images, by their names."""
    paired = is_paired(names)
    if not paired and not is_segmentation(names):
        return ""
    sides = "two sides of the same images" if paired else "images and their masks"
    give = "give one of them as data.path, or, " if len(bare) == len(names) else ""
    return f"{some(names, 3)} are named as {sides}, and not as classes; {give}{_chosen(names)}"


def deep_notes(tree: Folders, root: str) -> list[str]:
    """Return notes about folders below the classes, which are read as parts of them."""
    names = tree.below(root)
    inner = [name for at in names for name in tree.below(join(root, at))]
    bare = all(not tree.count(join(root, at)) and len(tree.below(join(root, at))) > 1 for at in names)
    if len(names) < 2 or not bare or all(map(is_generic, inner)) or is_segmentation(inner):
        return []
    inner = list(dict.fromkeys(inner))
    return [f"the classes are {some(names, 3)}; the folders in them ({some(inner, 3)}) are no classes"]
