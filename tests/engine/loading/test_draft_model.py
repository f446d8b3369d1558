"""Which draft models are loaded, and what is said of the others."""

import shutil
from pathlib import Path

import pytest

from backend.config import ALL_DRAFTERS, EngineConfig
from backend.core.errors import ModelLoadFailed
from backend.engine.batching.asleep import without_weights
from backend.engine.handle import EngineHandle
from backend.engine.loading import load_model
from backend.engine.loading.draft_model import check_same_tokens
from tests.engine.drafting import with_draft, without
from tests.engine.harness import read, request, with_engine
from tests.models import write_model, write_tokenizer


def refusal(folder: Path, **options: object) -> str:
    with pytest.raises(ModelLoadFailed) as refused:
        load_model(with_draft(folder, **options))  # type: ignore[arg-type]
    assert refused.value.__cause__ is None and refused.value.__context__ is None
    return refused.value.message


def test_a_tokenizer_that_gives_another_id_to_any_piece_is_refused() -> None:
    same = {"a": 0, "b": 1, "<end>": 2}
    check_same_tokens(Path("d"), same, dict(same))
    for found, words in (
        ({"a": 0, "b": 2, "<end>": 1}, "'b' is token 2 there and token 1 in the model's; 2 of 3 pieces differ"),
        ({"a": 0, "b": 1}, "'<end>' is no token there and token 2 in the model's; 1 of 3 pieces differ"),
        ({**same, "c": 3}, "'c' is token 3 there and no token in the model's; 1 of 4 pieces differ"),
    ):
        with pytest.raises(ModelLoadFailed, match="d: has another tokenizer than the model: ") as refused:
            check_same_tokens(Path("d"), same, found)
        assert refused.value.message.endswith(words)


def test_a_model_is_loaded_with_the_one_that_guesses_for_it(tmp_path: Path) -> None:
    loaded = load_model(with_draft(tmp_path, seed=3))
    draft = loaded.draft
    assert draft is not None and draft.path == tmp_path / "draft" and draft.draft is None
    assert loaded.all_weight_bytes == loaded.weight_bytes + draft.weight_bytes
    assert load_model(without(with_draft(tmp_path))).draft is None


def test_what_cannot_guess_is_refused_in_words(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a", draft="llama4").startswith(f"DraftModel: {tmp_path}/a/draft: ")
    config = with_draft(tmp_path / "b", drafters=ALL_DRAFTERS)
    write_tokenizer(tmp_path / "b" / "draft", 271)
    with pytest.raises(ModelLoadFailed, match=f"DraftModel: {tmp_path}/b/draft: has another tokenizer"):
        load_model(config)
    shutil.rmtree(tmp_path / "b" / "draft")
    with pytest.raises(ModelLoadFailed, match="DraftModel: model path does not exist"):
        load_model(config)


def test_one_of_fewer_logits_serves_as_far_as_it_has_tokens(tmp_path: Path) -> None:
    """Vocabularies are padded to unlike widths: the tokens beyond a tokenizer's own are nobody's."""
    config = with_draft(tmp_path)
    write_model(tmp_path / "model", "qwen3", vocab=300)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "draft" / name, tmp_path / "model" / name)
    loaded = load_model(config)
    assert loaded.draft is not None and (loaded.vocab_size, loaded.draft.vocab_size) == (300, 272)


def test_a_model_that_may_not_look_at_guesses_is_served_without_one_that_makes_them(tmp_path: Path) -> None:
    config = with_draft(tmp_path, drafters=ALL_DRAFTERS)
    shutil.rmtree(tmp_path / "model")
    write_model(tmp_path / "model", "llama4")
    loaded = load_model(config)
    assert loaded.draft is None and loaded.speculation_reason


def test_a_model_that_wakes_up_wakes_with_its_draft_model_or_not_at_all(tmp_path: Path) -> None:
    config = with_draft(tmp_path, seed=3)
    known = without_weights(load_model(config))
    assert known.draft is not None and known.draft.model is None
    again = load_model(config, known=known)
    assert again.draft is not None and again.draft.model is not None
    assert again.draft.namespace == known.draft.namespace
    write_model(tmp_path / "draft", "qwen3", seed=4)
    assert known.draft.namespace_now() != known.draft.namespace
    with pytest.raises(ModelLoadFailed, match="DraftModel: .*/draft: its files have changed"):
        load_model(config, known=known)


def test_it_counts_in_the_budget_and_info_tells_of_it(tmp_path: Path) -> None:
    async def body(handle: EngineHandle) -> tuple[int, int, str]:
        await read(handle, request("a", n=4))
        wanted = await handle.with_session(lambda session: session.budget.projected(100))
        return wanted, handle.status().breakdown["weights"], handle.info().details.get("draft_model", "")

    config = with_draft(tmp_path, engine=EngineConfig(kv_bytes=1 << 24))
    projected, memory, told = with_engine(config, body)
    alone, without_it, silent = with_engine(without(config), body)
    assert projected == 2 * alone and memory == 2 * without_it and not silent
    assert told == f"{tmp_path}/draft: {without_it} bytes of weights, 512 bytes of KV a token, none kept for later rows"
