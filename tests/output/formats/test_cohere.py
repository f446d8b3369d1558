"""Command R7B and Command A: a list of actions; plans and answers between markers."""

import pytest

from tests.output.cutting import run
from tests.output.golden import Golden, check, check_damaged, format_named

IDS = '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "now", "parameters": {}}]<|END_ACTION|>'
GOLDEN = (
    Golden(
        '<|START_THINKING|>I look.<|END_THINKING|><|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name":'
        ' "get_weather", "parameters": {"city": "Z\u00fcrich", "days": 2}}\n]<|END_ACTION|>',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        reasoning="I look.",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<|START_ACTION|>[{"tool_name": "now", "parameters": {}}, {"tool_call_id":'
        ' "1", "tool_name": "f", "parameters": {"a": "]"}}]<|END_ACTION|>',
        (("now", {}), ("f", {"a": "]"})),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<|START_RESPONSE|>Gr\u00fc\u00dfe.<|END_RESPONSE|>",
        content="Gr\u00fc\u00dfe.",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<|START_ACTION|>[{"name": "now"}]<|END_ACTION|>',
        content='<|START_ACTION|>[{"name": "now"}]<|END_ACTION|>',
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("cohere", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("cohere", GOLDEN)


def test_the_models_own_ids_are_not_kept():
    whole = run(format_named("cohere"), [IDS])
    assert [delta.id for delta in whole.tool_calls if delta.name] == ["id0"]
