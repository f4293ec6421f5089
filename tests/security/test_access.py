"""Who may ask what: every route of the API's own description, with every kind of key there is.

A new route is not in the table below, and the first test says so.
"""

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from support.archives import tar_gz
from support.fake_pool import FakePool
from support.memory_file import MemoryFile
from support.virtual_time import LoopClock, elapse, run
from trusted_pool.coordinator.metrics import Metrics
from trusted_pool.core.access import BY_CONSOLE, Access, KeyWish, Role, Scope
from trusted_pool.core.job import Outcome, OutputFile
from trusted_pool.core.words import JobState
from trusted_pool.protocol import apikey
from trusted_pool.web.app import create_app

WORKER = "gTl3Dqh9F19Wo1Rmw0x+zMuNipG07jeiXfYPW4/Js5Q="
OTHER = "iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="
ADA, BOB = "ada", "bob"


class Op(msgspec.Struct, frozen=True):
    """What is expected of a route. `of`: "public", "pool", "job" (one job, of ada) or "all" (everybody's jobs)."""

    of: str
    needs: Role | None = None
    json: dict[str, Any] | None = None
    answers: tuple[int, ...] = (200,)  #: to whoever may


TABLE: dict[str, Op] = {
    "GET /": Op("public"),
    "GET /health": Op("public"),
    "GET /ready": Op("public"),
    "GET /manifest.schema.json": Op("public"),
    "POST /submit": Op("pool", Role.SUBMITTER),
    "GET /jobs": Op("pool", Role.VIEWER),
    "POST /jobs/cancel": Op("pool", Role.SUBMITTER, {"name": "nobody's"}),
    "GET /status/{job_id}": Op("job", Role.VIEWER),
    "GET /explain/{job_id}": Op("job", Role.VIEWER),
    "GET /history/{job_id}": Op("job", Role.VIEWER),
    "GET /logs/{job_id}": Op("job", Role.VIEWER),
    "GET /logs/{job_id}/{stream}": Op("job", Role.VIEWER),
    "GET /outputs/{job_id}": Op("job", Role.VIEWER),
    "GET /outputs/{job_id}/{path}": Op("job", Role.VIEWER),
    "GET /download/{job_id}": Op("job", Role.VIEWER),
    "GET /download/{job_id}/{path}": Op("job", Role.VIEWER),
    "POST /cancel/{job_id}": Op("job", Role.SUBMITTER, answers=(409,)),
    "POST /rerun/{job_id}": Op("job", Role.SUBMITTER),
    "POST /priority/{job_id}": Op("job", Role.SUBMITTER, {"priority": 1}, (409,)),
    "GET /pool": Op("pool", Role.VIEWER),
    "GET /workers": Op("pool", Role.VIEWER),
    "POST /workers/{worker}/cordon": Op("pool", Role.OPERATOR),
    "POST /workers/{worker}/uncordon": Op("pool", Role.OPERATOR),
    "POST /workers/{worker}/drain": Op("pool", Role.OPERATOR),
    "POST /workers": Op("pool", Role.ADMIN, {"worker_id": OTHER, "endpoint": "https://w2:8443"}, (200, 409)),
    "POST /workers/reload": Op("pool", Role.ADMIN),
    "POST /workers/{worker}/remove": Op("pool", Role.ADMIN, answers=(200, 404)),
    "POST /pause": Op("pool", Role.OPERATOR),
    "POST /resume": Op("pool", Role.OPERATOR),
    "GET /metrics": Op("all", Role.VIEWER),
    "GET /whoami": Op("pool", Role.VIEWER),
    "GET /keys": Op("pool", Role.ADMIN),
    "POST /keys": Op("pool", Role.ADMIN, {"owner": "carl"}),
    "POST /keys/{key_id}/revoke": Op("pool", Role.ADMIN),
    "GET /usage": Op("pool", Role.VIEWER),
    "GET /limits": Op("pool", Role.ADMIN),
    "POST /limits/{owner}": Op("pool", Role.ADMIN, {"queued": 1000}),
    "GET /audit": Op("all", Role.ADMIN),
    "GET /audit/export": Op("all", Role.ADMIN),
}


class World:
    """A pool with keys of all kinds and one job of ada, which has ended and left a file."""

    def __init__(self, pool: FakePool, http: httpx.AsyncClient) -> None:
        self.pool, self.http = pool, http
        self.tokens: dict[tuple[str, Role, Scope], str] = {}
        self.bad: dict[str, str] = {}
        self.job_id = ""
        self.spare = ""  #: the id of a key that may be revoked

    async def token(self, owner: str, role: Role, scope: Scope, expires_in_s: float | None = None) -> tuple[str, str]:
        """Make a key and return it with its id."""
        wish = KeyWish(owner=owner, role=role, scope=scope, expires_in_s=expires_in_s)
        made = await self.pool.coordinator.keys.create(BY_CONSOLE, wish)
        return made.token, made.key.key_id

    async def make(self) -> None:
        """Make all there is."""
        for owner, role, scope in itertools.product((ADA, BOB), reversed(Role), Scope):
            self.tokens[owner, role, scope], _ = await self.token(owner, role, scope)
        expired, _ = await self.token(ADA, Role.ADMIN, Scope.ALL, 1.0)
        revoked, key_id = await self.token(ADA, Role.ADMIN, Scope.ALL)
        await self.pool.coordinator.keys.revoke(BY_CONSOLE, key_id)
        self.bad = {
            "expired": f"Bearer {expired}",
            "revoked": f"Bearer {revoked}",
            "unknown": f"Bearer {apikey.write(bytes(32))}",
            "mistyped": f"Bearer {expired[:-1]}_",
            "empty": "Bearer ",
            "another kind": "Basic YWRhOmFkYQ==",
        }
        _, self.spare = await self.token(BOB, Role.VIEWER, Scope.OWN)
        self.job_id = await self.pool.submit(owner=ADA)
        job = await self.pool.accepted(self.job_id)
        output = OutputFile(path="out.txt", size=1, sha256=hashlib.sha256(b"x").hexdigest())
        self.pool.ends[WORKER].end(
            str(job.attempts[0].remote_id), Outcome(exit_code=0, outputs=(output,)), {"out.txt": b"x"}
        )
        await self.pool.state(self.job_id, JobState.COMPLETED)
        await elapse(2.0)

    async def ask(self, name: str, authorization: str | None, job_id: str | None = None) -> httpx.Response:
        """Ask a route of the table."""
        method, path = name.split()
        for hole, value in {
            "job_id": job_id or self.job_id,
            "path": "out.txt",
            "stream": "stdout",
            "worker": WORKER[:10],
            "key_id": self.spare,
            "owner": BOB,
        }.items():
            path = path.replace(f"{{{hole}}}", value)
        more: dict[str, Any] = {}
        if name == "POST /submit":
            more["files"] = {"files": ("p.tar.gz", tar_gz({"main.py": b"pass"}))}
        elif TABLE[name].json is not None:
            more["json"] = TABLE[name].json
        headers = {} if authorization is None else {"Authorization": authorization}
        return await self.http.request(method, path, headers=headers, **more)


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with FakePool(file=MemoryFile({"worker_id": WORKER, "endpoint": "https://w1:8443"}), slots=1) as pool:
        coordinator = pool.coordinator
        metrics = Metrics(store=pool.store, roster=coordinator.roster, bulletin=coordinator.bulletin, clock=LoopClock())
        app: Any = create_app(coordinator, metrics, loopback_only=True)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            made = World(pool, http)
            await made.make()
            yield made


def in_world(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with world() as made:
            await test(made)

    run(main())


def expected(op: Op, owner: str, role: Role, scope: Scope) -> tuple[int, ...]:
    if op.needs is None:
        return op.answers
    if [*Role].index(role) < [*Role].index(op.needs) or (op.of == "all" and scope is Scope.OWN):
        return (403,)
    return (404,) if op.of == "job" and scope is Scope.OWN and owner != ADA else op.answers


def test_the_table_holds_every_route_as_the_api_describes_it() -> None:
    async def look(made: World) -> None:
        document = (await made.http.get("/openapi.json")).json()
        described = {
            f"{method.upper()} {path}": operation
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        }
        assert set(described) == set(TABLE)
        for name, operation in described.items():
            assert operation["x-role"] == TABLE[name].needs, name
            assert (operation["x-scope"] == "all") is (TABLE[name].of == "all"), name
            assert bool(operation["security"]) is (TABLE[name].needs is not None), name
            codes = set(operation["responses"])
            assert ("401" in codes) is (TABLE[name].needs is not None), name

    in_world(look)


def test_the_document_says_the_same() -> None:
    text = (Path(__file__).parents[2] / "docs" / "access.md").read_text()
    found: dict[str, str] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and "`" in line:
            found |= {route.strip("` "): cells[0] for route in cells[1].split(",")}
    said = {
        name: "nothing" if op.needs is None else f"{op.needs}{', scope all' if op.of == 'all' else ''}"
        for name, op in TABLE.items()
    }
    assert found == said


@pytest.mark.parametrize("name", TABLE)
def test_a_route_answers_who_may_and_nobody_else(name: str) -> None:
    op = TABLE[name]

    async def look(made: World) -> None:
        for kind, authorization in {"none": None, **made.bad}.items():
            answer = await made.ask(name, authorization)
            if op.needs is None:
                assert answer.status_code == 200, kind
                continue
            assert answer.status_code == 401, kind
            error = answer.json()["error"]
            assert error["code"] == ("unauthenticated" if kind in ("none", "another kind") else "bad_key"), kind
            assert error["hint"]
            assert "www-authenticate" in answer.headers
        for (owner, role, scope), token in made.tokens.items():
            answer = await made.ask(name, f"Bearer {token}")
            assert answer.status_code in expected(op, owner, role, scope), (owner, role, scope, answer.text)
            if answer.status_code in (403, 404):
                assert answer.json()["error"]["hint"], (owner, role, scope)

    in_world(look)


@pytest.mark.parametrize("name", [name for name, op in TABLE.items() if op.of == "job"])
def test_a_foreign_job_looks_as_if_it_did_not_exist(name: str) -> None:
    """Case 71: reading, cancelling and listing another's job all get the answer that a job gets which is not there."""
    missing = "pool-" + "0" * 24

    async def look(made: World) -> None:
        token = f"Bearer {made.tokens[BOB, Role.ADMIN, Scope.OWN]}"
        foreign = await made.ask(name, token)
        nothing = await made.ask(name, token, missing)
        assert (foreign.status_code, nothing.status_code) == (404, 404)
        assert foreign.text.replace(made.job_id, missing) == nothing.text
        own = await made.ask(name, f"Bearer {made.tokens[ADA, Role.ADMIN, Scope.OWN]}")
        assert own.status_code in TABLE[name].answers, "the control: its owner"

    in_world(look)


def test_lists_and_filters_reach_the_scope_and_no_farther() -> None:
    async def look(made: World) -> None:
        def token(owner: str, scope: Scope, role: Role = Role.SUBMITTER) -> dict[str, str]:
            return {"Authorization": f"Bearer {made.tokens[owner, role, scope]}"}

        bobs = await made.pool.submit(owner=BOB, manifest='{"name": "n", "labels": {"a": "b"}}')

        async def listed(headers: dict[str, str], **params: str) -> set[str]:
            answer = await made.http.get("/jobs", headers=headers, params=params)
            return {job["job_id"] for job in answer.json()["jobs"]}

        assert await listed(token(ADA, Scope.OWN)) == {made.job_id}
        assert await listed(token(BOB, Scope.OWN)) == {bobs}
        assert await listed(token(BOB, Scope.OWN), worker=WORKER) <= {bobs}
        assert await listed(token(BOB, Scope.ALL)) == {made.job_id, bobs}
        assert await listed(token(BOB, Scope.ALL), owner=ADA) == {made.job_id}
        assert await listed(token(BOB, Scope.OWN), owner=ADA) == set()
        assert await listed(token(BOB, Scope.OWN), owner=BOB) == {bobs}
        everything = {"all": True}
        answer = await made.http.post("/jobs/cancel", headers=token(ADA, Scope.OWN), json=everything)
        assert answer.json() == {"cancelled": 0, "job_ids": []}
        answer = await made.http.post("/jobs/cancel", headers=token(ADA, Scope.OWN), json={"owner": BOB})
        assert answer.json()["cancelled"] == 0
        answer = await made.http.post("/jobs/cancel", headers=token(BOB, Scope.ALL), json={"owner": ADA})
        assert answer.json()["cancelled"] == 0, "hers has ended"
        answer = await made.http.post("/jobs/cancel", headers=token(BOB, Scope.ALL), json={"owner": BOB})
        assert answer.json()["job_ids"] == [bobs]

    in_world(look)


def test_where_workers_are_is_told_to_who_sees_all() -> None:
    async def look(made: World) -> None:
        for path, scope in itertools.product(("/pool", "/workers"), Scope):
            token = made.tokens[BOB, Role.VIEWER, scope]
            answer = await made.http.get(path, headers={"Authorization": f"Bearer {token}"})
            (worker,) = answer.json()["workers"]
            assert bool(worker["endpoint"]) is (scope is Scope.ALL)

    in_world(look)


def test_with_no_keys_at_all_this_machine_is_trusted_and_with_the_first_it_is_not() -> None:
    async def main() -> None:
        async with FakePool(WORKER) as pool:
            coordinator = pool.coordinator
            metrics = Metrics(
                store=pool.store, roster=coordinator.roster, bulletin=coordinator.bulletin, clock=LoopClock()
            )
            app: Any = create_app(coordinator, metrics, loopback_only=True)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                who = (await http.get("/whoami")).json()
                assert (who["owner"], who["role"], who["scope"], who["key_id"]) == ("local", "admin", "all", None)
                refused = await http.post("/keys", json={"owner": "ada", "role": "submitter"})
                assert refused.status_code == 409
                made = await http.post("/keys", json={"owner": "ada", "role": "admin"})
                assert made.status_code == 200
                token = {"Authorization": f"Bearer {made.json()['token']}"}
                assert (await http.get("/whoami")).status_code == 401
                assert (await http.get("/whoami", headers=token)).json()["owner"] == "ada"
                last = await http.post(f"/keys/{made.json()['key']['key_id']}/revoke", headers=token)
                assert (last.status_code, last.json()["error"]["code"]) == (409, "last_admin")
                listed = (await http.get("/keys", headers=token)).text
                assert made.json()["token"] not in listed
                assert made.json()["token"] not in str(pool.store._tables)
                assert apikey.digest(made.json()["token"]) in str(pool.store._tables), "the control: what is kept of it"

    run(main())


def test_one_who_needs_no_key_is_let_in_by_that_and_a_bad_key_still_is_not() -> None:
    """With --anonymous beside keys: no key means little; a wrong key means nothing."""

    async def main() -> None:
        async with world() as made:
            made.pool.coordinator.keys._without_key = Access(owner="local", role=Role.SUBMITTER, scope=Scope.OWN)
            assert (await made.ask("GET /whoami", None)).json()["owner"] == "local"
            assert (await made.ask("POST /submit", None)).status_code == 200
            assert (await made.ask("GET /status/{job_id}", None)).status_code == 404
            assert (await made.ask("POST /pause", None)).status_code == 403
            for authorization in made.bad.values():
                assert (await made.ask("GET /whoami", authorization)).status_code == 401

    run(main())


def test_two_authorization_headers_are_none() -> None:
    async def look(made: World) -> None:
        token = made.tokens[ADA, Role.ADMIN, Scope.ALL]
        pair = [("Authorization", f"Bearer {token}")] * 2
        assert (await made.http.get("/whoami", headers=pair)).status_code == 401
        assert (await made.http.get("/whoami", headers=pair[:1])).status_code == 200

    in_world(look)


def test_what_a_revoked_or_expired_key_reads_ends_at_once() -> None:
    """On a followed log and a long poll: case 78, for clients."""

    async def look(made: World) -> None:
        coordinator = made.pool.coordinator
        token, key_id = await made.token(ADA, Role.VIEWER, Scope.OWN)
        kept, _ = await made.token(ADA, Role.VIEWER, Scope.OWN)
        job_id = await made.pool.submit(owner=ADA)
        await made.pool.accepted(job_id)

        async def read(path: str, shown: str) -> str:
            try:
                answer = await made.http.get(path, headers={"Authorization": f"Bearer {shown}"}, timeout=None)
            except AssertionError:  # how this transport takes an answer that was cut
                return "cut"
            return f"{answer.status_code} {answer.text}"

        log, wait = f"/logs/{job_id}?follow=true", f"/status/{job_id}?wait=30"
        reads = {
            (path, shown): asyncio.create_task(read(path, shown)) for path in (log, wait) for shown in (token, kept)
        }
        await elapse(2.0)
        await coordinator.keys.revoke(BY_CONSOLE, key_id)
        attempt = (await made.pool.job(job_id)).attempts[0]
        made.pool.ends[WORKER].say(str(attempt.remote_id), b"secret")
        made.pool.ends[WORKER].end(str(attempt.remote_id), Outcome(exit_code=0, log_bytes=0), {}, inline=False)
        await made.pool.until(job_id, lambda job: job.final)
        answers = {key: await task for key, task in reads.items()}
        assert answers[log, token] == "cut"
        assert answers[wait, token].startswith("401")
        assert answers[wait, kept].startswith("200"), "the control: a key that is good"
        assert "event: end" in answers[log, kept]

    in_world(look)
