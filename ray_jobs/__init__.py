"""The same stage functions on Ray actors. The only package that uses ray.remote."""

from wmdd.cpus import set_environment

set_environment()  # a worker imports this package before it imports torch
