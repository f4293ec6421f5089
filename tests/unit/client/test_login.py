"""`tpool login`, `logout`, `whoami`, and the file between them: who is sent which key, and who can read it."""

import io
import json
import os
import pty
import re
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from trusted_pool.cli.main import run
from trusted_pool.client import ClientError, PoolClient, credentials
from trusted_pool.client.credentials import Login
from trusted_pool.client.settings import from_environment

KEY = "tpool_the-key-of-anna"
OTHER = "tpool_another-key"
WHO = {"owner": "anna", "role": "submitter", "scope": "own", "key_id": "key-1", "expires_at": None}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in [name for name in os.environ if name.startswith(("TRUSTED_POOL_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def kept(home: Path) -> Path:
    return home / ".config" / "trusted-pool" / "credentials.json"


@pytest.fixture
def pool(pool_server: Any, kit: Any) -> Any:
    """A pool that knows two keys."""

    def whoami(asked: Any) -> Any:
        owners = {f"Bearer {KEY}": "anna", f"Bearer {OTHER}": "ben"}
        owner = owners.get(asked.headers.get("authorization", ""))
        if owner is None:
            return kit.error(401, "bad_key", "this pool does not know that API key", hint="log in: tpool login")
        return kit.Answer({**WHO, "owner": owner})

    pool_server.routes["/whoami"] = whoami
    return pool_server


class Typed:
    """What somebody pipes into a command."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, *argv: str, stdin: str = "", code: int = 0) -> str:
        """Run a command; return all that it said, in which there is never a key."""
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        assert run(list(argv)) == code
        out, err = self._capfd.readouterr()
        assert KEY not in out + err
        assert OTHER not in out + err
        assert code == 0 or err.count("\n") == 1, err
        return out + err


@pytest.fixture
def tpool(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Typed:
    return Typed(monkeypatch, capfd)


def shown(pool: Any) -> list[str | None]:
    """Return what each request showed."""
    return [asked.headers.get("authorization") for asked in pool.asked]


def test_a_login_is_checked_kept_and_used_until_the_logout(tpool: Typed, pool: Any, kept: Path) -> None:
    said = tpool("login", "--addr", pool.address + "/", stdin=f" {KEY}\n")
    assert f"logged in to {pool.address} as anna: submitter, own jobs" in said
    assert str(kept) in said
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert list(kept.parent.iterdir()) == [kept]
    said = tpool("whoami")  # no address: that of the login is meant
    assert "anna: submitter, own jobs" in said
    assert pool.address in said
    assert json.loads(tpool("whoami", "--json"))["whoami"]["key_id"] == "key-1"
    with PoolClient() as client:  # the library means the same
        assert client.whoami().owner == "anna"
    assert shown(pool) == [f"Bearer {KEY}"] * 4
    assert f"logged out of {pool.address}" in tpool("logout")
    assert KEY not in kept.read_text()
    assert "no key is kept" in tpool("logout", "--addr", pool.address)
    tpool("whoami", "--addr", pool.address, code=3)
    assert shown(pool)[-1] is None


def test_a_key_that_the_pool_refuses_is_not_kept(tpool: Typed, pool: Any, kept: Path) -> None:
    said = tpool("login", "--addr", pool.address, "--token-stdin", stdin="tpool_wrong\n", code=3)
    assert "does not know that API key" in said
    assert not kept.exists()
    tpool("login", "--addr", pool.address, stdin=KEY)
    before = kept.read_bytes()
    tpool("login", "--addr", pool.address, stdin="tpool_wrong\n", code=3)
    assert kept.read_bytes() == before


@pytest.mark.parametrize("key", ["", "\n", "two words", "tpool_ü"])
def test_what_is_no_key_is_not_sent(tpool: Typed, pool: Any, key: str) -> None:
    assert "copy the whole key" in tpool("login", "--addr", pool.address, stdin=key, code=2)
    assert pool.asked == []


def test_a_pool_without_whoami_is_said(tpool: Typed, pool_server: Any, kept: Path) -> None:
    for words in (("login",), ("whoami",)):
        said = tpool(*words, "--addr", pool_server.address, stdin=KEY, code=125)
        assert "does not know whoami" in said
        assert "TRUSTED_POOL_ADDR" in said
    assert not kept.exists()


def test_a_pool_that_is_away_is_said(tpool: Typed, kept: Path) -> None:
    assert "Connection refused" in tpool("login", "--addr", "http://127.0.0.1:1", stdin=KEY, code=125)
    assert not kept.exists()


def test_the_environment_wins_and_says_so(tpool: Typed, pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tpool("login", "--addr", pool.address, stdin=KEY)
    monkeypatch.setenv("TRUSTED_POOL_TOKEN", OTHER)
    assert "ben:" in tpool("whoami")
    monkeypatch.setenv("TRUSTED_POOL_ADDR", pool.address)
    said = tpool("login", stdin=KEY)
    assert "anna" in said
    assert "TRUSTED_POOL_TOKEN is set and wins over the key" in said
    assert "TRUSTED_POOL_ADDR is set and wins over the address" in said
    monkeypatch.delenv("TRUSTED_POOL_TOKEN")
    assert "anna:" in tpool("whoami")


def test_a_kept_key_goes_to_its_own_address_only(tpool: Typed, pool: Any) -> None:
    """Not even to another name of the same place."""
    tpool("login", "--addr", pool.address, stdin=KEY)
    elsewhere = pool.address.replace("127.0.0.1", "localhost")
    tpool("whoami", "--addr", elsewhere, code=3)
    assert shown(pool) == [f"Bearer {KEY}", None]
    tpool("login", "--addr", elsewhere, stdin=OTHER)
    assert "ben:" in tpool("whoami")
    assert "anna:" in tpool("whoami", "--addr", pool.address)
    tpool("logout", "--addr", elsewhere)
    assert "anna:" in tpool("whoami", "--addr", pool.address)
    tpool("login", "--addr", elsewhere, stdin=OTHER)
    assert tpool("logout", "--all").count("logged out of") == 2
    assert "no pool is named" in tpool("logout", code=2)


def test_a_kept_file_that_others_can_read_is_refused(
    tpool: Typed, pool: Any, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tpool("login", "--addr", pool.address, stdin=KEY)
    for mode in (0o640, 0o604, 0o620):
        kept.chmod(mode)
        for words in (("whoami",), ("pool",), ("logout",), ("login", "--addr", pool.address)):
            assert f"type: chmod 600 {kept}" in tpool(*words, stdin=KEY, code=2)
    assert len(pool.asked) == 1
    monkeypatch.setenv("TRUSTED_POOL_TOKEN", OTHER)
    assert "chmod 600" in tpool("whoami", code=2)  # that somebody may have read it is said all the same
    kept.chmod(0o600)
    assert "ben:" in tpool("whoami")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pools": {"x": 1}}', '{"pools": {"x": {"token": 1}}}'])
def test_a_kept_file_that_is_none_is_said_and_left(tpool: Typed, pool: Any, kept: Path, text: str) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_text(text + KEY if text == "{" else text)
    kept.chmod(0o600)
    before = kept.read_bytes()
    for words in (("whoami",), ("login", "--addr", pool.address), ("logout", "--all")):
        assert f"rm {kept}" in tpool(*words, stdin=KEY, code=2)
    assert kept.read_bytes() == before


def test_a_place_that_cannot_be_written_is_said(tpool: Typed, pool: Any, home: Path) -> None:
    (home / ".config").write_text("a file")
    said = tpool("login", "--addr", pool.address, stdin=KEY, code=2)
    assert "cannot be written" in said
    assert "TRUSTED_POOL_TOKEN" in said


def test_the_directory_is_closed_to_others(tpool: Typed, pool: Any, kept: Path) -> None:
    kept.parent.mkdir(parents=True, mode=0o755)
    kept.parent.chmod(0o777)
    tpool("login", "--addr", pool.address, stdin=KEY)
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


def test_xdg_config_home_says_where(tpool: Typed, pool: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "else"))
    tpool("login", "--addr", pool.address, stdin=KEY)
    assert (home / "else" / "trusted-pool" / "credentials.json").exists()
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # not to be used, by that standard
    assert credentials.path_of(os.environ) == home / ".config" / "trusted-pool" / "credentials.json"


def test_an_authority_and_the_word_for_plain_http_are_kept_with_the_key(
    tpool: Typed, pool: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abroad = pool.address.replace("127.0.0.1", "0.0.0.0")  # this machine, though the client does not take it for that
    said = tpool("login", "--addr", abroad, stdin=KEY, code=2)
    assert "tpool login --insecure-http" in said
    assert pool.asked == []
    monkeypatch.chdir(home)
    tpool("login", "--addr", abroad, "--insecure-http", "--cacert", "ca.pem", stdin=KEY)
    assert "anna:" in tpool("whoami")
    settings = from_environment(os.environ)
    assert (settings.insecure_http, settings.cacert) == (True, str(home / "ca.pem"))
    assert from_environment({**os.environ, "TRUSTED_POOL_CACERT": "/x.pem"}).cacert == "/x.pem"
    tpool("login", "--addr", pool.address, stdin=OTHER)
    assert not from_environment(os.environ).insecure_http


def test_logins_at_once_lose_nothing(kept: Path) -> None:
    def login(n: int) -> None:
        credentials.keep(os.environ, f"http://pool{n}", Login(token=f"key{n}"))

    threads = [threading.Thread(target=login, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(credentials.load(os.environ).pools) == 12
    assert list(kept.parent.iterdir()) == [kept]


def test_a_write_that_fails_leaves_the_old_file(
    kept: Path, monkeypatch: pytest.MonkeyPatch, tpool: Typed, pool: Any
) -> None:
    tpool("login", "--addr", pool.address, stdin=KEY)
    before = kept.read_bytes()

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ClientError, match="No space left"):
        credentials.keep(os.environ, "http://other", Login(token=OTHER))
    assert kept.read_bytes() == before
    assert list(kept.parent.iterdir()) == [kept]


# -- a terminal --


def at_a_terminal(*argv: str, typed: str) -> tuple[int, str]:
    """Run a command on a terminal, type when it asks, and return its code and all that was to be seen."""
    child, ours = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "trusted_pool.cli", *argv])  # noqa: S606 - none is wanted
    seen, said, deadline = b"", False, time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # it has ended
            break
        seen += piece
        if not said and re.search(rb"API key for .*: ", seen):
            os.write(ours, typed.encode())
            said = True
    os.close(ours)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), seen.decode()


def test_at_a_terminal_the_key_is_asked_for_and_not_shown(pool: Any, kept: Path) -> None:
    code, seen = at_a_terminal("login", "--addr", pool.address, typed=f"{KEY}\n")
    assert code == 0
    assert f"API key for {pool.address}: " in seen
    assert "logged in to" in seen
    assert KEY not in seen
    assert KEY in kept.read_text()


@pytest.mark.parametrize(("typed", "code"), [("\x03", 130), ("\x04", 2), ("\n", 2)])
def test_at_a_terminal_one_may_think_better_of_it(pool: Any, kept: Path, typed: str, code: int) -> None:
    ended, seen = at_a_terminal("login", "--addr", pool.address, typed=typed)
    assert ended == code, seen
    assert "Traceback" not in seen
    assert pool.asked == []
    assert not kept.exists()


def test_nothing_is_asked_where_the_key_may_not_be_sent(kept: Path) -> None:
    code, seen = at_a_terminal("login", "--addr", "http://pool.example.com:9000", typed="")
    assert code == 2
    assert "API key for" not in seen
    assert "is not sent" in seen
    assert not kept.exists()


def test_whoami_and_login_start_as_lightly_as_other_verbs() -> None:
    code = "import sys, trusted_pool.cli.login; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("litestar", "sqlalchemy", "uvicorn", "aiohttp", "getpass", "trusted_pool.protocol.certificates"):
        assert f"'{heavy}'" not in done.stdout
