"""The carbon intensity of the electricity, for a whole cluster: `jobwatt grid`."""
