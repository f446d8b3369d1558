"""From which length on a model treats its earlier tokens differently, as far as its configuration tells."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reach:
    """Positions beyond which a row is another case than before; 0 where there is none.

    Attributes:
        window: The longest sliding window or chunk.
        selection: Tokens that sparse attention may look at; with more, it chooses among them.
    """

    window: int = 0
    selection: int = 0


NO_REACH = Reach()


def reach_of(config: Mapping[str, Any]) -> Reach:
    """The reach of a config.json. Names differ by architecture, so they are taken by what they have in common."""
    window = selection = 0
    for scope in _scopes(config):
        numbers = {name: value for name, value in scope.items() if type(value) is int and value > 0}
        window = max([window, *(value for name, value in numbers.items() if _is_window(name))])
        chosen = max((value for name, value in numbers.items() if _is_selection(name)), default=0)
        block = max((value for name, value in numbers.items() if name.endswith("block_size")), default=1)
        selection = max(selection, chosen * block)
    return Reach(window, selection)


def _scopes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield config
    for value in config.values():
        if isinstance(value, Mapping):
            yield from _scopes(value)


def _is_window(name: str) -> bool:
    return "window" in name or name == "attention_chunk_size"


def _is_selection(name: str) -> bool:
    # Not the experts' `topk`: `index_topk`, `sparse_topk_blocks`, `blocksparse_num_local_blocks` and the like.
    return ("topk" in name or "local_block" in name) and any(word in name for word in ("index", "sparse", "block"))
