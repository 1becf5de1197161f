"""A throw-away Slurm on loopback for the tests: several nodes on one machine, real jobs, real cgroups."""
