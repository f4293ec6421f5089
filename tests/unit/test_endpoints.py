"""Endpoints of workers: what is one, in which form, and that what is none is refused where it is listed and dialled."""

import asyncio
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from support.virtual_time import CountingDice
from trusted_pool.blobs.memory import MemoryBlobs
from trusted_pool.compose.system import SystemClock
from trusted_pool.coordinator.entries import AllowlistError, parse
from trusted_pool.core.worker import Worker
from trusted_pool.link.endpoint import base_url
from trusted_pool.link.pinned import PinnedLink
from trusted_pool.link.sandrun import SandrunLink
from trusted_pool.ports.link import WorkerLink
from trusted_pool.protocol.endpoint import DEFAULT_PORT, EndpointError, read_endpoint
from trusted_pool.protocol.identity import identity_of
from trusted_pool.sandbox.globs import Globs

WORKER_ID = identity_of(Ed25519PrivateKey.generate())

#: What is no endpoint, and a word of the refusal.
REFUSED = {
    "": "http",
    "worker1:8443": "http",
    "//worker1:8443": "http",
    "file:///etc/passwd": "http",
    "ftp://worker1:8443": "http",
    "gopher://127.0.0.1:70/x": "http",
    "unix:///run/worker": "http",
    "javascript://worker1/%0aalert(1)": "http",
    "http://": "no host",
    "http:///path": "no host",
    "http://:8443": "no host",
    "http://user@worker1:8443": "user",
    "http://user:secret@worker1:8443": "user",
    "http://@worker1:8443": "user",
    "http://worker1:8443@evil.example": "user",
    "http://worker1:8443?x=1": "?",
    "http://worker1:8443?": "?",
    "http://worker1:8443#x": "#",
    "http://worker1:8443/#": "#",
    "http://worker1:0": "port 0",
    "http://worker1:65536": "ort",
    "http://worker1:-1": "ort",
    "http://worker1:+80": "ort",
    "http://worker1:\uff18\uff14\uff14\uff13": "ort",
    "http://worker1:x": "ort",
    "http://wor ker1:8443": "space",
    " http://worker1:8443": "space",
    "http://worker1:8443\n": "space",
    "http://worker1\t:8443": "space",
    "http://wor\x00ker1:8443": "space",
    "http://worker1\x7f:8443": "space",
    "http://worker1\x85:8443": "space",
    "http://worker1\u202e:8443": "space",
    "http://worker1\u200b:8443": "space",
    "http://worker1\\@evil.example:8443": "space",
    "http://[::1": "",
    "http://[::g]:8443": "",
    "http://::1:8443": "",
    "http://[127.0.0.1]:8443": "",
    "http://a..b:8443": "cannot be",
    "http://.a:8443": "cannot be",
    "http://-a:8443": "cannot be",
    "http://a-:8443": "cannot be",
    "http://a%2eb:8443": "cannot be",
    "http://a,b:8443": "cannot be",
    "http://a*:8443": "cannot be",
    f"http://{'a' * 64}.example:8443": "cannot be",
    f"http://{'ü' * 64}:8443": "cannot be",
    f"http://{'a.' * 130}a:8443": "cannot be",
    "http://192.168.1.1001:8443": "neither",
    "http://256.1.1.1:8443": "neither",
    "http://10.1:8443": "neither",
    "http://2130706433:8443": "neither",
    "http://127.0.0.01:8443": "neither",
    "http://\uff11\uff12\uff17.0.0.1:8443": "neither",
    "http://worker1:8443/../x": "path",
    "http://worker1:8443/a/./b": "path",
    "http://worker1:8443/a//b": "path",
    "http://worker1:8443/%2e%2e": "path",
    "http://worker1:8443/a;b": "path",
    "http://worker1:8443/ü": "path",
    "http://worker1:8443/" + "a" * 2000: "longer",
}
#: What is one, and its one form.
TAKEN = {
    "http://worker1": "http://worker1:8443",
    "https://worker1/": "https://worker1:8443",
    "HTTPS://Worker1.Example:9": "https://worker1.example:9",
    "http://192.168.1.101:8443": "http://192.168.1.101:8443",
    "http://worker_1:8443//": "http://worker_1:8443",
    "http://a.b.:8443": "http://a.b.:8443",
    f"http://{'a' * 63}.x": f"http://{'a' * 63}.x:8443",
    "http://wörker.example:1": "http://xn--wrker-jua.example:1",
    "http://xn--wrker-jua.example:1": "http://xn--wrker-jua.example:1",
    "http://worker。example:1": "http://worker.example:1",
    "http://[::1]:8443": "http://[::1]:8443",
    "http://[0:0:0:0:0:0:0:1]": "http://[::1]:8443",
    "http://[FE80::1%eth0]:1": "http://[fe80::1%eth0]:1",
    "http://worker1:8443/pool/b-2/": "http://worker1:8443/pool/b-2",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_endpoint_is_refused_and_says_why(text: str) -> None:
    with pytest.raises(EndpointError) as caught:
        read_endpoint(text)
    assert REFUSED[text] in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(AllowlistError, match="entry 1: endpoint"):
        parse(json.dumps([{"worker_id": WORKER_ID, "endpoint": text}]).encode())


@pytest.mark.parametrize("text", TAKEN)
def test_what_is_one_has_one_form(text: str) -> None:
    form = TAKEN[text]
    assert str(read_endpoint(text)) == form
    assert str(read_endpoint(form)) == form
    assert [w.endpoint for w in parse(json.dumps([{"worker_id": WORKER_ID, "endpoint": text}]).encode())] == [form]
    assert base_url(text) == "https" + form[form.index(":") :]
    assert base_url(text, "http") == "http" + form[form.index(":") :]


@given(st.text() | st.builds("http://{}:8443{}".format, st.text(max_size=30), st.text(max_size=10)))
def test_whatever_is_written_is_refused_or_is_an_address_in_ascii(text: str) -> None:
    try:
        endpoint = read_endpoint(text)
    except EndpointError:
        return
    form = str(endpoint)
    assert read_endpoint(form) == endpoint
    assert form.isascii()
    assert not set(form) & set(" @?#\\\t\r\n")
    assert 1 <= endpoint.port <= 65535


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://w1:8443", "https://W1", True),
        ("http://[::1]", "https://[0::1]:8443/", True),
        ("http://w1:8443", "http://w1:8444", False),
        ("http://w1/a", "http://w1/b", False),
    ],
)
def test_two_endpoints_are_one_place_whatever_their_scheme(one: str, other: str, same: bool) -> None:
    assert (read_endpoint(one).place == read_endpoint(other).place) is same
    assert read_endpoint(one).port in (DEFAULT_PORT, 8444)


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("text", ["file:///etc/passwd", "http://me@127.0.0.1:1", "http://a..b:1"])
def test_no_line_leads_to_what_is_no_endpoint(text: str, proven: bool) -> None:
    def line_to(endpoint: str) -> WorkerLink:
        worker = Worker(worker_id=WORKER_ID, endpoint=endpoint, proven=proven)
        if proven:
            return PinnedLink(worker, Ed25519PrivateKey.generate(), 1, SystemClock())
        return SandrunLink(worker, MemoryBlobs(), SystemClock(), CountingDice(), lambda p: Globs(p).matches)

    async def main() -> None:
        with pytest.raises(EndpointError):
            line_to(text)
        await line_to("http://127.0.0.1:1").close()  # the control

    asyncio.run(main())
