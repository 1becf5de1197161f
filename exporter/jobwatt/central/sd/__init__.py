"""Slurm's nodes as targets of Prometheus: `jobwatt sd`."""
