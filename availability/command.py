"""The command: finds endpoints and events, sends load, lets events happen, judges, writes the report."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from scripts.common import console
from scripts.common.address import is_this_machine
from scripts.common.paths import REPO

from . import events, judge, machine, plot, prometheus, report
from .belongings import Belongings
from .clients import Load, once
from .events import Event, Outcome, World, persist
from .release import Release

URL = "http://127.0.0.1:30080"
#: Seconds without an event before each event and after the last one: in full, and in the short form.
PAUSE, QUICK_PAUSE = 10.0, 8.0
#: Seconds that something stays away in the short form.
QUICK_HOLD = 20.0


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/availability",
        description="Measure what clients lose while parts of the platform restart, fail and change.",
    )
    parser.add_argument("--release", default=os.environ.get("IML4E_RELEASE", "iml4e"), help="Helm release")
    parser.add_argument("--namespace", default=os.environ.get("IML4E_NAMESPACE", "iml4e"), help="its namespace")
    parser.add_argument("--url", help=f"address of the gateway (IML4E_URL; default: {URL})")
    parser.add_argument("--events", help="names of events, separated by commas; `none`: load alone")
    parser.add_argument("--list", action="store_true", help="list the events of this release, and do nothing")
    parser.add_argument("--quick", action="store_true", help="fewer events and shorter pauses: ten minutes")
    parser.add_argument("--pause", type=float, help="seconds without an event around each event")
    parser.add_argument("--hold", type=float, help="seconds that a part stays away")
    parser.add_argument("--no-model", action="store_true", help="deploy no model of two replicas")
    parser.add_argument("--out", type=Path, default=REPO / "reports" / "availability", help="folder of the report")
    parser.add_argument("--page", type=Path, help="page of the documentation that gets the tables")
    return parser.parse_args(words)


def address(option: str | None) -> str:
    """The address that gets the load.

    Raises:
        console.Failure: only the environment names it, and it is not this machine.
    """
    if option:
        return option.rstrip("/")
    url = os.environ.get("IML4E_URL", URL).rstrip("/")
    if not is_this_machine(url):
        raise console.Failure(f"IML4E_URL is {url}, which is not this machine.", f"To put load on it, add --url {url}.")
    return url


def interrupt(*_: object) -> None:
    """End like an interruption from the keyboard: everything is undone."""
    raise KeyboardInterrupt


def catalogue(world: World) -> list[Event]:
    """Every event, those of the machine last."""
    return [*events.catalogue(world), *machine.catalogue(world)]


def measure(args: argparse.Namespace, world: World, stack: ExitStack) -> report.Run:
    """Send load while the events happen."""
    release, own = world.release, world.own
    if trouble := release.unsettled():
        raise console.Failure(
            f"The platform is not Ready before anything happened: {trouble}.", "Wait, or run `make up`."
        )
    found = own.find(with_model=not args.no_model)
    for reason in found.left_out:
        console.say(f"Left out: {reason}")
    for endpoint in found.endpoints:
        if trouble := once(release.url, endpoint):
            raise console.Failure(f"{endpoint.name} fails before anything happened: {trouble}.", endpoint.path)
    every = catalogue(world)
    names = None if args.events is None else [name for name in args.events.split(",") if name and name != "none"]
    chosen = events.choose(every, names, args.quick)
    skipped = [event for event in chosen if event.skipped]
    chosen = [event for event in chosen if not event.skipped]
    pause = args.pause if args.pause is not None else QUICK_PAUSE if args.quick else PAUSE
    rate = sum(2 * endpoint.rate for endpoint in found.endpoints)
    console.say(f"{len(found.endpoints)} endpoints, {rate:.0f} requests per second, {len(chosen)} events.")
    outcomes: list[Outcome] = []
    load = Load(release.url, found.endpoints)
    before = os.getloadavg()[0]
    stack.callback(put_back, world)
    start = time.time()
    with load:
        world.wait(pause)
        for event in chosen:
            outcomes.append(happen(event, world, load, pause))
            if not outcomes[-1].settled:
                console.say("The events that are left do not happen: the platform is not Ready.")
                break
    end = time.time()
    requests = sorted(load.requests, key=lambda request: request.due)
    command = "scripts/availability " + shlex.join(sys.argv[1:])
    run = report.Run(
        command.strip(), release.url, release.name, release.namespace, start, end, found.endpoints, found.left_out,
        requests, outcomes, skipped, load=before,
    )  # fmt: skip
    run.prometheus = prometheus.compare(run)
    run.goals = judge.goals(
        requests, found.endpoints, outcomes, run.spans(), own.model, run.prometheus.get("difference"), skipped
    )
    return run


def happen(event: Event, world: World, load: Load, pause: float) -> Outcome:
    """Let one event happen, wait, and say what it cost."""
    asked = len(load.requests)
    outcome = events.occur(event, world)
    world.wait(pause)
    some = load.requests[asked:]
    lost = sum(bool(request.outcome) for request in some)
    console.say(f"  {event.name}: {lost} of {len(some)} requests lost")
    return outcome


def put_back(world: World) -> None:
    """Roll back an upgrade that no event rolled back."""
    if world.revision:
        revision = str(world.revision)
        words = ["rollback", world.release.name, revision, "--wait", "--timeout", "300s"]
        with console.step("roll the chart back"):
            persist(lambda: world.release.helm(*words), "roll the chart back")


def main() -> None:
    """Measure, write the report, and exit with 1 and a sentence for each goal that was missed."""
    args = arguments()
    for program in ("kubectl", "helm"):
        if not shutil.which(program):
            raise console.Failure(f"The program {program} is not installed.", f"Install {program}, or run `make up`.")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    release = Release(args.release, args.namespace, address(args.url))
    own = Belongings(release)
    hold = args.hold if args.hold is not None else QUICK_HOLD if args.quick else World.hold
    world = World(release, own, hold)
    if args.list:
        own.model = "model"  # would be deployed first
        for event in catalogue(world):
            print(f"{event.name:<22} {event.title}{f' (skipped: {event.skipped})' if event.skipped else ''}")
        return
    with ExitStack() as stack:
        stack.callback(take_away, own)
        run = measure(args, world, stack)
    report.write(run, args.out)
    plot.timeline(run, args.out / "timeline.png")
    print((args.out / "availability.md").read_text())
    if args.page:
        report.into_page(args.page, report.markdown(run))
    missed = [goal for goal in run.goals if goal.met is False]
    for goal in missed:
        print(f"Missed: {goal.goal}: {goal.measured}", file=sys.stderr)
    console.say(f"Written to {args.out}.")
    sys.exit(1 if missed else 0)


def take_away(own: Belongings) -> None:
    """Take away what the measurement brought; an interruption does not stop that."""
    former = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for what in own.remove():
            console.say(f"Left behind: {what}")
    finally:
        for number, handler in former.items():
            with suppress(ValueError, subprocess.SubprocessError):
                signal.signal(number, handler)
