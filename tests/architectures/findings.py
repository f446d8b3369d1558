"""Runs the survey of many architectures, each once a process, and says what a row of the table says."""

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.architectures import catalogue
from tests.architectures.survey import Finding, survey

# Refusals that are the device's or the installation's, in the words that the worker uses.
EXPECTED_REFUSALS = {
    "bitnet": "No Metal back-end",
    "muse_spark": "No Metal back-end",
    "olmo": "wants to end the process",
}


@functools.cache
def finding(module: str) -> Finding:
    """What the survey finds of one module's small model."""
    with tempfile.TemporaryDirectory() as folder:
        return survey(catalogue.write(Path(folder) / module, module))


def faults(found: Finding) -> list[str]:
    """What is not as it should be; each as one line."""
    if found.refusal:
        expected = EXPECTED_REFUSALS.get(found.module)
        return [] if expected and expected in found.refusal else [f"{found.module}: {found.refusal}"]
    said = []
    if not found.right:
        said.append(f"{found.module}: differs by {found.alone:.1g}, {found.company:.1g}, {found.hits:.1g}")
    if not found.hit and not found.uncached_reason:
        said.append(f"{found.module}: {found.repeated} of {found.repeatable}, {found.extended} of {found.extendable}")
    return said


@dataclass(frozen=True, slots=True)
class Totals:
    """What the page says of all modules together.

    Attributes:
        loading: Modules whose model loads.
        wrong: Of those, the ones that answer otherwise than mlx-lm.
        known: Of those, the ones whose layer classes the prompt cache knows.
        hitting: Of the known, the ones that take all of a repeated prompt that they can from it.
        guessing: Of those that load, the ones of which a step may look at guessed tokens.
    """

    count: int
    loading: int
    wrong: int
    known: int
    hitting: int
    guessing: int

    @property
    def loading_share(self) -> float:
        """Of all modules."""
        return self.loading / self.count

    @property
    def hitting_share(self) -> float:
        """Of the known."""
        return self.hitting / self.known


def totals_of(found: Sequence[Finding]) -> Totals:
    """Counts over all findings."""
    loading = [one for one in found if not one.refusal]
    known = [one for one in loading if one.known]
    return Totals(
        count=len(found),
        loading=len(loading),
        wrong=sum(not one.right for one in loading),
        known=len(known),
        hitting=sum(one.hit for one in known),
        guessing=sum(not one.speculation_reason for one in loading),
    )
