"""Probes one address in a patched process, as the server does: ADDRESS TIMEOUT_S [KEY]; prints JSON."""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

from scheduler.adapters.prober import HttpProber  # noqa: E402
from scheduler.gateway.ports import NodeTarget  # noqa: E402

address, timeout_s = sys.argv[1], float(sys.argv[2])
key = sys.argv[3] if len(sys.argv) > 3 else None
began = time.monotonic()
result = HttpProber("/health", timeout_s).probe(NodeTarget("gpu-1", address, key))
print(json.dumps({"is_up": result.is_up, "reason": result.reason, "elapsed_s": time.monotonic() - began}))
