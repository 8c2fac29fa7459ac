"""The peer's side of a row of `cargo xtask bench peers`: measures rounds on request.

    python worker.py CASE CHECK

CASE is the JSON file that `clip-distill bench --rounds` also reads. The process prepares the work, writes the results to
compare to the file CHECK (little-endian float32) and prints a line. It then measures a round for each line of its input and
prints a JSON object with its seconds, its number of items and the peak resident memory in bytes.
"""

import json
import pathlib
import sys
import time

import numpy as np
import torch


# Substrings in the paths of GPU libraries, which PyPI's torch for Linux loads even on a machine without a GPU.
CUDA = ("/nvidia/", "cuda", "triton")


def peak_memory():
    """Returns the peak resident memory in bytes, or None if the system does not report it.

    Resident pages of the GPU libraries are subtracted, because torch's CPU build, which PyPI does not offer, would not load
    them.
    """
    try:
        status = pathlib.Path("/proc/self/status").read_text().splitlines()
        maps = pathlib.Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return None
    is_cuda, cuda = False, 0
    for line in maps:
        # The first line of a mapping ends with the path of its file; lines with its properties follow.
        if not line.split()[0].endswith(":"):
            is_cuda = any(name in line for name in CUDA)
        elif is_cuda and line.startswith("Rss:"):
            cuda += int(line.split()[1])
    peak = next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), None)
    return None if peak is None else (peak - cuda) << 10


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
