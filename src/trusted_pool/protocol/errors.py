"""The error model: one family, whose members say what failed, whose fault it is and what to do next."""

import msgspec

from trusted_pool.core.words import Fault


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The value of `error` in every error answer."""

    code: str  #: stable, snake_case
    message: str  #: one sentence: what failed
    hint: str = ""  #: what to do next
    fault: Fault = Fault.USER
    retryable: bool = False  #: whether the very same request may succeed later
    detail: dict[str, object] = {}


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of every error answer."""

    error: ErrorBody


class PoolError(Exception):
    """An error with an HTTP status and a body for the one who asked."""

    status = 500
    code = "internal"
    fault = Fault.COORDINATOR
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        detail: dict[str, object] | None = None,
    ) -> None:
        """`retry_after_s`: sent as Retry-After."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.detail = detail or {}
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status

    @property
    def body(self) -> ErrorBody:
        """What goes on the wire."""
        return ErrorBody(
            code=self.code,
            message=self.message,
            hint=self.hint,
            fault=self.fault,
            retryable=self.retryable,
            detail=self.detail,
        )


class BadRequestError(PoolError):
    """The request is wrong and will be wrong next time."""

    status, code, fault = 400, "bad_request", Fault.USER


class BadManifestError(BadRequestError):
    """The manifest cannot be used."""

    code = "bad_manifest"


class UnsupportedError(BadManifestError):
    """A known key that this version cannot honour yet."""

    code = "unsupported"


class BadArchiveError(BadRequestError):
    """The files cannot be unpacked safely."""

    code = "bad_archive"


class UnauthenticatedError(PoolError):
    """Nobody knows who asks."""

    status, code, fault = 401, "unauthenticated", Fault.USER


class ForbiddenError(PoolError):
    """The one who asks may not."""

    status, code, fault = 403, "forbidden", Fault.USER


class NotFoundError(PoolError):
    """There is no such thing."""

    status, code, fault = 404, "not_found", Fault.USER


class ConflictError(PoolError):
    """It contradicts what is already so."""

    status, code, fault = 409, "conflict", Fault.USER


class StaleEpochError(ConflictError):
    """A coordinator that another one of the same pool has replaced asks a worker for something."""

    code = "stale_epoch"


class TooSlowError(PoolError):
    """The body of the request does not come."""

    status, code, fault, retryable = 408, "too_slow", Fault.USER, True


class TooLargeError(PoolError):
    """Beyond a limit of size or count."""

    status, code, fault = 413, "too_large", Fault.USER


class OverQuotaError(TooLargeError):
    """More bytes than the owner may keep."""

    code, fault = "over_quota", Fault.LIMIT


class UnplaceableError(PoolError):
    """No worker of the allowlist could ever run it."""

    status, code, fault = 422, "unplaceable", Fault.USER


class BusyError(PoolError):
    """Try again later."""

    status, code, fault, retryable = 429, "busy", Fault.OPERATOR, True


class TooManyError(PoolError):
    """More at once than the owner may have. The same request may be answered later."""

    status, code, fault, retryable = 429, "too_many", Fault.LIMIT, True


class TooManyQueuedError(TooManyError):
    """The owner has as many jobs queued as it may."""

    code = "too_many_queued"


class TooFastError(TooManyError):
    """The owner submits faster than it may."""

    code = "too_fast"


class TooManyTransfersError(TooManyError):
    """The owner has as many uploads and downloads under way as it may."""

    code = "too_many_transfers"


class TooManyWaitsError(TooManyError):
    """The owner has as many long polls and followed logs as it may."""

    code = "too_many_waits"


class UnavailableError(PoolError):
    """Something that is needed is away just now."""

    status, code, fault, retryable = 503, "unavailable", Fault.OPERATOR, True


class StorageFullError(PoolError):
    """The disk is full."""

    status, code, fault, retryable = 507, "storage_full", Fault.OPERATOR, True
