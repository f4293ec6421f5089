"""The manifest: every field, every default, every refusal."""

import json
import time
from typing import Any

import pytest

from trusted_pool.core.job import Retry
from trusted_pool.core.request import Request
from trusted_pool.core.words import OnWorkerLoss
from trusted_pool.protocol.errors import BadManifestError, PoolError, UnsupportedError
from trusted_pool.protocol.manifest import (
    BY_EXTENSION,
    KEYS,
    MAX_BYTES,
    Resolved,
    canonical,
    duration_s,
    json_schema,
    parse,
    resolve,
    safe_path,
)

FILES = {"main.py", "run.sh", "src/tool.js", "noextension", "a b.py"}


def resolved(files: set[str] = FILES, **fields: Any) -> Resolved:
    return resolve(parse(json.dumps(fields).encode()), files, OnWorkerLoss.RETRY)


def refusal(raw: bytes | dict[str, Any], files: set[str] = FILES) -> PoolError:
    with pytest.raises(BadManifestError) as caught:
        resolve(parse(raw if isinstance(raw, bytes) else json.dumps(raw).encode()), files, OnWorkerLoss.RETRY)
    assert caught.value.status == 400
    assert caught.value.message
    assert len(caught.value.message) < 1000
    json.dumps(caught.value.message).encode()
    return caught.value


def test_defaults() -> None:
    assert resolved() == Resolved(
        entrypoint="main.py",
        interpreter="python3",
        args=[],
        env={},
        outputs=None,
        timeout_s=300.0,
        memory_mb=512,
        cpu_seconds=None,
        cpus=1.0,
        disk_mb=1024,
        isolation=0,
        name="",
        labels={},
        priority=0,
        constraints={},
        max_attempts=3,
        on_worker_loss=OnWorkerLoss.RETRY,
        expires_in_s=None,
    )


def test_every_field() -> None:
    full = resolved(
        entrypoint="./src//tool.js",
        interpreter="nodejs",
        args=["-v", "ü", ""],
        env={"A": "1", "_b2": "line\nline"},
        outputs=["results/**", "./*.txt", "out/"],
        timeout="5m",
        memory_mb=64,
        cpu_seconds=1.5,
        cpus=2,
        disk_mb=10,
        environment=None,
        requirements="",
        gpu=False,
        name="my job",
        labels={"team": "a"},
        priority=-3,
        constraints={"zone": "b"},
        retry={"max_attempts": 1, "on_worker_loss": "hold"},
        isolation=2,
        expires_in="2h",
        keep=None,
    )
    assert full == Resolved(
        entrypoint="src/tool.js",
        interpreter="node",
        args=["-v", "ü", ""],
        env={"A": "1", "_b2": "line\nline"},
        outputs=["results/**", "*.txt", "out/"],
        timeout_s=300.0,
        memory_mb=64,
        cpu_seconds=1.5,
        cpus=2.0,
        disk_mb=10,
        isolation=2,
        name="my job",
        labels={"team": "a"},
        priority=-3,
        constraints={"zone": "b"},
        max_attempts=1,
        on_worker_loss=OnWorkerLoss.HOLD,
        expires_in_s=7200.0,
    )
    wanted = Request(interpreter="node", memory_mb=64, cpus=2.0, disk_mb=10, isolation=2, labels={"zone": "b"})
    assert full.request == wanted
    assert full.retry == Retry(max_attempts=1, on_worker_loss=OnWorkerLoss.HOLD)


def test_the_pools_default_for_worker_loss_is_filled_in() -> None:
    assert resolve(parse(b"{}"), FILES, OnWorkerLoss.FAIL).on_worker_loss is OnWorkerLoss.FAIL
    said = parse(b'{"retry": {"on_worker_loss": "hold"}}')
    assert resolve(said, FILES, OnWorkerLoss.FAIL).on_worker_loss is OnWorkerLoss.HOLD


@pytest.mark.parametrize(
    ("files", "entrypoint"),
    [
        ({"run.sh", "index.js", "main.py"}, "main.py"),
        ({"run.sh", "index.js"}, "index.js"),
        ({"run.sh", "x.py"}, "run.sh"),
    ],
)
def test_default_entrypoints_in_their_order(files: set[str], entrypoint: str) -> None:
    assert resolved(files).entrypoint == entrypoint


@pytest.mark.parametrize(("extension", "interpreter"), BY_EXTENSION.items())
def test_interpreter_by_extension(extension: str, interpreter: str) -> None:
    name = f"program{extension}"
    assert resolved({name}, entrypoint=name).interpreter == interpreter


@pytest.mark.parametrize(
    ("said", "meant"),
    [("python", "python3"), ("python3", "python3"), ("shell", "sh"), ("exec", "exec"), ("ruby", "ruby")],
)
def test_interpreter_by_name(said: str, meant: str) -> None:
    assert resolved(interpreter=said).interpreter == meant


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (1, 1.0),
        (0.5, 0.5),
        ("30", 30.0),
        ("30s", 30.0),
        ("250ms", 0.25),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        ("7d", 604800.0),
        (" 5m ", 300.0),
    ],
)
def test_durations(said: float | str, seconds: float) -> None:
    assert duration_s(said, "timeout") == seconds


@pytest.mark.parametrize(
    "said", ["", "5 m", "-5", "5M", "1e3", "٣s", "5m5s", "inf", "nan", ".5", "5.", "0", "99999999d", 0, -1, 1e11]
)
def test_what_is_no_duration(said: float | str) -> None:
    for key in ("timeout", "expires_in"):
        assert key in refusal({key: said}).message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"args": "x"}, "$.args"),
        ({"args": [1]}, "$.args[0]"),
        ({"args": ["a\0b"]}, "NUL"),
        ({"args": ["x" * 4097]}, "4096"),
        ({"args": ["x"] * 4097}, "4096"),
        ({"env": {"A": 1}}, "$.env"),
        ({"env": {"1A": "x"}}, "'1A'"),
        ({"env": {"A=B": "x"}}, "'A=B'"),
        ({"env": {"": "x"}}, "env"),
        ({"env": {"A": "\0"}}, "NUL"),
        ({"outputs": "*.png"}, "$.outputs"),
        ({"outputs": ["/etc/*"]}, "absolute"),
        ({"outputs": ["../*"]}, "leaves the project"),
        ({"outputs": [""]}, "no usable path"),
        ({"outputs": ["a\nb"]}, "no usable path"),
        ({"memory_mb": 0}, "$.memory_mb"),
        ({"memory_mb": "512"}, "$.memory_mb"),
        ({"memory_mb": 2**31 + 1}, "$.memory_mb"),
        ({"memory_mb": True}, "$.memory_mb"),
        ({"disk_mb": -1}, "$.disk_mb"),
        ({"cpu_seconds": 0}, "$.cpu_seconds"),
        ({"cpus": 0}, "$.cpus"),
        ({"cpus": 5000}, "$.cpus"),
        ({"priority": 1001}, "$.priority"),
        ({"priority": 0.5}, "$.priority"),
        ({"isolation": 4}, "$.isolation"),
        ({"name": "x" * 257}, "$.name"),
        ({"name": "a\r\nb"}, "name: control"),
        ({"labels": {"a": 1}}, "$.labels"),
        ({"labels": {"a": "\x1b[0m"}}, "labels: control"),
        ({"constraints": {"a\0": "b"}}, "constraints: control"),
        ({"retry": {"max_attempts": 0}}, "$.retry.max_attempts"),
        ({"retry": {"on_worker_loss": "panic"}}, "$.retry.on_worker_loss"),
        ({"retry": 3}, "$.retry"),
        ({"timeout": True}, "$.timeout"),
        ({"timeout": None}, "$.timeout"),
        ({"entrypoint": 1}, "$.entrypoint"),
        ({"entrypoint": "/main.py"}, "absolute"),
        ({"entrypoint": "../main.py"}, "leaves the project"),
        ({"entrypoint": "a/../main.py"}, "leaves the project"),
        ({"entrypoint": ""}, "no usable path"),
        ({"entrypoint": "."}, "no usable path"),
        ({"entrypoint": "main.py\0"}, "no usable path"),
        ({"entrypoint": "noextension"}, "no interpreter is known"),
    ],
)
def test_refusals(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(fields).message


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"entry_point": "main.py"}, "did you mean 'entrypoint'?"),
        ({"memory": 5}, "did you mean 'memory_mb'?"),
        ({"Timeout": 5}, "did you mean 'timeout'?"),
        ({"retry": {"max_attemps": 5}}, "did you mean 'max_attempts'?"),
        ({"gpu": {"requird": True}}, "did you mean 'required'?"),
        ({"interpreter": "pyton3"}, "did you mean 'python3'?"),
        ({"interpreter": "cobol"}, "known: python3, node"),
        ({"entrypoint": "man.py"}, "did you mean 'main.py'?"),
        ({"entrypoint": "zzz"}, "relative to the root"),
        ({"entrypoint": "noextension"}, "say which"),
        ({"zzzzz": 1}, "known keys: entrypoint, interpreter"),
        ({"retry": {"zzzzz": 1}}, "known keys: max_attempts, on_worker_loss"),
    ],
)
def test_hints(fields: dict[str, Any], hint: str) -> None:
    assert hint in refusal(fields).hint


def test_no_entrypoint_at_all() -> None:
    error = refusal({}, {"other.py"})
    assert "main.py, index.js, run.sh" in error.message
    assert "entrypoint" in error.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("environment", "ml"),
        ("requirements", "requests"),
        ("keep", "7d"),
    ],
)
def test_known_keys_that_cannot_be_honoured_are_refused(key: str, value: object) -> None:
    with pytest.raises(UnsupportedError, match=f"'{key}' is not supported") as caught:
        parse(json.dumps({key: value}).encode())
    assert (caught.value.status, caught.value.code) == (400, "unsupported")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gpu", {}),
        ("gpu", False),
        ("gpu", {"required": False}),
        ("gpu", {"required": False, "device_id": 0}),
        ("binds", []),
        ("environment", None),
    ],
)
def test_asking_for_nothing_is_no_reason_to_refuse(key: str, value: object) -> None:
    assert resolved(**{key: value}) == resolved()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b'{"name": "a", "name": "b"}', "'name' twice"),
        (b'{"args": ["\\ud800"]}', "half of a surrogate pair"),
        (b'{"args": "\\ud800"}', "half of a surrogate pair"),
        (b'{"memory_mb": "\\ud800"}', "half of a surrogate pair"),
        (b'{"env": {"A": "a", "A": "b"}}', "'A' twice"),
        (b'{"cpus": NaN}', "NaN is no JSON number"),
        (b'{"cpus": Infinity}', "Infinity is no JSON number"),
        (b'{"cpu_seconds": 1e999}', "too large"),
        (b'{"timeout": -Infinity}', "no JSON number"),
        (b'{"memory_mb": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"memory_mb": ' + b"9" * 4000 + b"}", "$.memory_mb"),
        (b'{"timeout": ' + b"9" * 4000 + b"}", "$.timeout"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"env":' * 30_000, "not valid JSON"),
        (b'{"env":' * 500 + b"1" + b"}" * 500, "$.env"),
        (b'{"name": "\\ud800"}', "surrogate"),
        (b'{"env": {"A": "\\udfff"}}', "surrogate"),
        (b'{"labels": {"\\ud83d": "x"}}', "surrogate"),
        (b'{"\\ud800": 1}', "unknown key"),
        (b'{"' + b"x" * 100_000 + b'": 1}', "unknown key"),
        (b'{"name": "' + b"x" * MAX_BYTES + b'"}', "larger than 256 KiB"),
    ],
)
def test_what_is_no_manifest(raw: bytes, words: str) -> None:
    began = time.monotonic()
    assert words in refusal(raw).message
    assert time.monotonic() - began < 5


def test_a_surrogate_pair_is_text() -> None:
    assert parse(b'{"name": "\\ud83d\\ude00"}').name == "\U0001f600"


def test_looking_for_the_nearest_name_is_bounded() -> None:
    files = {f"{'a' * 150}{n:06}" for n in range(100_000)} | {"a" * 4000 + str(n) for n in range(1000)}
    began = time.monotonic()
    for entrypoint in ("a" * 156, "a" * 4001):
        refusal({"entrypoint": entrypoint}, files)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("path", "canonical_path"), [("a", "a"), ("./a", "a"), ("a//b/./c", "a/b/c"), ("a/", "a"), ("..a/b..", "..a/b..")]
)
def test_safe_paths(path: str, canonical_path: str) -> None:
    assert safe_path(path, "it") == canonical_path


def test_two_ways_to_say_the_same_are_canonically_one() -> None:
    short = canonical(resolved())
    assert json.loads(short)["timeout"] == 300.0
    long = canonical(
        resolved(
            entrypoint="./main.py", interpreter="python", timeout="5m", memory_mb=512, cpus=1, disk_mb=1024, args=[],
            retry={"on_worker_loss": "retry"}, priority=0, gpu=False,
        )
    )  # fmt: skip
    assert long == short
    assert canonical(resolved(labels={"a": "1", "b": "2"})) == canonical(resolved(labels={"b": "2", "a": "1"}))
    assert canonical(resolved(cpus=2)) != short
    assert canonical(resolved(outputs=[])) != short


def test_the_schema_speaks_of_every_key() -> None:
    schema = json.loads(json.dumps(json_schema()))
    manifest = schema["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    assert set(manifest["properties"]) == set(KEYS)
    assert manifest["additionalProperties"] is False


@pytest.mark.parametrize(
    ("gpu", "asked"),
    [
        (True, {"gpus": 1}),
        ({"required": True}, {"gpus": 1}),
        ({"count": 2}, {"gpus": 2}),
        ({"min_vram_gb": 8.5}, {"gpus": 1, "gpu_memory_mb": 8704}),
        ({"device_id": 0}, {"gpus": 1, "gpu_device": 0}),
        ({"cuda_version": "12.2", "count": 1}, {"gpus": 1, "cuda": "12.2"}),
    ],
)
def test_gpus_that_are_asked_for(gpu: object, asked: dict[str, object]) -> None:
    request = resolved(gpu=gpu).request
    names = ("gpus", "gpu_memory_mb", "gpu_device", "cuda")
    nothing = {"gpus": 0, "gpu_memory_mb": 0, "gpu_device": None, "cuda": ""}
    assert {name: getattr(request, name) for name in names} == nothing | asked
    written = canonical(resolved(gpu=gpu))
    assert resolve(parse(written.encode()), FILES, OnWorkerLoss.RETRY).request == request


def test_binds_that_are_asked_for() -> None:
    assert resolved(binds=["b", "a", "b"]).request.binds == ("a", "b")
    assert json.loads(canonical(resolved(binds=["a"])))["binds"] == ["a"]
    assert "binds" not in json.loads(canonical(resolved()))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"gpu": {"device_id": 1, "count": 2}}, "device_id names one gpu"),
        ({"gpu": {"required": False, "count": 1}}, "required is false"),
        ({"gpu": {"cuda_version": "twelve"}}, "'twelve' is no version"),
        ({"gpu": {"required": True, "vram": 1}}, "unknown key 'vram' in gpu"),
        ({"gpu": {"count": 65}}, "<= 64"),
        ({"binds": ["../etc"]}, "'../etc' is no name of a bind"),
        ({"binds": ["Upper"]}, "is no name of a bind"),
        ({"binds": ["a\n"]}, "is no name of a bind"),
        ({"binds": [""]}, "is no name of a bind"),
        ({"binds": "a"}, "Expected `array`"),
    ],
)
def test_equipment_that_cannot_be_asked_for(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadManifestError) as caught:
        resolved(**fields)
    assert words in caught.value.message
