"""The supervised loop that teachers and students share."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wmdd.distributed import ALONE, Ranks
from wmdd.errors import DivergedError
from wmdd.models.registry import load_state
from wmdd.outputs import Pulse
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.storage.artifact import pack, unpack
from wmdd.training.schedules import Rate

Batch = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Epoch:
    """A finished epoch: its number from 1, its mean loss, and top-1 if it was validated."""

    epoch: int
    loss: float
    top1: float | None


@dataclass(frozen=True)
class Steps:
    """Progress within a long epoch: steps done, steps in all, and the mean loss so far."""

    done: int
    total: int
    loss: float

    def __str__(self) -> str:
        return f"step {self.done} of {self.total} of the epoch, loss {self.loss:.3f}"


@dataclass
class Cost:
    """CPU seconds and elapsed seconds of the steps so far in this process, without the loading of batches."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    steps: int = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Add the time of the block as one step."""
        cpu, wall = time.process_time(), time.monotonic()
        yield
        self.cpu_s += time.process_time() - cpu
        self.wall_s += time.monotonic() - wall
        self.steps += 1


@dataclass(eq=False)
class Trainer:
    """Trains a network, alone or with other processes; everything random comes in with the batches.

    Args:
        network: on the runtime's device.
        schedule: learning rate of each step, counted from the start of training; times `lr_scale` in a group of the
            optimiser that has one.
        batches: from an epoch, counted from 0, to its batches (this process's part of each); their first tensor is the
            images.
        loss: from logits and the other tensors of the batch to the mean over the batch, a scalar.
        validate: from the network to top-1 in [0, 1].
        seeds: for layers that draw (dropout), one seed per epoch so that a resumed run draws the same.
        learned: what the loss has to learn, such as a temperature; its parameters are the optimiser's too.
        val_every: epochs between validations; the last epoch is always validated.
        ranks: the processes that train together.
        sizes: images of each batch of an epoch, over all processes; needed if there are several processes.
        draws_together: all processes draw the same numbers, as one alone does, for whole batches that they then cut.
        accumulate: parts of a batch whose gradients are accumulated to the gradient of the whole batch.
        clip_norm: largest norm of the gradient; 0 for no limit.
        ema: decay of the averaged network per update; 0 for none.
        ema_every: steps between these updates.
        keep_best: keep the weights of the validated epoch with the highest top-1 (the first of equals).
        curve: epoch, loss and, if validated, top-1 of every epoch so far.
        best: the kept weights, in the CPU's memory, with their epoch and top-1.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Rate
    batches: Callable[[int], Iterable[Batch]]
    loss: Callable[..., Tensor]
    validate: Callable[[nn.Module], float]
    epochs: int
    steps_per_epoch: int
    runtime: Runtime
    seeds: SeedTree
    learned: nn.Module = field(default_factory=nn.Module)
    val_every: int = 1
    ranks: Ranks = ALONE
    sizes: Sequence[int] = ()
    draws_together: bool = False
    accumulate: int = 1
    clip_norm: float = 0.0
    ema: float = 0.0
    ema_every: int = 1
    keep_best: bool = False
    step: int = field(default=0, init=False)
    epoch: int = field(default=0, init=False)
    curve: list[dict[str, float]] = field(default_factory=list, init=False)
    best: tuple[dict[str, Tensor], dict[str, float]] | None = field(default=None, init=False)
    averaged: AveragedModel | None = field(default=None, init=False)
    cost: Cost = field(default_factory=Cost, init=False)

    def __post_init__(self) -> None:
        # Shared batch-norm exchanges messages within a pass, which is not compiled.
        steps = self.epochs * self.steps_per_epoch
        self._pass = self.network if self.ranks.size > 1 else self.runtime.network(self.network, steps, self.accumulate)
        if self.ema:
            # Buffers too: batch-norm statistics of other weights would not fit the average.
            self.averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(self.ema), use_buffers=True)

    def run(self) -> Iterator[Epoch | Steps]:
        """Train from the current epoch to the last; yield after each, and every `PULSE_S` within one.

        Raises:
            DivergedError: if an epoch's loss is not finite.
        """
        while self.epoch < self.epochs:
            seeds = self.seeds.child("epoch", self.epoch)
            apart = self.ranks.size > 1 and not self.draws_together
            with (seeds.child("rank", self.ranks.rank) if apart else seeds).scoped():
                loss = yield from self._train_epoch()
            self.ranks.average_buffers(self.network)
            self.epoch += 1
            if not math.isfinite(loss):
                raise DivergedError(f"the loss is not finite in epoch {self.epoch}; lower the learning rate")
            due = self.epoch % self.val_every == 0 or self.epoch == self.epochs
            self.curve.append({"epoch": self.epoch, "loss": loss})
            yield Epoch(self.epoch, loss, self._validate() if due else None)

    @property
    def result(self) -> nn.Module:
        """The network that training is for: the averaged one if `ema` is set."""
        return self.network if self.averaged is None else self.averaged.module

    @property
    def score(self) -> float:
        """Top-1 of `result` after the last epoch; of the kept weights if the best are kept."""
        last = self.curve[-1]
        return float(last.get("top1_ema", last["top1"]) if self.best is None else self.best[1]["top1"])

    def _validate(self) -> float:
        top1 = self.curve[-1]["top1"] = self.validate(self.network)
        if self.averaged is not None:
            self.curve[-1]["top1_ema"] = self.validate(self.averaged.module)
        score = self.curve[-1].get("top1_ema", top1)
        if self.keep_best and (self.best is None or score > self.best[1]["top1"]):
            weights = {name: value.detach().to("cpu", copy=True) for name, value in self.result.state_dict().items()}
            self.best = weights, {"epoch": self.epoch, "top1": score}
        return top1

    def _train_epoch(self) -> Generator[Steps, None, float]:
        self.network.train()
        total, count, pulse = torch.zeros((), device=self.runtime.device), 0, Pulse()
        for batch in self.batches(self.epoch):
            with self.cost.counted():
                self._train_step(batch, count, total)
            count += 1
            self.step += 1
            if pulse.is_due():
                yield Steps(count, self.steps_per_epoch, float(total) / count)
        return float(self.ranks.sum(total)) / (self.ranks.size * max(1, count))

    def _train_step(self, batch: Batch, count: int, total: Tensor) -> None:
        """Update the weights with batch number `count` of an epoch, and add its loss to `total`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(self.step) * group.get("lr_scale", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        for part in self._parts(batch, count):
            # Summed on the device: the host would wait for the device at every loss that it reads.
            total += self._backward(part, len(part[0]) / len(batch[0]), count)
        self.ranks.average_gradients(self.network)
        self.ranks.average_gradients(self.learned)
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        self.optimizer.step()
        if self.averaged is not None and self.step % self.ema_every == 0:
            self.averaged.update_parameters(self.network)

    def _parts(self, batch: Batch, count: int) -> list[Batch]:
        """Split this process's part of batch number `count` as the whole batch is split."""
        if self.ranks.size == 1:
            return split_batch(batch, self.accumulate)
        lengths = list(map(len, part_rows(self.sizes[count], self.accumulate, self.ranks)))
        return list(zip(*(tensor.split(lengths) for tensor in batch), strict=True))

    def _backward(self, part: Batch, share: float, count: int) -> Tensor:
        images, *rest = part
        with self.runtime.autocast():
            logits = self._pass(images)
        loss = self.loss(logits, *rest)
        if share < 1:
            loss = loss * share
        if self.ranks.size > 1:
            # The average of the gradients over the processes is to be the gradient of the whole batch's mean, so each
            # part counts by its number of images.
            loss = loss * (len(images) * self.ranks.size / (share * self.sizes[count]))
        loss.backward()
        return loss.detach()

    def snapshot(self) -> bytes:
        """Return weights, optimiser state and position as a safetensors file."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"loss.{name}": tensor for name, tensor in self.learned.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        if self.averaged is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        position = {"epoch": self.epoch, "step": self.step, "curve": self.curve, "threads": torch.get_num_threads()}
        if self.best is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self.best[0].items()}
            position["best"] = self.best[1]
        return pack(tensors, position)

    def resume(self, data: bytes) -> None:
        """Continue from a snapshot."""
        tensors, position = unpack(data)
        load_state(self.network, _below("network.", tensors))
        load_state(self.learned, _below("loss.", tensors))
        if self.averaged is not None:
            load_state(self.averaged, _below("ema.", tensors))
        packed = self.optimizer.state_dict()
        for name, value in _below("optimizer.", tensors).items():
            index, _, entry = name.partition(".")
            packed["state"].setdefault(int(index), {})[entry] = value
        self.optimizer.load_state_dict(packed)
        _lay_out_as_weights(self.optimizer)
        self.epoch, self.step, self.curve = position["epoch"], position["step"], position["curve"]
        self.best = (_below("best.", tensors), position["best"]) if "best" in position else None


def threads_of(snapshot: bytes) -> int | None:
    """Return the number of CPU threads of the training that wrote a snapshot; None in snapshots of older versions."""
    return unpack(snapshot)[1].get("threads")


def _lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Convert loaded state to the memory format of its weights: another layout would run through other kernels."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight).copy_(value)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def split_batch(batch: Batch, count: int) -> list[Batch]:
    """Split a batch into at most `count` parts whose sizes differ by at most one, each of two images or more."""
    return [tuple(tensor[rows.start : rows.stop] for tensor in batch) for rows in part_rows(len(batch[0]), count)]


def part_rows(size: int, count: int, ranks: Ranks = ALONE) -> list[range]:
    """Return the rows of a batch of `size` images that one process has of each part; see `split_batch`."""
    count = max(1, min(count, size // 2))
    edges = [size * number // count for number in range(count + 1)]
    return [range(size)[ranks.part(range(a, b))] for a, b in itertools.pairwise(edges)]
