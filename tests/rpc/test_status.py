"""The table from errors to status codes."""

from backend.core import errors
from backend.rpc.status import MAX_DETAILS_BYTES, STATUS, one_line, status_of


def test_every_error_has_a_status_code() -> None:
    assert STATUS.keys() == set(errors.WorkerError.__subclasses__())


def test_only_a_missing_model_and_a_failed_load_are_failed_precondition() -> None:
    # Hosts reload the model on this code.
    code = STATUS[errors.ModelNotLoaded]
    assert {kind for kind in STATUS if STATUS[kind] is code} == {errors.ModelNotLoaded, errors.ModelLoadFailed}


def test_an_error_of_a_kind_has_the_code_of_its_kind() -> None:
    class TooLong(errors.InvalidRequest):
        pass

    assert status_of(TooLong("Prompt", "x"))[0] is STATUS[errors.InvalidRequest]


def test_details_are_one_line_of_at_most_a_kibibyte() -> None:
    assert one_line("a\n b\r\n\tc") == "a b c"
    assert len(one_line("é" * 5000).encode()) <= MAX_DETAILS_BYTES
    assert one_line("\ud800x\u202e\0") == r"\ud800x\u202e\x00"
