"""The worker's HTTP face: every answer is typed JSON, and nobody gets in without a listed key."""

import asyncio
import gzip
import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trusted_pool.blobs.memory import MemoryBlobs
from trusted_pool.core.job import Outcome, OutputFile
from trusted_pool.core.request import Capacity
from trusted_pool.core.words import Reason
from trusted_pool.journal.memory import MemoryJournal
from trusted_pool.ports.sandbox import OnLog, OpenInput, OutputMissingError, Task
from trusted_pool.protocol import frames
from trusted_pool.protocol.certificates import PEER
from trusted_pool.worker.api import submit
from trusted_pool.worker.api.app import build_app
from trusted_pool.worker.daemon import Daemon

POOL = "b" * 43 + "="
FILES = {"results/ü %41.txt": b"hello", "empty": b"", "big.bin": bytes(range(256)) * 400}


class QuickSandbox:
    """Runs nothing: a job named wait.py runs until it is stopped; any other ends at once and leaves FILES."""

    def __init__(self) -> None:
        self.runs = 0
        self.ends: dict[str, asyncio.Event] = {}

    async def start(self) -> None:
        pass

    def capacity(self) -> Capacity:
        return Capacity(slots=1, memory_mb=1024, interpreters={"python3": "3"}, isolation=2)

    async def run(
        self, task: Task, open_input: OpenInput, on_log: OnLog, on_start: Callable[[], Awaitable[None]]
    ) -> Outcome:
        self.runs += 1
        end = self.ends[task.key] = asyncio.Event()
        for file in task.inputs:
            assert [piece async for piece in open_input(file)]
        await on_start()
        on_log(frames.STDOUT, b"out\xff")
        on_log(frames.STDERR, b"err")
        if task.manifest.entrypoint == "wait.py":
            await end.wait()
            return Outcome(reason=Reason.CANCELLED)
        outputs = tuple(OutputFile(path=p, size=len(d), sha256=_sha256(d)) for p, d in FILES.items())
        return Outcome(exit_code=0, outputs=outputs)

    async def stop(self, key: str, grace_s: float) -> None:
        assert grace_s > 0
        self.ends[key].set()

    async def output(self, key: str, path: str) -> AsyncIterator[bytes]:
        if path == "big.bin" and key == "gone":
            raise OutputMissingError(path)
        yield FILES[path]

    async def discard(self, key: str) -> None:
        pass

    async def sweep(self, keep: frozenset[str]) -> list[str]:
        assert not keep
        return []

    async def close(self) -> None:
        for end in self.ends.values():
            end.set()


class Fixed:
    """A clock that stands still and dice that count."""

    def __init__(self) -> None:
        self._next = itertools.count(1)

    def now(self) -> float:
        return 1000.0

    def monotonic(self) -> float:
        return 1000.0

    def token(self, n_bytes: int) -> str:
        return f"{next(self._next):0{2 * n_bytes}x}"

    def jitter(self) -> float:
        return 0.5

    how_to_forget = "tpool worker --forget-pool --worker-key worker.pem"

    def load(self) -> str | None:
        return None

    def save(self, pool_id: str) -> None:
        raise AssertionError(pool_id)


class Face:
    """The application with a client that has proven a key."""

    def __init__(self, peer: str | None = POOL) -> None:
        fixed = Fixed()
        self.sandbox = QuickSandbox()
        self.journal = MemoryJournal("j1")
        self.blobs = MemoryBlobs()
        self.daemon = Daemon(
            worker_id="w1", sandbox=self.sandbox, journal=self.journal, blobs=self.blobs, enrolment=fixed,
            clock=fixed, dice=fixed, listed=(POOL,),
        )  # fmt: skip
        app = build_app(self.daemon)
        self.read = 0

        async def proven(scope: Any, receive: Any, send: Any) -> None:
            async def counted() -> Any:
                message = await receive()
                self.read += len(message.get("body", b""))
                return message

            scope["state"] = {PEER: peer}
            await app(scope, counted, send)

        transport = httpx.ASGITransport(proven, raise_app_exceptions=True)
        self.http = httpx.AsyncClient(
            transport=transport, base_url="https://worker", headers={"trusted-pool-epoch": "3"}
        )

    async def submit(self, job: str = "pool-1", attempt: str = "1", name: str = "main.py", **more: Any) -> Any:
        headers = {"trusted-pool-job": job, "trusted-pool-attempt": attempt, "trusted-pool-epoch": "3"}
        manifest = json.dumps({"entrypoint": name, "interpreter": "python3"})
        files = [("manifest", (None, manifest)), ("files", (name, b"print(1)"))]
        return await self.http.post("/submit", **{"headers": headers, "files": files, **more})

    async def finished(self, **kwargs: Any) -> str:
        answer = await self.submit(**kwargs)
        assert answer.status_code == 200, answer.text
        remote_id: str = answer.json()["job_id"]
        assert await self.daemon.attempts.idle(5)
        return remote_id


def play(test: Callable[[Face], Awaitable[None]], peer: str | None = POOL) -> None:
    async def run() -> None:
        face = Face(peer)
        await face.daemon.start()
        try:
            async with asyncio.timeout(30), face.http:
                await test(face)
        finally:
            await face.daemon.close()

    asyncio.run(run())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert list(body) == ["error"]
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    return dict(body["error"])


def test_a_job_goes_through_every_route():
    async def test(face: Face) -> None:
        health = (await face.http.get("/health")).json()
        assert (health["status"], health["worker_id"], health["api"]) == ("healthy", "w1", 1)
        assert health["capacity"]["slots"] == 1
        answer = await face.submit()
        assert answer.json() == {"job_id": "job-0000000000000001", "status": "running", "started_at": 1000.0}
        remote_id = await face.finished()  # the same attempt: the same id
        assert remote_id == "job-0000000000000001"
        assert face.sandbox.runs == 1
        status = (await face.http.get(f"/status/{remote_id}")).json()
        assert (status["job_id"], status["status"], status["execution_metadata"]["exit_code"]) == (
            remote_id, "completed", 0,
        )  # fmt: skip
        logs = (await face.http.get(f"/logs/{remote_id}")).json()
        assert (logs["stdout"], logs["stderr"], logs["truncated"]) == ("out\ufffd", "err", False)
        raw = frames.encode(1000.0, frames.STDOUT, b"out\xff") + frames.encode(1000.0, frames.STDERR, b"err")
        assert (await face.http.get(f"/logs/{remote_id}/frames")).content == raw
        assert (await face.http.get(f"/logs/{remote_id}/frames?start=5&follow=1")).content == raw[5:]
        listed = (await face.http.get(f"/outputs/{remote_id}")).json()
        assert [f["path"] for f in listed["files"]] == list(FILES)
        for route, (path, data) in itertools.product(("outputs", "download"), FILES.items()):
            got = await face.http.get(f"/{route}/{remote_id}/{quote(path)}")
            assert got.status_code == 200
            assert got.content == data
            assert got.headers["x-content-type-options"] == "nosniff"
        archive = (await face.http.get(f"/download/{remote_id}")).content
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as tar:
            assert {m.name: tar.extractfile(m).read() for m in tar} == FILES  # type: ignore[union-attr]
        attempts = (await face.http.get("/attempts")).json()
        assert attempts["journal_id"] == "j1"
        assert [a["remote_id"] for a in attempts["attempts"]] == [remote_id]
        cancelled = (await face.http.post(f"/cancel/{remote_id}")).json()
        assert cancelled == {"job_id": remote_id, "status": "completed", "cancelled": False}
        other = await face.finished(job="pool-other")
        assert (await face.http.post("/release", params={"job": [other, other, "gone"]})).json() == {}
        error(await face.http.get(f"/status/{other}"), 404, "not_found")
        assert (await face.http.post(f"/release/{remote_id}")).json() == {"job_id": remote_id, "released": True}
        error(await face.http.post(f"/release/{remote_id}"), 404, "not_found")
        error(await face.http.get(f"/status/{remote_id}"), 404, "not_found")

    play(test)


def test_busy_draining_stale_and_running_are_told_apart():
    async def test(face: Face) -> None:
        remote_id = (await face.submit(name="wait.py")).json()["job_id"]
        busy = await face.submit("pool-2")
        assert error(busy, 429, "busy")["retryable"]
        assert busy.headers["retry-after"] == "1"
        stale = {"trusted-pool-job": "pool-2", "trusted-pool-attempt": "1", "trusted-pool-epoch": "2"}
        error(await face.submit(headers=stale), 409, "stale_epoch")
        for verb in ("cancel", "release"):
            error(await face.http.post(f"/{verb}/{remote_id}", headers=stale), 409, "stale_epoch")
        asked = (
            "health",
            "attempts",
            "events",
            f"status/{remote_id}",
            f"logs/{remote_id}/frames",
            f"outputs/{remote_id}",
        )
        for path in asked:  # reading too: what it would make of it is no longer its business
            said = error(await face.http.get(f"/{path}", headers=stale), 409, "stale_epoch")
            assert "stop one of the two" in said["hint"]
        many = {"job": [remote_id]}
        error(await face.http.post("/release", params=many, headers=stale), 409, "stale_epoch")
        del face.http.headers["trusted-pool-epoch"]
        assert (await face.http.get(f"/status/{remote_id}")).status_code == 200
        for path in ("submit", f"cancel/{remote_id}", f"release/{remote_id}", "release"):
            said = error(await face.http.post(f"/{path}", params=many), 400, "bad_request")
            assert "trusted-pool-epoch" in said["message"]
        face.http.headers["trusted-pool-epoch"] = "x"
        error(await face.http.get("/health"), 400, "bad_request")
        face.http.headers["trusted-pool-epoch"] = "3"
        error(await face.http.post(f"/release/{remote_id}"), 409, "conflict")
        many = await face.http.post("/release", params={"job": [remote_id, "gone"]})
        assert many.json() == {"running": [remote_id]}
        error(await face.http.post("/release", params={"job": ["x"] * 1001}), 400, "bad_request")
        face.daemon.signal()
        draining = await face.submit("pool-2", "2")
        assert error(draining, 503, "unavailable")["retryable"]
        assert draining.headers["retry-after"] == "30"
        assert (await face.http.post(f"/cancel/{remote_id}")).json()["cancelled"]
        assert await face.daemon.attempts.idle(5)
        assert (await face.http.get(f"/status/{remote_id}")).json()["status"] == "cancelled"

    play(test)


@pytest.mark.parametrize("peer", [None, "another"])
def test_a_pool_that_is_not_listed_gets_nothing_but_a_hint(peer: str | None):
    async def test(face: Face) -> None:
        for method, path in (("GET", "/health"), ("POST", "/submit"), ("GET", "/nowhere"), ("GET", "/events")):
            said = error(await face.http.request(method, path, content=b"x" * 1000), 403, "forbidden")
            if peer is not None:
                assert f"tpool worker --pool {POOL} --pool another" in said["hint"]
        assert face.read == 0  # not a byte of a body was read

    play(test, peer)


def test_a_body_that_does_not_come_is_given_up_and_frees_its_slot(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(submit, "SILENCE_S", 0.05)

    async def slow() -> AsyncIterator[bytes]:
        yield b"--B"
        await asyncio.Event().wait()

    async def test(face: Face) -> None:
        headers = {"trusted-pool-job": "pool-1", "trusted-pool-attempt": "1", "trusted-pool-epoch": "1"}
        headers["content-type"] = "multipart/form-data; boundary=B"
        assert error(await face.http.post("/submit", headers=headers, content=slow()), 408, "too_slow")["retryable"]
        assert face.daemon.attempts.active == 0

    play(test)


def test_a_header_that_names_another_pool_is_refused():
    async def test(face: Face) -> None:
        error(await face.http.get("/health", headers={"trusted-pool-id": "another"}), 403, "forbidden")
        assert (await face.http.get("/health", headers={"trusted-pool-id": POOL})).status_code == 200

    play(test)


def test_wrong_requests_are_answered_in_json():
    async def test(face: Face) -> None:
        remote_id = await face.finished()
        error(await face.http.get("/nowhere"), 404, "not_found")
        error(await face.http.delete("/health"), 405, "method_not_allowed")
        error(await face.http.get("/submit"), 405, "method_not_allowed")
        for query in ("start=-1", "start=x", "start=99999999999999999999", "follow=perhaps"):
            error(await face.http.get(f"/logs/{remote_id}/frames?{query}"), 400, "bad_request")
        error(await face.http.get("/events?after=x"), 400, "bad_request")
        for path in ("..%2f..%2fetc/passwd", "%2e%2e/x", "a/%2e/b", "a%00", "a//b", "%ff", "a%2F..%2Fb"):
            for route in ("outputs", "download"):
                error(await face.http.get(f"/{route}/{remote_id}/{path}"), 400, "bad_request")
        error(await face.http.get(f"/outputs/{remote_id}/%252e%252e"), 404, "no_such_output")  # decoded once
        for headers in ({}, {"trusted-pool-job": "a/b"}, {"trusted-pool-job": "a", "trusted-pool-attempt": "0"}):
            error(await face.submit(headers=headers), 400, "bad_request")
        error(await face.submit("pool-9", files=None, content=b"junk"), 400, "bad_request")

    play(test)


def test_a_bad_archive_is_refused_and_nothing_is_kept():
    def bomb() -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            info = tarfile.TarInfo("../x")
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        return out.getvalue()

    async def test(face: Face) -> None:
        for number, data in enumerate((bomb(), b"no archive", b"", bomb()[:-20]), 1):
            files = [("manifest", (None, '{"entrypoint": "x"}')), ("files", ("a.tar.gz", data))]
            error(await face.submit(attempt=str(number), files=files), 400, "bad_archive")
        assert await face.journal.entries() == []
        assert face.daemon.attempts.active == 0
        assert face.sandbox.runs == 0

    play(test)


NAMES = st.sampled_from(["main.py", "a.tar.gz", "a.zip", "../x", "", "x" * 300, "a\nb", "\ud800", "sub/main.py"])
FIELDS = st.sampled_from(["files", "manifest", "file", "", "job"])
MANIFESTS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"[" * 5000, b"1" * 6000, b"NaN", b'{"entrypoint":"main.py"}', b'{"timeout":1e400}']),
    st.dictionaries(
        st.sampled_from(["entrypoint", "interpreter", "args", "env", "timeout", "memory_mb", "cpus", "retry", "gpu"]),
        st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.text(max_size=2))),
    ).map(lambda fields: json.dumps(fields).encode()),
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        field, name = draw(FIELDS), draw(st.one_of(st.none(), NAMES))
        head = f'Content-Disposition: form-data; name="{field}"'
        if name is not None:
            head += f'; filename="{name}"'
        data = draw(MANIFESTS if field == "manifest" else st.binary(max_size=200))
        parts.append(b"--B\r\n" + head.encode("utf-8", "surrogatepass") + b"\r\n\r\n" + data + b"\r\n")
    body = b"".join(parts) + b"--B--\r\n"
    cut = draw(st.one_of(st.none(), st.integers(0, len(body))))
    flip = draw(st.one_of(st.none(), st.integers(0, len(body) - 1)))
    if flip is not None:
        body = body[:flip] + bytes([draw(st.integers(0, 255))]) + body[flip + 1 :]
    return body[:cut]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(bodies(), min_size=1, max_size=5), st.sampled_from(["B", "C", "", "B\x00", "x" * 80]))
def test_hostile_submits_are_refused_and_leave_nothing(hostile: list[bytes], boundary: str):
    async def test(face: Face) -> None:
        for number, body in enumerate(hostile):
            headers = {
                "trusted-pool-job": f"pool-{number}",
                "trusted-pool-attempt": "1",
                "trusted-pool-epoch": "1",
                "content-type": f"multipart/form-data; boundary={boundary}",
            }
            answer = await face.http.post("/submit", headers=headers, content=body)
            assert answer.status_code in {200, 400, 413, 422}, answer.text
            if answer.status_code == 200:
                assert await face.daemon.attempts.idle(5)
            else:
                error(answer, answer.status_code, answer.json()["error"]["code"])
        accepted = await face.journal.entries()
        assert face.sandbox.runs == len(accepted)
        assert face.daemon.attempts.active == 0
        assert not face.daemon.intake._inputs._uses

    play(test)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "DELETE", "HEAD", "OPTIONS"]),
    st.sampled_from(["/status/", "/logs/", "/outputs/", "/download/", "/cancel/", "/release/", "/attempts", "/"]),
    st.lists(
        st.sampled_from(["a", "..", "%2e%2e", "%00", "%ff", "//", "/", "frames", "?start=-1", "%252f"]), max_size=4
    ),
)
def test_hostile_paths_are_refused(method: str, route: str, tail: list[str]):
    async def test(face: Face) -> None:
        answer = await face.http.request(method, "https://worker" + route + "".join(tail))
        assert answer.status_code < 500, answer.text
        assert answer.status_code >= 400 or route == "/attempts" or method == "OPTIONS"

    play(test)
