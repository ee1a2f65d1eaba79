"""How busy a study keeps its slots: seconds of training steps over wall seconds times slots.

Runs the training phase of a study in a folder of its own (the quickstart: eight minutes) and
reads what the sweep recorded. Goal: 0.8 for the quickstart on two cores.

    python benchmarks/bench_busy.py [STUDY] [KEY=VALUE]...
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

GOAL = 0.8


def main() -> None:
    study, *overrides = sys.argv[1:] or ["quickstart"]
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("isoflop")), "run", study]
        subprocess.run([*command, *overrides, f"output={folder}"], check=True)
        [record] = Path(folder).glob("*/sweeps.jsonl")
        found = json.loads(record.read_text().splitlines()[-1])
    trained, wall = found["train_seconds"], found["wall_seconds"]
    print(f"{found['runs']} runs on {found['slots']} slots, {wall:.0f} s of wall clock")
    print(f"{trained:.0f} s of training steps: busy {found['busy']:.2f} (goal {GOAL})")


if __name__ == "__main__":
    main()
