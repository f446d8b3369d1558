"""One row's caches out of a batch's, without copying what nobody asked for."""

from typing import Any

from mlx_lm.models.cache import BatchKVCache, CacheList, KVCache


def row_caches(caches: list[Any], index: int) -> list[Any]:
    """Row `index` of every layer's batch cache, as single-row caches of mlx-lm.

    A plain KV layer becomes a view: mlx-lm's `extract` would copy the whole row, of which the prompt cache
    usually has all but the answer. Other layers go through `extract`. Nothing here is evaluated.
    """
    return [_row_cache(cache, index) for cache in caches]


def _row_cache(cache: Any, index: int) -> Any:
    if type(cache) is BatchKVCache and cache.keys is not None:
        # The attributes are not typed in mlx-lm.
        batch: Any = cache
        padding: int = batch.left_padding.tolist()[index]
        row: Any = KVCache()
        row.keys = batch.keys[index : index + 1, :, padding : batch._idx]  # noqa: SLF001  mlx-lm has no getter
        row.values = batch.values[index : index + 1, :, padding : batch._idx]  # noqa: SLF001
        row.offset = row.keys.shape[2]
        return row
    if type(cache) is CacheList:
        return CacheList(*(_row_cache(inner, index) for inner in cache.caches))
    return cache.extract(index)


def nbytes(caches: list[Any] | None) -> int:
    """Bytes that a row's caches hold."""
    return sum(int(cache.nbytes) for cache in caches) if caches else 0
