"""Every reference resolves: Secrets, ConfigMaps, ServiceAccounts, claims, Services and their ports, roles, gateways."""

from __future__ import annotations

import pytest

from support.helm import profiles, render
from support.wiring import dangling

# what an administrator makes before installing with a profile, as values/README.md says
DATABASES = [f"iml4e-db-{name}" for name in ("mlflow", "mlpipeline", "metadb")]
KEYS = [f"iml4e-s3-{name}" for name in ("mlflow", "pipelines", "models")]
CLOUD = ["iml4e-tls", "iml4e-ca", *DATABASES]
# AWS needs no key, and on Azure and Google the release makes them
BEFOREHAND = {
    "cloud": [*CLOUD, *KEYS],
    "cloud-google": CLOUD,
    "cloud-aws": CLOUD,
    "cloud-azure": CLOUD,
}


@pytest.mark.parametrize("profile", profiles())
def test_every_reference_leads_somewhere(profile: str) -> None:
    assert dangling(render(profile), given=BEFOREHAND.get(profile, [])) == []


def test_every_reference_leads_somewhere_under_another_public_address() -> None:
    assert dangling(render("laptop", {"global": {"publicUrl": "https://ml.example.com"}})) == []


def test_nothing_still_points_at_the_old_public_address() -> None:
    values = {"global": {"publicUrl": "https://ml.example.com"}}
    assert [thing["metadata"]["name"] for thing in render("laptop", values) if "localhost:30080" in str(thing)] == []
