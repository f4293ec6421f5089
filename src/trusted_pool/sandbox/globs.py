"""The patterns of the manifest's `outputs`.

A pattern is anchored at the job's directory. `*`, `?` and `[…]` stay inside one name, `**` spans directories.

- `results/` is every file below a directory of that name; wildcards may be in it.
- `report.pdf`, without a wildcard, is that file, or every file below a directory of that name.
- `*.png` are files at the top; `**/*.png` files anywhere; `**` is everything.
"""

import fnmatch
import re
from collections.abc import Callable, Sequence
from itertools import chain

_WILD = re.compile(r"[*?\[]")
_Test = Callable[[str], object]


class Globs:
    """A list of patterns, compiled. Matching takes no more than linear time in a name's length."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._literals: dict[str, list[str]] = {}  # path as it would be found → patterns
        self._folders: list[tuple[str, tuple[_Test | None, ...]]] = []
        self._files: list[tuple[str, tuple[_Test | None, ...]]] = []
        for pattern in patterns:
            bare = pattern.rstrip("/")
            if not _WILD.search(bare):
                self._literals.setdefault(bare, []).append(pattern)
            elif pattern.endswith("/"):
                self._folders.append((pattern, _compile(bare)))
            else:
                self._files.append((pattern, _compile(bare)))
        self.unmatched = dict.fromkeys(patterns)  #: patterns that no file has matched so far, in their order

    def matches(self, path: str) -> bool:
        """Say whether a file of this path is wanted."""
        names = path.split("/")
        found = self._literals_on(names[:-1])
        found += [pattern for pattern in self._literals.get(path, ()) if not pattern.endswith("/")]
        for pattern, tests in self._files:
            if _fits(names, tests):
                found.append(pattern)
        for pattern, tests in self._folders:
            if any(_fits(names[:depth], tests) for depth in range(1, len(names))):
                found.append(pattern)
        for pattern in found:
            self.unmatched.pop(pattern, None)
        return bool(found)

    def names_exactly(self, path: str) -> bool:
        """Say whether a pattern without wildcards means this path, or something below it."""
        below = path + "/"
        return path in self._literals or any(literal.startswith(below) for literal in self._literals)

    def lead_into(self, directory: str) -> bool:
        """Say whether some pattern may match a file below the directory."""
        names = directory.split("/")
        if self._literals_on(names) or self.names_exactly(directory):
            return True
        wild = ((tests, False) for _, tests in self._files), ((tests, True) for _, tests in self._folders)
        return any(_leads(names, tests, all_below=all_below) for tests, all_below in chain(*wild))

    def _literals_on(self, names: list[str]) -> list[str]:
        """Return the patterns without wildcards that mean a directory on this path, or its end."""
        paths = ("/".join(names[:depth]) for depth in range(1, len(names) + 1))
        return [pattern for path in paths for pattern in self._literals.get(path, ())]


def _compile(pattern: str) -> tuple[_Test | None, ...]:
    """Compile each name of a pattern; None stands for `**`."""
    tests: list[_Test | None] = []
    for name in pattern.split("/"):
        if name != "**":
            tests.append(re.compile(fnmatch.translate(name)).match)
        elif not tests or tests[-1] is not None:
            tests.append(None)
    return tuple(tests)


def _fits(names: Sequence[str], tests: Sequence[_Test | None]) -> bool:
    """Match name by name. Going back to the last `**` alone is enough, as with `*` in a name."""
    at = test_at = 0
    back_at = back_test = -1
    while at < len(names):
        test = tests[test_at] if test_at < len(tests) else _nothing
        if test is None:
            back_at, back_test = at, test_at
            test_at += 1
        elif test(names[at]):
            at += 1
            test_at += 1
        elif back_test >= 0:
            back_at += 1
            at, test_at = back_at, back_test + 1
        else:
            return False
    while test_at < len(tests) and tests[test_at] is None:
        test_at += 1
    return test_at == len(tests)


def _leads(names: Sequence[str], tests: Sequence[_Test | None], *, all_below: bool) -> bool:
    for name, test in zip(names, tests, strict=False):
        if test is None:
            return True
        if not test(name):
            return False
    return all_below or len(names) < len(tests)


def _nothing(_: str) -> bool:
    return False
