"""Words of the guides that stand for options and commands are such."""

import ast
import importlib
import inspect
import pydoc
import re
import shlex
from pathlib import Path

import click
import pytest

import wmdd
from wmdd.cli.fields import ConfigCommand
from wmdd.cli.main import cli, main
from wmdd.cli.options import configure
from wmdd.cli.released_flags import RUN_SH, SCRIPTS
from wmdd.config.distill import DistillConfig, section_names
from wmdd.config.methods import methods
from wmdd.config.protocols import protocols
from wmdd.config.recipes import recipe, recipes

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_COMMANDS = [
    guide
    for guide in (*GUIDES, *sorted((ROOT / "cluster").rglob("README.md")))
    if re.search(r"(?m)^wmdd ", guide.read_text())
]
RELEASED_GUIDE = ROOT / "docs" / "from-the-released-code.md"
_RECOVER = """
    --dataset --exp-name --syn-data-path --real-data-path --ipc --store-best-images --wb --weight-wb --per-class-bn
    --cda --batch-size --iteration --lr --jitter --r-bn --r-wb --first-bn-multiplier --tv-l2 --l2-scale --model
    --ckpt-path --verifier --verifier-arch --easy2hard-mode --milestone --G
"""
_VANILLA = """
    --dataset --batch-size --gradient-accumulation-steps --start-epoch --epochs -j --workers --train-dir --val-dir
    --output-dir --exp-name --cos --sgd -lr --learning-rate --momentum --weight-decay --adamw-lr --adamw-weight-decay
    --model --keep-topk -T --temperature --mix-type --fkd_seed
"""
RELEASED_FLAGS = {
    "run.sh": "-p -d -m -e -x -y -r -i -z -g -c -u -w -n -b -a -t -A",
    "pretrain/pretrain.py": """
        --dataset --data-path --model --device --exp-name -b --batch-size --epochs -j --workers --opt --lr --momentum
        --wd --weight-decay --norm-weight-decay --bias-weight-decay --transformer-embedding-decay --label-smoothing
        --mixup-alpha --cutmix-alpha --lr-scheduler --lr-warmup-epochs --lr-warmup-method --lr-warmup-decay
        --lr-step-size --lr-gamma --lr-min --print-freq --output-dir --resume --start-epoch --cache-dataset --sync-bn
        --test-only --auto-augment --ra-magnitude --augmix-severity --random-erase --amp --world-size --dist-url
        --model-ema --model-ema-steps --model-ema-decay --use-deterministic-algorithms --interpolation
        --val-resize-size --val-crop-size --train-crop-size --clip-grad-norm --ra-sampler --ra-reps --weights --backend
        --use-v2
    """,
    "recover/data_synthesis.py": _RECOVER,
    "recover/data_synthesis_new.py": _RECOVER,
    "relabel/generate_soft_label.py": """
        --dataset --data -m --model --ckpt-path -j --workers -b --batch-size --world-size --rank --dist-url
        --dist-backend --seed --gpu --multiprocessing-distributed --epochs --input-size --min-scale-crops
        --max-scale-crops --fkd-path --exp-name --use-fp16 --mode --fkd-seed --mix-type --mixup --cutmix
    """,
    "train/train_FKD.py": f"{_VANILLA} --fkd-path",
    "train/train_vanilla.py": _VANILLA,
    "train/train_vanilla_randaug.py": _VANILLA,
    "Flags that only guides name": "--wandb-project --wandb-api-key --arch-name",
}


def test_help_of_a_section_lists_its_options_first():
    top = pydoc.plain(pydoc.render_doc(wmdd.DistillConfig))[:2500]
    for name in section_names():
        section = getattr(DistillConfig(), name)
        assert f" {name}: {type(section).__doc__.splitlines()[0]}" in top
        page = pydoc.plain(pydoc.render_doc(section))
        assert len(page.partition("Options:")[0]) < 1500
        for option, field in type(section).model_fields.items():
            assert f"{option}: {field.description} [default: {getattr(section, option)!r}]" in page
    assert list(inspect.signature(DistillConfig).parameters) == list(DistillConfig.model_fields)
    assert DistillConfig(seed=3).seed == 3


def test_options_in_a_guide_exist(subtests):
    for guide in GUIDES:
        with subtests.test(guide=guide.name):
            named = re.findall(
                rf"(?<![\w/.])(?:--)?({'|'.join(section_names())})\.(\w+)\b(?!/|\.py)", guide.read_text()
            )
            known = {section: type(getattr(DistillConfig(), section)).model_fields for section in section_names()}
            assert [f"{section}.{name}" for section, name in named if name not in {*known[section], "npy"}] == []


def test_links_of_a_guide_lead_to_files_and_headings(subtests):
    for guide in (*GUIDES, *sorted((ROOT / "cluster").rglob("README.md"))):
        with subtests.test(guide=guide.name):
            named = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", guide.read_text())
            targets = [(guide.parent / path if path else guide, heading) for path, heading in named]
            assert [str(path) for path, _ in targets if not path.exists()] == []
            assert [heading for path, heading in targets if heading and heading not in _anchors(path)] == []


def _anchors(page):
    """Return the names that GitHub gives to the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_mistyped_flag_is_answered_with_a_near_one(subtests, capsys):
    cases = [
        (("tune", "digits", "--trials", "3"), "No such option '--trials'. Write --tune.samples."),
        (("tune", "digits", "--n-jobs", "3"), "No such option '--n-jobs'. Write --tune.concurrent."),
        (("tune", "digits", "--sample", "3"), "Did you mean '--tune.samples'?"),
        (("distill", "digits", "--trials", "3"), "No such option '--trials'. (wmdd distill --help"),
        (("distill", "digits", "--recover.itertions", "3"), "Did you mean '--recover.iterations'?"),
    ]
    for words, told in cases:
        with subtests.test(words=words):
            with pytest.raises(SystemExit):
                main(words)
            assert told in capsys.readouterr().err


def test_released_flags_are_answered_with_ours(capsys):
    known = {option for command in cli.commands.values() for param in command.params for option in param.opts}
    assert set(RUN_SH) >= set(RELEASED_FLAGS["run.sh"].split())
    assert set(SCRIPTS) <= {flag for flags in RELEASED_FLAGS.values() for flag in flags.split()}
    for flag, answer in (RUN_SH | SCRIPTS).items():
        assert not answer.startswith("--") or answer.split()[0] in known
        with pytest.raises(SystemExit) as ended:
            main(["distill", "imagenette", flag, "1"])
        assert ended.value.code == 2
        line = capsys.readouterr().err
        where = "run.sh" if flag in RUN_SH else "the released code"
        assert line.startswith(f"wmdd: No such option '{flag}'. For {flag} of {where} write {answer}. (")
        assert line.count("\n") == 1


def _blocks(guide, language):
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", guide.read_text())


def _commands(text):
    """Split a block for the shell into its commands, as lists of words."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        words.whitespace_split = True
        command = []
        for word in words:
            if set(word) <= set(";&|"):
                yield command
                command = []
            else:
                command.append(word)
        yield command


def _check(words):
    """Parse a command of wmdd as the command line does, and check its configuration."""
    command, words = cli, list(words)
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    params = command.make_context(command.name, words).params
    if command.name == "submit":
        _check(params["words"])
    elif isinstance(command, ConfigCommand) and not params.get("resume"):
        file = params["file"] if params["file"] and Path(params["file"]).exists() else None
        if params["file"] and not file and not params["recipe_name"]:
            return  # the recipe is named in the file of a run
        configure(params | {"file": file})


def test_commands_of_a_guide_can_be_pasted(subtests):
    for guide in WITH_COMMANDS:
        with subtests.test(guide=guide.name):
            found = [words for text in _blocks(guide, "sh") for words in _commands(text) if words[:1] == ["wmdd"]]
            for words in found:
                assert "..." not in words
                _check(words[1:])
            assert found


def test_readme_installs_the_command_before_its_use():
    lines = [line for text in _blocks(ROOT / "README.md", "sh") for line in text.splitlines()]
    first = next(number for number, line in enumerate(lines) if line.startswith("wmdd "))
    assert any(line.startswith("source .venv/bin/activate") for line in lines[:first])


def test_python_in_a_guide_imports_what_exists(subtests):
    for guide in GUIDES:
        with subtests.test(guide=guide.name):
            for text in _blocks(guide, "python"):
                for node in ast.walk(ast.parse(text)):
                    if isinstance(node, ast.ImportFrom):
                        module = importlib.import_module(node.module)
                        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def table_of_readme(head):
    """Return the cells of README's table with this beginning of its head, by the name in its first column."""
    part = (ROOT / "README.md").read_text().split(f"\n{head}", 1)[1].split("\n\n", 1)[0]
    rows = re.findall(r"(?m)^\| `([\w-]+)` \|(.*)\|$", part)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def test_readme_has_purpose_and_time_of_every_recipe():
    table = table_of_readme("| recipe | for |")
    assert set(table) == set(recipes())
    times = [re.search(r"\d+ (s|min|h), .*|not measured|simulated", cells[-1]) for cells in table.values()]
    assert all(times)
    assert all(cells[0] for cells in table.values())


def test_readme_has_the_options_of_every_recipe(subtests):
    purposes, table = table_of_readme("| recipe | for |"), table_of_readme("| recipe | start |")
    assert set(table) == set(recipes())
    for name in recipes():
        config, purpose = recipe(name), purposes[name]
        with subtests.test(name):
            assert purpose[1] == str(config.data.image_size)
            assert purpose[3] == str(config.ipc)
            start, weight, bn_weight, crops, steps, students = table[name]
            recover, relabel, evaluate = config.recover, config.relabel, config.evaluate
            assert start == recover.init + {1: "", 0: "; at 1 per class four tiles"}[recover.tiles]
            assert weight == (f"{recover.feature_weight:g}" if recover.feature_weight else "none")
            assert bn_weight == f"{recover.bn_weight:g}" + (
                ", relative" if recover.bn_weight_scale == "relative" else ""
            )
            assert (crops, steps) == (f"{recover.crop_scale[0]:g}", str(recover.iterations))
            training = f"{relabel.epochs} x {relabel.batch_size}, {relabel.bn_mode}"
            assert students.lower() == f"{evaluate.optimizer} {evaluate.lr:g}, {training}"


def test_package_describes_its_public_names():
    assert [name for name in dir(wmdd) if not name.startswith("_")] == sorted(wmdd.__all__)
    page = pydoc.plain(pydoc.render_doc(wmdd))
    assert f"VERSION\n    {wmdd.__version__}\n" in page
    for name in wmdd.__all__:
        assert getattr(wmdd, name).__doc__
        assert re.search(rf"^    (class )?{name}\(", page, re.MULTILINE)
        assert name in wmdd.__doc__


def test_names_in_a_guide_exist(subtests):
    for guide in GUIDES:
        with subtests.test(guide=guide.name):
            text = guide.read_text()
            assert set(re.findall(r"(?m)(?:^|`)wmdd ([a-z]+)", text)) <= {*cli.commands, "is", "distils"}
            assert set(re.findall(r"--protocol ([a-z0-9]+)", text)) <= set(protocols())
            named = {name for names in re.findall(r"--methods ([a-z0-9,-]+)", text) for name in names.split(",")}
            assert named <= set(methods())


def test_every_method_and_protocol_is_in_a_guide():
    text = " ".join(guide.read_text() for guide in GUIDES)
    assert [name for name in (*methods(), *protocols()) if f"{name}" not in text] == []


def _flags_of_rows(text, script):
    """List the flags in the first cells of the first table below the heading that names a script."""
    body = next(body for body in re.split(r"(?m)^## ", text)[1:] if script in body.partition("\n")[0])
    table = re.search(r"(?m)(?:^\|.*\n)+", body.partition("\n")[2])
    cells = [row.split("|")[1] for row in table[0].splitlines()]
    spans = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]
    return [flag for span in spans for flag in re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", span)]


def test_every_flag_of_the_released_code_has_its_row(subtests):
    for script in RELEASED_FLAGS:
        with subtests.test(script=script):
            there = _flags_of_rows(RELEASED_GUIDE.read_text(), script)
            assert [flag for flag in RELEASED_FLAGS[script].split() if there.count(flag) != 1] == []
            together = {flag for name in _in_one_table(script) for flag in RELEASED_FLAGS[name].split()}
            assert set(there) - together == set()


def _in_one_table(script):
    heading = next(
        line for line in RELEASED_GUIDE.read_text().splitlines() if line.startswith("## ") and script in line
    )
    return [name for name in RELEASED_FLAGS if name in heading]
