"""Prepares requests for the loaded model: rendered, encoded, checked, constrained."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from backend.config import STRICT_CHUNK, ModelConfig
from backend.core.constraint import Constraint
from backend.core.errors import InvalidRequest, Overloaded, RequestAborted, WorkerUnavailable
from backend.core.pooled import PooledRequest
from backend.core.reports import ModelFacts, ToolMarkers
from backend.core.request import Conversation, GenerationRequest, Message
from backend.engine.preparing.constraining import GrammarChoice, WantedGrammar
from backend.engine.preparing.facts import LoadedFacts
from backend.engine.preparing.lanes import Lanes
from backend.engine.preparing.pooled import PooledPreparer
from backend.engine.work import Work
from backend.grammar.compiler import GrammarCompiler
from backend.grammar.tools import strict_functions
from backend.grammar.trial import DearGrammar, WrongGrammar
from backend.output import OutputFormat, OutputStream, TokenTable
from backend.prompt.preparer import EncodedPrompt, PromptPreparer

T = TypeVar("T")

COMPILE_SECONDS = 10
# By TokenizeString where the context is smaller, and by Detokenize: an encoding takes some 400 bytes a token.
MOST_TOKENIZED = 1 << 18
_FORCED = ("required", "function")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request, rendered, encoded and checked against the model; `work` is what it wants in place of an answer."""

    request: GenerationRequest
    prompt: EncodedPrompt
    max_tokens: int
    output: OutputStream
    grammar: WantedGrammar | None
    work: Work | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPreparer:
    """One load's tools. Immutable.

    Attributes:
        prep: The prep threads, this load's own: one that never comes back holds up no other load.
        closing: Set by the event loop: prepare nothing more.
    """

    config: ModelConfig
    facts: LoadedFacts
    prep: Lanes
    prompts: PromptPreparer
    table: TokenTable
    format: OutputFormat
    grammars: GrammarChoice
    compiler: GrammarCompiler
    pooled: PooledPreparer
    closing: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """Stop the render processes and the grammar compiler; a prep thread."""
        self.prompts.close()
        self.compiler.close()

    async def constrain(self, prepared: Prepared) -> Constraint | None:
        """The constraint of a prepared request, fresh; event loop. A slow grammar keeps only its own request waiting.

        Raises:
            InvalidRequest: The grammar does not compile.
            Overloaded: It takes too much time or memory, or there are too many.
        """
        wanted = prepared.grammar
        if wanted is None:
            return None
        try:
            compiled = await _within(COMPILE_SECONDS, asyncio.wrap_future(self.compiler.submit(wanted.grammar)))
        except TimeoutError as error:
            raise Overloaded("Grammar: other grammars are still being compiled") from error
        except (WrongGrammar, DearGrammar) as error:
            raise wanted.refusal(error) from error
        except (WorkerUnavailable, asyncio.CancelledError) as error:
            # The compiler closes with its model; a client that leaves is another matter.
            if self.closing.is_set():
                raise RequestAborted("the model was unloaded") from error
            raise
        return compiled.constraint(wanted.activation)

    def check(self, request: GenerationRequest) -> GenerationRequest:
        """The request made safe for this vocabulary.

        Raises:
            InvalidRequest: A field is outside what the model has.
        """
        return replace(request, sampling=request.sampling.within(self.facts.vocab_size))

    def prepare(self, request: GenerationRequest) -> Prepared:
        """Render, encode and check a request; a prep thread.

        Raises:
            InvalidRequest: The prompt is empty, too long, or its template refuses it.
        """
        if self.closing.is_set():
            raise RequestAborted("the model was unloaded")
        context = self.facts.context_length
        prepare = self.prompts.prepare_prefix if request.prefill_only else self.prompts.prepare
        prompt = prepare(request.prompt, most=context - 1)
        if request.prefill_only and self.config.engine.isolation == "strict":
            prompt = _of_whole_chunks(prompt)
        self._check_tokens(prompt.tokens)
        n = len(prompt.tokens)
        if n >= context:
            raise InvalidRequest("Prompt", f"prompt is {n} tokens, context is {context}")
        room = context - n
        conversation = request.prompt if isinstance(request.prompt, Conversation) else None
        parser = self.format.parser(
            opens_reasoning=prompt.opens_reasoning,
            late_reasoning=request.grammar is None,
            tools=conversation.tools if conversation else (),
            parse_tools=bool(conversation and conversation.tools and conversation.tool_choice.mode != "none"),
            forced=bool(conversation and request.grammar is None and conversation.tool_choice.mode in _FORCED),
            strict=bool(conversation and request.grammar is None and strict_functions(conversation.tools)),
            calls_in_parts=request.streamed,
            one_call=bool(conversation and conversation.one_call),
        )
        return Prepared(
            # Its tokens are enough from here on: a conversation may have megabytes, and its JSON many times that.
            request=replace(request, prompt=""),
            prompt=prompt,
            max_tokens=min(request.max_tokens or room, room),
            output=OutputStream(self.table.decoder(), request.stop, parser),
            grammar=self.grammars.wanted(request, prompt),
        )

    def prepare_pooled(self, request: PooledRequest) -> Prepared:
        """Encode and check a request for numbers; a prep thread.

        Raises:
            InvalidRequest: What it asks of is empty or too long.
            Unsupported: The model cannot do it.
        """
        if self.closing.is_set():
            raise RequestAborted("the model was unloaded")
        prompt, work = self.pooled.prepare(request.ask)
        row = GenerationRequest(
            request_id=request.request_id,
            prompt="",
            tenant=request.tenant,
            priority=request.priority,
            prefill_only=True,
            deadline=request.deadline,
        )
        parser = self.format.parser(opens_reasoning=False, late_reasoning=False, tools=(), parse_tools=False)
        output = OutputStream(self.table.decoder(), (), parser)
        return Prepared(request=row, prompt=prompt, max_tokens=1, output=output, grammar=None, work=work)

    def _check_tokens(self, tokens: NDArray[np.int32]) -> None:
        # What a template, a post-processor or an added token makes of a text is the tokenizer's own affair.
        highest = int(tokens.max(initial=0))
        if highest >= self.facts.vocab_size:
            raise InvalidRequest("Prompt", f"has token {highest}, the model's tokens are below {self.facts.vocab_size}")

    def tokenize(self, prompt: str | Conversation) -> list[int]:
        """Token ids of a prompt, which need not fit the context; a prep thread.

        Raises:
            InvalidRequest: The prompt is empty, its template refuses it, or it is far too long for any context.
        """
        most = max(self.facts.context_length, MOST_TOKENIZED)
        if isinstance(prompt, str):
            return self.prompts.encode(prompt, add_special_tokens=False, most=most).tolist()
        return self.prompts.prepare(prompt, most=most).tokens.tolist()

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens, incomplete characters left out.

        Raises:
            InvalidRequest: An id is outside the vocabulary, or there are too many.
        """
        if len(tokens) > MOST_TOKENIZED:
            raise InvalidRequest("tokens", f"has {len(tokens)} entries, limit {MOST_TOKENIZED}")
        ids = list(tokens)
        for token in ids:
            if not 0 <= token < self.facts.vocab_size:
                raise InvalidRequest("tokens", f"token id {token} is outside [0, {self.facts.vocab_size})")
        return self.table.decode(ids)

    def model_facts(self) -> ModelFacts:
        """What ModelMetadata tells; a prep thread, for the template is rendered."""
        form = self.format
        example = Conversation(messages=(Message(role="user", content="Hello"),))
        try:
            rendered = self.prompts.render(example)
        except InvalidRequest:
            rendered = ""
        markers = ToolMarkers(
            format_type=form.format_type,
            call_start=form.tool_call_start,
            call_end=form.tool_call_end,
            reasoning_start=form.reasoning_start,
            reasoning_end=form.reasoning_end,
        )
        return ModelFacts(
            supports_thinking=bool(form.reasoning_start),
            rendered_template=rendered,
            tool_markers=markers if form.format_type else None,
        )


async def _within(seconds: int, future: "asyncio.Future[T]") -> T:
    """Its result, after so many seconds at most, of which one is counted at a time: a process may be stopped.

    Raises:
        TimeoutError: It is late, and cancelled.
    """
    try:
        for _ in range(seconds):
            if (await asyncio.wait([future], timeout=1.0))[0]:
                return future.result()
    finally:
        future.cancel()
    raise TimeoutError


def _of_whole_chunks(prompt: EncodedPrompt) -> EncodedPrompt:
    """What a request under `strict` can use of a prefix: its own chunks end there too."""
    n = len(prompt.tokens) // STRICT_CHUNK * STRICT_CHUNK
    if not n:
        raise InvalidRequest(
            "prompt", f"has {len(prompt.tokens)} tokens; isolation strict keeps prefixes in whole {STRICT_CHUNK}"
        )
    return EncodedPrompt(prompt.tokens[:n].copy())
