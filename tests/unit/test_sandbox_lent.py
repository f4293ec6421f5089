"""What a worker's operator lends: which directories can be, and which GPUs are found."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.arena import CC, NVML
from support.real_pool import run_tpool
from trusted_pool.core.request import Gpu
from trusted_pool.ports.sandbox import SandboxError
from trusted_pool.sandbox import binds, gpus, policy, seccomp
from trusted_pool.sandbox.bubblewrap import BubblewrapSandbox
from trusted_pool.sandbox.lent import Equipment, Lent


def test_real_directories_are_found_once(tmp_path: Path):
    (tmp_path / "v2").mkdir()
    (tmp_path / "latest").symlink_to("v2")
    found = binds.resolve({"imagenet": tmp_path / "latest", "also": tmp_path / "v2"}, [tmp_path / "private"])
    assert found == {"also": str(tmp_path / "v2"), "imagenet": str(tmp_path / "v2")}
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("/etc")
    assert found["imagenet"] == str(tmp_path / "v2")


@pytest.mark.parametrize(
    ("name", "path", "words"),
    [
        ("a", "relative/path", "not absolute"),
        ("a", "~/data", "not absolute"),
        ("a", "/nowhere/at/all", "No such file"),
        ("a", "/usr/bin/env", "no directory"),
        ("Imagenet", "/usr/share", "no name of a bind"),
        ("../x", "/usr/share", "no name of a bind"),
        ("", "/usr/share", "no name of a bind"),
        ("a" * 64, "/usr/share", "no name of a bind"),
        ("a", "/", "no job may see"),
        ("a", "/usr/..", "no job may see"),
        ("a", "/etc", "no job may see"),
        ("a", "/etc/ssl", "no job may see"),
        ("a", "/proc/self", "no job may see"),
        ("a", "/sys", "no job may see"),
        ("a", "/dev", "no job may see"),
        ("a", "/dev/shm", "no job may see"),
        ("a", "/run", "no job may see"),
        ("a", "/var/run", "no job may see"),
    ],
)
def test_directories_that_cannot_be_lent(name: str, path: str, words: str):
    with pytest.raises(SandboxError) as caught:
        binds.resolve({name: Path(path)}, [])
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"--bind {name}={path}: ")


def test_nothing_of_the_workers_own_can_be_lent(tmp_path: Path):
    for place in ("data", "data/sandbox", "keys", "other/deep"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "link").symlink_to("data")
    private = [tmp_path / "link", tmp_path / "keys"]
    for path in (tmp_path, tmp_path / "data", tmp_path / "data" / "sandbox", tmp_path / "keys", tmp_path / "link"):
        with pytest.raises(SandboxError, match="no job may see"):
            binds.resolve({"a": path}, private)
    assert binds.resolve({"a": tmp_path / "other"}, private)


def test_names_that_would_have_one_variable_are_refused():
    with pytest.raises(SandboxError, match="have the same variable TRUSTED_POOL_BIND_A_B"):
        binds.resolve({"a-b": Path("/usr/share"), "a.b": Path("/usr/lib")}, [])


def test_a_directory_that_jobs_could_not_read_is_told_at_the_start(tmp_path: Path):
    if os.geteuid() != 0:
        pytest.skip("needs to be root, to be somebody who may read it")
    place = tmp_path / "shut"
    place.mkdir(mode=0o700)

    async def start() -> None:
        sandbox = BubblewrapSandbox(tmp_path / "w", slots=1, equipment=Equipment(binds={"shut": place}))
        try:
            await sandbox.start()
        finally:
            await sandbox.close()

    with pytest.raises(SandboxError, match=f"jobs could not read it .*; chmod o\\+rx {place}"):
        asyncio.run(start())
    place.chmod(0o755)
    asyncio.run(start())


def test_what_is_lent_comes_into_the_arguments_and_nothing_else_does():
    view = policy.View(system=(policy.Entry("/usr"),), etc="/data/etc")
    limits = policy.Limits(memory_bytes=2**28, disk_bytes=2**28, timeout_s=9)
    plain = policy.options(view, "/job-1", limits, {})
    lent = policy.Equipment(binds=[("/srv/x", "/binds/x")], devices=[("/dev/nvidia0", "/dev/nvidia0")])
    with_all = policy.options(view, "/job-1", limits, {}, lent)
    added = ["--dev-bind", "/dev/nvidia0", "/dev/nvidia0", "--ro-bind", "/srv/x", "/binds/x"]
    assert [word for word in with_all if word not in plain] == [w for w in added if w not in plain]
    order = [with_all.index("--dev"), with_all.index("--dev-bind"), with_all.index("--remount-ro")]
    assert order == sorted(order)
    assert with_all.index("/binds/x") < with_all.index("--bind")


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for NVIDIA's library: three GPUs, in an order of its own. There was no real GPU to test with."""
    if shutil.which("cc") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("cc is not installed")
    place = tmp_path_factory.mktemp("nvml")
    (place / "nvml.c").write_text(NVML)
    subprocess.run([*CC, "-o", place / "nvml.so", place / "nvml.c"], check=True, timeout=60)
    return place / "nvml.so"


def files(place: Path, *names: str) -> Path:
    place.mkdir()
    for name in names:
        (place / name).touch()
    return place


def test_gpus_are_what_the_library_and_the_device_files_both_know(tmp_path: Path, nvml: Path):
    place = files(tmp_path / "dev", "nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-modeset", "null")
    found = gpus.find(place, str(nvml))
    assert found.gpus == (Gpu(index=0, memory_mb=8192, name="Fake GPU"), Gpu(index=1, memory_mb=0, name="Fake GPU"))
    assert (found.cuda, found.words) == ("12.2", "")
    assert found.files([1]) == [(f"{place}/{name}", f"/dev/{name}") for name in ("nvidiactl", "nvidia-uvm", "nvidia1")]
    assert found.variables([1]) == {"TRUSTED_POOL_GPUS": "1", "CUDA_VISIBLE_DEVICES": "GPU-fake-1"}


def test_without_the_library_they_are_counted(tmp_path: Path):
    found = gpus.find(files(tmp_path / "dev", "nvidia0", "nvidia3", "nvidiactl"), "libnowhere.so.1")
    assert found.gpus == (Gpu(index=0), Gpu(index=3))
    assert found.cuda == ""
    assert "libnowhere.so.1 cannot be loaded" in found.words
    assert found.variables([3, 0]) == {"TRUSTED_POOL_GPUS": "3,0", "CUDA_VISIBLE_DEVICES": "0,1"}


def test_without_device_files_there_are_none(tmp_path: Path, nvml: Path):
    assert gpus.find(files(tmp_path / "dev", "nvidiactl", "null"), str(nvml)) == gpus.Found()
    assert gpus.find(tmp_path / "nowhere", str(nvml)).gpus == ()


def test_a_driver_that_does_not_answer_offers_none(tmp_path: Path):
    source = tmp_path / "broken.c"
    source.write_text("int nvmlInit_v2(void) { return 18; }  /* the versions of library and driver differ */\n")
    subprocess.run([*CC, "-o", tmp_path / "broken.so", source], check=True, timeout=60)
    found = gpus.find(files(tmp_path / "dev", "nvidia0"), str(tmp_path / "broken.so"))
    assert found.gpus == ()
    assert "nvmlInit_v2 failed with 18" in found.words


def test_jobs_with_a_gpu_have_a_filter_of_their_own():
    assert seccomp.compiled(gpu=True).name != seccomp.compiled().name


def test_the_operator_lends_nothing_unless_told():
    lent = asyncio.run(Lent.make(Equipment(), Path("/nowhere")))
    assert (lent.binds, lent.gpus.gpus, lent.gpu_filter_fd) == ({}, (), -1)


@pytest.mark.parametrize(
    ("binds", "words"),
    [
        (["nothing"], "--bind 'nothing' lends nothing; write --bind NAME=/path"),
        (["a="], "--bind 'a=' lends nothing"),
        (["a=/usr/share", "a=/usr/lib"], "--bind a is said twice"),
        (["a=data"], "the path is not absolute"),
        (["a=/etc"], "which no job may see"),
        (["a={home}"], "which no job may see"),
    ],
)
def test_wrong_use_is_said_in_one_line(tmp_path: Path, binds: list[str], words: str):
    key = tmp_path / "worker.pem"
    assert run_tpool("keygen", key).returncode == 0
    options = [word for bind in binds for word in ("--bind", bind.format(home=tmp_path))]
    ran = run_tpool("worker", "--worker-key", key, "--data", tmp_path / "data", "--port", "0", *options)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert words in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()
