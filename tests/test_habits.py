"""The pages and files for contributors say what is there."""

from __future__ import annotations

import ast
import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def pinned(package: str) -> str:
    (line,) = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith(f"{package}==")]
    return line


def test_the_tour_names_files_that_are_there():
    named = re.findall(r"`([^`\s]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    paths = [name for name in named if "/" in name and not name.startswith("..")]
    assert len(paths) > 20
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "README.md"])
def test_links_lead_somewhere(name):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text())
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_hooks_use_the_tested_ruff():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff", "ruff-format"]
    for hook in repository["hooks"]:
        assert hook["additional_dependencies"] == [pinned("ruff")]


def test_the_workflow_runs_the_projects_own_script():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in commands
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_issue_forms_are_whole(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert form["blank_issues_enabled"] is True
        return
    assert {"name", "description", "body"} <= form.keys()
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
    assert all(field["attributes"]["label"] for field in form["body"])


def test_pictures_that_commands_write_into_the_clone_are_ignored():
    """Without --out they go into the working folder, which is the clone where a newcomer tries things."""
    texts = "".join(file.read_text() for file in (ROOT / "pipeline" / "cli").glob("*.py"))
    begun = re.findall(r'picture_target\(out, f"([a-z]+-){', texts)
    assert len(begun) >= 2
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert [name for name in begun if f"/{name}*.png" not in ignored] == []


def test_setup_says_what_it_does_and_how_long_it_takes(tmp_path):
    """Nothing is installed: make shows what it would do."""
    command = ["make", "--dry-run", "setup", f"VENV={tmp_path}/venv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    steps = [line for line in done.stdout.splitlines() if line.startswith("echo")]
    assert "minutes" in "".join(steps)
    (install,) = [line for line in done.stdout.splitlines() if "constraints.txt -e" in line]
    assert "--quiet" not in install
    assert f"source {tmp_path}/venv/bin/activate" in steps[-1]


#: Words that readers stumbled over -> what to write.
RIDDLES = {
    r"\bm[e]nd(s|ed)?\b": "fix",
    r"\b(leave|left|leaving)( \S+)? a[w]ay\b": "omit",
    r"\bstands? t[w]ice\b": "duplicate",
    r"\bis no assign[m]ent\b": "is not of the form FIELD=VALUE",
    r"\ba[n]ew\b": "again, or new",
}


def test_pages_and_code_are_in_plain_words():
    folders = ("pipeline", "diffstyle", "docs", "configs", "jobs", "benchmarks", "examples")
    files = [
        file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".md", ".yaml")
    ]
    texts = {file: file.read_text() for file in (*files, *ROOT.glob("*.md"))}
    assert len(texts) > 150
    assert [
        f"{file.relative_to(ROOT)}: '{match[0]}': write {better}"
        for file, text in texts.items()
        for pattern, better in RIDDLES.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ] == []


def test_variables_say_what_they_hold():
    """These words fit any value; so a reader has to look for what it is."""
    vague = {"found", "what", "there", "said", "told"}
    lines = []
    for file in (file for folder in ("pipeline", "diffstyle") for file in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text())):
            name = node.arg if isinstance(node, ast.arg) else node.id if isinstance(node, ast.Name) else ""
            if name in vague:
                lines.append(f"{file.relative_to(ROOT)}:{node.lineno}: {name}")
    assert lines == []


#: What is counted in messages; of one there is a 1.
COUNTED = (
    "pictures|pairs|rows|files|calls|members|labels|results|mistakes|decodes|injections|inversions|tries|entries|images"
    "|components|workers|items|styles|contents|settings|failures"
)


def uncounted(tree: ast.AST) -> list[int]:
    """Lines with ``f"{n} pictures"``, which says "1 pictures"; not of rates, texts and constants."""
    lines = []
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)):
        for value, text in itertools.pairwise(node.values):
            if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            source = ast.unparse(value.value)
            plain = value.format_spec is None or ast.unparse(value.format_spec) == "f','"
            number = plain and not source.isupper() and source not in ("side", "kind", "suffix", "_ENOUGH")
            if number and re.match(rf" (network )?({COUNTED})\b(?!/s)", str(text.value)):
                lines.append(node.lineno)
    return lines


def test_numbers_of_things_are_said_by_the_function_for_it():
    """``count(n, "picture")``; the pages that benchmarks write are of many."""
    assert uncounted(ast.parse('f"{n:,} pictures", f"{n} network calls"')) == [1, 1]
    assert uncounted(ast.parse("f\"{n:.2f} pictures/s {MOST} rows {count(n, 'pair')}\"")) == []
    files = [file for file in (ROOT / "pipeline").rglob("*.py") if "bench" not in file.parts]
    assert [
        f"{file.relative_to(ROOT)}:{line}: say it by count()"
        for file in files
        for line in uncounted(ast.parse(file.read_text()))
    ] == []


def unsafe_loads(tree: ast.AST) -> list[int]:
    """Lines that would run code of what they read: pickles, in whatever wrapper, and the like."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        module, _, name = function.rpartition(".")
        pickled = module in ("pickle", "cloudpickle", "joblib", "marshal", "dill", "shelve") and name != "dumps"
        tensors = function == "torch.load" and options.get("weights_only") != "True"
        arrays = options.get("allow_pickle") == "True"
        text = function in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle")
        if pickled or tensors or arrays or text:
            lines.append(node.lineno)
    return lines


def test_nothing_is_unpickled():
    for bad in ("pickle.load(f)", "torch.load(f)", "np.load(f, allow_pickle=True)", "eval(text)"):
        assert unsafe_loads(ast.parse(bad)) == [1]
    assert unsafe_loads(ast.parse("torch.load(f, weights_only=True)")) == []
    files = [file for folder in ("pipeline", "diffstyle") for file in sorted((ROOT / folder).rglob("*.py"))]
    lines = {str(file.relative_to(ROOT)): unsafe_loads(ast.parse(file.read_text())) for file in files}
    # An error of this process's own, to see whether it can travel.
    assert {name for name, numbers in lines.items() if numbers} == {"pipeline/workers/unit.py"}
    assert len(lines["pipeline/workers/unit.py"]) == 1
