"""What an owner at a limit is answered, and that others are not; over HTTP in this process, in virtual time."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest

from support.archives import tar_gz
from support.fake_pool import FakePool, anybody
from support.virtual_time import LoopClock, elapse, run, until
from trusted_pool.coordinator.metrics import Metrics
from trusted_pool.coordinator.service import Settings
from trusted_pool.core.access import BY_CONSOLE, KeyWish, Role
from trusted_pool.core.job import Job, Outcome, OutputFile
from trusted_pool.core.limits import Limits
from trusted_pool.core.words import JobState
from trusted_pool.protocol.errors import PoolError
from trusted_pool.web.app import create_app

MAIN = tar_gz({"main.py": b"pass\n"})
FORM = {"content-type": "multipart/form-data; boundary=b"}
HEAD = b'--b\r\nContent-Disposition: form-data; name="files"; filename="data.bin"\r\n\r\n'
MORE = b'\r\n--b\r\nContent-Disposition: form-data; name="files"; filename="main.py"\r\n\r\npass\r\n--b--\r\n'
PIECE = 100_000


class Pool:
    """A pool whose only worker may be kept from its jobs, and the HTTP clients of ada and bob."""

    def __init__(self, fake: FakePool, app: Any) -> None:
        self.fake, self.app = fake, app
        self.admission = fake.coordinator.admission
        self.ada = self.client("")
        self.bob = self.client("")

    def client(self, token: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers, timeout=3600)

    async def make_keys(self) -> None:
        keys = self.fake.coordinator.keys
        await keys.create(BY_CONSOLE, KeyWish(owner="admin", role=Role.ADMIN))
        for owner in ("ada", "bob"):
            made = await keys.create(BY_CONSOLE, KeyWish(owner=owner, role=Role.SUBMITTER))
            setattr(self, owner, self.client(made.token))


@contextlib.asynccontextmanager
async def pool_with(limits: Limits, *, paused: bool = True, slots: int = 4) -> AsyncIterator[Pool]:
    async with FakePool("w", slots=slots, settings=Settings(limits=limits)) as fake:
        if paused:
            await fake.coordinator.pause(paused=True)
        coordinator = fake.coordinator
        metrics = Metrics(store=fake.store, roster=coordinator.roster, bulletin=coordinator.bulletin, clock=LoopClock())
        pool = Pool(fake, create_app(coordinator, metrics, loopback_only=True))
        await pool.make_keys()
        yield pool
        await pool.ada.aclose()
        await pool.bob.aclose()


def in_pool(limits: Limits, test: Callable[[Pool], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with pool_with(limits, **options) as pool:
            await test(pool)

    run(main())


def archive(number: int) -> bytes:
    return tar_gz({"main.py": b"pass\n", "n": b"%d" % number})


async def submit(who: httpx.AsyncClient, data: bytes = MAIN, **options: Any) -> httpx.Response:
    """Submit an archive, which must be small: no thread may be needed to look into it."""
    return await who.post("/submit", files={"files": ("project.tar.gz", data)}, **options)


def two_files(data: bytes) -> Any:
    return [("files", ("data.bin", data)), ("files", ("main.py", b"pass"))]


async def submit_plain(who: httpx.AsyncClient, data: bytes, **options: Any) -> httpx.Response:
    """Submit two plain files."""
    return await who.post("/submit", files=two_files(data), **options)


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Show that an answer is a refusal by a limit; return its detail."""
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    error = answer.json()["error"]
    assert error["fault"] == "limit"
    assert "tpool" in error["hint"]
    assert error["retryable"] is (status == 429)
    assert (int(answer.headers["retry-after"]) >= 1) if status == 429 else "retry-after" not in answer.headers
    return dict(error["detail"])


# Jobs in the queue, submits a minute


def test_a_full_queue_refuses_its_owner_until_there_is_room():
    async def test(pool: Pool) -> None:
        first = [(await submit(pool.ada, archive(n))).json()["job_id"] for n in range(3)]
        for _ in range(3):
            detail = refused(await submit(pool.ada), 429, "too_many_queued")
            assert detail == {"owner": "ada", "used": 3, "limit": 3, "needed": 1}
        refused(await pool.ada.post(f"/rerun/{first[0]}"), 429, "too_many_queued")
        assert (await submit(pool.bob)).status_code == 200, "another's queue has room"
        assert (await pool.fake.store.usage("ada")).queued == 3
        assert (await pool.ada.post(f"/cancel/{first[0]}")).status_code == 200
        assert (await submit(pool.ada)).status_code == 200
        refused(await submit(pool.ada), 429, "too_many_queued")

    in_pool(Limits(queued=3), test)


def test_a_job_that_is_there_is_answered_by_its_key_beyond_every_limit():
    async def test(pool: Pool) -> None:
        key = {"idempotency-key": "one"}
        large = os.urandom(200_000)
        first = (await submit_plain(pool.ada, large, headers=key)).json()["job_id"]
        for _ in range(3):
            again = await submit_plain(pool.ada, large, headers=key)
            assert (again.status_code, again.json()["job_id"]) == (200, first)
        refused(await submit(pool.ada), 429, "too_fast")
        await elapse(60)
        refused(await submit(pool.ada), 429, "too_many_queued")
        other = await submit(pool.ada, archive(9), headers=key)
        assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")

    in_pool(Limits(queued=1, submits_per_minute=1, bytes=201_500, transfers=1), test)


def test_who_submits_too_fast_is_told_when_to_come_again():
    async def test(pool: Pool) -> None:
        for _ in range(4):
            assert (await submit(pool.ada)).status_code == 200
        for _ in range(3):
            answer = await submit(pool.ada)
            assert refused(answer, 429, "too_fast") == {"owner": "ada", "limit": 4}
            assert answer.headers["retry-after"] == "15"
        assert (await submit(pool.bob)).status_code == 200
        await elapse(15)
        job_id = (await submit(pool.ada)).json()["job_id"]
        refused(await pool.ada.post(f"/rerun/{job_id}"), 429, "too_fast")
        refused(await submit(pool.ada, params={"dry_run": "1"}), 429, "too_fast")

    in_pool(Limits(submits_per_minute=4), test)


def test_who_is_refused_again_and_again_is_answered_ever_slower():
    """Fifty at once are answered at about fifty a second, however fast they ask; one alone at once."""

    async def test(pool: Pool) -> None:
        now = asyncio.get_running_loop().time
        assert (await submit(pool.ada)).status_code == 200
        began = now()
        refused(await submit(pool.ada), 429, "too_fast")
        assert now() - began < 0.01
        answered = 0

        async def insist() -> None:
            nonlocal answered
            while now() - began < 5:
                refused(await submit(pool.ada), 429, "too_fast")
                answered += 1

        await asyncio.gather(*(insist() for _ in range(50)))
        assert 125 < answered < 500
        began = now()
        refused(await submit(pool.ada), 429, "too_fast")
        assert now() - began < 0.01, "it is forgotten"

    in_pool(Limits(submits_per_minute=1), test)


def test_a_refused_submit_is_not_read():
    async def test(pool: Pool) -> None:
        read = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal read
            yield HEAD
            for _ in range(50):
                read += 1
                yield b"x" * PIECE
            yield MORE

        assert (await submit(pool.ada)).status_code == 200
        refused(await pool.ada.post("/submit", content=body(), headers=FORM), 429, "too_many_queued")
        assert read < 5

    in_pool(Limits(queued=1), test)


# Bytes


async def upload(who: httpx.AsyncClient, pieces: int, *, announced: bool = False, seen: list[int] | None = None) -> Any:
    """Submit a file of so many pieces of random bytes; `seen` gets the number of those that were read."""

    async def body() -> AsyncIterator[bytes]:
        yield HEAD
        for number in range(pieces):
            if seen is not None:
                seen.append(number)
            yield os.urandom(PIECE)
        yield MORE

    length = len(HEAD) + pieces * PIECE + len(MORE)
    more = {"content-length": str(length)} if announced else {}
    return await who.post("/submit", content=body(), headers=FORM | more)


@pytest.mark.parametrize("announced", [True, False])
def test_an_upload_beyond_the_bytes_is_left_where_that_is_known(announced: bool):
    async def test(pool: Pool) -> None:
        seen: list[int] = []
        detail = refused(await upload(pool.ada, 30, announced=announced, seen=seen), 413, "over_quota")
        assert (detail["owner"], detail["limit"]) == ("ada", 10 * PIECE)
        assert len(seen) <= (1 if announced else 11)
        assert pool.fake.blobs._shelf.kept == {}
        assert (await upload(pool.ada, 9, announced=announced)).status_code == 200, "within them"
        refused(await upload(pool.ada, 2, announced=announced), 413, "over_quota")
        assert (await upload(pool.bob, 9, announced=announced)).status_code == 200, "another's"
        assert (await pool.ada.get("/usage")).json()["owners"][0]["staged_bytes"] == 0

    in_pool(Limits(bytes=10 * PIECE), test)


def test_small_submits_are_counted_by_the_commit_that_keeps_them():
    async def test(pool: Pool) -> None:
        sent = 0
        while (answer := await submit(pool.ada, tar_gz({"main.py": b"", "data": os.urandom(20_000)}))).is_success:
            sent += 1
        detail = refused(answer, 413, "over_quota")
        assert sent == 4
        assert detail["used"] == (await pool.fake.store.usage("ada")).bytes
        assert detail["limit"] == 100_000
        assert detail["used"] + detail["needed"] > 100_000
        refused(await submit(pool.ada, tar_gz({"main.py": b"", "data": os.urandom(30_000)})), 413, "over_quota")
        assert (await submit(pool.bob)).status_code == 200

    in_pool(Limits(bytes=100_000), test)


def test_what_other_uploads_hold_counts():
    async def test(pool: Pool) -> None:
        gate = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield HEAD
            for _ in range(7):
                yield os.urandom(PIECE)
            await gate.wait()
            yield MORE

        first = asyncio.create_task(pool.ada.post("/submit", content=slow(), headers=FORM))
        await until(lambda: pool.admission.under_way("ada").staged == 7 * PIECE)
        refused(await upload(pool.ada, 4), 413, "over_quota")
        refused(await upload(pool.ada, 4, announced=True), 413, "over_quota")
        assert (await upload(pool.ada, 2)).status_code == 200
        gate.set()
        assert (await first).status_code == 200
        assert pool.admission.under_way("ada") == pool.admission.under_way("nobody")
        refused(await upload(pool.ada, 2), 413, "over_quota")

    in_pool(Limits(bytes=10 * PIECE), test)


def test_two_uploads_cannot_pass_the_bytes_together():
    async def test(pool: Pool) -> None:
        answers = await asyncio.gather(*(upload(pool.ada, 4) for _ in range(6)))
        taken = [answer for answer in answers if answer.status_code == 200]
        assert 1 <= len(taken) <= 2
        assert {a.json()["error"]["code"] for a in answers if a not in taken} == {"over_quota"}
        usage = await pool.fake.store.usage("ada")
        assert usage.bytes <= 10 * PIECE
        assert sum(len(data) for data in pool.fake.blobs._shelf.kept.values()) <= usage.bytes, "nothing else is left"

    in_pool(Limits(bytes=10 * PIECE), test)


def test_a_place_in_the_queue_is_held_while_files_come():
    """Else what came for a job that finds no room would be left on the disk."""

    async def test(pool: Pool) -> None:
        answers = await asyncio.gather(*(upload(pool.ada, 2) for _ in range(5)))
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [200, 200, 429, 429, 429]
        assert len(pool.fake.blobs._shelf.kept) == 2

    in_pool(Limits(queued=2), test)


def test_a_large_job_that_is_there_is_sent_again_beyond_the_bytes_one_at_a_time():
    async def test(pool: Pool) -> None:
        large = os.urandom(6 * PIECE)
        key = {"idempotency-key": "one"}
        first = (await submit_plain(pool.ada, large, headers=key)).json()["job_id"]
        refused(await submit_plain(pool.ada, large), 413, "over_quota")
        gate = asyncio.Event()
        body = pool.ada.build_request("POST", "/submit", files=two_files(large)).read()
        kind = body[2 : body.index(b"\r\n")].decode()

        async def slow() -> AsyncIterator[bytes]:
            yield body[:PIECE]
            await gate.wait()
            yield body[PIECE:]

        headers = key | {"content-type": f"multipart/form-data; boundary={kind}", "content-length": str(len(body))}
        again = asyncio.create_task(pool.ada.post("/submit", content=slow(), headers=headers))
        await until(lambda: pool.admission.under_way("ada").transfers == 1)
        refused(await submit_plain(pool.ada, large, headers=key), 429, "too_many_transfers")
        gate.set()
        assert (await again).json()["job_id"] == first
        assert (await submit_plain(pool.ada, large, headers=key)).json()["job_id"] == first
        more = os.urandom(7 * PIECE)
        refused(await submit_plain(pool.ada, more, headers=key), 413, "over_quota")

    in_pool(Limits(bytes=10 * PIECE), test)


def test_results_beyond_the_bytes_are_kept_and_their_owner_is_over():
    async def test(pool: Pool) -> None:
        job_id = (await submit(pool.ada)).json()["job_id"]
        job = await pool.fake.accepted(job_id)
        data = os.urandom(50_000)
        digest = hashlib.sha256(data).hexdigest()
        outcome = Outcome(exit_code=0, outputs=(OutputFile(path="out", size=len(data), sha256=digest),))
        pool.fake.ends["w"].end(remote(job), outcome, {"out": data})
        await pool.fake.state(job_id, JobState.COMPLETED)
        assert (await pool.ada.get(f"/outputs/{job_id}/out")).content == data
        (usage,) = (await pool.ada.get("/usage")).json()["owners"]
        assert usage["bytes"] > 50_000 > usage["limits"]["bytes"]
        refused(await submit(pool.ada), 413, "over_quota")
        refused(await pool.ada.post(f"/rerun/{job_id}"), 413, "over_quota")

    in_pool(Limits(bytes=10_000), test, paused=False)


def remote(job: Job) -> str:
    assert job.attempt is not None
    assert job.attempt.remote_id is not None
    return job.attempt.remote_id


# Running jobs


def end(pool: Pool, job: Job) -> None:
    pool.fake.ends["w"].end(remote(job), Outcome(exit_code=0), {})


def test_an_owner_at_its_running_limit_waits_and_holds_nobody_up():
    async def test(pool: Pool) -> None:
        adas = [(await submit(pool.ada, archive(n))).json()["job_id"] for n in range(5)]
        first = [await pool.fake.accepted(job_id) for job_id in adas[:2]]
        await elapse(20)
        assert (await pool.fake.store.usage("ada")).running == 2
        bobs = (await submit(pool.bob)).json()["job_id"]
        await pool.fake.accepted(bobs)
        explained = (await pool.ada.get(f"/explain/{adas[2]}")).json()
        assert (explained["verdict"], "owner limit: 2 running jobs" in explained["message"]) == ("waits", True)
        assert "running=N" in explained["hint"]
        assert (await pool.ada.get(f"/status/{adas[2]}")).json()["detail"] == "owner limit: 2 running jobs"
        dry = (await submit(pool.ada, params={"dry_run": "1"})).json()
        assert (dry["verdict"], dry["message"]) == ("waits", "owner limit: 2 running jobs")
        dry = (await submit(pool.bob, params={"dry_run": "1"})).json()
        assert dry["verdict"] == "starts_soon"
        began = asyncio.get_running_loop().time()
        end(pool, first[0])
        await pool.fake.accepted(adas[2])
        assert asyncio.get_running_loop().time() - began < 1, "it is looked for at once, not at the next tick"
        assert (await pool.fake.store.usage("ada")).running == 2

    in_pool(Limits(running=2), test, paused=False, slots=8)


def test_nothing_is_asked_again_and_again_for_an_owner_at_its_running_limit():
    async def test(pool: Pool) -> None:
        for n in range(4):
            await submit(pool.ada, archive(n))
        await elapse(10)
        asked = 0
        reserve = pool.fake.store.reserve

        async def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal asked
            asked += 1
            return await reserve(*arguments, **named)

        pool.fake.store.reserve = counted  # type: ignore[method-assign]
        await elapse(100)
        assert 10 <= asked <= 40, "a tick is 5 s"

    in_pool(Limits(running=1), test, paused=False)


def test_a_job_is_not_placed_beyond_the_running_limit_even_if_it_was_reserved():
    """Two coordinators may both have found room; the commits are judged one after the other."""

    async def test(pool: Pool) -> None:
        reserve = pool.fake.store.reserve

        async def careless(*arguments: Any, **_named: Any) -> Any:
            return await reserve(*arguments)

        pool.fake.store.reserve = careless  # type: ignore[method-assign]
        for n in range(5):
            await submit(pool.ada, archive(n))
        await elapse(10)
        assert (await pool.fake.store.usage("ada")).running == 2

    in_pool(Limits(running=2), test, paused=False, slots=8)


# Transfers, long polls


def test_an_owner_has_so_many_transfers_at_once():
    async def test(pool: Pool) -> None:
        gate = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield HEAD
            yield os.urandom(PIECE)
            await gate.wait()
            yield MORE

        tasks = [asyncio.create_task(pool.ada.post("/submit", content=slow(), headers=FORM)) for _ in range(2)]
        await until(lambda: pool.admission.under_way("ada").transfers == 2)
        detail = refused(await upload(pool.ada, 2), 429, "too_many_transfers")
        assert detail == {"owner": "ada", "limit": 2}
        assert (await submit(pool.ada)).status_code == 200, "what is small is none"
        assert (await upload(pool.bob, 2)).status_code == 200
        gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*tasks)] == [200, 200]
        assert (await upload(pool.ada, 2)).status_code == 200
        refused_upload = pool.ada.post("/submit", content=HEAD + b"x" * PIECE, headers=FORM)
        assert (await refused_upload).status_code == 400
        assert pool.admission.under_way("ada").transfers == 0, "one that fails is over as well"

    in_pool(Limits(transfers=2), test)


def test_a_download_is_a_transfer_until_its_answer_is_over():
    async def test(pool: Pool) -> None:
        job_id = (await submit(pool.ada)).json()["job_id"]
        job = await pool.fake.accepted(job_id)
        files = {"large": os.urandom(PIECE), "small": b"x"}
        outputs = tuple(
            OutputFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for path, data in files.items()
        )
        pool.fake.ends["w"].end(remote(job), Outcome(exit_code=0, outputs=outputs), files)
        await pool.fake.state(job_id, JobState.COMPLETED)
        for path in (f"/outputs/{job_id}/large", f"/download/{job_id}"):
            answer = await pool.ada.get(path)
            assert (answer.status_code, pool.admission.under_way("ada").transfers) == (200, 0)
        with pool.admission.download("ada"):
            assert pool.admission.under_way("ada").transfers == 1
            for path in (f"/outputs/{job_id}/large", f"/download/{job_id}", f"/download/{job_id}/large"):
                refused(await pool.ada.get(path), 429, "too_many_transfers")
            assert (await pool.ada.get(f"/outputs/{job_id}/small")).content == b"x"

    in_pool(Limits(transfers=1), test, paused=False)


def test_an_owner_has_so_many_long_polls_and_followed_logs_at_once():
    async def test(pool: Pool) -> None:
        job_id = (await submit(pool.ada)).json()["job_id"]
        bobs = (await submit(pool.bob)).json()["job_id"]
        poll = asyncio.create_task(pool.ada.get(f"/status/{job_id}?wait=30"))
        log = asyncio.create_task(pool.ada.get(f"/logs/{job_id}?follow=1"))
        await until(lambda: pool.admission.under_way("ada").waits == 2)
        for path in (f"/status/{job_id}?wait=1", f"/logs/{job_id}?follow=1"):
            assert refused(await pool.ada.get(path), 429, "too_many_waits") == {"owner": "ada", "limit": 2}
        assert (await pool.ada.get(f"/status/{job_id}")).status_code == 200, "who does not wait"
        assert (await pool.bob.get(f"/status/{bobs}?wait=1")).status_code == 200
        assert (await poll).status_code == 200
        assert (await pool.ada.get(f"/status/{job_id}?wait=1")).status_code == 200
        await pool.ada.post(f"/cancel/{job_id}")
        assert "event: end" in (await log).text
        assert pool.admission.under_way("ada").waits == 0
        done = await pool.ada.get(f"/status/{job_id}?wait=30")
        assert done.json()["state"] == "cancelled", "one that has ended is answered at once"

    in_pool(Limits(waits=2), test)


def test_a_reader_that_goes_gives_his_place_back():
    async def test(pool: Pool) -> None:
        job_id = (await submit(pool.ada)).json()["job_id"]
        for path in (f"/logs/{job_id}?follow=1", f"/status/{job_id}?wait=30"):
            task = asyncio.create_task(pool.ada.get(path))
            await until(lambda: pool.admission.under_way("ada").waits == 1)
            task.cancel()
            await until(lambda: pool.admission.under_way("ada").waits == 0)

    in_pool(Limits(waits=1), test)


# Usage, and limits of one owner


def test_usage_shows_what_there_is_and_what_may_be():
    async def test(pool: Pool) -> None:
        await submit(pool.ada)
        (usage,) = (await pool.ada.get("/usage")).json()["owners"]
        kept = (await pool.fake.store.usage("ada")).bytes
        assert usage == {
            "owner": "ada",
            "queued": 1,
            "running": 0,
            "bytes": kept,
            "staged_bytes": 0,
            "transfers": 0,
            "waits": 0,
            "submits_left": 9,
            "limits": msgspec.to_builtins(Limits(queued=5, submits_per_minute=10)),
        }
        for path in ("/usage?owner=bob", "/usage?all=true"):
            assert (await pool.ada.get(path)).status_code == 403
        assert (await pool.ada.get("/usage?owner=ada")).json()["owners"] == [usage]
        keys = pool.fake.coordinator.keys
        operator = pool.client((await keys.create(BY_CONSOLE, KeyWish(owner="op", role=Role.OPERATOR))).token)
        assert (await operator.get("/usage?owner=ada")).json()["owners"] == [usage]
        assert (await operator.get("/usage?owner=nobody")).json()["owners"][0]["bytes"] == 0
        await submit(pool.bob)
        everybody = (await operator.get("/usage?all=true")).json()["owners"]
        assert [one["owner"] for one in everybody] == ["ada", "bob"]
        assert (await operator.get("/limits")).status_code == 403
        assert (await operator.post("/limits/op", json={"queued": 0})).status_code == 403
        await operator.aclose()

    in_pool(Limits(queued=5, submits_per_minute=10), test)


def test_an_owner_may_have_limits_of_its_own_kept_and_written_down():
    async def test(pool: Pool) -> None:
        keys = pool.fake.coordinator.keys
        made = await keys.create(BY_CONSOLE, KeyWish(owner="root", role=Role.ADMIN))
        root = pool.client(made.token)
        answer = await root.post("/limits/ada", json={"queued": 3, "bytes": 0})
        assert answer.json()["limits"] == msgspec.to_builtins(Limits(queued=3, running=7))
        assert (await root.post("/limits/ada", json={"running": 9})).json()["limits"]["queued"] == 3
        listed = (await root.get("/limits")).json()
        assert listed["usual"]["queued"] == 1
        assert listed["owners"] == {"ada": {"queued": 3, "bytes": 0, "running": 9}}
        assert "ada" in [one["owner"] for one in (await root.get("/usage?all=1")).json()["owners"]]
        assert [(await submit(pool.ada)).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert [(await submit(pool.bob)).status_code for _ in range(2)] == [200, 429]
        trail = [e for e in (await root.get("/audit?limit=1000")).json()["entries"] if e["action"] == "limits.set"]
        assert [(e["actor"], e["subject"], e["data"]) for e in trail] == [
            ("root", "ada", {"queued": 3, "bytes": 0}),
            ("root", "ada", {"running": 9}),
        ]
        await pool.fake.coordinator.stop()
        await pool.fake.start()
        assert pool.fake.coordinator.limits.of("ada") == Limits(queued=3, running=9)
        assert pool.fake.coordinator.limits.of("bob") == Limits(queued=1, running=7, bytes=10**9)
        answer = await root.post("/limits/ada", json={"queued": None, "bytes": None, "running": None})
        assert answer.json()["limits"]["queued"] == 1
        assert (await root.get("/limits")).json()["owners"] == {}
        await root.aclose()

    in_pool(Limits(queued=1, running=7, bytes=10**9), test)


@pytest.mark.parametrize("body", [{}, {"queue": 1}, {"queued": -1}, {"queued": 2**70}, {"queued": "many"}, [], None])
def test_what_is_no_limit_changes_nothing(body: Any):
    async def test(pool: Pool) -> None:
        made = await pool.fake.coordinator.keys.create(BY_CONSOLE, KeyWish(owner="root", role=Role.ADMIN))
        root = pool.client(made.token)
        assert (await root.post("/limits/ada", json=body)).status_code == 400
        assert (await root.post("/limits/%2e%2e", json={"queued": 1})).status_code == 400
        assert (await root.post("/limits/console", json={"queued": 1})).status_code == 400
        assert (await root.get("/limits")).json()["owners"] == {}
        await root.aclose()

    in_pool(Limits(), test)


def test_limits_that_cannot_be_read_are_said_and_the_usual_ones_hold(caplog: pytest.LogCaptureFixture):
    async def test(pool: Pool) -> None:
        pool.fake.store._tables.settings["limits:ada"] = '{"queued": "many"}'
        await pool.fake.coordinator.stop()
        await pool.fake.start()
        assert pool.fake.coordinator.limits.of("ada") == Limits(queued=4)

    in_pool(Limits(queued=4), test)
    assert "kept limits of ada cannot be read" in caplog.text


def test_a_raised_running_limit_is_used_at_once():
    async def test(pool: Pool) -> None:
        jobs = [(await submit(pool.ada, archive(n))).json()["job_id"] for n in range(3)]
        await pool.fake.accepted(jobs[0])
        await elapse(7)
        began = asyncio.get_running_loop().time()
        await pool.fake.coordinator.limits.set(BY_CONSOLE, "ada", {"running": 2})
        await pool.fake.accepted(jobs[1])
        assert asyncio.get_running_loop().time() - began < 1

    in_pool(Limits(running=1), test, paused=False)


def test_direct_calls_are_limited_too():
    async def main() -> None:
        async with FakePool("w", settings=Settings(limits=Limits(queued=1))) as fake:
            await fake.coordinator.pause(paused=True)
            job_id = await fake.submit()
            with pytest.raises(PoolError) as raised:
                await fake.submit(files={"main.py": b"other"})
            assert raised.value.code == "too_many_queued"
            assert (await fake.coordinator.read.status(job_id, anybody)).state is JobState.QUEUED

    run(main())
