"""The form of a request's replies: whether its text goes into `message`, `chat_deltas`, or both.

Hosts parse `message` again with parsers of their own, which cut answers and invent calls where tools are
offered, while other clients read nothing but `message`. Which of them asks shows in the request.
"""

from dataclasses import dataclass

from backend.core.request import Conversation
from backend.pb import backend_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyShape:
    """The form of one request's replies.

    Attributes:
        in_message: Content goes into `message` (and into deltas); otherwise into deltas alone.
        plain: Without reasoning and calls, a unary answer is `message` alone.
        never_blank: A turn without content gets one space, since the host runs a blank one again, up to 5 times.
        budget: Tokens asked for; a turn that used them up is not run again. None is no budget.
    """

    in_message: bool
    plain: bool
    never_blank: bool
    budget: int | None

    @classmethod
    def of(cls, wire: pb.PredictOptions, prompt: str | Conversation) -> "ReplyShape":
        """The form that fits whoever sent this request; `prompt` is what `requests.prompt_of` made of it."""
        templated = isinstance(prompt, Conversation)
        offers_tools = prompt.offers_tools if templated else bool(wire.Tools)
        # Chat with tools: the host takes text and calls from deltas, and reads more calls into message text.
        host_reads_deltas = templated and offers_tools and not wire.Prompt and not wire.Grammar.strip()
        return cls(
            in_message=not host_reads_deltas or wire.Metadata.get("message") == "always",
            plain=not offers_tools,
            never_blank=templated,
            budget=wire.Tokens if wire.Tokens > 0 else None,
        )
