"""xLAM 2: a bare list of call objects where the answer begins."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '[{"name": "get_weather", "arguments": {"city": "Z\u00fcrich", "days": 2}}]',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        '[{"name": "now", "arguments": {}}, {"name": "get_weather", "arguments": {"options": {"a": [1, null, true]}}}]',
        (("now", {}), ("get_weather", {"options": {"a": [1, None, True]}})),
        same_as_mlx_lm=False,
    ),
    Golden(
        "[1, 2]",
        content="[1, 2]",
        same_as_mlx_lm=False,
    ),
    Golden(
        '[{"name": "unknown", "arguments": {}}]',
        content='[{"name": "unknown", "arguments": {}}]',
        same_as_mlx_lm=False,
    ),
    Golden(
        "[]\nNo tool fits.",
        content="[]\nNo tool fits.",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("xlam", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("xlam", GOLDEN)
