"""The house's rules, read from the source: who may import whom, and what stands in one place only."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for top in ("wmdd", "ray_jobs", "cluster", "tuning") for path in (ROOT / top).rglob("*.py"))

# From the ground up: a folder, or a file at the front door, imports only from lower floors.
FLOORS = (
    ("wmdd.cpus", "wmdd.distributed", "wmdd.errors", "wmdd.keys", "wmdd.layers", "wmdd.normalization", "wmdd.text"),
    ("wmdd.process", "wmdd.runtime"),
    ("wmdd.config", "wmdd.seeding", "wmdd.storage", "cluster"),
    ("wmdd.data", "wmdd.models", "wmdd.outputs"),
    ("wmdd.method", "wmdd.training"),
    ("wmdd.stages", "wmdd.distilled"),
    ("wmdd.engine",),
    ("wmdd.report", "ray_jobs"),
    ("wmdd.commands",),
    ("tuning",),
    ("wmdd.cli",),
    ("wmdd.__main__", "wmdd"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

BANS = {
    r"^\s*(import|from) ray\b": ("ray_jobs/", "cluster/", "tuning/"),
    r"\.cuda\(|torch\.cuda": ("wmdd/runtime/",),
    r"manual_seed|default_rng|random\.seed|fork_rng": ("wmdd/seeding.py",),
    r"0\.485|0\.4914|0\.4802": ("wmdd/normalization.py",),
    r"(?<![\w.])print\(": (),
    r"(?<!Distributed)DataParallel\b": (),  # its hooks see one GPU's part of a batch alone (B13)
    r"pq\.read_table|\.read_row_group\(|\bParquetFile\(": ("wmdd/storage/parquet.py",),
    r"\b(import|from) (pickle|dill|cloudpickle)\b": (),
    r"(?<!\w)Console\(": ("wmdd/process/terminal.py",),  # rich would read names as markup
    r"\.read_text\(\)|(?<![\w.])open\((?!.*(encoding=|b\"))": (),  # the locale's encoding
    r"weights_only=False": (),
    r"(?<!safetensors\.)torch\.load\((?!.*weights_only=True)": (),
}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module):
    """The folder, or the file at the front door, that a module is in."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "wmdd" else parts[0]


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "wmdd":
            names = [name for alias in node.names if (name := f"wmdd.{alias.name}") in FLOOR_OF]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        yield from (name for name in names if name.split(".")[0] in ("wmdd", "ray_jobs", "cluster", "tuning"))


def climbs(module, path):
    room = room_of(module)
    others = [name for name in imports_of(path) if room_of(name) != room]
    return [
        f"{module} imports {name}, which is not below it"
        for name in others
        if FLOOR_OF[room_of(name)] >= FLOOR_OF[room]
    ]


def breaks(text, where):
    return [
        f"{where}:{number} {line.strip()}"
        for pattern, allowed in BANS.items()
        if not where.startswith(allowed or ("\0",))
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_downwards_and_keeps_the_bans(path):
    module = name_of(path)
    assert room_of(module) in FLOOR_OF, f"{module} has no floor"
    if module != "wmdd":  # the package's front door names everything, lazily
        assert climbs(module, path) == []
    assert breaks(path.read_text(), str(path.relative_to(ROOT))) == []


def test_twelve_floors_and_twelve_files_at_most():
    assert len(FLOORS) <= 12
    assert len(list((ROOT / "wmdd").glob("*.py"))) <= 12


# What each ban must see; none of these lines is code of ours.
PLANTED = {
    r"^\s*(import|from) ray\b": ("import ray", "from ray import train"),
    r"\.cuda\(|torch\.cuda": ("x.cuda()", "torch.cuda.synchronize()"),
    r"manual_seed|default_rng|random\.seed|fork_rng": ("np.random.default_rng()", "torch.manual_seed(0)"),
    r"0\.485|0\.4914|0\.4802": ("mean = 0.485", "mean = 0.4914"),
    r"(?<![\w.])print\(": ("print(1)",),
    r"(?<!Distributed)DataParallel\b": ("nn.DataParallel(x)", "from torch.nn import DataParallel"),
    r"pq\.read_table|\.read_row_group\(|\bParquetFile\(": ("pq.read_table(x)", "pq.ParquetFile(x)"),
    r"\b(import|from) (pickle|dill|cloudpickle)\b": ("import pickle", "from cloudpickle import loads"),
    r"(?<!\w)Console\(": ("Console()", "rich.console.Console(soft_wrap=False)"),
    r"\.read_text\(\)|(?<![\w.])open\((?!.*(encoding=|b\"))": ("path.read_text()", 'open(path, "w")'),
    r"weights_only=False": ("torch.load(f, weights_only=False)",),
    r"(?<!safetensors\.)torch\.load\((?!.*weights_only=True)": ("torch.load(f)",),
}


def test_checker_sees_planted_violations(tmp_path):
    path = tmp_path / "losses.py"
    path.write_text("import wmdd.engine.plan\n")
    assert climbs("wmdd.method.losses", path)
    assert set(PLANTED) == set(BANS)
    for pattern, lines in PLANTED.items():
        for line in lines:
            assert re.search(pattern, line), (pattern, line)
            assert breaks(line, "wmdd/method/losses.py"), line
    assert not breaks("torch.nn.parallel.DistributedDataParallel(x)", "wmdd/method/losses.py")
    assert not breaks("torch.load(f, weights_only=True)", "wmdd/models/weights.py")


@pytest.mark.parametrize("imported", ["wmdd.cli.main", "wmdd; dir(wmdd); wmdd.recipe('digits')"])
def test_help_does_not_wait_for_torch(imported):
    code = f"import sys, {imported}; sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'sklearn', 'ot')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_mistyped_option_does_not_wait_for_torch(tmp_path):
    code = (
        "import sys; from wmdd.cli.main import cli; from wmdd.errors import ConfigError\n"
        "for name in ('distill', 'plan', 'compare', 'rank', 'tune'):\n"
        "    try: cli.main(args=[name, 'digits', '--recover.lr', 'nan'], standalone_mode=False)\n"
        "    except ConfigError: print(name, [lib for lib in ('torch', 'ray') if lib in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "distill []\nplan []\ncompare []\nrank []\ntune []\n", done.stderr


def test_planning_imports_no_library_it_does_not_need(tmp_path):
    """Each of these takes a command, and every worker of a cluster, a second or more."""
    slow = ("sklearn", "scipy.optimize", "torchvision", "torch._dynamo", "sympy", "ot", "matplotlib", "ray", "triton")
    code = (
        "import sys, wmdd.commands.distill, wmdd.engine.run; from wmdd.engine.plan import make_plan;"
        "from wmdd.storage.store import ArtifactStore;"
        "from wmdd.config.recipes import recipe; make_plan(recipe('digits'), ArtifactStore('store'));"
        f"print([name for name in {slow} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
