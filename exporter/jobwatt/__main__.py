"""`python -m jobwatt`."""

from jobwatt.cli import entry

entry()
