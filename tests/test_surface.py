"""What `import diffstyle` and `import pipeline` give: exactly these names, each explained, loaded when asked for."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import diffstyle
import pipeline
from pipeline.jobfile.load import load_job
from pipeline.workers.base import Workers

ROOT = Path(__file__).resolve().parents[1]

NAMES = {
    diffstyle: {
        *("load_unet", "save_unet", "UNet", "ADMArchitecture", "DDPMArchitecture"),
        *("Plan", "Step", "Injection", "aligned_plan", "grid_plan", "inversion_plan", "sampling_plan"),
        *("event_timesteps", "GammaSchedule", "ddim_invert", "ddim_sample", "inject", "slerp"),
        *("rectangle_mask", "reference_mask", "to_h_grid", "prepare", "to_tensor", "to_uint8", "seeded_noise"),
        *("DiffStyleError", "CheckpointError", "ConfigError"),
    },
    pipeline: {
        *("Job", "load_job", "open_source", "run", "Result", "FailedItem", "preview", "Preview", "status", "Status"),
        *("fit_plan", "PlanFit"),
        "failures",
        *("LatentBank", "Manifest", "LocalWorkers", "RayWorkers", "try_pair", "Trial"),
    },
}
PUBLIC = [(module, name) for module, names in NAMES.items() for name in sorted(names)]


@pytest.mark.parametrize("module", NAMES)
def test_these_names_and_no_others(module: ModuleType):
    assert set(module.__all__) == NAMES[module]
    assert module.__all__ == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="has no attribute 'ddim_invrt'"):
        module.ddim_invrt  # noqa: B018


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_every_name_is_explained(module: ModuleType, name: str):
    value = getattr(module, name)
    assert callable(value)
    assert len((value.__doc__ or "").split()) > 3
    assert not value.__doc__.startswith(f"{name}(")  # a dataclass's own
    members = vars(value) if isinstance(value, type) else {}
    for attribute, member in members.items():
        if not attribute.startswith("_") and (callable(member) or isinstance(member, property)):
            assert getattr(value, attribute).__doc__, f"{name}.{attribute} has no docstring"


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_arguments_are_explained_in_googles_style(module: ModuleType, name: str):
    """Of functions and methods; those that implement ``Workers`` have theirs explained there."""
    value = getattr(module, name)
    interface = vars(Workers) if hasattr(value, "given_batch") else {}
    members = vars(value) if isinstance(value, type) else {name: value}
    for attribute, member in members.items():
        function = getattr(member, "__func__", member)
        if attribute.startswith("_") or not inspect.isfunction(function):
            continue
        text = inspect.getdoc(interface.get(attribute, function)) or ""
        arguments = set(inspect.signature(function).parameters) - {"self", "cls"}
        section = text.partition("Args:")[2].partition("Returns:")[0].partition("Raises:")[0]
        missing = {argument for argument in arguments if not re.search(rf"\b{argument}\b", section)}
        assert not missing, f"{name}.{attribute}: no word about {', '.join(sorted(missing))}"
        assert "Raises " not in text, f"{name}.{attribute}: what it raises goes below `Raises:`"


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_no_submodule_hides_a_name(module: ModuleType, name: str):
    """Importing a submodule sets it as an attribute of its package, over whatever has its name."""
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{module.__name__}.{name}")


@pytest.mark.parametrize("module", ["diffstyle", "pipeline"])
def test_nothing_is_loaded_before_it_is_asked_for(module: str):
    code = f"import sys, {module}; print(sorted({{'torch', 'ray', 'pandas', 'pyarrow', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torch_is_imported_where_it_computes_and_no_sooner(tmp_path: Path):
    """To plan a job, prepare its pictures and ask how far it is, takes none of torch's second."""
    out = tmp_path / "out"
    code = f"""
import sys
import pipeline
job = pipeline.load_job("jobs/tiny.yaml", ["output={out}"])
pipeline.preview(job), pipeline.run(job, local=True, stages=["shard"], quiet=True), pipeline.status(job)
print(sorted({{"torch", "ray"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["diffstyle", "pipeline"])
def test_the_types_are_for_others_too(package: str):
    assert (ROOT / package / "py.typed").is_file()


def test_the_notebook_of_the_first_job(tmp_path: Path):
    """Its code cells in a fresh process, in its folder: nbclient would need Jupyter's kernel and twenty packages."""
    import json

    notebook = ROOT / "examples" / "first_job.ipynb"
    cells = json.loads(notebook.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert '"../results/first-job"' in code
    code = code.replace('"../results/first-job"', repr(str(tmp_path / "out")))
    done = subprocess.run([sys.executable, "-c", code], cwd=notebook.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "made 4 pairs" in done.stdout
    assert len(list((tmp_path / "out" / "pictures").rglob("*.png"))) == 4
    assert load_job(tmp_path / "out" / "job.yaml").output == str(tmp_path / "out")
