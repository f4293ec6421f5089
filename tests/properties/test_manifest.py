"""The manifest, for all manifests and for any bytes."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.core.words import OnWorkerLoss
from trusted_pool.protocol.errors import PoolError
from trusted_pool.protocol.manifest import KEYS, canonical, parse, resolve

FILES = {"main.py", "src/a.js", "b"}

plain = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
duration = st.floats(0.001, 1e9) | st.integers(1, 10**9) | st.from_regex(r"\A[1-9][0-9]{0,3}(ms|s|m|h)?\Z")
manifests = st.fixed_dictionaries(
    {},
    optional={
        "entrypoint": st.sampled_from(["main.py", "./src//a.js"]),
        "interpreter": st.sampled_from(["python", "node", "exec"]),
        "args": st.lists(text, max_size=4),
        "env": st.dictionaries(st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,8}\Z"), text, max_size=4),
        "outputs": st.none() | st.lists(st.sampled_from(["*", "a/", "./b/**", "x//y"]), max_size=3),
        "timeout": duration,
        "memory_mb": st.integers(1, 2**31),
        "cpu_seconds": st.none() | st.floats(0.001, 1e9),
        "cpus": st.floats(0.001, 4096) | st.integers(1, 4096),
        "disk_mb": st.integers(1, 2**31),
        "name": plain,
        "labels": st.dictionaries(plain, plain, max_size=3),
        "priority": st.integers(-1000, 1000),
        "constraints": st.dictionaries(plain, plain, max_size=3),
        "retry": st.fixed_dictionaries(
            {},
            optional={"max_attempts": st.integers(1, 100), "on_worker_loss": st.sampled_from([*OnWorkerLoss, None])},
        ),
        "isolation": st.integers(0, 3),
        "expires_in": st.none() | duration,
        "gpu": st.booleans()
        | st.fixed_dictionaries(
            {},
            optional={
                "required": st.sampled_from([True, None]),
                "count": st.integers(0, 64),
                "min_vram_gb": st.floats(0, 2**20) | st.integers(0, 2**20),
                "cuda_version": st.from_regex(r"\A[0-9]{1,2}(\.[0-9])?\Z"),
            },
        ),
        "binds": st.lists(st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,9}\Z"), max_size=4),
    },
)
losses = st.sampled_from(list(OnWorkerLoss))
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=3),
)


@given(manifests, losses, losses)
def test_a_canonical_manifest_resolves_to_itself(
    fields: dict[str, Any], loss: OnWorkerLoss, other: OnWorkerLoss
) -> None:
    first = resolve(parse(json.dumps(fields).encode()), FILES, loss)
    written = canonical(first)
    second = resolve(parse(written.encode()), FILES, other)
    assert second == first
    assert canonical(second) == written


@given(st.dictionaries(st.sampled_from(KEYS), anything, max_size=4), losses)
def test_any_values_give_a_manifest_or_a_pool_error(fields: dict[str, Any], loss: OnWorkerLoss) -> None:
    try:
        kept = canonical(resolve(parse(json.dumps(fields).encode()), FILES, loss))
    except PoolError as error:
        assert error.status == 400  # noqa: PT017 - the other outcome is as good
        json.dumps(error.message + error.hint).encode()
    else:
        assert resolve(parse(kept.encode()), FILES, loss).entrypoint in FILES


@given(st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_manifest_or_a_pool_error(raw: bytes) -> None:
    try:
        manifest = parse(raw)
    except PoolError as error:
        assert error.status == 400  # noqa: PT017 - the other outcome is as good
    else:
        assert isinstance(json.loads(raw), dict)
        assert manifest == parse(raw)
