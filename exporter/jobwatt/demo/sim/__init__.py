"""
The demo's cluster: users and their jobs, a scheduler, and twelve GPU nodes with sensors.

All of it is invented (data/ORIGINS.md says what it is drawn from) up to the snapshot; from there on it is
what runs on a node. The past comes out as OpenMetrics text (history), the present as exporters (live); who
shows them is unknown here.
"""
