"""Tries a loaded model out before it serves: alone, in company, and in pieces. Engine thread only."""

from backend.engine.loading.probe.codes import CodesRefused, probe_with_codes
from backend.engine.loading.probe.reach import Reach, reach_of
from backend.engine.loading.probe.trial import ProbeFailed, ProbeResult, first_pass, probe

__all__ = ["CodesRefused", "ProbeFailed", "ProbeResult", "Reach", "first_pass", "probe", "probe_with_codes", "reach_of"]
