"""Everything that reads what somebody else wrote: whatever the bytes, it returns or raises the one error it names.

The table holds every decoder of a message, of a file or of a header that crosses a border; the bytes are noise, JSON of
any form, deep nests, huge numbers, and right samples with some of it overwritten.
"""

import asyncio
import itertools
import random  # noqa: TID251 - seeded by Hypothesis
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trusted_pool.client import credentials
from trusted_pool.client import sse as client_sse
from trusted_pool.client.errors import ClientError
from trusted_pool.client.settings import usable_address, usable_token
from trusted_pool.coordinator.allowlist import AllowlistError
from trusted_pool.coordinator.allowlist import parse as parse_allowlist
from trusted_pool.core.job import Outcome, OutputFile, Usage
from trusted_pool.core.words import AttemptState
from trusted_pool.link import pinned, sandrun_answers
from trusted_pool.link.trouble import MAX_WORDS, words_of
from trusted_pool.ports.link import LinkError
from trusted_pool.protocol import apikey, form, frames, manifest, messages
from trusted_pool.protocol.audit import AuditError, verify_export
from trusted_pool.protocol.certificates import anchor, leaf, named_identity, peer_identity, server_name
from trusted_pool.protocol.errors import PoolError
from trusted_pool.protocol.identity import IdentityError, from_path, identity_of, public_bytes
from trusted_pool.serve.pem import PemError, judged
from trusted_pool.store.rows import place_of as place_in_list
from trusted_pool.web.files import _range
from trusted_pool.web.sse import place_of as place_in_log

ID = identity_of(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
HERE = Path("file")
_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PEM_CERTIFICATE = ssl.DER_cert_to_PEM_cert(leaf(_KEY, 1.8e9)).encode()
PEM_KEY = _KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
OUTCOME = Outcome(
    exit_code=0,
    usage=Usage(cpu_seconds=0.5, memory_peak_bytes=2**20),
    outputs=(OutputFile(path="a/ü.png", size=3, sha256="0" * 64),),
)
REPORT = messages.AttemptReport(
    job_id="pool-1", attempt=1, remote_id="job-1", state=AttemptState.ENDED, accepted_at=1.5, outcome=OUTCOME
)


def samples(*records: msgspec.Struct) -> list[bytes]:
    return [msgspec.json.encode(record) for record in records]


def text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    """Let a reader of text read bytes, as headers are."""
    return lambda raw: read(raw.decode("latin-1"))


def feed_frames(raw: bytes) -> None:
    decoder = frames.Decoder()
    for piece in (raw[:7], raw[7:]):
        list(decoder.feed(piece))


def feed_events(raw: bytes) -> None:
    parser = client_sse.Parser()
    for piece in (raw[:9], raw[9:]):
        list(parser.feed(piece))


def read_form(raw: bytes) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield raw[:11]
        yield raw[11:]

    async def read() -> None:
        async for part in form.parts("multipart/form-data; boundary=b", chunks(), form.FormLimits()):
            async for _ in part:
                pass

    asyncio.run(read())


def read_boundary(raw: bytes) -> None:
    async def read() -> None:
        async def nothing() -> AsyncIterator[bytes]:
            yield b""

        async for _ in form.parts(raw.decode("latin-1"), nothing(), form.FormLimits()):
            pass

    asyncio.run(read())


def an_answer(kind: Any, *right: msgspec.Struct) -> tuple[Callable[[bytes], object], type[Exception], list[bytes]]:
    return (lambda raw: pinned._decoded(raw, kind)), LinkError, samples(*right)


#: What reads, which error it may raise, and right samples.
TABLE: dict[str, tuple[Callable[[bytes], object], type[Exception] | tuple[type[Exception], ...], list[bytes]]] = {
    "health of a worker": an_answer(messages.HealthAnswer, messages.HealthAnswer(status="healthy", worker_id=ID)),
    "what a worker accepted": an_answer(messages.AcceptedAnswer, messages.AcceptedAnswer(job_id="job-1")),
    "attempts of a worker": an_answer(
        messages.AttemptsAnswer, messages.AttemptsAnswer(journal_id="j", seq=3, attempts=[REPORT])
    ),
    "outputs of a worker": an_answer(
        messages.OutputsAnswer, messages.OutputsAnswer(job_id="job-1", files=list(OUTCOME.outputs))
    ),
    "releases of a worker": an_answer(messages.ReleasesAnswer, messages.ReleasesAnswer(running=("job-1",))),
    "event of a worker": (
        pinned._message,
        LinkError,
        samples(
            messages.Hello(journal_id="j", seq=1),
            messages.Heartbeat(active_jobs=1),
            messages.StartedEvent(seq=1, job_id="pool-1", attempt=1, remote_id="job-1", at=1.0),
            messages.EndedEvent(seq=1, job_id="pool-1", attempt=1, remote_id="job-1", outcome=OUTCOME, log=b"x"),
            messages.InterruptedEvent(seq=1, job_id="pool-1", attempt=1, remote_id="job-1", words="w"),
        ),
    ),
    "status of a sandrun worker": (
        lambda raw: sandrun_answers.outcome_of(sandrun_answers.decoded(raw, sandrun_answers.Status), cancelled=False),
        LinkError,
        [b'{"job_id":"j","status":"completed","execution_metadata":{"cpu_seconds":1.5,"exit_code":0}}'],
    ),
    "logs of a sandrun worker": (
        lambda raw: sandrun_answers.decoded(raw, sandrun_answers.Logs),
        LinkError,
        [b'{"stdout":"a","stderr":"b"}'],
    ),
    "outputs of a sandrun worker": (
        lambda raw: sandrun_answers.decoded(raw, sandrun_answers.Outputs),
        LinkError,
        [b'{"files":[{"name":"a","size":1}]}'],
    ),
    "words of a refusal": (words_of, (), [b'{"error":{"message":"no","hint":"h"}}', b'{"error":"no"}', b"no"]),
    "manifest": (
        manifest.parse,
        PoolError,
        [b'{"entrypoint":"main.py","args":["a"],"env":{"A":"b"},"timeout":"5m","retry":{"max_attempts":1}}'],
    ),
    "allowlist": (
        parse_allowlist,
        AllowlistError,
        [f'[{{"worker_id":"{ID}","endpoint":"http://w:8443","labels":{{"a":"b"}}}}]'.encode()],
    ),
    "audit export": (lambda raw: verify_export(raw.splitlines()), AuditError, [b'{"type":"head","chain":"c"}']),
    "framed log": (feed_frames, frames.FrameError, [frames.encode(1.5, frames.STDOUT, b"hello") * 3]),
    "events of a log": (feed_events, ClientError, [b'id: 1:2\nevent: stdout\ndata: {"at":1.0,"text":"x"}\n\n']),
    "form": (
        read_form,
        PoolError,
        [b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.py"\r\n\r\npass\r\n--b--\r\n'],
    ),
    "kind of a form": (read_boundary, PoolError, [b"multipart/form-data; boundary=x"]),
    "certificate of a peer": (peer_identity, IdentityError, [anchor(ID)]),
    "name of a client": (text(named_identity), IdentityError, [server_name(ID).encode()]),
    "worker id": (text(public_bytes), IdentityError, [ID.encode()]),
    "worker id in a path": (text(from_path), IdentityError, [ID.replace("+", "-").replace("/", "_").encode()]),
    "API key": (text(apikey.check), apikey.ApiKeyError, [apikey.write(bytes(32)).encode()]),
    "address of a pool": (text(usable_address), ClientError, [b"https://pool.example.com:9000", b"[::1]:9000"]),
    "pinned address of a pool": (text(usable_address), ClientError, [f"https+pin://{ID}@pool:9000".encode()]),
    "API key to be sent": (text(usable_token), ClientError, [apikey.write(bytes(32)).encode()]),
    "what logins kept": (
        lambda raw: credentials._decoded(HERE, raw),
        ClientError,
        samples(credentials.Credentials(default="http://a", pools={"http://a": credentials.Login(cacert="c")})),
    ),
    "certificate in a file": (lambda raw: judged(HERE, raw, HERE, PEM_KEY), PemError, [PEM_CERTIFICATE]),
    "key in a file": (lambda raw: judged(HERE, PEM_CERTIFICATE, HERE, raw), PemError, [PEM_KEY]),
    "place in a log": (text(place_in_log), PoolError, [b"1:200"]),
    "place in a list": (text(place_in_list), ValueError, [b"AAAAAAAAAAAAAAAAAAAA"]),
    "range of a file": (text(lambda raw: _range(raw, 100)), PoolError, [b"bytes=0-9", b"bytes=-5", b"bytes=5-"]),
}

_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.just(10**400),
)
_json = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_deep = st.tuples(st.sampled_from([b"[", b'{"a":', b"["]), st.integers(1, 5000)).map(lambda made: made[0] * made[1])


def as_json(value: object) -> bytes:
    import json  # noqa: PLC0415 - the lax one, which writes NaN and any integer

    return json.dumps(value).encode()


def overwritten(right: list[bytes], data: st.DataObject) -> bytes:
    """Return a right sample of which some bytes are others, or gone, or there twice."""
    raw = bytearray(data.draw(st.sampled_from(right)))
    rng: random.Random = data.draw(st.randoms(use_true_random=False))
    for _ in range(rng.randint(1, 4)):
        where = rng.randrange(len(raw) + 1)
        what = rng.choice([bytes([rng.randrange(256)]), b'"', b"null", b"-1", b"1e999", b"{}", b"\0", b"\xff", b""])
        raw[where : where + rng.randint(0, 6)] = what * rng.choice([1, 1, 2])
    return bytes(raw)


def decodes_or_says_why(name: str, raw: bytes) -> None:
    read, errors, _ = TABLE[name]
    kinds = errors if isinstance(errors, tuple) else (errors,)
    said = ""
    try:
        found = read(raw)
        assert name != "words of a refusal" or len(str(found)) <= MAX_WORDS
    except kinds as error:
        said = str(error)
    assert len(said) < 5000, "an error that repeats all it was given"


@pytest.mark.parametrize("name", TABLE)
def test_right_samples_are_read(name: str) -> None:
    read, _, right = TABLE[name]
    if name in ("audit export", "certificate of a peer", "place in a list", "kind of a form"):
        return  # a sample that is nearly right, for bytes that are not
    for sample in right:
        read(sample)


@pytest.mark.parametrize("name", TABLE)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_wrong_bytes_get_the_error_that_is_named(name: str, data: st.DataObject) -> None:
    noise = st.one_of(st.binary(max_size=300), _json.map(as_json), _deep)
    decodes_or_says_why(name, data.draw(noise))
    decodes_or_says_why(name, overwritten(TABLE[name][2], data))


@pytest.mark.long
@pytest.mark.parametrize("name", TABLE)
def test_wrong_bytes_for_long(name: str) -> None:
    rng = random.Random(name)  # noqa: S311 - to be the same each time
    right = TABLE[name][2]
    for _ in itertools.repeat(None, 20_000):
        raw = bytearray(rng.choice(right))
        for _ in range(rng.randint(1, 6)):
            where = rng.randrange(len(raw) + 1)
            raw[where : where + rng.randint(0, 8)] = rng.randbytes(rng.randint(0, 8))
        decodes_or_says_why(name, bytes(raw))
