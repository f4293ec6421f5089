"""The manifest: what a job's owner says of it. Its fields, defaults and refusals."""

import difflib
import re
from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from trusted_pool.core.job import Retry
from trusted_pool.core.request import Request
from trusted_pool.core.words import OnWorkerLoss
from trusted_pool.protocol import strict
from trusted_pool.protocol.equipment import MAX_BINDS, Gpus, GpuSection, read_binds, read_gpus, write_gpus
from trusted_pool.protocol.errors import BadManifestError, UnsupportedError

MAX_BYTES = 256 * 1024
MAX_DURATION_S = 10**10
MAX_COMPARED = 200  #: characters of a word, and words, in the search for the nearest
#: Interpreter by the entrypoint's extension.
BY_EXTENSION = {
    ".py": "python3",
    ".js": "node",
    ".mjs": "node",
    ".cjs": "node",
    ".sh": "bash",
    ".rb": "ruby",
    ".pl": "perl",
    ".R": "Rscript",
    ".r": "Rscript",
}
#: Entrypoints looked for, in this order, when the manifest names none.
DEFAULT_ENTRYPOINTS = ("main.py", "index.js", "run.sh")
INTERPRETERS = ("python3", "node", "bash", "sh", "ruby", "perl", "Rscript", "exec")
#: Other names for the same interpreter.
ALIASES = {"python": "python3", "nodejs": "node", "javascript": "node", "shell": "sh"}

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?\Z", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}

Text = Annotated[str, Meta(max_length=4096)]
Name = Annotated[str, Meta(max_length=256)]
Duration = Annotated[float, Meta(gt=0)] | Annotated[str, Meta(max_length=32)]
MB = Annotated[int, Meta(ge=1, le=2**31)]


class RetrySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`retry`: how often it may be tried, and what a lost worker means."""

    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    on_worker_loss: OnWorkerLoss | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A manifest as a client writes it. `resolve` fills in what it leaves out."""

    entrypoint: Text | None = None
    interpreter: Name | None = None
    args: Annotated[list[Text], Meta(max_length=4096)] = []
    env: dict[Name, Annotated[str, Meta(max_length=32768)]] = {}
    outputs: Annotated[list[Text], Meta(max_length=1000)] | None = None
    timeout: Duration = 300
    memory_mb: MB = 512
    cpu_seconds: Annotated[float, Meta(gt=0)] | None = None
    cpus: Annotated[float, Meta(gt=0, le=4096)] = 1.0
    disk_mb: MB = 1024
    environment: Name | None = None
    requirements: Text | None = None
    gpu: GpuSection | bool | None = None
    binds: Annotated[list[Name], Meta(max_length=MAX_BINDS)] = []
    name: Name = ""
    labels: dict[Name, Name] = {}
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    constraints: dict[Name, Name] = {}
    retry: RetrySection = RetrySection()
    isolation: Annotated[int, Meta(ge=0, le=3)] = 0
    expires_in: Duration | None = None
    keep: Duration | None = None


KEYS = tuple(f.name for f in msgspec.structs.fields(Manifest))
#: Known keys that this version cannot honour yet. They are refused, never ignored.
NOT_YET = {"environment", "requirements", "keep"}
_SECTIONS = {
    "retry": tuple(f.name for f in msgspec.structs.fields(RetrySection)),
    "gpu": tuple(f.name for f in msgspec.structs.fields(GpuSection)),
}


def duration_s(value: float | str, key: str) -> float:
    """Read a duration: seconds, or a number with ms, s, m, h or d.

    Raises:
        BadManifestError: it is none.
    """
    if isinstance(value, str):
        match = _DURATION.match(value.strip())
        if match is None:
            raise BadManifestError(f"{key}: {value!r} is no duration", hint='write seconds, or "30s", "5m", "2h", "7d"')
        value = float(match[1]) * _UNIT_S[match[2]]
    if not 0 < value < MAX_DURATION_S:
        raise BadManifestError(f"{key} must be more than 0 and less than 10^10 s", hint='write seconds, or "30s", "5m"')
    return float(value)


def parse(raw: bytes) -> Manifest:
    """Read a manifest from JSON.

    Raises:
        BadManifestError: no JSON object, unknown keys (named, with the nearest known one), wrong types.
        UnsupportedError: a known key that this version cannot honour.
    """
    if len(raw) > MAX_BYTES:
        raise BadManifestError(f"the manifest is larger than {MAX_BYTES // 1024} KiB")
    try:
        fields: Any = strict.read(raw)
    except strict.DuplicateKeyError as error:
        raise BadManifestError(f"the manifest has the key {error} twice") from None
    except ValueError as error:
        hint = 'it looks like {"entrypoint": "main.py", "interpreter": "python3"}'
        raise BadManifestError(f"the manifest is not valid JSON: {str(error)[:200]}", hint=hint) from None
    if not isinstance(fields, dict):
        raise BadManifestError("the manifest must be a JSON object", hint='at least: {"entrypoint": "main.py"}')
    _refuse_unknown(fields, KEYS, "the manifest")
    for key, names in _SECTIONS.items():
        if isinstance(fields.get(key), dict):
            _refuse_unknown(fields[key], names, key)
    try:
        manifest = msgspec.convert(fields, Manifest)
        msgspec.json.encode(manifest)
    except msgspec.ValidationError as error:
        raise BadManifestError(f"the manifest is wrong: {error}") from None
    except UnicodeEncodeError:
        raise BadManifestError("the manifest holds half of a surrogate pair, which is no text") from None
    _refuse_unsupported(manifest)
    return manifest


def _refuse_unknown(fields: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in fields:
        if key not in known:
            near = _nearest(key, known)
            hint = f"did you mean {near!r}?" if near else f"known keys: {', '.join(known)}"
            raise BadManifestError(f"unknown key {strict.short(key)} in {where}", hint=hint)


def _nearest(word: str, known: Sequence[str]) -> str | None:
    """Return the known word most like it. Long words and long lists are not compared: that takes seconds."""
    if len(word) > MAX_COMPARED:
        return None
    words = [one for one in islice(known, MAX_COMPARED) if len(one) <= MAX_COMPARED]
    return next(iter(difflib.get_close_matches(word, words, 1)), None)


def _refuse_unsupported(manifest: Manifest) -> None:
    for key in sorted(NOT_YET):
        value = getattr(manifest, key)
        if value not in (None, ""):
            raise UnsupportedError(
                f"{key!r} is not supported by this version", hint=f"leave {key!r} out of the manifest"
            )


class Resolved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A manifest with every default filled in: what the store keeps and the worker runs."""

    entrypoint: str
    interpreter: str
    args: list[str] = []
    env: dict[str, str] = {}
    outputs: list[str] | None = None  #: globs; None: everything new or changed
    timeout_s: float = 300.0
    memory_mb: int = 512
    cpu_seconds: float | None = None
    cpus: float = 1.0
    disk_mb: int = 1024
    gpus: Gpus = Gpus()
    binds: list[str] = []
    isolation: int = 0
    name: str = ""
    labels: dict[str, str] = {}
    priority: int = 0
    constraints: dict[str, str] = {}
    max_attempts: int = 3
    on_worker_loss: OnWorkerLoss = OnWorkerLoss.RETRY
    expires_in_s: float | None = None

    @property
    def request(self) -> Request:
        """What it needs of a worker."""
        return Request(
            interpreter=self.interpreter,
            memory_mb=self.memory_mb,
            cpus=self.cpus,
            disk_mb=self.disk_mb,
            gpus=self.gpus.count,
            gpu_memory_mb=self.gpus.memory_mb,
            gpu_device=self.gpus.device,
            cuda=self.gpus.cuda,
            binds=tuple(self.binds),
            isolation=self.isolation,
            labels=self.constraints,
        )

    @property
    def retry(self) -> Retry:
        """Its retry policy."""
        return Retry(max_attempts=self.max_attempts, on_worker_loss=self.on_worker_loss)


def safe_path(path: str, what: str) -> str:
    """Return a relative path inside `/job` in canonical form, without a leading `./`.

    Raises:
        BadManifestError: absolute, with `..`, empty, or with control characters.
    """
    parts = [p for p in path.split("/") if p not in ("", ".")]
    if path.startswith("/"):
        raise BadManifestError(f"{what} {path!r} is absolute", hint="name it relative to the project's root")
    if ".." in parts:
        raise BadManifestError(f"{what} {path!r} leaves the project", hint="paths must stay inside it")
    if not parts or _CONTROL.search(path):
        raise BadManifestError(f"{what} {path!r} is no usable path")
    return "/".join(parts)


def resolve(manifest: Manifest, names: set[str], default_loss: OnWorkerLoss) -> Resolved:
    """Fill in what the manifest leaves out, knowing the names of the job's files.

    Raises:
        BadManifestError: no entrypoint, or one that is not among the files, or no interpreter for it.
    """
    entrypoint = _entrypoint(manifest, names)
    interpreter = _interpreter(manifest, entrypoint)
    _refuse_characters(manifest)
    outputs = manifest.outputs
    return Resolved(
        entrypoint=entrypoint,
        interpreter=interpreter,
        args=manifest.args,
        env=manifest.env,
        outputs=None if outputs is None else [_glob(g) for g in outputs],
        timeout_s=duration_s(manifest.timeout, "timeout"),
        memory_mb=manifest.memory_mb,
        cpu_seconds=manifest.cpu_seconds,
        cpus=manifest.cpus,
        disk_mb=manifest.disk_mb,
        gpus=read_gpus(manifest.gpu),
        binds=read_binds(manifest.binds),
        isolation=manifest.isolation,
        name=manifest.name,
        labels=manifest.labels,
        priority=manifest.priority,
        constraints=manifest.constraints,
        max_attempts=manifest.retry.max_attempts,
        on_worker_loss=manifest.retry.on_worker_loss or default_loss,
        expires_in_s=None if manifest.expires_in is None else duration_s(manifest.expires_in, "expires_in"),
    )


def _refuse_characters(manifest: Manifest) -> None:
    """Refuse what cannot be an argument or a variable of a process, or would break a line where it is shown."""
    for key, value in manifest.env.items():
        if not _ENV_NAME.match(key):
            raise BadManifestError(f"env: {key!r} is no name of an environment variable")
        if "\0" in value:
            raise BadManifestError(f"env: the value of {key!r} holds a NUL character")
    for field in ("name", "labels", "constraints"):
        shown = getattr(manifest, field)
        if any(_CONTROL.search(text) for text in ([shown] if isinstance(shown, str) else [*shown, *shown.values()])):
            raise BadManifestError(f"{field}: control characters are not allowed")
    if any("\0" in arg for arg in manifest.args):
        raise BadManifestError("args: an argument holds a NUL character")


def _glob(pattern: str) -> str:
    directory = pattern.endswith("/")
    return safe_path(pattern, "outputs:") + ("/" if directory else "")


def _entrypoint(manifest: Manifest, names: set[str]) -> str:
    if manifest.entrypoint is None:
        for name in DEFAULT_ENTRYPOINTS:
            if name in names:
                return name
        raise BadManifestError(
            "the manifest names no entrypoint and the files hold none of " + ", ".join(DEFAULT_ENTRYPOINTS),
            hint='say which file to run: {"entrypoint": "path/to/program.py"}',
        )
    entrypoint = safe_path(manifest.entrypoint, "entrypoint")
    if entrypoint not in names:
        near = _nearest(entrypoint, sorted(names))
        hint = f"did you mean {near!r}?" if near else "the path is relative to the root of the files"
        raise BadManifestError(f"entrypoint {strict.short(entrypoint)} is not among the files", hint=hint)
    return entrypoint


def _interpreter(manifest: Manifest, entrypoint: str) -> str:
    if manifest.interpreter is not None:
        name = ALIASES.get(manifest.interpreter, manifest.interpreter)
        if name not in INTERPRETERS:
            near = _nearest(name, INTERPRETERS)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(INTERPRETERS)}"
            raise BadManifestError(f"unknown interpreter {strict.short(manifest.interpreter)}", hint=hint)
        return name
    for extension, name in BY_EXTENSION.items():
        if entrypoint.endswith(extension):
            return name
    raise BadManifestError(
        f"no interpreter is known for {entrypoint!r}",
        hint=f'say which: {{"interpreter": "python3"}}; one of {", ".join(INTERPRETERS)}',
    )


def canonical(resolved: Resolved) -> str:
    """Write a resolved manifest as a manifest again: JSON with every default filled in, keys sorted.

    What the store keeps, the worker is sent and an idempotency key compares.
    """
    fields: dict[str, Any] = {
        "entrypoint": resolved.entrypoint,
        "interpreter": resolved.interpreter,
        "args": resolved.args,
        "env": resolved.env,
        "timeout": resolved.timeout_s,
        "memory_mb": resolved.memory_mb,
        "cpus": resolved.cpus,
        "disk_mb": resolved.disk_mb,
        "name": resolved.name,
        "labels": resolved.labels,
        "priority": resolved.priority,
        "constraints": resolved.constraints,
        "isolation": resolved.isolation,
        "retry": {"max_attempts": resolved.max_attempts, "on_worker_loss": resolved.on_worker_loss.value},
    }
    if resolved.outputs is not None:
        fields["outputs"] = resolved.outputs
    if resolved.gpus.count:
        fields["gpu"] = write_gpus(resolved.gpus)
    if resolved.binds:
        fields["binds"] = resolved.binds
    if resolved.cpu_seconds is not None:
        fields["cpu_seconds"] = resolved.cpu_seconds
    if resolved.expires_in_s is not None:
        fields["expires_in"] = resolved.expires_in_s
    return msgspec.json.encode(fields, order="sorted").decode()


def json_schema() -> dict[str, Any]:
    """Return the manifest's JSON Schema (draft 2020-12)."""
    schema = msgspec.json.schema(Manifest)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Trusted Pool manifest", **schema}
