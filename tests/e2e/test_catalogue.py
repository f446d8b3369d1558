"""Faults of docs/reliability.md that no other page of tests injects into the real worker."""

import json
import resource
import shutil
import signal
from pathlib import Path

import grpc
import psutil
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import finish, predict, prompt, running, stream
from tests.e2e.oracle import Golden
from tests.e2e.worker import TINY_CHAT, Worker
from tests.tiers import slow

STORY = "Once upon a time"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
# The least that is written into a file for a client to read back.
SECRET = "plugh-xyzzy-1789"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A model directory to spoil."""
    return Path(shutil.copytree(TINY_CHAT, tmp_path / "spoilt"))


def with_added_token(folder: Path, text: str, number: int) -> None:
    """A token in the tokenizer that the model has no row for."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"].append(
        {
            "id": number, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False,
        }
    )  # fmt: skip
    path.write_text(json.dumps(tokenizer))


@pytest.mark.slow
def test_a_token_beyond_the_models_vocabulary_reaches_no_model(
    worker: Worker, standing_worker: tuple[Worker, Golden], copy: Path
) -> None:
    """Looked up, it reads past the end of a table. The neighbour decodes meanwhile."""
    with_added_token(copy, "<|beyond|>", 768)
    worker.must_load(copy)
    with standing_worker[1].beside(worker):
        for text in ("<|beyond|>", f"{STORY}<|beyond|> and on"):
            for request in (prompt(text, 4), pb.PredictOptions(Embeddings=text)):
                ask = worker.stub.Embedding if request.Embeddings else worker.stub.Predict
                with pytest.raises(grpc.RpcError) as caught:
                    ask(request, timeout=30)
                assert caught.value.code() is INVALID  # type: ignore[attr-defined]


def test_a_special_token_written_out_becomes_the_token(worker: Worker) -> None:
    """As everywhere: hosts that do not want that escape them."""
    tokenizer = json.loads((TINY_CHAT / "tokenizer.json").read_text())
    special = [token for token in tokenizer["added_tokens"] if token["special"]]
    for token in special:
        found = worker.stub.TokenizeString(prompt(f"a{token['content']}b"), timeout=60).tokens
        assert token["id"] in found
    assert special


@pytest.mark.parametrize(
    "metadata",
    [
        slow({"lark": 'start: "Once" NEVER\nNEVER: /[^\\x00-\\U0010FFFF]/'}),
        {"lark": 'start: "a" start'},
        slow({"regex": r"(ab|ac){3}[^\s\S]"}),
        slow({"json_schema": '{"type": "string", "minLength": 3, "pattern": "^a{1,2}$"}'}),
        {"json_schema": '{"allOf": [{"enum": ["a"]}, {"enum": ["b"]}]}'},
    ],
)
def test_a_grammar_that_leads_nowhere_ends_its_request(
    worker: Worker, standing_worker: tuple[Worker, Golden], metadata: dict[str, str]
) -> None:
    """Refused, or ended where it leads no further: never a loop, never the neighbour's."""
    with standing_worker[1].beside(worker):
        answer = stream(worker.stub, prompt(STORY, 40, Metadata=metadata), seconds=30)
    if answer.code is grpc.StatusCode.OK:
        assert answer.reason in ("stop", "length")
        assert answer.last.tokens <= 40
    else:
        assert answer.code in (INVALID, grpc.StatusCode.INTERNAL), (answer.code, answer.details)


# Without these a model is served as well.
HARMLESS = ("generation_config.json", "modules.json")
SPOILT = {
    "config.json": "CONFIG {secret}",
    "tokenizer.json": '{{"version": "{secret}", "model": {{"type": "{secret}"}}}}',
    "tokenizer_config.json": '{{"tokenizer_class": {{"{secret}": 1}}, "chat_template": 7, "{secret}',
    "generation_config.json": '{{"eos_token_id": "{secret}"}}',
    "model.safetensors": "{secret}{secret}{secret}{secret}{secret}",
    "chat_template.jinja": "{{% {secret} %}}",
    "modules.json": "[{secret}",
}


@pytest.mark.slow
def test_a_load_that_fails_says_nothing_of_what_a_file_holds(worker: Worker, tmp_path: Path) -> None:
    """Nor does the log: whoever may load may name files that are not for their eyes."""
    lines = len(worker.log.lines)
    for name, text in SPOILT.items():
        folder = Path(shutil.copytree(TINY_CHAT, tmp_path / name))
        (folder / name).write_text("line\n" * 3 + text.format(secret=SECRET))
        result = worker.load(folder)
        assert SECRET not in result.message, (name, result.message)
        # A template is what a request is for; what is wrong with it is the request's error.
        if name == "chat_template.jinja":
            answer = predict(worker.stub, pb.PredictOptions(Messages=[pb.Message(role="user", content="a")]))
            assert SECRET not in answer.details, answer.details
        else:
            assert not result.success or name in HARMLESS, name
    worker.must_load()
    assert not [line for line in worker.log.lines[lines:] if SECRET in line]


def test_a_grammar_process_that_is_stopped_costs_a_request_and_no_neighbour(
    worker: Worker, standing_worker: tuple[Worker, Golden]
) -> None:
    """Stopped, not killed: nothing tells the worker that nobody reads its pipe any more."""
    worker.must_load()
    stream(worker.stub, prompt(STORY, 2, Grammar='root ::= "yes"'))
    trial = _child(worker, "trial_process")
    with standing_worker[1].beside(worker):
        trial.suspend()
        # Of no other test: what was tried before is known.
        request = prompt(STORY, 2, Grammar='root ::= "late"')
        late = stream(worker.stub, request, seconds=0.7)
        assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
        trial.resume()
    assert "late".startswith(stream(worker.stub, request).text)


@pytest.mark.parametrize("program", ["trial_process", slow("render_process")])
def test_a_process_that_is_killed_is_made_anew(
    worker: Worker, standing_worker: tuple[Worker, Golden], program: str
) -> None:
    request = prompt(STORY, 3, Grammar='root ::= "yes"')
    if program == "render_process":
        request = pb.PredictOptions(
            Messages=[pb.Message(role="user", content=STORY)], UseTokenizerTemplate=True, Tokens=3
        )
    expected = stream(worker.stub, request).text
    with standing_worker[1].beside(worker):
        _child(worker, program).kill()
        again = stream(worker.stub, request)
    assert (again.code, again.text) == (grpc.StatusCode.OK, expected)


def _child(worker: Worker, program: str) -> psutil.Process:
    children = psutil.Process(worker.pid).children()
    return next(child for child in children if any(program in word for word in child.cmdline()))


@pytest.mark.slow
@pytest.mark.skipif(not psutil.LINUX, reason="no other process's limit can be set")
def test_memory_that_runs_out_costs_requests_or_the_process_and_never_the_directory(tmp_path: Path) -> None:
    """Whatever becomes of the process: what it has stored is exact, and the next one serves it."""
    options = ("--prompt-cache-dir", str(tmp_path / "kv"))
    request = prompt(f"{STORY} " * 40, 8, Logprobs=1, IgnoreEOS=True)
    starved = Worker(*options)
    with starved as worker:
        worker.must_load()
        expected = stream(worker.stub, request)
        stream(worker.stub, request)  # a hit is what is written at once
        room = psutil.Process(worker.pid).memory_info().vms + (24 << 20)
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (room, room))
        with running(worker.stub, *[prompt(f"{n} " + "word " * 3000, 5) for n in range(3)], begun=False) as calls:
            codes = {finish(call).code for call in calls}
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}, codes
        if worker.process.poll() is None:
            worker.signal(signal.SIGTERM)
        # As the host sees it: an end that it can tell from a wish, or a clean one.
        worker.expected_code = worker.wait(60)
        assert worker.expected_code == 0 or codes != {grpc.StatusCode.OK}
    with Worker(*options) as worker:
        worker.must_load()
        golden = Golden.of(worker, tmp_path / "kv")
        assert stream(worker.stub, request).last.logprobs == expected.last.logprobs
        golden.check(worker)
