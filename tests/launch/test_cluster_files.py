"""The files of jobs/cluster: a linter's word on the Dockerfile, schemas of the manifests, and that commands exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from support.places import ROOT

from pipeline.cli.main import main as cli

FOLDER = ROOT / "jobs" / "cluster"

#: What of the two kinds the files use, as Kubernetes and KubeRay document it; nothing else is allowed.
ENVIRONMENT = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "value": {"type": "string"},
            "valueFrom": {
                "properties": {"secretKeyRef": {"type": "object", "required": ["name", "key"]}},
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    },
}
POD = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["containers"],
            "properties": {
                "restartPolicy": {"enum": ["Always", "Never", "OnFailure"]},
                "containers": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["name", "image"],
                        "properties": {
                            "name": {"type": "string"},
                            "image": {"type": "string"},
                            "command": {"type": "array", "items": {"type": "string"}},
                            "env": ENVIRONMENT,
                            "volumeMounts": {"type": "array"},
                            "resources": {
                                "type": "object",
                                "patternProperties": {
                                    "^(requests|limits)$": {"additionalProperties": {"type": "string"}}
                                },
                                "additionalProperties": False,
                            },
                        },
                        "additionalProperties": False,
                    },
                },
                "volumes": {"type": "array"},
            },
            "additionalProperties": False,
        }
    },
    "additionalProperties": False,
}
START = {"type": "object", "additionalProperties": {"type": "string"}}
SCHEMAS: dict[str, Any] = {
    "RayJob": {
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
    },
    "CronJob": {
        "required": ["schedule", "jobTemplate"],
        "properties": {
            "schedule": {"type": "string", "pattern": r"^(\S+ ){4}\S+$"},
            "concurrencyPolicy": {"enum": ["Allow", "Forbid", "Replace"]},
            "jobTemplate": {
                "required": ["spec"],
                "properties": {
                    "spec": {
                        "required": ["template"],
                        "properties": {"backoffLimit": {"type": "integer"}, "template": POD},
                        "additionalProperties": False,
                    }
                },
            },
        },
        "additionalProperties": False,
    },
}


def understood(words: list[str]) -> None:
    """The command line exists with its options; nothing runs."""
    assert words[0] == "diffstyle"
    with click.Context(cli) as context:
        command = cli.get_command(context, words[1])
    assert command is not None
    command.make_context(words[1], words[2:])


@pytest.mark.parametrize("name", ["rayjob", "cronjob"])
def test_the_manifests_fit_their_kinds(name):
    document = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert document["apiVersion"] == {"RayJob": "ray.io/v1", "CronJob": "batch/v1"}[document["kind"]]
    jsonschema.validate(document["spec"], {"type": "object", **SCHEMAS[document["kind"]]})
    if document["kind"] == "RayJob":
        understood(shlex.split(document["spec"]["entrypoint"]))
        decode = document["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]["rayStartParams"]["resources"]
        assert json.loads(json.loads(decode)) == {"decode": 1}  # KubeRay puts it into a shell's line as it is
        return
    (container,) = document["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    understood(container["command"])


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
