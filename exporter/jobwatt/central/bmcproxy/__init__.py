"""One poller for the BMCs of many nodes: `jobwatt bmc-proxy`."""
