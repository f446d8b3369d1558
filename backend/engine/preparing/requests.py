"""What the event-loop side knows of a loaded model: how to prepare a request for it, and its facts."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from backend.config import ModelConfig
from backend.core.constraint import Constraint
from backend.core.errors import InvalidRequest, Overloaded, RequestAborted, WorkerUnavailable
from backend.core.reports import ModelFacts
from backend.core.request import Conversation, GenerationRequest, Message
from backend.engine.preparing.constraining import GrammarChoice, WantedGrammar
from backend.grammar.compiler import GrammarCompiler
from backend.output import OutputFormat, OutputStream, TokenTable
from backend.prompt.preparer import EncodedPrompt, PromptPreparer

if TYPE_CHECKING:
    from backend.engine.loading import LoadedModel

COMPILE_SECONDS = 10
_FORCED = ("required", "function")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFacts:
    """What is worth telling about a loaded model; no MLX object among it, so any thread may hold it."""

    path: str
    architecture: str
    vocab_size: int
    context_length: int
    weight_bytes: int
    eos_ids: frozenset[int]
    batchable: bool
    serial_reason: str
    device: str

    @classmethod
    def of(cls, loaded: "LoadedModel") -> "LoadedFacts":
        """The facts of a model just loaded."""
        return cls(
            path=str(loaded.path),
            architecture=str(loaded.config.get("model_type", "")),
            vocab_size=loaded.vocab_size,
            context_length=loaded.context_length,
            weight_bytes=loaded.weight_bytes,
            eos_ids=loaded.eos_ids,
            batchable=loaded.batchable,
            serial_reason=loaded.serial_reason,
            device=loaded.device,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request, rendered, encoded and checked against the model."""

    request: GenerationRequest
    prompt: EncodedPrompt
    max_tokens: int
    output: OutputStream
    grammar: WantedGrammar | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPreparer:
    """The prep thread's tools for one load. Immutable; `preparer` is used on the prep thread alone."""

    config: ModelConfig
    generation: int
    facts: LoadedFacts
    preparer: PromptPreparer
    table: TokenTable
    format: OutputFormat
    grammars: GrammarChoice
    compiler: GrammarCompiler
    closing: threading.Event = field(default_factory=threading.Event)  # set by the loop: prepare nothing more

    def close(self) -> None:
        """Stop the render process and the grammar compiler; prep thread only."""
        self.preparer.close()
        self.compiler.close()

    async def constrain(self, prepared: Prepared) -> Constraint | None:
        """The constraint of a prepared request, fresh; event loop. A slow grammar keeps only its own request waiting.

        Raises:
            InvalidRequest: The grammar does not compile, or not in time.
        """
        wanted = prepared.grammar
        if wanted is None:
            return None
        compiling = None
        try:
            compiling = self.compiler.submit(wanted.grammar)
            compiled = await asyncio.wait_for(asyncio.wrap_future(compiling), COMPILE_SECONDS)
        except TimeoutError as error:
            if compiling is not None and (compiling.cancel() or not compiling.running()):
                raise Overloaded("other grammars are still being compiled") from error
            raise InvalidRequest("Grammar", f"took over {COMPILE_SECONDS} s to compile") from error
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
        """Render, encode and check a request; prep thread only.

        Raises:
            InvalidRequest: The prompt is empty, too long, or its template refuses it.
        """
        if self.closing.is_set():
            raise RequestAborted("the model was unloaded")
        prompt = self.preparer.prepare(request.prompt)
        n, context = len(prompt.tokens), self.facts.context_length
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
            calls_in_parts=request.streamed,
        )
        return Prepared(
            request=request,
            prompt=prompt,
            max_tokens=min(request.max_tokens or room, room),
            output=OutputStream(self.table.decoder(), request.stop, parser),
            grammar=self.grammars.wanted(request, prompt),
        )

    def tokenize(self, prompt: str | Conversation) -> list[int]:
        """Token ids of a prompt; prep thread only."""
        if isinstance(prompt, str):
            return self.preparer.encode(prompt, add_special_tokens=False).tolist()
        return self.preparer.prepare(prompt).tokens.tolist()

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens, incomplete characters left out.

        Raises:
            InvalidRequest: An id is outside the vocabulary.
        """
        for token in tokens:
            if not 0 <= token < self.facts.vocab_size:
                raise InvalidRequest("tokens", f"token id {token} is outside [0, {self.facts.vocab_size})")
        return self.table.decode(list(tokens))

    def model_facts(self) -> ModelFacts:
        """What ModelMetadata tells; prep thread, for the template is rendered.

        Every field of the markers that this model's format has; hosts take absent ones as empty.
        """
        form = self.format
        example = Conversation(messages=(Message(role="user", content="Hello"),))
        try:
            rendered = self.preparer.render(example)
        except InvalidRequest:
            rendered = ""
        markers = {
            "format_type": form.format_type,
            "per_call_start": form.tool_call_start,
            "per_call_end": form.tool_call_end,
            "reasoning_start": form.reasoning_start,
            "reasoning_end": form.reasoning_end,
        }
        return ModelFacts(
            supports_thinking=bool(form.reasoning_start),
            rendered_template=rendered,
            tool_format={name: text for name, text in markers.items() if text} if form.format_type else {},
        )
