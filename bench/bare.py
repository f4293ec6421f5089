"""The baseline of the job benchmarks: the bubblewrap command of a worker's jobs, and nothing around it."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from trusted_pool.sandbox import policy, seccomp

LIMITS = policy.Limits(memory_bytes=256 << 20, disk_bytes=1 << 30, timeout_s=300)


class Bare:
    """Runs `python3 main.py` under the worker's own options."""

    def __enter__(self) -> Self:
        self._root = Path(tempfile.mkdtemp(prefix="tpool-bare-"))
        etc, job = self._root / "etc", self._root / "job"
        etc.mkdir()
        job.mkdir(mode=0o777)
        for name, text in policy.ETC.items():
            (etc / name).write_text(text)
        for name in ("ld.so.cache", "alternatives"):
            source = Path("/etc") / name
            if source.is_dir():
                shutil.copytree(source, etc / name, symlinks=True)
            elif source.exists():
                shutil.copy(source, etc / name)
        (job / "main.py").write_text("pass\n")
        view = policy.View(system=policy.look(), etc=str(etc))
        env = policy.environment({}, {})
        self._filter = seccomp.compiled().memfd()
        self._argv = ["bwrap", *policy.options(view, str(job), LIMITS, env), "--seccomp"]
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._filter)
        shutil.rmtree(self._root)

    def once(self) -> None:
        """Run it once."""
        fd = os.open(f"/proc/self/fd/{self._filter}", os.O_RDONLY)
        try:
            subprocess.run(
                [*self._argv, str(fd), "/usr/bin/python3", "main.py"],
                check=True,
                env={},
                pass_fds=(fd,),
                capture_output=True,
            )
        finally:
            os.close(fd)
