"""What may be written for a schema: its options, its values, and how long a text of it may be."""

import json
import re
from typing import Any

from backend.core.call_shape import NotForceable, TextLimits
from backend.output.calls.merging import Json, common_types, equal, merged, type_names
from backend.output.calls.parameters import CARRIED
from backend.output.calls.references import Document, about, json_type, listed

_MAX_OPTIONS = 256
_LONGEST_PATTERN = 4096
# What free text is not held to, and a list of values is not compared with.
_BESIDE_TEXT = ("not", "if", "allOf", "anyOf", "oneOf", "$dynamicRef", "$recursiveRef")
_BESIDE_VALUES = (
    *_BESIDE_TEXT,
    "pattern",
    "multipleOf",
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "contains",
)
_ASCII = {"d": "0-9", "w": "A-Za-z0-9_"}


class Union:
    """One argument's schema as its options.

    Attributes:
        types: JSON types that the schema allows; empty if it does not say.
        document: What a `$ref` in an option leads into.
    """

    def __init__(self, schema: Json) -> None:
        self.document = Document(schema)
        self.types = self.document.types(schema)
        self._schema = schema
        self._steps = 0

    def options(self) -> list[Json]:
        """Its options, each a flat schema that stands for itself; one that is no union is its own only one.

        Of those that may be a string each has one type, a list of values, or says nothing of its type.

        Raises:
            NotForceable: Which texts the union takes cannot be told of its options one by one.
        """
        return self._split(self.document.flat(self._schema))

    def _split(self, own: Json) -> list[Json]:
        try:
            return self._split_wholly(own)
        except NotForceable:
            types = self.document.types(own)
            if types and "string" not in types:
                return [own]
            raise

    def _split_wholly(self, own: Json) -> list[Json]:
        self._steps += 1
        union = [keyword for keyword in ("anyOf", "oneOf") if isinstance(own.get(keyword), list)]
        if not union:
            return [own] if choices(own) is not None else _by_type(own)
        if self._steps > _MAX_OPTIONS or len(own[union[0]]) > _MAX_OPTIONS:
            raise NotForceable("it is a union of too many options")
        options = self._beside(own, union[0])
        if union[0] == "oneOf":
            self._check_apart(options)
        return [each for option in options for each in self._split(option)]

    def _beside(self, own: Json, keyword: str) -> list[Json]:
        """Each option with all that stands beside the union."""
        rest = {key: value for key, value in own.items() if key != keyword}
        found: list[Json] = []
        for option in own[keyword]:
            if option is False:
                continue
            both = merged(rest, self.document.flat(option))
            if both is None:
                raise NotForceable(f"its {keyword!r} and what stands beside it are not one schema")
            found.append({**both, **{key: own[key] for key in CARRIED if key in own}})
        return found

    def _check_apart(self, options: list[Json]) -> None:
        """No value fits two of the options, as far as their types and lists of values tell."""
        values: set[str] = set()
        taken = frozenset[str]()
        for option in options:
            listed = choices(option)
            kinds = self.document.types(option)
            keys = [json.dumps(value if not _whole_number(value) else int(value)) for value in listed or ()]
            apart = values.isdisjoint(keys) if listed is not None else bool(kinds) and not common_types(kinds, taken)
            if not apart:
                raise NotForceable("a value may fit two options of its 'oneOf'")
            values.update(keys)
            taken |= kinds if listed is None else frozenset()
        listed_types = frozenset(json_type(json.loads(key)) for key in values)
        if common_types(listed_types, taken):
            raise NotForceable("a value may fit two options of its 'oneOf'")


def _whole_number(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _by_type(own: Json) -> list[Json]:
    kinds = sorted(type_names(own.get("type"))) or about(own)
    return [{**own, "type": kind} for kind in kinds] if kinds else [own]


def choices(own: Json) -> list[Any] | None:
    """The values of `enum` or `const` in a flat schema that fit the rest of it; None if it has neither.

    Raises:
        NotForceable: Whether a value fits the rest cannot be told.
    """
    values = listed(own)
    if values is None:
        return None
    for keyword in _BESIDE_VALUES:
        if keyword in own:
            raise NotForceable(f"values are not held to {keyword!r} beside them")
    if "const" in own and isinstance(own.get("enum"), list):
        values = [value for value in values if any(equal(value, each) for each in own["enum"])]
    return [value for value in values if _fits(value, own)]


def _fits(value: Any, own: Json) -> bool:
    types = type_names(own.get("type"))
    if types and not common_types(types, frozenset([json_type(value)])):
        return False
    if isinstance(value, str):
        return _within(len(value), own.get("minLength"), own.get("maxLength"))
    if not isinstance(value, int | float) or isinstance(value, bool):
        return True
    above, below = own.get("exclusiveMinimum"), own.get("exclusiveMaximum")
    beyond = (_is_number(above) and value == above) or (_is_number(below) and value == below)
    return not beyond and _within(value, own.get("minimum"), own.get("maximum")) and _within(value, above, below)


def _within(value: float, least: Any, most: Any) -> bool:
    return not ((_is_number(least) and value < least) or (_is_number(most) and value > most))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def text_limits(own: Json) -> TextLimits:
    """`minLength`, `maxLength` and `pattern` of a string, of a flat schema.

    Raises:
        NotForceable: It has a keyword that free text is not held to, or its pattern is too long or anchors elsewhere
            than at its ends.
    """
    for keyword in _BESIDE_TEXT:
        if keyword in own:
            raise NotForceable(f"a text is not held to {keyword!r}")
    least, most, pattern = own.get("minLength"), own.get("maxLength"), own.get("pattern")
    return TextLimits(
        least=least if isinstance(least, int) and least >= 0 else 0,
        most=most if isinstance(most, int) and most >= 0 else None,
        pattern=_whole(pattern) if isinstance(pattern, str) else "",
    )


def exactly(text: str) -> TextLimits:
    """This text and no other."""
    return TextLimits(pattern=re.escape(text).replace("\\\n", "\\n"))


def _whole(pattern: str) -> str:
    """A pattern that is searched for, as one that matches all of a text."""
    if len(pattern) > _LONGEST_PATTERN:
        raise NotForceable(f"its pattern has more than {_LONGEST_PATTERN} characters")
    begins, ends = pattern.startswith("^"), re.search(r"(?<!\\)(?:\\\\)*\$$", pattern) is not None
    inner = pattern[1 if begins else 0 : len(pattern) - 1 if ends else len(pattern)]
    # What is escaped, in a class or in a group is not where an anchor's reach ends.
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*(?:\]|\\?\Z)", "", inner, flags=re.DOTALL)
    anchors = re.search(r"\\[bBAzZ]", re.sub(r"\\\\", "", inner)) or re.search(r"[\^$]|\(\?[=!<]", bare)
    while (shorter := re.sub(r"\([^()]*\)", "", bare)) != bare:
        bare = shorter
    if anchors or ((begins or ends) and "|" in bare):
        raise NotForceable("its pattern has anchors or looks around within")
    return ("" if begins else "(?s:.*)") + f"(?:{_in_ascii(inner)})" + ("" if ends else "(?s:.*)")


def _in_ascii(pattern: str) -> str:
    """Digits and word characters are ASCII in a schema's patterns (ECMA-262), and Unicode in llguidance's."""
    found, in_class = "", False
    for match in re.finditer(r"\\.|.", pattern, re.DOTALL):
        token = match[0]
        in_class = token == "[" or (in_class and token != "]")
        kind = _ASCII.get(token[-1].lower(), "") if len(token) == 2 else ""
        if not kind or (in_class and token[-1].isupper()):
            found += token
        else:
            found += kind if in_class else f"[^{kind}]" if token[-1].isupper() else f"[{kind}]"
    return found
