"""What a step's message to the other ranks costs, beside the model's own collectives.

    python -m benchmarks.ranks [--ranks 2] [--hidden 512] [--layers 8] [--steps 40] [--rounds 4]

A random Llama, divided by its heads over a ring on loopback. Four things take turns, in the same processes: a step's
message to the other ranks and back; a step's collectives alone (two sums a layer, of a row's width); decode steps of
ranks that know what to feed; and decode steps of ranks that follow, which wait for rank 0's message as they do when
they serve. Rank 0 times each by itself; milliseconds, medians. A message costs half of its way there and back; the last
column is that as a share of the collectives.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import Report, arguments, parse
from benchmarks.serving import ROOT, model

ROWS = (1, 8)


def run_rank(options: argparse.Namespace) -> dict[str, list[list[float]]]:
    """One rank's part; of rank 0, for each number of rows a list of milliseconds for each of the four things."""
    from backend.engine.loading.blas import load_blas

    load_blas("auto")  # before MLX
    import mlx.core as mx
    from mlx_lm.utils import load_model

    from backend.engine.ranks.sharding import divide, join_group
    from backend.engine.ranks.world import world_of

    world = world_of(os.environ)
    assert world is not None
    links = _links(world.control, world.rank, world.size)
    group = join_group(world.backend)
    shard, _ = load_model(Path(options.model), lazy=True)
    divide(shard, "tensor", group)
    mx.eval(shard.parameters())
    found: dict[str, list[list[float]]] = {}
    for rows in ROWS:
        kinds = Steps(shard, group, rows, options, links).kinds()
        found[str(rows)] = [[] for _ in kinds]
        for _ in range(options.rounds):
            for times, run in zip(found[str(rows)], kinds, strict=True):
                mx.eval(mx.distributed.all_sum(mx.ones(1), group=group))
                for step in range(options.steps):
                    started = time.perf_counter()
                    run(step)
                    times.append(1e3 * (time.perf_counter() - started))
    return found


def _links(control: tuple[str, int], rank: int, size: int) -> list[Any]:
    """Rank 0's connections to all others; of another, that to rank 0."""
    from backend.engine.ranks.link import Link

    if rank == 0:
        with socket.create_server(control) as server:
            return [Link(server.accept()[0]) for _ in range(size - 1)]
    while True:
        try:
            return [Link(socket.create_connection(control))]
        except OSError:
            time.sleep(0.1)


class Steps:
    """What takes turns, for a number of rows; every rank makes the same calls."""

    def __init__(self, shard: Any, group: Any, rows: int, options: argparse.Namespace, links: list[Any]) -> None:
        self._shard, self._group, self._rows, self._options, self._links = shard, group, rows, options, links
        self._plain, self._told = self._batch(), self._batch()

    def kinds(self) -> list[Callable[[int], None]]:
        """A message and its echo, collectives, steps, and steps behind a message."""
        return [self._echoed, self._collectives, self._step, self._step_behind_a_message]

    def _batch(self) -> list[Any]:
        """Caches of the rows, each with a short prompt."""
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        from backend.engine.kv.merging import merged

        made: list[list[Any]] = []
        for _ in range(self._rows):
            caches = make_prompt_cache(self._shard)
            self._shard(mx.arange(32)[None], cache=caches)
            mx.eval([cache.state for cache in caches])
            made.append(caches)
        return [merged(layer) for layer in zip(*made, strict=True)]

    def _feed(self, caches: list[Any], tokens: list[int]) -> None:
        import mlx.core as mx

        logits = self._shard(mx.array(tokens)[:, None], cache=caches)[:, -1]
        mx.eval(logits, [cache.state for cache in caches])

    def _tokens(self, step: int) -> list[int]:
        return [step % 100 + 1] * self._rows

    def _tell(self, step: int) -> list[int]:
        """The tokens of a step, from rank 0 to all others."""
        if self._group.rank():
            return self._links[0].receive()["tokens"]
        for link in self._links:
            link.send({"op": "step", "batch": 7, "tokens": self._tokens(step)})
        return self._tokens(step)

    def _echoed(self, step: int) -> None:
        tokens = self._tell(step)
        for link in self._links:
            if self._group.rank():
                link.send({"op": "step", "batch": 7, "tokens": tokens})
            else:
                link.receive()

    def _collectives(self, _step: int) -> None:
        import mlx.core as mx

        vector = mx.ones((self._rows, 1, self._options.hidden))
        for _ in range(2 * self._options.layers):
            vector = mx.distributed.all_sum(vector, group=self._group)
        mx.eval(vector)

    def _step(self, step: int) -> None:
        self._feed(self._plain, self._tokens(step))

    def _step_behind_a_message(self, step: int) -> None:
        self._feed(self._told, self._tell(step))


def measure(options: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Start the ranks and have what rank 0 found."""
    from tests.ranks.world import free_ports

    heads = {"vocab": 32_000, "hidden": options.hidden, "layers": options.layers}
    path = model(f"ranks-{options.hidden}-{options.layers}", **heads)
    ports = free_ports(options.ranks + 1)
    with tempfile.TemporaryDirectory() as folder:
        hosts = Path(folder) / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports[1:]]))
        environment = {
            **os.environ,
            "MLX_HOSTFILE": str(hosts),
            "MLX_WORKER_RANKS": str(options.ranks),
            "MLX_WORKER_RANKS_BACKEND": "ring",
            "MLX_WORKER_RANKS_CONTROL": f"127.0.0.1:{ports[0]}",
            "MLX_WORKER_RANKS_TOKEN": "none",
            "OPENBLAS_NUM_THREADS": "1",
        }
        given = [f"--{name}={getattr(options, name)}" for name in ("hidden", "layers", "steps", "rounds")]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.ranks", f"--model={path}", *given],
                cwd=ROOT,
                env={**environment, "MLX_RANK": str(rank)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(options.ranks)
        ]
        output = processes[0].communicate(timeout=600)[0]
        for process in processes[1:]:
            process.wait(30)
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parse(parser, hidden=64, layers=2, steps=5, rounds=1)
    if options.model:
        print(json.dumps(run_rank(options)), flush=True)
        os._exit(0)
    report = Report(options)
    report.note(f"{options.ranks} ranks, tensor parallel, {options.layers} layers of width {options.hidden}")
    rows: list[list[object]] = []
    for count, times in measure(options).items():
        echoed, collectives, plain, told = map(statistics.median, times)
        rows.append([count, echoed / 2, collectives, plain, told, echoed / 2 / collectives])
    report.table(["rows", "message", "collectives", "step", "step behind a message", "of the collectives"], rows)


if __name__ == "__main__":
    main()
