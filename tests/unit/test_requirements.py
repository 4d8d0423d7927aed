"""What a model asks for, compared with what an image has."""

from __future__ import annotations

from pathlib import Path

import pytest

from iml4e import requirements
from iml4e.requirements import Image, Wanted, compare

IMAGE = Image("3.11.2", {"scikit-learn": "1.9.1", "mlflow": "3.17.2", "numpy": "2.4.0"})
LOCK = Path(__file__).parents[2] / "images" / "mlflow" / "requirements.txt"


def test_a_missing_package_is_fatal() -> None:
    found = compare(Wanted("3.11.9", ("mlflow==3.17.2", "xgboost==3.0", "Scikit_Learn>=1.9")), IMAGE)
    assert found.missing == ["xgboost==3.0"]
    assert found.different == []
    assert found.fatal


def test_tools_around_the_training_are_not_needed() -> None:
    assert not compare(Wanted(packages=("psutil==5.9.8", "ipykernel==7.0")), IMAGE).missing


def test_another_version_is_told() -> None:
    found = compare(Wanted(packages=("scikit-learn==1.6.1", "numpy<3,>=2")), IMAGE)
    assert found.different == ["scikit-learn==1.6.1 (the image has 1.9.1)"]
    assert not found.fatal


@pytest.mark.parametrize(
    "line", ["", "# comment", "-r other.txt", "--index-url x", "./wheel.whl", 'pywin32; sys_platform == "win32"']
)
def test_lines_that_ask_for_nothing(line: str) -> None:
    assert not compare(Wanted(packages=(line,)), IMAGE).missing


@pytest.mark.parametrize(
    ("marker", "asked"),
    [
        ("sys_platform == 'darwin'", False),
        ("platform_system == 'Darwin'", False),
        ("os_name == 'nt'", False),
        ("sys_platform == 'linux'", True),
        ("platform_system == 'Linux' and os_name == 'posix'", True),
        ("python_full_version >= '3.12'", False),
    ],
)
def test_markers_are_those_of_the_image(marker: str, asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    found = compare(Wanted(packages=(f"pyobjc-core; {marker}",)), IMAGE)
    assert bool(found.missing) is asked


def test_hashes_and_extras_are_read() -> None:
    assert requirements.pinned("mlflow[extras]==3.17.2 \\") == ("mlflow", "3.17.2")
    assert requirements.pinned("numpy==2.4.0 --hash=sha256:12 # why") == ("numpy", "2.4.0")


@pytest.mark.parametrize(
    ("python", "pickled", "told", "fatal"),
    [
        ("3.11.9", True, False, False),
        ("3.13.1", False, True, False),
        ("3.13.1", True, True, True),
        ("", True, False, False),
    ],
)
def test_python_matters_to_pickled_code(python: str, pickled: bool, told: bool, fatal: bool) -> None:
    found = compare(Wanted(python, (), pickled), IMAGE)
    assert (bool(found.python), found.fatal) == (told, fatal)


def test_of_an_unknown_image_nothing_is_said() -> None:
    found = compare(Wanted("3.13", ("xgboost",), True), requirements.image(known=False))
    assert not (found.missing)
    assert not (found.different)
    assert not (found.python)
    assert not (found.fatal)


def test_extra_packages_count() -> None:
    image = requirements.image(["xgboost==3.0", "lightgbm>=4"])
    assert not compare(Wanted(packages=("xgboost==3.0", "lightgbm==4.6")), image).missing


def test_shipped_list_is_that_of_the_image() -> None:
    locked = {requirements.pinned(line) for line in LOCK.read_text().splitlines() if line[:1].isalnum()}
    shipped = {requirements.pinned(line) for line in requirements.DEFAULT.read_text().splitlines()}
    assert shipped == locked - {("", "")}, "write src/iml4e/data/packages.txt anew: `make lock`"
