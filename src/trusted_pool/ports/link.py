"""The line from the coordinator to one worker."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from trusted_pool.core.job import InputFile, OutputFile
from trusted_pool.core.worker import Worker
from trusted_pool.protocol.messages import AcceptedAnswer, AttemptsAnswer, HealthAnswer, WorkerMessage


class LinkError(Exception):
    """The call did not succeed; the message is for people."""


class NotSentError(LinkError):
    """Not a byte of a job reached the worker: refused connection, failed handshake, wrong key."""


class WrongIdentityError(NotSentError):
    """Something answers at the endpoint and is not the listed worker."""


class FencedError(LinkError):
    """Another coordinator of this pool, started later, has the worker. It did nothing of what was asked, and will not.

    The message says what to do.
    """


class UnansweredError(LinkError):
    """The request may have arrived; no answer came."""


class RefusedError(LinkError):
    """The worker answered 4xx: no, and no again."""

    def __init__(self, status: int, words: str) -> None:
        """`words`: what the worker said."""
        super().__init__(words)
        self.status = status
        self.words = words


class FullError(LinkError):
    """The worker answered 429 or 503: later."""

    def __init__(self, words: str, retry_after_s: float | None = None) -> None:
        """`retry_after_s`: from Retry-After, if it said."""
        super().__init__(words)
        self.retry_after_s = retry_after_s


class GoneError(LinkError):
    """The worker answered 404 or 410: it does not have it."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt as it is sent to a worker."""

    job_id: str
    attempt: int
    manifest: str
    inputs: tuple[InputFile, ...]


OpenInput = Callable[[InputFile], AsyncIterator[bytes]]


class WorkerLink(Protocol):
    """Contract.

    - Every call proves both sides' keys first, or raises NotSentError with no byte of a job sent. The one exception is
      a `claimed` worker.
    - `submit` of the same (job, attempt) again answers the same remote id and never runs it twice.
    - Answers are capped and timed: a worker cannot make the coordinator hold more than one piece in memory, nor wait
      for ever.
    - No call retries by itself. None follows a redirect.
    - Every call may raise FencedError.
    """

    worker: Worker

    async def health(self) -> HealthAnswer:
        """Ask how it is. Raises LinkError."""

    async def submit(self, order: Order, open_input: OpenInput) -> AcceptedAnswer:
        """Send an attempt. Raises NotSentError, UnansweredError, RefusedError, FullError."""

    def events(self, journal_id: str, after: int) -> AsyncIterator[WorkerMessage]:
        """Follow its events: Hello first, then what came after `after` if the journal is the same, then live.

        Ends with LinkError when the line breaks or is silent for three heartbeats.
        """

    async def attempts(self) -> AttemptsAnswer:
        """Ask for all that it has of this pool. Raises LinkError."""

    async def cancel(self, remote_id: str) -> None:
        """End an attempt there: SIGTERM, 10 s, SIGKILL. Returns when it has heard. Raises GoneError, LinkError."""

    async def release(self, remote_id: str) -> None:
        """Say that the attempt's results are kept elsewhere and may be deleted. Gone is no error. Raises LinkError."""

    async def outputs(self, remote_id: str) -> tuple[OutputFile, ...]:
        """List the outputs of an ended attempt. Raises GoneError, LinkError."""

    def output(self, remote_id: str, path: str) -> AsyncIterator[bytes]:
        """Read one output file. Raises GoneError, LinkError."""

    def log(self, remote_id: str, start: int, *, follow: bool) -> AsyncIterator[bytes]:
        """Read the framed log from byte `start`; with `follow` until the attempt ended. Raises GoneError, LinkError."""

    async def close(self) -> None:
        """Cut it, whatever is under way. Idempotent.

        What is under way ends at once, with LinkError: a submit of which a byte may have gone with UnansweredError. Not
        a byte goes to the worker any more, and later calls raise NotSentError.
        """


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that a worker was sent and has acknowledged."""

    order: Order
    remote_id: str


@runtime_checkable
class Forgetful(Protocol):
    """A line to a worker that cannot list what it has: what it was sent must be told before `attempts` is asked."""

    async def adopt(self, sent: Sequence[Sent], open_input: OpenInput) -> None:
        """Take over what an earlier process, or an earlier line, had sent. Idempotent."""


LinkTo = Callable[[Worker], WorkerLink]
