"""A disk tier below the prompt cache: files of KV that outlive the process. Importing it does not import mlx."""

from mlx_cache.disk.place import Place
from mlx_cache.disk.root import DiskUnusable
from mlx_cache.disk.tier import DiskTier
from mlx_cache.disk.upkeep import Stored

__all__ = ["DiskTier", "DiskUnusable", "Place", "Stored"]
