"""The house's rules, read from the source: who may import whom, and what stands in one place only."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for top in ("wmdd", "ray_jobs", "cluster", "tuning") for path in (ROOT / top).rglob("*.py"))

# A module imports its own floor or lower ones.
FLOORS = (
    (
        "wmdd.errors",
        "wmdd.callers",
        "wmdd.cpus",
        "wmdd.interruptions",
        "wmdd.text",
        "wmdd.terminal",
        "wmdd.values",
        "wmdd.sections",
        "wmdd.config",
        "wmdd.fidelity",
        "wmdd.seeding",
        "wmdd.moments",
        "wmdd.runtime",
        "wmdd.parallel",
        "wmdd.archives",
        "wmdd.files",
        "wmdd.pointers",
        "wmdd.storage_errors",
        "wmdd.tables",
        "wmdd.temporary",
        "wmdd.sftp",
        "wmdd.arrow_files",
    ),
    ("wmdd.data.normalization", "wmdd.data.pixels", "wmdd.data.augment", "wmdd.models", "wmdd.types", "wmdd.events"),
    ("wmdd.data",),
    ("wmdd.transport", "wmdd.losses", "wmdd.synthesis", "wmdd.training", "wmdd.labels"),
    ("wmdd.stages",),
    (
        "wmdd.store",
        "wmdd.snapshots",
        "wmdd.recipes",
        "wmdd.methods",
        "wmdd.protocols",
        "wmdd.run_names",
        "wmdd.run_folder",
        "wmdd.indexing",
        "wmdd.checks",
        "wmdd.plan",
        "wmdd.until",
        "wmdd.pipeline",
        "wmdd.schedule",
        "wmdd.progress",
        "wmdd.log",
        "wmdd.metrics_file",
        "wmdd.distilled",
        "wmdd.report",
    ),
    (
        "wmdd.api",
        "wmdd.compare",
        "wmdd.ranking",
        "wmdd.export",
        "wmdd.cli",
        "wmdd.cli_config",
        "wmdd.cli_cluster",
        "wmdd.cli_compare",
        "wmdd.cli_rank",
        "wmdd.cli_released",
        "wmdd.cli_export",
        "wmdd.cli_jobs",
        "wmdd.cli_tune",
        "wmdd.cli_types",
        "wmdd.__main__",
        "wmdd",
    ),
    ("cluster",),
    ("ray_jobs",),
    ("tuning",),
)
# Reached inside a function only: the roof looks for an executor when one is asked for.
LAZY = {
    ("wmdd.api", "ray_jobs.executor"),
    ("wmdd.cli_config", "ray_jobs.connect"),
    ("wmdd.cli_cluster", "cluster.local"),
    ("wmdd.cli_cluster", "cluster.state"),
    ("wmdd.cli_cluster", "cluster.supervisor"),
    ("wmdd.cli_tune", "tuning.config"),
    ("wmdd.cli_tune", "tuning.search"),
    ("wmdd.cli_tune", "tuning.space"),
    ("wmdd.cli_jobs", "cluster.jobs"),
    ("wmdd.cli_jobs", "cluster.state"),
    ("wmdd.cli_jobs", "cluster.travel"),
}

BANS = {
    r"^\s*(import|from) ray\b": ("ray_jobs/", "cluster/", "tuning/"),
    r"\.cuda\(|torch\.cuda": ("wmdd/runtime.py",),
    r"manual_seed|default_rng|random\.seed|fork_rng": ("wmdd/seeding.py",),
    r"0\.485|0\.4914|0\.4802": ("wmdd/data/normalization.py",),
    r"(?<![\w.])print\(": (),
    r"(?<!Distributed)DataParallel\b": (),  # its hooks see one GPU's part of a batch alone (B13)
    r"pq\.read_table|\.read_row_group\(|\bParquetFile\(": ("wmdd/tables.py",),
    r"\b(import|from) (pickle|dill|cloudpickle)\b": (),
    r"(?<!\w)Console\(": ("wmdd/terminal.py",),  # rich would read names as markup
    r"\.read_text\(\)|(?<![\w.])open\((?!.*(encoding=|b\"))": (),  # the locale's encoding
    r"weights_only=False": (),
    r"(?<!safetensors\.)torch\.load\((?!.*weights_only=True)": (),
}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module):
    best = max(
        (
            (len(room), floor)
            for floor, rooms in enumerate(FLOORS)
            for room in rooms
            if f"{module}.".startswith(f"{room}.")
        ),
        default=None,
    )
    return None if best is None else best[1]


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        yield from (name for name in names if name.split(".")[0] in ("wmdd", "ray_jobs", "cluster", "tuning"))


def climbs(module, path):
    floor = floor_of(module)
    found = [name for name in imports_of(path) if (module, name) not in LAZY and floor_of(name) > floor]
    return [f"{module} imports {name}, which stands above it" for name in found]


def breaks(text, where):
    return [
        f"{where}:{number} {line.strip()}"
        for pattern, allowed in BANS.items()
        if not where.startswith(allowed or ("\0",))
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_stands_on_lower_floors_and_keeps_the_bans(path):
    module = name_of(path)
    assert floor_of(module) is not None, f"{module} has no floor"
    if module != "wmdd":  # the package's front door names everything, lazily
        assert climbs(module, path) == []
    assert breaks(path.read_text(), str(path.relative_to(ROOT))) == []


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
    path.write_text("import wmdd.plan\n")
    assert climbs("wmdd.losses", path)
    assert set(PLANTED) == set(BANS)
    for pattern, lines in PLANTED.items():
        for line in lines:
            assert re.search(pattern, line), (pattern, line)
            assert breaks(line, "wmdd/losses.py"), line
    assert not breaks("torch.nn.parallel.DistributedDataParallel(x)", "wmdd/losses.py")
    assert not breaks("torch.load(f, weights_only=True)", "wmdd/models/weights.py")


@pytest.mark.parametrize("imported", ["wmdd.cli", "wmdd; dir(wmdd); wmdd.recipe('digits')"])
def test_help_does_not_wait_for_torch(imported):
    code = f"import sys, {imported}; sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'sklearn', 'ot')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_mistyped_option_does_not_wait_for_torch(tmp_path):
    code = (
        "import sys; from wmdd.cli import cli; from wmdd.errors import ConfigError\n"
        "for name in ('distill', 'plan', 'compare', 'rank', 'tune'):\n"
        "    try: cli.main(args=[name, 'digits', '--recover.lr', 'nan'], standalone_mode=False)\n"
        "    except ConfigError: print(name, [lib for lib in ('torch', 'ray') if lib in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "distill []\nplan []\ncompare []\nrank []\ntune []\n", done.stderr


def test_planning_waits_for_no_library_that_it_does_not_need(tmp_path):
    """Each of these takes a command, and every worker of a cluster, a second or more."""
    slow = ("sklearn", "scipy.optimize", "torchvision", "torch._dynamo", "sympy", "ot", "matplotlib", "ray", "triton")
    code = (
        "import sys, wmdd.api, wmdd.pipeline; from wmdd.plan import make_plan; from wmdd.store import ArtifactStore;"
        "from wmdd.recipes import recipe; make_plan(recipe('digits'), ArtifactStore('store'));"
        f"print([name for name in {slow} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
