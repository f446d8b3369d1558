"""`mlx-worker doctor`: looks, and says what is wrong and what to do about it."""

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Final

from backend.doctor import device, model, packages
from backend.doctor.finding import Mark, Row, bad, counts, data, lines, ok
from backend.doctor.options import DoctorOptions, parse_options
from backend.doctor.programs import NotKnown, ask
from backend.doctor.system import address_row, cache_row, hub_cache_row, metrics_row, open_files_row, tls_row
from backend.process.settings import Settings, parse_settings
from backend.terminal.screen import Screen
from backend.terminal.showing import size

EXIT_BAD: Final = 1
EXIT_INTERRUPTED: Final = 130
_STYLES: Final = {Mark.OK: "green", Mark.WARN: "yellow", Mark.BAD: "red"}
_HUB_SECONDS: Final = 45.0


def doctor(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command; its exit code."""
    try:
        options = parse_options(arguments)
        screen = Screen(sys.stdout, sys.stderr, live=sys.stdout.isatty() and not options.json)
        with screen.waiting("looking"):
            rows = list(_rows(options, environment))
    except SystemExit as ended:
        return int(ended.code or 0)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    if options.json:
        screen.write(f"{json.dumps(data(rows))}\n")
    else:
        for mark, line in lines(rows):
            screen.write(f"{line}\n", "" if mark is Mark.OK else _STYLES[mark])
        screen.write(", ".join(f"{number} {mark}" for mark, number in counts(rows).items()) + "\n", "bold")
    return EXIT_BAD if any(row.mark is Mark.BAD for row in rows) else 0


def _rows(options: DoctorOptions, environment: Mapping[str, str]) -> Iterator[Row]:
    yield from packages.rows()
    settings = _settings(options.settings, environment)
    if isinstance(settings, str):
        yield bad("settings", settings, "Correct the flag or the variable that the line names.")
        return
    found = device.look(settings.blas, environment)
    yield from device.rows(found, platform=sys.platform)
    yield open_files_row()
    yield address_row(settings.server)
    yield tls_row(settings.server)
    yield metrics_row(settings.metrics)
    yield cache_row(settings.loads.cache)
    yield hub_cache_row(environment)
    if options.model:
        yield from model.rows(_name(options.model), options.load_options, found, environment, flags=options.settings)
    if options.hub:
        yield hub_row("" if Path(options.model).exists() else options.model, environment)


def _settings(flags: Sequence[str], environment: Mapping[str, str]) -> Settings | str:
    """The worker's settings, or what is wrong with them."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return parse_settings(flags, environment)
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1].removeprefix("mlx-worker: error: ")


def _name(text: str) -> str:
    path = Path(text).expanduser()
    return str(path.absolute()) if path.exists() else text


def hub_row(repository: str, environment: Mapping[str, str]) -> Row:
    """Whether the hub answers, and has the repository, if one is named."""
    try:
        found = ask("hub_process", repository, environment=environment, seconds=_HUB_SECONDS)
    except NotKnown as why:
        return bad("hub", str(why), "Check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT.")
    if "refused" in found:
        return bad("hub", found["refused"], found["advice"])
    weights = f", {repository}: {size(found['bytes'])} of weights" if "bytes" in found else ""
    return ok("hub", f"{found['endpoint']} answers{weights}")
