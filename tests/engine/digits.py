"""The recipe "digits" with options changed."""

from wmdd.config.distill import override
from wmdd.config.recipes import recipe


def changed(**options):
    return override(recipe("digits"), {name.replace("__", "."): value for name, value in options.items()})
