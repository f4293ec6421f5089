"""How results are served: whole, in ranges, again only when changed; as one archive; logs byte for byte."""

import hashlib
import io
import json
import tarfile

import httpx
import pytest

from support.real_pool import RealPool

LARGE = bytes(range(256)) * 4096  # 1 MiB: a blob of its own; the others lie in the store
FILES = {"small.txt": b"0123456789", "empty.txt": b"", "deep/er/large.bin": LARGE, "run.sh": b"#!/bin/sh\n"}
PROGRAM = b"""
import os, pathlib, sys
pathlib.Path("deep/er").mkdir(parents=True)
pathlib.Path("small.txt").write_bytes(b"0123456789")
pathlib.Path("empty.txt").write_bytes(b"")
pathlib.Path("deep/er/large.bin").write_bytes(bytes(range(256)) * 4096)
pathlib.Path("run.sh").write_bytes(b"#!/bin/sh\\n")
os.chmod("run.sh", 0o755)
os.write(1, b"one\\n\\xff\\x00\\x1b[2J")
os.write(2, b"two\\n")
"""


@pytest.fixture(scope="module")
def job(shared_pool: RealPool) -> str:
    job = shared_pool.submit({"main.py": PROGRAM})
    assert shared_pool.wait(job)["state"] == "completed"
    return job


def get(pool: RealPool, job: str, path: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return pool.http.get(f"/outputs/{job}/{path}", headers=named)


def test_the_list_says_what_there_is(shared_pool: RealPool, job: str):
    files = shared_pool.http.get(f"/outputs/{job}").json()["files"]
    assert [file["path"] for file in files] == sorted(FILES)
    for file in files:
        data = FILES[file["path"]]
        assert (file["size"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert file["executable"] is (file["path"] == "run.sh")


@pytest.mark.parametrize("path", FILES)
def test_a_file_comes_whole(shared_pool: RealPool, job: str, path: str):
    answer = get(shared_pool, job, path)
    assert (answer.status_code, answer.content) == (200, FILES[path])
    assert answer.headers["content-length"] == str(len(FILES[path]))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"] == f'"{hashlib.sha256(FILES[path]).hexdigest()}"'


@pytest.mark.parametrize("path", ["small.txt", "deep/er/large.bin"])
@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=3-6", slice(3, 7)),
        ("bytes=5-", slice(5, None)),
        ("bytes=-4", slice(-4, None)),
        ("bytes=0-99999999999", slice(0, None)),
        ("bytes=-99999999999", slice(0, None)),
    ],
)
def test_ranges(shared_pool: RealPool, job: str, path: str, wanted: str, part: slice):
    data = FILES[path]
    answer = get(shared_pool, job, path, Range=wanted)
    assert (answer.status_code, answer.content) == (206, data[part])
    start, stop, _ = part.indices(len(data))
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"
    assert answer.headers["content-length"] == str(stop - start)


def test_a_range_over_what_the_reader_reads_at_a_time(shared_pool: RealPool, job: str):
    answer = get(shared_pool, job, "deep/er/large.bin", Range="bytes=262100-786500")
    assert answer.content == LARGE[262100:786501]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [("small.txt", "bytes=10-"), ("small.txt", "bytes=99-100"), ("small.txt", "bytes=-0"), ("empty.txt", "bytes=0-0")],
)
def test_a_range_outside_the_file(shared_pool: RealPool, job: str, path: str, wanted: str):
    answer = get(shared_pool, job, path, Range=wanted)
    assert answer.status_code == 416, answer.text
    assert answer.json()["error"]["code"] == "range_not_satisfiable"
    assert answer.headers["content-range"] == f"bytes */{len(FILES[path])}"


@pytest.mark.parametrize(
    "wanted", ["bytes=6-3", "lines=1-2", "bytes=a-b", "bytes=-", "bytes=0-1,3-4", "", "bytes=1-" + "9" * 5000]
)
def test_what_is_no_range_we_serve_brings_the_whole_file(shared_pool: RealPool, job: str, wanted: str):
    answer = get(shared_pool, job, "small.txt", Range=wanted)
    assert answer.status_code in (200, 206), answer.text
    assert answer.content == (FILES["small.txt"] if answer.status_code == 200 else FILES["small.txt"][1:])


def test_what_is_known_already_is_not_sent_again(shared_pool: RealPool, job: str):
    etag = get(shared_pool, job, "small.txt").headers["etag"]
    for known in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        answer = get(shared_pool, job, "small.txt", If_None_Match=known)
        assert (answer.status_code, answer.content) == (304, b""), known
        assert answer.headers["etag"] == etag
        assert "content-length" not in answer.headers or answer.headers["content-length"] in ("0", "10")
    assert get(shared_pool, job, "small.txt", If_None_Match='"x"').status_code == 200


def test_a_range_of_another_version_brings_the_whole_file(shared_pool: RealPool, job: str):
    etag = get(shared_pool, job, "small.txt").headers["etag"]
    same = get(shared_pool, job, "small.txt", Range="bytes=3-6", If_Range=etag)
    assert (same.status_code, same.content) == (206, b"3456")
    other = get(shared_pool, job, "small.txt", Range="bytes=3-6", If_Range='"another"')
    assert (other.status_code, other.content) == (200, FILES["small.txt"])


def test_all_files_as_one_archive(shared_pool: RealPool, job: str):
    answer = shared_pool.http.get(f"/download/{job}")
    assert answer.headers["content-type"] == "application/gzip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{job}.tar.gz"'
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        files = {m.name: m for m in archive.getmembers()}
        assert {name: archive.extractfile(m).read() for name, m in files.items()} == FILES  # type: ignore[union-attr]
    assert files["run.sh"].mode == 0o755
    assert files["small.txt"].mode == 0o644
    assert shared_pool.http.get(f"/download/{job}/small.txt").content == b"0123456789"


def test_paths_that_no_output_is_called(shared_pool: RealPool, job: str):
    for path in ("none", "deep", "deep/er", "small.txt/x", "SMALL.TXT", "%2fetc%2fpasswd", "a//b"):
        answer = get(shared_pool, job, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_such_output"), path


def test_logs_as_text_and_byte_for_byte(shared_pool: RealPool, job: str):
    answer = shared_pool.http.get(f"/logs/{job}").json()
    assert answer == {"job_id": job, "stdout": "one\n\ufffd\0\x1b[2J", "stderr": "two\n", "truncated": False}
    raw = shared_pool.http.get(f"/logs/{job}/stdout")
    assert raw.content == b"one\n\xff\x00\x1b[2J"
    assert raw.headers["content-type"].startswith("text/plain")
    assert raw.headers["x-content-type-options"] == "nosniff"
    assert shared_pool.http.get(f"/logs/{job}/stderr").content == b"two\n"
    assert shared_pool.http.get(f"/logs/{job}/stdin").status_code in (400, 404)


def test_a_followed_log_ends_with_the_job_and_can_be_resumed(shared_pool: RealPool, job: str):
    events = _events(shared_pool.http.get(f"/logs/{job}", params={"follow": "true"}).text)
    assert [e["event"] for e in events] == ["stdout", "stderr", "end"] or {e["event"] for e in events} >= {
        "stdout",
        "end",
    }
    said = "".join(json.loads(e["data"])["text"] for e in events if e["event"] == "stdout")
    assert said == "one\n\ufffd\0\x1b[2J"
    assert json.loads(events[-1]["data"])["state"] == "completed"
    text = shared_pool.http.get(f"/logs/{job}", params={"follow": "1"}, headers={"Last-Event-ID": events[0]["id"]}).text
    assert _events(text) == events[1:]
    wrong = shared_pool.http.get(f"/logs/{job}", params={"follow": "1"}, headers={"Last-Event-ID": "yesterday"})
    assert wrong.status_code == 400


def _events(text: str) -> list[dict[str, str]]:
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def test_results_of_a_job_that_has_not_ended(shared_pool: RealPool):
    job = shared_pool.submit({"main.py": b"import time\nprint('up', flush=True)\ntime.sleep(600)\n"})
    shared_pool.until_state(job, "running")
    for route in (f"/outputs/{job}", f"/outputs/{job}/a", f"/download/{job}", f"/download/{job}/a"):
        answer = shared_pool.http.get(route)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_finished")
        assert answer.json()["error"]["hint"]
    assert shared_pool.http.post(f"/cancel/{job}").status_code == 200
    assert shared_pool.wait(job)["state"] == "cancelled"
    assert shared_pool.http.get(f"/outputs/{job}").json()["files"] == []
