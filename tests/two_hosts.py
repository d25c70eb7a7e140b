"""One rank of a run across two hosts, started by the test in a network namespace each.

python tests/two_hosts.py RANK SIZE STORE_FILE INTERFACE TIMEOUT LOG
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from fault_jobs import TENSOR
from rank_jobs import Counting

from guidance_core import AllGatherExecutor, RankLostError


def main() -> None:
    rank, size, store, interface, timeout, log = sys.argv[1:]
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(store, int(size)),
        rank=int(rank),
        world_size=int(size),
        timeout=datetime.timedelta(seconds=float(timeout)),
    )
    run = TENSOR.start(AllGatherExecutor())
    path = Path(log)
    for _ in range(100_000):
        begun = time.monotonic()
        try:
            run.step(0, TENSOR.tensors("sample", 0), Counting(TENSOR, 0))
        except RankLostError as error:
            seen = {"lost": error.ranks, "seconds": time.monotonic() - begun, "error": str(error)}
            path.write_text(json.dumps(seen))
            break
        path.write_text("running")
        time.sleep(0.02)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
