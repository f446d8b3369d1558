"""Texts of Embedding, Score and Rerank to tokens, and to what the engine makes of them. Prep threads."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from backend.config import PooledConfig, RerankWay
from backend.core.errors import InvalidRequest, Unsupported
from backend.core.pooled import EmbedAsk, Pooling, RerankAsk, ScoreAsk
from backend.core.request import Conversation, Message
from backend.engine.preparing.facts import LoadedFacts
from backend.engine.work import Embed, Tail, Tails, Tokens, Work
from backend.prompt.preparer import EncodedPrompt, PromptPreparer

T = TypeVar("T")

MOST_FLOATS = 8 << 20
"""Of one answer: 32 MiB of the 50 that a message may have."""
MOST_JOINT_CHARACTERS = 8 << 20
"""Of a prompt with each of its candidates, or a query with each of its documents: some four seconds of encoding."""
_NO_PROMPT = EncodedPrompt(np.empty(0, np.int32))
# Word for word what Qwen3-Reranker was trained on.
_JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledPreparer:
    """One model's way to make numbers of texts. Immutable.

    Attributes:
        ending: Special tokens that the tokenizer puts after every text; no candidate ends before them.
        yes_no: The tokens `yes` and `no`; None where they are none.
    """

    prompts: PromptPreparer
    facts: LoadedFacts
    config: PooledConfig
    ending: int
    yes_no: tuple[int, int] | None

    @classmethod
    def of(cls, prompts: PromptPreparer, facts: LoadedFacts, config: PooledConfig) -> "PooledPreparer":
        """What the tokenizer says once for all requests."""
        words = [prompts.encode(word, add_special_tokens=False).tolist() for word in ("yes", "no")]
        whole = all(len(ids) == 1 and ids[0] < facts.vocab_size for ids in words)
        return cls(
            prompts=prompts,
            facts=facts,
            config=config,
            ending=_ending(prompts),
            yes_no=(words[0][0], words[1][0]) if whole else None,
        )

    @property
    def unsupported(self) -> str:
        """Why there are no embeddings; empty where there are."""
        reason = self.facts.hidden_reason or ("" if self.config.pooling else self.facts.sentence.unsupported)
        return f"no embeddings of this model: {reason}" if reason else ""

    @property
    def pooling(self) -> Pooling:
        """How a text's vector is made."""
        return self.config.pooling or self.facts.sentence.pooling or "last"

    @property
    def normalize(self) -> bool:
        """Whether vectors of whole texts get the length 1."""
        said = self.facts.sentence.normalize
        default = True if said is None else said
        return default if self.config.normalize is None else self.config.normalize

    @property
    def rerank_way(self) -> RerankWay:
        """How documents are compared with a query: as a model for embeddings does, else by what it says, if it can."""
        able = self.yes_no is not None and self.prompts.has_template
        embeds = self.facts.sentence.present and not self.unsupported
        if self.config.made_for:
            embeds = self.config.made_for == "embeddings"
        return self.config.rerank or ("yes_no" if able and not embeds else "cosine")

    def prepare(self, ask: EmbedAsk | ScoreAsk | RerankAsk) -> tuple[EncodedPrompt, Work]:
        """The prompt that is prefilled, and what is computed then.

        Raises:
            InvalidRequest: Something is empty or too long; names the field.
            Unsupported: The model cannot do it.
        """
        match ask:
            case EmbedAsk():
                return _NO_PROMPT, self._embed(ask)
            case ScoreAsk():
                return self._score(ask)
            case RerankAsk():
                return self._yes_no(ask) if self.rerank_way == "yes_no" else (_NO_PROMPT, self._cosine(ask))

    # Embedding

    def _embed(self, ask: EmbedAsk) -> Embed:
        self._check_embeds()
        if ask.tokens:
            tokens = self._given(ask.tokens)
        else:
            name = ask.prompt_name or self.config.prompt or self.facts.sentence.default_prompt
            tokens = self._text("Embeddings", ask.text, self._prompt(name))
        if self.pooling == "none" and len(tokens) * self.facts.hidden_width > MOST_FLOATS:
            most = MOST_FLOATS // self.facts.hidden_width
            raise InvalidRequest(
                "Embeddings", f"has {len(tokens)} tokens; with pooling none at most {most} fit a reply"
            )
        return Embed(texts=(tokens,), pooling=self.pooling, normalize=self.normalize and self.pooling != "none")

    def _check_embeds(self) -> None:
        if self.unsupported:
            raise Unsupported(self.unsupported)

    def _check_tails(self) -> None:
        if self.facts.tails_reason:
            raise Unsupported(f"no scores of this model: {self.facts.tails_reason}")

    def _given(self, ids: Sequence[int]) -> Tokens:
        vocab = self.facts.vocab_size
        for token in (min(ids), max(ids)):
            if not 0 <= token < vocab:
                raise InvalidRequest("EmbeddingTokens", f"token id {token} is outside [0, {vocab})")
        return self._fitting("EmbeddingTokens", np.array(ids, np.int32))

    def _prompt(self, name: str) -> str:
        """What goes before a text: the model's prompt of that name, for an empty name nothing."""
        prompts = self.facts.sentence.prompts
        if name and name not in prompts:
            known = ", ".join(sorted(prompts)) or "none"
            raise InvalidRequest("embedding_prompt", f"the model has no such prompt; it has {known}"[:400])
        return prompts[name] if name else ""

    def _text(self, field: str, text: str, prompt: str) -> Tokens:
        if not text:
            raise InvalidRequest(field, "is empty")
        most = self.facts.context_length
        ids = _named(field, lambda: self.prompts.encode(prompt + text, add_special_tokens=True, most=most))
        return self._fitting(field, ids)

    def _fitting(self, field: str, tokens: Tokens) -> Tokens:
        """Tokens that the model has, and that fit its context."""
        context = self.facts.context_length
        if not len(tokens):
            raise InvalidRequest(field, "is empty")
        if len(tokens) > context:
            raise InvalidRequest(field, f"has {len(tokens)} tokens, context is {context}")
        if (highest := int(tokens.max())) >= self.facts.vocab_size:
            raise InvalidRequest(field, f"has token {highest}, the model's tokens are below {self.facts.vocab_size}")
        return tokens

    # Score

    def _score(self, ask: ScoreAsk) -> tuple[EncodedPrompt, Tails]:
        self._check_tails()
        _check_joint("candidates", len(ask.prompt), ask.candidates)
        encoded = _named("prompt", lambda: self.prompts.encode_located(ask.prompt, most=self.facts.context_length))
        alone = self._without_ending(encoded.ids)
        if len(alone):
            self._fitting("prompt", alone)
        joint = [self._joint(ask, index, alone) for index in range(len(ask.candidates))]
        parts = [_common(alone, tokens) for tokens in joint]
        # The token before the first that is scored has to run again: its logits are what scores.
        shared = max(0, min(parts) - 1)
        if not min(parts):
            raise InvalidRequest("prompt", "has no token that stays as it is before every candidate")
        tails = [_tail(tokens, part, shared) for tokens, part in zip(joint, parts, strict=True)]
        stable = encoded.token_at(_characters(ask.prompt, ask.stable_bytes)) if ask.stable_bytes else None
        boundaries = (stable,) if stable is not None and 0 < stable < shared else ()
        prompt = EncodedPrompt(alone[:shared].copy(), boundaries)
        return prompt, Tails(tails=tuple(tails), total=sum(map(len, joint)))

    def _joint(self, ask: ScoreAsk, index: int, alone: Tokens) -> Tokens:
        """Prompt and candidate, encoded as one text."""
        field, candidate = f"candidates[{index}]", ask.candidates[index]
        if not candidate:
            return self._fitting("prompt", alone)
        most = self.facts.context_length
        ids = _named(field, lambda: self.prompts.encode(ask.prompt + candidate, add_special_tokens=True, most=most))
        return self._fitting(field, self._without_ending(ids))

    def _without_ending(self, tokens: Tokens) -> Tokens:
        return tokens[: len(tokens) - self.ending] if self.ending else tokens

    # Rerank

    def _cosine(self, ask: RerankAsk) -> Embed:
        self._check_embeds()
        sentence = self.facts.sentence
        before, within = (
            self._prompt(name if name in sentence.prompts else sentence.default_prompt)
            for name in ("query", "document")
        )
        texts = [self._text("query", ask.query, before)]
        texts += [self._text(f"documents[{index}]", text, within) for index, text in enumerate(ask.documents)]
        pooling: Pooling = "mean" if self.pooling == "none" else self.pooling
        return Embed(texts=tuple(texts), pooling=pooling, normalize=True, compares=True)

    def _yes_no(self, ask: RerankAsk) -> tuple[EncodedPrompt, Tails]:
        self._check_tails()
        if self.yes_no is None or not self.prompts.has_template:
            raise Unsupported("rerank yes_no: the model has no chat template, or no tokens `yes` and `no`")
        before, after = self._around(ask.query)
        _check_joint("documents", len(before) + len(after), ask.documents)
        most = self.facts.context_length
        around = _named("query", lambda: self.prompts.encode(before + after, add_special_tokens=False, most=most))
        self._fitting("query", around)
        joint = [self._document(index, before + text + after) for index, text in enumerate(ask.documents)]
        query = self.prompts.encode(before, add_special_tokens=False, most=most)
        shared = min(_common(query, tokens) for tokens in joint)
        if len(joint) > 1:
            shared = max(shared, min(_common(joint[0], tokens) for tokens in joint[1:]))
        # Something has to run for each document, if only its last token.
        shared = min(shared, *(len(tokens) - 1 for tokens in joint))
        stable = min(len(query), shared)
        tails = tuple(Tail(feed=tokens[shared:], targets=np.empty(0, np.int32)) for tokens in joint)
        prompt = EncodedPrompt(joint[0][:shared].copy(), (stable,) if 0 < stable < shared else ())
        return prompt, Tails(tails=tails, total=sum(map(len, joint)), yes_no=self.yes_no)

    def _document(self, index: int, shown: str) -> Tokens:
        """All that the model reads for one document."""
        field, most = f"documents[{index}]", self.facts.context_length
        ids = _named(field, lambda: self.prompts.encode(shown, add_special_tokens=False, most=most))
        return self._fitting(field, ids)

    def _around(self, query: str) -> tuple[str, str]:
        """What the model reads before a document and after it: its own chat template, with thinking turned off."""
        mark = secrets.token_hex(16)
        asked = f"<Instruct>: {self.config.instruction}\n<Query>: {query}\n<Document>: {mark}"
        both = Message(role="system", content=_JUDGE), Message(role="user", content=asked)
        one = (Message(role="user", content=f"{_JUDGE}\n\n{asked}"),)
        try:
            rendered = self._rendered(both)
        except InvalidRequest:  # there are templates that refuse a system message
            rendered = _named("query", lambda: self._rendered(one))
        before, found, after = rendered.partition(mark)
        if not found or mark in after:
            raise Unsupported("rerank yes_no: the chat template does not show a document as it is, once")
        return before, after

    def _rendered(self, messages: tuple[Message, ...]) -> str:
        return self.prompts.render(Conversation(messages=messages, template_kwargs={"enable_thinking": False}))


def size_of(ask: EmbedAsk | ScoreAsk | RerankAsk) -> int:
    """Characters that are encoded for it, about."""
    match ask:
        case EmbedAsk():
            return len(ask.text)
        case ScoreAsk():
            return len(ask.prompt) * (1 + len(ask.candidates)) + sum(map(len, ask.candidates))
        case RerankAsk():
            return len(ask.query) * len(ask.documents) + sum(map(len, ask.documents))


def _check_joint(field: str, prompt: int, parts: Sequence[str]) -> None:
    total = prompt * len(parts) + sum(map(len, parts))
    if total > MOST_JOINT_CHARACTERS:
        raise InvalidRequest(
            field, f"with what goes before each of them {total} characters, limit {MOST_JOINT_CHARACTERS}"
        )


def _tail(joint: Tokens, part: int, shared: int) -> Tail:
    """What runs and is scored of a candidate whose tokens begin at `part`."""
    targets = joint[part:]
    if not len(targets):
        return Tail(feed=targets, targets=targets)
    return Tail(feed=joint[shared:-1], targets=targets)


def _common(one: Tokens, other: Tokens) -> int:
    """Tokens that two sequences have in common at their beginning."""
    n = min(len(one), len(other))
    differ = np.flatnonzero(one[:n] != other[:n])
    return int(differ[0]) if len(differ) else n


def _characters(text: str, n_bytes: int) -> int:
    """Whole characters in the first bytes of a text's UTF-8."""
    return len(text.encode()[:n_bytes].decode(errors="ignore"))


def _named(field: str, encode: Callable[[], T]) -> T:
    """What `encode` returns; its refusals name this field."""
    try:
        return encode()
    except InvalidRequest as error:
        raise InvalidRequest(field, error.message.removeprefix(f"{error.field}: ")) from None


def _ending(prompts: PromptPreparer) -> int:
    plain, whole = (prompts.encode("a", add_special_tokens=special).tolist() for special in (False, True))
    starts = [at for at in range(len(whole) - len(plain) + 1) if whole[at : at + len(plain)] == plain]
    return len(whole) - len(plain) - starts[0] if starts and plain else 0
