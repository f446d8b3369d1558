"""Qwen 3 Coder: functions and parameters as tags."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nZ\u00fcrich\n</parameter>\n"
        "<parameter=days>\n2\n</parameter>\n<parameter=detailed>\ntrue\n</parameter>\n</function>\n</tool_call>",
        (("get_weather", {"city": "Z\u00fcrich", "days": 2, "detailed": True}),),
    ),
    Golden(
        "Hm.\n\n<tool_call>\n<function=now>\n</function>\n</tool_call>\n<tool_call>\n<function=get_weather>\n"
        '<parameter=places>\n["a", "b"]\n</parameter>\n<parameter=options>\n{"k": 1.5}\n</parameter>\n'
        "<parameter=ratio>\n5.0\n</parameter>\n</function>\n</tool_call>",
        (("now", {}), ("get_weather", {"places": ["a", "b"], "options": {"k": 1.5}, "ratio": 5})),
        content="Hm.",
    ),
    Golden(
        "<tool_call><function=write><parameter=text>\n  def f():\n    return '</tool_call>'\n\n</parameter>"
        "</function></tool_call>",
        (("write", {"text": "  def f():\n    return '</tool_call>'\n"}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        "I look.\n<function=get_weather>\n<parameter=city>\nBern\n</parameter>\n</function>\n</tool_call>",
        (("get_weather", {"city": "Bern"}),),
        content="I look.",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<function=now>\n</function>\n\nDone.",
        (("now", {}),),
        content="Done.",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<tool_call>\n<function=f>\n<parameter=first  name>\nx\n</parameter>\n</function>\n</tool_call>",
        (("f", {"first  name": "x"}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nBern\n<parameter=days>\n3\n<parameter=options>\n"
        '{"a": 1}\n</function>\n</tool_call>',
        (("get_weather", {"city": "Bern", "days": 3, "options": {"a": 1}}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<function=get_weather>\n<parameter=city>\nBern\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=now>\n</function>\n</tool_call>",
        (("get_weather", {"city": "Bern"}), ("now", {})),
        same_as_mlx_lm=False,
    ),
    Golden("In XML <function=x> is a tag.", content="In XML <function=x> is a tag.", same_as_mlx_lm=False),
    Golden(
        "<tool_call>\n<function=now>\n</tool_call> x",
        content="<tool_call>\n<function=now>\n</tool_call> x",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut_and_as_mlx_lm_does(golden: Golden):
    check("qwen3_coder", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("qwen3_coder", GOLDEN)
