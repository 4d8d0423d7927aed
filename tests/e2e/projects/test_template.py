"""A project of one's own on the live platform: the page that says how, as it stands, and what a partner meets after it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sklearn.datasets import load_breast_cancer

from support import pages
from support.helm import NAMESPACE, REPO
from support.platform import Gateway

#: Of the page.
NAME = "tumours"
#: A person whom git knows, for the commit of the project.
PERSON = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

pytestmark = pytest.mark.timeout(900)


@dataclass
class Partner:
    """Somebody who has followed the page: the terminal, which stands in the project, and all that it showed."""

    terminal: pages.Session
    said: str


@pytest.fixture(scope="module")
def partner(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Partner]:
    """The page's commands, in a folder that holds what a clone would have."""
    clone = pages.clone(tmp_path_factory.mktemp("template"))
    with pages.without(gateway, NAME), pages.Session(clone, PERSON) as terminal:
        yield Partner(terminal, terminal.page(REPO / "docs" / "template.md"))


def test_a_csv_file_becomes_a_served_model(partner: Partner, gateway: Gateway) -> None:
    assert "data/tumours.csv: 569 rows are valid" in partner.said
    assert re.search(r"answers 50 rows as evaluated\nprediction\n", partner.said), partner.said[-2000:]
    assert "version 1 answered 569 rows" in partner.said
    champion = gateway.mlflow.get_model_version_by_alias(NAME, "champion")
    assert champion.tags["status"] == "champion"
    run = gateway.mlflow.get_run(champion.run_id)
    assert run.data.metrics["accuracy"] > 0.9
    assert run.data.tags["dataset"] == champion.tags["dataset"]
    commit = partner.terminal.bash("git rev-parse HEAD").strip()
    assert run.data.tags["mlflow.source.git.commit"] == champion.tags["mlflow.source.git.commit"] == commit


def test_the_served_model_is_right_about_rows_by_name(partner: Partner, gateway: Gateway) -> None:
    table = load_breast_cancer(as_frame=True).frame
    truth = table.pop("target").tolist()
    answers = gateway.model(NAME, NAMESPACE).predict(table.to_dict("records")).json()["predictions"]
    right = [str(answer) == str(wanted) for answer, wanted in zip(answers, truth, strict=True)]
    assert sum(right) / len(right) > 0.95


def test_data_that_breaks_the_contract_starts_nothing(partner: Partner, gateway: Gateway) -> None:
    before = len(gateway.mlflow.search_model_versions(f"name='{NAME}'"))
    said = partner.terminal.bash(
        "sed '2s/^[^,]*/much/' ../tumours.csv > ../broken.csv\n"
        "iml4e project run --data ../broken.csv && echo 'it ran' || true"
    )
    assert "first: 'mean radius': is no number, 1 case(s), such as line 2: 'much'; nothing was stored" in said
    assert "it ran" not in said
    assert len(gateway.mlflow.search_model_versions(f"name='{NAME}'")) == before
