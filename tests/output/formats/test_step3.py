"""Step 3: calls in tags, each in a frame, all in a section."""

import pytest

from tests.output.golden import Golden, check, check_damaged

BAR = "\uff5c"
BEGIN, END = f"<{BAR}tool_calls_begin{BAR}>", f"<{BAR}tool_calls_end{BAR}>"


def framed(call: str) -> str:
    return f"<{BAR}tool_call_begin{BAR}>function<{BAR}tool_sep{BAR}>{call}<{BAR}tool_call_end{BAR}>"


WEATHER = (
    '<steptml:invoke name="get_weather">\n<steptml:parameter name="city">Z\u00fcrich</steptml:parameter>\n'
    '<steptml:parameter name="days">2</steptml:parameter>\n</steptml:invoke>'
)
NOW = '<steptml:invoke name="now"></steptml:invoke>'
BROKEN = '<steptml:invoke name="get_weather">Bern</steptml:invoke>'
GOLDEN = (
    Golden(
        f"{BEGIN}{framed(WEATHER)}{END}",
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        f"Hm.\n{BEGIN}\n{framed(NOW)}\n{framed(WEATHER)}\n{END} Done.",
        (("now", {}), ("get_weather", {"city": "Z\u00fcrich", "days": 2})),
        content="Hm.\n Done.",
        same_as_mlx_lm=False,
    ),
    Golden(
        f"{BEGIN}{framed(NOW)}{framed(BROKEN)}{framed(NOW)}{END}",
        (("now", {}), ("now", {})),
        content=framed(BROKEN),
        same_as_mlx_lm=False,
    ),
    Golden(f"The marker {BEGIN} opens calls.", content=f"The marker {BEGIN} opens calls.", same_as_mlx_lm=False),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("step3", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("step3", GOLDEN)
