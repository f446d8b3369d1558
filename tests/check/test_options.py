"""The arguments of the check."""

from pathlib import Path

import pytest

from backend.check.options import SECTIONS, parse_options


def test_everything_runs_on_a_random_model_unless_told_otherwise() -> None:
    told = parse_options([])
    assert told.sections == tuple(SECTIONS)
    assert (told.model, told.shape, told.budget_s, told.strict) == (None, "90m", None, False)


def test_sections_keep_their_order_whatever_order_they_are_named_in() -> None:
    assert parse_options(["--only", "churn,device,decode", "--skip", "decode"]).sections == ("device", "churn")


def test_a_model_of_ones_own_is_in_place_of_a_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_options(["--model", "/m"]).model == Path("/m")
    with pytest.raises(SystemExit):
        parse_options(["--model", "/m", "--shape", "1b"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--only", "nothing"], ["--shape", "huge"], ["--sampler", "gpu"]])
def test_what_there_is_not_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(wrong)
    assert ended.value.code == 2
    assert wrong[1] in capsys.readouterr().err
