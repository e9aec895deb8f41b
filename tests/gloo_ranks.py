"""Processes that train together without Ray: a gloo group on this machine."""

import tempfile

import torch
import torch.multiprocessing


def on_ranks(size, function, *arguments):
    """Call function(*arguments) in `size` processes of one group; give what each returned."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_enter, (size, folder, function, arguments), nprocs=size)
        return [torch.load(f"{folder}/{rank}", weights_only=False) for rank in range(size)]


def _enter(rank, size, folder, function, arguments):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    torch.save(function(*arguments), f"{folder}/{rank}")
    torch.distributed.destroy_process_group()
