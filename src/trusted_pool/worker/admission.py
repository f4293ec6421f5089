"""A submit on its way in."""

from trusted_pool.ports.journal import Entry

Key = tuple[str, str, int]  #: pool id, job id, number of the attempt


class Admission:
    """A submit on its way in: it holds a slot, or knows the entry that the same attempt has already."""

    def __init__(self, key: Key, slot: int | None = None, known: Entry | None = None) -> None:
        self.key = key
        self.slot = slot
        self.known = known
