"""The engine of rank 0, as the event loop sees it: it ends when another rank does, and the others with it."""

from functools import partial
from typing import TYPE_CHECKING, Any

from backend.core.errors import WorkerUnavailable
from backend.engine.handle import CLOSE_SECONDS, EngineHandle
from backend.engine.ranks.leader import Leader
from backend.engine.ranks.world import World

if TYPE_CHECKING:
    from backend.engine.loading import LoadedModel


class RankedHandle(EngineHandle):
    """Event loop only."""

    def __init__(self, world: World, *, blas: str = "auto") -> None:
        self._leader = Leader(world, lambda reason: self._crossing.wake(partial(self._lost, reason)))
        self._loader: Any = None
        super().__init__(blas=blas, load=self._load_on_ranks)

    def start(self) -> None:
        """As EngineHandle; the other ranks may come from here on."""
        try:
            self._leader.arrivals.open()
        except OSError as error:
            host, port = self._leader.world.control
            self._lost(f"no rank can come to {host}:{port}: {error}")
        super().start()

    async def close(self, *, within_s: float = CLOSE_SECONDS) -> None:
        """As EngineHandle; the other ranks end too."""
        await super().close(within_s=within_s)
        self._leader.end("rank 0 has stopped")

    def _load_on_ranks(self, *arguments: Any, **options: Any) -> "LoadedModel":
        if self._loader is None:
            from backend.engine.ranks.loading import RankLoader  # imports MLX

            self._loader = RankLoader(self._leader)
        return self._loader.load(*arguments, **options)

    def _lost(self, reason: str) -> None:
        self._life.lose(reason)
        self._loads.cancel(WorkerUnavailable(reason))
