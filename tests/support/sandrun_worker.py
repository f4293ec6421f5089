"""A stand-in for a worker that speaks only the sandrun API, with the habits of existing ones.

It serves plain HTTP from a thread of its own, ends each connection after its answer, and really runs what it is sent:
one job at a time, a `gap_s` between starts. It tells nobody anything, keeps everything in memory, deletes a job
`keep_s` after its submit, knows no cancel, and reads manifests by searching their text. Paths of files are taken as
they come, with no escape undone.
"""

import asyncio
import contextlib
import shutil
import signal
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import msgspec
from aiohttp import web

PATIENCE_S = 20.0
HOUR_S = 3600.0


class Submit(msgspec.Struct, frozen=True):
    """One submit that arrived whole, whatever it was answered."""

    at: float
    manifest: str
    files: dict[str, bytes]
    answered: int


class _Job:
    def __init__(self, job_id: str, manifest: str, directory: Path) -> None:
        self.job_id = job_id
        self.entrypoint = find_string(manifest, "entrypoint")
        self.interpreter = find_string(manifest, "interpreter") or "python3"
        self.args = find_strings(manifest, "args")
        self.directory = directory
        self.created_at = time.monotonic()
        self.status = "queued"
        self.stdout = self.stderr = b""
        self.exit_code = 0
        self.wall_time_ms = 0


def find_string(text: str, key: str) -> str:
    """Read a string field as naively as existing workers do."""
    at = text.find(f'"{key}"')
    colon = text.find(":", at) if at >= 0 else -1
    start = text.find('"', colon) if colon >= 0 else -1
    end = text.find('"', start + 1) if start >= 0 else -1
    return text[start + 1 : end] if end >= 0 else ""


def find_strings(text: str, key: str) -> list[str]:
    """Read an array of strings likewise: the first `]` ends it."""
    at = text.find(f'"{key}"')
    colon = text.find(":", at) if at >= 0 else -1
    start = text.find("[", colon) if colon >= 0 else -1
    end = text.find("]", start) if start >= 0 else -1
    return text[start + 1 : end].split('"')[1::2] if end >= 0 else []


class SandrunWorker:
    """Use as `with`. Its levers may be moved while it runs."""

    def __init__(self, home: Path, worker_id: str | None, *, keep_s: float = 300.0, gap_s: float = 1.0) -> None:
        """`home`: where its jobs' directories are."""
        self.home = home
        self.worker_id = worker_id
        self.keep_s = keep_s
        self.gap_s = gap_s
        self.concurrent = 2  #: jobs of one address at once
        self.hourly = 20  #: jobs of one address in an hour
        self.lose_replies = 0  #: so many of the next submits are taken, and the answer is lost
        self.holds_back = False  #: every answer but health's waits while a job runs
        self.submits: list[Submit] = []
        self.starts: list[float] = []
        self.ended = 0  #: jobs that ran to their end
        self.waiting = 0  #: submits that came whole and wait for the end of a job
        self.cancels = 0
        self.most_open = 0  #: most jobs that were queued or running at once
        self.port = 0
        self._count = 0
        self._thread: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def entry(self) -> dict[str, Any]:
        """Its line in workers.json."""
        return {"worker_id": self.worker_id, "endpoint": self.endpoint, "identity": "claimed"}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start with nothing in hand; at the same port as before."""
        up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(up)), name="sandrun-worker")
        self._thread.start()
        assert up.wait(PATIENCE_S), "the stand-in does not come up"

    def stop(self) -> None:
        """End at once, with whatever it runs. Idempotent."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(PATIENCE_S)
            assert not self._thread.is_alive(), "the stand-in does not end"
            self._thread = None

    def forget(self) -> None:
        """Delete every job that does not run, as it does when they are old."""
        asyncio.run_coroutine_threadsafe(self._forget(), self._loop).result(PATIENCE_S)

    def knows(self) -> set[str]:
        """Return the ids of the jobs that it has."""
        return set(self._jobs)

    async def _main(self, up: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._jobs: dict[str, _Job] = {}
        self._queue: list[_Job] = []
        self._mutex = asyncio.Lock()
        runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        executor = asyncio.create_task(self._run_for_ever())
        up.set()
        await self._stopping.wait()
        executor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await executor
        await runner.cleanup()

    # ---- what it answers

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        method, path = request.method, request.raw_path.strip("/").split("/", 2)
        if (method, path) == ("GET", ["health"]):
            return self._json({"status": "healthy", "worker_id": self.worker_id})
        match method, path:
            case "POST", ["submit"]:
                answer = await self._submit(request)
            case "GET", ["status", job_id]:
                answer = await self._of(job_id, self._status)
            case "GET", ["logs", job_id]:
                answer = await self._of(job_id, self._logs)
            case "GET", ["outputs", job_id]:
                answer = await self._of(job_id, self._list)
            case "GET", ["download", job_id, name]:
                answer = await self._of(job_id, lambda job: self._file(job, name))
            case "GET", ["download", job_id]:
                answer = await self._of(job_id, self._everything)
            case _:
                self.cancels += path[0] == "cancel"
                answer = self._error(404, "Not found")
        answer.force_close()
        return answer

    async def _of(self, job_id: str, answer: Callable[[_Job], web.Response]) -> web.Response:
        async with self._mutex if self.holds_back else contextlib.nullcontext():
            job = self._jobs.get(job_id)
            return self._error(404, "Job not found") if job is None else answer(job)

    async def _submit(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        manifest, files = _parts(body, request.content_type, request.headers["Content-Type"])
        self.waiting += 1
        async with self._mutex if self.holds_back else contextlib.nullcontext():
            self.waiting -= 1
            refusal = self._refusal(manifest, files)
            self.submits.append(Submit(time.monotonic(), manifest, files, 200 if refusal is None else refusal.status))
            if refusal is not None:
                return refusal
            self._count += 1
            job = _Job(f"job_{int(time.monotonic())}_{self._count}", manifest, self.home / f"{self.port}-{self._count}")
            _unpack(job.directory, files)
            self._jobs[job.job_id] = job
            self._queue.append(job)
            self.most_open = max(self.most_open, self._open())
        if self.lose_replies > 0:
            self.lose_replies -= 1
            assert request.transport is not None
            request.transport.abort()
        return self._json({"job_id": job.job_id, "status": "queued"})

    def _open(self) -> int:
        return sum(job.status in ("queued", "running") for job in self._jobs.values())

    def _refusal(self, manifest: str, files: dict[str, bytes]) -> web.Response | None:
        now = time.monotonic()
        if self._open() >= self.concurrent:
            return self._error(429, "Too many concurrent jobs")
        if sum(s.answered == 200 and now - s.at < HOUR_S for s in self.submits) >= self.hourly:
            return self._error(429, "Hourly job limit reached")
        if not files:
            return self._error(400, "No files uploaded")
        if not find_string(manifest, "entrypoint"):
            return self._error(400, "No entrypoint specified")
        return None

    def _status(self, job: _Job) -> web.Response:
        metadata = {
            "cpu_seconds": 0.01,
            "memory_peak_bytes": 12 * 1024 * 1024,
            "wall_time_ms": job.wall_time_ms,
            "exit_code": job.exit_code,
            "interpreter": job.interpreter,
        }
        return self._json({"job_id": job.job_id, "status": job.status, "execution_metadata": metadata})

    def _logs(self, job: _Job) -> web.Response:
        return self._json({"stdout": job.stdout.decode("latin-1"), "stderr": job.stderr.decode("latin-1")})

    def _list(self, job: _Job) -> web.Response:
        files = [path for path in job.directory.rglob("*") if path.is_file()]
        names = [str(path.relative_to(job.directory)).encode().decode("latin-1") for path in files]
        listed = [{"name": name, "size": path.stat().st_size} for name, path in zip(names, files, strict=True)]
        return self._json({"job_id": job.job_id, "status": job.status, "total_files": len(files), "files": listed})

    def _file(self, job: _Job, name: str) -> web.Response:
        path = job.directory / name
        return web.Response(body=path.read_bytes()) if path.is_file() else self._error(404, "File not found")

    def _everything(self, job: _Job) -> web.Response:
        out = BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            tar.add(job.directory, ".")
        self._delete(job)
        return web.Response(body=out.getvalue(), content_type="application/gzip")

    def _json(self, answer: object, status: int = 200) -> web.Response:
        return web.Response(body=msgspec.json.encode(answer), status=status)

    def _error(self, status: int, words: str) -> web.Response:
        return self._json({"error": words}, status)

    # ---- what it does

    async def _run_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.gap_s)
            if self._queue:
                async with self._mutex:
                    await self._run(self._queue.pop(0))
            for job in list(self._jobs.values()):
                if time.monotonic() - job.created_at > self.keep_s and job.status != "running":
                    self._delete(job)

    async def _run(self, job: _Job) -> None:
        job.status = "running"
        began = time.monotonic()
        self.starts.append(began)
        program = sys.executable if job.interpreter == "python3" else job.interpreter
        process = await asyncio.create_subprocess_exec(
            program,
            job.entrypoint,
            *job.args,
            cwd=job.directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            job.stdout, job.stderr = await process.communicate()
        except asyncio.CancelledError:
            process.send_signal(signal.SIGKILL)
            await process.wait()
            raise
        job.exit_code = process.returncode or 0
        job.wall_time_ms = int((time.monotonic() - began) * 1000)
        job.status = "completed" if job.exit_code == 0 else "failed"
        self.ended += 1

    async def _forget(self) -> None:
        for job in list(self._jobs.values()):
            if job.status != "running":
                self._delete(job)

    def _delete(self, job: _Job) -> None:
        shutil.rmtree(job.directory, ignore_errors=True)
        self._jobs.pop(job.job_id, None)
        if job in self._queue:
            self._queue.remove(job)


def _parts(body: bytes, content_type: str, header: str) -> tuple[str, dict[str, bytes]]:
    """Split a form as naively as existing workers do: only what stands between two boundaries counts."""
    if content_type != "multipart/form-data":
        return "", {}
    boundary = b"--" + header.split("boundary=")[1].encode()
    manifest, files = "", {}
    for part in body.split(boundary)[1:-1]:
        head, _, data = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        data = data.removesuffix(b"\r\n")
        words = head.decode()
        if 'name="manifest"' in words:
            manifest = data.decode()
        elif 'name="files"' in words:
            files[words.split('filename="')[1].split('"')[0]] = data
    return manifest, files


def _unpack(directory: Path, files: dict[str, bytes]) -> None:
    directory.mkdir(parents=True)
    for name, data in files.items():
        if ".tar.gz" in name or ".tgz" in name:
            with tarfile.open(fileobj=BytesIO(data), mode="r:gz") as tar:
                tar.extractall(directory, filter="data")
        else:
            (directory / name).write_bytes(data)
