"""Llama 3: bare call objects where the answer begins."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '{"name": "get_weather", "parameters": {"city": "Z\u00fcrich", "days": 2}}',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Z\u00fcrich", "days": 2}}',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        '\n{"name": "now", "parameters": {}}; {"type": "function", "name": "get_weather",'
        ' "arguments": {"options": {"a": [1, null, true]}}}\nOk.',
        (("now", {}), ("get_weather", {"options": {"a": [1, None, True]}})),
        content="Ok.",
        same_as_mlx_lm=False,
    ),
    Golden(
        '[{"name": "now", "parameters": {}}]',
        (("now", {}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        '{"name": "Bob", "age": 5}',
        content='{"name": "Bob", "age": 5}',
        same_as_mlx_lm=False,
    ),
    Golden(
        '{"name": "now", "age": 5}',
        content='{"name": "now", "age": 5}',
        same_as_mlx_lm=False,
    ),
    Golden(
        '{"city": "{", "name": "now"}',
        content='{"city": "{", "name": "now"}',
        same_as_mlx_lm=False,
    ),
    Golden(
        'Like {"name": "now", "parameters": {}}',
        content='Like {"name": "now", "parameters": {}}',
        same_as_mlx_lm=False,
    ),
    Golden(
        "<|python_tag|>print(1)",
        content="<|python_tag|>print(1)",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<think>A.</think>\n\n{"name": "now", "parameters": {}}',
        (("now", {}),),
        reasoning="A.",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("llama3_json", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("llama3_json", GOLDEN)
