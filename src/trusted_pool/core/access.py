"""Who may do what: roles, scopes and the keys that carry them.

A role says what kind of thing somebody may do, a scope to whose jobs. Each role includes those before it.
"""

import re
from enum import StrEnum

import msgspec

from trusted_pool.core.job import Job

#: The owner of jobs as long as nobody has to say who he is.
LOCAL_OWNER = "local"
#: Who acts by the machine itself: a signal, a file, a command beside the data directory. No key may be his.
CONSOLE = "console"


_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


def is_owner(name: str) -> bool:
    """Whether jobs may belong to one of this name."""
    return _OWNER.fullmatch(name) is not None and name != CONSOLE


class Role(StrEnum):
    """What kind of thing somebody may do."""

    VIEWER = "viewer"  #: see jobs and the pool
    SUBMITTER = "submitter"  #: submit, cancel, rerun as well
    OPERATOR = "operator"  #: cordon and drain workers, pause the pool as well
    ADMIN = "admin"  #: say who may be a worker and who may use the pool as well


class Scope(StrEnum):
    """Whose jobs somebody may do it to."""

    OWN = "own"
    ALL = "all"


class KeyState(StrEnum):
    """Whether a key still opens anything."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


_RANK = {role: rank for rank, role in enumerate(Role)}
#: The scope of a key when nobody says which: whoever looks after the pool looks after everybody's jobs.
USUAL_SCOPE = {Role.VIEWER: Scope.OWN, Role.SUBMITTER: Scope.OWN, Role.OPERATOR: Scope.ALL, Role.ADMIN: Scope.ALL}


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What one who asks may do, and under which name."""

    owner: str
    role: Role
    scope: Scope
    key_id: str = ""  #: of the key that he showed; empty when he needed none
    expires_at: float | None = None  #: when that key ends

    def may(self, needed: Role) -> bool:
        """Whether the role includes the needed one."""
        return _RANK[self.role] >= _RANK[needed]

    @property
    def sees_owner(self) -> str | None:
        """The owner whose jobs it sees; None: everybody's."""
        return None if self.scope is Scope.ALL else self.owner

    def reaches(self, job: Job) -> bool:
        """Whether the job is within the scope. One that is not must look as if it did not exist."""
        return self.sees_owner is None or job.owner == self.owner


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key by which a client is known. Of the secret only a digest is kept."""

    key_id: str
    owner: str
    role: Role
    scope: Scope
    digest: str  #: hex sha256 of the whole key: it has 256 random bits, so nothing slower is needed
    name: str = ""  #: what it is for, in its maker's words
    created_at: float
    created_by: str = ""
    expires_at: float | None = None
    revoked_at: float | None = None

    def state(self, now: float) -> KeyState:
        """Say whether it opens anything at this time."""
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return KeyState.EXPIRED
        return KeyState.ACTIVE

    @property
    def access(self) -> Access:
        """What its bearer may do while it is active."""
        return Access(
            owner=self.owner, role=self.role, scope=self.scope, key_id=self.key_id, expires_at=self.expires_at
        )


class KeyWish(msgspec.Struct, frozen=True, kw_only=True):
    """The key that somebody asks for."""

    owner: str
    role: Role = Role.SUBMITTER
    scope: Scope | None = None  #: None: the usual one of the role
    name: str = ""
    expires_in_s: float | None = None


#: By the machine itself.
BY_CONSOLE = Access(owner=CONSOLE, role=Role.ADMIN, scope=Scope.ALL)
