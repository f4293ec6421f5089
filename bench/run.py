"""Run all benchmarks, print them and save them as JSON in bench/results/."""

import json
import os
import platform
import sys
import time
from pathlib import Path

import dispatch
import fairness
import jobs
import queued
import sandbox
import submit

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, print, save."""
    rows = [submit.run(), dispatch.run(), *jobs.run(), *queued.run(), *sandbox.run(), *fairness.run()]
    for row in rows:
        print(row["what"])
        for step in row.get("steps", ()):
            added = f"  (+{step['added_ms']} ms)" if "added_ms" in step else ""
            print(f"    {step['ms']:8.2f} ms  {step['step']}{added}")
        print(f"    ours {row['ours']}   baseline {row['baseline']}   ratio {row['ratio']} ({row['mark']})")
    RESULTS.mkdir(exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": sys.version.split()[0]}
    path = RESULTS / f"{stamp}.json"
    path.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    print(f"saved {path}")


if __name__ == "__main__":
    main()
