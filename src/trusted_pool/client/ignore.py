"""Which files of a directory are left out of a pack: .gitignore and .tpoolignore, nested, as git reads them."""

from pathlib import Path

from pathspec import GitIgnoreSpec

from trusted_pool.client.errors import PackError

#: Read in this order in each directory; a later file wins over an earlier one.
FILES = (".gitignore", ".tpoolignore")
#: Never packed. `tpool-outputs` is where the command line puts what it fetches.
ALWAYS = frozenset({".git", ".venv", "__pycache__", "node_modules", "tpool-outputs"})

_MAX_BYTES = 1024 * 1024


class Rules:
    """The rules that hold in one directory: its own, and those of the directories above it up to the pack's root."""

    def __init__(self, above: tuple[tuple[str, GitIgnoreSpec], ...] = ()) -> None:
        """`above`: pairs of a directory (relative, with a trailing slash, the root is empty) and its rules."""
        self._specs = above

    def inside(self, directory: Path, relative: str) -> "Rules":
        """Return the rules that hold in a directory. `relative`: its name in the pack, `` for the root.

        Raises:
            PackError: an ignore file cannot be read.
        """
        base = f"{relative}/" if relative else ""
        specs = list(self._specs)
        for name in FILES:
            path = directory / name
            try:
                if not path.is_file():
                    continue
                with path.open("rb") as file:
                    raw = file.read(_MAX_BYTES + 1)
                if len(raw) > _MAX_BYTES:
                    raise PackError(f"{path} is larger than {_MAX_BYTES // 1024} KiB")
                specs.append((base, GitIgnoreSpec.from_lines(raw.decode("utf-8", "surrogateescape").splitlines())))
            except OSError as error:
                raise PackError(f"cannot read {path}: {error.strerror}") from None
            except ValueError as error:  # pathspec's word for a pattern it cannot read
                raise PackError(f"{path}: {error}") from None
        return Rules(tuple(specs))

    def skip(self, relative: str, *, is_dir: bool) -> bool:
        """Whether an entry is left out. The innermost file that says anything about it decides."""
        if relative.rsplit("/", 1)[-1] in ALWAYS:
            return True
        for base, spec in reversed(self._specs):
            verdict = spec.check_file(relative[len(base) :] + ("/" if is_dir else "")).include
            if verdict is not None:
                return verdict
        return False
