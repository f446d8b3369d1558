"""The text that tiny-chat learns from, written for it: generators of short, seeded examples."""

from corpus.mixture import draw_example

__all__ = ["draw_example"]
