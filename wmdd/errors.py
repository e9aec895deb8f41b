"""The errors that wmdd raises on purpose; anything else that escapes is a bug."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 5  # units, or causes, in one line


class WmddError(Exception):
    """Base of every error whose message is written for a user."""


class ConfigError(WmddError):
    """A configuration that cannot work: the message names option, value and remedy. Exit status 2.

    Args:
        mistakes: of several options, which the message joins: name, value as text (or none) and what is wrong.
    """

    def __init__(self, message: str = "", mistakes: Sequence[tuple[str, str, str]] = ()) -> None:
        super().__init__(message)
        self.mistakes = tuple(mistakes)


class DataError(WmddError):
    """Real images that cannot be used: a missing folder, an empty class, a broken file. Exit status 2."""


class ChangedError(DataError):
    """An image that is no longer the one that was indexed; the next run of its set makes the index again."""


class ArtifactError(WmddError):
    """A stored artifact that is missing, damaged or of another schema."""


class StorageError(ArtifactError):
    """A store or run folder that cannot be read or written: full, forbidden, or away for longer than the tries."""


class DivergedError(WmddError):
    """A loss that became non-finite; names the step. Never clipped away."""


class StageError(WmddError):
    """A unit of a stage that failed on a worker.

    Args:
        stage: name of the stage, such as ``recover``.
        unit: name of the unit or group, such as ``class-0003``.
        cause: what went wrong, in one line.
        passing: whether it may pass on another worker (a full disk or a broken GPU may, a diverged loss will not).
    """

    def __init__(self, stage: str, unit: str, cause: str, passing: bool = False) -> None:
        super().__init__(stage, unit, cause, passing)
        self.stage, self.unit, self.cause, self.passing = stage, unit, cause, passing

    def __str__(self) -> str:
        return f"{self.stage} of {self.unit} failed: {self.cause}"

    @staticmethod
    def of(failures: Sequence[StageError]) -> StageError:
        """Return one error for the failures of a task: it names the first units and their causes."""
        if len(failures) == 1:
            return failures[0]
        units = ", ".join(error.unit for error in failures[:SHOWN])
        units += f" and {len(failures) - SHOWN} more" if len(failures) > SHOWN else ""
        causes = list(dict.fromkeys(error.cause for error in failures))
        cause = "; ".join(causes[:SHOWN]) + ("; ..." if len(causes) > SHOWN else "")
        return StageError(failures[0].stage, units, cause, any(error.passing for error in failures))
