"""Clients that ask, leave, wait too short, read slowly, vanish, and send what is no request."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from backend.pb import backend_pb2 as pb
from backend.pb import backend_pb2_grpc as rpc
from tests.e2e.asking import Answer, read, read_whole
from tests.e2e.worker import CHANNEL_OPTIONS
from tests.soak.corpus import Asked, Corpus
from tests.soak.hardship import Hardship

TENANTS = ("", "", "one", "two")
# Of a request that another load or a Free ended, or that came for a model that is no longer there.
DISPLACED = {grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}
BAD: tuple[pb.PredictOptions, ...] = (
    pb.PredictOptions(Prompt="x", Tokens=4, Temperature=-1.0),
    pb.PredictOptions(Prompt="x", Tokens=4, LogitBias="{"),
    pb.PredictOptions(Prompt="x", Tokens=4, Grammar="root ::= ("),
    pb.PredictOptions(Prompt="x", Tokens=4, TopP=7.0),
    pb.PredictOptions(
        UseTokenizerTemplate=True, Messages=[pb.Message(role="nobody", content="x")], Tools="[", Tokens=4
    ),
    pb.PredictOptions(Prompt="word " * 200_000, Tokens=4),
)
LONGEST_SECONDS = 120.0
EXHAUSTED, INTERNAL = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL


@dataclass(slots=True)
class Seen:
    """What all clients saw."""

    ends: Counter[str] = field(default_factory=Counter[str])
    checked: int = 0
    tokens: int = 0
    cached: int = 0
    guessed: int = 0
    wrong: list[str] = field(default_factory=list[str])
    slowest_health: float = 0.0
    refused_in_a_crowd: int = 0
    hit_by_a_fault: list[str] = field(default_factory=list[str])

    def note(self, what: str) -> None:
        """Something that must not be."""
        self.wrong.append(what[:400])


class Clients:
    """So many at once, each on a channel of its own, until told to stop. Event loop only."""

    def __init__(self, address: str, seen: Seen, count: int, seed: int, orders: Path) -> None:
        self._address, self._seen, self._count, self._seed = address, seen, count, seed
        self._corpus: Corpus | None = None
        self._over = False
        self.hardship = Hardship(address, orders, self._judge, seed)

    @property
    def corpus(self) -> Corpus | None:
        """Of the model that is loaded; None while another is coming."""
        return self._corpus

    @corpus.setter
    def corpus(self, corpus: Corpus | None) -> None:
        self._corpus = self.hardship.corpus = corpus

    def stop(self) -> None:
        """Let each finish what it is at."""
        self._over = True

    async def run(self) -> None:
        """Ask until stopped."""
        hardship = asyncio.create_task(self.hardship.run())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_health())
            for number in range(self._count):
                group.create_task(self._client(number))
        self.hardship.stop()
        await hardship

    def _channel(self) -> grpc.aio.Channel:
        # Channels to one address share their connection unless told otherwise: those that vanish would vanish together.
        return grpc.aio.insecure_channel(
            self._address, options=(*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        )

    async def _ask_health(self) -> None:
        async with self._channel() as channel:
            stub = rpc.BackendStub(channel)
            while not self._over:
                started = time.perf_counter()
                reply = await stub.Health(pb.HealthMessage(), timeout=30)
                self._seen.slowest_health = max(self._seen.slowest_health, time.perf_counter() - started)
                if reply.message != b"OK":
                    self._seen.note(f"Health says {reply.message!r}")
                await asyncio.sleep(0.25)

    async def _client(self, number: int) -> None:
        drawn = random.Random(f"{self._seed} client {number}")
        while not self._over:
            async with self._channel() as channel:
                # A client lives for some requests; then its connection goes.
                for _ in range(drawn.randrange(1, 20)):
                    if self._over or self.corpus is None:
                        break
                    if await self._one(channel, drawn, self.corpus):
                        break
            await asyncio.sleep(drawn.random() * 0.02)

    async def _one(self, channel: grpc.aio.Channel, drawn: random.Random, corpus: Corpus) -> bool:
        """One request; whether the client is to vanish."""
        stub, started = rpc.BackendStub(channel), time.monotonic()
        asked = drawn.choice(corpus.asked)
        request = pb.PredictOptions()
        request.CopyFrom(asked.request)
        if salt := drawn.choice(TENANTS):
            request.Metadata["cache_salt"] = salt
        request.PromptCacheRO = drawn.random() < 0.1
        fate = drawn.random()
        if fate < 0.45:
            self._judge(asked, await read(stub, request, seconds=LONGEST_SECONDS), corpus, started)
        elif fate < 0.6:
            self._judge(asked, await read_whole(stub, request, seconds=LONGEST_SECONDS), corpus, started)
        elif fate < 0.72:
            left = await read(stub, request, leave_after=drawn.randrange(1, 6), seconds=LONGEST_SECONDS)
            self._judge(asked, left, corpus, started, allowed={grpc.StatusCode.CANCELLED})
        elif fate < 0.82:
            late = await read(stub, request, seconds=drawn.choice((0.005, 0.05, 0.3)))
            self._judge(
                asked, late, corpus, started, allowed={grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
            )
        elif fate < 0.9:
            slow = await read(stub, request, pause=drawn.random() * 0.1, seconds=LONGEST_SECONDS)
            self._judge(asked, slow, corpus, started)
        elif fate < 0.96:
            await self._send_bad(stub, drawn)
        else:
            call = stub.PredictStream(request, timeout=LONGEST_SECONDS)
            if drawn.random() < 0.5:
                # It may be displaced meanwhile, as any other.
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await call.read()
            self._seen.ends["vanished"] += 1
            return True
        return False

    async def _send_bad(self, stub: rpc.BackendStub, drawn: random.Random) -> None:
        answer = await read(stub, drawn.choice(BAD), seconds=LONGEST_SECONDS)
        self._seen.ends[f"bad: {answer.code.name}"] += 1
        if answer.code in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL):
            self._seen.note(f"a bad request ended {answer.code.name}: {answer.details}")

    def _judge(
        self,
        asked: Asked,
        answer: Answer,
        corpus: Corpus,
        started: float,
        *,
        allowed: frozenset[grpc.StatusCode] | set[grpc.StatusCode] = frozenset(),
    ) -> None:
        seen, whole = self._seen, answer.code is grpc.StatusCode.OK and bool(answer.reason)
        seen.ends["whole" if whole else answer.code.name] += 1
        seen.tokens += answer.replies[-1].tokens if answer.replies else 0
        seen.cached += int(answer.trailing.get("x-prompt-cache-tokens", 0))
        seen.guessed += int(answer.trailing.get("x-accepted-tokens", 0))
        seen.checked += 1
        if not asked.is_answered_by(answer, whole=whole):
            seen.note(f"{corpus.name}: {answer.text!r} in place of {asked.text!r} to {asked.request}")
        displaced = answer.code in DISPLACED and self.corpus is not corpus
        crowded = answer.code is EXHAUSTED and "in flight" in answer.details and self.hardship.crowded.since(started)
        hit = answer.code is INTERNAL and self.hardship.faulty.since(started)
        seen.refused_in_a_crowd += crowded
        seen.hit_by_a_fault += [answer.details] * hit
        if not (
            whole
            or displaced
            or crowded
            or hit
            or answer.code in allowed
            or (answer.code is grpc.StatusCode.OK and allowed)
        ):
            seen.note(f"{corpus.name}: {answer.code.name} {answer.details}")
