"""What a bad request gets: a 4xx that says what to do next, and nothing is kept."""

import json
import os
import shutil
import socket
import string
from typing import Any

import httpx
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from security import test_inputs as hostile
from support.archives import tar_gz
from support.kept import kept, nothing_kept
from support.real_pool import RealPool, until

MAIN = tar_gz({"main.py": b"print(1)\n"})
UNKNOWN = "pool-0123456789abcdef"


def refused(answer: httpx.Response, status: int, code: str, *words: str) -> dict[str, Any]:
    """Show that an answer is a whole error; return it."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["code"] == code, error
    assert error["message"], error
    assert error["hint"], error
    assert error["fault"] == "user", error
    assert error["retryable"] is False, error
    for word in words:
        assert word in error["message"] + " " + error["hint"], error
    return dict(error)


MANIFESTS: list[tuple[str, bytes, object, str, list[str]]] = [
    ("none at all", tar_gz({"other.py": b""}), None, "bad_manifest", ["job.json", "which file to run"]),
    ("none, and nothing inside", tar_gz({}), None, "bad_manifest", []),
    ("job.json is no JSON", tar_gz({"main.py": b"", "job.json": b"{"}), None, "bad_manifest", ["JSON"]),
    ("job.json has an unknown key", tar_gz({"main.py": b"", "job.json": b'{"a":1}'}), None, "bad_manifest", ["'a'"]),
    ("empty", MAIN, "", "bad_manifest", ["JSON"]),
    ("no object", MAIN, "[]", "bad_manifest", ["object"]),
    ("unknown key", MAIN, {"entrypont": "main.py"}, "bad_manifest", ["'entrypont'", "'entrypoint'"]),
    ("unknown key inside", MAIN, {"retry": {"attempts": 1}}, "bad_manifest", ["'attempts'"]),
    ("not yet", MAIN, {"keep": "7d"}, "unsupported", ["'keep'"]),
    ("gpus in two ways", MAIN, {"gpu": {"device_id": 0, "count": 2}}, "bad_manifest", ["device_id"]),
    ("no bind's name", MAIN, {"binds": ["../etc"]}, "bad_manifest", ["'../etc'"]),
    ("wrong type", MAIN, {"memory_mb": "much"}, "bad_manifest", ["memory_mb"]),
    ("negative", MAIN, {"timeout": -1}, "bad_manifest", ["timeout"]),
    ("no duration", MAIN, {"timeout": "soon"}, "bad_manifest", ["timeout"]),
    ("half a surrogate", MAIN, '{"name": "\\ud800"}', "bad_manifest", []),
    ("absolute entrypoint", MAIN, {"entrypoint": "/etc/passwd"}, "bad_manifest", ["absolute", "relative"]),
    ("entrypoint that leaves", MAIN, {"entrypoint": "../main.py"}, "bad_manifest", ["leaves"]),
    ("entrypoint that leaves later", MAIN, {"entrypoint": "a/../../main.py"}, "bad_manifest", ["leaves"]),
    ("entrypoint that is not there", MAIN, {"entrypoint": "man.py"}, "bad_manifest", ["did you mean 'main.py'"]),
    ("empty entrypoint", MAIN, {"entrypoint": ""}, "bad_manifest", ["entrypoint"]),
    ("outputs that leave", MAIN, {"outputs": ["../*"]}, "bad_manifest", ["outputs", "leaves"]),
    ("unknown interpreter", MAIN, {"interpreter": "pyton3"}, "bad_manifest", ["'pyton3'", "python3"]),
    ("NUL in an argument", MAIN, {"args": ["a\0b"]}, "bad_manifest", ["NUL"]),
    ("NUL in the environment", MAIN, {"env": {"A": "a\0b"}}, "bad_manifest", ["NUL"]),
    ("no name of a variable", MAIN, {"env": {"A B": "1"}}, "bad_manifest", ["A B"]),
    ("control characters in a name", MAIN, {"name": "a\r\nb"}, "bad_manifest", ["name"]),
]


@pytest.mark.parametrize(
    ("archive", "manifest", "code", "words"), [c[1:] for c in MANIFESTS], ids=[c[0] for c in MANIFESTS]
)
def test_manifests(shared_pool: RealPool, archive: bytes, manifest: object, code: str, words: list[str]):
    with nothing_kept(shared_pool):
        refused(shared_pool.post(archive, manifest), 400, code, *words)


def test_a_manifest_that_is_too_large(shared_pool: RealPool):
    with nothing_kept(shared_pool):
        refused(shared_pool.post(MAIN, {"name": "x" * 300_000}), 413, "too_large", "256 KiB", "into the files")
        inside = tar_gz({"main.py": b"", "job.json": b" " * 300_000 + b"{}"})
        refused(shared_pool.post(inside), 400, "bad_manifest")


UNPLACEABLE = [
    ({"interpreter": "Rscript"}, "Rscript"),
    ({"memory_mb": 2**30}, "memory"),
    ({"cpus": 4096}, "cpu"),
    ({"disk_mb": 2**31}, "disk"),
    ({"constraints": {"place": "moon"}}, "moon"),
    ({"binds": ["imagenet"]}, "no bind 'imagenet'"),
    ({"gpu": {"count": 64}}, "asks for 64"),
]


@pytest.mark.parametrize(("manifest", "word"), UNPLACEABLE, ids=[word for _, word in UNPLACEABLE])
def test_what_no_worker_could_ever_run(shared_pool: RealPool, manifest: object, word: str):
    if word == "Rscript" and shutil.which("Rscript"):
        pytest.skip("this machine has it")
    with nothing_kept(shared_pool):
        error = refused(shared_pool.post(MAIN, manifest), 422, "unplaceable", word)
        assert set(error["detail"]["workers"]) == {worker.worker_id for worker in shared_pool.workers}


def archives() -> dict[str, bytes]:
    """Return every kind of archive that is refused."""
    member, tar, kinds = hostile.member, hostile.tar, hostile.tarfile
    return {
        "01 leaves": tar(member("../x", b"x")),
        "02 absolute": tar(member("/etc/cron.d/x", b"x")),
        "03 symlink": tar(member("link", type=kinds.SYMTYPE, linkname="/etc/shadow")),
        "04 through a symlink": tar(member("d", type=kinds.SYMTYPE, linkname=".."), member("d/x", b"x")),
        "05 hard link": tar(member("link", type=kinds.LNKTYPE, linkname="../secret")),
        "06 fifo": tar(member("thing", type=kinds.FIFOTYPE)),
        "06 device": tar(member("thing", type=kinds.CHRTYPE, devmajor=1, devminor=3)),
        "11 twice": tar(member("a", b"1"), member("a", b"2")),
        "12 a file, then a directory": tar(member("a", b"1"), member("a/b", b"2")),
        "13 equal after normalisation": tar(member("\u00e9", b"1"), member("e\u0301", b"2")),
        "14 newline": tar(member("a\nb", b"x")),
        "14 NUL": hostile.header(tar(member("x" * 12, b"x")), 0, b"evil.py\0.png"),
        "15 long component": tar(member("n" * 300, b"x")),
        "15 long path": tar(member("d/" * 2500 + "f", b"x")),
        "16 no UTF-8": hostile.header(tar(member("xxx", b"x")), 0, b"\xff\xfe\xfd"),
        "17 large extended header": tar(
            member("a", b"x", pax_headers={"comment": "c" * (20 * 2**20)}), form=kinds.PAX_FORMAT
        ),
        "18 negative size": tar(member("a", b"x", pax_headers={"size": "-5"}), form=kinds.PAX_FORMAT),
        "20 truncated": tar(member("main.py", b"x" * 600))[:800],
        "20 truncated gzip": MAIN[:-10],
        "20 concatenated": tar(member("main.py", b"1")) + tar(member("b", b"2")),
        "20 trailing": MAIN + b"junk",
        "20 empty": b"",
        "20 nothing known": b"this is no archive" * 100,
        "20 zstd that ends early": zstandard.compress(tar(member("main.py", b"1" * 9000)))[:-3],
        "20 encrypted zip": hostile.zip_of((b"a", b"x", 0, hostile.zlib.crc32(b"x"), 1), flags=1),
    }


@pytest.mark.parametrize("name", archives())
def test_bad_archives(shared_pool: RealPool, name: str):
    raw = archives()[name]
    with nothing_kept(shared_pool):
        refused(shared_pool.post(raw, {"entrypoint": "main.py"}), 400, "bad_archive")


def test_archives_beyond_the_caps(shared_pool: RealPool):
    """Cases 9 and 10: what is small to send and huge to unpack."""
    members = hostile.gzip.compress(hostile.tar(*(hostile.member(f"f{n}") for n in range(101_000))), 1)
    with nothing_kept(shared_pool):
        refused(shared_pool.post(members, {"entrypoint": "f1", "interpreter": "sh"}), 413, "too_large")
        absurd = hostile.header(hostile.tar(hostile.member("main.py", b"x")), 124, b"\x80" + b"\xff" * 11)
        refused(shared_pool.post(absurd, {"entrypoint": "main.py"}), 413, "too_large")


FILE = ("files", ("p.tar.gz", MAIN))
FORMS: list[tuple[str, list[Any], int, str]] = [
    ("no files", [("manifest", (None, "{}"))], 400, "bad_request"),
    ("two manifests", [FILE, ("manifest", (None, "{}")), ("manifest", (None, "{}"))], 400, "bad_manifest"),
    ("an unknown field", [FILE, ("prio", (None, "1"))], 400, "bad_request"),
    ("files without a name", [("files", (None, MAIN))], 400, "bad_request"),
    ("a file with a bad name", [("files", ("../main.py", b"")), ("files", ("b.py", b""))], 400, "bad_archive"),
    ("two files of one name", [("files", ("main.py", b"")), ("files", ("main.py", b""))], 400, "bad_archive"),
]


@pytest.mark.parametrize(("parts", "status", "code"), [f[1:] for f in FORMS], ids=[f[0] for f in FORMS])
def test_forms(shared_pool: RealPool, parts: list[Any], status: int, code: str):
    with nothing_kept(shared_pool):
        refused(shared_pool.http.post("/submit", files=parts), status, code)


@pytest.mark.parametrize(
    ("manifest", "more", "status"),
    [
        ("{", {}, 400),
        ({"entrypoint": "none.py"}, {}, 400),
        ({"memory_mb": 2**30}, {}, 422),
        ({}, {"prio": (None, b"1")}, 400),
        ({}, {"manifest": (None, b"{}")}, 400),
    ],
)
def test_large_files_of_a_refused_job_are_removed(
    shared_pool: RealPool, manifest: object, more: dict[str, Any], status: int
):
    """Small ones never reach the disk; these do, before anything is known of the job."""
    large = tar_gz({"main.py": b"", "data.bin": os.urandom(2_000_000)})
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    with nothing_kept(shared_pool):
        files = [("files", ("p.tar.gz", large)), ("manifest", (None, text)), *more.items()]
        assert shared_pool.http.post("/submit", files=files).status_code == status


PART = b'--x\r\nContent-Disposition: form-data; name="files"; filename="p.tar.gz"\r\n\r\n'
WHOLE = PART + MAIN + b"\r\n--x--\r\n"
FORM = "multipart/form-data; boundary=x"
SECOND = b'\r\nContent-Disposition: form-data; name="manifest"\r\n\r\n'
REST = MAIN + b"\r\n--x--\r\n"


def part(end: bytes) -> bytes:
    """Return a form whose only part has headers that end so."""
    return PART.replace(b"\r\n\r\n", end) + REST


BODIES: list[tuple[str, str | None, bytes, int]] = [
    ("no content type", None, WHOLE, 400),
    ("JSON", "application/json", b"{}", 400),
    ("a plain form", "application/x-www-form-urlencoded", b"files=x", 400),
    ("mixed", "multipart/mixed; boundary=x", WHOLE, 400),
    ("no boundary", "multipart/form-data", WHOLE, 400),
    ("an empty boundary", 'multipart/form-data; boundary=""', WHOLE, 400),
    ("another boundary", "multipart/form-data; boundary=y", WHOLE, 400),
    ("a long boundary", "multipart/form-data; boundary=" + "y" * 5000, WHOLE, 400),
    ("nothing", FORM, b"", 400),
    ("cut in the data", FORM, PART + MAIN[:50], 400),
    ("cut in the headers", FORM, PART[:30], 400),
    ("no end", FORM, PART + MAIN + b"\r\n--x\r\n", 400),
    ("no disposition", FORM, b"--x\r\nA: b\r\n\r\nc\r\n--x--\r\n", 400),
    ("two dispositions", FORM, part(SECOND), 400),
    ("a long part header", FORM, part(b"\r\nX: " + b"y" * 10_000 + b"\r\n\r\n"), 413),
    ("many part headers", FORM, part(b"\r\nX: y" * 100 + b"\r\n\r\n"), 413),
]


@pytest.mark.parametrize(("kind", "body", "status"), [b[1:] for b in BODIES], ids=[b[0] for b in BODIES])
def test_bodies(shared_pool: RealPool, kind: str | None, body: bytes, status: int):
    with nothing_kept(shared_pool):
        answer = shared_pool.http.post("/submit", content=body, headers={} if kind is None else {"Content-Type": kind})
        refused(answer, status, {400: "bad_request", 413: "too_large"}[status])


def test_an_upload_that_breaks_off_leaves_nothing(shared_pool: RealPool):
    with nothing_kept(shared_pool), socket.create_connection(("127.0.0.1", shared_pool.port), timeout=30) as sock:
        head = f"POST /submit HTTP/1.1\r\nHost: 127.0.0.1:{shared_pool.port}\r\nContent-Type: {FORM}\r\n"
        sock.sendall(f"{head}Content-Length: 9000000\r\nExpect: 100-continue\r\n\r\n".encode())
        assert sock.recv(1000).startswith(b"HTTP/1.1 100")
        staging = shared_pool.data / "blobs/staging"
        sock.sendall(PART + os.urandom(2_000_000))
        until(lambda: list(staging.iterdir()) != [], "the first bytes on the disk")
        sock.close()
        until(lambda: list(staging.iterdir()) == [], "an empty directory")


ROUTES = [
    ("GET", "/status/{}"),
    ("GET", "/status/{}?wait=1"),
    ("GET", "/logs/{}"),
    ("GET", "/logs/{}?follow=1"),
    ("GET", "/logs/{}/stdout"),
    ("GET", "/outputs/{}"),
    ("GET", "/outputs/{}/results/output.png"),
    ("GET", "/download/{}"),
    ("GET", "/download/{}/results/output.png"),
    ("POST", "/cancel/{}"),
]


@pytest.mark.parametrize("job_id", [UNKNOWN, "none", "pool-%F0%9F%98%80", "a" * 5000])
@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_unknown_jobs_are_not_found(shared_pool: RealPool, method: str, route: str, job_id: str):
    refused(shared_pool.http.request(method, route.format(job_id)), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/submit", 405),
        ("POST", "/pool", 405),
        ("GET", f"/status/{UNKNOWN}?wait=soon", 400),
        ("GET", f"/status/{UNKNOWN}?wait=-1", 400),
        ("GET", f"/status/{UNKNOWN}?wait=nan", 400),
        ("GET", "/jobs?limit=0", 400),
        ("GET", "/jobs?limit=many", 400),
        ("GET", "/jobs?state=asleep", 400),
        ("GET", "/jobs?after=xxx", 400),
        ("GET", "/jobs?since=yesterday", 400),
    ],
)
def test_other_wrong_questions(shared_pool: RealPool, method: str, path: str, status: int):
    answer = shared_pool.http.request(method, path)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert all(error[field] for field in ("code", "message", "hint")), error
    assert error["fault"] == "user"


@pytest.mark.parametrize("key", ["", "k" * 300])
def test_idempotency_keys_of_a_wrong_length(shared_pool: RealPool, key: str):
    with nothing_kept(shared_pool):
        answer = shared_pool.post(MAIN, {}, headers={"Idempotency-Key": key})
        assert answer.status_code == 400, answer.text


pieces = st.sampled_from(
    [b"--x", b"--x--", b"\r\n", b"\n", b"\0", PART, WHOLE, MAIN, MAIN[:40], b"{}", b'{"entrypoint":', b"Content-Type: ",
     b'--x\r\nContent-Disposition: form-data; name="manifest"\r\n\r\n', b"filename*=UTF-8''a", b"; name=", b"\xff\xfe"]
)  # fmt: skip
bodies = st.lists(st.one_of(pieces, st.binary(max_size=60)), max_size=12).map(b"".join)
kinds = st.one_of(
    st.just(FORM), st.text(string.printable.strip(), max_size=30), st.just("multipart/form-data; boundary=")
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies, kind=kinds)
@example(body=b"--x\r\n\r\n\r\n--x--", kind=FORM)
def test_no_body_is_the_servers_fault(shared_pool: RealPool, body: bytes, kind: str):
    before = kept(shared_pool)
    answer = shared_pool.http.post("/submit", content=body, headers={"Content-Type": kind})
    if answer.status_code == 200:  # then it was a job
        assert kept(shared_pool).jobs == before.jobs + 1
        return
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    assert answer.json()["error"]["message"]
    assert kept(shared_pool) == before


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
known = st.sampled_from(
    ["entrypoint", "timeout", "memory_mb", "env", "args", "labels", "retry", "outputs", "gpu", "cpus"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(known | st.text(max_size=10), values, min_size=1, max_size=4))
def test_no_manifest_is_the_servers_fault(shared_pool: RealPool, fields: dict[str, Any]):
    answer = shared_pool.post(MAIN, json.dumps({**fields, "expires_in": 0.001}))
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, (answer.status_code, answer.text)
