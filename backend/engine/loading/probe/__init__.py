"""Tries a loaded model out before it serves: alone, in company, and in pieces. Engine thread only."""

from backend.engine.loading.probe.reach import Reach, reach_of
from backend.engine.loading.probe.trial import ProbeFailed, ProbeResult, probe

__all__ = ["ProbeFailed", "ProbeResult", "Reach", "probe", "reach_of"]
