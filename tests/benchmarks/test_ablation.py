"""The ablation: its cells can be run, each is kept, and the page shows the last line of each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import ablation
from benchmarks.ablation import config_of, latest, table, write_page
from benchmarks.cells import CELLS
from wmdd.errors import ConfigError

ROOT = Path(__file__).parents[2]


class Words:
    """What the command line names."""

    recipe, data, ipc, students, baselines = "cifar10-quick", None, None, 3, "random,easiest"


def line(cell, top1, ipc=10, over="random", of="cifar10-quick", protocol="aa", students=3):
    scores = {"top1_last_mean": top1, "top1_last_std": 0.01, "runs": [{}] * students}
    gain = {"over": over, "baseline": 0.5, "mean": top1 - 0.5, "standard_error": 0.005}
    own = {"protocol": {"hash": protocol}, "distilled": scores, "gain": gain}
    return {"recipe": of, "cell": cell, "ipc": ipc, "students": {"convnet3_w64": own}, "seconds": {"recover": 12.4}}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_every_cell_changes_the_reference(cell):
    plain = config_of(Words, CELLS[0])
    assert (config_of(Words, cell) == plain) == (cell.name == "reference")


@pytest.mark.parametrize(("ipc", "cell"), [(10, "bare-crops-0.25"), (1, "bare-crops-0.25-tiles")])
def test_recipe_is_one_of_the_cells(ipc, cell):
    rows = table({(ipc, item.name): line(item.name, 0.6, ipc) for item in CELLS}, ipc).splitlines()
    about = {item.name: item.about for item in CELLS}
    marked = [row for row in rows if "(**the recipe**)" in row]
    assert len(marked) == 1
    assert marked[0].startswith(f"| {about[cell]} (**the recipe**) |")


@pytest.mark.parametrize(
    ("ipc", "cell", "base"),
    [
        (10, "noise", "reference"),
        (10, "no-features", "reference"),
        (10, "bare-easiest", "no-features"),
        (10, "bare-bn-0", "no-features"),
        (10, "recipe-adamw", "bare-crops-0.25"),
        (1, "recipe-adamw", "bare-crops-0.25-tiles"),
        (1, "start-tiles", "bare-tiles"),
        (1, "bare-tiles", "no-features"),
    ],
)
def test_cell_is_compared_with_the_base_that_differs_least(ipc, cell, base):
    kept = {(ipc, item.name): line(item.name, 0.6, ipc) for item in CELLS}
    kept[ipc, base] = line(base, 0.5, ipc)
    about = {item.name: item.about for item in CELLS}
    under = next(part for part in table(kept, ipc).split("Changes of ")[1:] if f"\n| {about[cell]} " in part)
    assert under.startswith(f'"{about[base]}":')
    assert "| +10.0 |" in next(row for row in under.splitlines() if row.startswith(f"| {about[cell]} "))


def test_names_of_cells_differ():
    assert len({cell.name for cell in CELLS}) == len(CELLS)


def test_table_has_the_last_line_of_each_cell_and_its_difference():
    lines = [
        line("noise", 0.4),
        line("reference", 0.6),
        line("noise", 0.45),
        line("noise", 0.9, of="digits"),
        line("tiles", 0.7, 1),
    ]
    kept = latest(map(json.dumps, lines), "cifar10-quick")
    assert set(kept) == {(10, "noise"), (10, "reference"), (1, "tiles")}
    rows = table(kept, 10).splitlines()[4:]
    assert rows[0] == "| start nearest to the atoms, all three terms |  | 60.0 ± 1.0 |  | +10.0 ± 0.5 (random) | 12 |"
    assert rows[1] == "| start from noise | `recover.init noise` | 45.0 ± 1.0 | -15.0 | -5.0 ± 0.5 (random) | 12 |"
    assert len(rows) == 2
    kept[10, "noise"] = line("noise", 0.5998)
    assert "| +0.0 |" in table(kept, 10)
    # No difference to a cell that was not measured at this size.
    assert "| 70.0 ± 1.0 |  |" in table(kept, 1)


def test_cell_of_another_training_names_its_protocol_and_students():
    kept = {(10, "reference"): line("reference", 0.6), (10, "noise"): line("noise", 0.5, protocol="bb", students=2)}
    assert "| `recover.init noise`; protocol `bb`, 2 students |" in table(kept, 10)
    kept[10, "reference"] = line("reference", 0.6, students=2)
    assert "| `recover.init noise`; protocol `bb` |" in table(kept, 10)


def test_page_keeps_what_is_around_the_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- ablation cifar10-quick 10 -->\nold\n<!-- end -->\nafter\n")
    lines = {(10, "reference"): line("reference", 0.6)}
    write_page(page, lines, "cifar10-quick")
    text = page.read_text()
    assert text.startswith('before\n<!-- ablation cifar10-quick 10 -->\nChanges of "')
    assert text.endswith("|\n<!-- end -->\nafter\n")
    assert "old" not in text
    with pytest.raises(ConfigError, match="ablation cifar10-quick 1 "):
        write_page(page, {(1, "reference"): line("reference", 0.6, 1)}, "cifar10-quick")


def test_cell_that_is_refused_leaves_the_others(tmp_path, monkeypatch, capsys):
    def measured(args, cell):
        if cell.name == "tiles":
            raise ConfigError("recover.tiles=2: of no use; set it to 1")
        return line(cell.name, 0.6)

    monkeypatch.setattr(ablation, "measure", measured)
    out = tmp_path / "lines.jsonl"
    words = ["--recipe", "digits", "--only", "reference,tiles,noise", "--page", ""]
    words += ["--out", str(out), "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["ablation", *words])
    assert ablation.main() == 2
    assert [json.loads(text)["cell"] for text in out.read_text().splitlines()] == ["reference", "noise"]
    assert capsys.readouterr().err == "tiles: recover.tiles=2: of no use; set it to 1\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data.path: recipe cifar10-quick brings no images; give a folder or Parquet, data.path=PATH\n"),
        (
            ["--data", "/nowhere"],
            "data.path=/nowhere: there is no such folder or file; give an image folder or Parquet",
        ),
    ],
    ids=["none", "missing"],
)
def test_images_that_cannot_be_read_are_one_line(tmp_path, monkeypatch, capsys, data, message):
    monkeypatch.setattr(ablation, "measure", lambda args, cell: pytest.fail("measured a cell"))
    words = ["--only", "noise,tiles", "--page", "", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["ablation", *words, *data])
    assert ablation.main() == 2
    told = capsys.readouterr().err
    assert told.startswith(message)
    assert told.count("\n") == 1


def test_unknown_cell_is_refused():
    words = ["-m", "benchmarks.ablation", "--only", "reference,nothing"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("--only nothing: there is no such cell; choose from reference,")


MARKED = "<!-- ablation digits 10 -->\nold\n<!-- end -->\n"


@pytest.mark.parametrize(
    ("text", "kept", "message"),
    [
        (None, (), "cannot be read (No such file or directory); give a page with marks"),
        ("no mark", (), 'has no "<!-- ablation digits 10 -->"'),
        ("<!-- ablation digits 10 -->\n", (), 'has no "<!-- ablation digits 10 -->" and "<!-- end -->"'),
        (MARKED, (line("reference", 0.6, 2, of="digits"),), 'has no "<!-- ablation digits 2 -->"'),
    ],
    ids=["missing", "no mark", "no end", "no mark of a size measured before"],
)
def test_wrong_page_is_refused_before_a_cell_is_computed(tmp_path, monkeypatch, capsys, text, kept, message):
    monkeypatch.setattr(ablation, "measure", lambda args, cell: pytest.fail("computed a cell"))
    page, out = tmp_path / "page.md", tmp_path / "results/lines.jsonl"
    if text is not None:
        page.write_text(text)
    if kept:
        out.parent.mkdir()
        out.write_text("".join(f"{json.dumps(item)}\n" for item in kept))
    before = out.read_text() if kept else None
    words = ["--recipe", "digits", "--ipc", "10", "--only", "reference", "--page", str(page), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["ablation", *words])
    assert ablation.main() == 2
    err = capsys.readouterr().err
    assert err.startswith(f"--page {page}: {message}")
    assert err.count("\n") == 1
    assert (out.read_text() if out.exists() else None) == before


@pytest.mark.slow
def test_cells_of_digits_are_measured_and_found_again(tmp_path):
    words = ["-m", "benchmarks.ablation", "--recipe", "digits", "--only", "reference,tiles", "--students", "1"]
    words += ["--executor", "local", "--page", "", "--work", str(tmp_path), "--out", str(tmp_path / "lines.jsonl")]
    for _ in range(2):
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    lines = [json.loads(text) for text in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [item["cell"] for item in lines] == ["reference", "tiles"] * 2
    scores = [item["students"]["convnet3_w64"] for item in lines]
    assert scores[:2] == scores[2:]
    # Equal students on the equal images that cost nothing.
    assert scores[0]["baselines"] == scores[1]["baselines"]
    assert set(scores[0]["baselines"]) == {"random", "nearest", "easiest", "herding"}
