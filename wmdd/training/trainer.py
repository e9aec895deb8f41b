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

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Schedule:
    """Learning rate of each step after a linear warm-up: a cosine, a line to 0, or steps down.

    Args:
        lr: peak.
        steps: steps of the whole training.
        warmup: first steps, in which the rate rises linearly.
        stretch: the cosine would reach its end after `steps` times this.
        end: the rate there.
        line: in place of the cosine.
        halved_at: shares of the steps at which the rate is halved, in place of the cosine.
        drop_every: steps between falls by `gamma`, in place of the cosine; 0 for none.
        tail_from: share of the steps from which the rate is the cosine's there, times the share that is left of all.
    """

    lr: float
    steps: int
    warmup: int = 0
    stretch: float = 1.0
    halved_at: tuple[float, ...] = ()
    tail_from: float = 1.0
    end: float = 0.0
    line: bool = False
    drop_every: int = 0
    gamma: float = 1.0

    def at(self, step: int) -> float:
        """Give the learning rate of a step."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        part = (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.halved_at:
            return self.lr * 0.5 ** sum(part >= share for share in self.halved_at)
        if self.drop_every:
            return float(self.lr * self.gamma ** ((step - self.warmup) // self.drop_every))
        if self.line:
            return self.lr * (1 - part)
        left = 1 - part if part > self.tail_from else 1.0
        cosine = 1 + math.cos(math.pi * min(part, self.tail_from) / self.stretch)
        return self.end + (self.lr - self.end) * left * 0.5 * cosine


@dataclass(frozen=True, eq=False)
class Epoch:
    """What one epoch gave: mean loss, and top-1 where it was validated."""

    epoch: int
    loss: float
    top1: float | None


@dataclass(frozen=True)
class Steps:
    """How far an epoch that takes long has come: steps of so many, and the mean loss until then."""

    done: int
    total: int
    loss: float

    def __str__(self) -> str:
        return f"step {self.done} of {self.total} of the epoch, loss {self.loss:.3f}"


@dataclass
class Cost:
    """What the steps so far took of this process, without the making of their batches: seconds of CPUs, and elapsed."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    steps: int = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count what runs inside as one step."""
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
        batches: gives an epoch's batches (this process's part of each); their first tensor is the input images.
        loss: from logits and the rest of the batch to a scalar, the mean over the batch.
        validate: from the network to top-1.
        seeds: of what draws inside the network (dropout), apart for each epoch so that a resumed run draws the same.
        curve: epoch, loss and, where validated, top-1 of every epoch so far.
        val_every: epochs between validations; the last epoch always counts.
        ranks: the processes that train together.
        sizes: images of each batch of an epoch, over all processes; needed where there are several.
        accumulate: parts of a batch whose gradients are added up, weighted so that the sum is the whole batch's.
        clip_norm: longest gradient; 0 for any.
        ema: decay for each update of the averaged network; 0 for none.
        ema_every: steps between these updates.
        keep_best: remember the weights of the validated epoch with the highest top-1 (the first of equals).
        best: those weights, in the CPU's memory, with their epoch and top-1.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    batches: Callable[[int], Iterable[Batch]]
    loss: Callable[..., Tensor]
    validate: Callable[[nn.Module], float]
    epochs: int
    runtime: Runtime
    seeds: SeedTree
    val_every: int = 1
    ranks: Ranks = ALONE
    sizes: Sequence[int] = ()
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
        if self.ema:
            # Buffers too: batch-norm statistics of other weights would not fit the average.
            self.averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(self.ema), use_buffers=True)

    def run(self) -> Iterator[Epoch | Steps]:
        """Train from the current epoch to the last; yield after each, and now and then within one.

        Raises:
            DivergedError: if an epoch's loss is not finite.
        """
        while self.epoch < self.epochs:
            seeds = self.seeds.child("epoch", self.epoch)
            with (seeds.child("rank", self.ranks.rank) if self.ranks.size > 1 else seeds).scoped():
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
        """The network that training is for: the average where there is one."""
        return self.network if self.averaged is None else self.averaged.module

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
                yield Steps(count, self.schedule.steps // self.epochs, float(total) / count)
        return float(self.ranks.sum(total)) / (self.ranks.size * max(1, count))

    def _train_step(self, batch: Batch, count: int, total: Tensor) -> None:
        """Update the weights with an epoch's batch of this number, and add its loss to the total."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.at(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        for part in cut(batch, self.accumulate):
            # Summed on the device: reading each loss would make the host wait at every step.
            total += self._backward(part, len(part[0]) / len(batch[0]), count)
        self.ranks.average_gradients(self.network)
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        self.optimizer.step()
        if self.averaged is not None and self.step % self.ema_every == 0:
            self.averaged.update_parameters(self.network)

    def _backward(self, part: Batch, share: float, count: int) -> Tensor:
        images, *rest = part
        with self.runtime.autocast():
            logits = self.network(images)
        loss = self.loss(logits, *rest)
        if share < 1:
            loss = loss * share
        if self.ranks.size > 1:
            # Gradients are averaged over the processes: a part counts by its images, so that the average is the
            # gradient of the whole batch's mean.
            loss = loss * (len(images) * self.ranks.size / (share * self.sizes[count]))
        loss.backward()
        return loss.detach()

    def snapshot(self) -> bytes:
        """Write weights, optimiser state and position as safetensors."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        if self.averaged is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        place = {"epoch": self.epoch, "step": self.step, "curve": self.curve, "threads": torch.get_num_threads()}
        if self.best is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self.best[0].items()}
            place["best"] = self.best[1]
        return pack(tensors, place)

    def resume(self, data: bytes) -> None:
        """Go on where a snapshot was taken."""
        tensors, place = unpack(data)
        load_state(self.network, _below("network.", tensors))
        if self.averaged is not None:
            load_state(self.averaged, _below("ema.", tensors))
        packed = self.optimizer.state_dict()
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, entry = name.split(".", 2)
                packed["state"].setdefault(int(index), {})[entry] = value
        self.optimizer.load_state_dict(packed)
        _lay_out_as_weights(self.optimizer)
        self.epoch, self.step, self.curve = place["epoch"], place["step"], place["curve"]
        self.best = (_below("best.", tensors), place["best"]) if "best" in place else None


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


def cut(batch: Batch, count: int) -> list[Batch]:
    """Cut a batch into parts that differ by one image at most, each of two or more where there are as many."""
    size = len(batch[0])
    count = max(1, min(count, size // 2))
    if count == 1:
        return [batch]
    edges = [size * place // count for place in range(count + 1)]
    return [tuple(tensor[a:b] for tensor in batch) for a, b in itertools.pairwise(edges)]


def weight_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split parameters so that only weights of two or more dimensions decay (norms and biases do not)."""
    decayed = [weight for weight in network.parameters() if weight.ndim >= 2]
    free = [weight for weight in network.parameters() if weight.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def decay_groups(
    network: nn.Module, weight_decay: float, of_norms: float | None, of_biases: float | None, free: float
) -> list[dict[str, object]]:
    """Split parameters so that normalisation layers and other layers' biases decay by shares of their own.

    Args:
        of_norms, of_biases: None takes `free`.
    """
    kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    norms = [p for m in network.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False)]
    inside = {id(parameter) for parameter in norms}
    others = [(name, p) for name, p in network.named_parameters() if id(p) not in inside]
    biases = [p for name, p in others if name.rpartition(".")[2] == "bias"]
    weights = [p for name, p in others if name.rpartition(".")[2] != "bias"]
    decays = (weight_decay, free if of_norms is None else of_norms, free if of_biases is None else of_biases)
    return [
        {"params": params, "weight_decay": decay}
        for params, decay in zip((weights, norms, biases), decays, strict=True)
        if params
    ]


@torch.no_grad()
def answers(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], runtime: Runtime
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what a network names the images of (images, labels) batches, and their labels, all on the device."""
    network.eval()
    for images, labels in batches:
        with runtime.autocast():
            logits = network(images)
        yield logits.argmax(dim=1), labels


def top1_accuracy(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], runtime: Runtime, ranks: Ranks = ALONE
) -> float:
    """Share of (images, labels) batches that a network names right; every image of every process counts once."""
    right, count = torch.zeros((), dtype=torch.int64, device=runtime.device), 0
    for named, labels in answers(network, batches, runtime):
        right += (named == labels).sum()
        count += len(labels)
    rights, counts = ranks.sum(torch.stack([right, torch.full_like(right, count)])).tolist()
    return int(rights) / int(counts)
