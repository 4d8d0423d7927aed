"""The commands `iml4e new` and `iml4e project …`."""

import argparse
import csv
import json
import sys
from collections.abc import Callable
from typing import Any

#: Notes of a draft that `iml4e new` prints; the data contract has all.
NOTES = 20


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the command line; `command` is that of `iml4e.cli.parser`."""
    new = command("new", _new, "Make a project of your own: data contract, features, model, tests, pipeline, CI.")
    new.add_argument("name", metavar="NAME", help="name of project, model and endpoint: a-z, 0-9 and '-'")
    new.add_argument("--variant", choices=["tabular", "image"], default="tabular", help="default: tabular")
    new.add_argument(
        "--data", default="", metavar="PATH", help="your data: a CSV file, or a folder of images; default: an example"
    )
    new.add_argument("--target", default="", metavar="COLUMN", help="column to predict; default: the last")
    new.add_argument(
        "--task", choices=["classification", "regression"], default="", help="default: what the target looks like"
    )
    new.add_argument(
        "--encoding", default="", metavar="NAME", help="of the CSV file, such as cp1251; default: UTF-8, else cp1252"
    )
    new.add_argument("--folder", default="", metavar="PARENT", help="where the project's folder is made; default: here")
    new.add_argument(
        "--template",
        default="",
        metavar="ADDRESS",
        help="repository of the template (IML4E_TEMPLATE; default: the clone that iml4e was installed from)",
    )
    project = command("project", None, "A project: validate, compile, run, gate, release, check, predict, try.")
    stages = project.add_subparsers(required=True, metavar="COMMAND")

    def stage(name: str, run: Callable[..., Any], text: str) -> argparse.ArgumentParser:
        made = command(name, run, text, to=stages)
        made.add_argument("-C", "--directory", default=".", metavar="FOLDER", help="the project; default: here")
        return made

    data = "file or folder, or s3:KEY in the platform's bucket; default: `data` in iml4e.yaml"
    validate = stage("validate", _validate, "Check data against the data contract, schema.yaml.")
    validate.add_argument("--data", default="", metavar="PATH", help=data)
    compile_ = stage("compile", _compile, "Write the pipeline as Kubeflow Pipelines takes it.")
    compile_.add_argument("-o", "--output", default="", help="default: build/pipeline.yaml")
    run = stage("run", _run, "Run the pipeline on the platform: validate, train, evaluate, register; wait for its end.")
    run.add_argument("--trial", action="store_true", help="take `sample` rows, and register nothing")
    run.add_argument(
        "--engine",
        choices=["local", "kfp"],
        help="processes here, or Kubeflow Pipelines; default: the latter where the release has it",
    )
    run.add_argument("--data", default="", metavar="PATH", help=data)
    run.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a parameter of iml4e.yaml; repeatable"
    )
    run.add_argument("--json", action="store_true", help="print the result as JSON, progress on standard error")
    stage("gate", _gate, "Judge the last run; exit code 1 unless its model may be released.")
    release = stage("release", _release, "Deploy a version, check its answers, make it the champion.")
    release.add_argument("version", nargs="?", default="", metavar="VERSION", help="default: that of the last run")
    release.add_argument("--force", action="store_true", help="release although the version was rejected")
    stage("check", _check, "Ask the served champion the rows that its evaluation kept, and compare.")
    predict = stage("predict", _predict, "Ask the served model about rows as your data has them.")
    predict.add_argument("data", metavar="PATH", help="CSV file as schema.yaml spells it, image, or folder of images")
    predict.add_argument("--json", action="store_true", help="print JSON instead of CSV")
    try_ = stage("try", _try, "Run the pipeline here, without a platform.")
    try_.add_argument(
        "--data", default="", metavar="PATH", help="file or folder; default: rows made up of the contract"
    )


def _project(options: argparse.Namespace) -> Any:
    from iml4e import project

    return project.load(options.directory)


def _new(options: argparse.Namespace) -> None:
    from iml4e import Error, contract, draft, scaffold

    if options.encoding and (options.variant == "image" or not options.data):
        raise Error("--encoding is that of a CSV file, --data, which is missing")
    made = scaffold.new(
        options.name,
        variant=options.variant,
        data=options.data,
        target=options.target,
        task=options.task,
        encoding=options.encoding,
        folder=options.folder,
        template=options.template,
    )
    if found := draft.notes((made / contract.FILE).read_text(encoding="utf-8")):
        more = [f"{len(found) - NOTES} more, in {made / contract.FILE}"] if len(found) > NOTES else []
        print("\nLook at these:", *found[:NOTES], *more, sep="\n  - ")
    print(
        f"\n{made} is a project. Next:\n\n"
        f"  cd {made}\n"
        "  iml4e project validate      # your data against schema.yaml\n"
        "  iml4e project run           # train and evaluate on the platform, register\n"
        "  iml4e project release       # serve it\n\n"
        "README.md there has the rest."
    )


def _validate(options: argparse.Namespace) -> None:
    from iml4e import delivery

    delivery.validate(_project(options), options.data)


def _compile(options: argparse.Namespace) -> None:
    from iml4e import delivery

    print(delivery.compile_(_project(options), options.output))


def _run(options: argparse.Namespace) -> None:
    from iml4e import delivery

    result = delivery.run(
        _project(options),
        engine=options.engine or "",
        trial=options.trial,
        data=options.data,
        parameters=options.param,
        out=sys.stderr if options.json else sys.stdout,
    )
    if options.json:
        print(json.dumps(result))
        return
    print("\n" + delivery.report(result))
    if result["version"] and result["gate"] == "passed":
        print("`iml4e project release` serves it.")


def _gate(options: argparse.Namespace) -> None:
    from iml4e import delivery

    delivery.gate(_project(options))


def _release(options: argparse.Namespace) -> None:
    from iml4e import delivery

    made = delivery.release(_project(options), options.version, force=options.force)
    print(f"\n  {made['curl']}")


def _check(options: argparse.Namespace) -> None:
    from iml4e import delivery

    delivery.check(_project(options))


def _predict(options: argparse.Namespace) -> None:
    from iml4e import delivery

    found, version = delivery.predict(_project(options), options.data)
    if options.json:
        print(json.dumps({"predictions": found, "version": version}))
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["prediction"])
    writer.writerows([each] for each in found)
    print(f"version {version or '(unknown)'} answered {len(found)} rows", file=sys.stderr)


def _try(options: argparse.Namespace) -> None:
    import tempfile
    from pathlib import Path

    from iml4e import delivery

    with tempfile.TemporaryDirectory(prefix="try-") as folder:
        result = delivery.try_out(_project(options), Path(folder), data=options.data)
    rows = "nothing was registered" if options.data else "these rows were made up, and so is the verdict"
    print(f"\n{result['gate']}: {result['reason']}\nThe pipeline works; {rows}.")
