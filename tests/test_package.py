"""The package as a whole: how it imports, and which room may know which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


def test_without_dali_the_extra_is_named():
    result = python("import sys; sys.modules['nvidia.dali'] = None; import dali_mix")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: dali_mix needs NVIDIA DALI")
    assert "dali_mix[cuda13]" in last
    assert "dali_mix[cuda12]" in last


def test_a_users_own_pipelines_package_is_no_obstacle(tmp_path):
    (tmp_path / "pipelines.py").write_text("raise SystemExit('the wrong pipelines was imported')")
    code = "import dali_mix, dali_mix.fn, dali_mix.smmix, dali_mix.train; print(dali_mix.__version__)"
    result = python(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "0.1.0"


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "dali_mix":
            yield from (f"dali_mix.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(
    ("room", "may_know"),
    [
        ("dali_mix/native", ["dali_mix.native", "dali_mix.errors"]),
        ("dali_mix/fn", ["dali_mix.fn", "dali_mix.native", "dali_mix.errors"]),
        ("dali_mix/data", ["dali_mix.data", "dali_mix.fn", "dali_mix.native", "dali_mix.errors"]),
        ("dali_mix/smmix", ["dali_mix.smmix", "dali_mix.models", "dali_mix.errors"]),
        ("dali_mix/models", ["dali_mix.models"]),
        (
            "dali_mix/train",
            [f"dali_mix.{room}" for room in ("train", "data", "native", "smmix", "models", "errors")],
        ),
        ("pipelines", ["dali_mix"]),
    ],
)
def test_imports_point_one_way(room, may_know):
    files = list((ROOT / room).rglob("*.py"))
    assert files
    ours = [
        (file, name) for file in files for name in imports_of(file) if name.split(".")[0] in ("dali_mix", "pipelines")
    ]
    strangers = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file, name in ours
        if not any(name == known or name.startswith(known + ".") or known == "dali_mix" for known in may_know)
    ]
    assert strangers == []


def test_files_stay_small():
    files = [*ROOT.glob("dali_mix/**/*.py"), *ROOT.glob("pipelines/*.py"), *ROOT.glob("tests/**/*.py")]
    assert [str(file) for file in files if len(file.read_text().splitlines()) > 400] == []
