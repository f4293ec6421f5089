"""Who may be served how: what has to be said before others than this machine can reach a pool."""

from pathlib import Path

from trusted_pool.compose.system import StartError
from trusted_pool.web.browser import LOOPBACK_NAMES


def check_exposure(host: str, *, tls: bool, has_keys: bool, anonymous: bool, insecure_http: bool, data: Path) -> str:
    """Let an address be served only as somebody meant it to be.

    Args:
        host: where connections are accepted.
        tls: whether they are encrypted.
        has_keys: whether clients have to show API keys.
        anonymous: `--anonymous` was said.
        insecure_http: `--insecure-http` was said.
        data: the data directory, in which the first key can be made.

    Returns:
        A warning for the log; empty when there is nothing to warn of.

    Raises:
        StartError: names what has to be said.
    """
    if host in LOOPBACK_NAMES:
        return ""
    open_to_all, plain = not has_keys, not tls
    dangers, cures, flags = [], [], []
    if open_to_all and not anonymous:
        dangers.append("let everybody who can reach it use the pool")
        cures.append(f"make an API key first (tpool keys create --owner YOU --role admin --data {data})")
        flags.append("--anonymous")
    if plain and not insecure_http:
        dangers.append("send everything unencrypted")
        cures.append("serve TLS (--tls-pinned, or --tls-cert FILE --tls-key FILE)")
        flags.append("--insecure-http")
    if flags:
        raise StartError(
            f"--host {host} would {' and '.join(dangers)}; {' and '.join(cures)}, or, if that is meant, "
            f"add: {' '.join(flags)}",
            usage=True,
        )
    missing = [word for word, lacks in (("TLS", plain), ("authentication", open_to_all)) if lacks]
    if open_to_all:
        return (
            f"Serving {host} without {' and without '.join(missing)}: "
            "everybody who can connect can submit, read and cancel"
        )
    if plain:
        return f"Serving {host} without TLS: API keys and files can be read on the way"
    if anonymous:
        return f"Serving {host} to everybody who can connect: --anonymous lets in who shows no API key"
    return ""
