"""Prometheus' rules and the dashboard ask for metrics that a server has, with labels that it gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import promql_parser
import pytest
from deployment import DEPLOY, ROOT, compose, documents
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ConfigDict
from serving import serving
from waiting import wait_until

from fixnorm_core.spec import JobSpec
from service.client import Client
from service.composition import build
from service.database.rows import AttemptState
from service.settings import BackendName, Settings
from worker.recording import Recording

_RATE = "5m"
_QUERY = "$__rate_interval"


class Rule(BaseModel):
    """An alert, as Prometheus reads it."""

    model_config = ConfigDict(extra="forbid")

    alert: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]
    for_: str | None = None


def rules() -> list[Rule]:
    (document,) = documents(DEPLOY / "prometheus" / "rules.yml")
    (group,) = document["groups"]
    assert set(document) == {"groups"}
    assert set(group) == {"name", "rules"}
    return [
        Rule.model_validate({{"for": "for_"}.get(key, key): each for key, each in rule.items()})
        for rule in group["rules"]
    ]


def dashboard() -> dict[str, Any]:
    return dict(json.loads((DEPLOY / "grafana" / "dashboards" / "fixnorm-tune.json").read_text()))


def queries() -> dict[str, str]:
    """Every expression of the rules and of the dashboard, by what it is for."""
    found = {rule.alert: rule.expr for rule in rules()}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"].replace(_QUERY, _RATE)
    return found


def selectors(expression: Any) -> Iterator[Any]:
    """Every selection of a metric below a parsed expression."""
    match expression:
        case promql_parser.VectorSelector():
            yield expression
        case promql_parser.MatrixSelector():
            yield from selectors(expression.vector_selector)
        case promql_parser.AggregateExpr() | promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            yield from selectors(expression.expr)
        case promql_parser.SubqueryExpr():
            yield from selectors(expression.expr)
        case promql_parser.BinaryExpr():
            yield from selectors(expression.lhs)
            yield from selectors(expression.rhs)
        case promql_parser.Call():
            for argument in expression.args:
                yield from selectors(argument)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """What a real server tells at /metrics after a job that had a webhook: names with the labels of their samples."""
    state = tmp_path_factory.mktemp("state")
    settings = Settings(state_dir=state, backend=BackendName.SIMULATOR, webhook_private=True)
    service = build(settings)
    with serving(service.app) as url, Client(url) as client:
        hook = {"webhook": f"{url}/healthz"}
        client.wait(client.submit(JobSpec.model_validate(Recording.packaged().job.model_dump() | hook)).id)
        wait_until(lambda: "fixnorm_tune_webhook_tries_total{" in httpx.get(f"{url}/metrics").text)
        text = httpx.get(f"{url}/metrics").text
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


OUTCOMES = {
    "fixnorm_tune_attempts_ended_total": {state.lower() for state in AttemptState},
    "fixnorm_tune_webhook_tries_total": {"delivered", "not_delivered", "given_up"},
}


@pytest.mark.parametrize("name", sorted(queries()))
def test_every_query_asks_for_metrics_and_labels_that_a_server_exports(
    exported: dict[str, list[dict[str, str]]], name: str
) -> None:
    expression = promql_parser.parse(queries()[name])
    asked = list(selectors(expression))
    assert asked
    labels: set[str] = {"instance"}
    for selector in asked:
        assert selector.name in exported
        samples = exported[selector.name]
        labels |= set(samples[0])
        for matcher in selector.matchers.matchers:
            values = {sample[matcher.name] for sample in samples}
            if matcher.name == "outcome":
                values = OUTCOMES[selector.name]
            assert set(matcher.value.split("|")) <= values
    grouped = re.findall(r"\bby \(([\w, ]+)\)", queries()[name])
    assert {label for each in grouped for label in each.split(", ")} <= labels


def test_a_query_of_a_metric_that_nobody_exports_would_be_found(exported: dict[str, list[dict[str, str]]]) -> None:
    (selector,) = selectors(promql_parser.parse("sum(rate(fixnorm_tune_nothing_total[5m]))"))
    assert selector.name not in exported


def test_legends_and_texts_name_labels_that_their_queries_keep() -> None:
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = {label for each in re.findall(r"by \(([\w, ]+)\)", target["expr"]) for label in each.split(", ")}
            assert named <= kept | {"instance"}
    for rule in rules():
        named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule.annotations.values())))
        assert named <= {label for each in re.findall(r"by \(([\w, ]+)\)", rule.expr) for label in each.split(", ")}
        assert rule.labels["severity"] in {"critical", "warning", "info"}
        assert {"summary", "description"} == set(rule.annotations)


def test_panels_lie_beside_each_other_and_read_the_provisioned_source() -> None:
    taken = set()
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))
    (sources,) = documents(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")
    (source,) = sources["datasources"]
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}


def test_prometheus_and_grafana_look_where_compose_puts_things() -> None:
    services = compose()["services"]
    (prometheus,) = documents(DEPLOY / "prometheus" / "prometheus.yml")
    assert all((DEPLOY / "prometheus" / each).exists() for each in prometheus["rule_files"])
    (scrape,) = prometheus["scrape_configs"]
    (target,) = scrape["dns_sd_configs"]
    assert target["names"] == ["server"]
    assert f":{target['port']}" in services["server"]["ports"][0]
    (source,) = documents(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    (provider,) = documents(DEPLOY / "grafana" / "provisioning" / "dashboards" / "fixnorm-tune.yml")
    mounts = [each.split(":") for each in services["grafana"]["volumes"]]
    (folder,) = [mount[0] for mount in mounts if mount[1] == provider["providers"][0]["options"]["path"]]
    assert (ROOT / folder / "fixnorm-tune.json").exists()
