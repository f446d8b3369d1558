"""ModelOptions into ModelConfig."""

import json

import pytest

from backend.config import CacheConfig, Drafter, EngineConfig, ModelConfig
from backend.core.errors import ModelLoadFailed
from backend.core.request import Sampling
from backend.pb import backend_pb2 as pb
from backend.translate.options import OPTIONS, LoadDefaults, LoadRequest, load_request


def load(*options: str, defaults: LoadDefaults | None = None, **fields) -> LoadRequest:
    wire = pb.ModelOptions(**{"Model": "m", **fields}, Options=options)
    return load_request(wire, defaults or LoadDefaults())


def config(*options: str, **fields) -> ModelConfig:
    return load(*options, **fields).config


def refusal(*options: str, **fields) -> str:
    with pytest.raises(ModelLoadFailed) as refused:
        load(*options, **fields)
    return refused.value.message


@pytest.mark.parametrize(
    ("fields", "candidates"),
    [
        ({"Model": "/a/b"}, ("/a/b",)),
        ({"Model": "x", "ModelPath": "/models", "ModelFile": "/models/x"}, ("/models/x", "x")),
        ({"Model": "x", "ModelPath": "/models", "ModelFile": "/staged/x"}, ("/staged/x", "/models/x", "x")),
        ({"Model": "/abs", "ModelPath": "/models", "ModelFile": ""}, ("/abs",)),
        ({"Model": "own/name", "ModelPath": "/models"}, ("/models/own/name", "own/name")),
        ({"Model": "file:///a/b"}, ("/a/b",)),
        ({"Model": "hf://own/name", "ModelFile": "/models/f"}, ("/models/f", "hf://own/name")),
        ({"Model": "huggingface://own/name"}, ("hf://own/name",)),
        ({"Model": "https://huggingface.co/own/name/tree/main"}, ("hf://own/name",)),
        ({"Model": "", "ModelFile": "/models/f"}, ("/models/f",)),
    ],
)
def test_candidates_are_in_the_hosts_order(fields: dict, candidates: tuple[str, ...]) -> None:
    assert config(**fields).candidates == candidates


def test_the_identity_is_the_name_verbatim() -> None:
    assert config(Model="hf://Own/Name").identity == "hf://Own/Name"


def test_a_load_without_a_name_is_refused() -> None:
    assert "Model" in refusal(Model="")


@pytest.mark.parametrize(
    ("options", "fields", "context"),
    [
        ((), {}, None),
        ((), {"ContextSize": 4096}, None),
        (("use_context_size:true",), {"ContextSize": 4096}, 4096),
        (("use_context_size:false",), {"ContextSize": 64}, None),
        ((), {"ContextSize": 64}, 64),
        (("context_size:128",), {"ContextSize": 64}, 128),
        (("context_size:128",), {"ContextSize": 64, "MaxModelLen": 32}, 32),
    ],
)
def test_a_context_of_4096_is_what_hosts_send_for_none(options, fields: dict, context: int | None) -> None:
    assert config(*options, **fields).context == context


def test_a_negative_context_is_refused() -> None:
    assert "ContextSize" in refusal(ContextSize=-1)
    assert "MaxModelLen" in refusal(MaxModelLen=-1)


def test_options_set_every_part_of_the_configuration() -> None:
    loaded = config(
        "prompt_cache_size:4",
        "prompt_cache_bytes: 1GiB",
        "prompt_cache_all:false",
        "strip_agent_header:no",
        "max_kv_size:512",
        "parallel:3",
        "queue_size:8",
        "top_k:5",
        "top_p:0.5",
        "repeat_last_n:-1",
        "max_tokens:99",
        "chat_template:{{ a:b }}",
        "tool_parser:hermes",
        'chat_template_kwargs:{"enable_thinking": false}',
        "revision:main",
    )
    assert loaded.cache == CacheConfig(max_sequences=4, max_bytes=1 << 30, keep_answers=False, strip_agent_header=False)
    assert loaded.engine == EngineConfig(max_rows=3, queue_size=8)
    assert loaded.defaults == Sampling(top_k=5, top_p=0.5, penalty_window=None)
    assert (loaded.max_kv_size, loaded.default_max_tokens, loaded.chat_template) == (512, 99, "{{ a:b }}")
    assert (loaded.tool_parser, loaded.revision) == ("hermes", "main")
    assert loaded.template_kwargs == {"enable_thinking": False}


def test_unknown_options_are_one_warning_and_the_load_goes_on() -> None:
    request = load("gpu_frob:1", "cache_ram:2", "cache_ram:2", "top_k:5")
    assert request.warnings == ("Options: unknown keys ignored: gpu_frob, cache_ram",)
    assert request.config.defaults.top_k == 5


def test_an_unknown_engine_argument_is_an_error() -> None:
    assert "gpu_frob" in refusal(EngineArgs='{"gpu_frob": 1}')


def test_engine_arguments_win_over_options_and_the_workers_own_settings() -> None:
    own = LoadDefaults(engine=EngineConfig(max_rows=1, queue_size=2, prefill_chunk=3))
    loaded = load("max_rows:10", "queue_size:20", defaults=own, EngineArgs='{"max_rows": 100}').config
    assert loaded.engine == EngineConfig(max_rows=100, queue_size=20, prefill_chunk=3)


@pytest.mark.parametrize("text", ["{", "[]", "1", '{"max_rows": "x"}', '{"max_rows": true}', '{"max_rows": 1.5}'])
def test_broken_engine_arguments_are_refused_with_the_field(text: str) -> None:
    assert refusal(EngineArgs=text).startswith("EngineArgs")


@pytest.mark.parametrize(
    "option",
    [
        "max_rows:0",
        "max_rows:-1",
        "max_rows:1e3",
        "max_rows:" + "9" * 5000,
        "top_p:nan",
        "top_p:2",
        "top_p:0",
        "prompt_cache_bytes:-1",
        "prompt_cache_bytes:lots",
        "prompt_cache_all:maybe",
        "dtype:int4",
        "sampler:gpu",
        "chat_template_kwargs:[]",
        'chat_template_kwargs:{"messages": []}',
        'chat_template_kwargs:{"add_generation_prompt": false}',
        'chat_template_kwargs:{"documents": "text"}',
        "tool_parser:../x",
        "speculation:",
        "speculation:fast",
        "speculation:auto,ngram",
        "speculation:ngram,,cache",
        "speculation:draft",
        "speculation:ngram,draft",
        "max_draft:0",
        "max_draft:33",
        "reasoning_parser:zz",
        "context_size:0",
    ],
)
def test_a_known_option_with_a_wrong_value_is_refused_with_its_name(option: str) -> None:
    assert refusal(option).startswith(("Options", "speculation"))


def test_every_key_of_options_works_as_an_engine_argument_too() -> None:
    values = {
        "tool_parser": "Hermes",
        "reasoning_parser": "deepseek-r1",
        "template_kwargs": {},
        "sampler": "auto",
        "ranks": "tensor",
        "drafters": "cache",
        "warm_up": "on",
        "isolation": "strict",
        "directory": "x",
        "dtype": "auto",
        "kv_bits": 4,
        "kv_group_size": 32,
        "pooling": "mean",
        "normalize": 2,
        "prompt": "query",
        "rerank": "cosine",
        "instruction": "x",
    }
    flags = ("use_context_size", "trust_remote_code", "cache.keep_answers", "cache.strip_agent_header")
    texts = ("revision", "tokenizer", "chat_template", "chat_template_file")
    for key, (target, _) in OPTIONS.items():
        name = target.rpartition(".")[2]
        value = values.get(name, True if target in flags else "x" if target in texts else 1)
        value = 0.5 if key == "xtc_threshold" else value
        load(EngineArgs=json.dumps({key: value}))


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("12", 12), ("2kb", 2000), ("2K", 2048), ("2KiB", 2048), ("1MB", 10**6), ("1GiB", 2**30)],
)
def test_sizes_are_read_with_decimal_and_binary_units(text: str, size: int) -> None:
    assert config(f"prompt_cache_bytes:{text}").cache.max_bytes == size


def test_remote_code_needs_the_workers_word_too() -> None:
    request = load(TrustRemoteCode=True)
    assert not request.config.trust_remote_code
    assert "TrustRemoteCode" in request.warnings[0]
    assert load(TrustRemoteCode=True, defaults=LoadDefaults(allow_remote_code=True)).config.trust_remote_code
    assert not load(defaults=LoadDefaults(allow_remote_code=True)).config.trust_remote_code


def test_what_every_request_sets_itself_is_a_warning_and_not_a_default() -> None:
    request = load("temperature:0.7")
    assert "temperature" in request.warnings[0]
    assert request.config.defaults == Sampling()


def test_a_draft_model_is_looked_for_where_models_are() -> None:
    for named, candidates in (
        ("/models/x", ("/models/x",)),
        ("small/x", ("/models/small/x", "small/x")),
        ("hf://owner/small", ("hf://owner/small",)),
        # As hosts send a hub id.
        ("/models/owner/small", ("/models/owner/small", "hf://owner/small")),
        ("/elsewhere/owner/small", ("/elsewhere/owner/small",)),
        ("", ()),
    ):
        asked = load(DraftModel=named, ModelPath="/models")
        assert asked.config.draft_candidates == candidates and not asked.warnings
    only = load("speculation:draft", DraftModel="/models/x").config
    assert (only.engine.drafters, only.draft_candidates) == ({Drafter.MODEL}, ("/models/x",))


@pytest.mark.parametrize("drafters", ["off", "ngram", "ngram,cache,grammar"])
def test_a_draft_model_that_is_not_to_be_used_is_not_loaded(drafters: str) -> None:
    asked = load(f"speculation:{drafters}", DraftModel="/models/x")
    assert not asked.config.draft_candidates
    assert asked.warnings == ("DraftModel: not loaded, for speculation is not to use it",)


@pytest.mark.parametrize(
    ("text", "drafters"),
    [
        ("auto", set(Drafter)),
        ("off", set()),
        ("ngram", {Drafter.TEXT}),
        ("Cache, grammar", {Drafter.CACHE, Drafter.GRAMMAR}),
        ("ngram,cache,grammar", {Drafter.TEXT, Drafter.CACHE, Drafter.GRAMMAR}),
    ],
)
def test_drafters_are_named_one_by_one_or_all_together(text: str, drafters: set[Drafter]) -> None:
    assert config(f"speculation:{text}").engine.drafters == drafters
    assert config(EngineArgs=json.dumps({"speculation": text})).engine.drafters == drafters


def test_all_drafters_there_are_is_the_default_and_can_be_turned_off() -> None:
    assert config().engine == config("speculation:auto").engine == EngineConfig()
    assert (EngineConfig().drafters, EngineConfig().max_draft) == (set(Drafter), 16)
    assert not config(EngineArgs='{"speculation": false}').engine.drafters


def test_a_draft_model_that_is_asked_for_and_not_given_is_told_so() -> None:
    assert refusal("speculation:draft") == "speculation: draft needs a DraftModel, and none is given"


def test_an_adapter_and_a_tokenizer_go_on_as_named_with_the_places_to_look_in() -> None:
    loaded = config(LoraAdapter="lora", Tokenizer="tok", ModelPath="/models", defaults=LoadDefaults(file_roots=("/x",)))
    assert (loaded.adapter, loaded.tokenizer, loaded.file_roots) == ("lora", "tok", ("/models", "/x"))
    assert config(LoraAdapters=["/x/lora"], ModelPath="/models").adapter == "/x/lora"
    assert config(LoraAdapter="a", LoraAdapters=["a"]).adapter == "a"
    assert config(Tokenizer="own/name", ModelPath="/models").tokenizer == "own/name"


def test_two_adapters_are_refused() -> None:
    assert "LoraAdapters" in refusal(LoraAdapters=["a", "b"])


@pytest.mark.parametrize(("text", "dtype"), [("", ""), ("auto", ""), ("half", "float16"), ("BF16", "bfloat16")])
def test_dtypes_have_the_names_that_hosts_use(text: str, dtype: str) -> None:
    assert config(DType=text).dtype == dtype


def test_the_same_options_give_equal_configurations() -> None:
    assert config("top_k:5", ContextSize=64) == config("top_k:5", ContextSize=64)
    assert config("top_k:5") != config("top_k:6")


@pytest.mark.parametrize("option", ["watchdog_s:0", "watchdog_s:off", "watchdog_s:0.0"])
def test_a_watchdog_of_no_time_is_none_as_with_the_flag(option: str) -> None:
    assert config(option).engine.watchdog_s is None
    assert load(EngineArgs='{"watchdog_s": 0}').config.engine.watchdog_s is None


def test_a_model_may_sleep_after_some_seconds_or_never() -> None:
    assert config().engine.model_idle_s is None
    assert config("model_idle_s:0.5").engine.model_idle_s == 0.5
    assert load(EngineArgs='{"model_idle_s": 900}').config.engine.model_idle_s == 900
    told = LoadDefaults(engine=EngineConfig(model_idle_s=60))
    assert load(defaults=told).config.engine.model_idle_s == 60
    for off in ("off", "0"):
        assert load(f"model_idle_s:{off}", defaults=told).config.engine.model_idle_s is None
    assert "model_idle_s" in refusal("model_idle_s:soon")


def test_a_size_of_zero_is_a_size_and_auto_is_none() -> None:
    zero = config("kv_bytes:0", "prompt_cache_bytes:0", "prompt_cache_size:0")
    assert (zero.engine.kv_bytes, zero.cache.max_bytes, zero.cache.max_sequences) == (0, 0, 0)
    own = LoadDefaults(engine=EngineConfig(kv_bytes=5), cache=CacheConfig(max_sequences=6, max_bytes=7))
    auto = load("kv_bytes:auto", "prompt_cache_bytes:auto", "prompt_cache_size:auto", defaults=own).config
    assert (auto.engine.kv_bytes, auto.cache.max_bytes, auto.cache.max_sequences) == (None, None, None)


@pytest.mark.parametrize(
    ("fields", "made_for"),
    [({}, ""), ({"Embeddings": True}, "embeddings"), ({"Embeddings": True, "Reranking": True}, "reranking")],
)
def test_a_host_says_what_a_model_is_made_for(fields: dict, made_for: str) -> None:
    assert load(**fields).config.pooled.made_for == made_for


def test_lengths_of_embeddings_are_numbered_as_in_llama_cpp() -> None:
    assert config("embd_normalize:2").pooled.normalize is True
    assert config("embd_normalize:-1").pooled.normalize is False
    with pytest.raises(ModelLoadFailed, match="embd_normalize"):
        config("embd_normalize:1")
