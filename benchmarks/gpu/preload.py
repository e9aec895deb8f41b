"""What the processes of the steps share: imported once, by the process that they are forked from.

Nothing here may touch CUDA, which cannot be used in a process that was forked after its first use.
"""

import torch
import torchvision.transforms.v2

import wmdd.api
import wmdd.report.folder
import wmdd.stages
import wmdd.transport

__all__ = ["torch", "torchvision", "wmdd"]
