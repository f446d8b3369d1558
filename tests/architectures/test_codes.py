"""The page of which architectures hold quantised keys and values says what the worker does."""

import pytest

from tests.architectures import catalogue
from tests.architectures.codes import PAGE, codes, rows_of

REPRESENTATIVE = ("glm4", "gemma3n", "lfm2", "minicpm3", "plamo2")


def row(module: str) -> str:
    (found,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{module}` |")]
    return found


def test_every_model_module_of_mlx_lm_has_a_row() -> None:
    assert sorted(rows_of(PAGE.read_text())) == sorted(catalogue.modules())


def test_no_answer_in_company_or_from_the_cache_is_another() -> None:
    assert "inf" not in [cell.strip() for line in PAGE.read_text().splitlines() for cell in line.split("|")]


@pytest.mark.slow
@pytest.mark.parametrize("module", REPRESENTATIVE)
def test_the_page_says_what_a_load_says(module: str) -> None:
    for one in codes(module):
        assert (one.refusal or str(one).partition(" |")[0]) in row(module)
