"""The prefill policy: chunk ends depend on the prompt alone, load only decides whose turn it is."""

from hypothesis import given
from hypothesis import strategies as st

from backend.engine.batching.scheduler import (
    AGEING,
    LEAST_CHUNK,
    Prefilling,
    chunk_ends,
    most_urgent,
    next_end,
    waited_after,
)

LENGTHS = st.integers(1, 5000)
CHUNKS = st.integers(1, 700)
BOUNDARIES = st.lists(st.integers(-10, 6000), max_size=5)


@given(LENGTHS, CHUNKS, BOUNDARIES)
def test_chunks_cover_everything_but_the_last_token(n: int, chunk: int, boundaries: list[int]) -> None:
    ends = chunk_ends(n, chunk, boundaries)
    assert list(ends) == sorted(set(ends))
    if n == 1:
        assert ends == ()
        return
    assert ends[0] > 0 and ends[-1] == n - 1
    assert all(b - a <= chunk for a, b in zip((0, *ends), ends, strict=False))


@given(LENGTHS, CHUNKS, BOUNDARIES, st.integers(0, 5000))
def test_a_hit_anywhere_goes_on_at_the_same_chunk_ends(n: int, chunk: int, boundaries: list[int], hit: int) -> None:
    ends = chunk_ends(n, chunk, boundaries)
    position, seen = min(hit, n - 1), []
    while (end := next_end(ends, position)) != position:
        seen.append(end)
        position = end
    assert seen == [end for end in ends if end > min(hit, n - 1)]


@given(LENGTHS, st.sampled_from([512, 2048]), BOUNDARIES, st.integers(1, 1 << 20))
def test_chunks_get_shorter_where_scores_would_be_over_their_bound(
    n: int, chunk: int, boundaries: list[int], scores: int
) -> None:
    ends = chunk_ends(n, chunk, boundaries, scores=scores)
    for start, end in zip((0, *ends), ends, strict=False):
        assert (end - start) * end <= scores or end - start <= LEAST_CHUNK
    # A longer prompt with the same beginning is cut in the same way as far as this one goes.
    longer = chunk_ends(n + 1000, chunk, boundaries, scores=scores)
    assert [end for end in ends if end < n - 1] == [end for end in longer if end < n - 1]


def test_chunks_stay_as_they_are_where_their_scores_fit() -> None:
    assert chunk_ends(5000, 512, (), scores=512 * 5120) == chunk_ends(5000, 512, ())
    assert chunk_ends(200, 128, (), scores=128 * 64) == (64, 128, 160, 192, 199)


def test_a_short_prompt_goes_before_a_long_one_and_the_long_one_gets_its_turn_by_waiting() -> None:
    long, short = Prefilling(8192, 0), Prefilling(300, 0)
    assert most_urgent([long, short]) == 1
    assert most_urgent([Prefilling(8192, 8192 * AGEING), short]) == 0


def test_a_prompt_in_the_middle_of_a_chunk_gives_way_to_a_shorter_one() -> None:
    assert most_urgent([Prefilling(8192 - 256, 0), Prefilling(300, 0)]) == 1


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.floats(0, 1e6))
def test_a_chunk_uses_up_what_its_prompt_has_waited_however_it_is_sliced(slices: list[int], waited: float) -> None:
    left = float(sum(slices))
    for ran in slices:
        after = waited_after(waited, ran, left)
        assert 0 <= after <= waited
        waited, left = after, left - ran
    assert waited == 0


@given(st.integers(2, 40), st.integers(0, 30))
def test_none_starves_beside_short_prompts_that_keep_coming(chunks: int, layers: int) -> None:
    chunk, waited, ran = 512.0, 0.0, 0
    for _ in range(AGEING * chunks * 2):
        long = Prefilling(chunks * chunk, waited)
        if most_urgent([long, Prefilling(100, 0)]) == 0:
            ran += 1
            waited = waited_after(waited, chunk / (layers + 1), chunk)
        else:
            waited += chunk
    assert ran
