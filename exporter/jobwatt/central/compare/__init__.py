"""A job's energy beside what other tools say of it: `jobwatt compare`."""
