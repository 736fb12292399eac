"""What `deploy/`, the Dockerfile and docs/deploy.md say: it parses, the tools accept it, and it fits together."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from slayq import __version__

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
UNIT = DEPLOY / "systemd" / "slayq-server.service"
GRACE = 30
"""Seconds that the server takes to drain by default."""


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# ── all files ──


@pytest.mark.parametrize(
    "path",
    sorted(DEPLOY.rglob("*.y*ml")) + sorted(DEPLOY.rglob("*.json")),
    ids=lambda path: str(path.relative_to(DEPLOY)),
)
def test_every_file_parses(path: Path) -> None:
    """Each YAML and JSON file of deploy/ parses, and is not empty."""
    text = path.read_text(encoding="utf-8")
    documents = [json.loads(text)] if path.suffix == ".json" else list(yaml.safe_load_all(text))
    assert [bool(document) for document in documents] == [True] * len(documents)


@pytest.mark.parametrize("page", ["deploy.md", "metrics.md", "runbook.md"])
def test_docs_name_files_that_exist(page: str) -> None:
    """Every file of deploy/ that the docs name is there, and every link between the pages leads somewhere."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`(deploy/[\w./-]+)`", text)) | {
        f"docs/{link}" for link in re.findall(r"\]\((\w+\.md)\)", text)
    }
    assert {name for name in named if not (ROOT / name).exists()} == set()


# ── Compose ──


def compose() -> dict[str, Any]:
    services: dict[str, Any] = load(DEPLOY / "docker-compose.yml")["services"]
    return services


def test_compose_mounts_what_exists() -> None:
    """Every file or folder that compose mounts is there, and every volume is declared."""
    declared = load(DEPLOY / "docker-compose.yml")["volumes"].keys()
    sources = [mount.split(":")[0] for service in compose().values() for mount in service.get("volumes", [])]
    missing = [
        source
        for source in sources
        if not ((DEPLOY / source).exists() if source.startswith(".") else source in declared)
    ]
    assert missing == []
    assert (DEPLOY / compose()["slayq-server"]["build"] / "Dockerfile").resolve() == ROOT / "Dockerfile"


def test_compose_joins_its_parts() -> None:
    """Prometheus scrapes the server where it listens, and Grafana finds Prometheus and the dashboard where they are."""
    config = json.loads((DEPLOY / "slay-config.json").read_text(encoding="utf-8"))
    targets = load(PROMETHEUS / "prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == [f"slayq-server:{config['http']['port']}"]
    assert config["http"]["bind"] == "0.0.0.0"
    source = load(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    path = load(DEPLOY / "grafana/provisioning/dashboards/slayq.yml")["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{path}:ro" in compose()["grafana"]["volumes"]


def test_compose_pins_images_and_publishes_on_loopback_alone() -> None:
    """No image floats, no port is open to the world, nothing may gain privileges, and our image is this release."""
    images = {name: service["image"] for name, service in compose().items()}
    assert [image for image in images.values() if not re.search(r":v?\d+\.\d+", image)] == []
    assert images["slayq-server"] == f"slayq-server:{__version__}"
    ports = [port for service in compose().values() for port in service.get("ports", [])]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert [name for name, service in compose().items() if service["security_opt"] != ["no-new-privileges:true"]] == []
    assert int(compose()["slayq-server"]["stop_grace_period"].removesuffix("s")) > GRACE


def test_compose_demands_its_secrets_and_names_them() -> None:
    """Every variable that compose needs is in .env.example, without a value, and demanded with a message."""
    text = (DEPLOY / "docker-compose.yml").read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{(\w+)", text))
    demanded = set(re.findall(r"\$\{(\w+):\?set \1 in \.env\}", text))
    example = (DEPLOY / ".env.example").read_text(encoding="utf-8")
    offered = dict(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE))
    assert (used, demanded, offered) == (offered.keys(), offered.keys(), dict.fromkeys(offered, ""))


# ── systemd ──


def unit() -> dict[str, list[str]]:
    """The settings of the unit; one that may come several times keeps all its values."""
    settings: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


def test_the_unit_notifies_reloads_and_stops_in_time() -> None:
    """The unit waits for readiness, has a watchdog, reloads by SIGHUP, leaves more than the grace period to stop."""
    settings = unit()
    wanted = {
        "Type": ["notify"],
        "NotifyAccess": ["main"],
        "WatchdogSec": ["30s"],
        "ExecReload": ["/bin/kill -HUP $MAINPID"],
        "KillSignal": ["SIGTERM"],
        "Restart": ["always"],
        "RestartPreventExitStatus": ["78"],
        "DynamicUser": ["yes"],
        "NoNewPrivileges": ["yes"],
        "ProtectSystem": ["strict"],
        "CapabilityBoundingSet": [""],
    }
    assert {key: settings.get(key) for key in wanted} == wanted
    assert int(settings["TimeoutStopSec"][0].removesuffix("s")) > GRACE


def analyze(*arguments: str) -> tuple[int, str]:
    binary = shutil.which("systemd-analyze")
    if binary is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    done = subprocess.run(
        [binary, *arguments], timeout=60, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True
    )
    return done.returncode, done.stdout


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say (of a copy whose program is one that is installed here)."""
    text = UNIT.read_text(encoding="utf-8")
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/opt/slayq/bin/slayq-server", str(Path(sys.executable).resolve())), encoding="utf-8")
    code, output = analyze("verify", str(copy))
    remarks = [line for line in output.splitlines() if UNIT.name in line]
    assert (code, remarks) == (0, []), output


def test_systemd_finds_the_unit_hardened() -> None:
    """`systemd-analyze security` rates what the unit can reach at 2.0 of 10 at most."""
    code, output = analyze("security", "--offline=true", "--no-pager", "--threshold=20", str(UNIT))
    assert code == 0, output


# ── Kubernetes ──


def container() -> dict[str, Any]:
    only: list[dict[str, Any]] = load(DEPLOY / "kubernetes/deployment.yaml")["spec"]["template"]["spec"]["containers"]
    return only[0]


def test_kubernetes_probes_ask_the_right_endpoints() -> None:
    """Liveness and start ask for the process alone, readiness for all of it; each on the port that is declared."""
    probes = {probe: container()[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {
        "startupProbe": {"path": "/livez", "port": "http"},
        "livenessProbe": {"path": "/livez", "port": "http"},
        "readinessProbe": {"path": "/readyz", "port": "http"},
    }
    assert container()["ports"] == [{"name": "http", "containerPort": 8288}]


def test_kubernetes_runs_this_release_without_rights() -> None:
    """The pods run this release's image as the image's user, read-only, with no capability, and may drain."""
    pod = load(DEPLOY / "kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    assert container()["image"] == f"slayq-server:{__version__}"
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert pod["automountServiceAccountToken"] is False
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["terminationGracePeriodSeconds"] > GRACE


def test_the_kubernetes_service_finds_the_pods() -> None:
    """The Service selects the Deployment's pods, and its port is theirs."""
    deployment, service = (load(DEPLOY / "kubernetes" / name) for name in ("deployment.yaml", "service.yaml"))
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert service["spec"]["ports"] == [{"name": "http", "port": 8288, "targetPort": "http"}]


# ── Dockerfile ──


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, comments dropped and lines joined: (keyword, the rest)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    return [(keyword, rest) for keyword, _, rest in (line.partition(" ") for line in lines)]


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, its FROM first."""
    starts = [index for index, (keyword, _) in enumerate(instructions()) if keyword == "FROM"]
    return [instructions()[start:end] for start, end in pairwise([*starts, None])]


def last(keyword: str) -> str:
    """The value in force of an instruction of the last stage."""
    return [rest for word, rest in stages()[-1] if word == keyword][-1]


def test_the_image_is_pinned() -> None:
    """Every stage starts from a slim Python of a full version: no `latest`, no tag that floats."""
    default = next(rest for keyword, rest in instructions() if keyword == "ARG")
    assert re.fullmatch(r"PYTHON=\d+\.\d+\.\d+-slim-\w+", default)
    assert [stage[0][1].split(" AS ")[0] for stage in stages()] == ["python:${PYTHON}", "python:${PYTHON}"]


def test_the_image_runs_without_rights() -> None:
    """The last stage ends as a numeric user who is not root, and it is the one that Kubernetes names."""
    assert last("USER") == "10001:10001"


def test_the_image_starts_stops_and_checks_itself() -> None:
    """The server is the entry point, the config path its default, SIGTERM stops it, and it checks its own health."""
    assert json.loads(last("ENTRYPOINT")) == ["slayq-server"]
    assert json.loads(last("CMD")) == ["/etc/slayq/slay-config.json"]
    assert last("STOPSIGNAL") == "SIGTERM"
    options, _, command = last("HEALTHCHECK").partition("CMD ")
    assert json.loads(command) == ["slayq-server", "healthcheck"]
    assert [option.split("=")[0] for option in options.split()] == [
        "--interval",
        "--timeout",
        "--start-period",
        "--retries",
    ]


def test_the_last_stage_has_no_build_tools() -> None:
    """The last stage installs nothing: it takes the environment from the first, and drops the base image's pip."""
    runs = " ".join(rest for keyword, rest in stages()[-1] if keyword == "RUN")
    assert [word for word in ("apt-get", "gcc", "pip install", "curl", "wget") if word in runs] == []
    assert "pip uninstall --yes pip" in runs
    copied = [rest for keyword, rest in stages()[-1] if keyword in {"COPY", "ADD"}]
    assert copied == ["--from=build /opt/slayq /opt/slayq"]


def test_the_build_takes_only_what_it_needs() -> None:
    """What the Dockerfile copies is in the checkout, and is all that .dockerignore lets through."""
    copied = {
        source.removeprefix("./") for word, rest in stages()[0] if word == "COPY" for source in shlex.split(rest)[:-1]
    }
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    allowed = {line.removeprefix("!") for line in patterns if line.startswith("!")}
    assert (patterns[0], allowed) == ("*", copied)
    assert {source for source in copied if not (ROOT / source).exists()} == set()


def test_no_secret_in_the_image() -> None:
    """Neither stage sets a secret: they come with `docker run`."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    settings = [rest for keyword, rest in instructions() if keyword in {"ENV", "ARG"}]
    assert [setting for setting in settings if re.search(r"SECRET|PASSWORD|TOKEN|DATABASE_URL", setting)] == []
    assert ":latest" not in text
