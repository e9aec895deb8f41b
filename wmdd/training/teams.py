"""The number of workers that an option asks for, and the processes that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wmdd.errors import ConfigError

if TYPE_CHECKING:
    from wmdd.distributed import Ranks


def ranks_of(option: str, workers: int) -> Ranks:
    """Return the rank of this process among those that train a network together.

    Args:
        option: dotted name of the option that asks for `workers`, for messages.

    Raises:
        ConfigError: if not that number of processes train.
    """
    from wmdd.distributed import ALONE, Ranks  # torch takes a second to import, and plans need `check_alone` alone

    if workers == 1:
        return ALONE
    ranks = Ranks.here()
    if ranks.size == 1:
        check_alone(option, workers)
    if ranks.size != workers:
        raise ConfigError(f"{option}={workers}: {ranks.size} processes train; start as many as asked")
    return ranks


def check_alone(option: str, workers: int) -> None:
    """Raise ConfigError, with the executor that can, for one process that is to train as several."""
    if workers > 1:
        raise ConfigError(
            f"{option}={workers}: one process cannot train as several; use --executor ray, or set {option} to 1"
        )
