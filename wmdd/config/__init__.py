"""What a run is: its options in sections, how they are checked, and the recipes, methods and protocols."""

from wmdd.config.distill import DistillConfig, from_yaml, override, to_yaml
from wmdd.config.methods import methods
from wmdd.config.protocols import protocols
from wmdd.config.recipes import recipe, recipes
from wmdd.config.resolve import ConfigFile, resolve, with_method, with_protocol

__all__ = [
    "ConfigFile",
    "DistillConfig",
    "from_yaml",
    "methods",
    "override",
    "protocols",
    "recipe",
    "recipes",
    "resolve",
    "to_yaml",
    "with_method",
    "with_protocol",
]
