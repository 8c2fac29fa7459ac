"""The peer's side of a row of `cargo xtask bench peers`: measures rounds on request.

    python worker.py CASE CHECK

CASE is the JSON file that `clip-distill bench --rounds` reads, too. The process prepares the work, writes the results to be
compared to CHECK (little-endian float32), prints a line, and then answers each line of its input with a round: a JSON
object with its seconds, its number of items, and the peak of the resident memory in bytes.
"""

import json
import pathlib
import sys
import time

import numpy as np
import torch


def peak_memory():
    """Returns the peak of the resident memory in bytes, or None if the system does not report it."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), None)


def opened(case):
    """Returns the work of a case: an object with `check()` and `round()`."""
    if case["kind"] == "images":
        from images import Images as Work
    elif case["kind"] == "tokens":
        from tokens import Tokens as Work
    else:
        from step import Step as Work
    return Work(case)


def main():
    case = json.loads(pathlib.Path(sys.argv[1]).read_text())
    torch.set_num_threads(case["threads"])
    work = opened(case)
    np.asarray(work.check(), dtype="<f4").tofile(sys.argv[2])
    print(json.dumps(dict(ready=True)), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        items = work.round()
        seconds = time.perf_counter() - start
        print(json.dumps(dict(seconds=seconds, items=items, memory=peak_memory())), flush=True)


if __name__ == "__main__":
    main()
