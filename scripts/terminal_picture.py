"""Draw docs/images/terminal-*.svg: `mlx-worker chat`, `bench` and `doctor` as they run here, in a pseudo-terminal."""

import re
import sys
from collections.abc import Callable, Sequence
from io import StringIO
from itertools import groupby
from pathlib import Path

from rich.console import CONSOLE_SVG_FORMAT, Console  # type: ignore[attr-defined]
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e.terminal import COLUMNS, CTRL_D, Terminal, environment  # noqa: E402
from tests.e2e.worker import TINY_CHAT  # noqa: E402

IMAGES = ROOT / "docs" / "images"
_TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b[=>]|([\r\n\b])|([^\x1b\r\n\b]+)")
_THEME = TerminalTheme(
    (250, 250, 248),
    (36, 41, 47),
    [
        *[(36, 41, 47), (190, 40, 40), (30, 120, 50), (150, 105, 0)],
        *[(9, 90, 190), (130, 60, 180), (20, 120, 135), (90, 96, 104)],
    ],
)


class Grid:
    """What a terminal shows: lines, redrawn ones once, each character with its colours."""

    def __init__(self) -> None:
        self._rows: list[list[tuple[str, str]]] = [[]]
        self._row = self._column = 0
        self._style = ""

    def write(self, raw: str) -> None:
        """Take what a program writes."""
        for arguments, command, control, text in _TOKEN.findall(raw):
            if command:
                self._command(command, arguments)
            elif control:
                self._control(control)
            for char in text:
                self._put(char)

    @property
    def lines(self) -> list[str]:
        """What there is to see, with the escapes of its colours."""
        return "\n".join(map(_line, self._rows)).strip("\n").split("\n")

    def _command(self, command: str, arguments: str) -> None:
        match command:
            case "m":
                self._style = "" if arguments in ("", "0") else f"{self._style}\x1b[{arguments}m"
            case "A":
                self._row = max(0, self._row - int(arguments or 1))
            case "C":
                self._column += int(arguments or 1)
            case "K":
                self._rows[self._row] = [] if arguments == "2" else self._rows[self._row][: self._column]
            case _:
                pass

    def _control(self, control: str) -> None:
        if control == "\n":
            self._row += 1
            self._rows += [[] for _ in range(self._row + 1 - len(self._rows))]
        self._column = max(0, self._column - 1) if control == "\b" else 0

    def _put(self, char: str) -> None:
        if char.isprintable():
            cells = self._rows[self._row]
            cells += [("", " ")] * (self._column - len(cells))
            cells[self._column : self._column + 1] = [(self._style, char)]
            self._column += 1


def _line(cells: Sequence[tuple[str, str]]) -> str:
    runs = ((style, "".join(char for _, char in run)) for style, run in groupby(cells, key=lambda cell: cell[0]))
    return "".join(f"{style}{text}\x1b[0m" if style else text for style, text in runs)


def draw(name: str, command: str, raw: str) -> None:
    """Write one picture."""
    grid = Grid()
    grid.write(raw)
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, legacy_windows=False)
    console.print(Text.assemble(("$ ", "bold"), command))
    for line in grid.lines:
        console.print(Text.from_ansi(line), soft_wrap=False)
    # Without fonts of another host's.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(title="mlx-worker", theme=_THEME, code_format=form, unique_id=name)
    (IMAGES / f"{name}.svg").write_text(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE))


def session(arguments: Sequence[str], play: Callable[[Terminal], None]) -> str:
    """What a terminal was sent while somebody did as `play` says."""
    with Terminal(*arguments, env=environment(MLX_WORKER_BLAS="auto")) as terminal:
        play(terminal)
        terminal.code()
    # Nobody needs to know where this was.
    return terminal.raw.replace(f"{ROOT}/", "").replace(str(Path.home()), "~")


def chat(terminal: Terminal) -> None:
    """Two questions, the second of which finds the first in the cache; and one that is reasoned about."""
    terminal.wait_for(r"/help helps\n> $", 90)
    terminal.answered("What is the capital of France?")
    terminal.answered("And what is the capital of Italy?")
    terminal.answered("/new", "A new conversation")
    terminal.answered("/thinking on", "thinking: on")
    terminal.answered("What is the capital of Spain?")
    terminal.press(CTRL_D)


def main() -> None:
    """Run all three and draw them."""
    model = ("--model", str(TINY_CHAT))
    shown = f"--model {TINY_CHAT.relative_to(ROOT)}"
    draw("terminal-chat", f"mlx-worker chat {shown}", session(("chat", *model), chat))
    load = ("--requests", "48", "--streams", "8", "--shared-share", "0.5")
    draw(
        "terminal-bench",
        f"mlx-worker bench {shown} {' '.join(load)}",
        session(("bench", *model, *load), lambda _: None),
    )
    draw("terminal-doctor", f"mlx-worker doctor {shown}", session(("doctor", *model), lambda _: None))


if __name__ == "__main__":
    main()
