"""Prompts, raw or as conversations, to token ids."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.core.errors import InvalidRequest
from backend.core.request import Conversation, Json, Message
from backend.prompt.chat_template import ChatTemplate, TemplateSettings
from backend.prompt.encoder import Encoded, TextEncoder


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPrompt:
    """A prompt ready for prefill.

    Attributes:
        tokens: int32, [n], n >= 1.
        boundaries: Sorted positions in (0, n) where prompts that share a beginning are likely to part: the end of
            the system prompt and tools, the start of the last user message, the end of the last message, and where
            the next turn's prompt leaves this one. Good places for checkpoints; correctness never rests on them.
        opens_reasoning: The prompt ends inside an open reasoning section, so the answer begins there.
        closes_reasoning: The prompt ends after a reasoning section, so the answer has none (thinking turned off).
    """

    tokens: NDArray[np.int32]
    boundaries: tuple[int, ...] = ()
    opens_reasoning: bool = False
    closes_reasoning: bool = False


class PromptPreparer:
    """One model's rendering and encoding, for any thread.

    Special-token text in a message, such as `<|im_end|>`, becomes that token, as in transformers and mlx-lm: the
    template's own markers and the user's text are one string by the time it is encoded.

    Args:
        tokenizer: mlx-lm's wrapper or a transformers tokenizer.
        chat_template: Jinja source in place of the model's own.
        template_kwargs: Defaults of the requests' template variables.
        strip_agent_header: See `agent_header`.
        reasoning_markers: Start and end of a reasoning section; None asks the wrapper.
        render_seconds: Limit of wall time for one rendering; a template over it is killed.
        render_bytes: Limit of a rendered prompt.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        chat_template: str = "",
        template_kwargs: Mapping[str, Json] | None = None,
        strip_agent_header: bool = True,
        reasoning_markers: tuple[str, str] | None = None,
        render_seconds: float = 5.0,
        render_bytes: int = 16 << 20,
    ) -> None:
        inner = _unwrapped(tokenizer)
        self._encoder = TextEncoder(inner)
        self._markers = reasoning_markers or _markers(tokenizer)
        function = None if chat_template else _template_function(tokenizer)
        thinking = getattr(tokenizer, "_thinking_kwarg", "enable_thinking")
        settings = TemplateSettings(
            sources={"default": chat_template} if chat_template else _sources(inner),
            function=function,
            special_tokens=dict(inner.special_tokens_map),
            thinking_variable=thinking,
            # No default for thinking, unlike mlx-lm's wrapper: the template's author chose one.
            variables=dict(template_kwargs or {}),
            without_agent_header=strip_agent_header,
            seconds=render_seconds,
            max_bytes=render_bytes,
        )
        self._template = ChatTemplate(settings)

    @property
    def has_template(self) -> bool:
        """Whether conversations can be rendered at all."""
        return self._template.exists

    def start(self) -> None:
        """Get a render process up while something else goes on; `prepare` would start it."""
        self._template.start()

    def close(self) -> None:
        """Stop the render processes, those at work when they are done; later conversations are `RequestAborted`."""
        self._template.close()

    def prepare(self, prompt: str | Conversation, *, most: int | None = None) -> EncodedPrompt:
        """Token ids of a prompt.

        Args:
            most: A prompt that surely has more tokens is refused before it is encoded; one with a few more may pass.

        Raises:
            InvalidRequest: It is empty or too long, or cannot be rendered or encoded.
        """
        if isinstance(prompt, str):
            return self._prepare_text(prompt, most)
        return self._prepare_conversation(prompt, most)

    def prepare_prefix(self, prompt: str | Conversation, *, most: int | None = None) -> EncodedPrompt:
        """Token ids of what all prompts begin with that go on from this one; arguments and errors as `prepare`.

        Of a conversation, what two that go on from it have in common: a template closes messages only when it sees the
        next, and a tokenizer may join what it writes between them.
        """
        if isinstance(prompt, str):
            return self._prepare_text(prompt, most)
        asks = prompt.messages[-1].role == "user" if prompt.messages else False
        role = "assistant" if asks else "user"
        one, other = (
            self.prepare(replace(prompt, messages=(*prompt.messages, Message(role=role, content=text))), most=most)
            for text in ("a", "1")
        )
        n = min(len(one.tokens), len(other.tokens))
        differ = np.flatnonzero(one.tokens[:n] != other.tokens[:n])
        tokens = one.tokens[: int(differ[0]) if len(differ) else n].copy()
        _check_not_empty(tokens)
        return EncodedPrompt(tokens)

    def render(self, conversation: Conversation) -> str:
        """A conversation as the text that `prepare` encodes."""
        return self._template.render(conversation).text

    def encode(self, text: str, *, add_special_tokens: bool, most: int | None = None) -> NDArray[np.int32]:
        """Token ids of a text, which may be empty; `most` as in `prepare`."""
        return self._encoder.encode(text, add_special_tokens=add_special_tokens, most=most).ids

    def encode_located(self, text: str, *, most: int | None = None) -> Encoded:
        """As `encode` with special tokens, and where each character lies."""
        return self._encoder.encode(text, add_special_tokens=True, most=most)

    def _prepare_text(self, text: str, most: int | None) -> EncodedPrompt:
        # A tokenizer that adds a BOS makes a token even of nothing.
        tokens = self.encode(text, add_special_tokens=True, most=most) if text else np.empty(0, np.int32)
        _check_not_empty(tokens)
        opens = self._markers is not None and text.rstrip().endswith(self._markers[0])
        return EncodedPrompt(tokens, opens_reasoning=opens)

    def _prepare_conversation(self, conversation: Conversation, most: int | None) -> EncodedPrompt:
        chat = self._template.render(conversation)
        # The template writes the BOS where the model wants one.
        encoded = self._encoder.encode(chat.text, add_special_tokens=False, most=most)
        _check_not_empty(encoded.ids)
        boundaries = _token_positions(encoded, chat.shared)
        opens, closes = self._reasoning(chat.text, chat.tail)
        return EncodedPrompt(encoded.ids, boundaries, opens, closes)

    def _reasoning(self, text: str, tail: int | None) -> tuple[bool, bool]:
        """Whether the prompt ends inside a reasoning section, and whether it ends after one."""
        if self._markers is None:
            return False, False
        start, end = self._markers
        if tail is None:
            return text.rstrip().endswith(start), text.rstrip().endswith(end)
        # Only what comes after the last message counts: a user may well write about `<think>`.
        opened, closed = text.rfind(start, tail), text.rfind(end, tail)
        return opened > closed, closed > opened


def _check_not_empty(tokens: NDArray[np.int32]) -> None:
    if not tokens.size:
        raise InvalidRequest("Prompt", "prompt is empty")


def _token_positions(encoded: Encoded, characters: tuple[int, ...]) -> tuple[int, ...]:
    positions = {encoded.token_at(character) for character in characters}
    return tuple(sorted(p for p in positions if p is not None and 0 < p < len(encoded.ids)))


def _is_wrapper(tokenizer: Any) -> bool:
    return hasattr(type(tokenizer), "think_start_tokens")


def _unwrapped(tokenizer: Any) -> Any:
    # Asked of the type, because transformers' tokenizers have a `_tokenizer` too, which is something else.
    return tokenizer._tokenizer if _is_wrapper(tokenizer) else tokenizer  # noqa: SLF001


def _markers(tokenizer: Any) -> tuple[str, str] | None:
    if not _is_wrapper(tokenizer) or not tokenizer.has_thinking:
        return None
    return tokenizer.think_start, tokenizer.think_end


def _sources(inner: Any) -> dict[str, str]:
    template = getattr(inner, "chat_template", None)
    if not template:
        return {}
    return {"default": template} if isinstance(template, str) else dict(template)


def _template_function(tokenizer: Any) -> Callable[..., str] | None:
    """The model's template where it is not Jinja: one of mlx-lm's own, or a tokenizer class's own method."""
    function = getattr(tokenizer, "_chat_template", None) if _is_wrapper(tokenizer) else None
    if function is not None:
        return function
    inner = _unwrapped(tokenizer)
    if not _renders_itself(inner):
        return None

    def render(messages: list[dict[str, Any]], **variables: Any) -> str:
        return inner.apply_chat_template(messages, tokenize=False, **variables)

    return render


def _renders_itself(inner: Any) -> bool:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    method = getattr(type(inner), "apply_chat_template", None)
    return method is not None and method is not PreTrainedTokenizerBase.apply_chat_template
