"""What to write in place of flags of the released code, and of other programs for searches."""

from __future__ import annotations

import difflib

import click

from wmdd.config.base import FORMER
from wmdd.text import one_line

RUN_SH = {
    "-p": "nothing: a teacher is trained unless the store has it",
    "-x": "--run URL",
    "-y": "nothing: a teacher is found by what it was made from",
    "-d": "RECIPE",
    "-r": "--data.path",
    "-m": "--pretrain.model",
    "-e": "--evaluate.students",
    "-i": "--recover.iterations",
    "-z": "--relabel.epochs",
    "-c": "--ipc",
    "-b": "--recover.bn_weight",
    "-a": "--recover.lr",
    "-t": "--recover.ce_weight",
    "-w": "--recover.feature_weight",
    "-n": "--recover.bn_target",
    "-A": "--recover.curriculum",
    "-g": "--debug",
    "-u": "nothing: all GPUs are used, or those of CUDA_VISIBLE_DEVICES",
}
# Of the scripts, those that mean one thing in all of them.
SCRIPTS = {
    "--real-data-path": "--data.path",
    "--data-path": "--data.path",
    "--dataset": "RECIPE",
    "--exp-name": "--run URL",
    "--output-dir": "--run URL",
    "--iteration": "--recover.iterations",
    "--jitter": "--recover.roll_px",
    "--wb": "--recover.feature_weight",
    "--weight-wb": "--barycenter.mass",
    "--per-class-bn": "--recover.bn_target",
    "--r-bn": "--recover.bn_weight",
    "--r-wb": "--recover.ce_weight",
    "--first-bn-multiplier": "--recover.first_bn_multiplier",
    "--tv-l2": "--recover.tv_weight",
    "--l2-scale": "--recover.l2_weight",
    "--cda": "--recover.curriculum",
    "--easy2hard-mode": "--recover.curriculum",
    "--milestone": "--recover.curriculum_share",
    "--ckpt-path": "--pretrain.checkpoint",
    "--mix-type": "--relabel.mix",
    "--min-scale-crops": "--relabel.crop_scale",
    "--max-scale-crops": "--relabel.crop_scale",
    "--cos": "--evaluate.schedule",
    "--sgd": "--evaluate.optimizer",
    "--adamw-lr": "--evaluate.lr",
    "--adamw-weight-decay": "--evaluate.weight_decay",
    "-T": "--evaluate.temperature",
    "--temperature": "--evaluate.temperature",
    "--gradient-accumulation-steps": "--evaluate.accumulate",
    "--label-smoothing": "--pretrain.label_smoothing",
    "--auto-augment": "--pretrain.augment",
    "--random-erase": "--pretrain.erase",
    "--ra-reps": "--pretrain.repeated_augmentation",
    "--model-ema": "--pretrain.ema",
    "--clip-grad-norm": "--pretrain.clip_norm",
    "--sync-bn": "--pretrain.sync_bn",
    "--amp": "--runtime.precision",
}
# What other programs call the options of a search.
SEARCH = dict.fromkeys(("--trials", "--n-trials", "--num-trials", "--num-samples", "--max-trials"), "--tune.samples")
SEARCH |= dict.fromkeys(("--n-jobs", "--max-concurrent"), "--tune.concurrent")
SEARCH |= dict.fromkeys(("--sampler", "--search-alg"), "--tune.searcher")
SEARCH |= dict.fromkeys(("--param", "--search-space"), "FIELD=DOMAIN, without an option")
_FORMER = FORMER | {"seeds": "is --num-students now"}


def answer(error: click.ClickException) -> str | None:
    """Return what to write in place of an unknown flag; None for other errors."""
    if not isinstance(error, click.NoSuchOption):
        return None
    option = error.option_name
    if error.ctx is not None and error.ctx.info_name == "tune" and option in SEARCH:
        return f"No such option '{option}'. Write {SEARCH[option]}."
    if former := _FORMER.get(option.removeprefix("--")):
        return f"No such option '{option}'. It {former}."
    here = RUN_SH.get(option) or SCRIPTS.get(option)
    where = "run.sh" if option in RUN_SH else "the released code"
    if here:
        return f"No such option '{option}'. For {option} of {where} write {here}."
    # A section's name makes options alike that are not: of --tune.final only the last part is compared.
    near = [name for name in error.possibilities or () if _alike(option, name)]
    return one_line(click.NoSuchOption(option, possibilities=near).format_message())


def _alike(given: str, option: str) -> bool:
    given, option = (name.lstrip("-").rpartition(".")[2] for name in (given, option))
    return bool(difflib.get_close_matches(given, [option], cutoff=0.6))
