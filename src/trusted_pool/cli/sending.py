"""From what was typed to a submit: the manifest and the files."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from trusted_pool.cli import screen
from trusted_pool.client.errors import ClientError, PackError
from trusted_pool.client.pack import pack
from trusted_pool.client.upload import Upload, is_archive, of_pack, open_file

_JOB_FILE = "job.json"
_UNITS = {"": 1, "k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What was typed about a job."""

    source: Path
    args: list[str] | None = None  #: None: none were typed
    manifest: str | None = None  #: a file's name, or JSON
    fields: list[str] = []
    env: list[str] = []
    name: str | None = None
    timeout: str | None = None
    memory: str | None = None
    interpreter: str | None = None
    entrypoint: str | None = None


class Sending(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent."""

    uploads: list[Upload]
    manifest: dict[str, Any] | None  #: None: the pool reads job.json, or takes its defaults
    words: str  #: what was packed, for people


@contextmanager
def prepared(wish: Wish) -> Iterator[Sending]:
    """Read the manifest and open or pack the files; they are closed in the end.

    Raises:
        PackError: the source cannot be sent.
        ClientError: what was typed makes no manifest.
    """
    source = wish.source
    if not source.exists():
        raise PackError(f"{source} does not exist", hint="name a directory, a program or an archive")
    typed = _typed(wish)
    if not source.is_dir():
        upload = open_file(source)
        manifest = typed
        if not is_archive(source):
            manifest = {"entrypoint": source.name, **(typed or {})}
        try:
            yield Sending(uploads=[upload], manifest=manifest, words=f"{source.name}, {screen.size(upload.size)}")
        finally:
            upload.file.close()
        return
    if typed is not None and wish.manifest is None and (source / _JOB_FILE).is_file():
        # The pool takes one manifest, the one that is sent: so what was typed is laid over job.json here.
        typed = _laid_over(_object((source / _JOB_FILE).read_bytes(), str(source / _JOB_FILE)), typed)
    packed = pack(source)
    try:
        words = f"{screen.plural(packed.n_files, 'file')}, {screen.size(packed.size)} packed"
        yield Sending(uploads=[of_pack(packed)], manifest=typed, words=words)
    finally:
        packed.file.close()


def _typed(wish: Wish) -> dict[str, Any] | None:
    fields: dict[str, Any] = {} if wish.manifest is None else _manifest(wish.manifest)
    for field in wish.fields:
        key, _, value = _pair(field, "-m", "KEY=VALUE").partition("=")
        _put(fields, key, _value(value))
    for variable in wish.env:
        key, _, value = _pair(variable, "--env", "NAME=VALUE").partition("=")
        env = fields.setdefault("env", {})
        if not isinstance(env, dict):
            raise _wrong("the manifest's env is no object", 'write it like {"env": {"NAME": "VALUE"}}')
        env[key] = value
    plain = {
        "name": wish.name,
        "timeout": wish.timeout,
        "interpreter": wish.interpreter,
        "entrypoint": wish.entrypoint,
        "memory_mb": None if wish.memory is None else _megabytes(wish.memory),
        "args": wish.args or None,
    }
    fields.update({key: value for key, value in plain.items() if value is not None})
    return fields if fields or wish.manifest is not None else None


def _wrong(message: str, hint: str) -> ClientError:
    return ClientError(message, code="usage", hint=hint)


def _pair(text: str, option: str, form: str) -> str:
    if not text.partition("=")[0] or "=" not in text:
        raise _wrong(f"{option} {text!r} has no value", f"write it like {option} {form}")
    return text


def _put(fields: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        fields = fields.setdefault(part, {})
        if not isinstance(fields, dict):
            raise _wrong(f"-m {key}: {part} is no object", "a dot leads into an object, as in retry.max_attempts=1")
    fields[last] = value


def _value(text: str) -> Any:
    """Read a value as JSON where it is JSON, else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _manifest(text: str) -> dict[str, Any]:
    if text.lstrip().startswith("{"):
        return _object(text.encode(), "--manifest")
    path = Path(text)
    try:
        return _object(path.read_bytes(), str(path))
    except OSError as error:
        raise _wrong(
            f"cannot read the manifest {text}: {error.strerror}", "--manifest takes a file or a JSON object"
        ) from None


def _object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _wrong(f"{what} is not valid JSON: {error}", 'it looks like {"entrypoint": "main.py"}') from None
    if not isinstance(fields, dict):
        raise _wrong(f"{what} is no JSON object", 'it looks like {"entrypoint": "main.py"}')
    return fields


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _laid_over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _megabytes(text: str) -> int:
    """Read a size: a number of MB, or with K, M, G or T."""
    number = text.strip().lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if number[-1:] in _UNITS and not number[-1:].isdigit() else ""
    try:
        amount = float(number[: len(number) - len(unit)]) * _UNITS[unit]
        whole = int(amount) if amount == int(amount) else int(amount) + 1
    except (ValueError, OverflowError):
        whole = 0
    if whole < 1:
        raise _wrong(f"--memory {text!r} is no size", "write it like 512M or 2G; a bare number is MB")
    return whole
