"""How much of the cluster one worker takes, and how many workers fit."""

from __future__ import annotations

from dataclasses import dataclass

from wmdd.config import RayConfig
from wmdd.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """CPUs and GPUs of one worker, and how many workers there can be."""

    cpus: float
    gpus: float
    workers: int


def share_of(config: RayConfig, total: dict[str, float], *, wants_gpu: bool) -> Share:
    """Size a pool from what the cluster has.

    Args:
        total: Ray's cluster resources.
        wants_gpu: whether workers may use GPUs at all.

    Raises:
        ConfigError: if not even one worker fits, instead of waiting for ever.
    """
    gpus = config.gpus_per_actor if wants_gpu and total.get("GPU", 0) else 0.0
    by_cpu = int(total.get("CPU", 0) / config.cpus_per_actor + 1e-9)
    fit = by_cpu
    if gpus:
        fraction = int(1 / gpus + 1e-9) if gpus <= 1 else 0
        # A fraction never spans GPUs: 0.6 fits once on each.
        by_gpu = int(total["GPU"]) * fraction if fraction else int(total["GPU"] / gpus + 1e-9)
        fit = min(by_cpu, by_gpu)
    if fit < 1:
        has = f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
        raise ConfigError(
            f"ray.cpus_per_actor={config.cpus_per_actor:g}, ray.gpus_per_actor={gpus:g}: no worker fits a cluster of "
            f"{has}; ask for less"
        )
    if config.actors > fit:
        raise ConfigError(f"ray.actors={config.actors}: only {fit} fit the cluster; ask for fewer, or smaller ones")
    return Share(config.cpus_per_actor, gpus, config.actors or fit)
