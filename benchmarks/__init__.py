"""Benchmarks of `bridges` against its peers: run ``python -m benchmarks`` (``make bench``)."""
