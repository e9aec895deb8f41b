"""What to write for the flags of the released code's ``run.sh``, for those whose fingers know them."""

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


def hint(error: click.ClickException) -> str:
    """Give what stands for an unknown flag here, or an empty text."""
    option = error.option_name if isinstance(error, click.NoSuchOption) else ""
    return f" For {option} of run.sh write {RUN_SH[option]}." if option in RUN_SH else ""
