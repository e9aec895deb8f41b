"""Folders export their public names, and import none of them before it is asked for."""

import subprocess
import sys
from importlib import import_module

import pytest
from tables import each_of

ROOMS = ("storage", "data", "models", "method", "training", "engine", "report")


@each_of("room", ROOMS)
def test_folder_exports_what_its_modules_hold(room):
    package = import_module(f"wmdd.{room}")
    for module, names in package.PUBLIC.items():
        for name in names:
            assert getattr(package, name) is getattr(import_module(f"wmdd.{room}.{module}"), name)
            assert getattr(package, name).__module__ == f"wmdd.{room}.{module}"
    with pytest.raises(AttributeError, match=f"module 'wmdd.{room}' has no attribute 'nothing'"):
        _ = package.nothing


def test_folders_import_nothing_before_a_name_is_used():
    code = (
        f"import sys; from importlib import import_module; [import_module('wmdd.' + room) for room in {ROOMS}];"
        "print([name for name in ('torch', 'ot', 'pyarrow', 'fsspec', 'matplotlib') if name in sys.modules]);"
        "from wmdd.method import free_support_barycenter; print('ot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\nTrue\n", done.stderr
