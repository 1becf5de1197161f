"""
A whole cluster on one machine: twelve simulated GPU nodes under the real pipeline.

Users, jobs and sensors are invented (data/ORIGINS.md says what they are drawn from); everything
from the snapshot on is what runs on a node.
"""
