"""A model's chat template: which source, which variables, and what it takes as tool-call arguments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from backend.core.errors import InvalidRequest
from backend.core.request import Conversation, Json
from backend.core.utf8 import is_unicode
from backend.prompt.messages import (
    Shape,
    continues_final,
    last_user,
    leading_system,
    template_messages,
    whole_tool,
)
from backend.prompt.renderer import FunctionRenderer, ProcessRenderer, Renderer, RenderingStopped
from backend.prompt.renderer_pool import RendererPool
from backend.prompt.rendering import Probe, Rendered, RenderJob
from backend.prompt.template_needs import TemplateNeeds

_RESERVED = frozenset({"messages", "tools", "add_generation_prompt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSettings:
    """What the model and its configuration say about the template.

    Attributes:
        sources: Jinja sources by name; `default`, `tool_use` (where there are tools) and `rag` (where there are
            documents) are known names.
        function: A template that is a Python function, used in place of `sources`.
        special_tokens: Variables such as `bos_token`.
        thinking_variable: The name that the template has for `enable_thinking`.
        variables: Defaults of the request's `template_kwargs`.
        without_agent_header: Strip the agent header from system messages.
        seconds, max_bytes: Limits of one rendering.
    """

    sources: Mapping[str, str]
    function: Callable[..., str] | None = None
    special_tokens: Mapping[str, str]
    thinking_variable: str = "enable_thinking"
    variables: Mapping[str, Json]
    without_agent_header: bool = True
    seconds: float = 5.0
    max_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A rendered conversation.

    Attributes:
        shared: Character positions up to which other conversations agree with this one: those with the same
            system prompt and tools, those that differ in the last user message, the next turn of this one.
        tail: Where the text after the last message begins (the generation prompt), or None where that is not known.
    """

    text: str
    shared: tuple[int, ...]
    tail: int | None


class ChatTemplate:
    """One model's chat template, for any thread.

    Args:
        renderer: What renders it in place of processes of its own; closed with it.
    """

    def __init__(self, settings: TemplateSettings, renderer: Renderer | None = None) -> None:
        self._settings = settings
        function = settings.function
        self._renderer = renderer or (FunctionRenderer(function) if function else RendererPool(ProcessRenderer))
        self._needs = TemplateNeeds(self._attempt)

    @property
    def exists(self) -> bool:
        """Whether the model has one."""
        return self._settings.function is not None or "default" in self._settings.sources

    def start(self) -> None:
        """Get a render process up; not needed before `render`."""
        self._renderer.start()

    def close(self) -> None:
        """Stop the render processes, those at work when they are done."""
        self._renderer.close()

    def render(self, conversation: Conversation) -> RenderedChat:
        """Render a conversation for generation.

        Raises:
            InvalidRequest: There is no template or no message, or the template refuses, fails, takes too long or
                prints a lone surrogate.
        """
        if not conversation.messages:
            raise InvalidRequest("Messages", "is empty")
        source = self._source(conversation)
        job = self._job(source, conversation, self._needs.shape(source, conversation))
        rendered = self._renderer.render(replace(job, probes=_probes(job)))
        if not is_unicode(rendered.text):
            raise InvalidRequest("Messages", "the chat template makes text of them that is not valid Unicode")
        return _chat(rendered)

    def _source(self, conversation: Conversation) -> str:
        settings = self._settings
        if settings.function is not None:
            return ""
        if _tools(conversation) and "tool_use" in settings.sources:
            return settings.sources["tool_use"]
        if "rag" in settings.sources and self._kwargs(conversation).get("documents"):
            return settings.sources["rag"]
        if "default" in settings.sources:
            return settings.sources["default"]
        which = f", only {', '.join(sorted(settings.sources))}" if settings.sources else ""
        raise InvalidRequest("UseTokenizerTemplate", f"the model has no chat template for this{which}")

    def _attempt(self, source: str, conversation: Conversation, shape: Shape) -> str | None:
        try:
            return self._renderer.render(self._job(source, conversation, shape)).text
        except RenderingStopped:
            raise  # of a slow machine nothing is learned about the template
        except InvalidRequest:
            return None

    def _job(self, source: str, conversation: Conversation, shape: Shape) -> RenderJob:
        settings = self._settings
        variables = self._variables(conversation, shape)
        goes_on = variables.pop("continue_final_message", True)
        return RenderJob(
            template=source,
            messages=template_messages(conversation, shape, without_agent_header=settings.without_agent_header),
            variables=variables,
            continue_final=bool(goes_on) and continues_final(conversation.messages),
            max_bytes=settings.max_bytes,
            seconds=settings.seconds,
            content_parts=shape.content_parts,
        )

    def _kwargs(self, conversation: Conversation) -> dict[str, Json]:
        return {**self._settings.variables, **conversation.template_kwargs}

    def _variables(self, conversation: Conversation, shape: Shape) -> dict[str, Any]:
        settings = self._settings
        variables: dict[str, Any] = self._kwargs(conversation)
        if reserved := _RESERVED & variables.keys():
            raise InvalidRequest("chat_template_kwargs", f"{min(reserved)!r} is given by the request itself")
        tools = _tools(conversation)
        if tools and shape.whole_tools:
            tools = [whole_tool(tool) for tool in tools]
        if settings.function is not None:
            if "enable_thinking" in variables:
                variables[settings.thinking_variable] = variables.pop("enable_thinking")
            return {**variables, "tools": tools} if tools else variables
        if "enable_thinking" in variables:
            # The same switch in the templates of DeepSeek, Granite and Kimi.
            variables.setdefault("thinking", variables["enable_thinking"])
        return {"documents": None, "tools": tools, **settings.special_tokens, **variables}


def _tools(conversation: Conversation) -> list[dict[str, Json]] | None:
    hidden = conversation.tool_choice.mode == "none"
    return None if hidden or not conversation.tools else list(conversation.tools)


def _probes(job: RenderJob) -> list[Probe]:
    """Conversations to compare with: tail, same system prompt, same history, next turn (see `RenderedChat`)."""
    messages = job.messages
    count = len(messages)
    if job.continue_final:
        tail = Probe(count - 1, [], False)
    else:
        tail = Probe(count, [], False)
    system = leading_system(message["role"] for message in messages)
    user = last_user(messages)
    probes = [tail, Probe(system, [_other_user(messages, system)], True)]
    if user is not None and user > system:
        probes.append(Probe(user, [_other_user(messages, user)], True))
    if not job.continue_final:
        next_turn = [{"role": "assistant", "content": "Z"}, {"role": "user", "content": "Z"}]
        probes.append(Probe(count, next_turn, True))
    return probes


def _other_user(messages: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """A user message that differs from the message at `index` in its first character."""
    actual = messages[index]["content"].lstrip() if index < len(messages) else ""
    return {"role": "user", "content": "Q" if actual.startswith("Z") else "Z"}


def _chat(rendered: Rendered) -> RenderedChat:
    tail, *others = rendered.shared
    shared = {position for position in (tail, *others) if position is not None}
    return RenderedChat(rendered.text, tuple(sorted(shared)), tail)
