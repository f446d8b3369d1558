"""DeepSeek V3.2 and V4: DSML."""

import pytest

from backend.output import OutputFormat
from backend.output.formats import formats
from tests.output.golden import Golden, check, check_damaged


def dsml(text: str) -> str:
    """With DeepSeek's bars in place of plain ones."""
    return text.replace("|", "\uff5c")


GOLDEN = (
    Golden(
        dsml(
            '<think>A.</think>\n\n<|DSML|function_calls>\n<|DSML|invoke name="get_weather">\n'
            '<|DSML|parameter name="city" string="true">Z\u00fcrich</|DSML|parameter>\n'
            '<|DSML|parameter name="days" string="false">2</|DSML|parameter>\n</|DSML|invoke>\n</|DSML|function_calls>'
        ),
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        reasoning="A.",
        same_as_mlx_lm=False,
    ),
    Golden(
        dsml(
            'Two.\n<|DSML|tool_calls>\n<|DSML|invoke name="now">\n</|DSML|invoke>\n<|DSML|invoke name="get_weather">\n'
            '<|DSML|parameter name="options" string="false">{"a": [1, null, true]}</|DSML|parameter>\n'
            "</|DSML|invoke>\n</|DSML|tool_calls>"
        ),
        (("now", {}), ("get_weather", {"options": {"a": [1, None, True]}})),
        content="Two.",
        same_as_mlx_lm=False,
    ),
    Golden(
        dsml(
            '<|DSML|tool_calls><|DSML|invoke name="f"><|DSML|parameter name="a" string="true">3</|DSML|parameter>'
            '<|DSML|parameter name="b" string="false">3</|DSML|parameter>'
            '<|DSML|parameter name="c">3</|DSML|parameter></|DSML|invoke></|DSML|tool_calls>'
        ),
        (("f", {"a": "3", "b": 3, "c": "3"}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        dsml("<|DSML|function_calls>no</|DSML|function_calls>"),
        content=dsml("<|DSML|function_calls>no</|DSML|function_calls>"),
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("deepseek_v32", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("deepseek_v32", GOLDEN)


@pytest.mark.parametrize("section", ["function_calls", "tool_calls"])
def test_forced_calls_stand_in_the_section_that_the_template_names(section: str):
    fitted = formats()["deepseek_v32"].fitted(dsml(f"<|DSML|{section}>"))
    written = OutputFormat(calls=fitted).call_sections[0]
    assert written.begin == dsml(f"<|DSML|{section}>\n")
    assert written.end == dsml(f"\n</|DSML|{section}>")
    assert fitted.call_start == dsml(f"<|DSML|{section}>")
