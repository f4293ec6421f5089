"""Where a worker is dialled: https, whatever the allowlist's endpoint says, or plain http where identity is claimed."""

from trusted_pool.protocol.endpoint import read_endpoint


def base_url(endpoint: str, scheme: str = "https") -> str:
    """Return `SCHEME://host:port/prefix` without a slash at its end. Without a port it is 8443.

    Raises:
        EndpointError: it is no http(s) URL of a host, or holds a user, a query or a fragment. A ValueError.
    """
    return read_endpoint(endpoint).url(scheme)
