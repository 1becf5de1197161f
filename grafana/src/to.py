"""Links to the dashboards, as Grafana fills them in: they keep the data source, the cluster and the time."""

_KEEP = "${datasource:queryparam}&${cluster:queryparam}"
_TIME = "${__url_time_range}"


def user(name: str) -> str:
    """The page of a user."""
    return f"/d/jobwatt-user?{_KEEP}&var-user={name}&{_TIME}"


def lab(account: str) -> str:
    """The page of a lab."""
    return f"/d/jobwatt-account?{_KEEP}&var-account={account}&{_TIME}"


def node(instance: str) -> str:
    """The page of a node."""
    return f"/d/jobwatt-node?{_KEEP}&var-instance={instance}&{_TIME}"


def job(jobid: str, start: str, end: str) -> str:
    """The page of a job at its own time: ``start`` and ``end`` are the titles of columns in milliseconds."""
    since, until = (f'${{__data.fields["{title}"].numeric}}' for title in (start, end))
    return f"/d/jobwatt-job?{_KEEP}&var-jobid={jobid}&from={since}&to={until}"
