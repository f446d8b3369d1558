"""What the README states, measured: each module runs alone with `python -m benchmarks.NAME`."""
