"""The tutorials, run as they stand: every cell and command, and what the pages show."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from iml4e import Error, datasets
from support import helm, pages
from support.helm import REPO
from support.k8s import Cluster
from support.platform import Gateway

TRAINING = REPO / "docs" / "training"
#: Tutorials that always run; the others take six minutes more, and show what other tests prove as well.
ALWAYS = ("own-data", "data-that-lies")
TUTORIALS = [
    pytest.param(
        page,
        id=page.stem,
        marks=() if page.stem in ALWAYS else pytest.mark.long,
    )
    for page in sorted(TRAINING.glob("tutorials/*.md"))
]
#: Models and endpoints that the tutorials make.
NAMES = ("training-tumours", "training-compare", "training-sklearn", "training-lightgbm", "training-rule")
#: Experiment of the searches.
SEARCH = "training-search"

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def prepared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Folder and environment of a terminal after the section Prepare. Packages of the harness are found there, so that pip installs ours alone."""
    folder = pages.clone(tmp_path_factory.mktemp("training"))
    packages = next((REPO / ".venv" / "lib").glob("python*/site-packages"))
    with pages.Session(folder, {"PYTHONPATH": str(packages)}) as reader:
        reader.page(TRAINING / "README.md")
        return reader.now()


@pytest.fixture
def clean(gateway: Gateway) -> Iterator[None]:
    """Endpoints, models, the search and the practice release are gone before and after."""

    def remove() -> None:
        helm.helm("uninstall", "training", "--namespace", "training", "--wait", "--ignore-not-found", timeout=120)
        # MLflow keeps the name of a deleted experiment
        if found := gateway.mlflow.get_experiment_by_name(SEARCH):
            gateway.mlflow.rename_experiment(found.experiment_id, f"{SEARCH}-{uuid.uuid4().hex[:8]}")
            gateway.mlflow.delete_experiment(found.experiment_id)
        with contextlib.suppress(Error):
            for each in datasets.listing("training/"):
                datasets.client().delete_object(Bucket=datasets.parse(each.address)[0], Key=each.key)

    with contextlib.ExitStack() as stack:
        for name in NAMES:
            stack.enter_context(pages.without(gateway, name))
        remove()
        stack.callback(remove)
        yield


@pytest.mark.parametrize("page", TUTORIALS)
def test_tutorial(page: Path, prepared: tuple[Path, dict[str, str]], cluster: Cluster, clean: None) -> None:
    """The page in a terminal of its own; the namespace of its practice release goes with it."""
    folder, environment = prepared
    try:
        with pages.Session(folder, environment) as reader:
            reader.page(page)
    finally:
        with contextlib.suppress(Exception):
            cluster.core.delete_namespace("training")
