"""Faults of docs/reliability.md that no other page of tests injects into the real worker."""

import json
import resource
import shutil
from pathlib import Path

import grpc
import psutil
import pytest

from backend.engine.small_files import digest
from backend.pb import backend_pb2 as pb
from tests.e2e.asking import finish, predict, prompt, running, stream
from tests.e2e.oracle import Golden, as_good_as_new
from tests.e2e.worker import TINY_CHAT, Worker, wait_until
from tests.engine.loading.hub_stub import REPOSITORY, HubStub
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
        slow({"regex": r"(ab|ac){3}[^\s\S]"}),
        slow({"json_schema": '{"type": "string", "minLength": 3, "pattern": "^a{1,2}$"}'}),
        {"json_schema": '{"allOf": [{"enum": ["a"]}, {"enum": ["b"]}]}'},
    ],
)
def test_a_grammar_that_leads_nowhere_ends_its_request(
    worker: Worker, standing_worker: tuple[Worker, Golden], metadata: dict[str, str]
) -> None:
    """Refused as soon as that is known, if need be behind a beginning: never a loop, a fault, or the neighbour's."""
    with standing_worker[1].beside(worker):
        answer = stream(worker.stub, prompt(STORY, 40, Metadata=metadata), seconds=30)
    assert answer.code is INVALID, (answer.code, answer.details)
    assert "no text" in answer.details or "Unsatisfiable" in answer.details
    assert "Once".startswith(answer.text)


def test_a_grammar_without_an_end_is_followed_to_the_limit(worker: Worker) -> None:
    answer = stream(worker.stub, prompt(STORY, 40, Metadata={"lark": 'start: "a" start'}))
    assert (answer.text, answer.reason, answer.last.tokens) == ("a" * 40, "length", 40)


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
        ends = {grpc.StatusCode.OK}
        for mib in (24, 8, 2, 1, 0):
            room = psutil.Process(worker.pid).memory_info().vms + (mib << 20)
            resource.prlimit(worker.pid, resource.RLIMIT_AS, (room, room))
            with running(
                worker.stub, *[prompt(f"{mib} {n} " + "word " * 3000, 5) for n in range(3)], begun=False
            ) as calls:
                ends |= {finish(call).code for call in calls}
            if len(ends) > 1:
                break
        assert (
            {grpc.StatusCode.OK} < ends <= {grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}
        )
        if grpc.StatusCode.UNAVAILABLE in ends:
            # As the host sees it: an end that it can tell from a wish.
            worker.expected_code = worker.wait(60)
            assert worker.expected_code != 0
    with Worker(*options) as worker:
        worker.must_load()
        golden = Golden.of(worker, tmp_path / "kv")
        assert stream(worker.stub, request).last.logprobs == expected.last.logprobs
        golden.check(worker)


# Their hashes are right, and have no key: anybody can write them.
FORGED = {
    "names": {"namespace": "one", "tenant": "", "name": "n", "made_at": 10**400, "tokens": ""},
    "conversations": {"namespace": "model", "tenant": "t", "key": "../../x", "branches": [], "last": 1.0},
}


def test_files_of_names_and_conversations_that_nobody_here_wrote_are_left_out(worker: Worker, tmp_path: Path) -> None:
    for name, body in FORGED.items():
        (tmp_path / "kv" / name).mkdir(parents=True)
        told = json.dumps(body | {"check": digest(json.dumps(body, sort_keys=True))})
        (tmp_path / "kv" / name / "made.json").write_text(told)
    for path in (tmp_path / "kv", *(tmp_path / "kv").iterdir()):
        path.chmod(0o700)
    lines = len(worker.log.lines)
    worker.must_load(TINY_CHAT, f"prompt_cache_dir:{tmp_path}/kv")
    for name in FORGED:
        worker.log.wait_for(f"small_file_not_read file={name}/made.json", after=lines)
    assert worker.info.Get(pb.InfoRequest(), timeout=60).details["prompt_cache_disk"] == "on"
    asked = prompt(STORY, 3, Metadata={"conversation_id": "one"})
    assert stream(worker.stub, asked).code is grpc.StatusCode.OK
    assert not list(tmp_path.glob("x*"))


@pytest.mark.slow
def test_a_hub_that_refuses_stalls_or_breaks_off_costs_no_other_load(tmp_path: Path) -> None:
    """A client that leaves ends its download; the neighbour is exact meanwhile, and the next one has a model."""
    files = {path.name: path.read_bytes() for path in TINY_CHAT.iterdir() if path.is_file()}
    with HubStub(files) as hub:
        away = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "0") | {"HF_HUB_DISABLE_TELEMETRY": "1"}
        place = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hub")}
        with Worker(environment=away | place) as worker, as_good_as_new(worker) as golden:
            hub.status = 503
            refused = worker.load(REPOSITORY)
            assert not refused.success
            assert REPOSITORY in refused.message and "\n" not in refused.message
            hub.status, hub.stall_after, asked = 200, 1 << 20, len(hub.requests)
            with golden.beside(worker):
                loading = worker.stub.LoadModel.future(pb.ModelOptions(Model=REPOSITORY), timeout=120)
                wait_until(lambda: any("safetensors" in path for path in hub.requests[asked:]), "the download")
                child = _child(worker, "hub_process")
                loading.cancel()
                wait_until(lambda: not child.is_running(), "the end of the download")
            hub.stall_after, hub.drop_after = None, 1 << 20
            worker.must_load(REPOSITORY)
            assert stream(worker.stub, prompt(STORY, 3)).code is grpc.StatusCode.OK
