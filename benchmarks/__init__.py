"""What the README states, measured: each module runs alone with `python -m benchmarks.NAME`."""

import os

# A proxy of the environment cannot reach a worker of this machine; gRPC would ask it all the same.
os.environ["no_proxy"] = ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1", "localhost")))
