"""jobwatt: where every joule of a Slurm GPU node goes, per job and user."""

__version__ = "0.1.0"
