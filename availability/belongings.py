"""What the measurement brings and takes away again: a model of two replicas with two versions, a run of MLflow, an experiment of Pipelines."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx

from scripts.common import console

from . import endpoints
from .endpoints import Endpoint, Found
from .release import Release


class Belongings:
    """Made for one run of the measurement; `remove` takes them away again."""

    def __init__(self, release: Release) -> None:
        """Nothing is made yet."""
        self.release = release
        self.name = f"availability-{secrets.token_hex(2)}"
        self.model = ""
        """Name of the model of two replicas; empty: it could not be deployed."""
        self.undo = ExitStack()

    def environment(self) -> dict[str, str]:
        """Of programs that act as a user of the release."""
        return {
            **os.environ,
            "IML4E_URL": self.release.url,
            "IML4E_RELEASE": self.release.name,
            "IML4E_NAMESPACE": self.release.namespace,
            "MLFLOW_TRACKING_URI": f"{self.release.url}/mlflow",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def iml4e(self, *words: str, timeout: float = 300) -> str:
        """Run the command `iml4e` as a user of the release."""
        program = Path(sys.executable).parent / "iml4e"
        return console.run([program, *words], env=self.environment(), timeout=timeout)

    def find(self, with_model: bool = True) -> Found:
        """Make what is missing, and return every endpoint that answers."""
        release = self.release
        with httpx.Client(base_url=release.url, timeout=30, trust_env=False) as session:
            try:
                found = endpoints.pages(session, release.name, release.namespace)
            except httpx.HTTPError as error:
                cure = "Name the address of the gateway: --url (IML4E_URL)."
                raise console.Failure(f"{release.url} does not answer: {error}.", cure) from error
            if session.get("/mlflow/health").status_code == 404:
                found.left_out.append("MLflow: not part of this release (404)")
            else:
                found.endpoints += self._mlflow(session)
                if with_model:
                    self._deploy(found)
            if session.get("/pipeline/apis/v2beta1/healthz").status_code == 404:
                found.left_out.append("Pipelines API: not part of this release (404)")
            else:
                found.endpoints += self._pipelines(session)
            self._models(session, found)
        return found

    def _post(self, session: httpx.Client, path: str, body: object) -> dict:
        answer = session.post(path, json=body)
        if answer.status_code != 200:
            raise console.Failure(f"{path} answers {answer.status_code} before anything happened: {answer.text[:300]}")
        return answer.json()

    def _mlflow(self, session: httpx.Client) -> list[Endpoint]:
        api = "/mlflow/api/2.0/mlflow"
        experiment = self._post(session, f"{api}/experiments/create", {"name": self.name})["experiment_id"]
        self.undo.callback(self._ask, "POST", f"{api}/experiments/delete", {"experiment_id": experiment})
        run = self._post(session, f"{api}/runs/create", {"experiment_id": experiment, "run_name": "load"})
        number = run["run"]["info"]["run_id"]
        path = endpoints.ARTIFACT.format(experiment=experiment, run=number)
        self.undo.callback(self._ask, "DELETE", path)
        if (answer := session.put(path, content=endpoints.CONTENT)).status_code != 200:
            raise console.Failure(f"{path} answers {answer.status_code} before anything happened: {answer.text[:300]}")
        return endpoints.mlflow(f"{self.release.namespace}-{self.release.name}-mlflow", number, experiment)

    def _pipelines(self, session: httpx.Client) -> list[Endpoint]:
        api = "/pipeline/apis/v2beta1/experiments"
        experiment = self._post(session, api, {"display_name": self.name})["experiment_id"]
        self.undo.callback(self._ask, "DELETE", f"{api}/{experiment}")
        return endpoints.pipelines(f"{self.release.namespace}-{self.release.name}-pipelines", experiment)

    def _deploy(self, found: Found) -> None:
        """Register two versions of a model and serve the first one by two pods."""
        kinds = self.release.kubectl("api-resources", "--api-group=serving.kserve.io", "--output=name")
        if "inferenceservices" not in kinds:
            found.left_out.append("a model of two replicas: this cluster serves no models (no KServe)")
            return
        name = f"{self.name}-model"
        with console.step("deploy a model of two replicas"):
            self.undo.callback(self._unregister, name)
            command = [sys.executable, "-m", "availability.train", name]
            console.run(command, env=self.environment(), timeout=400, cure="Leave it out: --no-model.")
            self.undo.callback(self._undeploy, name)
            self.iml4e("deploy", f"{name}/1", "--replicas", "2", "--max-replicas", "2", "--cpu", "20m", timeout=400)
            self.model = name

    def _undeploy(self, name: str) -> None:
        if self.release.kubectl("get", "inferenceservice", name, "--ignore-not-found"):
            self.iml4e("delete", name)

    def _unregister(self, name: str) -> None:
        self._ask("DELETE", "/mlflow/api/2.0/mlflow/registered-models/delete", {"name": name})
        with httpx.Client(base_url=self.release.url, timeout=30, trust_env=False) as session:
            api = "/mlflow/api/2.0/mlflow/experiments"
            there = session.get(f"{api}/get-by-name", params={"experiment_name": name})
            if there.status_code == 200:
                self._ask("POST", f"{api}/delete", {"experiment_id": there.json()["experiment"]["experiment_id"]})

    def _models(self, session: httpx.Client, found: Found) -> None:
        """Endpoints of every served model of the namespace."""
        try:
            names = [each["metadata"]["name"] for each in self.release.get("inferenceservices")]
        except console.Failure:
            names = []
        replicas = {each.part: each.replicas for each in self.release.workloads()}
        for name in sorted(names, key=lambda name: (name != self.model, name)):
            if name.startswith("availability-") and name != self.model:
                found.left_out.append(f"model {name}: of another measurement")
                continue
            rate = endpoints.FAST if name == self.model else endpoints.MEDIUM
            try:
                found.endpoints += endpoints.model(
                    session, self.release.namespace, name, rate, replicas.get(name, 0),
                    "model of two replicas" if name == self.model else "",
                )  # fmt: skip
            except (console.Failure, httpx.HTTPError, KeyError, ValueError) as error:
                found.left_out.append(f"model {name}: {getattr(error, 'what', error)}")

    def _ask(self, method: str, path: str, body: object = None) -> None:
        """Ask until the answer is right, for half a minute: what was made is to be taken away, even after an event that failed."""

        def gone() -> bool:
            try:
                with httpx.Client(base_url=self.release.url, timeout=10, trust_env=False) as session:
                    return session.request(method, path, json=body).status_code in (200, 404)
            except httpx.HTTPError:
                return False

        console.wait_until(gone, f"{method} {path}", 30)

    def remove(self) -> list[str]:
        """Take away all that was made; returns what could not be."""
        left = []
        while True:
            try:
                self.undo.close()
            except (console.Failure, subprocess.SubprocessError, httpx.HTTPError) as error:
                left.append(getattr(error, "what", str(error)))
            else:
                return left
