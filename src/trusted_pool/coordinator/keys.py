"""API keys: who is known by which, and what each may do."""

import asyncio
import hmac
import logging
from collections import deque
from typing import Any

import msgspec

from trusted_pool.coordinator.audit import Audit
from trusted_pool.core.access import LOCAL_OWNER, USUAL_SCOPE, Access, ApiKey, KeyState, KeyWish, Role, Scope, is_owner
from trusted_pool.ports.clock import Clock, Dice
from trusted_pool.ports.store import Store, StoreError, Unit
from trusted_pool.protocol import apikey
from trusted_pool.protocol.answers import KeyAnswer, NewKeyAnswer
from trusted_pool.protocol.errors import BadRequestError, ConflictError, NotFoundError, UnauthenticatedError

_log = logging.getLogger(__name__)

MAX_NAME = 200
MAX_KEYS = 10_000
USES_EVERY_S = 60.0  #: when keys were last shown is kept so often
#: Failed logins that are written into the trail in so many seconds; more are counted.
FAILURES = 10
FAILURES_S = 60.0
BAD_KEY = "bad_key"  #: the code of what shows a key that opens nothing
_LOG_IN = "log in with a key: tpool login; an admin of the pool makes one: tpool keys create"


class Keys:
    """All keys of the pool, at hand: each request is judged without asking the store."""

    def __init__(self, *, store: Store, audit: Audit, clock: Clock, dice: Dice, without_key: Access | None) -> None:
        """`without_key`: what somebody may do who shows none once there are keys; None: nothing."""
        self._store = store
        self._audit = audit
        self._clock = clock
        self._dice = dice
        self._without_key = without_key
        self._alone = asyncio.Lock()
        self._keys: dict[str, ApiKey] = {}  # by key id
        self._by_digest: dict[str, ApiKey] = {}
        self._uses: dict[str, float] = {}
        self._new_uses: dict[str, float] = {}
        #: what somebody may do without a key as long as there are none
        self.while_there_are_none = Access(owner=LOCAL_OWNER, role=Role.ADMIN, scope=Scope.ALL)
        self._failures: deque[float] = deque(maxlen=FAILURES)
        self._unwritten = 0  # failed logins that the trail does not tell one by one

    async def start(self) -> None:
        """Load them. Raises StoreError."""
        for key, used_at in await self._store.api_keys():
            self._learn(key)
            if used_at is not None:
                self._uses[key.key_id] = used_at

    def _learn(self, key: ApiKey) -> None:
        self._keys[key.key_id] = key
        self._by_digest[key.digest] = key

    def access_without_key(self) -> Access:
        """Say what somebody may do who shows no key. Raises UnauthenticatedError."""
        if not self._keys:
            return self.while_there_are_none
        if self._without_key is None:
            raise UnauthenticatedError("this pool asks for an API key", hint=_LOG_IN)
        return self._without_key

    def access_of(self, shown: str) -> Access:
        """Say what the bearer of a key may do. Raises UnauthenticatedError."""
        try:
            apikey.check(shown)
        except apikey.ApiKeyError as error:
            raise _bad(str(error)) from None
        digest = apikey.digest(shown)
        # Looked up by the digest of 256 random bits: how long that takes says nothing of any key. The comparison is
        # there for the day when somebody looks it up by something else.
        key = self._by_digest.get(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            words = "this pool does not know that API key" if self._keys else "this pool has no API keys: show none"
            raise _bad(words)
        now = self._clock.now()
        if (state := key.state(now)) is not KeyState.ACTIVE:
            raise _bad(f"the API key {key.key_id} of {key.owner!r} is {state}")
        self._new_uses[key.key_id] = now
        return key.access

    def still(self, access: Access) -> bool:
        """Whether what was allowed then is allowed now: for answers that take long.

        Who needed no key when he asked is not cut off by the first key: his next request is.
        """
        if not access.key_id:
            return True
        key = self._keys.get(access.key_id)
        return key is not None and key.state(self._clock.now()) is KeyState.ACTIVE

    async def create(self, by: Access, wish: KeyWish) -> NewKeyAnswer:
        """Make a key; the text of it is returned this once and kept nowhere.

        Raises:
            BadRequestError: no usable owner or name.
            ConflictError: the first key would lock everybody out, or there are too many.
        """
        if not is_owner(wish.owner):
            raise BadRequestError(
                f"{wish.owner[:80]!r} cannot be an owner",
                hint="write up to 64 letters, digits and . _ @ + -, beginning with a letter or a digit",
            )
        if len(wish.name) > MAX_NAME or not wish.name.isprintable():
            raise BadRequestError(f"the name of a key is one line of at most {MAX_NAME} characters")
        async with self._alone:
            self._may_create(wish.role)
            now = self._clock.now()
            text = apikey.write(bytes.fromhex(self._dice.token(apikey.SECRET_BYTES)))
            key = ApiKey(
                key_id="key-" + self._dice.token(6),
                owner=wish.owner,
                role=wish.role,
                scope=wish.scope or USUAL_SCOPE[wish.role],
                digest=apikey.digest(text),
                name=wish.name,
                created_at=now,
                created_by=by.owner,
                expires_at=None if wish.expires_in_s is None else now + wish.expires_in_s,
            )
            facts = {
                "owner": key.owner,
                "role": key.role.value,
                "scope": key.scope.value,
                "expires_at": key.expires_at,
            }
            await self._keep(by, "key.create", key, facts)
        _log.info("Made the key %s of %s: %s, %s", key.key_id, key.owner, key.role, key.scope)
        return NewKeyAnswer(token=text, key=self._view(key))

    async def _keep(self, by: Access, action: str, key: ApiKey, facts: dict[str, Any]) -> None:
        """Commit a key, and go by it in the same breath: whoever asked for it may be cancelled in between."""

        async def keep() -> None:
            await self._audit.commit(by, action, key.key_id, facts, Unit(api_keys=(key,)))
            self._learn(key)

        await asyncio.shield(asyncio.ensure_future(keep()))

    def _may_create(self, role: Role) -> None:
        if not self._keys and role is not Role.ADMIN:
            raise ConflictError(
                "the first key must be an admin's: from then on nobody without one can make more",
                hint="tpool keys create --owner YOU --role admin",
            )
        if len(self._keys) >= MAX_KEYS:
            raise ConflictError(f"there are {MAX_KEYS} keys already", hint="let programs share one, by owner")

    async def revoke(self, by: Access, key_id: str) -> KeyAnswer:
        """Let a key open nothing any more, from now on.

        Raises:
            NotFoundError: there is no such key.
            ConflictError: it is the last that an admin could use.
        """
        async with self._alone:
            key = self._keys.get(key_id)
            if key is None:
                raise NotFoundError(f"there is no key {key_id[:60]!r}", hint="list them: tpool keys list")
            now = self._clock.now()
            if key.revoked_at is None:
                self._may_revoke(key, now)
                key = msgspec.structs.replace(key, revoked_at=now)
                await self._keep(by, "key.revoke", key, {"owner": key.owner})
                _log.info("Revoked the key %s of %s", key_id, key.owner)
        return self._view(key)

    def _may_revoke(self, key: ApiKey, now: float) -> None:
        admins = {k.key_id for k in self._keys.values() if k.role is Role.ADMIN and k.state(now) is KeyState.ACTIVE}
        if admins == {key.key_id}:
            raise ConflictError(
                f"{key.key_id} is the last key of an admin",
                code="last_admin",
                hint="make another first: tpool keys create --owner YOU --role admin",
            )

    def view(self) -> list[KeyAnswer]:
        """Return all keys, oldest first."""
        return [self._view(key) for key in sorted(self._keys.values(), key=lambda k: (k.created_at, k.key_id))]

    def _view(self, key: ApiKey) -> KeyAnswer:
        used_at = max(self._uses.get(key.key_id, 0.0), self._new_uses.get(key.key_id, 0.0)) or None
        return KeyAnswer(
            key_id=key.key_id,
            owner=key.owner,
            role=key.role,
            scope=key.scope,
            state=key.state(self._clock.now()),
            name=key.name,
            created_at=key.created_at,
            created_by=key.created_by,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
            last_used_at=used_at,
        )

    async def failed(self, where: str, words: str) -> None:
        """Write a failed login into the trail. Whoever tries all day cannot fill the disk with it."""
        now = self._clock.now()
        if len(self._failures) == FAILURES and now - self._failures[0] < FAILURES_S:
            self._unwritten += 1
            return
        self._failures.append(now)
        unwritten, self._unwritten = self._unwritten, 0
        facts: dict[str, object] = {"words": words} | ({"more_before": unwritten} if unwritten else {})
        nobody = Access(owner="", role=Role.VIEWER, scope=Scope.OWN)
        try:
            await self._audit.commit(nobody, "login.failed", where, facts)
        except StoreError as error:
            _log.warning("A failed login is not written down: %s", error)

    async def keep_uses(self) -> None:
        """Keep when keys were last shown, again and again."""
        while True:
            await asyncio.sleep(USES_EVERY_S)
            await self.keep_uses_now()

    async def keep_uses_now(self) -> None:
        """Keep when keys were last shown. What cannot be kept now is kept later."""
        uses, self._new_uses = self._new_uses, {}
        if not uses:
            return
        self._uses |= uses
        try:
            await self._store.commit([Unit(key_uses=uses)])
        except StoreError as error:
            _log.warning("When keys were used is not kept: %s", error)
            self._new_uses = uses | self._new_uses


def _bad(words: str) -> UnauthenticatedError:
    return UnauthenticatedError(words, code=BAD_KEY, hint=_LOG_IN)
