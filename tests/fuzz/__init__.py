"""Inputs that are changed at random, towards code that none has reached: `python -m tests.fuzz`."""
