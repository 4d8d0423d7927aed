"""Sentences of the gateway's own errors: what is not there, what does not answer and why, and what is near."""

from __future__ import annotations

import difflib
from typing import Any
from urllib.parse import unquote

from reasons import one_line
from sources import KNOWN, State


def words(path: str) -> list[str]:
    """The parts of a path, as text that can be shown."""
    return [one_line(unquote(word))[:100] for word in path.split("/") if word]


def listed(names: list[str], most: int = 10) -> str:
    """Names in a sentence."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def not_found(path: str, state: State) -> str:
    """Why there is nothing at a path, and what is near."""
    parts = words(path) or [""]
    if parts[0] == "models":
        return _no_model(parts, state)
    if known := next((each for each in KNOWN.values() if each.path and each.path.strip("/") == parts[0]), None):
        if state.parts is not None and known.name not in {each.name for each in state.parts}:
            return (
                f"{known.title} is off in this release: `helm upgrade` with {known.name}.enabled=true switches it on."
            )
        return f"Nothing of {known.title} is at {_shown(path)}: its page is {known.path}, if {known.name}.route.enabled is true."
    pages = [each.path for each in state.pages()] + ["/models/"]
    near = difflib.get_close_matches(f"/{parts[0].lower()}/", pages, n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]}?" if near else f"There are /, {listed(pages)}."
    return f"Nothing is at {_shown(path)}. {hint}"


def _no_model(parts: list[str], state: State) -> str:
    if state.models is None:
        return (
            f"No model is served at /{'/'.join(parts[:3])}; which ones are cannot be told: {'; '.join(state.missing)}."
        )
    namespace, name = parts[1], parts[2] if len(parts) > 2 else ""
    here = [each.name for each in state.models if each.namespace == namespace]
    every = [f"/models/{each.namespace}/{each.name}/" for each in state.models]
    if name in here:
        return (
            f"Model {name} is in namespace {namespace}, and this gateway has no route to it: "
            "wait some seconds after its deployment, or serve it with `iml4e deploy`."
        )
    near = difflib.get_close_matches(name, [each.name for each in state.models], n=1, cutoff=0.7) if name else []
    best = next((each.path for each in state.models if [each.name] == near), "")
    there = f"Served are {listed(every)}." if every else "No model is served; `iml4e deploy MODEL/VERSION` serves one."
    there = f"Did you mean {best}/? {there}" if best and len(every) > 1 else there
    if not name:
        return f"Name a model: /models/{namespace}/NAME/. {there}"
    return f"No model {name} is served in namespace {namespace}. {there}"


def unavailable(path: str, status: int, state: State) -> str:
    """Why what is at a path does not answer."""
    parts = words(path)
    if parts[:1] == ["models"] and len(parts) > 2:
        found = state.model(parts[1], parts[2])
        what = f"Model {parts[2]} in namespace {parts[1]}"
        if state.models is None:
            return f"{what} does not answer; why cannot be told: {'; '.join(state.missing)}."
        if not found:
            return f"{what} is not served any more, or is in a namespace that this page may not read."
        if found.reason:
            return f"{what} is not ready: {found.reason}."
        return _itself(what, status, f"`iml4e logs {found.name}`")
    part = next((each for each in KNOWN.values() if each.path and each.path.strip("/") in parts[:1]), None)
    if parts[:1] == ["ml_metadata.MetadataStoreService"]:
        part = KNOWN["pipelines"]
    if not part:
        return f"What serves {_shown(path)} does not answer."
    if state.parts is None:
        return f"{part.title} does not answer; why cannot be told: {'; '.join(state.missing)}."
    found_part = next((each for each in state.parts if each.name == part.name), None)
    if not found_part:
        return f"{part.title} is off in this release."
    if found_part.reason:
        return f"{part.title} is not ready: {found_part.reason}."
    others = [f"{each.title} ({each.reason})" for each in state.parts if each.reason and each.name in part.needs]
    beside = f" Not ready, and needed by it: {listed(others)}." if others else ""
    return _itself(part.title, status, f"its log ({part.name})") + beside


def _itself(what: str, status: int, where: str) -> str:
    if status == 503:
        return f"{what} is ready now, and could not answer this request: try again; {where} may say why."
    kind = "in time" if status == 504 else "this request: the connection ended before an answer"
    return f"{what} is ready now, and did not answer {kind}; {where} may say why."


def _shown(path: str) -> str:
    return one_line(unquote(path))[:200]


def body(status: int, said: str, path: str) -> dict[str, Any]:
    """An error as JSON; below MLflow's path also as MLflow's clients read it."""
    content: dict[str, Any] = {"error": said, "status": status}
    if path.startswith("/mlflow"):
        content |= {"message": said, "error_code": "ENDPOINT_NOT_FOUND" if status == 404 else "TEMPORARILY_UNAVAILABLE"}
    return content
