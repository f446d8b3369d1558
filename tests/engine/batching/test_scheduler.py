"""The prefill policy: chunk ends depend on the prompt alone, load only decides whose turn it is."""

from hypothesis import given
from hypothesis import strategies as st

from backend.engine.batching.scheduler import AGEING_STEPS, Prefilling, chunk_ends, next_end, plan_chunks

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


def prompts() -> st.SearchStrategy[list[Prefilling]]:
    sizes = st.lists(st.integers(1, 600), min_size=1, max_size=6).map(tuple)
    return st.lists(st.builds(Prefilling, sizes, st.integers(0, 50)), min_size=1, max_size=8)


@given(prompts(), st.integers(1, 2000))
def test_a_plan_stays_within_its_budget_but_always_runs_something(waiting: list[Prefilling], budget: int) -> None:
    plan = plan_chunks(waiting, budget, 512)
    sizes = [waiting[index].chunks[plan[:place].count(index)] for place, index in enumerate(plan)]
    assert plan
    assert len(plan) == 1 or sum(sizes) <= budget


def test_a_short_prompt_goes_before_a_long_one_and_the_long_one_gets_its_turn_by_waiting() -> None:
    long, short = Prefilling((512,) * 16, 0), Prefilling((300,), 0)
    assert plan_chunks([long, short], 512, 512) == [1]
    patient = Prefilling((512,) * 16, 16 * AGEING_STEPS)
    assert plan_chunks([patient, short], 512, 512) == [0]


def test_several_short_prompts_share_one_step() -> None:
    assert plan_chunks([Prefilling((100,), 0)] * 6, 512, 512) == [0, 1, 2, 3, 4]
