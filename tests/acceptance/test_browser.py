"""What foreign web pages cannot do to a pool on the machine of their visitor, and what the outputs of a job cannot."""

import json
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from support.archives import tar_gz
from support.real_pool import RealPool

MAIN = tar_gz({"main.py": b"print(1)\n"})
ROUTES = [
    ("GET", "/pool"),
    ("GET", "/health"),
    ("GET", "/jobs"),
    ("GET", "/nothing"),
    ("POST", "/submit"),
    ("POST", "/cancel/pool-0123456789abcdef"),
    ("OPTIONS", "/submit"),
]
FOREIGN_ORIGINS = [
    "https://evil.example",
    "null",
    "http://localhost",
    "http://localhost:1",
    "http://{host}.evil.example",
    "http://evil.example/?{host}",
    "http://{host}@evil.example",
    "file://",
    "",
]
FOREIGN_HOSTS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example:9000",
    "0.0.0.0",
    "[::2]",
    "10.0.0.1",
    "[",
    "",
]


def ask(pool: RealPool, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    """Ask what a page could ask; a POST brings a whole job."""
    if (method, path) == ("POST", "/submit"):
        return pool.post(MAIN, {"name": "from a page"}, headers=headers)
    return pool.http.request(method, path, headers=headers)


def from_pages(pool: RealPool) -> int:
    """Return how many jobs came from pages."""
    return len(pool.http.get("/jobs", params={"name": "from a page"}).json()["jobs"])


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_foreign_origin_is_refused(shared_pool: RealPool, method: str, path: str, origin: str):
    before = from_pages(shared_pool)
    origin = origin.format(host=f"127.0.0.1:{shared_pool.port}")
    answer = ask(shared_pool, method, path, {"Origin": origin})
    assert answer.status_code == 403, answer.text
    error = answer.json()["error"]
    assert error["code"] == "foreign_origin"
    assert error["hint"]
    assert "access-control-allow-origin" not in answer.headers
    assert from_pages(shared_pool) == before


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_foreign_host_is_refused_on_loopback(shared_pool: RealPool, method: str, path: str, host: str):
    """A page's own name may be made to lead to 127.0.0.1; then its origin is its host."""
    before = from_pages(shared_pool)
    answer = ask(shared_pool, method, path, {"Host": host, "Origin": f"http://{host}"} if host else {"Host": host})
    assert answer.status_code == 403, answer.text
    assert answer.json()["error"]["code"] in ("foreign_host", "foreign_origin")
    assert from_pages(shared_pool) == before
    answer = ask(shared_pool, method, path, {"Host": host})
    assert answer.status_code == 403, answer.text
    assert answer.json()["error"]["code"] == "foreign_host"
    assert from_pages(shared_pool) == before


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_the_pools_own_pages_are_served(shared_pool: RealPool, name: str):
    """The control of both: the right names go through."""
    before = from_pages(shared_pool)
    host = f"{name}:{shared_pool.port}"
    for headers in ({"Host": host}, {"Host": host, "Origin": f"http://{host}"}, {"Host": name}):
        assert ask(shared_pool, "GET", "/pool", headers).status_code == 200
        assert ask(shared_pool, "POST", "/submit", headers).status_code == 200
    assert from_pages(shared_pool) == before + 3


def test_what_is_reachable_from_elsewhere_has_any_name_but_no_foreign_page(tmp_path: Path):
    options = ("--host", "0.0.0.0", "--anonymous", "--insecure-http")
    with RealPool(tmp_path, (1,), options=options, running=False) as pool:
        assert ask(pool, "GET", "/pool", {"Host": "pool.example.com:9000"}).status_code == 200
        own = {"Host": "pool.example.com:9000", "Origin": "http://pool.example.com:9000"}
        assert ask(pool, "POST", "/submit", own).status_code == 200
        foreign = {"Host": "pool.example.com:9000", "Origin": "http://evil.example"}
        assert ask(pool, "POST", "/submit", foreign).status_code == 403
        assert pool.pool()["total_jobs"] == 1


@pytest.mark.parametrize("path", ["/pool", "/jobs", "/health", "/openapi.json", "/manifest.schema.json", "/nothing"])
def test_every_answer_keeps_browsers_from_guessing_and_framing(shared_pool: RealPool, path: str):
    headers = shared_pool.http.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers
    assert headers["content-type"].split(";")[0] == "application/json"


#: Outputs by name: whether a browser may show it in place.
NAMES = {
    "page.html": False,
    "page.xhtml": False,
    "drawing.svg": False,
    "feed.xml": False,
    "code.js": False,
    "module.mjs": False,
    "style.css": False,
    "paper.pdf": False,
    "page.HTM": False,
    "page.html.gz": False,
    "nothing known": False,
    "picture.png": True,
    "words.txt": True,
    "table.csv": True,
    "facts.json": True,
    'quote"; filename="evil.html': False,
    "a\u2028b.txt": True,
    "ümläut.txt": True,
    "percent%0d%0aX-Evil: 1.txt": True,
    "semi; a=b.txt": True,
}
ACTIVE = b"<html><script>alert(1)</script></html>"
PROGRAM = f"""
import json, pathlib
for name in json.loads({json.dumps(json.dumps([*NAMES]))}):
    pathlib.Path(name).write_bytes({ACTIVE!r})
"""


@pytest.fixture(scope="module")
def job(shared_pool: RealPool) -> str:
    """A job that leaves all of them."""
    job = shared_pool.submit({"main.py": PROGRAM.encode()}, {"labels": {"a": "b"}})
    assert shared_pool.wait(job)["state"] == "completed"
    return job


def test_the_outputs_are_all_there(shared_pool: RealPool, job: str):
    files = shared_pool.http.get(f"/outputs/{job}").json()["files"]
    assert {file["path"] for file in files} >= set(NAMES)


@pytest.mark.parametrize("route", ["outputs", "download"])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_cannot_run_in_a_browser(shared_pool: RealPool, job: str, name: str, route: str):
    answer = shared_pool.http.get(f"/{route}/{job}/{quote(name)}")
    assert (answer.status_code, answer.content) == (200, ACTIVE)
    headers = answer.headers
    assert headers["content-security-policy"].startswith("sandbox;")
    assert headers["x-content-type-options"] == "nosniff"
    disposition = headers["content-disposition"]
    assert disposition.split(";")[0] == ("inline" if NAMES[name] else "attachment"), disposition
    assert disposition.count('"') == 2, disposition
    assert "x-evil" not in headers
    if not NAMES[name]:
        return
    kind = headers["content-type"].split(";")[0]
    assert kind in ("text/plain", "image/png", "text/csv", "application/json")
