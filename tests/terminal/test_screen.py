"""What reaches standard output and standard error."""

import io

from backend.terminal.progress import Step
from backend.terminal.screen import Screen, shown


def test_without_a_terminal_what_is_said_goes_beside_what_was_asked_for() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out, err, live=False)
    screen.write("answer")
    screen.aside("reasons")
    screen.say("figures", "red")
    with screen.waiting("waiting") as waiting:
        waiting.at(Step(what="downloading", done=1, total=2))
    waiting.at(Step(what="of something else"))
    assert waiting.step.what == "downloading"
    assert out.getvalue() == "answer"
    assert err.getvalue() == "reasonsfigures\n"


def test_on_a_terminal_all_is_in_one_place_and_in_colours() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out, err, live=True)
    screen.aside("reasons", "dim")
    screen.say("[bold]no markup[/bold] :smile:")
    with screen.waiting("waiting"):
        pass
    assert "\x1b[2mreasons" in out.getvalue()
    assert "[bold]no markup[/bold] :smile:" in out.getvalue()
    assert err.getvalue() == ""


def test_what_a_model_writes_moves_no_cursor() -> None:
    assert shown("a\x1b[2J\x07b\r\n\tc\u202e") == "a[2Jb\n\tc"
    # Joiners, marks of direction, a flag's tags, a place to break, private use, and what is newer than Python's tables.
    text = "trois\u00a0: \u3000全角, \u0645\u06cc\u200c\u062e\u200f, 👩\u200d🚀🏴\U000e0067\U000e007f"
    text += ", a\u200b\u00adb, \ue0a0\U0001fadc"
    assert shown(text) == text
    out = io.StringIO()
    Screen(out, out, live=True).write("\x1b]0;title\x07x")
    assert "\x1b]" not in out.getvalue() and "\x07" not in out.getvalue()
