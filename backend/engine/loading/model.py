"""Loads a model directory with mlx-lm. Engine thread only: what is made here belongs to the thread."""

import gc
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from backend.config import ModelConfig
from backend.core.errors import ModelLoadFailed
from backend.core.logline import logline
from backend.engine.kv.going_back import can_go_back
from backend.engine.kv.merging import alone
from backend.engine.loading.backbone import find_backbone, same_backbone
from backend.engine.loading.context import served_context
from backend.engine.loading.draft_model import config_of_draft, of_draft_model
from backend.engine.loading.dtype import main_dtype
from backend.engine.loading.failures import check_cancelled, guarded
from backend.engine.loading.files import ModelFiles
from backend.engine.loading.fingerprint import namespace
from backend.engine.loading.kernel_cache import keep_kernels, why_no_cpu_kernels
from backend.engine.loading.kv_cost import leaves
from backend.engine.loading.kv_options import check_kv_options, kv_format, stored_format, unquantisable
from backend.engine.loading.loaded import NOT_OVER_RANKS, Backbone, LoadedModel
from backend.engine.loading.probe import (
    CodesRefused,
    ProbeFailed,
    ProbeResult,
    first_pass,
    probe,
    probe_with_codes,
    reach_of,
)
from backend.engine.loading.progress import Progress
from backend.engine.loading.score_bytes import score_bytes
from backend.engine.loading.sharding import Sharding
from backend.engine.loading.step_bytes import step_bytes
from backend.engine.loading.vocabulary import check_vocabulary
from backend.engine.loading.weights import DTYPES, made_of, parameters, read_model, set_float32, weight_bytes
from backend.engine.quantized.conversion import new_row
from backend.engine.quantized.kv_format import KVFormat

log = logging.getLogger(__name__)

# mlx-lm's rotating cache keeps the first 4 tokens; below this there is no room to rotate in.
LEAST_MAX_KV_SIZE = 16


def load(
    config: ModelConfig,
    files: ModelFiles,
    *,
    progress: Progress | None,
    cancelled: Callable[[], bool],
    known: LoadedModel | None = None,
    sharding: Sharding | None = None,
) -> LoadedModel:
    """Load, adapt and probe the model of these files; a known one is the same again, or fails.

    Raises:
        ModelLoadFailed: One line that names the file or field.
    """
    try:
        loaded = _load(config, files, progress=progress, cancelled=cancelled, known=known, sharding=sharding)
        return _with_draft(loaded, config, files, progress=progress, cancelled=cancelled, known=known)
    except ModelLoadFailed as error:
        message = error.message
    # The first error's traceback holds the half-loaded model; so does cyclic garbage. A new error holds nothing.
    gc.collect()
    mx.clear_cache()
    raise ModelLoadFailed(message)


@dataclass(frozen=True, slots=True)
class _RowCaches:
    """What a row keeps of its tokens: `plain()` gives fresh caches of numbers; codes are held as `kv` says."""

    plain: Callable[[], list[Any]]
    kv: KVFormat | None

    @property
    def new(self) -> Callable[[], list[Any]]:
        """Gives a row's fresh caches."""
        plain, kv = self.plain, self.kv
        return plain if kv is None else lambda: new_row(plain, kv)


def _choose_kernels() -> None:
    keep_kernels(mx.device_info(), os.environ)
    if mx.default_device() == mx.cpu and (reason := why_no_cpu_kernels(os.environ)):
        # What is compiled is faster by a little; without a compiler on the machine nothing is.
        log.warning(logline("kernels_not_compiled", reason=reason))
        mx.disable_compile()


def _load(
    config: ModelConfig,
    files: ModelFiles,
    *,
    progress: Progress | None,
    cancelled: Callable[[], bool],
    known: LoadedModel | None,
    sharding: Sharding | None,
) -> LoadedModel:
    _check_options(config, sharding)
    _choose_kernels()
    model, settings = read_model(config, files, progress=progress, cancelled=cancelled, sharding=sharding)
    caches = _RowCaches(_cache_maker(model, config.max_kv_size), kv_format(config))
    if sharding is not None:
        sharding.ready(sorted({type(leaf).__name__ for leaf in leaves(caches.plain())}))
    if known is not None:
        return _again(known, model, caches.new)
    forward = _asking(model, cancelled if sharding is None else sharding.cancelled)
    result = _probed(forward, model, caches, settings, files.directory, speculates=bool(config.engine.drafters))
    stored = _stored_format(config, model, caches.plain)
    check_vocabulary(files, model, result.vocab_size)
    check_cancelled(cancelled)
    backbone = find_backbone(model, cancelled=cancelled) if sharding is None else NOT_OVER_RANKS
    loaded = _described(config, files, model, settings, caches, stored, result, backbone)
    _log_loaded(loaded)
    return loaded


def _described(
    config: ModelConfig,
    files: ModelFiles,
    model: Any,
    settings: Mapping[str, Any],
    caches: _RowCaches,
    stored: KVFormat | None,
    result: ProbeResult,
    backbone: Backbone | str,
) -> LoadedModel:
    """All that is known of a model that runs."""
    directory, tokenizer, dtype = files.directory, files.tokenizer, main_dtype(parameters(model))
    namespace_now = partial(
        namespace,
        config,
        directory,
        tokenizer=files.tokenizer_directory,
        adapter=files.adapter,
        facts=f"{dtype} mlx={version('mlx')} mlx_lm={version('mlx-lm')}",
    )
    serial_reason = _serial_reason(model, config, result)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        config=settings,
        path=directory,
        vocab_size=result.vocab_size,
        context_length=served_context(settings, config.context),
        eos_ids=frozenset(int(t) for t in tokenizer.eos_token_ids if 0 <= int(t) < result.vocab_size),
        namespace=guarded(str(directory), namespace_now),
        namespace_now=namespace_now,
        weight_bytes=weight_bytes(model),
        step_bytes=step_bytes(model, settings),
        dtype=dtype,
        batchable=not serial_reason,
        serial_reason=serial_reason,
        speculation_reason=result.speculation_reason,
        kv_cost=result.kv_cost,
        uncached_reason=result.uncached_reason,
        kept_whole=result.kept_whole,
        device=device_name(),
        new_cache=caches.new,
        kv=caches.kv,
        stored_kv=stored,
        score_bytes=score_bytes(settings, getattr(mx, dtype).size) if caches.kv is not None else 0,
        backbone=backbone,
        sentence=files.sentence,
    )


def _with_draft(
    loaded: LoadedModel,
    config: ModelConfig,
    files: ModelFiles,
    *,
    progress: Progress | None,
    cancelled: Callable[[], bool],
    known: LoadedModel | None,
) -> LoadedModel:
    """The model with its draft model, if it has one and may look at what that guesses."""
    if files.draft is None or loaded.speculation_reason:
        return loaded
    with of_draft_model():
        draft = _load(
            config_of_draft(config),
            files.draft,
            progress=progress,
            cancelled=cancelled,
            known=None if known is None else known.draft,
            sharding=None,
        )
        if draft.serial_reason:
            raise ModelLoadFailed(f"{draft.path}: its rows cannot guess together: {draft.serial_reason}")
        caches = first_pass(draft.model, draft.new_cache)
        if not can_go_back([alone(cache) for cache in caches]):
            raise ModelLoadFailed(f"{draft.path}: a layer's cache cannot go back to before a wrong guess")
    return replace(loaded, draft=draft)


def _again(known: LoadedModel, model: Any, new_cache: Callable[[], list[Any]]) -> LoadedModel:
    """What is known of the model, with its weights.

    Raises:
        ModelLoadFailed: They are not those that it is known of.
    """
    if main_dtype(parameters(model)) != known.dtype:
        # Its trial had shown that it runs in no other.
        set_float32(model)
    if guarded(str(known.path), known.namespace_now) != known.namespace or weight_bytes(model) != known.weight_bytes:
        raise ModelLoadFailed(f"{known.path}: its files have changed while they were read")
    backbone = known.backbone
    if isinstance(backbone, Backbone):
        backbone = same_backbone(backbone, model)
    return replace(known, model=model, new_cache=new_cache, backbone=backbone)


def _check_options(config: ModelConfig, sharding: Sharding | None) -> None:
    if sharding is None and config.engine.ranks != "auto":
        raise ModelLoadFailed("ranks: this worker is one process; mlx-worker ranks starts several")
    if config.dtype and config.dtype not in DTYPES:
        raise ModelLoadFailed(f"dtype: must be one of {', '.join(DTYPES)}, is {config.dtype!r}")
    if config.max_kv_size is not None and config.max_kv_size < LEAST_MAX_KV_SIZE:
        raise ModelLoadFailed(f"max_kv_size: must be at least {LEAST_MAX_KV_SIZE}, is {config.max_kv_size}")
    check_kv_options(config)


def _cache_maker(model: Any, max_kv_size: int | None) -> Callable[[], list[Any]]:
    if max_kv_size is not None and hasattr(model, "make_cache"):
        # As mlx_lm.stream_generate does: such a model's layers choose their caches themselves.
        log.warning(logline("max_kv_size_ignored", reason="the model makes its own caches"))
        return model.make_cache
    return lambda: make_prompt_cache(model, max_kv_size)


def _asking(model: Any, cancelled: Callable[[], bool]) -> Callable[..., mx.array]:
    """The model, asking before each pass whether it is still wanted: a slow machine has minutes of them."""

    def forward(*args: Any, **options: Any) -> mx.array:
        check_cancelled(cancelled)
        return model(*args, **options)

    return forward


def _probed(
    forward: Callable[..., mx.array],
    model: Any,
    caches: _RowCaches,
    settings: Mapping[str, Any],
    directory: Path,
    *,
    speculates: bool,
) -> ProbeResult:
    def tried() -> ProbeResult:
        reach, weights = reach_of(settings), weight_bytes(model)
        if caches.kv is None:
            return probe(forward, caches.plain, reach=reach, weight_bytes=weights, speculates=speculates)
        try:
            return probe_with_codes(
                forward, caches.plain, caches.kv, reach=reach, weight_bytes=weights, speculates=speculates
            )
        except CodesRefused as error:
            raise ModelLoadFailed(f"kv_bits: {directory.name} cannot hold quantised keys and values: {error}") from None

    try:
        return tried()
    except ProbeFailed as error:
        reason = str(error)
    if main_dtype(parameters(model)) == "float32":
        raise ModelLoadFailed(f"{made_of(directory)}: the model does not run: {reason}")
    # Every kernel of every device has float32: experts on a CPU have nothing else, float16 may overflow.
    log.warning(logline("dtype_adapted", was=main_dtype(parameters(model)), now="float32", reason=reason))
    set_float32(model)
    try:
        return tried()
    except ProbeFailed as error:
        reason = str(error)
    raise ModelLoadFailed(f"{made_of(directory)}: the model does not run: {reason}")


def _stored_format(config: ModelConfig, model: Any, new_cache: Callable[[], list[Any]]) -> KVFormat | None:
    stored = stored_format(config)
    reason = unquantisable(first_pass(model, new_cache), stored) if stored is not None else ""
    if reason:
        raise ModelLoadFailed(f"cache_kv_bits: what the prompt cache keeps of this model cannot be quantised: {reason}")
    return stored


def _serial_reason(model: Any, config: ModelConfig, result: ProbeResult) -> str:
    if config.max_kv_size is not None and not hasattr(model, "make_cache"):
        return "max_kv_size: a merge of rotating caches loses the first tokens that they keep"
    return result.serial_reason


def device_name() -> str:
    """The device that MLX computes on, with its name where it has one."""
    kind = "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu"
    info: Mapping[str, Any] = mx.device_info()
    name = str(info.get("device_name", ""))
    return f"{kind} ({name})" if name and name != kind else kind


def _log_loaded(loaded: LoadedModel) -> None:
    log.info(
        logline(
            "model_loaded",
            path=loaded.path,
            type=loaded.config.get("model_type"),
            dtype=loaded.dtype,
            weight_bytes=loaded.weight_bytes,
            vocab=loaded.vocab_size,
            context=loaded.context_length,
            mode="batched" if loaded.batchable else "serial",
            serial_reason=loaded.serial_reason or None,
            speculation_reason=loaded.speculation_reason or None,
            uncached_reason=loaded.uncached_reason or None,
            device=loaded.device,
            kv=loaded.kv,
            stored_kv=loaded.stored_kv,
        )
    )
