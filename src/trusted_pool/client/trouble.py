"""Why there is no line to the pool, in words: what failed, and what to do next."""

import os
import ssl

from trusted_pool.client.address import Address
from trusted_pool.client.errors import UnreachableError, UntrustedError

START_HINT = "start one with: tpool coordinator --workers workers.json"
_TLS_HINT = "have it serve TLS: tpool coordinator --tls-pinned, or --tls-cert FILE --tls-key FILE"

_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64  # OpenSSL's X509_V_ERR_…
#: What OpenSSL says of bytes that are not TLS.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})
_TOO_OLD = frozenset({"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "WRONG_SSL_VERSION"})


def cannot_connect(address: Address, cacert: str, error: Exception) -> UnreachableError:
    """Say why no connection came about. `cacert`: the file of the authority that was demanded, if one was."""
    cause: BaseException = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _not_trusted(address, cacert, cause)
        if isinstance(cause, ssl.SSLError):
            return _no_tls(address, cause)
    # asyncio says "Connect call failed" for every errno, which itself has plainer words. Name lookups have none.
    known = isinstance(cause, OSError) and (cause.errno or 0) > 0
    words = str(error) or str(cause) or "it hung up"
    reason = os.strerror(cause.errno) if known and isinstance(cause, OSError) and cause.errno else words
    return UnreachableError(f"cannot reach the pool at {address.text}: {reason}", hint=START_HINT)


def broken(address: Address, error: Exception) -> UnreachableError:
    """Say that a connection broke before the answer was whole."""
    words = f"the line to the pool at {address.text} broke: {error or type(error).__name__}"
    if address.url.startswith("http:"):
        return UnreachableError(words, hint="try again; if the pool serves TLS, its address begins with https")
    return UnreachableError(words, hint="try again")


def _not_trusted(address: Address, cacert: str, error: ssl.SSLCertVerificationError) -> UntrustedError:
    code, where = getattr(error, "verify_code", None), address.text
    if code in (_EXPIRED, _NOT_YET_VALID):
        state = "has expired" if code == _EXPIRED else "is not valid yet"
        renewal = "the pool renews it by itself" if address.pin else "its operator renews it"
        return UntrustedError(
            f"the certificate of the pool at {where} {state}",
            hint=f"compare the clocks of this machine and the pool's; {renewal}",
        )
    if address.pin:
        return UntrustedError(
            f"whoever answers at {where} did not prove the pool's key",
            hint="nothing was sent; compare the id with what tpool coordinator --show-id prints on the pool's machine:"
            " if it is that, somebody else answers in the pool's place",
        )
    if code in (_OTHER_NAME, _OTHER_ADDRESS):
        return UntrustedError(
            f"the certificate at {where} is another's: {_words(error)}",
            hint="write the address with a name that the certificate has",
        )
    words = f"the certificate of the pool at {where} is signed by no authority that is trusted here: {_words(error)}"
    if cacert:
        return UntrustedError(words, hint=f"{cacert} (TRUSTED_POOL_CACERT) does not hold the authority that signed it")
    return UntrustedError(
        words,
        hint="name its authority by TRUSTED_POOL_CACERT=/path/to/ca.pem,"
        " or pin the pool's key by the https+pin:// address that the coordinator logs",
    )


def _words(error: ssl.SSLCertVerificationError) -> str:
    return (getattr(error, "verify_message", "") or error.reason or str(error)).rstrip(".")


def _no_tls(address: Address, error: ssl.SSLError) -> UntrustedError:
    where, reason = address.text, error.reason or "it hung up"
    if reason in _NO_TLS:
        return UntrustedError(
            f"the pool at {where} answers without TLS",
            hint=_TLS_HINT if address.pin else f"{_TLS_HINT}; or write its address with http://",
        )
    if reason in _TOO_OLD:
        least = "TLS 1.3, as a pinned key needs" if address.pin else "TLS 1.2"
        return UntrustedError(f"the pool at {where} does not speak {least}", hint="is a proxy in between?")
    words = reason.lower().replace("_", " ")
    return UntrustedError(f"TLS with the pool at {where} failed: {words}", hint="is it a pool that answers there?")
