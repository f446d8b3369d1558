"""Mistral and Devstral: a JSON list, or names and arguments one after the other."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Z\u00fcrich"}}, {"name": "now", "arguments": {}}]',
        (("get_weather", {"city": "Z\u00fcrich"}), ("now", {})),
    ),
    Golden(
        '[TOOL_CALLS]get_weather[ARGS]{"city": "\U0001f30d", "days": 2}',
        (("get_weather", {"city": "\U0001f30d", "days": 2}),),
    ),
    Golden(
        'Hm.[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]get_weather[ARGS]{"city": "[TOOL_CALLS]"}',
        (("now", {}), ("get_weather", {"city": "[TOOL_CALLS]"})),
        content="Hm.",
        same_as_mlx_lm=False,
    ),
    Golden(
        '[TOOL_CALLS]now[CALL_ID]abc123def[ARGS]{}get_weather[ARGS]{"days": 1}Done now.',
        (("now", {}), ("get_weather", {"days": 1})),
        content="Done now.",
        same_as_mlx_lm=False,
    ),
    Golden(
        '[TOOL_CALLS] {"name": "now", "arguments": {}}',
        (("now", {}),),
        same_as_mlx_lm=False,
    ),
    Golden("[TOOL_CALLS]now[ARGS][1]", content="[TOOL_CALLS]now[ARGS][1]", same_as_mlx_lm=False),
    Golden('[TOOL_CALLS][{"name": "now"', content='[TOOL_CALLS][{"name": "now"', same_as_mlx_lm=False),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut_and_as_mlx_lm_does(golden: Golden):
    check("mistral", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("mistral", GOLDEN)
