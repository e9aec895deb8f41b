"""What to write for the flags of the released code, for those whose fingers know them."""

from __future__ import annotations

import click

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
    "--weight-wb": "--barycenter.weights",
    "--per-class-bn": "--recover.bn_target",
    "--r-bn": "--recover.bn_weight",
    "--r-wb": "--recover.ce_weight",
    "--first-bn-multiplier": "--recover.first_bn_multiplier",
    "--tv-l2": "--recover.tv_weight",
    "--l2-scale": "--recover.l2_weight",
    "--cda": "--recover.curriculum",
    "--easy2hard-mode": "--recover.curriculum",
    "--milestone": "--recover.curriculum_share",
    "--ckpt-path": "--pretrain.weights",
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
    "--ra-reps": "--pretrain.repeats",
    "--model-ema": "--pretrain.ema",
    "--clip-grad-norm": "--pretrain.clip_norm",
    "--sync-bn": "--pretrain.sync_bn",
    "--amp": "--runtime.precision",
}


def answer(error: click.ClickException) -> str | None:
    """Answer an unknown flag that the released code has, or give None."""
    option = error.option_name if isinstance(error, click.NoSuchOption) else ""
    here = RUN_SH.get(option) or SCRIPTS.get(option)
    where = "run.sh" if option in RUN_SH else "the released code"
    return here and f"No such option '{option}'. For {option} of {where} write {here}."
