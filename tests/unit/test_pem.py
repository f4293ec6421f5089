"""Certificates in files: what is refused, in one line that says what to do, and how changed files are taken up."""

import asyncio
import contextlib
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from support.authority import Authority
from trusted_pool.compose.system import StartError
from trusted_pool.compose.tls import PemFront, front_of
from trusted_pool.serve.pem import MAX_BYTES, PemError, load

Files = tuple[Path, Path]
LONG = 20.0
DAY = timedelta(days=1)


def now() -> float:
    return time.time()  # noqa: TID251 - certificates are made by the machine's clock


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority) -> Files:
    return authority.issue()


def test_a_certificate_with_its_chain_is_loaded(files: Files) -> None:
    found = load(*files)
    assert found.names == ("localhost", "127.0.0.1")
    assert found.begins.timestamp() < now() < found.ends.timestamp()
    assert found.context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_one_file_may_hold_both(files: Files) -> None:
    certificate, key = files
    both = key.with_name("both.pem")
    both.write_bytes(certificate.read_bytes() + key.read_bytes() + certificate.read_bytes())
    both.chmod(0o600)
    assert load(both, both).digest == load(*files).digest


def encrypted(_: Path, key: Path) -> None:
    secret = generate_private_key(SECP256R1())
    key.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))


def reversed_chain(certificate: Path, _: Path) -> None:
    first, second = certificate.read_text().split("-----END CERTIFICATE-----\n")[:2]
    end = "-----END CERTIFICATE-----\n"
    certificate.write_text(second + end + first + end)


def gone(certificate: Path, _: Path) -> None:
    certificate.unlink()


def a_pipe(_: Path, key: Path) -> None:
    key.unlink()
    os.mkfifo(key, 0o600)


def half(certificate: Path, _: Path) -> None:
    certificate.write_bytes(certificate.read_bytes()[:300])


BROKEN: dict[str, tuple[Callable[[Path, Path], object], tuple[str, ...]]] = {
    "no certificate": (gone, ("pool.pem", "cannot be read: No such file")),
    "half a certificate": (half, ("pool.pem", "holds no PEM certificate")),
    "an empty one": (lambda certificate, _: certificate.write_bytes(b""), ("pool.pem", "holds no PEM certificate")),
    "an endless one": (lambda c, _: c.write_bytes(b"x" * (MAX_BYTES + 1)), ("pool.pem", "larger than")),
    "the chain the wrong way round": (reversed_chain, ("pool.key", "not that of the certificate", "first")),
    "no key": (lambda _, key: key.write_text("-----"), ("pool.key", "holds no PEM private key")),
    "another's key": (lambda _, key: Authority(key.parent).issue("other")[1].replace(key), ("not that of",)),
    "an encrypted key": (encrypted, ("pool.key", "is encrypted", "openssl pkey -in")),
    "a pipe": (a_pipe, ("pool.key", "is no file")),
    "a key for the group": (lambda _, key: key.chmod(0o640), ("read by others; type: chmod 600", "pool.key")),
    "a key for all": (lambda _, key: key.chmod(0o604), ("read by others; type: chmod 600", "pool.key")),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_cannot_be_used_is_one_line(files: Files, how: str) -> None:
    assert load(*files), "the control"
    breaks, words = BROKEN[how]
    breaks(*files)
    with pytest.raises(PemError) as caught:
        load(*files)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(StartError) as refused:
        front_of(*files, None, now)
    assert refused.value.usage


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")
def test_a_key_that_root_lends_to_a_group(files: Files) -> None:
    """A service that is not root reads root's key through its group; others may not."""
    nobody = 65534
    os.chown(files[1], 0, nobody)
    for directory in (files[1].parent, *files[1].parent.parents):
        if directory.stat().st_uid == 0 and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)
    for mode, taken in ((0o640, True), (0o660, False), (0o644, False)):
        files[1].chmod(mode)
        said = _as_user(nobody, files)
        assert (said == "") is taken, said
        assert taken or "type: chmod 640" in said


def _as_user(uid: int, files: Files) -> str:
    """Load as that user, in a child; return what was said against it."""
    ours, theirs = os.pipe()
    if (child := os.fork()) == 0:
        words = b""
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            load(*files)
        except BaseException as error:  # noqa: BLE001 - the parent judges it
            words = str(error).encode()
        os.write(theirs, words)
        os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(ours, "rb") as pipe:
        return pipe.read().decode()


# -- files that change --


class Clock:
    """The machine's time, which a test may move on."""

    ahead_s = 0.0
    asked = 0

    def now(self) -> float:
        self.asked += 1
        return now() + self.ahead_s


class Kept:
    """A front that keeps itself fresh, and what it logs."""

    def __init__(self, files: Files, caplog: pytest.LogCaptureFixture, look_every_s: float = 0.02) -> None:
        caplog.set_level(logging.INFO)
        self.clock = Clock()
        self.front = PemFront(*files, self.clock.now, look_every_s)
        self._log = caplog

    @property
    def serves(self) -> object:
        return self.front.context.current()  # type: ignore[union-attr]

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self._log.records]

    async def until(self, words: str, times: int = 1) -> None:
        while sum(words in line for line in self.lines) < times:
            await self.looks(1)

    async def looks(self, n: int) -> None:
        """Wait until the files were looked at so often; each look asks for the time."""
        seen = self.clock.asked
        while self.clock.asked < seen + n:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)

    def during(self, body: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            keeping = asyncio.create_task(self.front.keep_fresh())
            async with asyncio.timeout(LONG):
                await body()
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping

        asyncio.run(main())


def test_new_files_are_taken_up(authority: Authority, files: Files, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(files, caplog)
    before = kept.serves

    async def body() -> None:
        authority.issue(into=files, names=["other.example"])
        await kept.until("Serving the certificate of other.example")
        assert kept.serves is not before
        assert kept.front.address("0.0.0.0", 9000) == "https://other.example:9000"

    kept.during(body)


def test_files_behind_a_link_that_is_turned_are_taken_up(
    authority: Authority, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = (path.with_name(f"live-{path.name}") for path in files)
    certificate.symlink_to(files[0])
    key.symlink_to(files[1])
    kept = Kept((certificate, key), caplog)

    async def body() -> None:
        for link, target in zip((certificate, key), authority.issue("second", names=["second.example"]), strict=True):
            turned = link.with_suffix(".turned")
            turned.symlink_to(target)
            turned.replace(link)
        await kept.until("Serving the certificate of second.example")

    kept.during(body)


@pytest.mark.parametrize("how", [how for how in BROKEN if how != "the chain the wrong way round"])
def test_broken_files_keep_the_old_certificate_and_are_told_of_once(
    authority: Authority, files: Files, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    kept = Kept(files, caplog)
    before = kept.serves

    async def body() -> None:
        BROKEN[how][0](*files)
        await kept.until("the certificate in use stays")
        await kept.looks(5)
        assert kept.serves is before
        assert len(kept.lines) == 1, kept.lines
        assert BROKEN[how][1][-1] in kept.lines[0]
        kept.front.reread()  # whoever asks is told again
        await kept.until("the certificate in use stays", 2)
        for path in files:
            path.unlink(missing_ok=True)
        authority.issue(into=files)
        await kept.until("Serving the certificate of localhost, 127.0.0.1")
        assert kept.serves is not before

    kept.during(body)


def test_a_key_that_comes_after_its_certificate_is_waited_for(
    authority: Authority, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(files, caplog, look_every_s=0.4)
    certificate, key = authority.issue("second", names=["second.example"])

    async def body() -> None:
        certificate.replace(files[0])
        await kept.looks(1)  # the next is far away
        key.replace(files[1])
        await kept.until("Serving the certificate of second.example")
        assert len(kept.lines) == 1, kept.lines

    kept.during(body)


def test_a_certificate_that_ended_is_not_taken_up_and_one_that_has_not_begun_is_later(
    authority: Authority, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(files, caplog)
    before = kept.serves

    async def body() -> None:
        authority.issue(into=files, begins=-2 * DAY, ends=-DAY)
        await kept.until("ended on")
        assert kept.serves is before
        authority.issue(into=files, begins=DAY, names=["later.example"])
        await kept.until("taken up then")
        assert kept.serves is before
        kept.clock.ahead_s = 1.5 * 86_400
        await kept.until("Serving the certificate of later.example")
        assert kept.serves is not before

    kept.during(body)


def test_a_certificate_that_ends_soon_is_warned_of_daily_until_it_is_renewed(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.issue(ends=6 * DAY)
    kept = Kept(files, caplog)
    assert len([line for line in kept.lines if "ends on" in line and "renew it" in line]) == 1

    async def body() -> None:
        kept.clock.ahead_s = 1.1 * 86_400
        await kept.until("renew it", 2)
        kept.clock.ahead_s = 6.5 * 86_400
        await kept.until("ended on")
        authority.issue(into=files)
        await kept.until("Serving the certificate")
        kept.clock.ahead_s = 8 * 86_400
        await kept.looks(5)
        assert sum("renew it" in line for line in kept.lines) == 3

    kept.during(body)
