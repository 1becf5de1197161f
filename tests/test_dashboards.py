"""
The dashboards: made by their source, valid, complete, and over series that exist.

The rules that the published dashboard-linter of Grafana has and that apply here are marked with its names. Not
applied: template-job and template-instance (nodes of a cluster are chosen by `cluster`, and one page is over one
node), panel-job-instance (the same).
"""

from __future__ import annotations

import copy
import json
import re
import subprocess

import jsonschema
import pytest
import yaml

import generate
from dashqueries import ROOT, boards, filled, panels, queries, times
from jobwatt.alerts import site
from jobwatt.metrics import CATALOGUE, Type
from promqlcheck import board_problems

RECORDED = {
    rule["record"]: rule["expr"]
    for path in sorted((ROOT / "alerts/rules").glob("*.yaml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
}
ALL = tuple(boards())
QUERIES = [query for name in ALL for query in queries(name)]
PANELS = [(name, panel) for name in ALL for panel in panels(name)]
VALUES = times(86_400, 120) | {
    "cluster": "demo", "jobid": "1", "user": "alice", "account": "ltci", "instance": "gpu01", "uuid": "GPU-1",
}  # fmt: skip
by_name = pytest.mark.parametrize("name", ALL)
by_query = pytest.mark.parametrize("query", QUERIES, ids=str)
by_panel = pytest.mark.parametrize(
    ("name", "panel"), PANELS, ids=[f"{name}: {panel['title']}" for name, panel in PANELS]
)


def test_the_committed_dashboards_are_those_of_the_source():
    """`make generate` would change nothing."""
    committed = {
        path.name: path.read_text() for path in (ROOT / "grafana/dashboards").glob("*.json")
    }
    assert committed == generate.texts()


def test_the_dashboards_of_the_design_are_there():
    """One for each question, with a uid that links can rely on."""
    assert {name: board["uid"] for name, board in boards().items()} == {
        name: f"jobwatt-{name}"
        for name in ("account", "balance", "behaviour", "cluster", "job", "node", "user")
    }


@by_name
def test_frame(name):
    """One tag, a schema that Grafana 10 reads, not editable, a description; links to the others keep time and variables."""
    board = boards()[name]
    assert board["tags"] == ["jobwatt"]
    assert board["schemaVersion"] <= 39
    assert board["editable"] is False  # uneditable-dashboard
    assert board["description"]
    (link,) = board["links"]
    assert (link["tags"], link["keepTime"], link["includeVars"]) == (["jobwatt"], True, True)


@by_name
def test_variables(name):
    """A data source and a cluster; each is used, and looked up anew when the time range changes."""
    board = boards()[name]
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert list(variables)[:2] == ["datasource", "cluster"]  # template-datasource
    assert variables["datasource"]["label"] == "Data source"
    asked = " ".join(query.expr for query in queries(name)) + " ".join(
        str(variable.get("query")) for variable in variables.values()
    )
    for variable in list(variables.values())[1:]:
        assert variable["refresh"] == 2  # template-on-time-change-reload
        assert variable["datasource"]["uid"] == "${datasource}"
        assert f"${variable['name']}" in asked
        lookup = re.match(r"label_values\((.*), (\w+)\)$", variable["query"]["query"])
        assert lookup  # template-label-promql
        several = re.fullmatch(r'\{__name__=~"([\w|:]+)"\}', lookup[1])
        for selector in several[1].split("|") if several else [lookup[1]]:
            found, labels = board_problems(filled(selector, VALUES), RECORDED)
            assert [said for said in found if variable["name"] != "cluster"] == []
            assert lookup[2] in labels


@by_name
def test_places(name):
    """Panels are within the 24 columns, none lies on another, ids are unique."""
    taken = set()
    for panel in boards()[name]["panels"]:
        pos = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(pos["x"], pos["x"] + pos["w"])
            for y in range(pos["y"], pos["y"] + pos["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    ids = [panel["id"] for panel in boards()[name]["panels"]]
    assert len(ids) == len(set(ids))


@by_panel
def test_panel(name, panel):
    """A title, a description in a sentence, the chosen data source, a unit or columns, and words for no data."""
    assert panel["title"]  # panel-title-description
    assert len(panel["description"]) > 20
    if panel["type"] == "text":
        return
    assert panel["description"].endswith(".")
    assert panel["datasource"]["uid"] == "${datasource}"  # panel-datasource
    assert panel["targets"]  # panel-no-targets
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["noValue"]
    if panel["type"] == "table":
        assert column_problems(panel) == []
    else:
        assert defaults["unit"]  # panel-units


NO_UNIT = {
    "jobid",
    "user",
    "account",
    "partition",
    "name",
    "qos",
    "array_job_id",
    "uuid",
    "gpu",
    "instance",
}


def column_problems(panel):
    """Columns of ids or names that have a unit, values that have none, columns that no query gives."""
    organize = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
    titles = organize["renameByName"]
    units = {
        override["matcher"]["options"]: prop["value"]
        for override in panel["fieldConfig"]["overrides"]
        for prop in override["properties"]
        if prop["id"] == "unit"
    }
    letters = [target["refId"] for target in panel["targets"]]
    values = {"Value"} if len(letters) == 1 else {f"Value #{letter}" for letter in letters}
    given = set().union(*(labels_of(panel, target) for target in panel["targets"])) | values
    found = [f"{field}: no query gives it" for field in titles if field not in given]
    found += [
        f"{field}: a name has no unit"
        for field in titles
        if field in NO_UNIT and titles[field] in units
    ]
    found += [
        f"{field}: no unit" for field in titles if field in values and titles[field] not in units
    ]
    return found


def labels_of(panel, target):
    return board_problems(filled(target["expr"], VALUES), RECORDED)[1]


def test_a_bad_column_is_found():
    """The check of columns can fail."""
    panel = {
        "targets": [{"refId": "A", "expr": 'sum by (jobid) (jobwatt_job_cpus{cluster="x"})'}],
        "transformations": [
            {
                "id": "organize",
                "options": {"renameByName": {"jobid": "Job", "Value": "CPUs", "usr": "User"}},
            }
        ],
        "fieldConfig": {
            "overrides": [
                {"matcher": {"options": "Job"}, "properties": [{"id": "unit", "value": "short"}]}
            ]
        },
    }
    assert column_problems(panel) == [
        "usr: no query gives it", "jobid: a name has no unit", "Value: no unit",
    ]  # fmt: skip


@by_query
def test_query(query):
    """Parses; over metrics, recorded series and labels that exist; its legend names labels of its result."""
    found, labels = board_problems(filled(query.expr, VALUES), RECORDED)
    assert found == []  # target-promql
    assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= labels


def test_a_bad_query_is_found():
    """The check of queries can fail, on a series of every cluster too."""
    bad = (
        "sum (jobwatt:cluster_energy_joules:rate5m)",
        'sum by (usr) (jobwatt_jobs{cluster="x"})',
        'jobwatt_jobz{cluster="x"}',
        'jobwatt_jobs{cluster="x"} and on (cluster) jobwatt_node_cpus',
    )
    assert all(board_problems(expr, RECORDED)[0] for expr in bad)


@by_query
def test_windows(query):
    """Rates are over $__rate_interval, whatever is over the whole range over $__range."""
    for function, window in re.findall(r"\b(\w+) ?\([^()]*\[([^\]]+)\]", query.expr):
        if function in {"rate", "irate"}:  # target-rate-interval
            assert window == "$__rate_interval"
        else:
            assert window.split(":")[0] in {"$__range", "$__interval", "7d", "1d"}, (
                function,
                window,
            )


@by_query
def test_counters_are_not_shown_raw(query):
    """
    A counter is taken as a rate or an increase (target-counter-agg), or, of a job, whose counters begin at 0 with
    it, as its last value; or it only says which series are meant.
    """
    ways = r"(rate|increase|last_over_time)\s*\($|(and|unless) on \([\w, ]+\) (last_over_time\()?$|(count|sum) by \(jobid\) \($"
    for found in re.finditer(r"jobwatt_\w+", query.expr):
        metric = CATALOGUE[found.group()]
        if metric.type is Type.COUNTER:
            before = query.expr[: found.start()]
            assert re.search(ways, before), (found.group(), before[-40:])


def test_mails_link_to_what_is_there():
    """Each page that a mail opens exists, and so do the variables it sets."""
    text = (ROOT / "alerts/rules/user.yaml").read_text() + (
        ROOT / "alerts/alertmanager/jobwatt.tmpl"
    ).read_text()
    by_uid = {board["uid"]: board for board in boards().values()}
    opened = re.findall(r"/d/([\w-]+)\?([^'\"\s]*)", text)
    assert opened
    for uid, query in opened:
        names = {variable["name"] for variable in by_uid[uid]["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)=", query)) <= names


def test_links_lead_somewhere():
    """Every link from a panel opens a dashboard that exists, with variables that it has."""
    by_uid = {board["uid"]: board for board in boards().values()}
    count = 0
    for _, panel in PANELS:
        for override in panel.get("fieldConfig", {}).get("overrides", ()):
            for prop in override["properties"]:
                if prop["id"] == "links":
                    for link in prop["value"]:
                        uid, query = re.match(r"/d/([\w-]+)\?(.*)", link["url"]).groups()
                        names = {v["name"] for v in by_uid[uid]["templating"]["list"]}
                        used = set(re.findall(r"var-(\w+)=", query)) | set(
                            re.findall(r"\$\{(\w+):queryparam\}", query)
                        )
                        assert used <= names
                        count += 1
    assert count > 20


# --- Grafana's own schema ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    """The JSON schema of a dashboard, made from the types that @grafana/schema publishes; nothing more is allowed."""
    preview = ROOT / "grafana/preview"
    if not (preview / "node_modules/@grafana/schema").exists():
        pytest.skip(
            "needs the packages of grafana/preview: make grafana/preview/node_modules/.installed"
        )
    subprocess.run(["npm", "run", "--silent", "schema"], cwd=preview, check=True)
    return json.loads((preview / "out/dashboard.schema.json").read_text())


@pytest.mark.npm
@by_name
def test_schema(name, schema):
    """The dashboard is what Grafana's types say one is."""
    errors = [
        f"{list(error.absolute_path)}: {error.message[:200]}"
        for error in jsonschema.Draft7Validator(schema).iter_errors(boards()[name])
    ]
    assert errors == []


@pytest.mark.npm
@pytest.mark.parametrize(
    "harm",
    [
        lambda board: board.update(refreshh="1m"),
        lambda board: board["panels"][1]["gridPos"].update(w="6"),
        lambda board: board["panels"][1]["fieldConfig"]["defaults"].update(unti="watt"),
        lambda board: board["panels"][1].update(dtasource={}),
    ],
)
def test_the_schema_can_refuse(harm, schema):
    """A misspelt key and a wrong type are found."""
    board = copy.deepcopy(boards()["cluster"])
    harm(board)
    assert list(jsonschema.Draft7Validator(schema).iter_errors(board))


@pytest.mark.npm
def test_the_viewer_keeps_values_apart():
    """The viewer's own tests: what users control gets into no query, page or address as more than a value."""
    preview = ROOT / "grafana/preview"
    if not (preview / "node_modules/esbuild").exists():
        pytest.skip(
            "needs the packages of grafana/preview: make grafana/preview/node_modules/.installed"
        )
    done = subprocess.run(
        ["npm", "test", "--silent"], cwd=preview, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


# --- provisioning ----------------------------------------------------------------------------------


def variables(text):
    """Names of the environment that a file of Grafana's is filled in from."""
    return set(re.findall(r"\$(\w+)", text))


def test_provisioning():
    """The data source tells its scrape interval; dashboards are found by a path; the README names each variable."""
    folder = ROOT / "grafana/provisioning"
    texts = {path: path.read_text() for path in folder.rglob("*.yaml")}
    assert len(texts) == 3
    (source,) = yaml.safe_load(texts[folder / "datasources/jobwatt.yaml"])["datasources"]
    assert source["jsonData"]["timeInterval"] == "$JOBWATT_SCRAPE_INTERVAL"
    (provider,) = yaml.safe_load(texts[folder / "dashboards/jobwatt.yaml"])["providers"]
    assert provider["options"]["path"] == "$JOBWATT_DASHBOARDS"
    told = (ROOT / "grafana/README.md").read_text()
    assert all(name in told for text in texts.values() for name in variables(text))


def test_compose_hangs_together():
    """What is mounted is there, what is named is a service, and Grafana gets every variable it is provisioned with."""
    folder = ROOT / "grafana/compose"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    services, named = compose["services"], set(compose["volumes"])
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in named or source.startswith("/") or (folder / source).exists(), source
        assert set(service.get("depends_on", ())) <= set(services)
    provisioned = (ROOT / "grafana/provisioning").glob("da*/*.yaml")
    needed = set().union(*(variables(path.read_text()) for path in provisioned))
    assert needed <= set(services["grafana"]["environment"])
    prometheus = (folder / "prometheus.yml").read_text()
    hosts = set(re.findall(r'"([a-z]+):\d+"', prometheus))
    assert hosts <= set(services)
    assert site.read(folder / "site.toml").mail.smarthost.split(":")[0] in services


@pytest.mark.prometheus
def test_the_configuration_of_the_compose_file():
    """promtool accepts it."""
    config = ROOT / "grafana/compose/prometheus.yml"
    done = subprocess.run(
        ["promtool", "check", "config", "--syntax-only", config], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
