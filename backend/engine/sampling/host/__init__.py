"""The draw in numpy, for CPUs: the host waits for the logits."""
