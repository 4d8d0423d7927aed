"""One front door: what it leads to, and what it does with the rest."""

from __future__ import annotations

from typing import Any

import pytest

from support.components import COMPONENTS, Component
from support.platform import FrontDoor


def test_root_leads_to_mlflow(front_door: FrontDoor) -> None:
    answer = front_door.get("/")
    assert answer.status_code in (301, 302, 307, 308)
    assert front_door.get("/", allow_redirects=True).url == f"{front_door.url}/mlflow/"


@pytest.mark.parametrize("component", [c for c in COMPONENTS if c.ui], ids=lambda component: component.name)
def test_page_of_part_opens(front_door: FrontDoor, values: dict[str, Any], component: Component) -> None:
    if component.name == "prometheus" and values["global"]["imageRegistry"] == "iml4e.local":
        pytest.skip("the Prometheus built here has no web page: its files are in no Go module")
    answer = front_door.get(component.ui, allow_redirects=True)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.url.startswith(front_door.url)


@pytest.mark.parametrize("path", ["/nowhere", "/models/", "/models/iml4e/no-such-model/v2/health/live"])
def test_unknown_path_is_not_found(front_door: FrontDoor, path: str) -> None:
    assert front_door.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/metrics", "/dashboard/", "/api/rawdata"])
def test_gateway_keeps_its_own_pages_to_itself(front_door: FrontDoor, path: str) -> None:
    assert front_door.get(path).status_code == 404


def test_any_host_name_will_do(front_door: FrontDoor) -> None:
    """A laptop, a port-forward, a DNS name: all without a hosts file."""
    assert front_door.get("/prometheus/-/healthy", headers={"Host": "ml.example.com"}).status_code == 200


def test_front_door_tells_its_own_health(front_door: FrontDoor) -> None:
    assert front_door.get("/ping").text == "OK"
