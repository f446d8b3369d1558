"""Every architecture of mlx-lm answers here as it does there: alone, in company, and from the prompt cache."""

from pathlib import Path

import pytest

from tests.architectures import catalogue
from tests.architectures.findings import faults, finding, totals_of
from tests.architectures.survey import Finding
from tests.architectures.table import PAGE, rows_of

# One of each way of being served that no other test has: experts over selected latents, states of an unknown class,
# states of unlike shapes, batched wrongly by mlx-lm (three kinds), not to be cached, refused.
REPRESENTATIVE = (
    "llama",
    "deepseek_v32",
    "qwen3_next",
    "deepseek_v41",
    "longcat_flash_ngram",
    "afm7",
    "minimax_m3_vl",
    "gemma2",
    "plamo3",
    "olmo",
)


def test_every_model_module_of_mlx_lm_has_a_configuration_and_a_row_in_the_table() -> None:
    modules = catalogue.modules()
    assert sorted(catalogue.CONFIGS) == sorted(modules)
    assert sorted(rows_of(PAGE.read_text())) == sorted(modules)


SOON = ("llama",)


@pytest.mark.parametrize(
    "module", [pytest.param(name, marks=() if name in SOON else pytest.mark.slow) for name in REPRESENTATIVE]
)
def test_a_representative_architecture_answers_as_mlx_lm_does(module: str) -> None:
    assert faults(finding(module)) == []


OTHERS = [name for name in catalogue.modules() if name not in REPRESENTATIVE]


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if place % 6 else pytest.mark.slow)
        for place, name in enumerate(OTHERS)
    ],
)
def test_an_architecture_answers_as_mlx_lm_does(module: str) -> None:
    assert faults(finding(module)) == []


LOADING, HITTING = 0.97, 0.98
"""Shares that may not be fewer, of all modules and of those whose layer classes the prompt cache knows."""


# Each module is surveyed once a process: after the tests above this costs nothing.
@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_of_all_modules_nearly_all_load_and_hit_the_cache_and_none_answers_otherwise() -> None:
    totals = totals_of([finding(module) for module in catalogue.modules()])
    assert totals.loading_share >= LOADING
    assert totals.hitting_share >= HITTING
    assert totals.wrong == 0


def test_the_floors_are_told_from_findings_and_not_from_what_was_expected() -> None:
    sound = Finding(module="a", repeated=9, repeatable=9, extended=12)
    refused, wrong = Finding(module="b", refusal="no"), Finding(module="c", company=1.0)
    totals = totals_of([sound, refused, wrong])
    assert (totals.loading, totals.wrong, totals.known, totals.hitting) == (2, 1, 2, 1)
    assert (totals.loading_share, totals.hitting_share) == (2 / 3, 1 / 2)


@pytest.mark.parametrize(
    "module", ["afm7", *(pytest.param(m, marks=pytest.mark.slow) for m in ("minimax_m3_vl", "gemma2"))]
)
def test_what_mlx_lm_batches_wrongly_is_served_one_at_a_time_and_says_why(module: str) -> None:
    assert finding(module).serial_reason


@pytest.mark.parametrize(
    "module",
    [
        "llama",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("qwen3_next", "deepseek_v32", "longcat_flash_ngram")),
    ],
)
def test_what_mlx_lm_batches_rightly_is_batched(module: str) -> None:
    assert finding(module).serial_reason == ""


@pytest.mark.slow
def test_a_state_of_an_unknown_class_is_kept_whole_and_found_again() -> None:
    found = finding("deepseek_v41")
    assert not found.known
    assert found.repeated == found.repeatable > 0


def test_the_table_says_what_the_survey_of_a_module_finds() -> None:
    page = Path(PAGE).read_text()
    (row,) = [line for line in page.splitlines() if line.startswith("| `afm7` |")]
    assert f"one at a time: {finding('afm7').serial_reason}" in row
    assert row.endswith(f"| {f'no: {reason}' if (reason := finding('afm7').speculation_reason) else 'yes'} |")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("llama", ""),
        *(
            pytest.param(m, "a layer's cache cannot go back", marks=pytest.mark.slow)
            for m in ("deepseek_v41", "llama4")
        ),
    ],
)
def test_what_a_step_may_not_look_at_guesses_of_says_why(module: str, said: str) -> None:
    found = finding(module)
    assert (found.speculation_reason, found.drafts) == (said, not said)
    (row,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{module}` |")]
    assert row.endswith(f"| no: {said} |" if said else "| yes |")
