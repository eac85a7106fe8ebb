"""What lies in docker/: files that other programs read, checked as far as that goes without these programs."""

import argparse
import json
import math
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from chromium import serving

from percepnet.cli import COMMANDS
from server.config import Config
from server.ending import ENDING_TIME
from server.metrics import Figures

DOCKER = Path(__file__).parent.parent / "docker"
KUBERNETES = DOCKER / "kubernetes"
NO_SCHEMA = ("Kustomization", "PodMonitor")  # of tools, not of Kubernetes
# What containers have in /etc/hosts, before a Python program
HOSTS = """
import socket
ask, hosts = socket.getaddrinfo, {"localhost": ("::1", "127.0.0.1")}
socket.getaddrinfo = lambda name, *more: [each for host in hosts.get(name, [name]) for each in ask(host, *more)]
"""
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def resources() -> Iterator[dict[str, Any]]:
    """All that is applied to Kubernetes."""
    (kustomization,) = documents(KUBERNETES / "kustomization.yaml")
    for name in kustomization["resources"]:
        yield from documents(KUBERNETES / name)


def dockerfile() -> dict[str, list[str]]:
    """Instructions of the image's last stage, by keyword."""
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", "")
    stage = "FROM " + text.rpartition("\nFROM ")[2]
    found: dict[str, list[str]] = {}
    for line in stage.splitlines():
        if line and not line.startswith("#"):
            keyword, _, rest = line.partition(" ")
            found.setdefault(keyword, []).append(rest.strip())
    return found


def environments() -> dict[str, dict[str, Any]]:
    """Variables of ours, by the file that sets them."""
    variables = dict(word.split("=", 1) for word in shlex.split(dockerfile()["ENV"][0]))
    (compose,) = documents(DOCKER / "compose.yaml")
    (server,) = [r for r in resources() if r["metadata"]["name"] == "percepnet" and r["kind"] == "Deployment"]
    (container,) = server["spec"]["template"]["spec"]["containers"]
    found = {
        "Dockerfile": variables,
        "compose.yaml": compose["services"]["server"]["environment"],
        "deployment.yaml": {variable["name"]: variable.get("value") for variable in container["env"]},
    }
    return {
        file: {k: v for k, v in variables.items() if k.startswith("PERCEPNET_")}
        for file, variables in found.items()
    }


@pytest.mark.parametrize("file", ["Dockerfile", "compose.yaml", "deployment.yaml"])
def test_the_servers_variables_are_options_with_values_that_are_allowed(file: str) -> None:
    variables = environments()[file]
    assert variables
    assert set(variables) <= {f"PERCEPNET_{option.name.upper()}" for option in fields(Config)}
    written = {"${PUBLIC_ADDRESS:?}": "192.0.2.1", "${TRUST_FORWARDED:-}": ""}
    known = {name: value for name, value in variables.items() if value is not None}
    given = {
        name: re.sub(r"\$\{.*?\}", lambda found: written[found[0]], value) for name, value in known.items()
    }
    Config.from_arguments(argparse.Namespace(), given)


def test_the_image_runs_as_nobody_in_particular_and_hears_signals() -> None:
    stage = dockerfile()
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage["USER"][0])
    (entry,) = stage["ENTRYPOINT"]
    assert json.loads(entry) == ["tini", "--", "percepnet"]  # no shell, which would keep SIGTERM to itself
    assert json.loads(stage["CMD"][0])[0] in COMMANDS
    assert stage["COPY"] == ["--from=build /opt/percepnet /opt/percepnet"]


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_the_health_check_finds_a_server_and_misses_one(certificate: tuple[Path, Path]) -> None:
    python, option, check = json.loads(dockerfile()["HEALTHCHECK"][0].partition("CMD ")[2])
    assert (python, option) == ("python", "-c")

    def status(port: str, check: str = check, **more: str) -> int:
        return subprocess.run(
            [sys.executable, "-c", HOSTS + check],
            env={**os.environ, "PERCEPNET_PORT": port, **more},
            stderr=subprocess.DEVNULL,
            timeout=60,
        ).returncode

    with serving("--workers", "1", "--rated-calls", "1") as server:
        port = server.url.rpartition(":")[2]
        assert status(port) == 0
        assert status(port, PERCEPNET_TLS_CERT="cert.pem") != 0
        # To the server an empty variable is none.
        assert status(port, PERCEPNET_TLS_CERT="") == 0
        assert status("", check.replace(str(Config().port), port)) == 0
    assert status(port) != 0
    if has_ipv6():
        with serving("--workers", "1", "--rated-calls", "1", "--host", "::", "--access", "open") as server:
            assert status(server.url.rpartition(":")[2]) == 0
    cert, key = map(str, certificate)
    with serving("--workers", "1", "--rated-calls", "1", "--tls-cert", cert, "--tls-key", key) as server:
        port = server.url.rpartition(":")[2]
        assert status(port, PERCEPNET_TLS_CERT=cert) == 0
        assert status(port) != 0


def test_the_compose_file_is_as_its_schema_has_it() -> None:
    command = ["check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DOCKER / "compose.yaml")]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_compose_sets_our_containers_in_a_sandbox_and_names_files_that_exist() -> None:
    (compose,) = documents(DOCKER / "compose.yaml")
    services = compose["services"]
    for name in ("server", "sidecar"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name].get("command", ["serve"])[0] in {*COMMANDS, "sidecar"}
    mounted = [v for service in services.values() for v in service.get("volumes", []) if v.startswith("./")]
    assert len(mounted) >= 5
    for volume in mounted:
        assert (DOCKER / volume.split(":")[0]).exists(), volume
    for service in services.values():
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
    grace = int(services["server"]["stop_grace_period"].removesuffix("s"))
    assert grace >= int(services["server"]["environment"]["PERCEPNET_DRAIN_TIME"]) + ENDING_TIME + 2


def test_compose_says_nothing_again_that_its_images_say() -> None:
    (compose,) = documents(DOCKER / "compose.yaml")
    found = environments()
    assert not found["compose.yaml"].items() & found["Dockerfile"].items()
    udp = found["Dockerfile"]["PERCEPNET_UDP_PORTS"]
    assert f"{udp}:{udp}/udp" in compose["services"]["server"]["ports"]
    entry = re.search(r"^ENTRYPOINT (.+)", (DOCKER / "janus/Dockerfile").read_text(), re.MULTILINE)
    assert entry is not None
    assert not {*json.loads(entry[1])} & {*compose["services"]["janus"]["command"]}


def test_the_sidecars_command_line_is_understood() -> None:
    (compose,) = documents(DOCKER / "compose.yaml")
    command, *arguments = compose["services"]["sidecar"]["command"]
    parser = argparse.ArgumentParser()
    import_module(f"percepnet.cli.{command}").add_arguments(parser)
    options = parser.parse_args(arguments)
    assert str(options.stats_port) == environments()["Dockerfile"]["PERCEPNET_PORT"]  # for the health check


def test_manifests_are_as_kubernetes_has_them() -> None:
    for resource in resources():
        if resource["kind"] not in NO_SCHEMA:
            kubernetes_validate.validate(resource, "1.31", strict=True)


def test_pods_have_the_image_that_is_pushed() -> None:
    (kustomization,) = documents(KUBERNETES / "kustomization.yaml")
    (image,) = kustomization["images"]
    pods = [r["spec"]["template"]["spec"] for r in resources() if r["kind"] == "Deployment"]
    assert image["name"] in [container["image"] for pod in pods for container in pod["containers"]]
    project = tomllib.loads((DOCKER.parent / "pyproject.toml").read_text())["project"]
    assert image["newTag"] == project["version"]
    named = f"{image['newName']}:{image['newTag']}"
    section = (DOCKER / "README.md").read_text().partition("## Kubernetes")[2]
    built, pushed, applied = map(section.index, (f" -t {named} .", f"docker push {named}", "kubectl apply"))
    assert built < pushed < applied


def test_a_pod_has_time_to_drain_and_may_do_nothing_else() -> None:
    deployments = {r["metadata"]["name"]: r for r in resources() if r["kind"] == "Deployment"}
    for deployment in deployments.values():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    pod = deployments["percepnet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = float(environments()["deployment.yaml"]["PERCEPNET_DRAIN_TIME"])
    assert pod["terminationGracePeriodSeconds"] >= pause + drain + ENDING_TIME + 2
    # A Service named percepnet would set PERCEPNET_PORT to what is no port.
    assert pod["enableServiceLinks"] is False


def test_parts_of_kubernetes_find_each_other() -> None:
    kinds: dict[str, list[dict[str, Any]]] = {}
    for resource in resources():
        kinds.setdefault(resource["kind"], []).append(resource)
    labels = [d["spec"]["template"]["metadata"]["labels"] for d in kinds["Deployment"]]
    for service in kinds["Service"]:
        assert service["spec"]["selector"] in labels
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        assert kinds[kind][0]["spec"]["selector"]["matchLabels"] in labels
    (autoscaler,) = kinds["HorizontalPodAutoscaler"]
    assert autoscaler["spec"]["scaleTargetRef"]["name"] in {
        d["metadata"]["name"] for d in kinds["Deployment"]
    }
    (rule,) = documents(KUBERNETES / "prometheus-adapter.yaml")[0]["rules"]["custom"]
    metric = autoscaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert rule["seriesQuery"].startswith(metric + "{")
    places, service = re.search(
        r'server-template \w+ (\d+) "([\w-]+)\.\$\{NAMESPACE\}\.svc\.', haproxy()
    ).groups()  # type: ignore[union-attr]
    assert int(places) >= autoscaler["spec"]["maxReplicas"]
    assert service in {s["metadata"]["name"] for s in kinds["Service"]}


def haproxy() -> str:
    return (KUBERNETES / "haproxy.cfg").read_text()


def queries() -> list[tuple[str, str]]:
    """All PromQL, with the file that it is in."""
    found = []
    dashboard = json.loads((DOCKER / "grafana/percepnet.json").read_text())
    for panel in dashboard["panels"]:
        found += [("dashboard", target["expr"]) for target in panel["targets"]]
    found += [("dashboard", variable["query"]["query"]) for variable in dashboard["templating"]["list"]]
    for group in documents(DOCKER / "prometheus/rules.yml")[0]["groups"]:
        found += [("rules", rule["expr"]) for rule in group["rules"]]
    (rule,) = documents(KUBERNETES / "prometheus-adapter.yaml")[0]["rules"]["custom"]
    return [*found, ("adapter", rule["seriesQuery"]), ("adapter", rule["metricsQuery"])]


def test_queries_name_only_series_that_the_server_has() -> None:
    families = list(Figures({"workers": [], "answers": {}}).collect())
    series = {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}
    asked = queries()
    assert len(asked) > 25
    for file, query in asked:
        named = set(re.findall(r"(?<!:)\bpercepnet_[a-z0-9_]+(?!:)\b", query))
        assert named <= series, (file, query)
        assert query.count("(") == query.count(")"), (file, query)
    shown = " ".join(query for file, query in asked if file == "dashboard")
    families_shown = [family.name for family in families if family.name in shown]
    assert len(families_shown) >= 15


def test_recorded_series_are_those_that_alerts_ask_for() -> None:
    rules = [r for group in documents(DOCKER / "prometheus/rules.yml")[0]["groups"] for r in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    used = {name for rule in rules for name in re.findall(r"instance:[a-z0-9_:]+", rule["expr"])}
    assert used <= recorded


def test_the_page_names_series_and_files_that_exist_and_counts_machines_right() -> None:
    text = (DOCKER / "README.md").read_text()
    for link in re.findall(r"\]\(([^):]+)\)", text):
        assert (DOCKER / link).is_file(), link
    table = text.partition("| series | is |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(percepnet_\w+)(?:`|\{\w+=)", table))
    for begin, middles, end in re.findall(r"`(percepnet_\w*)\{([\w,]+)\}(\w*)`", table):
        named |= {begin + middle + end for middle in middles.split(",")}
    families = Figures({"workers": [], "answers": {}}).collect()
    series = {family.name + "_total" * (family.type == "counter") for family in families}
    assert named == series
    rows = re.findall(r"\| within .* \| (\d+) \| (\d+) % \| (\d+) \| (\d+) \+ 1 \|", text)
    assert len(rows) == 3
    for per_core, share, cores, machines in rows:
        assert int(cores) == math.ceil(10_000 / int(per_core) / (int(share) / 100))
        assert int(machines) == math.ceil(int(cores) / 32)


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy")
def test_haproxy_understands_its_configuration() -> None:
    done = subprocess.run(
        ["haproxy", "-c", "-f", KUBERNETES / "haproxy.cfg"],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "NAMESPACE": "calls"},
    )
    assert done.returncode == 0, done.stderr
