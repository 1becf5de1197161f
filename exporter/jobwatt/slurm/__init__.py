"""The Slurm jobs of a node: found, read, named."""
