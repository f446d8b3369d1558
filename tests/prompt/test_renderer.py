"""Templates that misbehave, and render processes that die."""

import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator

import pytest

from backend.confined.memory import _resident_by_ps, resident_bytes
from backend.core.errors import InvalidRequest
from backend.prompt.frames import MEMORY_BYTES
from backend.prompt.renderer import ProcessRenderer
from backend.prompt.rendering import Probe, RenderJob, shared_prefix
from tests.observed import environment

MESSAGES = [{"role": "user", "content": "hello"}]
GOOD = RenderJob("{{ messages[0].content }}", MESSAGES)
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def renderer() -> Iterator[ProcessRenderer]:
    renderer = ProcessRenderer()
    yield renderer
    renderer.close()


def test_a_template_that_loops_is_killed_and_the_next_one_renders(renderer: ProcessRenderer) -> None:
    assert renderer.render(GOOD).text == "hello"
    first = renderer.pid
    started = time.monotonic()
    with pytest.raises(InvalidRequest, match=r"took over 0\.3 s"):
        renderer.render(RenderJob(ENDLESS, MESSAGES, seconds=0.3))
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(first or 0, 0)
    assert renderer.render(GOOD).text == "hello"


def test_a_render_process_without_its_worker_ends_itself(renderer: ProcessRenderer) -> None:
    renderer.start()
    process = renderer._process
    assert process is not None
    assert process.stdin is not None
    from backend.prompt.frames import job_frame

    os.set_blocking(process.stdin.fileno(), True)
    process.stdin.write(job_frame(RenderJob(ENDLESS, MESSAGES, seconds=0.05)))
    assert process.wait(60) == -signal.SIGALRM
    assert renderer.render(GOOD).text == "hello"


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 20000000000 }}",
        "{% set x = 20000000000 %}{{ 'a' * x }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ '%020000000000d' % 1 }}",
        "{{ 'a' | center(20000000000) }}",
        "{{ ['a' * 10000000] * 200 }}",
        "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    ],
)
def test_a_template_that_swells_is_refused(renderer: ProcessRenderer, template: str) -> None:
    with pytest.raises(InvalidRequest):
        renderer.render(RenderJob(template, MESSAGES))
    assert renderer.render(GOOD).text == "hello"


@pytest.mark.parametrize(
    "template",
    [
        "{% set x = 'a' * 900000 %}{{ ([x] * 2000) | join }}",
        "{% set n = namespace(a=[]) %}{% for i in range(9999) %}{% set n.a = n.a + ['%090000d' % i] %}{% endfor %}",
    ],
)
def test_a_template_that_swells_where_the_system_enforces_no_limit_is_killed_from_outside(template: str) -> None:
    renderer = ProcessRenderer("tests.prompt.unbounded_render_process", memory_bytes=200 << 20)
    try:
        assert renderer.render(GOOD).text == "hello"
        first = renderer.pid
        with pytest.raises(InvalidRequest, match="took over 200 MiB of memory"):
            renderer.render(RenderJob(template, MESSAGES, seconds=20))
        with pytest.raises(ProcessLookupError):
            os.kill(first or 0, 0)
        assert renderer.render(GOOD).text == "hello"
    finally:
        renderer.close()


def test_what_the_worker_has_in_memory_is_not_the_render_process_s(renderer: ProcessRenderer) -> None:
    # Pages that are resident, as the weights of a model of more than a gibibyte are.
    weights = bytearray(MEMORY_BYTES + (64 << 20))
    weights[:: resource.getpagesize()] = b"\1" * len(range(0, len(weights), resource.getpagesize()))
    # Long enough for the process to look at its memory.
    assert (
        renderer.render(
            RenderJob("{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}hello", MESSAGES)
        ).text
        == "hello"
    )


@pytest.mark.skipif(shutil.which("ps") is None, reason="there is no ps")
def test_ps_tells_what_a_process_has_resident_as_the_system_does() -> None:
    told = resident_bytes(os.getpid())
    by_ps = _resident_by_ps(os.getpid())
    assert told is not None and by_ps is not None
    assert 0.5 * told < by_ps < 2 * told
    assert resident_bytes(2**22 + 1) is None


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append({}) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ dict.__class__.__mro__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% set ns = namespace(__class__=1) %}{{ ns }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.environ }}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(renderer: ProcessRenderer, template: str) -> None:
    try:
        text = renderer.render(RenderJob(template, MESSAGES)).text
    except InvalidRequest:
        return
    assert text == ""


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('needs a system\nprompt') }}", "Messages: chat template: needs a system prompt"),
        ("a\n{% if %}", "syntax error in line 2"),
        ("{{ messages[3].content.x }}", "UndefinedError"),
        ("{{ 1 + 'a' }}", "TypeError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    ],
)
def test_a_template_error_comes_back_as_one_line(renderer: ProcessRenderer, template: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refusal:
        renderer.render(RenderJob(template, MESSAGES))
    assert "\n" not in refusal.value.message


def test_a_process_that_died_while_idle_costs_no_request(renderer: ProcessRenderer) -> None:
    renderer.render(GOOD)
    process = renderer._process
    assert process is not None
    process.kill()
    process.wait()
    assert renderer.render(GOOD).text == "hello"


def test_a_template_over_its_size_is_refused(renderer: ProcessRenderer) -> None:
    exactly = RenderJob("{{ messages[0].content }}\u00e9", MESSAGES, max_bytes=7)
    assert renderer.render(exactly).text == "hello\u00e9"
    with pytest.raises(InvalidRequest, match="over the limit of 6 bytes"):
        renderer.render(RenderJob("{{ messages[0].content }}\u00e9", MESSAGES, max_bytes=6))


def test_large_conversations_pass_through_the_pipes_whole(renderer: ProcessRenderer) -> None:
    content = "h\u00e9llo \ud800 " * 300_000
    job = RenderJob("{{ messages[0].content }}", [{"role": "user", "content": content}])
    assert renderer.render(job).text == content


def test_the_render_process_sees_no_secret_of_the_worker(
    renderer: ProcessRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_WORKER_SECRET", "s3cret")
    renderer.start()
    assert renderer.pid is not None
    assert "s3cret" not in environment(renderer.pid).values()


def test_probes_that_fail_are_not_known_and_the_others_count(renderer: ProcessRenderer) -> None:
    template = (
        "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if messages|length > 2 %}{{ 1 + 'a' }}{% endif %}"
    )
    other = {"role": "user", "content": "help"}
    probes = [Probe(0, [other], True), Probe(1, [other, other], True), Probe(1, [other], True)]
    assert renderer.render(RenderJob(template, MESSAGES, probes=probes)).shared == (4, None, 7)


def test_close_ends_the_process_and_a_later_render_starts_another(renderer: ProcessRenderer) -> None:
    renderer.render(GOOD)
    pid = renderer.pid or 0
    renderer.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert renderer.render(GOOD).text == "hello"


@pytest.mark.parametrize(
    ("left", "right", "length"), [("", "a", 0), ("abc", "abd", 2), ("ab", "ab", 2), ("xb", "ab", 0)]
)
def test_the_shared_prefix_ends_at_the_first_difference(left: str, right: str, length: int) -> None:
    assert shared_prefix(left, right) == length
