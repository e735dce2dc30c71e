"""What the wheel must hold."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("folder", sorted(p.parent for p in (ROOT / "ds4_mlx").rglob("__init__.py")), ids=str)
def test_every_package_is_listed_for_the_wheel(folder: Path) -> None:
    name = ".".join(folder.relative_to(ROOT).parts)
    assert f'    "{name}",\n' in PYPROJECT


def test_versions_agree() -> None:
    import ds4_mlx

    assert f'version = "{ds4_mlx.__version__}"' in PYPROJECT
