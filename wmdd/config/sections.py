"""The sections of a run's configuration, one for each stage: every option with its default, range and meaning.

Defaults are the published method's values; `wmdd.config.recipes` holds complete configurations for named data sets.
Every field says in one line what it means; the command line prints these lines as its help.
"""

from wmdd.config.base import (
    SMALL_BELOW_PX,
    Augment,
    Count,
    Fraction,
    Method,
    NonNegative,
    Positive,
    Protocol,
    Scale,
    Section,
    Stem,
    Subset,
)
from wmdd.config.machines import RayConfig, RuntimeConfig
from wmdd.config.recovery import BarycenterConfig, RecoverConfig, StatisticsConfig
from wmdd.config.students import EvaluateConfig, RelabelConfig
from wmdd.config.teacher import DataConfig, PretrainConfig

__all__ = [
    "SMALL_BELOW_PX",
    "Augment",
    "BarycenterConfig",
    "Count",
    "DataConfig",
    "EvaluateConfig",
    "Fraction",
    "Method",
    "NonNegative",
    "Positive",
    "PretrainConfig",
    "Protocol",
    "RayConfig",
    "RecoverConfig",
    "RelabelConfig",
    "RuntimeConfig",
    "Scale",
    "Section",
    "StatisticsConfig",
    "Stem",
    "Subset",
]
