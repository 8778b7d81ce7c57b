"""The files of jobs/cluster: a linter's word on the Dockerfile, schemas of the manifests, and that commands exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml
from support.places import ROOT

from pipeline.cli.main import main as cli

FOLDER = ROOT / "jobs" / "cluster"

#: The version of Kubernetes whose own schemas are used; they hold for all that KubeRay takes over from it: pods.
KUBERNETES = "1.30"

POD = {"type": "object"}  # looked at by Kubernetes' own schema
START = {"type": "object", "additionalProperties": {"type": "string"}}
#: What of a RayJob the file uses, with the types and required fields of KubeRay's published API (`ray.io/v1`), of which
#: no registry has a schema; nothing else is allowed.
RAY_JOB: dict[str, Any] = {
    "type": "object",
    "required": ["entrypoint", "rayClusterSpec"],
    "properties": {
        "entrypoint": {"type": "string"},
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "ttlSecondsAfterFinished": {"type": "integer"},
        "backoffLimit": {"type": "integer"},
        "submitterPodTemplate": POD,
        "rayClusterSpec": {
            "required": ["headGroupSpec"],
            "properties": {
                "rayVersion": {"type": "string"},
                "enableInTreeAutoscaling": {"type": "boolean"},
                "headGroupSpec": {
                    "required": ["rayStartParams", "template"],
                    "properties": {"rayStartParams": START, "template": POD},
                    "additionalProperties": False,
                },
                "workerGroupSpecs": {
                    "type": "array",
                    "items": {
                        "required": ["groupName", "maxReplicas", "minReplicas", "rayStartParams", "template"],
                        "properties": {
                            "groupName": {"type": "string"},
                            "replicas": {"type": "integer"},
                            "minReplicas": {"type": "integer"},
                            "maxReplicas": {"type": "integer"},
                            "rayStartParams": START,
                            "template": POD,
                        },
                        "additionalProperties": False,
                    },
                },
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}


def understood(words: list[str]) -> None:
    """The command line exists with its options; nothing runs."""
    assert words[0] == "diffstyle"
    with click.Context(cli) as context:
        command = cli.get_command(context, words[1])
    assert command is not None
    command.make_context(words[1], words[2:])


def check_by_kubernetes(document: dict[str, Any]) -> None:
    """By the schemas of Kubernetes itself; an unknown field is a mistake."""
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def pods_of(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The templates of pods in a RayJob."""
    cluster = spec["rayClusterSpec"]
    yield spec["submitterPodTemplate"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]


def as_document(template: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "one"}, "template": template}


def test_the_cronjob_fits_the_schema_of_kubernetes():
    document = yaml.safe_load((FOLDER / "cronjob.yaml").read_text())
    check_by_kubernetes(document)
    (container,) = document["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    understood(container["command"])


def test_the_rayjob_fits_what_kuberay_takes():
    document = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())
    spec = document["spec"]
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayJob")
    jsonschema.validate(spec, RAY_JOB)
    pods = list(pods_of(spec))
    assert len(pods) == 4
    for pod in pods:
        check_by_kubernetes(as_document(pod))
    understood(shlex.split(spec["entrypoint"]))
    decode = spec["rayClusterSpec"]["workerGroupSpecs"][1]["rayStartParams"]["resources"]
    assert json.loads(json.loads(decode)) == {"decode": 1}  # KubeRay puts it into a shell's line as it is


def test_a_wrong_field_of_a_pod_is_noticed():
    (first, *_) = pods_of(yaml.safe_load((FOLDER / "rayjob.yaml").read_text())["spec"])
    first["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        check_by_kubernetes(as_document(first))


def test_the_line_of_cron():
    (line,) = [line for line in (FOLDER / "crontab").read_text().splitlines() if not line.startswith("#")]
    assert re.match(r"(\S+ ){5}cd /srv/nightly && diffstyle ", line)
    understood(shlex.split(line.partition("&& ")[2].partition(" >>")[0]))


def test_the_dockerfile_pleases_hadolint():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("no hadolint")
    done = subprocess.run([hadolint, str(FOLDER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    text = (FOLDER / "Dockerfile").read_text()
    assert re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE) == ["cpu", "cuda"]
