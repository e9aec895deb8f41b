"""Ray: the same stage functions on actors. The only package that uses ray.remote."""
