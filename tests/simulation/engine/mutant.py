"""Deliberate bugs: what they are, and how they are put into the product while a run lasts."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import msgspec

Mutation = Callable[[], AbstractContextManager[None]]
#: What is put in the place of which attribute.
Patches = dict[tuple[Any, str], Any]


class Mutant(msgspec.Struct, frozen=True):
    """A deliberate bug: what is wrong then, and the kinds of finding that may tell of it."""

    breaks: Mutation
    found_as: tuple[str, ...]


MUTANTS: dict[str, Mutant] = {}


def mutant(*found_as: str) -> Callable[[Callable[[], Patches]], None]:
    """List a bug under its function's name. What is patched is the bug itself, not a stand-in for something."""

    def add(patches: Callable[[], Patches]) -> None:
        @contextmanager
        def broken() -> Iterator[None]:
            changes = patches()
            before = {(owner, name): owner.__dict__[name] for owner, name in changes}
            for (owner, name), new in changes.items():
                setattr(owner, name, new)
            try:
                yield
            finally:
                for (owner, name), old in before.items():
                    setattr(owner, name, old)

        MUTANTS[patches.__name__] = Mutant(broken, found_as)

    return add
