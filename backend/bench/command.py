"""`mlx-worker bench`: a plan, one server or two, and what they made of it."""

import asyncio
import itertools
import json
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final

import grpc

from backend.bench import trace
from backend.bench.driving import Driver, Run, Target
from backend.bench.figures import summary
from backend.bench.options import BenchOptions, parse_options
from backend.bench.over_grpc import GrpcTarget
from backend.bench.over_http import HttpTarget
from backend.bench.plan import Planned, plan, rounds
from backend.bench.report import data, lines
from backend.bench.texts import Texts, sample
from backend.client.log_events import LogEvent
from backend.client.reached import NotReached, Reached, reached
from backend.client.steps import step_of
from backend.pb import backend_pb2 as pb
from backend.terminal.progress import Step
from backend.terminal.screen import Screen, Waiting

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = os.EX_UNAVAILABLE
EXIT_INTERRUPTED: Final = 130
_COUNT_SECONDS: Final = 30.0


def bench(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command; its exit code."""
    try:
        options = parse_options(arguments, environment)
        # So that a worker of ours is stopped then too.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        return _bench(options, Screen(sys.stdout, sys.stderr, live=sys.stdout.isatty()))
    except SystemExit as ended:
        return int(ended.code or 0)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _bench(options: BenchOptions, screen: Screen) -> int:
    try:
        with ExitStack() as stack:
            with screen.waiting("starting a worker") as waiting:
                worker = stack.enter_context(reached(options.where, lambda event: _show(waiting, event)))
            return _Bench(options, worker, screen).run()
    except NotReached as why:
        screen.say(str(why), "red")
        return EXIT_UNREACHABLE


def _show(waiting: Waiting, event: LogEvent) -> None:
    step = step_of(event)
    if step is not None:
        waiting.at(step)


class _Bench:
    """One run, once its worker is there. Main thread."""

    def __init__(self, options: BenchOptions, worker: Reached, screen: Screen) -> None:
        self._options, self._worker, self._screen = options, worker, screen
        self._run_name = secrets.token_hex(8) if options.fresh else ""
        self._runs: list[Run] = []

    def run(self) -> int:
        """Measure, and show what was measured; the exit code."""
        try:
            planned = self._planned()
        except ValueError as error:
            self._screen.say(str(error), "red")
            return EXIT_USAGE
        interrupted = False
        try:
            with self._screen.waiting("measuring") as waiting:
                asyncio.run(self._measure(planned, waiting))
        except ValueError as error:
            self._screen.say(str(error), "red")
            return EXIT_UNREACHABLE
        except KeyboardInterrupt:
            interrupted = True
        failed = self._show()
        if interrupted:
            return EXIT_INTERRUPTED
        return EXIT_FAILED if failed else 0

    def _planned(self) -> list[Planned]:
        options, context = self._options, self._worker.info.context
        texts = Texts(self._tokens_a_word())
        if options.trace is not None:
            replay = trace.Replay(
                file=options.trace,
                requests=options.load.requests,
                scale=options.scale,
                speed=options.speed,
                context=context,
            )
            return trace.plan(replay, texts, self._run_name)
        longest = options.load.prompt.most + options.load.answer.most
        if longest > context:
            raise ValueError(f"The longest request has {longest} tokens, the model's context {context}.")
        return plan(options.load, texts, self._run_name)

    def _tokens_a_word(self) -> float:
        text = sample()
        try:
            counted = self._worker.stub.TokenizeString(
                pb.PredictOptions(Prompt=text), timeout=_COUNT_SECONDS, metadata=self._worker.connection.metadata
            )
        except grpc.RpcError as error:
            raise NotReached(self._worker.sentence(error)) from None
        return counted.length / len(text.split())

    async def _measure(self, planned: Sequence[Planned], waiting: Waiting) -> None:
        options, targets = self._options, self._targets()
        self._runs = [Run(target.name) for target in targets]
        answered, total = itertools.count(1), len(planned) * len(targets)

        def tell() -> None:
            waiting.at(Step(what="measuring", done=next(answered), total=total, unit="requests"))

        driver = Driver(streams=options.streams, seconds=options.seconds, tell=tell)
        try:
            for target in targets:
                await target.open()
            # Of the plan's own kind, but not of its texts: those are to be new to the cache.
            first = [_other(one) for one in planned[: options.warm_up]]
            await driver.warm_up(targets, first)
            await driver.run(targets, rounds(planned, options.rounds), self._runs)
        finally:
            for target in targets:
                await target.close()

    def _targets(self) -> list[Target]:
        options, salt = self._options, self._run_name
        chat = options.as_chat
        targets: list[Target] = [GrpcTarget("worker", self._worker.connection, salt=salt, as_chat=chat)]
        if options.beside is not None:
            # A tenant of its own: it may be the same server.
            other_salt = f"{salt} beside" if salt else ""
            targets.append(GrpcTarget("beside", options.beside, salt=other_salt, as_chat=chat))
        if options.beside_http:
            targets.append(
                HttpTarget(
                    "http",
                    options.beside_http,
                    model=options.http_model,
                    token=options.http_token,
                    as_chat=chat,
                    streams=options.streams,
                )
            )
        return targets

    def _show(self) -> bool:
        """Show and write what was measured; whether a request failed."""
        summaries = [summary(run) for run in self._runs]
        if not any(run.measured for run in self._runs):
            self._screen.say("Nothing was measured.", "red")
            return False
        for line in lines(summaries, self._runs, width=self._screen.width):
            self._screen.write(f"{line}\n")
        if self._options.json is not None:
            told = data(self._options.asked, summaries, self._runs)
            try:
                self._options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            except OSError as error:
                self._screen.say(f"{self._options.json} cannot be written: {error.strerror}.", "red")
                return True
        return any(one.errors for one in summaries)


def _other(planned: Planned) -> Planned:
    words = planned.prompt.split()
    return Planned(
        prompt=" ".join(reversed(words)), prompt_tokens=planned.prompt_tokens, answer_tokens=planned.answer_tokens
    )
