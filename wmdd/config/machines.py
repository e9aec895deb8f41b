"""How workers compute, and how Ray runs them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wmdd.config.base import Count, NonNegative, Positive, Section


class RuntimeConfig(Section):
    """How workers compute. Not part of any key: results differ by rounding alone."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU where there is one")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of networks; losses and moments are fp32 (auto: bf16 where the chip has it)"
    )
    compile: Literal["auto", "on", "off"] = Field("auto", description="torch.compile of long loops (auto: on GPUs)")
    threads: Count = Field(1, description="CPU threads of one worker; fixed, because it changes rounding")
    train_threads: Annotated[int, Field(ge=0)] = Field(
        0, description="CPU threads of the teacher's training (0: as many as its work keeps busy and are free)"
    )
    memory_gib: NonNegative = Field(2.0, description="real images are kept decoded when they fit in this, GiB")
    loaders: Annotated[int, Field(ge=0)] = Field(
        0, description="processes that decode images that do not fit (0: none)"
    )


class RayConfig(Section):
    """The workers of the Ray executor."""

    address: str | None = Field(None, description="cluster to join: auto or HOST:6379 (none: a temporary local Ray)")
    actors: Annotated[int, Field(ge=0)] = Field(0, description="workers (0: as many as fit, also when nodes join)")
    cpus_per_actor: Positive = Field(1.0, description="CPUs that one worker reserves")
    gpus_per_actor: NonNegative = Field(1.0, description="GPUs that one worker reserves where the cluster has any")
    attempts: Count = Field(3, description="attempts at a task whose worker dies or hangs")
    silence_s: Positive = Field(1800.0, description="after this long without a message a task is tried elsewhere, s")
    start_timeout_s: Positive = Field(
        45.0, description="how long to wait for a worker if no node can hold one, s (raise it if nodes come on demand)"
    )
