"""Outputs and states of the steps of a run on Kubeflow Pipelines: read from ML Metadata, because the REST API does not return them.

Talks gRPC-Web with the address at which the user interface finds ML Metadata. The few messages and fields that are
needed are described here, with the numbers of ml_metadata/proto/metadata_store{,_service}.proto: the package
ml-metadata would bring a database engine, and wants another protobuf than `kfp`.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import requests
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, struct_pb2

SERVICE = "ml_metadata.MetadataStoreService"
#: message: {field: (number, type)}; a type in capitals is another message, `*` marks a list.
MESSAGES = {
    "Value": {"int_value": (1, "int64"), "double_value": (2, "double"), "string_value": (3, "string"),
              "struct_value": (4, "Struct")},
    "Property": {"key": (1, "string"), "value": (2, "Value")},
    "Context": {"id": (1, "int64")},
    "Execution": {"id": (1, "int64"), "last_known_state": (3, "int64"), "custom_properties": (5, "*Property"),
                  "create_time_since_epoch": (8, "int64"), "last_update_time_since_epoch": (9, "int64")},
    "GetContextByTypeAndNameRequest": {"type_name": (1, "string"), "context_name": (2, "string")},
    "GetContextByTypeAndNameResponse": {"context": (1, "Context")},
    "GetExecutionsByContextRequest": {"context_id": (1, "int64")},
    "GetExecutionsByContextResponse": {"executions": (1, "*Execution")},
}  # fmt: skip
#: Execution.State of metadata_store.proto
STATES = {2: "running", 3: "succeeded", 4: "failed", 5: "cached", 6: "canceled"}


def _describe() -> dict[str, Any]:
    """Make a class of each message."""
    file = descriptor_pb2.FileDescriptorProto(name="lineage.proto", package="lineage", syntax="proto3")
    file.dependency.append(struct_pb2.DESCRIPTOR.name)
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for label, (number, kind) in fields.items():
            each = message.field.add(name=label, number=number)
            each.label = kinds.LABEL_REPEATED if kind.startswith("*") else kinds.LABEL_OPTIONAL
            kind = kind.removeprefix("*")
            if kind[0].isupper():
                each.type = kinds.TYPE_MESSAGE
                each.type_name = ".google.protobuf.Struct" if kind == "Struct" else f".lineage.{kind}"
            else:
                each.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"lineage.{name}")) for name in MESSAGES}


CLASSES = _describe()


@dataclass(frozen=True)
class Step:
    """State and outputs of a step of a run."""

    name: str
    state: str
    """running, succeeded, failed, cached or canceled"""
    pod: str = ""
    """Name of its pod; empty before its pod has started."""
    namespace: str = ""
    """Namespace of its pod."""
    seconds: float = 0.0
    """How long it took, pods included, or has taken so far."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """What it returned: output parameters by name."""


def ask(host: str, method: str, message: bytes) -> bytes:
    """Call a method of ML Metadata's service by gRPC-Web: encoded request in, encoded response out.

    Raises:
        requests.RequestException: nothing answers there.
        RuntimeError: ML Metadata refuses; the message is its own.
    """
    answer = requests.post(
        urljoin(host, f"/{SERVICE}/{method}"),  # the page of Kubeflow Pipelines finds it there, whatever its own path
        data=b"\0" + len(message).to_bytes(4, "big") + message,
        headers={"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1"},
        timeout=30,
    )
    answer.raise_for_status()
    content, trailers, body = b"", {**answer.headers}, answer.content
    while body:  # frames: a byte of flags, the length in four, that many bytes
        end = 5 + int.from_bytes(body[1:5], "big")
        if body[0] & 0x80:
            lines = body[5:end].decode().splitlines()
            trailers |= dict(line.split(":", 1) for line in lines if ":" in line)
        else:
            content += body[5:end]
        body = body[end:]
    trailers = {name.lower(): value.strip() for name, value in trailers.items()}
    if trailers.get("grpc-status", "0") != "0":
        raise RuntimeError(f"ML Metadata at {host}: {trailers.get('grpc-message', 'no reason given')}")
    return content


def _call(host: str, method: str, **request: Any) -> Any:
    """Ask with one of the messages described here."""
    message = CLASSES[f"{method}Request"](**request).SerializeToString()
    return CLASSES[f"{method}Response"].FromString(ask(host, method, message))


def steps(host: str, run_id: str) -> list[Step]:
    """Look up the steps of a run that have begun, in the order of their start.

    Args:
        host: address of Kubeflow Pipelines at the gateway.
        run_id: the run.

    Raises:
        requests.RequestException: nothing answers there.
        RuntimeError: ML Metadata refuses.
    """
    context = _call(host, "GetContextByTypeAndName", type_name="system.PipelineRun", context_name=run_id).context
    found = []
    for execution in _call(host, "GetExecutionsByContext", context_id=context.id).executions if context.id else []:
        properties = {each.key: each.value for each in execution.custom_properties}
        if "image" not in properties:
            continue  # the run itself, or a condition or loop in it
        text = {name: value.string_value for name, value in properties.items()}
        outputs = json_format.MessageToDict(properties["outputs"].struct_value) if "outputs" in properties else {}
        found.append(
            Step(
                name=text["task_name"],
                state=STATES.get(execution.last_known_state, "running"),
                pod=text.get("pod_name", ""),
                namespace=text.get("namespace", ""),
                seconds=(execution.last_update_time_since_epoch - execution.create_time_since_epoch) / 1000,
                outputs=outputs,
            )
        )
    return found
