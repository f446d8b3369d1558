"""DeepSeek: V3.1's calls, and the fenced ones of V3 and R1."""

import json

import pytest

from backend.output import OutputFormat
from backend.output.formats import formats
from tests.output.cutting import calls_in, run
from tests.output.golden import TOOLS, Golden, check, check_damaged, shaped

BAR, LOW = "\uff5c", "\u2581"
BEGIN, END = f"<{BAR}tool{LOW}calls{LOW}begin{BAR}>", f"<{BAR}tool{LOW}calls{LOW}end{BAR}>"
SEPARATOR = f"<{BAR}tool{LOW}sep{BAR}>"


def call(text: str) -> str:
    return f"<{BAR}tool{LOW}call{LOW}begin{BAR}>{text}<{BAR}tool{LOW}call{LOW}end{BAR}>"


NOW = call(f"now{SEPARATOR}{{}}")
FENCED = call(f'function{SEPARATOR}get_weather\n```json\n{{"city": "Bern"}}\n```')
GOLDEN = (
    Golden(
        BEGIN + call(f'get_weather{SEPARATOR}{{"city": "Z\u00fcrich", "days": 2}}') + END,
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        f"Hm.{BEGIN}{NOW}{call(f'now{SEPARATOR}')}{END}",
        (("now", {}), ("now", {})),
        content="Hm.",
        same_as_mlx_lm=False,
    ),
    Golden(
        f"{BEGIN}{FENCED}\n{FENCED}{END}",
        (("get_weather", {"city": "Bern"}), ("get_weather", {"city": "Bern"})),
        same_as_mlx_lm=False,
    ),
    Golden(
        f"{BEGIN}{call(f'function{SEPARATOR}' + json.dumps({'days': 1}))}{END}",
        (("function", {"days": 1}),),
        same_as_mlx_lm=False,
    ),
    Golden(f"{BEGIN}now{END}", content=f"{BEGIN}now{END}", same_as_mlx_lm=False),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("deepseek_v3", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("deepseek_v3", GOLDEN)


def test_a_template_with_fences_gets_forced_calls_with_fences():
    older = OutputFormat(calls=formats()["deepseek_v3"].fitted("```json"))
    text = shaped(older, "now", "{}")
    assert "function" in text and "```json\n{}\n```" in text
    assert calls_in(run(older, list(text), tools=TOOLS)) == [("now", "{}")]
