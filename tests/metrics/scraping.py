"""Scrapes, read by Prometheus's own parser."""

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Scrape:
    """What one scrape told."""

    samples: dict[str, dict[tuple[tuple[str, str], ...], float]]
    kinds: dict[str, str]

    @classmethod
    def of(cls, text: str) -> "Scrape":
        """Parse the plain text format."""
        samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        families = list(text_string_to_metric_families(text))
        for sample in (sample for family in families for sample in family.samples):
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in samples.setdefault(sample.name, {}), f"{sample.name}{labels} is told twice"
            samples[sample.name][labels] = sample.value
        return cls(samples, {family.name: family.type for family in families})

    def __getitem__(self, name: str) -> float:
        """The one sample of a metric without labels, by its name without our prefix."""
        ((labels, value),) = self.samples[f"mlx_worker_{name}"].items()
        assert not labels
        return value

    def by(self, name: str, label: str) -> dict[str, float]:
        """A metric by one of its labels, samples that are alike in it added up."""
        found: dict[str, float] = {}
        for labels, value in self.samples.get(f"mlx_worker_{name}", {}).items():
            found[dict(labels)[label]] = found.get(dict(labels)[label], 0.0) + value
        return found

    def words(self) -> Iterator[str]:
        """All label values but those of `*_info` metrics."""
        for name, samples in self.samples.items():
            if not name.endswith("info"):
                yield from (value for labels in samples for _, value in labels)


def get(url: str, seconds: float = 60.0) -> str:
    """The text at a URL."""
    with urllib.request.urlopen(url, timeout=seconds) as reply:
        return reply.read().decode()


def scrape(url: str) -> Scrape:
    """One scrape."""
    return Scrape.of(get(url))
