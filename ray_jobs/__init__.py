"""The same stage functions on Ray actors. The only package that uses ray.remote."""

from wmdd.cpus import wait_passively

wait_passively()  # a worker imports this package before it imports torch
