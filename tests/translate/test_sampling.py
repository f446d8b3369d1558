"""The table of sampling fields: what zero means, what wins, what is refused."""

import math

import pytest

from backend.core.errors import InvalidRequest
from backend.core.request import Sampling
from backend.pb import backend_pb2 as pb
from backend.translate.sampling import max_tokens_of, sampling_of

NAN, INF = math.nan, math.inf


def sampling(defaults: Sampling | None = None, **fields) -> Sampling:
    return sampling_of(pb.PredictOptions(**fields), defaults or Sampling())


def test_an_empty_request_is_greedy_with_everything_off() -> None:
    assert sampling() == Sampling()


def test_a_zero_temperature_is_greedy_whatever_the_model_defaults_say() -> None:
    assert sampling(Sampling(temperature=0.7)).temperature == 0.0


DEFAULTS = Sampling(
    top_k=7,
    top_p=0.5,
    min_p=0.25,
    typical_p=0.75,
    repetition_penalty=1.5,
    penalty_window=9,
    presence_penalty=0.5,
    frequency_penalty=-0.5,
)


def test_the_zeros_that_mean_unset_leave_the_model_defaults() -> None:
    assert sampling(DEFAULTS) == DEFAULTS


@pytest.mark.parametrize(
    ("field", "value", "attribute", "expected"),
    [
        ("TopK", 3, "top_k", 3),
        ("TopK", -1, "top_k", None),
        ("TopP", 0.25, "top_p", 0.25),
        ("MinP", 0.5, "min_p", 0.5),
        ("TypicalP", 0.5, "typical_p", 0.5),
        ("Penalty", 1.25, "repetition_penalty", 1.25),
        ("Repeat", 5, "penalty_window", 5),
        ("Repeat", -1, "penalty_window", None),
        ("PresencePenalty", 1.5, "presence_penalty", 1.5),
        ("FrequencyPenalty", 1.5, "frequency_penalty", 1.5),
        ("Temperature", 0.5, "temperature", 0.5),
        ("Seed", 0, "seed", 0),
        ("Seed", -(2**31), "seed", -(2**31)),
        ("IgnoreEOS", True, "ignore_eos", True),
    ],
)
def test_a_request_wins_over_the_model_defaults(field: str, value, attribute: str, expected) -> None:
    assert getattr(sampling(DEFAULTS, **{field: value}), attribute) == expected


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("Temperature", [NAN, INF, -INF, -1.0, -1e-9, 101.0]),
        ("TopP", [NAN, INF, -0.5, 1.5]),
        ("MinP", [NAN, INF, -0.5, 1.5]),
        ("TypicalP", [NAN, INF, -0.5, 1.5]),
        ("TopK", [-2, -(2**31)]),
        ("Repeat", [-2]),
        ("Penalty", [NAN, INF, -1.0, 1e-30, 1e30]),
        ("PresencePenalty", [NAN, INF, 2.5, -2.5]),
        ("FrequencyPenalty", [NAN, INF, 2.5, -2.5]),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_name_of_its_field(field: str, values: list) -> None:
    for value in values:
        with pytest.raises(InvalidRequest) as refused:
            sampling(**{field: value})
        assert refused.value.field == field


def test_a_top_k_of_the_whole_vocabulary_or_more_becomes_off() -> None:
    assert sampling(TopK=2**31 - 1).within(260).top_k is None
    assert sampling(TopK=260).within(260).top_k is None
    assert sampling(TopK=259).within(260).top_k == 259


def test_a_random_seed_is_drawn_only_on_request() -> None:
    wire = pb.PredictOptions(Seed=5, Metadata={"seed": "random"})
    assert sampling_of(wire, Sampling(), draw_seed=lambda: 77).seed == 77
    assert sampling(Seed=5, Metadata={"seed": "6"}).seed == 5


def test_xtc_comes_by_metadata_over_the_model_defaults() -> None:
    drawn = sampling(Sampling(xtc_probability=0.1), Metadata={"xtc_threshold": "0.2"})
    assert (drawn.xtc_probability, drawn.xtc_threshold) == (0.1, 0.2)
    assert sampling(Metadata={"xtc_probability": "0.5"}).xtc_probability == 0.5
    for bad in ("", "x", "nan", "2", "-1"):
        with pytest.raises(InvalidRequest):
            sampling(Metadata={"xtc_probability": bad})


def test_a_logit_bias_is_read_by_token_id() -> None:
    assert sampling(LogitBias='{"7": -100, "3": 1.5}').logit_bias == ((3, 1.5), (7, -100.0))
    assert sampling(LogitBias="{}").logit_bias == ()


@pytest.mark.parametrize(
    "text",
    [
        "{not json",
        "[1]",
        "null",
        '{"a": 1}',
        '{"1": "2"}',
        '{"1": true}',
        '{"1": null}',
        '{"1": NaN}',
        '{"1": Infinity}',
        '{"1": -Infinity}',
        '{"1": 1e39}',
        '{"1": 1e400}',
        '{"1": ' + "9" * 400 + "}",
        '{"1": ' + "9" * 5000 + "}",
        '{"' + "9" * 5000 + '": 1}',
        '{"1": ' + "[" * 100_000,
    ],
)
def test_a_logit_bias_that_is_not_one_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        sampling(LogitBias=text)
    assert refused.value.field.startswith("LogitBias")


@pytest.mark.parametrize("token", [-1, 260, 2**40, 10**40])
def test_a_logit_bias_outside_the_vocabulary_is_left_out(token: int) -> None:
    assert sampling(LogitBias=f'{{"{token}": 1, "5": 2}}').within(260).logit_bias == ((5, 2.0),)


@pytest.mark.parametrize("temperature", [1e-45, 1e-5, 0.00099])
def test_a_temperature_too_small_to_be_of_use_is_greedy(temperature: float) -> None:
    assert sampling(Temperature=temperature).temperature == 0
    assert sampling(Temperature=0.001).temperature == pytest.approx(0.001)


def test_tokens_zero_is_the_model_default_and_below_zero_the_rest_of_the_context() -> None:
    assert max_tokens_of(5, 9) == 5
    assert max_tokens_of(2**31 - 1, None) == 2**31 - 1
    assert max_tokens_of(0, 9) == 9
    assert max_tokens_of(0, None) is None
    assert max_tokens_of(-1, 9) is None
