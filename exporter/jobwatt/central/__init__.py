"""What runs once per cluster, never on a node: the grid's carbon intensity, proxies, reports."""
