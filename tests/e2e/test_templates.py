"""Chat templates are code of strangers: they run in a process that can be killed, and reach nothing."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from backend.check.random_tokenizer import CHAT_TEMPLATE, write_tokenizer
from backend.pb import backend_pb2 as pb
from tests.e2e.asking import chat, finish, predict, prompt, running, stream
from tests.e2e.oracle import mostly_quick
from tests.e2e.worker import Worker

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def with_template(worker: Worker, random_model: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    """Loads a model that has the given template; its directory."""

    def load(template: str) -> Path:
        folder = Path(shutil.copytree(random_model(), tmp_path / "templated", dirs_exist_ok=True))
        write_tokenizer(folder, chat_template=template)
        worker.load(folder)
        return folder

    return load


def rendered(worker: Worker, request: pb.PredictOptions) -> str:
    """The text that the template made, or an empty text where it was refused."""
    try:
        tokens = worker.stub.TokenizeString(request, timeout=30).tokens
    except grpc.RpcError as error:
        if error.code() in (INVALID, grpc.StatusCode.FAILED_PRECONDITION):  # type: ignore[attr-defined]
            return ""
        raise
    return worker.stub.Detokenize(pb.DetokenizeRequest(tokens=tokens), timeout=30).content


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ lipsum.__globals__['os'].environ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ (''|attr('__class__')).__mro__ }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '%s' % messages.__class__.__base__.__subclasses__() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{{ messages.append(1) }}{{ messages.clear() }}",
    "{{ joiner.__init__.__globals__ }}",
]


@pytest.mark.slow
@pytest.mark.parametrize("escape", ESCAPES)
def test_a_template_that_reaches_out_gets_nothing(
    worker: Worker, with_template: Callable[[str], Path], escape: str
) -> None:
    """Refused, or nothing but its own text in the prompt."""
    with_template(CHAT_TEMPLATE + escape)
    text = rendered(worker, chat("hello"))
    for leak in ("class", "root:", "PATH", "uid=", "builtins", "module", "environ", "function", "object at"):
        assert leak not in text, text[:200]


LOOPS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 20000000000 }}",
    "{% for a in range(99999) %}{{ 'b' * 99999 }}{% endfor %}",
    "{% macro again(n) %}{{ again(n) }}{% endmacro %}{{ again(1) }}",
]


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_a_template_without_end_is_bounded_and_holds_up_nobody(
    worker: Worker, with_template: Callable[[str], Path], loop: str
) -> None:
    """In time and in size; meanwhile rows decode and Health answers."""
    # The message decides, so that the load itself renders nothing evil.
    with_template(CHAT_TEMPLATE + "{% if messages[-1].content == 'loop' %}" + loop + "{% endif %}")
    assert predict(worker.stub, chat("hello", 3)).code is grpc.StatusCode.OK
    with running(worker.stub, prompt("x", 4000, IgnoreEOS=True)) as (decoding,):
        began = time.monotonic()
        with running(worker.stub, chat("loop", 3), begun=False) as (looping,):
            took: list[float] = []
            while not looping.done() and time.monotonic() - began < 60:
                asked = time.monotonic()
                assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"
                took.append(time.monotonic() - asked)
                next(decoding, None)
            finish(looping).refused(INVALID, "Messages")
        assert mostly_quick(took, time.monotonic() - began, 0.5)
    assert stream(worker.stub, chat("hello", 3)).code is grpc.StatusCode.OK


def test_a_template_that_loops_always_does_not_hang_the_load(
    worker: Worker, with_template: Callable[[str], Path]
) -> None:
    """Raw prompts of such a model still work."""
    with_template(LOOPS[0])
    answer = stream(worker.stub, prompt("x", 3, IgnoreEOS=True))
    assert answer.code in (grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION)


def test_a_template_that_renders_to_nothing(worker: Worker, with_template: Callable[[str], Path]) -> None:
    """As an empty prompt."""
    with_template("{# nothing #}")
    stream(worker.stub, chat("hello", 3)).refused(INVALID, "prompt is empty")


def test_a_template_that_refuses_is_the_requests_fault(worker: Worker, with_template: Callable[[str], Path]) -> None:
    with_template("{{ raise_exception('roles must take turns') }}")
    stream(worker.stub, chat("hello", 3)).refused(INVALID, "roles must take turns")


def test_a_model_without_a_template_says_so(worker: Worker, random_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(random_model(), tmp_path / "bare"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    worker.must_load(folder)
    stream(worker.stub, chat("hello", 3)).refused(INVALID, "template")
    assert stream(worker.stub, prompt("hello", 3, IgnoreEOS=True)).last.tokens == 3


@pytest.mark.slow
def test_there_is_one_bos_whoever_writes_it(worker: Worker, random_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(random_model(), tmp_path / "bos"))
    write_tokenizer(folder, chat_template="{{ bos_token }}" + CHAT_TEMPLATE)
    bos = "<|endoftext|>"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": bos}))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {"SpecialToken": {"id": bos, "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [special, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [special, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [256], "tokens": [bos]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    worker.must_load(folder)
    assert predict(worker.stub, prompt("hi", 1)).last.prompt_tokens == 3
    assert predict(worker.stub, prompt(bos + "hi", 1)).last.prompt_tokens == 3
    conversation = chat("hi", 1)
    tokens = list(worker.stub.TokenizeString(conversation).tokens)
    assert tokens.count(256) == 1 == tokens.index(256) + 1
    assert predict(worker.stub, conversation).last.prompt_tokens == len(tokens)


@pytest.mark.slow
def test_a_host_may_send_what_the_template_has_no_word_for(
    worker: Worker, with_template: Callable[[str], Path]
) -> None:
    """Text for a template of parts, a developer, a second system message, a tool that only has a name."""
    with_template(
        "{% for t in tools or [] %}[{{ t.function.name + t.function.description }}]{% endfor %}"
        "{% for m in messages %}{% if m.role == 'system' and not loop.first or m.role not in ('system', 'user') %}"
        "{{ raise_exception('no ' + m.role) }}{% endif %}{{ m.role[0] }}:{{ m.content[0].text + ' ' }}{% endfor %}"
        "{{ thinking }}"
    )
    request = chat("hello", 3, Tools='[{"type": "function", "function": {"name": "f", "parameters": null}}]')
    for text in ("be kind", "be brief"):
        request.Messages.insert(0, pb.Message(role="developer", content=text))
    request.Metadata["enable_thinking"] = "false"
    assert rendered(worker, request) == "[f]s:be brief\n\nbe kind u:hello False"
    assert predict(worker.stub, request).code is grpc.StatusCode.OK


@pytest.mark.slow
def test_a_model_may_have_a_template_for_each_kind_of_request(
    worker: Worker, random_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(random_model(), tmp_path / "several"))
    (folder / "chat_template.jinja").write_text("default{{ messages[0].content }}")
    (folder / "additional_chat_templates").mkdir()
    for name, variable in (("tool_use", "tools[0].function.name"), ("rag", "documents[0].title")):
        text = name + "{{ " + variable + " }}{{ messages[0].content }}"
        (folder / "additional_chat_templates" / f"{name}.jinja").write_text(text)
    worker.must_load(folder)
    assert rendered(worker, chat(".")) == "default."
    assert rendered(worker, chat(".", Tools='[{"type": "function", "function": {"name": "f"}}]')) == "tool_usef."
    blob = '{"documents": [{"title": "t"}]}'
    assert rendered(worker, chat(".", Metadata={"chat_template_kwargs": blob})) == "ragt."


@pytest.mark.slow
def test_a_template_that_prints_a_lone_surrogate_costs_its_requests_a_sentence(
    worker: Worker, with_template: Callable[[str], Path]
) -> None:
    """And ModelMetadata, which shows what the template prints, answers without it."""
    with_template("{{ '\\ud800' }}" + CHAT_TEMPLATE)
    predict(worker.stub, chat("hello", 3)).refused(INVALID, "not valid Unicode")
    assert worker.stub.ModelMetadata(pb.ModelOptions(), timeout=30).rendered_template == ""
