"""Drawing the next token of every row of a batch in one call, each row by its own settings and seed.

A row's token depends on that row's logits, settings, seed and step, and on nothing of its batch mates.
`host` (numpy) is for CPUs, where it wins; `device` (lazy MLX) for GPUs, where a host call would wait for the step.
"""
