"""What a metrics endpoint tells, as numbers by name and labels."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

# A sample's name and the values of its labels, in the order of the labels' names.
JobFacts = dict[tuple[str, ...], float]


def scrape(port: int) -> JobFacts:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def names(told: JobFacts) -> set[str]:
    return {name for name, *_ in told}


def grown(before: JobFacts, after: JobFacts, prefix: str = "") -> JobFacts:
    """By how much each number is larger, of those whose name begins so."""
    return {key: value - before.get(key, 0.0) for key, value in after.items() if key[0].startswith(prefix)}
