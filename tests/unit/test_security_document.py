"""docs/security.md: every test and attack that it names is there, and no promise stands without one."""

import re
from pathlib import Path

import pytest

from support.attacks import ATTACKS, LONG_ATTACKS

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/security.md").read_text()
TESTS = re.findall(r"`((?:unit|security|acceptance|properties|crash|contract)/\w+\.py)::(\w+)`", DOCUMENT)
NAMED = re.findall(r"attack\s+`([^`]+)`", DOCUMENT)
#: Sections that promise something; the others say who, what not, and where to.
PROMISES = (
    "From whom",
    "What a request cannot do",
    "What a job cannot do",
    "Limits",
    "What is left of a job",
    "What an operator lends",
)
#: What no test can show.
UNTESTED = ("Sockets and pipes in a lent directory", "Its filter of system calls", "**No GPU was there")


def section(title: str) -> str:
    return DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def claims(text: str) -> list[str]:
    """Rows of tables but their heads, and items of lists."""
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    items = re.findall(r"^- .*(?:\n  .*)*", text, re.MULTILINE)
    return rows[1:] + items


@pytest.mark.parametrize(("path", "name"), sorted(set(TESTS)))
def test_each_test_that_is_named_exists(path: str, name: str):
    assert re.search(rf"^(async )?def {name}\(", (ROOT / "tests" / path).read_text(), re.MULTILINE)


def test_each_attack_that_is_named_exists():
    there = {attack.name for attack in (*ATTACKS, *LONG_ATTACKS)}
    assert set(NAMED) <= there, set(NAMED) - there
    assert len(set(NAMED)) > 35


@pytest.mark.parametrize("title", PROMISES)
def test_no_promise_stands_without_a_test(title: str):
    found = claims(section(title))
    assert len(found) > 2
    for claim in found:
        if not any(words in claim for words in UNTESTED):
            assert re.search(r"\.py::\w+`|attack\s+`", claim), claim


def test_what_looks_like_a_test_is_read_as_one():
    assert len(re.findall(r"\.py::", DOCUMENT)) == len(TESTS)
    assert len(re.findall(r"\battack\s+`", DOCUMENT, re.IGNORECASE)) == len(NAMED)
