"""The package as a whole: how it imports, and which room may know which, what is installed."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
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
    code = (
        "import dali_mix, dali_mix.fn, dali_mix.smmix, dali_mix.train.pipelines as p; print(dali_mix.__version__); "
        "assert p.ready_made()['cifar'][0].__module__ == 'dali_mix.pipelines.cifar'"
    )
    result = python(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "0.1.0"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the source distribution of a copy of this tree."""
    folder, source = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("source")
    for name in ("dali_mix", "pipelines", "docs", "docker", "examples", "tests", ".ci"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "built"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    code = "import sys, setuptools.build_meta as b; to = sys.argv[1]; b.build_wheel(to); b.build_sdist(to)"
    result = subprocess.run([sys.executable, "-c", code, folder], cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder


def test_the_wheel_holds_all_code_below_one_name(built):
    (wheel,) = built.glob("*.whl")
    held = {Path(name) for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = [
        path for room in ("dali_mix", "pipelines") for path in (ROOT / room).rglob("*.py") if "built" not in path.parts
    ]
    data = [
        *ROOT.glob("dali_mix/train/settings/recipes/*"),
        *ROOT.glob("dali_mix/native/src/**/*.*"),
        ROOT / "dali_mix/py.typed",
    ]
    tree = {path.relative_to(ROOT) for path in [*code, *data]}
    assert {path if path.parts[0] == "dali_mix" else "dali_mix" / path for path in tree} == held


def test_the_source_distribution_holds_what_tests_it_and_explains_it(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        held = {Path(*Path(name).parts[1:]) for name in file.getnames()}
    tree = [
        *ROOT.glob("docs/*"),
        *ROOT.glob("docker/*"),
        *ROOT.glob("examples/*.py"),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("pipelines/*.py"),
    ]
    tree += [ROOT / name for name in "Makefile constraints.txt train_imagenet.py LICENSE README.md .gitignore".split()]
    assert [path for path in tree if path.relative_to(ROOT) not in held] == []


def test_an_installed_wheel_trains_beside_a_projects_own_pipelines(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    project = tmp_path / "project"
    project.mkdir()
    (project / "pipelines.py").write_text("raise SystemExit('the wrong pipelines was imported')")
    code = "from dali_mix.pipelines import imagenet; from dali_mix.tools.cli import main; print(imagenet.__file__); "
    code += "raise SystemExit(main(['train', '--data-dir', 'nowhere', '--device', 'cpu']))"
    result = python(code, cwd=project, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")})
    assert result.returncode == 2
    assert result.stdout.startswith(str(tmp_path / "site"))
    assert result.stderr == (
        "dali-mix train: error: --data-dir nowhere does not exist; give a folder with train/ and val/\n"
    )


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "dali_mix":
            yield from (f"dali_mix.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


PLAIN = [
    "dali_mix.dali_private",
    "dali_mix.batch",
    "dali_mix.branches",
    "dali_mix.errors",
    "dali_mix.files",
    "dali_mix.helpers",
    "dali_mix.options",
    "dali_mix.terminal",
    "dali_mix.text",
]
"""Know nothing of any room."""


def rooms(*names):
    return [*(f"dali_mix.{name}" for name in names), *PLAIN]


@pytest.mark.parametrize(
    ("room", "may_know"),
    [
        ("dali_mix/native", rooms("native")),
        ("dali_mix/fn", rooms("fn", "native")),
        ("dali_mix/sources", rooms("sources")),
        ("dali_mix/loading", rooms("loading", "sources", "fn", "native")),
        ("dali_mix/models", rooms("models")),
        ("dali_mix/methods", rooms("methods", "models")),
        ("dali_mix/train", rooms("train", "loading", "sources", "fn", "native", "methods", "models", "__version__")),
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


TRAIN = ROOT / "dali_mix/train"
FLOORS = ("settings", "checkpoint", "output")
"""Folders of train/; each may know those before it.  A file beside them is below what it is imported by."""


def train_modules():
    """Every module of train/, with those of train/ that it imports."""
    known = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in TRAIN.rglob("*.py")}
    known = {name.removesuffix(".__init__"): file for name, file in known.items()}

    def resolved(name):
        parts = name.split(".")
        return next((".".join(parts[:end]) for end in range(len(parts), 2, -1) if ".".join(parts[:end]) in known), None)

    def of(file):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield from (resolved(f"{node.module}.{alias.name}") for alias in node.names)
        yield from (resolved(name) for name in imports_of(file))

    return {name: {other for other in of(file) if other and other != name} for name, file in known.items()}


def folder_of(module):
    parts = module.split(".")
    return parts[2] if len(parts) > 2 and parts[2] in FLOORS else ""


def test_arrows_between_the_folders_of_the_trainer_point_one_way():
    """A file that a folder needs must not need that folder, nor one above it, by whatever way."""
    imports = train_modules()

    def needs(module, seen):
        for other in imports.get(module, ()):
            if other not in seen:
                seen.add(other)
                needs(other, seen)
        return seen

    wrong = []
    for module in imports:
        floor = folder_of(module)
        if floor:
            above = FLOORS[FLOORS.index(floor) + 1 :]
            wrong += [f"{module} needs {other}" for other in needs(module, set()) if folder_of(other) in above]
            below = {other for other in needs(module, set()) if not folder_of(other)}
            wrong += [f"{module} needs {other}, which needs {floor}/" for other in below
                      if any(folder_of(each) == floor for each in needs(other, set()))]  # fmt: skip
    assert wrong == []


def functions():
    for file in [*ROOT.glob("dali_mix/**/*.py"), *ROOT.glob("pipelines/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{file.relative_to(ROOT)}: {node.name}", node


PUBLIC = {"random_mix", "cutmix", "mixup", "draw_cutmix"}
"""Operators whose parameters are options of a graph, given by name."""


def test_functions_stay_short():
    """What they do, that is; docstring and parameters, a line each, are not counted."""

    def length(node):
        first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
        return node.end_lineno - first.lineno + 1

    assert [name for name, node in functions() if length(node) > 60] == []


def test_functions_take_few_parameters():
    def count(node):
        return len([each for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                    if each.arg not in ("self", "cls")])  # fmt: skip

    assert [name for name, node in functions() if count(node) > 13 and node.name not in PUBLIC] == []


def test_the_trainer_names_no_method_of_the_step():
    """Its recipes may: they are flags."""
    words = ("smmix", "token_head", "fine_grained", "consistency")
    lines = [line for file in TRAIN.rglob("*.py") for line in file.read_text().lower().splitlines()]
    assert [line for line in lines if any(word in line for word in words)] == []


def test_private_parts_of_dali_are_touched_in_one_file():
    """What begins with an underscore is of another object than ``self``, and of none of our own or torch's."""
    touched = re.compile(r"(?<![\w.])(?:pipeline|pipe|iterator|fn|types|Pipeline|nvidia\.dali)\._[a-z]\w*")
    files = [*ROOT.glob("dali_mix/**/*.py"), *ROOT.glob("pipelines/*.py"), *ROOT.glob("examples/*.py")]
    found = {
        str(file.relative_to(ROOT)): touched.findall(re.sub(r"\bself\.\w+", "", file.read_text())) for file in files
    }
    assert [name for name, parts in found.items() if parts] == ["dali_mix/dali_private.py"]
    names = ("_consumer_iter", "_ever_consumed", "_enable_checkpointing", "_pipes",
             "_input_callbacks", "_restore_state_from_checkpoint", "_get_checkpoint", "_init_args")  # fmt: skip
    named = [str(file.relative_to(ROOT)) for file in files if any(name in file.read_text() for name in names)]
    assert named == ["dali_mix/dali_private.py"]
