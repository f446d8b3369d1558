"""An agent's loop of 30 turns with tools and a system prompt of 6k tokens: what is prefilled, how long one waits.

    python -m benchmarks.agent_loop [--turns 30] [--system 6000] [--hybrid-system 6000] [--skip-hybrid]

Each turn sends the whole history: system prompt with an agent client's header, tools, the task, and every call and
result so far. With `scripted` answers the history gets a call that the model did not say, with `own` the very text
that it said. The distinct prompt tokens are the size of a trie of all prompts of a run; only answers that the cache
kept can bring the prefilled tokens below it.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from backend.pb import backend_pb2 as pb
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import MODELS, ROOT, Timeline, Worker, model, worker
from benchmarks.ttft import text

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name.replace('_', ' ')} in the repository".capitalize(),
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}, "text": {"type": "string"}}},
        },
    }
    for name in ("read_file", "write_file", "list_files", "search_text", "run_tests")
]
ANSWER = 24
RESULT_BYTES = 160


def hybrid_model() -> Path:
    """A small qwen3_next with random weights, written at the first use."""
    path = MODELS / "hybrid-256"
    if not (path / "tokenizer_config.json").exists():
        code = "from tests.models import write_model; from pathlib import Path; "
        code += f"write_model(Path({str(path)!r}), 'qwen3_next', vocab=1024, hidden=256, layers=4, context=16384)"
        # In a process of its own: MLX's threads would share this one's cores.
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return path


class Trie:
    """Counts the distinct positions of token sequences."""

    def __init__(self) -> None:
        self.size = 0
        self._root: dict[int, Any] = {}

    def add(self, tokens: list[int]) -> None:
        """Enter one sequence."""
        node = self._root
        for token in tokens:
            if token not in node:
                node[token] = {}
                self.size += 1
            node = node[token]


def request(messages: list[pb.Message], turn: int, system: int) -> pb.PredictOptions:
    """The turn's request, its header different from every other turn's."""
    header = f"x-anthropic-billing-header: cc_version=2.1.{turn}; cch={turn * 2654435761 % 1048576:05x};"
    whole = [pb.Message(role="system", content=header + text("system", system)), *messages]
    return pb.PredictOptions(
        Messages=whole,
        UseTokenizerTemplate=True,
        Tools=json.dumps(TOOLS),
        ToolChoice="auto",
        Tokens=ANSWER,
        IgnoreEOS=True,
        # Letters only, so that the text of a random model's answer has its tokens again.
        Grammar="root ::= [a-z]+",
    )


def scripted(turn: int) -> pb.Message:
    """A call that the model did not write."""
    call = {"name": "read_file", "arguments": json.dumps({"path": f"src/module_{turn}.py"})}
    calls = [{"id": f"call_{turn}", "type": "function", "function": call}]
    return pb.Message(role="assistant", tool_calls=json.dumps(calls))


async def tokens_of(server: Worker, wanted: pb.PredictOptions) -> list[int]:
    """The request's prompt as token ids."""
    stub: Any = server.stub  # made on an asynchronous channel, which its type does not say
    return list((await stub.TokenizeString(wanted)).tokens)


async def loop(server: Worker, *, own: bool, system: int, turns: int) -> tuple[list[Timeline], Trie]:
    """Run the loop once; what each turn was like, and the trie of its prompts."""
    messages = [pb.Message(role="user", content=text("task", 120))]
    lines: list[Timeline] = []
    trie = Trie()
    for turn in range(turns):
        wanted = request(messages, turn, system)
        line = await server.stream(wanted)
        tokens = await tokens_of(server, wanted)
        assert len(tokens) == line.prompt_tokens, (len(tokens), line.prompt_tokens)
        trie.add(tokens)
        lines.append(line)
        messages.append(pb.Message(role="assistant", content=line.text) if own else scripted(turn))
        result = text(f"result{turn}", RESULT_BYTES)
        messages.append(pb.Message(role="tool", content=result, tool_call_id=f"call_{turn}"))
    return lines, trie


async def one_run(path: Path, name: str, *, own: bool, system: int, turns: int) -> list[object]:
    """A fresh worker, a whole loop, a row."""
    async with worker() as server:
        await server.load(path)
        await server.stream(pb.PredictOptions(Prompt=text("warm", 600), Tokens=2, IgnoreEOS=True))
        before = await server.queue()
        lines, trie = await loop(server, own=own, system=system, turns=turns)
        after = await server.queue()
    # The last token of each prompt is fed by its first decode step, which the counter leaves out.
    prefilled = int(after["prefilled_tokens"] - before["prefilled_tokens"]) + turns
    asked = sum(line.prompt_tokens for line in lines)
    first, last = 1e3 * lines[0].first, 1e3 * lines[-1].first
    answers = "own" if own else "scripted"
    return [name, answers, asked, trie.size, prefilled, prefilled / trie.size, first, last, first / last]


async def measure(options: argparse.Namespace) -> None:
    plain = model("plain-32000-512", vocab=32_000, hidden=512, layers=8)
    runs: list[tuple[Path, str, int]] = [(plain, "llama, plain KV", options.system)]
    if not options.skip_hybrid:
        runs.append((hybrid_model(), "qwen3_next, hybrid", options.hybrid_system))
    rows = [
        await one_run(path, name, own=own, system=system, turns=options.turns)
        for path, name, system in runs
        for own in (False, True)
    ]
    report = Report(options)
    report.note(f"{options.turns} turns, {len(TOOLS)} tools, an agent header in each; time to first token in ms")
    headings = ["model", "answers", "prompt tokens", "distinct", "prefilled", "prefilled / distinct"]
    report.table([*headings, "first turn", "last turn", "first / last"], rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--system", type=int, default=6000, help="tokens of the system prompt")
    parser.add_argument("--hybrid-system", type=int, default=6000)
    parser.add_argument("--skip-hybrid", action="store_true")
    asyncio.run(measure(parse(parser, turns=3, system=600, hybrid_system=600)))


if __name__ == "__main__":
    main()
