"""A load of several ranks, as one of them sees it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Sharding(Protocol):
    """What several ranks that load one model do together. Each asks and answers in the same order."""

    def divide(self, model: Any, settings: Mapping[str, Any]) -> None:
        """Leave this rank's shard of a model whose weights are not read yet."""
        ...

    def ready(self, kinds: Sequence[str]) -> None:
        """Wait until all ranks have their weights; raises ModelLoadFailed where one has not.

        Args:
            kinds: The classes of this rank's layer caches. On unlike ones the trial would take unlike passes.
        """
        ...

    def cancelled(self) -> bool:
        """Whether the load ends here, on all ranks; asked before each pass."""
        ...
