"""What a load does on each thread: find the files, load the model, prepare for requests.

Everything heavy is imported inside: the port is open and Health answers before mlx_lm is imported.
"""

import importlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.config import ModelConfig
from backend.core.errors import ModelLoadFailed, WorkerError
from backend.engine.loading import LoadedModel, load_model, locate_model
from backend.engine.preparing.constraining import GrammarChoice
from backend.engine.preparing.requests import LoadedFacts, RequestPreparer

if TYPE_CHECKING:
    from backend.engine.batching.session import Session
    from backend.engine.picture import EnginePicture
    from backend.engine.thread import EngineThread

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedTools:
    """What leaves the engine thread after a load: no MLX object is in it."""

    generation: int
    facts: LoadedFacts
    tokenizer: Any


class Loader:
    """Knows how a configuration becomes a session and a served model. Each method names its thread."""

    def __init__(
        self,
        *,
        blas: str = "auto",
        clock: Callable[[], float] = time.monotonic,
        load: Callable[..., LoadedModel] = load_model,
    ) -> None:
        """`load` has the signature of `backend.engine.loading.load_model`."""
        self._load = load
        self._blas_option = blas
        self._clock = clock
        self.blas = ""  # engine thread writes once, others read

    def empty_picture(self, now: float) -> "EnginePicture":
        """Engine thread: what it looks like while no model is loaded."""
        from backend.engine.picture import EnginePicture

        if not self.blas:
            return EnginePicture(at=now)
        import mlx.core as mx

        return EnginePicture(at=now, active_bytes=mx.get_active_memory(), buffer_pool=mx.get_cache_memory())

    def warm_up(self) -> None:
        """Engine thread: pick the BLAS, then import MLX; the order matters."""
        from backend.engine.loading.blas import load_blas

        self.blas = load_blas(self._blas_option)
        importlib.import_module("backend.engine.batching.assembly")

    def locate(self, config: ModelConfig, cancelled: threading.Event) -> Path:
        """Files thread: the model's directory, downloaded if it is a hub's.

        Raises:
            ModelLoadFailed: It is not to be found.
        """
        return locate_model(config, cancelled=cancelled.is_set)

    def session(
        self, config: ModelConfig, path: Path, cancelled: threading.Event, thread: "EngineThread"
    ) -> LoadedTools:
        """Engine thread: load and install a session.

        Raises:
            ModelLoadFailed: Naming the file or field; no model is loaded then.
        """
        loaded_tools: list[LoadedTools] = []

        def make(generation: int) -> "Session":
            from backend.engine.batching.assembly import make_session

            session = make_session(
                config,
                path,
                generation,
                load=self._load,
                outbox=thread.outbox,
                clock=self._clock,
                cancelled=cancelled.is_set,
            )
            loaded = session.loaded
            loaded_tools.append(LoadedTools(generation, LoadedFacts.of(loaded), loaded.tokenizer))
            return session

        failed = ""
        try:
            thread.replace_session(make)
        except WorkerError:
            raise
        except Exception as error:
            log.debug("load", exc_info=error)
            failed = _one_line(path, error)
        if failed:
            # Out here: the exception's frames hold the model, which must not leave this thread.
            raise ModelLoadFailed(failed)
        return loaded_tools[0]

    def served(self, config: ModelConfig, tools: LoadedTools) -> RequestPreparer:
        """Prep thread: build what prepares requests.

        Raises:
            ModelLoadFailed: The tokenizer is not one that can be served.
        """
        with ExitStack() as undo:
            try:
                served = self._served(config, tools, undo)
            except WorkerError:
                raise
            except Exception as error:
                log.debug("load", exc_info=error)
                raise ModelLoadFailed(_one_line(tools.facts.path, error)) from error
            undo.pop_all()
        return served

    def _served(self, config: ModelConfig, tools: LoadedTools, undo: ExitStack) -> RequestPreparer:
        from backend.grammar.compiler import GrammarCompiler
        from backend.grammar.vocabulary import read_vocabulary
        from backend.output import OutputFormat, TokenTable
        from backend.prompt.preparer import PromptPreparer

        tokenizer, facts = tools.tokenizer, tools.facts
        output = OutputFormat.choose(
            tokenizer, tool_parser=config.tool_parser, reasoning_parser=config.reasoning_parser
        )
        markers = (output.reasoning_start, output.reasoning_end) if output.reasoning_start else None
        preparer = PromptPreparer(
            tokenizer,
            template_kwargs=config.template_kwargs,
            strip_agent_header=config.cache.strip_agent_header,
            reasoning_markers=markers,
        )
        undo.callback(preparer.close)
        preparer.start()
        table = TokenTable.from_tokenizer(tokenizer, markers=output.markers)
        vocabulary = read_vocabulary(
            tokenizer, label_of=table.label_of, size=facts.vocab_size, eos_ids=sorted(facts.eos_ids)
        )
        compiler = GrammarCompiler(vocabulary)
        undo.callback(compiler.close)
        compiler.start()
        reasoning_start = preparer.encode(output.reasoning_start, add_special_tokens=False).tolist()
        return RequestPreparer(
            config=config,
            generation=tools.generation,
            facts=facts,
            preparer=preparer,
            table=table,
            format=output,
            grammars=GrammarChoice(
                format=output, reasoning_start_ids=tuple(reasoning_start), special=vocabulary.special
            ),
            compiler=compiler,
        )


def _one_line(path: Path | str, error: Exception) -> str:
    return f"{path}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:500]
