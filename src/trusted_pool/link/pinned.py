"""The line to a worker that proves its key."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted_pool.core.job import OutputFile
from trusted_pool.core.worker import Worker
from trusted_pool.link.line import Line, read_piece
from trusted_pool.link.multipart import SubmitBody
from trusted_pool.link.releases import Releases
from trusted_pool.ports.clock import Clock
from trusted_pool.ports.link import GoneError, LinkError, OpenInput, Order, UnansweredError, WrongIdentityError
from trusted_pool.protocol.certificates import LEAF_S
from trusted_pool.protocol.decoding import DecodingError, decode
from trusted_pool.protocol.identity import identity_of
from trusted_pool.protocol.messages import (
    ATTEMPT_HEADER,
    EPOCH_HEADER,
    HEARTBEAT_S,
    JOB_HEADER,
    POOL_HEADER,
    AcceptedAnswer,
    AttemptsAnswer,
    HealthAnswer,
    Hello,
    OutputsAnswer,
    ReleasesAnswer,
    WorkerMessage,
)

#: Bytes of an answer at most. Lists of outputs take at most 8 MiB of it, escaped; a report takes 300 bytes
#: without them, and 3 KiB at worst: some thousands of attempts of the worst kind fit, and 25,000 of the usual one.
MAX_ATTEMPTS_ANSWER = 16 * 1024 * 1024
MAX_ANSWER = 1024 * 1024
#: Bytes of one event, or of one list of outputs, at most. Outputs are at most 10,000, and their paths 1 MiB together:
#: escaped, with sizes and digests, 3.5 MiB, and the paths once more beside inline files. A lower cap would let one
#: job's names end the events of its worker for good.
MAX_EVENT = 8 * 1024 * 1024

Answer = TypeVar("Answer", HealthAnswer, AcceptedAnswer, AttemptsAnswer, OutputsAnswer, ReleasesAnswer)


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a call waits, in seconds."""

    connect_s: float = 5.0  #: TCP and TLS, for each address of the host
    call_s: float = 10.0  #: a small call, whole; the head of a stream
    idle_s: float = 30.0  #: for a stream's next piece
    accept_s: float = 60.0  #: for a worker to take the next piece of a job, and to answer when it has all durably
    silence_s: float = 3 * HEARTBEAT_S  #: for the next event


class _Kind(msgspec.Struct):
    type: str


class PinnedLink:
    """A `WorkerLink` over TLS 1.3 that is pinned by key on both sides.

    A GET on a kept connection that the worker had closed already is sent again on a new one; nothing else is.
    What `open_input` raises while a job is sent is passed on by `submit`; the worker then got an incomplete body.
    """

    def __init__(
        self,
        worker: Worker,
        key: Ed25519PrivateKey,
        epoch: int,
        clock: Clock,
        patience: Patience | None = None,
        *,
        leaf_s: float = LEAF_S,
    ) -> None:
        """`key`: the pool's. `leaf_s`: see `Line`. Raises ValueError for an endpoint that cannot be dialled."""
        self.worker = worker
        self._patience = patience or Patience()
        self._line = Line(worker.endpoint, worker.worker_id, key, clock, self._patience.connect_s, leaf_s=leaf_s)
        self._releases = Releases(self._release)
        self._headers = {POOL_HEADER: identity_of(key), EPOCH_HEADER: str(epoch)}

    async def health(self) -> HealthAnswer:
        """Ask how it is."""
        answer = _decoded(await self._small("GET", "/health"), HealthAnswer)
        if answer.worker_id != self.worker.worker_id:
            raise WrongIdentityError(f"it proved the listed key and calls itself {answer.worker_id[:64]!r}")
        return answer

    async def submit(self, order: Order, open_input: OpenInput) -> AcceptedAnswer:
        """Send an attempt."""
        patience, loop = self._patience, asyncio.get_running_loop()
        deadline = asyncio.timeout(patience.call_s)

        def on_progress() -> None:
            if not answered and not deadline.expired():
                deadline.reschedule(loop.time() + patience.accept_s)

        answered = False
        headers = {**self._headers, JOB_HEADER: order.job_id, ATTEMPT_HEADER: str(order.attempt)}
        body = SubmitBody(order, open_input, on_progress)
        try:
            raw = await self._line.call("POST", "/submit", headers, limit=MAX_ANSWER, deadline=deadline, body=body)
        finally:
            answered = True  # a body that is still being written has no say any more
        return _decoded(raw, AcceptedAnswer)

    async def events(self, journal_id: str, after: int) -> AsyncIterator[WorkerMessage]:
        """Follow its events."""
        loop, greeted, rest = asyncio.get_running_loop(), False, bytearray()
        path = f"/events?{urlencode({'journal': journal_id, 'after': after})}"
        async with self._line.stream(path, self._headers, within_s=self._patience.call_s, may_be_gone=False) as content:
            heard = loop.time()
            while piece := await read_piece(content, heard + self._patience.silence_s):
                rest += piece
                if len(rest) > MAX_EVENT:
                    raise UnansweredError(f"it sent an event of more than {MAX_EVENT} bytes")
                if b"\n" not in piece:
                    continue
                *lines, last = bytes(rest).split(b"\n")
                rest = bytearray(last)
                for line in lines:
                    message = _message(line)
                    if message is None:
                        continue
                    if not greeted and not isinstance(message, Hello):
                        raise UnansweredError("its event stream did not begin with hello")
                    greeted = True
                    yield message
                    heard = loop.time()  # after it was dealt with; empty lines are no word
        raise UnansweredError("it ended the event stream")

    async def attempts(self) -> AttemptsAnswer:
        """Ask for all that it has of this pool."""
        return _decoded(await self._small("GET", "/attempts", limit=MAX_ATTEMPTS_ANSWER), AttemptsAnswer)

    async def cancel(self, remote_id: str) -> None:
        """End an attempt there."""
        await self._small("POST", f"/cancel/{quote(remote_id, safe='')}", may_be_gone=True)

    async def release(self, remote_id: str) -> None:
        """Say that the attempt's results are kept elsewhere."""
        await self._releases.add(remote_id)

    async def _release(self, remote_ids: list[str]) -> tuple[str, ...]:
        if len(remote_ids) > 1:
            query = urlencode([("job", remote_id) for remote_id in remote_ids])
            return _decoded(await self._small("POST", f"/release?{query}"), ReleasesAnswer).running
        with contextlib.suppress(GoneError):
            await self._small("POST", f"/release/{quote(remote_ids[0], safe='')}", may_be_gone=True)
        return ()

    async def outputs(self, remote_id: str) -> tuple[OutputFile, ...]:
        """List the outputs of an ended attempt."""
        where = f"/outputs/{quote(remote_id, safe='')}"
        return tuple(_decoded(await self._small("GET", where, limit=MAX_EVENT, may_be_gone=True), OutputsAnswer).files)

    async def output(self, remote_id: str, path: str) -> AsyncIterator[bytes]:
        """Read one output file."""
        where = f"/outputs/{quote(remote_id, safe='')}/{quote(path, safe='/')}"
        async for piece in self._pieces(where, self._patience.idle_s):
            yield piece

    async def log(self, remote_id: str, start: int, *, follow: bool) -> AsyncIterator[bytes]:
        """Read the framed log. A followed one may be quiet for as long as the job is."""
        where = f"/logs/{quote(remote_id, safe='')}/frames?start={start}&follow={int(follow)}"
        async for piece in self._pieces(where, math.inf if follow else self._patience.idle_s):
            yield piece

    async def close(self) -> None:
        """Let go of connections."""
        self._releases.close()
        await self._line.close()

    async def _small(self, method: str, path: str, *, limit: int = MAX_ANSWER, may_be_gone: bool = False) -> bytes:
        deadline = asyncio.timeout(self._patience.call_s)
        return await self._line.call(
            method, path, self._headers, limit=limit, deadline=deadline, may_be_gone=may_be_gone
        )

    async def _pieces(self, path: str, idle_s: float) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        async with self._line.stream(path, self._headers, within_s=self._patience.call_s, may_be_gone=True) as content:
            while piece := await read_piece(content, None if math.isinf(idle_s) else loop.time() + idle_s):
                yield piece


def _decoded(raw: bytes, kind: type[Answer]) -> Answer:
    try:
        return decode(raw, kind)
    except DecodingError as error:
        raise UnansweredError(f"its answer cannot be understood: {error}") from None


_KINDS = frozenset({"hello", "heartbeat", "started", "ended", "interrupted"})


def _message(line: bytes) -> WorkerMessage | None:
    """Decode one line; None for an empty one and for a kind that a newer worker knows."""
    if not line:
        return None
    try:
        return decode(line, WorkerMessage)
    except DecodingError as error:
        try:
            newer = decode(line, _Kind).type not in _KINDS
        except DecodingError:
            newer = False
        if newer:
            return None
        raise LinkError(f"its event cannot be understood: {error}") from None
