"""Processes that train together without Ray: a gloo group on this machine."""

import tempfile

import torch
import torch.multiprocessing


def on_ranks(size, function, *arguments):
    """Call function(*arguments) in `size` processes of one group; give what each returned."""
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wmdd.commands.distill", "torch._dynamo"])  # imported once for all ranks
    with tempfile.TemporaryDirectory() as folder:
        results, received = context.SimpleQueue(), context.Event()
        given = (size, folder, results, received, function, arguments)
        group = torch.multiprocessing.start_processes(_enter, given, size, join=False, start_method="forkserver")
        found = {}
        while not group.join(timeout=0.1) or not results.empty():
            while not results.empty():
                rank, result = results.get()
                found[rank] = result
            if len(found) == size:
                received.set()
    return [found[rank] for rank in range(size)]


def _enter(rank, size, folder, results, received, function, arguments):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    results.put((rank, function(*arguments)))
    received.wait()  # a tensor that is sent lives in the memory of its sender until it is read
    torch.distributed.destroy_process_group()
