"""Reading ML Metadata: frames, errors, and what becomes of them. The real server is asked by the cluster tests."""

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest

from iml4e import lineage

Answers = dict[str, bytes]


def frame(content: bytes, flags: int = 0) -> bytes:
    """A frame of gRPC-Web."""
    return bytes([flags]) + len(content).to_bytes(4, "big") + content


OK = frame(b"grpc-status: 0\r\n", 0x80)


@pytest.fixture
def serve() -> Iterator[Callable[[Answers], str]]:
    """A function that answers each method with a body, and returns the address to ask."""
    answers: Answers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = answers[self.path.removeprefix(f"/{lineage.SERVICE}/")]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def start(given: Answers) -> str:
        answers.update(given)
        return f"http://127.0.0.1:{server.server_port}/pipeline"

    yield start
    server.shutdown()
    thread.join()
    server.server_close()


def executions(*properties: dict[str, object]) -> bytes:
    """The answer that holds executions with custom properties."""
    answer = lineage.CLASSES["GetExecutionsByContextResponse"]()
    for number, each in enumerate(properties):
        execution = answer.executions.add(id=number, last_known_state=3, create_time_since_epoch=1000)
        execution.last_update_time_since_epoch = 3500
        for key, value in each.items():
            entry = execution.custom_properties.add(key=key)
            if isinstance(value, dict):
                entry.value.struct_value.update(value)
            else:
                entry.value.string_value = value
    return answer.SerializeToString()


def context(number: int) -> bytes:
    """The answer that holds a run."""
    return lineage.CLASSES["GetContextByTypeAndNameResponse"](context={"id": number}).SerializeToString()


def test_steps_with_their_outputs_and_nothing_that_is_no_step(serve: Callable[[Answers], str]) -> None:
    step = {"task_name": "train", "image": "", "pod_name": "p", "namespace": "n", "outputs": {"run_id": "r", "rows": 3}}
    host = serve(
        {
            "GetContextByTypeAndName": frame(context(7)) + OK,
            "GetExecutionsByContext": frame(executions({"task_name": "condition-1"}, step)) + OK,
        }
    )
    (found,) = lineage.steps(host, "run")
    assert found == lineage.Step("train", "succeeded", "p", "n", 2.5, {"run_id": "r", "rows": 3})


def test_a_run_that_has_not_begun_has_no_steps(serve: Callable[[Answers], str]) -> None:
    assert lineage.steps(serve({"GetContextByTypeAndName": frame(b"") + OK}), "run") == []


def test_a_refusal_is_told_in_its_own_words(serve: Callable[[Answers], str]) -> None:
    refused = frame(b"grpc-status: 13\r\ngrpc-message: Lost connection to the server\r\n", 0x80)
    with pytest.raises(RuntimeError, match="Lost connection to the server"):
        lineage.steps(serve({"GetContextByTypeAndName": refused}), "run")
