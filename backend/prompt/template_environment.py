"""The Jinja environment that chat templates expect: transformers' one, with a limit on the output's size.

Sandboxed and immutable: templates come with models from anywhere and are not trusted.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from backend.prompt.rendering import Render, TemplateFailure

MAX_PRODUCT = 16 << 20  # items or bits that `*` and `**` may make at once


class _Environment(ImmutableSandboxedEnvironment):
    # Where the system enforces no memory limit on a process (macOS), `'a' * 10**10` must stop here. An
    # intercepted operator is not folded at compile time either.
    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if _product_size(operator, left, right) > MAX_PRODUCT:
            raise SecurityError(f"operator {operator!r} would make a value that is too large")
        return super().call_binop(context, operator, left, right)


def _product_size(operator: str, left: Any, right: Any) -> int:
    if operator == "**":
        both = isinstance(left, int) and isinstance(right, int)
        return left.bit_length() * right if both else 0
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length()
    for sequence, count in ((left, right), (right, left)):
        if isinstance(count, int) and isinstance(sequence, str | bytes | list | tuple):
            return len(sequence) * count
    return 0


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's text for training; here it only renders."""

    tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render_body"), [], [], body).set_lineno(line)

    def _render_body(self, caller: Macro) -> str:
        return caller()


class _DictFactory:
    """`dict` for templates, without the class itself to climb from."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _GuardedNamespace(Namespace):
    """Jinja's namespace, refusing names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # No named parameter: `namespace(self=...)` is a legal call.
        instance, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(instance, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template may not set {name!r} on a namespace")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    names: dict[str, Any] = environment.globals
    names["raise_exception"] = _raise_exception
    names["strftime_now"] = _strftime_now
    names["dict"] = _DictFactory()
    names["namespace"] = _GuardedNamespace
    return environment


@lru_cache(maxsize=8)
def _compile(source: str) -> jinja2.Template:
    return _environment().from_string(source)


def template_render(source: str, variables: dict[str, Any], max_bytes: int) -> Render:
    """A function that renders messages with this template.

    Raises:
        jinja2.TemplateError: The source is not a template.
    """
    template = _compile(source)

    def render(messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        values = {**variables, "messages": messages, "add_generation_prompt": add_generation_prompt}
        return _join(template.generate(values), max_bytes)

    return render


def _join(parts: Iterable[str], max_bytes: int) -> str:
    pieces: list[str] = []
    size = 0
    for piece in parts:
        size += len(piece) if piece.isascii() else len(piece.encode("utf-8", "surrogatepass"))
        if size > max_bytes:
            raise TemplateFailure(f"the rendered prompt is over the limit of {max_bytes} bytes")
        pieces.append(piece)
    return "".join(pieces)


def failure_reason(error: Exception) -> str:
    """One line on why a template failed, for the client."""
    if isinstance(error, TemplateFailure):
        return str(error)
    text = " ".join(str(error).split())[:300]
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"chat template syntax error in line {error.lineno}: {text}"
    if isinstance(error, SecurityError):
        return f"chat template refused: {text}"
    if type(error) is jinja2.TemplateError:
        return f"chat template: {text}"
    return f"chat template failed: {type(error).__name__}: {text}"
