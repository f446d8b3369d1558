"""Any history of an engine gives what the model alone does, ends everybody once, and leaves nothing."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.engine.machine.machine import EngineMachine
from tests.engine.machine.planting import Planting

FEW = settings(max_examples=5, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

@pytest.mark.parametrize(("family", "sampler"), [("qwen3", "device"), ("gemma3_text", "host"), ("qwen3_next", "host")])
def test_any_history(family, sampler, tmp_path):
    M = EngineMachine.of(tmp_path, family, sampler)
    run_state_machine_as_test(M, settings=FEW)
    print(M.ran, M.totals, Planting.happened)
