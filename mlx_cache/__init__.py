"""A thread-safe prefix cache for the key/value state of MLX models. Importing it does not import mlx."""

from mlx_cache.blocks import InconsistentCache, UnsupportedLayer
from mlx_cache.cache import PromptCache, ThreadSafeLRUPromptCache
from mlx_cache.competing import CompetingPolicy
from mlx_cache.disk import DiskTier, DiskUnusable
from mlx_cache.policy import EvictionPolicy, LeafLru, ValuePerByte
from mlx_cache.results import Fetched, Inserted
from mlx_cache.stats import Reason, Refusal

__all__ = [
    "CompetingPolicy",
    "DiskTier",
    "DiskUnusable",
    "EvictionPolicy",
    "Fetched",
    "InconsistentCache",
    "Inserted",
    "LeafLru",
    "PromptCache",
    "Reason",
    "Refusal",
    "ThreadSafeLRUPromptCache",
    "UnsupportedLayer",
    "ValuePerByte",
]
