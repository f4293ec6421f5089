"""Logs and outputs of an ended job, copied at once: such a worker deletes them about five minutes after the submit."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from urllib.parse import quote

import msgspec

from trusted_pool.core.job import Outcome, OutputFile
from trusted_pool.core.words import Reason
from trusted_pool.link.line import read_piece
from trusted_pool.link.sandrun_answers import Logs, Outputs, Status, decoded, outcome_of, said
from trusted_pool.link.sandrun_line import PlainLine
from trusted_pool.link.sandrun_manifest import asked
from trusted_pool.link.sandrun_pack import digests
from trusted_pool.ports.blobs import Blobs, Stage, Staged
from trusted_pool.ports.clock import Clock
from trusted_pool.ports.link import GoneError, OpenInput, Order, RefusedError
from trusted_pool.protocol import frames
from trusted_pool.protocol.archive import require_canonical, shown
from trusted_pool.protocol.errors import BadRequestError

_log = logging.getLogger(__name__)

MAX_LOG_ANSWER = 64 * 1024 * 1024
MAX_LIST_ANSWER = 32 * 1024 * 1024
#: A file that comes slower than this, after a while, is not waited for.
LEAST_BYTES_S = 64 * 1024
MAX_FILES = 10_000
MAX_PATH_BYTES = 2**20  #: of all outputs together
_MB = 1024 * 1024
_PASSED_OVER = "__pycache__"
_PLAIN = "/!$&'()*+,;=:@-._~"  #: what a path may hold as it is; existing workers do not undo an escape

#: From the patterns of a manifest to a test of paths: what is an output.
Wanted = Callable[[Sequence[str]], Callable[[str], bool]]


class Results:
    """What was copied: how it ended, the framed log, the outputs by path. `discard` it."""

    def __init__(self) -> None:
        self.outcome = Outcome()
        self.log: Staged | None = None
        self.files: dict[str, Staged] = {}

    async def discard(self) -> None:
        """Forget the bytes."""
        staged = [*self.files.values(), *([self.log] if self.log else [])]
        self.files, self.log = {}, None
        for one in staged:
            await one.discard()


class _CapError(Exception):
    """More bytes than the job may leave."""


class Fetch:
    """Copies the results of one worker's jobs."""

    def __init__(
        self,
        line: PlainLine,
        blobs: Blobs,
        clock: Clock,
        wanted: Wanted,
        *,
        call_s: float,
        idle_s: float,
        file_s: float,
    ) -> None:
        """`call_s`: for a small call, and the head of a file. `idle_s`: for the next piece of a file.

        `file_s`: for a whole file, and a second more for each LEAST_BYTES_S: a worker cannot keep a copy open by drops.
        """
        self._line = line
        self._blobs = blobs
        self._clock = clock
        self._wanted = wanted
        self._call_s = call_s
        self._idle_s = idle_s
        self._file_s = file_s

    async def status(self, remote_id: str, within_s: float) -> Status:
        """Ask how a job is. Raises GoneError, LinkError."""
        return decoded(await self._small(f"/status/{quote(remote_id, safe='')}", _MB, within_s), Status)

    async def results(
        self, remote_id: str, status: Status, order: Order, open_input: OpenInput, *, cancelled: bool
    ) -> Results:
        """Copy everything of an ended job. Nothing is left of what failed.

        Raises:
            GoneError: the worker has deleted it.
            LinkError, BlobsError: not now.
        """
        results = Results()
        try:
            results.log = await self._logs(remote_id)
            outcome = outcome_of(status, cancelled=cancelled)
            if not cancelled:
                outcome = await self._outputs(results, outcome, remote_id, order, open_input)
            results.outcome = msgspec.structs.replace(outcome, log_bytes=results.log.size)
        except BaseException:
            await results.discard()
            raise
        return results

    async def _logs(self, remote_id: str) -> Staged:
        """Copy the log as frames. Its times are those of the copy; what came first of the two streams is not known."""
        logs = decoded(await self._small(f"/logs/{quote(remote_id, safe='')}", MAX_LOG_ANSWER, self._idle_s), Logs)
        now = self._clock.now()
        stage = await self._blobs.stage()
        try:
            await stage.write(frames.encode(now, frames.STDOUT, said(logs.stdout)))
            await stage.write(frames.encode(now, frames.STDERR, said(logs.stderr)))
            return await stage.finish()
        except BaseException:
            await stage.abort()
            raise

    async def _outputs(
        self, results: Results, outcome: Outcome, remote_id: str, order: Order, open_input: OpenInput
    ) -> Outcome:
        job = asked(order.manifest)
        raw = await self._small(f"/outputs/{quote(remote_id, safe='')}", MAX_LIST_ANSWER, self._idle_s)
        names = [said(listed.name).decode(errors="replace") for listed in decoded(raw, Outputs).files]
        wanted = self._wanted(job.outputs) if job.outputs is not None else _is_no_cache
        given = await digests(order.inputs, open_input, self._blobs) if job.outputs is None else {}
        left = job.disk_mb * _MB
        left_for_paths = MAX_PATH_BYTES
        outputs: list[OutputFile] = []
        for path in sorted(set(names)):
            try:
                require_canonical(path)
            except BadRequestError:
                return _worse(outcome, outputs, Reason.BAD_OUTPUT, f"its worker names an output {shown(path)}")
            if not wanted(path):
                continue
            left_for_paths -= len(path.encode())
            if left_for_paths < 0:
                words = f"the paths of its outputs take more than {MAX_PATH_BYTES} bytes"
                return _worse(outcome, outputs, Reason.OUTPUT_LIMIT, words)
            if len(outputs) == MAX_FILES:
                return _worse(outcome, outputs, Reason.OUTPUT_LIMIT, f"it left more than {MAX_FILES} files")
            try:
                staged = await self._file(remote_id, path, left)
            except _CapError:
                words = f"its outputs are larger than disk_mb, which is {job.disk_mb} MB"
                return msgspec.structs.replace(_worse(outcome, outputs, Reason.OUTPUT_LIMIT, words), limit="disk_mb")
            except (GoneError, RefusedError) as error:
                await self.status(remote_id, self._call_s)  # gone altogether is another matter, and raised
                words = f"its worker lists the output {shown(path)} and does not hand it out: {error}"
                return _worse(outcome, outputs, Reason.BAD_OUTPUT, words)
            if given.get(path) == staged.sha256:
                await staged.discard()  # it came with the job and is as it was
                continue
            left -= staged.size
            results.files[path] = staged
            outputs.append(OutputFile(path=path, size=staged.size, sha256=staged.sha256))
        return msgspec.structs.replace(outcome, outputs=tuple(outputs))

    async def _file(self, remote_id: str, path: str, room: int) -> Staged:
        where = f"/download/{quote(remote_id, safe='')}/{quote(path, safe=_PLAIN)}"
        loop = asyncio.get_running_loop()
        stage: Stage = await self._blobs.stage()
        began = loop.time()

        def until() -> float:
            return min(loop.time() + self._idle_s, began + self._file_s + stage.size / LEAST_BYTES_S)

        try:
            async with self._line.stream(where, {}, within_s=self._idle_s, may_be_gone=True) as content:
                while piece := await read_piece(content, until()):
                    if stage.size + len(piece) > room:
                        raise _CapError
                    await stage.write(piece)
            return await stage.finish()
        except BaseException:
            await stage.abort()
            raise

    async def _small(self, path: str, limit: int, within_s: float) -> bytes:
        deadline = asyncio.timeout(within_s)
        return await self._line.call("GET", path, {}, limit=limit, deadline=deadline, may_be_gone=True)


def _is_no_cache(path: str) -> bool:
    return _PASSED_OVER not in path.split("/")[:-1]


def _worse(outcome: Outcome, outputs: list[OutputFile], reason: Reason, detail: str) -> Outcome:
    """Keep what was found until then. A job that failed by itself keeps its own reason."""
    if outcome.reason is not None:
        return msgspec.structs.replace(outcome, outputs=tuple(outputs))
    return msgspec.structs.replace(outcome, outputs=tuple(outputs), reason=reason, detail=detail)
