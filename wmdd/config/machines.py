"""How workers compute, and how Ray runs them."""

from __future__ import annotations

from typing import Literal

from wmdd.config.base import Count, NonNegative, Positive, Section, option


class RuntimeConfig(Section):
    """How workers compute. Not part of any key: results differ by rounding alone."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto takes a GPU where there is one")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "of networks; losses and moments are fp32 (auto: bf16 where the chip has it)"
    )
    compile: Literal["auto", "on", "graphs", "off"] = option(
        "auto",
        "torch.compile (auto: what takes long; on: recovery and all networks; graphs: on, as CUDA graphs)",
    )
    deterministic: bool = option(
        True, "kernels of GPUs that repeat bit for bit (false: the fastest by timing; rounding varies)"
    )
    threads: Count = option(1, "CPU threads of one worker; fixed, because it changes rounding")
    train_threads: int = option(
        0, "CPU threads of the teacher's training (0: as many as its work keeps busy and are free)", ge=0
    )
    memory_gib: NonNegative = option(2.0, "real images are kept decoded when they fit in this, GiB")
    loaders: int = option(0, "processes that decode images that do not fit (0: none)", ge=0)


class RayConfig(Section):
    """The workers of the Ray executor."""

    address: str | None = option(None, "cluster to join: auto or HOST:6379 (none: a temporary local Ray)")
    actors: int = option(0, "workers (0: as many as fit, also when nodes join)", ge=0)
    cpus_per_actor: Positive = option(1.0, "CPUs that one worker reserves")
    gpus_per_actor: NonNegative = option(1.0, "GPUs that one worker reserves where the cluster has any")
    attempts: Count = option(3, "attempts at a task whose worker dies or hangs")
    silence_s: Positive = option(1800.0, "after this long without a message a task is tried elsewhere, s")
    start_timeout_s: Positive = option(
        45.0, "how long to wait for a worker if no node can hold one, s (raise it if nodes come on demand)"
    )
