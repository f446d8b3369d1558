"""Whether a regular expression matches the empty text. Pure; linear, since it is read and never run."""

import re

_TOKEN = re.compile(
    r"(?P<one>\\[pPxuU]\{[^}]*\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*(?:\]|\\?\Z))"
    r"|(?P<flags>\(\?[a-zA-Z-]*\))"
    r"|(?P<open>\((?:\?(?:P?<\w+>|[a-zA-Z-]*:))?)"
    r"|(?P<optional>(?:[*?]|\{0+(?:,\d*)?\})\??)"
    r"|(?P<repeated>(?:\+|\{\d+(?:,\d*)?\})\??)"
    r"|(?P<other>.)",
    re.DOTALL,
)


def matches_nothing(pattern: str) -> bool:
    """Whether the empty text is one that the pattern matches as a whole; what is no pattern gets any answer.

    Args:
        pattern: Without anchors and without looking around.
    """
    # Of each group that is open: whether an option before, and what of this option before the last item, may be empty.
    options, before, last = [False], [True], True
    for match in _TOKEN.finditer(pattern):
        kind, text = match.lastgroup, match[0]
        if kind == "optional":
            last = True
        elif kind == "repeated":
            continue
        elif text == ")" and len(options) > 1:
            earlier, lead = options.pop(), before.pop()
            last = earlier or (lead and last)
        elif text == "|":
            options[-1] = options[-1] or (before[-1] and last)
            before[-1] = last = True
        else:
            before[-1] = before[-1] and last
            last = kind in ("flags", "open")
            if kind == "open":
                options.append(False)
                before.append(True)
    return options[0] or (before[0] and last)
