"""OpenShift's `restricted-v2`, imitated by admission policies in one namespace: users and groups from a range of its own."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

#: The namespace's range, as OpenShift writes it into an annotation of the namespace.
FIRST, SIZE = 1000650000, 10000
API = "admissionregistration.k8s.io/v1"


def policies(namespace: str) -> list[Object]:
    """Policies for the pods of a namespace: one assigns user and group where a pod names none, one refuses others.

    Like OpenShift they leave `runAsGroup` alone: it is 0, as no image knows the user.
    """
    match = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
        ],
    }
    pod = "object.spec.securityContext"

    def inside(path: str) -> str:
        return f"(!has({path}) || ({path} >= {FIRST} && {path} < {FIRST + SIZE}))"

    def of_all(kind: str) -> str:
        test = f"!has(c.securityContext) || {inside('c.securityContext.runAsUser')}"
        return f"!has(object.spec.{kind}) || object.spec.{kind}.all(c, {test})"

    assign = (
        "Object{spec: Object.spec{securityContext: Object.spec.securityContext{"
        f"runAsUser: {pod}.?runAsUser.orValue({FIRST}), fsGroup: {pod}.?fsGroup.orValue({FIRST})}}}}}}"
    )
    checks = {
        inside(f"{pod}.runAsUser"): "runAsUser of the pod is not in the namespace's range",
        inside(f"{pod}.fsGroup"): "fsGroup is not in the namespace's range",
        of_all("containers"): "runAsUser of a container is not in the namespace's range",
        of_all("initContainers"): "runAsUser of an init container is not in the namespace's range",
    }
    mutations = [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": assign}}]
    validations = [{"expression": test, "message": text} for test, text in checks.items()]

    def bound(kind: str, spec: Object, **binding: Any) -> list[Object]:
        name = f"{namespace}-{kind.lower()}"
        return [
            {
                "apiVersion": API,
                "kind": f"{kind}AdmissionPolicy",
                "metadata": {"name": name},
                "spec": {"failurePolicy": "Fail", "matchConstraints": match, **spec},
            },
            {
                "apiVersion": API,
                "kind": f"{kind}AdmissionPolicyBinding",
                "metadata": {"name": name},
                "spec": {"policyName": name, **binding},
            },
        ]

    return [
        *bound("Mutating", {"mutations": mutations, "reinvocationPolicy": "IfNeeded"}),
        *bound("Validating", {"validations": validations}, validationActions=["Deny"]),
    ]
