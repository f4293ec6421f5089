"""Cases 65, 66, 68, 69 and 74: requests whose words are read in two ways, are endless, or mean something else.

Against a real coordinator. The controls show what a reader without the check makes of the same bytes, and that what is
right beside them is taken.
"""

import email.parser
import json
import posixpath
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest

from support.archives import tar_gz
from support.kept import nothing_kept
from support.real_pool import RealPool

MAIN = tar_gz({"main.py": b"print(1)\n"})
JSON = {"Content-Type": "application/json"}
#: Routes that take JSON, and what is right for them; `local` is who asks.
ROUTES = {
    "/limits/local": '{"queued": 100000}',
    "/jobs/cancel": '{"name": "nobody has this name"}',
    "manifest": '{"name": "n"}',
    "job.json": '{"name": "n"}',
}


def send(pool: RealPool, route: str, text: str | bytes) -> httpx.Response:
    """Send JSON to a route, as a manifest, or as one inside the files."""
    raw = text.encode() if isinstance(text, str) else text
    if route == "manifest":
        return pool.http.post("/submit", files=[("files", ("p.tar.gz", MAIN)), ("manifest", (None, raw))])
    if route == "job.json":
        return pool.post({"main.py": b"print(1)\n", "job.json": raw})
    return pool.http.post(route, content=raw, headers=JSON)


def refused(answer: httpx.Response) -> str:
    """Show that an answer is a whole error about the request; return what it says."""
    assert answer.status_code == 400, (answer.status_code, answer.text)
    error = answer.json()["error"]
    assert error["code"] in ("bad_request", "bad_manifest"), error
    assert (error["fault"], error["retryable"]) == ("user", False), error
    assert error["hint"], error
    return str(error["message"])


@pytest.mark.parametrize("route", ROUTES)
def test_the_control_what_is_right_is_taken(shared_pool: RealPool, route: str):
    assert send(shared_pool, route, ROUTES[route]).status_code == 200


MALFORMED = ["{", "{'name': 1}", '{"name": "a",}', '{"name": "a"} {}', '{"name": "\t"}', '{"name": 01}', "]", '{"a" 1}']


@pytest.mark.parametrize("route", ROUTES)
def test_65_malformed_json(shared_pool: RealPool, route: str):
    with nothing_kept(shared_pool):
        for text in (*MALFORMED, b'{"name": "\xff"}', b'\xef\xbb\xbf{"name": "a"}', b'{"name": "\\ud800"}'):
            refused(send(shared_pool, route, text))


TWICE = {
    "/limits/local": '{"queued": 5, "queued": 0}',
    "/jobs/cancel": '{"name": "nobody has this name", "all": false, "all": true}',
    "manifest": '{"entrypoint": "main.py", "entrypoint": "other.py"}',
    "job.json": '{"retry": {"max_attempts": 1, "max_attempts": 9}}',
}


@pytest.mark.parametrize("route", ROUTES)
def test_65_a_key_twice(shared_pool: RealPool, route: str):
    waiting = shared_pool.pool()["jobs"]["cancelled"]
    with nothing_kept(shared_pool):
        assert "twice" in refused(send(shared_pool, route, TWICE[route]))
    assert shared_pool.pool()["jobs"]["cancelled"] == waiting
    assert json.loads(TWICE[route]), "the control: a lenient reader takes one of the two"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("route", ROUTES)
def test_65_what_is_no_number(shared_pool: RealPool, route: str, number: str):
    field = {"/limits/local": "queued", "/jobs/cancel": "since"}.get(route, "timeout")
    text = f'{{"{field}": {number}}}'
    with nothing_kept(shared_pool):
        refused(send(shared_pool, route, text))
    value = json.loads(text)[field]
    assert value != value or abs(value) == float("inf"), "the control: a lenient reader takes it"  # noqa: PLR0124 - NaN


@pytest.mark.parametrize("route", ROUTES)
def test_66_endless_nesting(shared_pool: RealPool, route: str):
    # A manifest may have 256 KiB; that is said first of one that is larger.
    depth = 400_000 if route.startswith("/") else 200_000
    with nothing_kept(shared_pool):
        for text in (
            "[" * depth,
            "[" * (depth // 2) + "]" * (depth // 2),
            '{"env": ' + '{"a":' * (depth // 8) + "1" + "}" * (depth // 8) + "}",
        ):
            refused(send(shared_pool, route, text))
    with pytest.raises(RecursionError):
        json.loads("[" * depth)  # the control: what it does to a reader that does not expect it
    assert shared_pool.http.get("/health").status_code == 200


@pytest.mark.parametrize("route", ROUTES)
def test_66_an_integer_of_5000_digits(shared_pool: RealPool, route: str):
    field = {"/limits/local": "queued", "/jobs/cancel": "since"}.get(route, "priority")
    with nothing_kept(shared_pool):
        for digits in ("9" * 5000, "-" + "9" * 5000, "9" * 400, "1" + "0" * 30):
            answer = send(shared_pool, route, f'{{"{field}": {digits}}}')
            if field == "since" and len(digits) < 100:
                assert answer.status_code == 200, "a float may be as large"
            else:
                refused(answer)
    with pytest.raises(ValueError, match="4300"):
        json.loads("9" * 5000)  # the control: what it does to a reader that does not expect it
    large = send(shared_pool, "/limits/local", '{"queued": 1000000000000000}')
    assert large.status_code == 200, "the control: one that is only large is taken"


#: Names that would end a header's line; such files need not be kept, but if they are, then harmlessly.
BREAKING = ["a\r\nX-Evil: 1\r\n\r\n<script>.txt", "b\nX-Evil: 1.txt", "c\rX-Evil: 1.txt", "d\0e.txt"]
QUOTED = ['quote"; filename="evil.html', "percent%0d%0aX-Evil: 1.txt", "semi; a=b.txt"]
ACTIVE = b"<html><script>alert(1)</script></html>"
PROGRAM = f"""
import json, pathlib
for name in json.loads({json.dumps(json.dumps([*QUOTED, *BREAKING]))}):
    try:
        pathlib.Path(name).write_bytes({ACTIVE!r})
    except ValueError:
        continue
"""


@pytest.fixture(scope="module")
def job(shared_pool: RealPool) -> str:
    """A job that leaves files of all these names."""
    job = shared_pool.submit({"main.py": PROGRAM.encode()})
    assert shared_pool.wait(job)["state"] == "completed"
    return job


def test_68_no_name_of_an_output_breaks_out_of_a_header(shared_pool: RealPool, job: str):
    files = shared_pool.http.get(f"/outputs/{job}").json()["files"]
    paths = {file["path"] for file in files} | set(BREAKING)
    assert paths >= set(QUOTED), "the control: they are there"
    for path in paths:
        answer = shared_pool.http.get(f"/outputs/{job}/{quote(path)}")
        assert answer.status_code == (400 if path in BREAKING else 200), path
        assert "x-evil" not in answer.headers
        assert answer.content == ACTIVE or b"\r\n" not in answer.content, "a JSON error shows it escaped"
    careless = email.parser.HeaderParser().parsestr(f'Content-Disposition: inline; filename="{BREAKING[0]}"\r\n\r\n')
    assert careless["X-Evil"] == "1", "the control: written as it is, it is a header of its own"


REFLECTED = "%0d%0aX-Evil:%201"


@pytest.mark.parametrize(
    "path",
    [
        f"/status/{REFLECTED}",
        f"/{REFLECTED}",
        f"/outputs/pool-0123456789abcdef/{REFLECTED}",
        f"/download/{REFLECTED}",
        f"/jobs?after={REFLECTED}",
        f"/jobs?state={REFLECTED}",
        f"/usage?owner={REFLECTED}",
        f"/workers/{REFLECTED}/cordon",
    ],
)
def test_68_no_word_of_a_request_comes_back_as_a_header(shared_pool: RealPool, path: str):
    answer = shared_pool.http.request("POST" if path.endswith("cordon") else "GET", path)
    assert answer.status_code < 500
    assert "x-evil" not in answer.headers
    assert all("\r" not in value and "\n" not in value for value in answer.headers.values())


PATHS = [
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "x%2f..%2f..%2f..%2fetc%2fpasswd",
    "a/%2e/b",
    "%00",
    "a%00b",
    "semi; a=b.txt%00",
    "..%00/x",
]


@pytest.mark.parametrize("route", ["outputs", "download"])
@pytest.mark.parametrize("path", PATHS)
def test_69_paths_that_lead_elsewhere(shared_pool: RealPool, job: str, route: str, path: str):
    answer = shared_pool.http.get(httpx.URL(f"{shared_pool.url}/{route}/{job}/{path}"))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "bad_request"
    there = posixpath.normpath(posixpath.join("/srv/outputs", unquote(path)))
    named = unquote(path).split("\0")[0]
    elsewhere = (
        not there.startswith("/srv/outputs/") or named != unquote(path) or there != f"/srv/outputs/{unquote(path)}"
    )
    assert elsewhere, "the control: joined to a directory, or read up to its NUL, it is another file"


def test_69_the_control_a_strange_but_honest_path_is_served(shared_pool: RealPool, job: str):
    assert shared_pool.http.get(f"/outputs/{job}/{quote(QUOTED[2])}").content == ACTIVE


def test_74_an_idempotency_key_with_another_body_is_a_conflict(shared_pool: RealPool):
    def submit(
        key: str | None, name: str = "one", files: dict[str, bytes] | None = None, **manifest: Any
    ) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return shared_pool.post(files or {"main.py": b"print(74)\n"}, {"name": name, **manifest}, headers=headers)

    first = submit("case-74").json()["job_id"]
    with nothing_kept(shared_pool):
        assert submit("case-74").json()["job_id"] == first
        for other in (
            submit("case-74", name="another"),
            submit("case-74", args=["x"]),
            submit("case-74", files={"main.py": b"print(75)\n"}),
            submit("case-74", files={"main.py": b"print(74)\n", "more": b""}),
        ):
            error = other.json()["error"]
            assert (other.status_code, error["code"], error["fault"]) == (409, "idempotency_key_reused", "user")
            assert first in error["message"]
    for free in (submit("case-74-b", name="another"), submit(None, name="another")):
        assert free.json()["job_id"] != first, "the control: without that key it is a job"
