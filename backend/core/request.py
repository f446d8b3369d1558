"""A client's request, as frozen values that check themselves.

In these types `None` is unset and zero is a value; `backend.translate.requests` holds the table that
says what the wire's zeros mean. Checks that need the model's vocabulary are in `Sampling.within`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from backend.core.errors import InvalidRequest
from backend.core.utf8 import utf8_size

MAX_STOPS = 64
MAX_STOP_BYTES = 16 << 10
MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIASES = 4096
MAX_PRIORITY = 10
MIN_TEMPERATURE = 0.001  # below it a quotient of logits overflows, and the draw is greedy in all but name

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def _check_range(name: str, value: float, low: float, high: float) -> None:
    # isfinite first: every comparison with NaN is false, so a range check alone lets it through.
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidRequest(name, f"must be a finite number in [{low:g}, {high:g}], is {value:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn from the logits, for one request.

    The order is mlx-lm's: logit bias, repetition, presence and frequency penalties on the logits, then
    top-p, min-p, typical-p, XTC and top-k as restrictions, then a draw at `temperature`.

    Attributes:
        temperature: 0 is greedy.
        top_k: Keep the k most likely tokens; None keeps all.
        top_p: Nucleus mass in (0, 1]; 1 keeps all.
        min_p: Keep tokens at least this share of the most likely one, in [0, 1]; 0 keeps all.
        typical_p: Locally typical mass in (0, 1]; 1 keeps all.
        xtc_probability: Chance a step of excluding top choices, in [0, 1]; 0 is off.
        xtc_threshold: Probability over which XTC excludes, in [0, 0.5].
        repetition_penalty: Above 0; 1 is off.
        penalty_window: Tokens of history (prompt and answer) the three penalties look at; None is all.
        presence_penalty, frequency_penalty: In [-2, 2]; 0 is off.
        logit_bias: Pairs (token id, addend to its logit); -inf forbids a token.
        seed: Any int64; the same seed repeats the same answer whatever shares its batch.
        ignore_eos: Never sample an end-of-sequence token.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repetition_penalty: float = 1.0
    penalty_window: int | None = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _check_range("Temperature", self.temperature, 0.0, 100.0)
        if 0.0 < self.temperature < MIN_TEMPERATURE:
            raise InvalidRequest("Temperature", f"must be 0 or at least {MIN_TEMPERATURE}, is {self.temperature:g}")
        if self.top_k is not None and self.top_k < 1:
            raise InvalidRequest("TopK", f"must be -1, 0 or positive, is {self.top_k}")
        for name, value in (("TopP", self.top_p), ("TypicalP", self.typical_p)):
            _check_range(name, value, 0.0, 1.0)
            if value == 0.0:
                raise InvalidRequest(name, "must be above 0")
        _check_range("MinP", self.min_p, 0.0, 1.0)
        _check_range("xtc_probability", self.xtc_probability, 0.0, 1.0)
        _check_range("xtc_threshold", self.xtc_threshold, 0.0, 0.5)
        _check_range("Penalty", self.repetition_penalty, 0.01, 100.0)
        _check_range("PresencePenalty", self.presence_penalty, -2.0, 2.0)
        _check_range("FrequencyPenalty", self.frequency_penalty, -2.0, 2.0)
        if self.penalty_window is not None and self.penalty_window < 0:
            raise InvalidRequest("Repeat", f"must be -1 or more, is {self.penalty_window}")
        if len(self.logit_bias) > MAX_LOGIT_BIASES:
            raise InvalidRequest("LogitBias", f"has {len(self.logit_bias)} entries, limit {MAX_LOGIT_BIASES}")
        for token, bias in self.logit_bias:
            _check_range(f"LogitBias[{token}]", bias, -1e4, 1e4)

    def within(self, vocab_size: int) -> "Sampling":
        """This sampling made safe for a vocabulary.

        A `top_k` of the whole vocabulary or more becomes off. A `logit_bias` of an id outside `[0, vocab_size)` is
        left out: clients send ids of other models' tokenizers, and MLX would write out of bounds.
        """
        bias = tuple(pair for pair in self.logit_bias if 0 <= pair[0] < vocab_size)
        top_k = None if self.top_k is not None and self.top_k >= vocab_size else self.top_k
        return replace(self, logit_bias=bias, top_k=top_k)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call in the message history.

    Attributes:
        arguments: Decoded JSON (an object, or the string if it is not JSON).
        text: The JSON text that they were decoded from, if they came as such.
    """

    id: str
    name: str
    arguments: Json
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation, as chat templates read it. Empty strings are absent fields."""

    role: str
    content: str = ""
    name: str = ""
    tool_call_id: str = ""
    reasoning_content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Whether the model may, must or must not call a tool; `function` names the one it must call."""

    mode: Literal["auto", "none", "required", "function"] = "auto"
    function: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A prompt given as messages, to be rendered by the model's chat template.

    Attributes:
        tools: OpenAI tool objects (`{"type": "function", "function": {...}}`), decoded.
        one_call: At most one tool call may come.
        template_kwargs: Passed whole to the chat template (`enable_thinking`, `reasoning_effort`, ...).
        json_bytes: Of the text that tools, calls and arguments were decoded from: what rendering them costs.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Json], ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    one_call: bool = False
    template_kwargs: Mapping[str, Json] = field(default_factory=dict)
    json_bytes: int = field(default=0, compare=False)

    @property
    def offers_tools(self) -> bool:
        """Whether the model may call tools."""
        return bool(self.tools) and self.tool_choice.mode != "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """A constraint on the answer's text, in one of the dialects that llguidance reads."""

    kind: Literal["gbnf", "json_schema", "regex", "lark"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One accepted Predict or PredictStream.

    Attributes:
        request_id: For logs and trailing metadata.
        prompt: Raw text, or a conversation for the chat template.
        max_tokens: Generated tokens at most, end-of-sequence not counted; None is to the end of the context.
        max_draft: Guessed tokens that a pass looks at, at most; None leaves it to the load.
        stop: Strings at which the answer ends; they and any part of them are never sent.
        logprobs: None is off; n asks for every token's logprob and its n most likely alternatives.
        grammar: What the answer must match, after any reasoning.
        cache_read_only: Read the prompt cache, store nothing.
        cache_answer: Keep the answer's KV with the prompt's.
        tenant: Whose request it is, as `tenant_of` has it; what one tenant has cached no other's request is served.
        conversation_id: The conversation that this is a turn of; its cached state goes when it has been idle.
        keep_as: Keep what the prompt (and answer) leave in the prompt cache under this name.
        prefill_only: Nothing is generated; the whole prompt is prefilled.
        priority: In [-MAX_PRIORITY, MAX_PRIORITY]; higher ones go before lower ones.
        deadline: On the monotonic clock, in seconds; None is no deadline.
        streamed: The client takes the answer in pieces, so calls may be sent before they are whole.
    """

    request_id: str
    prompt: str | Conversation
    max_tokens: int | None = None
    max_draft: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    grammar: Grammar | None = None
    cache_read_only: bool = False
    cache_answer: bool = True
    tenant: str = ""
    conversation_id: str = ""
    keep_as: str = ""
    prefill_only: bool = False
    priority: int = 0
    deadline: float | None = None
    streamed: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequest("Tokens", f"must be positive, is {self.max_tokens}")
        if self.max_draft is not None and self.max_draft < 1:
            raise InvalidRequest("NDraft", f"must not be negative, is {self.max_draft}")
        if not -MAX_PRIORITY <= self.priority <= MAX_PRIORITY:
            raise InvalidRequest("Metadata[priority]", f"must be a whole number in [{-MAX_PRIORITY}, {MAX_PRIORITY}]")
        if len(self.stop) > MAX_STOPS:
            raise InvalidRequest("StopPrompts", f"has {len(self.stop)} entries, limit {MAX_STOPS}")
        for stop in self.stop:
            if not 0 < utf8_size(stop) <= MAX_STOP_BYTES:
                raise InvalidRequest("StopPrompts", f"an entry has {utf8_size(stop)} bytes, limit {MAX_STOP_BYTES}")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_TOP_LOGPROBS:
            raise InvalidRequest("TopLogprobs", f"must be in [0, {MAX_TOP_LOGPROBS}], is {self.logprobs}")
