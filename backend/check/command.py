"""`mlx-worker check`: a model loaded as the worker loads it, then section after section, each under its own guard."""

import asyncio
import importlib
import logging
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from backend import __version__
from backend.check.asking import NotMeasured
from backend.check.options import SECTIONS, CheckOptions, parse_options
from backend.check.report import Mark, Report, Row
from backend.check.section import Allowance, Section
from backend.check.shapes import SHAPES, write_checkpoint
from backend.check.subject import Subject
from backend.config import ModelConfig
from backend.core.logline import logline
from backend.engine.loading import LoadedModel, load_model
from backend.engine.loading.failures import FOREIGN, one_line

# A section that takes this much longer than it was given hangs.
_PATIENCE, _LEAST_PATIENCE_S, _UNBOUNDED_S = 5.0, 600.0, 3600.0
# Too little for more than the least rounds of anything.
_QUICK_S = 1.0
EXIT_WRONG: Final = 1
EXIT_INTERRUPTED: Final = 130

log = logging.getLogger(__name__)


def check(arguments: Sequence[str], *, load: Callable[..., LoadedModel] = load_model) -> int:
    """Run the check and print what it finds; the exit code.

    Args:
        load: As `EngineHandle` takes it.
    """
    options = parse_options(arguments)
    logging.basicConfig(level=options.log_level.upper(), stream=sys.stderr)
    report = Report(out=sys.stdout, progress=sys.stderr, file=options.json)
    began, interrupted = time.monotonic(), False
    try:
        with ExitStack() as stack:
            path = options.model or _random_model(options, report, stack)
            asyncio.run(_run(options, path, report, load))
    except FOREIGN as error:
        _wrong(report, "load", error)
    except KeyboardInterrupt:
        interrupted = True
        report.add(Row(section="all", name="interrupted", mark=Mark.NOT_APPLICABLE, note="what comes after is missing"))
    report.ended("all", time.monotonic() - began)
    report.print_table()
    failed = report.has(Mark.WRONG) or (options.strict and report.has(Mark.SLOW))
    if failed:
        return EXIT_WRONG
    return EXIT_INTERRUPTED if interrupted else 0


def _random_model(options: CheckOptions, report: Report, stack: ExitStack) -> Path:
    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="mlx-worker-check-", dir=options.scratch))
    began = time.monotonic()
    path = write_checkpoint(Path(scratch) / options.shape, SHAPES[options.shape])
    report.say(f"wrote random weights of shape {options.shape} in {time.monotonic() - began:.1f} s")
    return path


async def _run(options: CheckOptions, path: Path, report: Report, load: Callable[..., LoadedModel]) -> None:
    subject = Subject(blas=options.blas, load=load)
    subject.handle.start()
    try:
        began = time.monotonic()
        await subject.load(ModelConfig(identity=path.name, candidates=(str(path),), engine=options.engine))
        _say_facts(report, subject, path, time.monotonic() - began)
        # From here: a GPU may compile for minutes at a model's first load.
        began = time.monotonic()
        for place, name in enumerate(options.sections):
            allotted = _allotted(options, place, time.monotonic() - began)
            if allotted is not None and allotted <= 0:
                report.add(Row(section=name, name="not run", mark=Mark.NOT_APPLICABLE, note="no time was left"))
                continue
            if not await _guarded(Section(name, subject, Allowance(allotted), report, options.churn_s)):
                break
    finally:
        await subject.close()


def _allotted(options: CheckOptions, place: int, passed: float) -> float | None:
    """Seconds for section number `place`: its share of what is left, with those that come after it."""
    if options.quick:
        return _QUICK_S
    if options.budget_s is None:
        return None
    shares = [SECTIONS[name] for name in options.sections[place:]]
    return (options.budget_s - passed) * shares[0] / sum(shares)


async def _guarded(section: Section) -> bool:
    """Run a section; whether the engine still answers."""
    began = time.monotonic()
    allotted = section.allowance.seconds
    patience = _UNBOUNDED_S if allotted is None else max(_LEAST_PATIENCE_S, _PATIENCE * allotted)
    goes_on = True
    try:
        # Here, not above: a section imports MLX, which the engine thread has done by now, after its BLAS.
        module: Any = importlib.import_module(f"backend.check.sections.{section.name}")
        await asyncio.wait_for(module.run(section), patience)
    except NotMeasured as why:
        section.skip("not measured", str(why))
    except TimeoutError:
        _wrong(section.report, section.name, TimeoutError(f"it has not ended within {patience:.0f} s"))
        goes_on = False
    except FOREIGN as error:
        _wrong(section.report, section.name, error)
        goes_on = section.subject.handle.alive
    section.report.ended(section.name, time.monotonic() - began)
    return goes_on


def _wrong(report: Report, section: str, error: BaseException) -> None:
    log.debug(logline("section", name=section), exc_info=error)
    note = f"{type(error).__name__}: {one_line(error)}"
    report.add(Row(section=section, name="failed", mark=Mark.WRONG, note=note))


def _say_facts(report: Report, subject: Subject, path: Path, seconds: float) -> None:
    info, facts = subject.handle.info(), subject.facts
    report.facts = {
        "worker": f"mlx-worker {__version__}",
        "libraries": f"mlx {info.details['mlx']}, mlx-lm {info.details['mlx-lm']}",
        "system": f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        "device": info.device,
        "blas": info.blas and f"BLAS {info.blas}",
        "model": f"{path.name} ({facts.dtype}, {facts.weight_bytes / (1 << 20):.0f} MiB, {info.mode})",
    }
    report.add(Row(section="load", name="load, trial and warm-up", value=seconds, unit="s"))
    report.write()
