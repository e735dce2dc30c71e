"""What the wheel must hold."""

import re
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
    (globs,) = re.findall(r"\[tool\.setuptools\.package-data\]\nds4_mlx = \[(.*)\]", PYPROJECT)
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
