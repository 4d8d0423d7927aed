"""The command `iml4e`: deploy, list, ask, roll back and delete models; put and get datasets; make and run projects; examine a release, rotate its credentials."""

import argparse
import csv
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iml4e import Error, __version__, cli_project

#: Rows in one request: far below the 2 MiB that the model server takes.
BATCH = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error becomes one sentence.

    Returns:
        Exit code: 0, 1 after an error or with findings of `doctor`, 2 for a wrong command line, 130 when interrupted.
    """
    options = parser().parse_args(arguments)
    for name in ("release", "release_namespace", "url"):
        if value := getattr(options, name):
            os.environ["IML4E_" + name.replace("release_", "").upper()] = value
    # silences the log lines of libraries; the errors of libraries become sentences
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    for noisy in ("urllib3", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        return options.run(options) or 0
    except Error as error:
        print(f"iml4e: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "iml4e: interrupted; a deployment that began continues in the cluster: see `iml4e models`", file=sys.stderr
        )
        return 130
    except BrokenPipeError:  # as in `iml4e logs NAME | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if os.environ.get("IML4E_DEBUG"):
            raise
        text = " ".join(str(error).split())[:500]
        print(f"iml4e: {type(error).__name__}: {text}; IML4E_DEBUG=1 shows where", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="iml4e", description=__doc__)
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--release", help="Helm release (IML4E_RELEASE; default: iml4e)")
    top.add_argument(
        "--namespace", dest="release_namespace", help="namespace of the release (IML4E_NAMESPACE; default: iml4e)"
    )
    top.add_argument("--url", help="address of the platform (IML4E_URL; default: the release's own)")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, run: Any, text: str, *, to: Any = commands, endpoint: bool = False
    ) -> argparse.ArgumentParser:
        made = to.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        if endpoint:
            made.add_argument("name", metavar="NAME", help="endpoint, as `iml4e models` lists it")
            made.add_argument("--namespace", default="", help="namespace of the endpoint; default: the release's")
        return made

    deploy = command("deploy", _deploy, "Serve a registered model, and wait until it answers.")
    deploy.add_argument(
        "model", metavar="MODEL", help="fraud@champion, fraud/3, models:/fraud/3, or fraud (the champion)"
    )
    for flag, text in {
        "--name": "name of the endpoint; default: the model's name",
        "--namespace": "namespace of the endpoint; default: the release's",
        "--cpu": "CPU request, such as 500m; default: the runtime's",
        "--memory": "memory request, such as 1Gi",
        "--cpu-limit": "CPU limit",
        "--memory-limit": "memory limit",
        "--gpu": "number of GPUs, or RESOURCE=NUMBER; default resource: nvidia.com/gpu",
        "--image": "image with Python and mlflow, instead of the release's",
        "--runtime": "serving runtime, instead of the release's",
        "--service-account": "service account of the model's pods",
        "--latency-objective": "time that 95 %% of the requests may take, such as 250ms: an alert tells when it is missed",
    }.items():
        deploy.add_argument(flag, help=text)
    deploy.add_argument("--replicas", type=int, help="minimum number of replicas")
    deploy.add_argument("--max-replicas", type=int, help="maximum number of replicas, reached under load")
    deploy.add_argument(
        "--node-selector", action="append", metavar="KEY=VALUE", help="node selector of the pods; repeatable"
    )
    deploy.add_argument(
        "--toleration", action="append", metavar="KEY=VALUE:EFFECT", help="toleration of the pods; repeatable"
    )
    deploy.add_argument(
        "--packages", action="append", help="requirement that the server installs when it starts; repeatable"
    )
    deploy.add_argument(
        "--batching",
        choices=["on", "off"],
        help="predict all waiting requests in one call; default: on if rows are independent",
    )
    deploy.add_argument(
        "--force",
        action="store_true",
        help="deploy although requirements do not fit, or the endpoint serves another model",
    )
    deploy.add_argument(
        "--timeout", type=float, default=300, help="seconds until the endpoint must be ready; default: 300"
    )
    deploy.add_argument("--json", action="store_true", help="print the endpoint as JSON, progress on standard error")

    models = command("models", _models, "List endpoints: version, whether the version is the champion, and state.")
    models.add_argument("--namespace", default="", help="namespace of the endpoints; default: the release's")
    models.add_argument("--json", action="store_true", help="print JSON")

    stats = command("stats", _stats, "Requests, errors and latencies of endpoints, as the landing page shows them.")
    stats.add_argument("name", nargs="?", default="", metavar="NAME", help="endpoint; default: all")
    stats.add_argument("--namespace", default="", help="namespace of the endpoints; default: all that are listed")
    stats.add_argument("--last", default="10m", help="time that counts: 10m, 1h, 7d; default: 10m")
    stats.add_argument("--json", action="store_true", help="print JSON")

    rollback = command("rollback", _rollback, "Serve the previous version again, with its settings.", endpoint=True)
    rollback.add_argument(
        "--timeout", type=float, default=300, help="seconds until the endpoint must be ready; default: 300"
    )
    command("delete", _delete, "Delete an endpoint; the registry keeps the model.", endpoint=True)

    logs = command("logs", _logs, "Print the log of a served model.", endpoint=True)
    logs.add_argument("-f", "--follow", action="store_true", help="follow the log")
    logs.add_argument("-p", "--previous", action="store_true", help="print the log of the previous container instead")

    predict = command(
        "predict", _predict, "Ask a served model; print the version that answers on standard error.", endpoint=True
    )
    predict.add_argument("--data", required=True, help="CSV file with a header, JSON file of rows, or JSON itself")
    predict.add_argument("--param", action="append", metavar="KEY=VALUE", help="inference parameter; repeatable")
    predict.add_argument("--json", action="store_true", help="print JSON instead of CSV")

    sign = command(
        "sign",
        _sign,
        "Write the digest of a version's files, and with a key a signature, for the model server to check.",
    )
    sign.add_argument("model", metavar="MODEL", help="as in `iml4e deploy`")
    sign.add_argument(
        "--key",
        default="",
        metavar="FILE",
        help="private Ed25519 key in PEM; default: IML4E_SIGNING_KEY, or no signature",
    )

    doctor = command(
        "doctor",
        _doctor,
        "Say what is wrong with the running release, and the next step. Exit code 0: healthy, 1: findings.",
    )
    doctor.epilog = "`make doctor` is another program: it checks a bare machine before there is a cluster."
    doctor.add_argument("--json", action="store_true", help="print JSON")

    rotate = command(
        "rotate",
        _rotate,
        "Rotate the credentials of the release while it serves, or go on with a rotation that was cut short.",
    )
    rotate.add_argument("--only", action="append", metavar="SECRET", help="rotate this Secret only; repeatable")
    rotate.add_argument(
        "--keep", action="store_true", help="keep the former credentials valid until the command is called again"
    )
    rotate.add_argument("--timeout", type=float, default=600, help="seconds that each step may take; default: 600")
    backup = command(
        "backup",
        _backup,
        "Back up databases, buckets and custom resources to the place that the release's values name.",
    )
    backup.add_argument("--list", action="store_true", help="list the backups that are there instead")
    backup.add_argument("--json", action="store_true", help="print JSON, progress on standard error")

    restore = command(
        "restore", _restore, "Restore a backup into this release, which must be empty. An interrupted restore goes on."
    )
    restore.add_argument(
        "backup", nargs="?", default="", metavar="BACKUP", help="as `iml4e backup --list` lists it; default: the newest"
    )
    restore.add_argument("--force", action="store_true", help="replace what the release has")

    rehearse = command(
        "rehearse",
        _rehearse,
        "Try an upgrade on a copy of the databases, in a namespace of its own that goes at the end; nothing of the release changes.",
    )
    rehearse.add_argument(
        "--chart", required=True, metavar="CHART", help="folder, package or oci:// address of the chart to upgrade to"
    )
    rehearse.add_argument("--version", default="", help="version of a chart at an address; default: the newest")
    rehearse.add_argument(
        "-f",
        "--values",
        action="append",
        default=[],
        metavar="FILE",
        help="values as for the upgrade; repeatable; default: the release's",
    )
    rehearse.add_argument(
        "--objects", type=int, default=20, help="number of objects of each bucket that are copied; default: 20"
    )
    rehearse.add_argument("--keep", action="store_true", help="leave the namespace, to look at it")
    rehearse.add_argument("--json", action="store_true", help="print JSON, progress on standard error")

    upgrade = command(
        "upgrade",
        _upgrade,
        "Upgrade the release: CRDs first, then Helm, with the release's values; print the downtime of each endpoint. Exit code 1: it failed.",
    )
    upgrade.add_argument(
        "--chart", required=True, metavar="CHART", help="folder, package or oci:// address of the chart"
    )
    upgrade.add_argument("--version", default="", help="version of a chart at an address; default: the newest")
    upgrade.add_argument(
        "-f",
        "--values",
        action="append",
        default=[],
        metavar="FILE",
        help="values on top of the release's; repeatable",
    )
    upgrade.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="single value on top of those; repeatable"
    )
    upgrade.add_argument("--skip-crds", action="store_true", help="leave CRDs alone")
    upgrade.add_argument(
        "--force-conflicts", action="store_true", help="take over CRDs and fields of objects that others have set"
    )
    upgrade.add_argument(
        "--timeout", type=float, default=600, help="seconds until the release must be Ready; default: 600"
    )
    upgrade.add_argument("--json", action="store_true", help="print JSON, progress on standard error")

    cli_project.add(command)

    data = command("data", None, "Datasets: put, list, get.").add_subparsers(required=True, metavar="COMMAND")
    put = command("put", _put, "Store a file or folder as the next version of a dataset.", to=data)
    put.add_argument("source", metavar="FILE|FOLDER")
    put.add_argument("name", metavar="NAME", help="such as fraud/2026.csv")
    listing = command("list", _list, "List datasets.", to=data)
    listing.add_argument("prefix", nargs="?", default="", help="list only datasets whose name begins with PREFIX")
    listing.add_argument("--json", action="store_true", help="print JSON")
    get = command("get", _get, "Fetch a version of a dataset.", to=data)
    get.add_argument(
        "address",
        metavar="ADDRESS",
        help="address that `data put` and `data list` print, or a name, for its latest version",
    )
    get.add_argument("-o", "--output", default="", help="path to write to; default: the dataset's name")
    return top


def _deploy(options: argparse.Namespace) -> None:
    from iml4e import registry, serving

    version = registry.resolve(options.model)
    same = (
        "name", "namespace", "replicas", "max_replicas", "cpu", "memory", "cpu_limit", "memory_limit", "gpu", "image",
        "runtime", "service_account", "batching", "latency_objective", "force", "timeout",
    )  # fmt: skip
    given = {key: value for key in same if (value := getattr(options, key)) is not None}
    endpoint = serving.deploy(
        version.name,
        version.version,
        node_selector=pairs(options.node_selector, "--node-selector"),
        tolerations=options.toleration,
        packages=[word for each in options.packages or () for word in each.split()],
        say=_aside if options.json else print,
        **given,
    )
    if options.json:
        print(json.dumps(dataclasses.asdict(endpoint)))


def _models(options: argparse.Namespace) -> None:
    from iml4e import registry, serving

    found = serving.endpoints(options.namespace)
    champions = {}
    for model in {each.model for each in found if each.model}:
        try:
            champion = registry.champion(model)
            champions[model] = champion.version if champion else ""
        except Error:  # MLflow is away: what is served can be listed all the same
            champions[model] = None
    if options.json:
        print(json.dumps([dataclasses.asdict(each) | {"champion": champions.get(each.model)} for each in found]))
        return
    if not found:
        print("nothing is served; `iml4e deploy MODEL/VERSION` serves a registered model")
        return
    rows = [("ENDPOINT", "MODEL", "VERSION", "CHAMPION", "STATE", "URL")]
    for each in found:
        best = champions.get(each.model)
        champion = "-" if not best else "yes" if best == each.version else f"no, {best} is"
        state = "ready" if each.ready else "not ready"
        rows.append((each.name, each.model or "-", each.version or "-", champion, state, each.url))
    _table(rows, ["", *(each.reason for each in found)])


def _stats(options: argparse.Namespace) -> None:
    from iml4e import stats

    found, missing = stats.read(options.last, options.name, options.namespace)
    if options.json:
        print(json.dumps(found))
    elif found:
        _table(stats.table(found), ["", *(each["reason"] for each in found)])
    else:
        print("nothing is served; `iml4e deploy MODEL/VERSION` serves a registered model")
    for each in missing:
        _aside(each)


def _rollback(options: argparse.Namespace) -> None:
    from iml4e import serving

    serving.rollback(options.name, namespace=options.namespace, timeout=options.timeout)


def _delete(options: argparse.Namespace) -> None:
    from iml4e import serving

    serving.delete(options.name, namespace=options.namespace)


def _logs(options: argparse.Namespace) -> None:
    from iml4e import serving

    for line in serving.logs(
        options.name, namespace=options.namespace, follow=options.follow, previous=options.previous
    ):
        print(line, flush=options.follow)


def _predict(options: argparse.Namespace) -> None:
    from iml4e import client, platform

    model = client.Model(
        platform.get("GATEWAY_URL"), options.namespace or platform.get("MODEL_NAMESPACE"), options.name
    )
    inline = options.data.lstrip()[:1] in ("[", "{")
    if not inline and not Path(options.data).is_file():
        raise Error(f"there is no file {options.data}")
    text = options.data if inline else client.read_file(Path(options.data))
    if inline or options.data.lower().endswith(".json"):
        question = client.read_json(text, lambda: [each["name"] for each in model.metadata().get("inputs", [])])
    else:
        question = client.Question(client.read_csv(text, model.metadata()), {})
    given = {key: _value(value) for key, value in (pairs(options.param, "--param") or {}).items()}
    params = question.params | given
    predictions: list[Any] = []
    if question.tensors:
        predictions = client.by_row(model.infer(question.tensors, params))
    for start in range(0, len(question.rows), BATCH):
        answer = model.predict(question.rows[start : start + BATCH], params)
        predictions += answer if isinstance(answer, list) else [answer]
    if options.json:
        print(json.dumps({"predictions": predictions, "version": model.version}))
    else:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        named = predictions and all(isinstance(each, dict) for each in predictions)
        names = list(dict.fromkeys(name for each in predictions for name in each)) if named else ["prediction"]
        writer.writerow(names)
        writer.writerows([_cell(each.get(name)) for name in names] if named else [_cell(each)] for each in predictions)
    _aside(f"{options.name} version {model.version or '(unknown)'} answered {len(predictions)} rows")


def _doctor(options: argparse.Namespace) -> int:
    from iml4e import doctor

    report = doctor.examine(doctor.progress)
    if options.json:
        findings = [dataclasses.asdict(each) for each in report.findings]
        print(json.dumps(dataclasses.asdict(report) | {"healthy": report.healthy, "findings": findings}))
    else:
        print("\n".join(doctor.text(report)))
    return 0 if report.healthy else 1


def _sign(options: argparse.Namespace) -> None:
    from iml4e import integrity, registry

    version = registry.resolve(options.model)
    print(f"{version.name}/{version.version} {integrity.sign(version.name, version.version, options.key)}")


def _rotate(options: argparse.Namespace) -> None:
    from iml4e import rotate

    rotate.rotate(only=options.only, keep=options.keep, timeout=options.timeout)


def _backup(options: argparse.Namespace) -> None:
    from iml4e import backup

    if not options.list:
        made = backup.back_up(_aside if options.json else print)
        if options.json:
            print(json.dumps({"id": made}))
        return
    found = backup.listing()
    if options.json:
        print(json.dumps(found))
    elif not found:
        print("there is no backup; `iml4e backup` makes one")
    else:
        rows = [("BACKUP", "RELEASE", "CHART", "OBJECTS", "SIZE", "TOOK", "KEY")]
        for each in found:
            if each.get("incomplete"):
                rows.append((each["id"], "incomplete", "", "", "", "", ""))
                continue
            took = f"{each['made'] - each['begun']:.0f} s"
            size = f"{each['stored'] / 1e6:.1f} MB"
            release = f"{each['namespace']}/{each['release']}"
            count = "empty" if each.get("empty") else str(each["objects"])
            rows.append((each["id"], release, each["chart"], count, size, took, each["key"] or "none"))
        _table(rows, [""] * len(rows))


def _restore(options: argparse.Namespace) -> None:
    from iml4e import backup

    backup.restore(options.backup, force=options.force)


def _rehearse(options: argparse.Namespace) -> int:
    from iml4e import rehearsal

    report = rehearsal.rehearse(
        options.chart,
        version=options.version,
        values=options.values,
        objects=options.objects,
        keep=options.keep,
        say=_aside if options.json else print,
    )
    if options.json:
        print(json.dumps(dataclasses.asdict(report) | {"loses": report.loses}))
    else:
        print("\n".join(rehearsal.text(report)))
    return 1 if report.loses else 0


def _upgrade(options: argparse.Namespace) -> int:
    from iml4e import upgrade

    report = upgrade.upgrade(
        options.chart,
        version=options.version,
        values=options.values,
        sets=options.set,
        timeout=options.timeout,
        skip_crds=options.skip_crds,
        force=options.force_conflicts,
        say=_aside if options.json else print,
    )
    if options.json:
        print(json.dumps(dataclasses.asdict(report)))
    else:
        if report.endpoints:
            rows = list(upgrade.text(report))
            _table(rows, [""] * len(rows))
        for reason in report.reasons:
            print(reason)
        if not report.error:
            print(
                f"release {report.release} is upgraded from chart {report.old} to {report.new} in {report.seconds:.0f} s"
            )
    if report.error:
        raise Error(f"the upgrade of {report.release} failed after {report.seconds:.0f} s: {report.error}")
    return 0


def _put(options: argparse.Namespace) -> None:
    from iml4e import datasets

    print(datasets.put(options.source, options.name).address)


def _list(options: argparse.Namespace) -> None:
    from iml4e import datasets

    found = datasets.listing(options.prefix)
    if options.json:
        print(json.dumps([dataclasses.asdict(each) for each in found]))
        return
    for each in found:
        print(f"{each.modified}  {each.size:>12}  {each.address}")


def _get(options: argparse.Namespace) -> None:
    from iml4e import datasets

    print(datasets.get(options.address, to=options.output).address)


def pairs(texts: Sequence[str] | None, flag: str) -> dict[str, str] | None:
    """Read a repeatable option KEY=VALUE.

    Raises:
        Error: one is not of that form.
    """
    for text in texts or ():
        if "=" not in text:
            raise Error(f"{flag} {text}: write KEY=VALUE")
    return dict(text.split("=", 1) for text in texts) if texts else None


def _value(text: str) -> Any:
    """A value of the command line: JSON if it is some, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _table(rows: Sequence[tuple[str, ...]], notes: Sequence[str]) -> None:
    """Print rows in columns, each with its note below."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row, note in zip(rows, notes, strict=True):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
        if note:
            print(f"  {note}")


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict | bool) else value


def _aside(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
