"""What has to be said before others than this machine are served: every combination."""

from itertools import product
from pathlib import Path

import pytest

from trusted_pool.compose.exposure import check_exposure
from trusted_pool.compose.system import StartError

DATA = Path("/data")
FACTS = ("tls", "has_keys", "anonymous", "insecure_http")
EVERY = [dict(zip(FACTS, said, strict=True)) for said in product((False, True), repeat=4)]


@pytest.mark.parametrize("facts", EVERY, ids=lambda facts: " ".join(f for f in FACTS if facts[f]) or "nothing")
def test_what_is_missing_is_named_and_nothing_else(facts: dict[str, bool]) -> None:
    missing = []
    if not (facts["has_keys"] or facts["anonymous"]):
        missing.append("--anonymous")
    if not (facts["tls"] or facts["insecure_http"]):
        missing.append("--insecure-http")
    for host in ("127.0.0.1", "localhost", "::1"):
        assert check_exposure(host, **facts, data=DATA) == ""
    for host in ("0.0.0.0", "::", "192.168.1.5", "pool.example.com", ""):
        if not missing:
            warning = check_exposure(host, **facts, data=DATA)
            assert ("without authentication" in warning) is (not facts["has_keys"])
            assert ("without TLS" in warning) is (not facts["tls"])
            assert bool(warning) is (facts["anonymous"] or not facts["tls"] or not facts["has_keys"])
            continue
        with pytest.raises(StartError) as caught:
            check_exposure(host, **facts, data=DATA)
        words = str(caught.value)
        assert caught.value.usage
        assert words.endswith(f"add: {' '.join(missing)}")
        assert ("tpool keys create --owner YOU --role admin --data /data" in words) is ("--anonymous" in missing)
        assert ("--tls-pinned" in words) is ("--insecure-http" in missing)
