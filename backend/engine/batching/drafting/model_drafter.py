"""A draft model and the rows that it reads: who guesses together, and what becomes of a fault."""

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import mlx.core as mx

from backend.core.logline import logline
from backend.engine.batching.chunk import Chunk
from backend.engine.batching.drafting.draws import Draws, look_ahead
from backend.engine.batching.drafting.lane import Lane
from backend.engine.batching.drafting.reader import Reader
from backend.engine.batching.kept_drafts import KeptDrafts
from backend.engine.batching.pace import Pace
from backend.engine.batching.row import Row
from backend.engine.batching.scheduler import snapshot_ends
from backend.engine.kv import row_caches
from backend.engine.loading import LoadedModel
from backend.engine.loading.failures import FOREIGN
from backend.engine.waits import drain, wait

# So many unread tokens of a row are read in the pass that its guesses begin with: more than any pass gives.
CATCH_UP = 40

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Guess:
    """What the model drafts for one row: tokens, and its own probability of each."""

    tokens: tuple[int, ...]
    confidences: tuple[float, ...]


@dataclass(slots=True, kw_only=True)
class ModelDrafter:
    """Engine thread only. No answer depends on it, and no failure of it reaches one: it stops, and `fault` says why.

    Whoever calls `read` or `draft` has waited for all that is on the device before, each under the guard of its owner:
    what fails here is the draft model's.

    Args:
        chunk: Tokens of a piece of a prompt at most.
        vocab_size: Of the other model: what is beyond it is no guess.
        per_token: Seconds that it takes to read a token.
        kept: What it has read of other rows, and where it leaves what it reads; None where nothing is kept.
        snapshots: Some layer cannot be cut by token: only what was kept at chosen positions can be begun with.

    Attributes:
        fault: Why it guesses no more; empty while it does.
        read_tokens: Tokens of prompts and answers that were read in pieces.
        cached_tokens: Those that were not read, for they were kept.
    """

    loaded: LoadedModel
    draws: Draws
    pace: Pace
    chunk: int
    vocab_size: int
    clock: Callable[[], float]
    per_token: float = 0.0
    kept: KeptDrafts | None = None
    snapshots: bool = False
    fault: str = ""
    read_tokens: int = 0
    cached_tokens: int = 0
    _readers: dict[int, Reader] = field(default_factory=dict[int, Reader])
    _lanes: list[Lane] = field(default_factory=list[Lane])

    def may_guess(self, row: Row, count: int) -> bool:
        """Whether it can guess the row's next `count` tokens, were it to read what comes before."""
        if self.fault:
            return False
        try:
            reader = self._reader(row)
        except FOREIGN as error:  # a model makes its caches itself
            self._give_up(error)
            return False
        return reader.known + count <= self.loaded.context_length and reader.check()

    def to_read(self, row: Row) -> int:
        """Tokens of the row to be read in pieces before anything is guessed; 0 where it can guess now."""
        reader = self._reader(row)
        unread = reader.known - (self._offered(reader) if reader.untouched else reader.covered)
        if reader.chunk is None and reader.covered and unread <= CATCH_UP and reader.covered >= reader.last_end:
            return 0
        return max(1, unread - 1)

    def seconds_to_read(self, tokens: int) -> float:
        """What that is going to take."""
        return tokens * self.per_token

    def read(self, row: Row) -> float:
        """Read on in the row's tokens, as long as streams can wait; the seconds it took."""
        started, taken = self.clock(), 0.0
        bound = self.pace.bound(streams=True)
        try:
            reader = self._reader(row)
            if reader.caches is None:
                self._take_out(reader)
            if reader.untouched:
                self._begin(reader)
            while taken < bound and self.to_read(row) and self._read_slice(reader, bound - taken):
                taken = self.clock() - started
        except FOREIGN as error:
            self._stop(error)
        return self.clock() - started

    def draft(self, rows: Sequence[Row], count: int) -> dict[int, Guess]:
        """Guess the next `count` tokens of those of the rows that were read, by the row's place in `rows`.

        Rows that are in a lane with them guess along. Waits for the device; empty where it fails.
        """
        try:
            lane = self._lane_of(rows)
            return self._drafted(lane, rows, count) if lane is not None else {}
        except FOREIGN as error:
            self._stop(error)
            return {}

    def leave(self, row: Row) -> None:
        """Keep what was read of a row that ends, or goes for a while."""
        reader = self._readers.get(id(row))
        if reader is not None and self.kept is not None:
            try:
                self._keep(reader)
            except FOREIGN as error:
                self._stop(error)

    def retain(self, rows: Sequence[Row]) -> None:
        """Forget all rows but these; lanes let them go when they next guess, or when nobody else is in them."""
        staying = {id(row) for row in rows}
        if self._readers.keys() <= staying:
            return
        self._readers = {key: reader for key, reader in self._readers.items() if key in staying}
        self._lanes = [lane for lane in self._lanes if any(self._is_known(reader) for reader in lane.readers)]

    def abandon(self) -> None:
        """Forget every row, without a look at what they have."""
        self._readers, self._lanes = {}, []

    def nbytes(self) -> int:
        """Bytes of keys and values here."""
        alone = sum(row_caches.nbytes(reader.caches) for reader in self._readers.values())
        return alone + sum(lane.nbytes() for lane in self._lanes)

    def _reader(self, row: Row) -> Reader:
        reader = self._readers.get(id(row))
        if reader is None:
            caches, vocab_size = self.loaded.new_cache(), self.loaded.vocab_size
            reader = Reader(row, caches, vocab_size=vocab_size, ends=self._ends(row))
            self._readers[id(row)] = reader
        return reader

    def _ends(self, row: Row) -> tuple[int, ...]:
        """Where along the prompt what was read is kept: its end, and where prompts are likely to part."""
        if self.kept is None:
            return ()
        prompt = row.submit.prompt
        n = len(prompt.tokens)
        return (n - 1, *(snapshot_ends(n, prompt.boundaries) if self.snapshots else ()))

    def _offered(self, reader: Reader) -> int:
        if self.kept is not None and reader.looked_up != self.kept.stored:
            reader.looked_up = self.kept.stored
            reader.offered = self.kept.match(reader.tokens(0, reader.known), reader.row.request.tenant)
        return reader.offered

    def _begin(self, reader: Reader) -> None:
        """Have the row begin with what is kept of others, if there is any."""
        if self.kept is None:
            return
        found = self.kept.fetch(reader.tokens(0, reader.known), reader.row.request.tenant)
        reader.offered = 0
        if found is not None:
            reader.caches, reader.covered = found
            self.cached_tokens += reader.covered

    def _keep(self, reader: Reader) -> None:
        """Leave what was read of a row to those to come."""
        if self.kept is None:
            return
        caches = reader.caches
        if reader.chunk is not None:
            caches = reader.chunk.before()
        elif caches is None:
            lane = next((lane for lane in self._lanes if reader in lane.readers), None)
            caches = None if lane is None else lane.view(reader)
        if caches is not None:
            self.kept.keep(reader.row, reader.tokens(0, reader.covered), caches)

    def _is_known(self, reader: Reader) -> bool:
        return self._readers.get(id(reader.row)) is reader

    def _read_slice(self, reader: Reader, seconds: float) -> bool:
        """Run the next layers of the next piece; whether there was anything to run."""
        chunk = reader.chunk
        if chunk is None:
            tokens = reader.next(self.chunk)
            if not len(tokens):
                return False
            assert reader.caches is not None
            chunk = reader.chunk = Chunk(
                self.loaded.model, reader.caches, tokens, cuttable=self.kept is not None and not self.snapshots
            )
        before, started = chunk.computed, self.clock()
        layers = self.pace.layers(chunk.tokens, seconds, left=chunk.layers - before)
        chunk.put(max(1, layers))
        chunk.wait()
        took = self.clock() - started
        if chunk.computed > 1:
            self.pace.took(chunk.tokens, chunk.computed - max(1, before), took)
            per_token = took * chunk.layers / (chunk.computed - before) / chunk.tokens
            self.per_token = 0.5 * ((self.per_token or per_token) + per_token)
        if chunk.done:
            reader.covered += chunk.tokens
            self.read_tokens += chunk.tokens
            reader.chunk = None
            if reader.covered in reader.ends:
                self._keep(reader)
        return True

    def _lane_of(self, rows: Sequence[Row]) -> Lane | None:
        """The lane of those of these rows that can guess now, and of nobody else; None where none can."""
        ready = [self._reader(row) for row in rows if self.may_guess(row, 1) and not self.to_read(row)]
        # Nothing has come since it last guessed.
        ready = [reader for reader in ready if reader.known > reader.covered]
        if not ready:
            return None
        best = max(self._lanes, key=lambda lane: sum(reader in ready for reader in lane.readers), default=None)
        if best is None or not any(reader in ready for reader in best.readers):
            best = Lane(self.loaded.model)
            self._lanes.append(best)
        for reader in ready:
            if reader not in best.readers and reader.caches is None:
                self._take_out(reader)
        staying = [reader for reader in best.readers if reader not in ready and self._is_known(reader)]
        if staying:
            best.leave(staying, keeping=True)
        if gone := [reader for reader in best.readers if reader not in ready]:
            best.leave(gone, keeping=False)
        if joining := [reader for reader in ready if reader not in best.readers]:
            best.join(joining)
        return best

    def _take_out(self, reader: Reader) -> None:
        """Give the row caches of its own."""
        for lane in [lane for lane in self._lanes if reader in lane.readers]:
            lane.leave([reader], keeping=True)
        self._lanes = [lane for lane in self._lanes if lane.readers]

    def _drafted(self, lane: Lane, rows: Sequence[Row], count: int) -> dict[int, Guess]:
        samplings = [look_ahead(reader.row.sampling) for reader in lane.readers]
        drafts = lane.draft(count, lambda logits: self.draws(logits, samplings))
        wait(drafts.tokens, drafts.confidences, lane.arrays())
        tokens = cast("list[list[int]]", drafts.tokens.tolist())
        confidences = cast("list[list[float]]", drafts.confidences.tolist())
        lane.fed(tokens)
        place = {id(row): index for index, row in enumerate(rows)}
        guesses: dict[int, Guess] = {}
        for reader, drafted, sure in zip(lane.readers, tokens, confidences, strict=True):
            n = next((i for i, token in enumerate(drafted) if token >= self.vocab_size), count)
            guesses[place[id(reader.row)]] = Guess(tuple(drafted[:n]), tuple(sure[:n]))
        return guesses

    def _stop(self, error: BaseException) -> None:
        """It failed at work, which may be on the device yet."""
        drain()
        self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        """It failed: rows go on without it, as exactly as with it. What others have on the device is left alone."""
        self.abandon()
        if self.kept is not None:
            self.kept.forget()
        self.fault = f"stopped: its model failed ({type(error).__name__})"
        log.error(logline("draft_model_stopped", path=self.loaded.path, error=type(error).__name__))
        log.debug("draft_model", exc_info=error)
        mx.clear_cache()
        # An exception inside a compiled function can leave this thread's random state broken.
        mx.random.seed(secrets.randbits(32))
