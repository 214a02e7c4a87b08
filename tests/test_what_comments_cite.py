"""What the code refers to and counts stands in docs/: rows, decisions, causes and events."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import anchord

ROOT = Path(anchord.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"
HERE = Path(__file__).parent


def sources(*roots: Path) -> Iterator[str]:
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            yield path.read_text()


def cited(word: str) -> set[int]:
    """The numbers of ``word`` in comments, docstrings and names of tests, lists ("2 and 27", "19_21") included."""
    pattern = re.compile(rf"(?:\b|_){word}s?[ _](\d+(?:(?:, | and |-|_)\d+)*)", re.IGNORECASE)
    lists = (found for text in sources(ROOT, HERE) for found in pattern.findall(text))
    return {int(number) for numbers in lists for number in re.findall(r"\d+", numbers)}


def numbered(page: str) -> list[int]:
    """The numbers in the first column of a page's tables."""
    return [int(n) for n in re.findall(r"^\| (\d+) \|", (DOCS / page).read_text(), re.MULTILINE)]


def quoted(page: str) -> set[str]:
    return set(re.findall(r"`([^`\s]+)`", (DOCS / page).read_text()))


def test_the_requirements_are_complete_and_in_order() -> None:
    assert numbered("conformance.md") == list(range(1, 152))


def test_the_decisions_are_complete_and_in_order() -> None:
    assert numbered("decisions.md") == list(range(1, 38))


def test_every_row_and_decision_that_is_cited_exists() -> None:
    assert {56, 69, 118} <= cited("row") <= set(numbered("conformance.md"))
    assert {1, 12, 35} <= cited("decision") <= set(numbered("decisions.md"))


def test_every_cause_that_is_counted_is_explained() -> None:
    text = "".join(sources(ROOT / "protocol"))
    causes = set(re.findall(r'\.(?:drop|count)\("([^"]+)"\)', text))
    assert {"unmatched-ack", "limit.pool"} <= causes <= quoted("protocol.md")
    families = set(re.findall(r'\.(?:drop|count)\(f"([^"{]+)\{', text))
    assert families
    assert all(any(word.startswith(family) for word in quoted("protocol.md")) for family in families)


def test_every_cause_of_the_wire_layer_is_explained() -> None:
    text = (ROOT / "wire/header.py").read_text() + (ROOT / "wire/options.py").read_text()
    causes = {f"malformed.{cause}" for cause in re.findall(r'WireError\("([^"]+)"', text)}
    assert {"malformed.truncated"} < causes <= quoted("protocol.md")


def test_every_event_is_explained() -> None:
    events = set(re.findall(r'(?:report|Report)\(\s*"([^"]+)"', "".join(sources(ROOT / "protocol"))))
    assert {"served", "exported"} <= events <= quoted("protocol.md")
