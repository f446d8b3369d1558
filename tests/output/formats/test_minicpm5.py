"""MiniCPM 5: functions without a wrapper, difficult values in CDATA."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<function name="get_weather"><param name="city">Z\u00fcrich</param><param name="days">2</param></function>',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
    ),
    Golden(
        'Hm.\n<function name="now"></function>\n<function name="get_weather">\n<param name="city">'
        "<![CDATA[a < b && \n\U0001f30d]]></param>\n</function>",
        (("now", {}), ("get_weather", {"city": "a < b && \n\U0001f30d"})),
        content="Hm.",
    ),
    Golden(
        '<function name="w"><param name="t"><![CDATA[</param></function>]]></param></function>',
        (("w", {"t": "</param></function>"}),),
        same_as_mlx_lm=False,
    ),
    Golden('Write <function name="x"> like so.', content='Write <function name="x"> like so.', same_as_mlx_lm=False),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut_and_as_mlx_lm_does(golden: Golden):
    check("minicpm5", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("minicpm5", GOLDEN)
