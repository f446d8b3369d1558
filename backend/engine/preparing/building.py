"""Builds what prepares requests for a model that was just loaded. A prep thread."""

import logging
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.config import ModelConfig
from backend.core.errors import ModelLoadFailed, WorkerError
from backend.core.panics import is_panic
from backend.engine.loading.failures import FOREIGN
from backend.engine.preparing.constraining import GrammarChoice
from backend.engine.preparing.facts import LoadedFacts
from backend.engine.preparing.lanes import Lanes
from backend.engine.preparing.pooled import PooledPreparer
from backend.engine.preparing.requests import RequestPreparer

log = logging.getLogger(__name__)


def build_preparer(config: ModelConfig, facts: LoadedFacts, tokenizer: Any, prep: Lanes) -> RequestPreparer:
    """A render process and a grammar compiler for the tokenizer; both end with the preparer.

    They are started at once, or with `warm_up` off when they are needed.

    Raises:
        ModelLoadFailed: The tokenizer is not one that can be served.
    """
    with ExitStack() as undo:
        try:
            preparer = _built(config, facts, tokenizer, prep, undo)
        except WorkerError:
            raise
        # A checkpoint's own tokenizer may raise anything, and LoadModel owes an answer.
        except BaseException as error:
            if not isinstance(error, FOREIGN) and not is_panic(error):
                raise
            log.debug("load", exc_info=error)
            reason = str(error).splitlines()[0] if str(error) else ""
            raise ModelLoadFailed(f"{facts.path}: {type(error).__name__}: {reason}"[:500]) from error
        undo.pop_all()
    return preparer


def _built(config: ModelConfig, facts: LoadedFacts, tokenizer: Any, prep: Lanes, undo: ExitStack) -> RequestPreparer:
    # Imported here: the port is open and Health answers before the tokenizer libraries are imported.
    from backend.grammar.compiler import GrammarCompiler
    from backend.grammar.vocabulary import read_vocabulary
    from backend.output import OutputFormat, TokenTable
    from backend.prompt.preparer import PromptPreparer

    output = OutputFormat.choose(tokenizer, tool_parser=config.tool_parser, reasoning_parser=config.reasoning_parser)
    early = config.engine.warm_up != "off"
    markers = (output.reasoning_start, output.reasoning_end) if output.reasoning_start else None
    prompts = PromptPreparer(
        tokenizer,
        template_kwargs=config.template_kwargs,
        strip_agent_header=config.cache.strip_agent_header,
        reasoning_markers=markers,
    )
    undo.callback(prompts.close)
    if early:
        prompts.start()
    table = TokenTable.from_tokenizer(tokenizer, markers=output.markers)
    vocabulary = read_vocabulary(
        tokenizer, label_of=table.label_of, size=facts.vocab_size, eos_ids=sorted(facts.eos_ids)
    )
    compiler = GrammarCompiler(vocabulary)
    undo.callback(compiler.close)
    if early:
        compiler.start()
    reasoning_start = _writable(prompts.encode(output.reasoning_start, add_special_tokens=False), facts.vocab_size)
    return RequestPreparer(
        config=config,
        facts=facts,
        prep=prep,
        prompts=prompts,
        table=table,
        format=output,
        grammars=GrammarChoice(
            format=output,
            reasoning_start_ids=reasoning_start,
            special=vocabulary.special,
            ends=bool(facts.eos_ids),
        ),
        compiler=compiler,
        pooled=PooledPreparer.of(prompts, facts, config.pooled),
    )


def _writable(marker: NDArray[np.int32], vocab_size: int) -> tuple[int, ...]:
    """The marker's ids; none if the model lacks one (added to the tokenizer only), for then it never writes it."""
    return () if (marker >= vocab_size).any() else tuple(marker.tolist())
