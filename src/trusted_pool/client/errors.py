"""What can go wrong for a client. Each says what failed, whose fault it was and whether trying again can help."""

from trusted_pool.core.words import Fault
from trusted_pool.protocol.errors import ErrorBody


class ClientError(Exception):
    """Base of all errors of this library."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "client",
        hint: str = "",
        fault: Fault = Fault.USER,
        retryable: bool = False,
        status: int | None = None,
    ) -> None:
        """`status`: of the HTTP answer, when there was one."""
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.fault = fault
        self.retryable = retryable
        self.status = status


class UnreachableError(ClientError):
    """No answer came: nobody listens, the name is unknown, the line broke, TLS failed."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        """The request may have arrived all the same."""
        super().__init__(message, code="unreachable", hint=hint, fault=Fault.OPERATOR, retryable=True)


class UntrustedError(UnreachableError):
    """Whoever answers does not prove to be the pool, or not by TLS. Nothing was sent; trying again is no help."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        """`hint`: what to compare or to write."""
        super().__init__(message, hint=hint)
        self.code = "untrusted"
        self.retryable = False


class RequestError(ClientError):
    """The pool answered with an error."""

    def __init__(self, status: int, body: ErrorBody, *, retry_after_s: float | None = None) -> None:
        """`retry_after_s`: from Retry-After, if it said."""
        super().__init__(
            body.message, code=body.code, hint=body.hint, fault=body.fault, retryable=body.retryable, status=status
        )
        self.detail = body.detail
        self.retry_after_s = retry_after_s


class AnswerError(ClientError):
    """An answer that this version cannot read."""

    def __init__(self, message: str, *, hint: str = "", status: int | None = None) -> None:
        """`hint`: what to look at."""
        super().__init__(message, code="bad_answer", hint=hint, fault=Fault.COORDINATOR, status=status)


class IntegrityError(ClientError):
    """Bytes that are not what the listing says. Nothing of them was kept."""

    def __init__(self, message: str) -> None:
        """Another try may get the right bytes."""
        super().__init__(message, code="integrity", hint="try again", fault=Fault.COORDINATOR, retryable=True)


class UnsafePathError(ClientError):
    """The pool names an output that would land outside the target directory. Nothing of it was written."""

    def __init__(self, message: str) -> None:
        """An honest pool never does that."""
        super().__init__(message, code="unsafe_path", hint="do not trust this pool", fault=Fault.COORDINATOR)


class PackError(ClientError):
    """Local files that cannot be sent."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        """`hint`: what to do with them."""
        super().__init__(message, code="pack", hint=hint)


class NoLongerWaitingError(ClientError):
    """The time to wait is over; the job goes on."""

    def __init__(self, message: str) -> None:
        """Waiting again may see the end."""
        super().__init__(message, code="wait_timeout", retryable=True)
