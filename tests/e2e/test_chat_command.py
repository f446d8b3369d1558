"""`mlx-worker chat` in a pseudo-terminal, and as part of a pipe, against a real worker."""

import io
import json
import re
import readline
import signal
import sys
from pathlib import Path

import psutil
import pytest

from backend.chat.command import chat
from backend.chat.commands import TABLE
from tests.e2e.chatting import TOOLS, WEATHER_QUESTION
from tests.e2e.terminal import CTRL_C, CTRL_D, UP, Ran, Terminal, environment, in_this_process
from tests.e2e.worker import TINY_CHAT, Worker, wait_until
from tests.engine.loading.hub_stub import REPOSITORY, HubStub

CAPITAL = "What is the capital of France?"
PARIS = "The capital of France is Paris."


@pytest.fixture(scope="module")
def worker(another_worker: Worker) -> Worker:
    another_worker.must_load()
    return another_worker


def piped(lines: str, *arguments: str, **added: str) -> Ran:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdin", io.StringIO(lines))
        return in_this_process(lambda: chat([*arguments], environment(**added)))


def test_a_conversation_in_a_terminal(worker: Worker, tmp_path: Path) -> None:
    with Terminal("chat", "--addr", worker.address) as terminal:
        terminal.wait_for(r"model: 8,192 tokens of context; /help helps\n> $")
        first = terminal.answered(CAPITAL)
        assert PARIS in first
        assert "s to the first token" in first and "tokens/s" in first and "0 of " in first
        second = terminal.answered("And of Italy?")
        # What was said before is in the cache.
        told = terminal.wait_for(r"(\d+) of (\d+) prompt tokens from the cache[^]]*\]\s*> $")
        assert 0 < int(told[1]) < int(told[2]), second
        terminal.answered("/thinking on", "thinking: on")
        terminal.answered("/new", "A new conversation")
        reasoned = terminal.answered(CAPITAL)
        assert reasoned.count("France") >= 3 and PARIS in reasoned
        # Reasoning is dimmed, the answer is not.
        assert "\x1b[2;3m" in terminal.raw
        stats = terminal.answered("/stats", r"worker +\S+, up")
        assert re.search(r"answers +3, .*prompt tokens +\d+, .* from the cache.*device +cpu", stats, re.DOTALL), stats
        terminal.answered("/nonsense", r"There is no command /nonsense: /help lists them\.")
        terminal.answered("/set temperature hot", r"temperature takes a number, not 'hot'\.\n")
        terminal.answered("/set temperature 1000", r"set: temperature 1000\.0")
        refused = terminal.answered(CAPITAL, r"Temperature: [^\n]*\n")
        assert "1000" in refused
        # What was typed before comes back; the question is no part of the conversation yet.
        terminal.answered("/set temperature off", "set: nothing")
        assert PARIS in terminal.answered(f"{UP}{UP}")
        terminal.press(CTRL_D)
        assert terminal.code() == 0


def test_ctrl_c_stops_the_answer_and_then_leaves(worker: Worker) -> None:
    with Terminal("chat", "--addr", worker.address, "--set", "ignore_eos=on") as terminal:
        terminal.wait_for(r"/help helps\n> $")
        before = len(terminal.text)
        terminal.type("Count from 1 to 10.")
        terminal.wait_for("1, 2, 3", after=before)
        terminal.press(CTRL_C)
        stopped = terminal.wait_for(r"\[[^\]]* tokens, [^\]]*stopped\]\n> $", after=before)
        worker.wait_for_queue(lambda queue: queue["in_flight"] == 0)
        # The chat goes on, from what there is of the answer.
        terminal.answered("/set ignore_eos off", "set: ")
        assert "prompt tokens" in terminal.answered(CAPITAL), stopped
        terminal.interrupt_line(lambda: terminal.text.endswith("Ctrl-C once more, or Ctrl-D, leaves.\n> "))
        terminal.interrupt_line(lambda: terminal.process.poll() is not None)
        assert terminal.code() == 0


@pytest.mark.skipif("libedit" in (readline.__doc__ or ""), reason="libedit knows no pastes")
def test_pasted_lines_are_one_question(worker: Worker, tmp_path: Path) -> None:
    with Terminal("chat", "--addr", worker.address) as terminal:
        terminal.wait_for(r"/help helps\n> $")
        assert "\x1b[?2004h" in terminal.raw  # asks the terminal to say where a paste begins and ends
        terminal.press(f"\x1b[200~{CAPITAL}\rIn a word.\x1b[201~")
        terminal.answered("")
        terminal.answered(f"/save {tmp_path}/kept.json", "Saved to")
        terminal.type("/quit")
        assert terminal.code() == 0
    asked, _ = json.loads((tmp_path / "kept.json").read_text())["messages"]
    assert asked["content"] == f"{CAPITAL}\nIn a word."


def test_a_tool_call_is_shown_and_its_result_typed(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(TOOLS)
    with Terminal("chat", "--addr", worker.address) as terminal:
        terminal.wait_for(r"/help helps\n> $")
        assert "get_weather" in terminal.answered(f"/tools {tmp_path}/tools.json", "tools: [^\n]*\n")
        called = terminal.answered(WEATHER_QUESTION)
        assert "get_weather({" in called.replace("\n", "") and "Paris" in called
        terminal.wait_for("get_weather returns> ")
        assert "sunny" in terminal.answered('{"temperature": 21, "condition": "sunny"}').split("}", 1)[1]
        terminal.answered(f"/save {tmp_path}/kept.json", "Saved to")
        terminal.type("/quit")
        assert terminal.code() == 0
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert [message["role"] for message in kept["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert kept["messages"][1]["tool_calls"][0]["function"]["name"] == "get_weather"
    again = piped("/stats\n", "--addr", worker.address, "--load", str(tmp_path / "kept.json"))
    assert again.code == 0 and "answers" in again.err


def test_in_a_pipe_the_answer_alone_is_on_standard_output(worker: Worker) -> None:
    ran = piped(f"{CAPITAL}\n", "--addr", worker.address, "--thinking", "on")
    assert (ran.code, ran.out) == (0, f"{PARIS}\n")
    assert "France" in ran.err and "tokens/s" in ran.err and "\x1b" not in ran.err
    refused = piped(f"/set top_p 7\n{CAPITAL}\n", "--addr", worker.address)
    assert (refused.code, refused.out) == (1, "") and "TopP: " in refused.err


@pytest.mark.slow
def test_every_command_says_what_it_did_or_what_it_lacks(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(TOOLS)
    lines = {
        "/help": "/set NAME VALUE",
        "/system Be brief.": "system: Be brief.",
        "/set top_k 3": "set: top_k 3",
        "/set": "set: top_k 3",
        "/set top_k off": "set: nothing; answers are greedy",
        "/set nothing 3": "There is no setting 'nothing': there are temperature, top_k, ",
        "/thinking maybe": "/thinking takes on, off or default.",
        "/thinking off": "thinking: off",
        f"/tools {tmp_path}/tools.json": "tools: get_weather, get_time",
        "/tools off": "tools: none",
        f"/tools {tmp_path}/none": f"{tmp_path}/none cannot be read: No such file or directory.",
        "/save": "Name a file.",
        f"/save {tmp_path}/kept": f"Saved to {tmp_path}/kept.",
        f"/save {tmp_path}/no/kept": "No such file or directory",
        f"/load {tmp_path}/kept": f"Loaded 0 messages from {tmp_path}/kept.",
        "/stats": "from the cache",
        "/new": "A new conversation.",
        "//slash": "tokens/s",
        "/nothing": "There is no command /nothing: /help lists them.",
        "/quit": "",
    }
    ran = piped("\n".join([*lines, "never asked"]), "--addr", worker.address)
    assert ran.code == 0
    place = 0
    for line, told in lines.items():
        place = ran.err.find(told, place)
        assert place >= 0, (line, ran.err)
    assert {line.split()[0] for line in lines} >= set(TABLE)
    assert ran.out.strip()  # the answer to the text with a slash


@pytest.mark.slow
def test_what_is_wrong_is_one_sentence(worker: Worker, tmp_path: Path) -> None:
    nobody = piped("", "--addr", "127.0.0.1:1")
    assert (nobody.code, nobody.err) == (69, "No worker answers at 127.0.0.1:1.\n")
    missing = piped("", "--model", str(tmp_path / "none"))
    assert missing.code == 69
    assert missing.err.splitlines()[-1].startswith("The model does not load: model path does not exist: ")
    unread = piped("", "--load", str(tmp_path / "none"))
    assert unread.code == 2 and unread.err.splitlines()[-1].endswith("none cannot be read: No such file or directory.")


@pytest.mark.slow
def test_a_worker_that_does_not_start_or_has_no_model_is_one_sentence_too() -> None:
    wrong = piped("", "--model", str(TINY_CHAT), MLX_WORKER_WATCHDOG="soon")
    assert wrong.code == 69
    assert wrong.err.startswith("The worker ended with exit code 2: error: MLX_WORKER_WATCHDOG: 'soon' is not a")
    with Worker() as empty:
        told = piped("", "--addr", empty.address)
        assert told.code == 69 and "has no model loaded" in told.err


@pytest.mark.slow
@pytest.mark.parametrize("how", ["left", "terminated", "killed"])
def test_a_worker_of_its_own_is_gone_at_the_end(how: str) -> None:
    with Terminal("chat", "--model", str(TINY_CHAT)) as terminal:
        terminal.wait_for(r"/help helps\n> $", 90)
        [own] = psutil.Process(terminal.process.pid).children()
        assert own.cmdline()[-1] != "" and "serve" in own.cmdline()
        if how == "left":
            assert PARIS in terminal.answered(CAPITAL)
            terminal.press(CTRL_D)
            assert terminal.code() == 0
        elif how == "terminated":
            terminal.process.send_signal(signal.SIGTERM)
            assert terminal.code() == 128 + signal.SIGTERM
        else:
            terminal.process.kill()
            terminal.code()
        if how != "killed":
            assert not own.is_running()
        wait_until(lambda: not own.is_running() or own.status() == psutil.STATUS_ZOMBIE, "the worker is gone")


@pytest.mark.slow
def test_ctrl_c_while_the_model_loads_leaves_no_worker() -> None:
    with Terminal("chat", "--model", str(TINY_CHAT)) as terminal:
        terminal.wait_for("finding the model's files")
        [own] = psutil.Process(terminal.process.pid).children()
        terminal.press(CTRL_C)
        assert terminal.code() == 130
        wait_until(lambda: not own.is_running() or own.status() == psutil.STATUS_ZOMBIE, "the worker is gone")


@pytest.mark.slow
def test_the_chat_ends_with_a_sentence_when_its_worker_does() -> None:
    with Terminal("chat", "--model", str(TINY_CHAT)) as terminal:
        terminal.wait_for(r"/help helps\n> $", 90)
        [own] = psutil.Process(terminal.process.pid).children()
        own.kill()
        terminal.type(CAPITAL)
        terminal.wait_for(r"The worker was ended by SIGKILL\.")
        assert terminal.code() == 69


@pytest.mark.slow
def test_a_long_prompt_shows_how_far_it_is_and_ctrl_c_stops_it(tmp_path: Path) -> None:
    long = [{"role": "user", "content": "Count the words of this. " * 900}]
    (tmp_path / "long.json").write_text(json.dumps(long))
    arguments = ("--load", str(tmp_path / "long.json"), "--option", "prefill_chunk:256")
    with Terminal("chat", "--model", str(TINY_CHAT), *arguments) as terminal:
        terminal.wait_for(r"/help helps\n> $", 90)
        before = len(terminal.text)
        terminal.type("And now?")
        terminal.wait_for(r"reading the prompt .*[\d,]+ of [\d,]+ tokens, [\d,]+ tokens/s, .* left", after=before)
        terminal.press(CTRL_C)
        terminal.wait_for(r"\[0 tokens, stopped\]\n> $", after=before)
        terminal.answered("/new", "A new conversation")
        assert PARIS in terminal.answered(CAPITAL)
        terminal.press(CTRL_D)
        assert terminal.code() == 0


@pytest.mark.slow
def test_a_download_shows_how_far_it_is(tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in TINY_CHAT.iterdir()}
    with HubStub(files | {"extra.json": b"{}" + b" " * (12 << 20)}) as hub:
        hub.stall_after = 8 << 20
        env = environment(HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
        with Terminal("chat", "--model", REPOSITORY, env=env) as terminal:
            terminal.wait_for(rf"downloading {REPOSITORY} .*[\d.]+ [KM]?i?B of 14\.9 MiB", 90)
            hub.go_on.set()
            terminal.wait_for(r"/help helps\n> $", 90)
            assert PARIS in terminal.answered(CAPITAL)
            terminal.press(CTRL_D)
            assert terminal.code() == 0
