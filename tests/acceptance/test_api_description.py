"""The API is what its description says: requests made from the description, right ones and wrong ones, by schemathesis.

No answer is a 5xx, none has a status, a type or a form that is not described, with a key and without one.
"""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support.real_pool import RealPool
from trusted_pool.protocol.identity import to_path

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "ignored_auth",
)
LEAVES = {"main.py": b"print('hi'); open('out.txt', 'w').write('x')"}

pytestmark = pytest.mark.usefixtures("bwrap")


def schemathesis(pool: RealPool, home: Path, config: str, *words: str) -> subprocess.CompletedProcess[str]:
    home.mkdir()
    (home / "schemathesis.toml").write_text(config)
    command = [Path(sys.executable).with_name("schemathesis"), "--config-file", home / "schemathesis.toml", "run"]
    command += [f"{pool.url}/openapi.json", "--phases", "examples,coverage,fuzzing", "--max-examples", "6"]
    command += ["--checks", ",".join(CHECKS), "--continue-on-failure", "--no-color", "--request-timeout", "30", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=home, env=os.environ, timeout=150)


@pytest.mark.timeout(300)
def test_every_answer_is_as_described(tmp_path: Path) -> None:
    with RealPool(tmp_path / "pool", [1]) as pool:
        job_id = pool.submit(LEAVES)
        pool.wait(job_id)
        key = pool.http.post("/keys", json={"owner": "local", "role": "admin"}).json()["token"]
        names = {"job_id": job_id, "path": "out.txt", "worker": to_path(pool.workers[0].worker_id)}
        known = "[parameters]\n" + "".join(f'{name} = "{value}"\n' for name, value in names.items())
        for name, config, words in (
            ("what there is", known, ("-H", f"Authorization: Bearer {key}")),
            ("what there is not", "", ("-H", f"Authorization: Bearer {key}")),
            ("without a key", known, ()),
        ):
            done = schemathesis(pool, tmp_path / name.replace(" ", "-"), config, *words)
            assert done.returncode == 0, (name, done.stdout[-6000:], done.stderr[-2000:])
            assert " passed" in done.stdout, name
        status = httpx.get(f"{pool.url}/status/{job_id}", headers={"Authorization": f"Bearer {key}"}, trust_env=False)
        assert status.json()["state"] == "completed"
        assert "Traceback" not in pool.coordinator.log
        assert "ERROR" not in pool.coordinator.log


def test_the_control_a_wrong_description_is_found(tmp_path: Path) -> None:
    """The same run over a description that promises too much fails."""
    with RealPool(tmp_path / "pool", ()) as pool:
        document = pool.http.get("/openapi.json").json()
        del document["paths"]["/status/{job_id}"]["get"]["responses"]["404"]
        document["paths"] = {"/status/{job_id}": document["paths"]["/status/{job_id}"]}
        (tmp_path / "openapi.json").write_bytes(httpx.Response(200, json=document).content)
        command = [Path(sys.executable).with_name("schemathesis"), "run", tmp_path / "openapi.json", "--url", pool.url]
        command += ["--checks", ",".join(CHECKS), "--max-examples", "3", "--no-color"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=100)
        assert done.returncode == 1
        assert "Undocumented" in done.stdout
