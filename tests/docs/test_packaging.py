"""What the wheel must hold."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ds4_mlx.engine.hub import DEFAULT_MODEL

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("folder", sorted(p.parent for p in (ROOT / "ds4_mlx").rglob("__init__.py")), ids=str)
def test_every_package_is_listed_for_the_wheel(folder: Path) -> None:
    name = ".".join(folder.relative_to(ROOT).parts)
    assert f'    "{name}",\n' in PYPROJECT


def wheel_files() -> list[Path]:
    """What setuptools packs: the sources, and what the globs of package-data name."""
    package = ROOT / "ds4_mlx"
    (globs,) = re.findall(r"\[tool\.setuptools\.package-data\]\nds4_mlx = \[([^\]]*)\]", PYPROJECT)
    data = [path for glob in re.findall(r'"(.+?)"', globs) for path in package.glob(glob) if path.is_file()]
    return [*package.rglob("*.py"), *(ROOT / "convert").glob("*.py"), *data]


def test_the_wheel_holds_the_default_model_and_no_other() -> None:
    files = set(wheel_files())
    assert {path.parent for path in files if path.suffix == ".safetensors"} == {DEFAULT_MODEL}
    assert {path for path in DEFAULT_MODEL.iterdir() if path.is_file()} <= files


def test_the_wheel_is_no_larger_than_20_mib(tmp_path: Path) -> None:
    """Packed as a wheel is, with deflate; building one would need the network."""
    with zipfile.ZipFile(tmp_path / "wheel.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in wheel_files():
            archive.write(path, path.relative_to(ROOT))
    assert (tmp_path / "wheel.zip").stat().st_size <= 20 << 20


def test_versions_agree() -> None:
    import ds4_mlx

    assert f'version = "{ds4_mlx.__version__}"' in PYPROJECT


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_runs_in_an_environment_of_its_own(tmp_path: Path) -> None:
    """Catches what is missing in the wheel: packages, data, dependencies. Needs the package index."""

    def run(*command: str | Path, cwd: Path = tmp_path) -> str:
        done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "ds4_mlx", "convert"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("ds4_mlx-*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    programs = tmp_path / "venv" / "bin"
    extra = "[cpu]" if sys.platform == "linux" else ""
    run(programs / "pip", "install", "--quiet", f"{wheel}{extra}")
    assert run(programs / "ds4-mlx", "--version").startswith("ds4-mlx ")
    assert "42" in run(programs / "ds4-mlx", "generate", "-p", "What is 12 + 30?", "--no-think", "--temp", "0")
    everything = (
        "import pkgutil, importlib, ds4_mlx, ds4_convert\n"
        "for package in (ds4_mlx, ds4_convert):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "print('imported')"
    )
    assert "imported" in run(programs / "python", "-c", everything)
