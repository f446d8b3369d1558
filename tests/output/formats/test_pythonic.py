"""LFM2: calls as Python writes them."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<|tool_call_start|>[get_weather(city="Z\u00fcrich", days=2)]<|tool_call_end|>',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
    ),
    Golden(
        "Hm.\n<|tool_call_start|>[now(), api.get(a={'b': [1, None, true]}, c='it\\'s \U0001f30d',)]<|tool_call_end|>Ok",
        (("now", {}), ("api.get", {"a": {"b": [1, None, True]}, "c": "it's \U0001f30d"})),
        content="Hm.\nOk",
    ),
    Golden(
        "<|tool_call_start|>[\u8abf\u3079\u308b.\u5929\u6c17(\u540d\u524d='x', gr\u00f6\u00dfe=1), "
        "read-file(\u0928\u093e\u092e=2, to-line=3)]<|tool_call_end|>",
        (
            ("\u8abf\u3079\u308b.\u5929\u6c17", {"\u540d\u524d": "x", "gr\u00f6\u00dfe": 1}),
            ("read-file", {"\u0928\u093e\u092e": 2, "to-line": 3}),
        ),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<|tool_call_start|>[f(a b=1)] [2f(a=1)]",
        content="<|tool_call_start|>[f(a b=1)] [2f(a=1)]",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<|tool_call_start|>[{"name": "now", "arguments": {}}]<|tool_call_end|>',
        (("now", {}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<|tool_call_start|>[now(), f(a=__import__)]<|tool_call_end|>",
        (("now", {}),),
        content=", f(a=__import__)]<|tool_call_end|>",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<|tool_call_start|>[f(__import__("os"))]<|tool_call_end|>',
        content='<|tool_call_start|>[f(__import__("os"))]<|tool_call_end|>',
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut_and_as_mlx_lm_does(golden: Golden):
    check("pythonic", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("pythonic", GOLDEN)
