"""Start a coordinator: `python coordinator.py --port 9000 --workers workers.json`.

The same as `tpool coordinator --host 0.0.0.0 --anonymous --insecure-http --log-format plain` with the options given
here: it serves every address of this machine, without authentication and without TLS, and says so. Options given here
win.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

try:
    from trusted_pool.cli.main import run
except ModuleNotFoundError as error:
    sys.exit(
        f"coordinator.py: {error.name} is not installed; type: {sys.executable} -m pip install -r requirements.txt"
    )

IMPLIED = (
    *("--host", "0.0.0.0", "--anonymous", "--insecure-http"),  # noqa: S104 - what this way of starting means
    *("--log-format", "plain"),
)

if __name__ == "__main__":
    sys.exit(run(["coordinator", *IMPLIED, *sys.argv[1:]]))
