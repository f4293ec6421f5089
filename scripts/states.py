"""Write docs/states.md from the transition tables: `python scripts/states.py > docs/states.md`."""

from trusted_pool.core.tables import ATTEMPT, JOB
from trusted_pool.core.words import ATTEMPT_FINAL, JOB_FINAL, AttemptState, JobState
from trusted_pool.core.worker import HEALTH


def _diagram(edges: list[tuple[str, str, str]], final: list[str]) -> list[str]:
    lines = ["```mermaid", "stateDiagram-v2"]
    grouped: dict[tuple[str, str], list[str]] = {}
    for source, kind, target in edges:
        grouped.setdefault((source, target), []).append(kind)
    lines += [f"    {a} --> {b}: {', '.join(kinds)}" for (a, b), kinds in grouped.items() if a != b]
    lines += [f"    {state} --> [*]" for state in final]
    return [*lines, "```", ""]


def _table(edges: list[tuple[str, str, str]], kind_title: str) -> list[str]:
    lines = [f"| from | {kind_title} | to |", "|---|---|---|"]
    lines += [f"| {source} | {kind} | {'(stays)' if source == target else target} |" for source, kind, target in edges]
    return [*lines, ""]


def render() -> str:
    """Return the page."""
    job = [(a.value, move.value, b.value) for (a, move), b in JOB.items()]
    attempt = [(a.value, kind, b.value) for (a, kind), b in ATTEMPT.items()]
    health = [(a.value, kind, b.value) for (a, kind), b in HEALTH.items()]
    parts = [
        "# States",
        "",
        "Made by `python scripts/states.py` from the tables in `core`; a test compares. A pair that a table does not",
        "hold is illegal: it raises and changes nothing.",
        "",
        "## Job",
        "",
        "A job moves by what a happening means for it, which `core/advance.py` decides.",
        "",
        *_diagram(job, [s.value for s in JobState if s in JOB_FINAL]),
        *_table(job, "move"),
        "## Attempt",
        "",
        "An attempt moves by what happened. Messages carry its number; one about another attempt is stale.",
        "",
        *_diagram(attempt, [s.value for s in AttemptState if s in ATTEMPT_FINAL]),
        *_table(attempt, "happening"),
        "## Worker health",
        "",
        *_diagram(health, []),
        *_table(health, "check"),
    ]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    print(render(), end="")
