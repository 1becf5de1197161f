"""
`jobwatt demo`: what is started around the simulated cluster (sim), and what people see of it.

A history in Prometheus, the real rules and mails, dashboards, a page that leads to all of them; and that
nothing of it stays but a cache.
"""
