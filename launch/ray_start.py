"""`ray start` on loopback.

By itself Ray takes 127.0.0.1 for an address to replace by one that other machines can reach, and
then listens on every interface. What it starts is told by the environment that no other machine
will come; this process alone must still let a second node of this one join.
"""

import sys

from ray._private import ray_constants, services
from ray.scripts.scripts import main

LOOPBACK = "127.0.0.1"

if __name__ == "__main__":
    ray_constants.ENABLE_RAY_CLUSTER = True
    services.resolve_ip_for_localhost = lambda host: host
    services.get_node_ip_address = lambda *_: LOOPBACK
    sys.argv[1:1] = ["start", "--block", "--disable-usage-stats", f"--node-ip-address={LOOPBACK}"]
    main()
