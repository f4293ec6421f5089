"""The client against a stand-in: lost answers, broken lines, lies, and files that would land elsewhere."""

import asyncio
import gc
import hashlib
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from trusted_pool.client import (
    AnswerError,
    AsyncPoolClient,
    ClientError,
    IntegrityError,
    LogPiece,
    NoLongerWaitingError,
    PoolClient,
    RequestError,
    Settings,
    UnreachableError,
    UnsafePathError,
    fetch,
)
from trusted_pool.client.settings import from_environment, usable_address
from trusted_pool.client.upload import open_file
from trusted_pool.core.words import Fault, JobState
from trusted_pool.protocol.answers import EndEvent

JOB = "pool-0123456789abcdef"


def connect(server: Any) -> PoolClient:
    return PoolClient(Settings(address=server.address))


def listing(*files: tuple[str, bytes], **lies: Any) -> dict[str, Any]:
    entries = [
        {"path": p, "size": len(d), "sha256": hashlib.sha256(d).hexdigest(), "type": "x/y", "executable": False, **lies}
        for p, d in files
    ]
    return {"job_id": JOB, "files": entries}


def parts_of(asked: Any) -> dict[str, tuple[str | None, bytes]]:
    """Read a multipart body: name to filename and content."""
    boundary = asked.headers["content-type"].partition("boundary=")[2].encode()
    found = {}
    for part in asked.body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="([^"]*)"', head)
        filename = re.search(rb'filename="([^"]*)"', head)
        assert name is not None
        found[name[1].decode()] = (filename[1].decode() if filename else None, content.removesuffix(b"\r\n"))
    return found


def submit(pool: PoolClient, path: Path, manifest: dict[str, Any] | None = None, **options: Any) -> str:
    upload = open_file(path)
    with upload.file:
        return pool.submit([upload], manifest, **options).job_id


# -- submit --


def test_submit_sends_files_and_manifest_and_counts_the_bytes(pool_server: Any, kit: Any, tmp_path: Path) -> None:
    pool_server.routes["/submit"] = [kit.Answer({"job_id": JOB, "status": "queued"})]
    project = tmp_path / "project.tar.gz"
    project.write_bytes(b"\r\n--" * 100_000)
    seen: list[tuple[int, int]] = []
    with connect(pool_server) as pool:
        job_id = submit(
            pool, project, {"entrypoint": "ü.py"}, on_progress=lambda done, total: seen.append((done, total))
        )
    assert job_id == JOB
    (asked,) = pool_server.asked
    parts = parts_of(asked)
    assert json.loads(parts["manifest"][1]) == {"entrypoint": "ü.py"}
    assert parts["files"][0] == "project.tar.gz"
    assert asked.body.count(b"\r\n--" * 100_000) == 1
    assert "content-length" in asked.headers, "a known length, so that the pool can refuse early"
    assert seen[-1] == (400_000, 400_000)
    assert len(seen) > 3, "it was read in pieces"


def test_with_a_key_a_lost_answer_is_asked_for_again_with_the_same_body(
    pool_server: Any, kit: Any, tmp_path: Path
) -> None:
    pool_server.routes["/submit"] = [kit.Answer(cut=0), kit.Answer({"job_id": JOB, "status": "queued"})]
    (tmp_path / "main.py").write_text("print(1)")
    with connect(pool_server) as pool:
        assert submit(pool, tmp_path / "main.py", idempotency_key="k1") == JOB
    first, second = pool_server.asked
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == "k1"
    assert parts_of(first) == parts_of(second) != {}


def test_without_a_key_a_submit_is_sent_once(pool_server: Any, kit: Any, tmp_path: Path) -> None:
    pool_server.routes["/submit"] = [kit.Answer(cut=0), kit.Answer({"job_id": JOB, "status": "queued"})]
    (tmp_path / "main.py").write_text("print(1)")
    with connect(pool_server) as pool, pytest.raises(UnreachableError):
        submit(pool, tmp_path / "main.py")
    assert len(pool_server.asked) == 1


def test_a_refusal_is_not_tried_again_and_says_all_that_the_pool_said(
    pool_server: Any, kit: Any, tmp_path: Path
) -> None:
    pool_server.routes["/submit"] = [kit.error(422, "unplaceable", "no worker can", hint="ask for less")]
    (tmp_path / "main.py").write_text("print(1)")
    with connect(pool_server) as pool, pytest.raises(RequestError) as caught:
        submit(pool, tmp_path / "main.py", idempotency_key="k")
    error = caught.value
    assert (error.status, error.code, error.message, error.hint) == (
        422,
        "unplaceable",
        "no worker can",
        "ask for less",
    )
    assert (error.fault, error.retryable) == (Fault.USER, False)
    assert len(pool_server.asked) == 1


# -- errors --


def test_an_unreachable_pool_is_said_with_what_to_type() -> None:
    with PoolClient(Settings(address="http://127.0.0.1:1")) as pool, pytest.raises(UnreachableError) as caught:
        pool.health()
    assert caught.value.message == "cannot reach the pool at http://127.0.0.1:1: Connection refused"
    assert "tpool coordinator" in caught.value.hint
    assert caught.value.retryable


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"job_id": 3}', b"\xff", b""])
def test_what_is_no_answer_of_a_pool_is_said(pool_server: Any, kit: Any, body: bytes) -> None:
    pool_server.routes["/pool"] = [kit.Answer(body)]
    with connect(pool_server) as pool, pytest.raises(AnswerError, match="GET /pool"):
        pool.pool()


def test_an_error_that_is_no_error_answer_keeps_its_status(pool_server: Any, kit: Any) -> None:
    pool_server.routes["/pool"] = [kit.Answer(b"Bad Gateway", status=502)]
    with connect(pool_server) as pool, pytest.raises(RequestError) as caught:
        pool.pool()
    assert (caught.value.status, caught.value.retryable) == (502, True)


def test_redirects_are_not_followed(pool_server: Any, kit: Any) -> None:
    pool_server.routes["/pool"] = [kit.Answer(b"", status=307, headers={"Location": f"{pool_server.address}/other"})]
    with connect(pool_server) as pool, pytest.raises(RequestError) as caught:
        pool.pool()
    assert "/other" in caught.value.hint
    assert pool_server.paths() == ["/pool"]


def test_fields_that_are_not_known_yet_are_ignored(pool_server: Any, kit: Any) -> None:
    pool_server.routes[f"/status/{JOB}"] = [kit.Answer(kit.status_of(JOB, new_field={"a": 1}))]
    with connect(pool_server) as pool:
        assert pool.status(JOB).state is JobState.COMPLETED


def test_a_token_is_sent_and_a_proxy_of_the_environment_is_not_used(
    pool_server: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    pool_server.routes["/health"] = [kit.Answer({"status": "ok", "service": "s", "version": "1", "pool_id": "p"})]
    settings = from_environment({"TRUSTED_POOL_ADDR": pool_server.address + "/", "TRUSTED_POOL_TOKEN": "t0 \n".strip()})
    with PoolClient(settings) as pool:
        pool.health()
    assert pool_server.asked[0].headers["authorization"] == "Bearer t0"


@pytest.mark.parametrize(
    "raw", ["", "ftp://x", "http://", "http://u:p@x", "http://x:0", "http://x:99999", "http://a b"]
)
def test_addresses_that_are_none_are_refused(raw: str) -> None:
    with pytest.raises(ClientError, match="no address"):
        usable_address(raw)


def test_a_host_and_port_are_an_address() -> None:
    assert usable_address("pool.example.com:9000") == "http://pool.example.com:9000"


# -- wait --


def test_wait_polls_long_and_ends_with_the_final_status(pool_server: Any, kit: Any) -> None:
    states = ["queued", "running", "running", "failed"]
    answers = [kit.Answer(kit.status_of(JOB, s)) for s in states]
    answers.insert(2, kit.Answer(cut=0))  # one lost answer on the way is sat out
    pool_server.routes[f"/status/{JOB}"] = answers
    with connect(pool_server) as pool:
        assert pool.wait(JOB).state is JobState.FAILED
    assert [a.query.get("wait") for a in pool_server.asked] == [None, "30", "30", "30", "30"]


def test_wait_gives_up_in_time_and_says_that_the_job_goes_on(pool_server: Any, kit: Any) -> None:
    pool_server.routes[f"/status/{JOB}"] = [kit.Answer(kit.status_of(JOB, "running"))]
    with connect(pool_server) as pool, pytest.raises(NoLongerWaitingError, match="goes on"):
        pool.wait(JOB, timeout_s=0.05)


def test_waiting_for_an_unknown_job_ends_at_once(pool_server: Any) -> None:
    with connect(pool_server) as pool, pytest.raises(RequestError) as caught:
        pool.wait(JOB)
    assert caught.value.status == 404
    assert len(pool_server.asked) == 1


# -- follow --


def event(name: str, data: dict[str, Any], offset: str = "") -> bytes:
    head = f"id: {offset}\n" if offset else ""
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def log_pieces(n: int) -> list[bytes]:
    return [event("stdout", {"at": float(i), "text": f"line {i} ü\n"}, f"1:{i}") for i in range(1, n + 1)]


END = event("end", {"state": "completed", "reason": None, "detail": ""})
SSE = {"Content-Type": "text/event-stream; charset=utf-8"}


def test_a_followed_log_is_whole_and_has_nothing_twice_wherever_the_line_breaks(pool_server: Any, kit: Any) -> None:
    pieces = log_pieces(6)
    whole = b"".join(pieces) + END

    def answer(asked: Any) -> Any:
        start = int(asked.headers.get("last-event-id", "1:0").partition(":")[2])
        rest = b": hello\n\n" + whole[len(b"".join(pieces[:start])) :]
        # Each connection breaks in the middle of the second event that it brings.
        cut = None if start >= 5 else 9 + len(pieces[start]) + 20
        return kit.Answer(rest, headers=SSE, cut=cut)

    pool_server.routes[f"/logs/{JOB}"] = answer
    with connect(pool_server) as pool:
        found = list(pool.follow(JOB))
    texts = [piece.text for piece in found if isinstance(piece, LogPiece)]
    assert texts == [f"line {i} ü\n" for i in range(1, 7)]
    assert isinstance(found[-1], EndEvent)
    assert len(pool_server.asked) == 6
    assert all(asked.query == {"follow": "1"} for asked in pool_server.asked)


def test_following_gives_up_when_the_pool_stays_away(pool_server: Any, kit: Any) -> None:
    pool_server.routes[f"/logs/{JOB}"] = [kit.Answer(log_pieces(1)[0], headers=SSE), kit.Answer(cut=0)]
    with connect(pool_server) as pool:
        stream = pool.follow(JOB, patience_s=0.3)
        assert isinstance(next(stream), LogPiece)
        with pytest.raises(UnreachableError):
            next(stream)


def test_a_log_that_is_no_stream_of_events_is_an_error_at_once(pool_server: Any, kit: Any) -> None:
    pool_server.routes[f"/logs/{JOB}"] = [kit.Answer(b"{}")]
    with connect(pool_server) as pool, pytest.raises(AnswerError, match="stream of events"):
        list(pool.follow(JOB))
    assert len(pool_server.asked) == 1


def test_an_endless_event_is_not_kept(pool_server: Any, kit: Any) -> None:
    pool_server.routes[f"/logs/{JOB}"] = [kit.Answer(b"data: " + b"x" * 9_000_000, headers=SSE)]
    with connect(pool_server) as pool, pytest.raises(AnswerError, match="longer than"):
        list(pool.follow(JOB))


# -- download --


def test_outputs_are_fetched_checked_and_put_in_place(pool_server: Any, kit: Any, tmp_path: Path) -> None:
    files = [("results/ü ?#.txt", b"a" * 200_000), ("empty", b"")]
    pool_server.routes[f"/outputs/{JOB}"] = [kit.Answer(listing(*files))]
    for path, data in files:
        pool_server.routes[f"/outputs/{JOB}/{path}"] = [kit.Answer(data)]
    counted: list[int] = []
    with connect(pool_server) as pool:
        fetched = pool.download(JOB, tmp_path / "out", on_bytes=counted.append)
    assert {f.path: f.file.read_bytes() for f in fetched} == dict(files)
    assert sum(counted) == 200_000
    assert sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file()) == ["empty", "ü.txt"[:1] + " ?#.txt"]


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/evil", "a/../../evil", "a//b", "./a", "", "a/", "a\0b", "a\nb", "..", "a\\..\\b"]
)
def test_an_output_that_would_land_elsewhere_is_refused_before_a_byte_is_asked_for(
    pool_server: Any, kit: Any, tmp_path: Path, path: str
) -> None:
    pool_server.routes[f"/outputs/{JOB}"] = [kit.Answer(listing(("good", b"g"), (path, b"x")))]
    pool_server.routes[f"/outputs/{JOB}/good"] = [kit.Answer(b"g")]
    out = tmp_path / "in" / "out"
    with connect(pool_server) as pool, pytest.raises(UnsafePathError):
        pool.download(JOB, out)
    assert pool_server.paths() == [f"/outputs/{JOB}"]
    assert list(tmp_path.rglob("*")) == []


def test_no_link_inside_the_target_is_followed(pool_server: Any, kit: Any, tmp_path: Path) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    out.mkdir()
    (outside / "kept").write_text("mine")
    (out / "d").symlink_to(outside)
    (out / "f").symlink_to(outside / "kept")
    pool_server.routes[f"/outputs/{JOB}"] = [kit.Answer(listing(("d/x", b"x"))), kit.Answer(listing(("f", b"x")))]
    pool_server.routes[f"/outputs/{JOB}/d/x"] = pool_server.routes[f"/outputs/{JOB}/f"] = [kit.Answer(b"x")]
    with connect(pool_server) as pool:
        with pytest.raises(ClientError, match="symbolic link is in the way"):
            pool.download(JOB, out)
        pool.download(JOB, out)
    assert [p.name for p in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "mine"
    assert not (out / "f").is_symlink()
    assert (out / "f").read_bytes() == b"x"


@pytest.mark.parametrize("served", [b"evil!", b"short"[:3], b"much longer than it says"])
def test_bytes_that_are_not_those_of_the_listing_are_not_kept(
    pool_server: Any, kit: Any, tmp_path: Path, served: bytes
) -> None:
    pool_server.routes[f"/outputs/{JOB}"] = [kit.Answer(listing(("f", b"right")))]
    pool_server.routes[f"/outputs/{JOB}/f"] = [kit.Answer(served)]
    (tmp_path / "f").write_text("what was there before")
    with connect(pool_server) as pool, pytest.raises(IntegrityError):
        pool.download(JOB, tmp_path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "what was there before")]


def test_a_broken_transfer_goes_on_where_it_broke(pool_server: Any, kit: Any, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4000

    def answer(asked: Any) -> Any:
        wanted = asked.headers.get("range")
        if wanted is None:
            return kit.Answer(data, cut=300_000)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        return kit.Answer(data[start:], status=206, cut=300_000 if start < 700_000 else None)

    pool_server.routes[f"/outputs/{JOB}"] = [kit.Answer(listing(("big", data)))]
    pool_server.routes[f"/outputs/{JOB}/big"] = answer
    with connect(pool_server) as pool:
        pool.download(JOB, tmp_path)
    assert (tmp_path / "big").read_bytes() == data
    starts = [asked.headers.get("range") for asked in pool_server.asked[1:]]
    assert starts[0] is None
    assert all(starts[1:])
    assert len(starts) > 2


def test_a_fetch_waits_for_others_of_its_owner_and_not_for_ever(
    pool_server: Any, kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_PAUSE_S", 0.01)
    busy = kit.error(429, "too_many_transfers", "16 are under way", retryable=True)
    pool_server.routes[f"/outputs/{JOB}"] = [kit.Answer(listing(("f", b"f")))]
    pool_server.routes[f"/outputs/{JOB}/f"] = [*[busy] * 12, kit.Answer(b"f")]
    with connect(pool_server) as pool:
        pool.download(JOB, tmp_path)
        assert (tmp_path / "f").read_bytes() == b"f"
        pool_server.routes[f"/outputs/{JOB}/f"] = [busy]
        monkeypatch.setattr(fetch, "_PATIENCE_S", 0.1)
        asked = len(pool_server.asked)
        with pytest.raises(RequestError, match="under way"):
            pool.download(JOB, tmp_path)
        assert 5 < len(pool_server.asked) - asked < 30


def test_only_named_outputs_are_fetched(pool_server: Any, kit: Any, tmp_path: Path) -> None:
    pool_server.routes[f"/outputs/{JOB}"] = [kit.Answer(listing(("a", b"a"), ("b", b"b")))]
    pool_server.routes[f"/outputs/{JOB}/b"] = [kit.Answer(b"b")]
    with connect(pool_server) as pool:
        assert [f.path for f in pool.download(JOB, tmp_path, paths=["b"])] == ["b"]
        with pytest.raises(ClientError, match="no output 'c'"):
            pool.download(JOB, tmp_path, paths=["c"])


# -- both faces --


def test_the_faces_have_the_same_methods() -> None:
    def methods(face: type) -> set[str]:
        return {name for name in dir(face) if not name.startswith("_")} - {"settings", "close"}

    assert methods(PoolClient) == methods(AsyncPoolClient)


def test_the_asynchronous_face_is_the_same_client(pool_server: Any, kit: Any) -> None:
    pool_server.routes[f"/logs/{JOB}"] = [kit.Answer(b"".join(log_pieces(2)) + END, headers=SSE)]

    async def main() -> list[str]:
        async with AsyncPoolClient(Settings(address=pool_server.address)) as pool:
            return [piece.text async for piece in pool.follow(JOB) if isinstance(piece, LogPiece)]

    assert asyncio.run(main()) == ["line 1 ü\n", "line 2 ü\n"]


def test_a_stream_that_was_left_ends_with_its_client(pool_server: Any, kit: Any) -> None:
    pool_server.routes[f"/logs/{JOB}/stdout"] = [kit.Answer(b"x" * 5_000_000)]
    with connect(pool_server) as pool:
        stream = pool.raw_log(JOB, "stdout")
        assert next(stream).startswith(b"x")
    del stream  # what it says to the ended loop would fail this test as an unraisable exception
    gc.collect()


def test_a_closed_client_leaves_no_thread() -> None:
    before = threading.active_count()
    for _ in range(5):
        with PoolClient(Settings()):
            pass
    assert threading.active_count() == before
