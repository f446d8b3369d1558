"""Seed-OSS: functions and parameters as tags, in a section of its own name."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Z\u00fcrich</parameter>\n"
        "<parameter=days>2</parameter>\n</function>\n</seed:tool_call>",
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        "I look.\n<seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>\n<seed:tool_call>\n"
        '<function=get_weather>\n<parameter=places>["a</parameter>"]</parameter>\n</function>\n</seed:tool_call>',
        (("now", {}), ("get_weather", {"places": ["a</parameter>"]})),
        content="I look.",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<function=get_weather>\n<parameter=city>Bern</parameter>\n</function>\n</seed:tool_call>",
        (("get_weather", {"city": "Bern"}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<seed:tool_call>\n<function=now>\nplease",
        content="<seed:tool_call>\n<function=now>\nplease",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("seed_oss", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("seed_oss", GOLDEN)
