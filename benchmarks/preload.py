"""What the processes of the steps share: imported once, by the process that they are forked from.

Nothing here may touch CUDA, which cannot be used in a process that was forked after its first use: so not
torch._inductor, which looks for a GPU when it is imported (torch 2.11).
"""

# ruff: noqa: E402, F401
import os

# POT imports every array library that it finds, and some of them look for a GPU.
for library in ("JAX", "CUPY", "TENSORFLOW"):
    os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")

import torch._dynamo
import torchvision.transforms.v2

import wmdd.commands.distill
import wmdd.method.barycenter
import wmdd.report.folder
import wmdd.stages.evaluate
import wmdd.stages.pretrain
import wmdd.stages.recover
import wmdd.stages.relabel
import wmdd.stages.select
import wmdd.stages.statistics
