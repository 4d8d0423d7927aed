"""A load test from its first to its last moment: shape, preparing, progress, removing, verdict, report. Listeners of locust's events."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import uuid
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import gevent
import gevent.lock
from locust import LoadTestShape, events
from locust.env import Environment
from locust.runners import LocalRunner

import _measure
import _prometheus
import _report
import _shapes
import _thresholds
from _measure import Record, Request
from _thresholds import milliseconds
from _users import Http, PlatformUser, Problem, target


class Session:
    """One load test; with the web page there may be several, one after the other."""

    def __init__(self, environment: Environment) -> None:
        """Nothing happens yet."""
        self.environment = environment
        self.record = Record()
        self.shape = "steady"
        self.active = False
        """Whether something is created that has to be removed."""
        self.problem = ""
        self.interrupted = False
        self.run_time: float | None = None
        """What the command line says, where locust must not see it."""
        self.exit_code = 0
        self.before = _prometheus.Counters()
        self.lock = gevent.lock.RLock()
        self.load = _report.load_average()
        self.said, self.counted = 0.0, 0

    @property
    def options(self) -> Any:
        """Of the command line, or of the web page's form."""
        return self.environment.parsed_options

    @property
    def users(self) -> int:
        """Users at the peak of the shape: of the form, or of the command line."""
        named = getattr(self.options, "users", None) or self.options.num_users or _shapes.USERS
        return min(int(named), _shapes.MOST_USERS)

    @property
    def seconds(self) -> float:
        """How long users ask."""
        return min(float(self.options.run_time or self.run_time or _shapes.SECONDS), _shapes.MOST_SECONDS)

    def services(self) -> list[Any]:
        """Services that the users ask."""
        return list({id(user.service): user.service for user in self.environment.user_classes}.values())

    def begin(self) -> None:
        """Prepare; a problem is told and ends the run."""
        host = target(self.environment.host)
        self.environment.host = host
        self.record, self.shape, self.problem = Record(), self.options.shape, ""
        PlatformUser.record = self.record
        self.load, self.said, self.counted = _report.load_average(), 0.0, 0
        http = Http(host, self.record)
        kinds = len(self.environment.user_classes)
        say(f"{self.shape}, up to {self.users} users of {kinds} kinds, {self.seconds:.0f} s, {host}")
        if self.options.report:
            self.before = _prometheus.counters(http, host)
        self.active = True
        run = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
        try:
            for service in self.services():
                service.prepare(http, run)
        except Problem as problem:
            self.problem = str(problem)
        self.record.began = time.time()
        if not self.problem:
            say(f"Prepared {', '.join(service.name for service in self.services())}")

    def progress(self, seconds: float) -> None:
        """Keep the number of users; every five seconds a line for people."""
        count = self.environment.runner.user_count if self.environment.runner else 0
        self.record.users.append((time.time(), count))
        if seconds - self.said < 5:
            return
        last, self.counted = self.record.requests[self.counted :], len(self.record.requests)
        since, self.said = seconds - self.said, seconds
        failed = sum(bool(each.failure) for each in last)
        p95 = _measure.percentile((1000 * each.due for each in last), 0.95)
        say(
            f"[{seconds // 60:02.0f}:{seconds % 60:02.0f} of {self.seconds // 60:02.0f}:{self.seconds % 60:02.0f}] {count} users, "
            f"{len(last) / since:.0f} requests/s, {failed} failed, p95 {milliseconds(p95)}"
        )

    def interrupt(self) -> None:
        """End the run on Ctrl-C or SIGTERM; the second one does not wait until everything is removed."""
        if self.interrupted:
            print("Left at once: a load test of tomorrow removes what is there.", file=sys.stderr, flush=True)
            os._exit(130)
        self.interrupted = True
        say(f"Interrupted after {self.record.seconds:.0f} s" if self.active else "Interrupted")
        # the shape ends the run at its next tick: two greenlets that stop users get into each other's way
        runner: Any = self.environment.runner
        while runner.shape_greenlet:
            time.sleep(0.1)
        if self.environment.web_ui:
            self.environment.web_ui.stop()

    def finish(self) -> None:
        """Remove what was created, judge, report. A second call after an interruption goes on; after the end it does nothing."""
        with self.lock:
            if not self.active:
                return
            self.record.ended = self.record.ended or time.time()
            say("Removing what this run created")
            http = Http(str(self.environment.host), self.record)
            for service in self.services():
                try:
                    service.clean(http)
                except Problem as problem:
                    print(
                        f"{service.name}: not everything was removed; a load test of tomorrow does it. {problem}",
                        file=sys.stderr,
                    )
            ended = time.time()
            self.active = False
            self.judge(http, ended)

    def judge(self, http: Http, ended: float) -> None:
        """Print the figures and a sentence for each missed threshold; write the report where one is asked for."""
        verdicts = _thresholds.judge(self.record, thresholds(self.options.thresholds), self.shape)
        complaints = [sentence for verdict in verdicts for sentence in verdict.complaints]
        if self.problem:
            complaints.insert(0, self.problem)
        elif not self.record.requests:
            complaints.append("No request was sent.")
        elif self.record.full:
            complaints.append(
                f"The run ended early, at its limit of {_measure.MOST_REQUESTS:,} requests: name fewer users or a shorter time."
            )
        self.exit_code = 1 if complaints else 0
        asked = self.record.services()
        notes = [
            f"No user of {service.name} was there: name more users than {self.users}."
            for service in self.services()
            if self.record.requests and service.name not in asked
        ]
        if self.interrupted:
            notes.insert(0, f"The run was interrupted after {self.record.seconds:.0f} of {self.seconds:.0f} s.")
        run = _report.Run(
            record=self.record,
            shape=self.shape,
            users=self.users,
            planned=self.seconds,
            url=str(self.environment.host),
            verdicts=verdicts,
            complaints=complaints,
            notes=notes,
            load=(self.load, _report.load_average()),
        )
        print("\n" + _report.terminal(run), flush=True)
        if self.options.report and self.record.requests:
            after = self.before
            if self.interrupted:
                after = _prometheus.Counters(why="The run was interrupted")
            elif not after.why:
                say("Waiting for Prometheus to scrape the gateway once more")
                after = _prometheus.counters_after(http, http.url, ended)
            run.gateway_why = after.why
            if not after.why:
                run.gateway = _prometheus.compare(self.before, after, self.record.routes, self.record.unanswered)
            folder = _report.write(run, Path(self.options.report))
            say(f"Report: {folder / 'report.html'}")
        for complaint in complaints:
            print(complaint, file=sys.stderr, flush=True)


class Shape(LoadTestShape):
    """The chosen shape.

    There is one class for all: of a folder of locustfiles locust takes the first class that it finds, and refuses a second one of
    the same name. This one is put into the environment by hand, and reads what was chosen when a run begins.
    """

    use_common_options = True

    def __init__(self, session: Session) -> None:
        """Remember the session."""
        super().__init__()
        self.session, self.begun = session, False

    def reset_time(self) -> None:
        """Called by locust before the first tick of a run."""
        super().reset_time()
        self.begun = False

    def tick(self) -> tuple[int, float] | None:
        """Once a second: how many users there should be."""
        session = self.session
        if not self.begun:
            self.begun = True
            session.begin()
            super().reset_time()
        now = self.get_run_time()
        session.progress(now)
        users = _shapes.users_at(session.shape, now, session.seconds, session.users)
        if users is None or session.problem or session.interrupted or session.record.full:
            return None
        return users, float(session.options.spawn_rate or session.users)


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def thresholds(file: str) -> dict[str, _thresholds.Thresholds]:
    """Read the thresholds, or exit with a sentence."""
    try:
        return _thresholds.read(file)
    except _thresholds.Wrong as error:
        sys.exit(str(error))


@events.init_command_line_parser.add_listener
def options(parser: ArgumentParser) -> None:
    """Options of load tests; `shape` is on the web page too."""
    add: Any = parser.add_argument
    add(
        "--shape", choices=list(_shapes.SHAPES), default="steady", env_var="IML4E_LOAD_SHAPE",
        help="How the number of users changes over the time (default: steady)",
    )  # fmt: skip
    add(
        "--thresholds", metavar="FILE", default="", env_var="IML4E_LOAD_THRESHOLDS", include_in_web_ui=False,
        help="TOML file with thresholds that differ from those of load/thresholds.toml",
    )  # fmt: skip
    add(
        "--report", metavar="FOLDER", default="", env_var="IML4E_LOAD_REPORT", include_in_web_ui=False,
        help="Write FOLDER/<time>/report.html and report.md",
    )  # fmt: skip


@events.init.add_listener
def prepare(environment: Environment, runner: Any, **_: object) -> None:
    """Settle the address, the shape, and who has something to ask; exit with a sentence where nobody has."""
    chosen: Any = environment.parsed_options
    if not isinstance(runner, LocalRunner):
        sys.exit("A load test runs in one process: leave out --master, --worker and --processes.")
    if chosen.class_picker:
        sys.exit("Leave out --class-picker, and name the kinds of users after the options.")
    if (chosen.num_users or 0) > _shapes.MOST_USERS or (chosen.run_time or 0) > _shapes.MOST_SECONDS:
        sys.exit(f"A load test has at most {_shapes.MOST_USERS} users and {_shapes.MOST_SECONDS // 3600} hours.")
    thresholds(chosen.thresholds)
    environment.host = target(environment.host)
    environment.user_classes = present(environment)
    session = Session(environment)
    shape = Shape(session)
    shape.runner = runner
    environment.shape_class = shape
    # our own table has exact percentiles; locust's are rounded
    logging.getLogger("locust.stats_logger").disabled = True
    # three lines at each change of a shape
    logging.getLogger("locust.runners").setLevel(logging.WARNING)
    if chosen.headless or chosen.autostart:
        # locust would start to count this time when the shape is over, and stop what runs then
        session.run_time, chosen.run_time = chosen.run_time, None
    # locust's own ways leave stack traces, and with a shape they leave SIGTERM to the system: nothing would be removed
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, session.interrupt)

    @environment.events.test_stop.add_listener
    def stop(**_: object) -> None:
        session.finish()

    @environment.events.quitting.add_listener
    def quit(**_: object) -> None:
        session.finish()
        environment.process_exit_code = session.exit_code

    @environment.events.request.add_listener
    def request(name: str, response_time: float, start_time: float, exception: Any, context: Any, **_: object) -> None:
        failure = str(exception) if exception else ""
        session.record.requests.append(
            Request(context["service"], name, start_time, context["late"], response_time / 1000, failure)
        )


def present(environment: Environment) -> list[type[PlatformUser]]:
    """The users that have something to ask; a line for each of the others, with the reason."""
    http = Http(str(environment.host), Record())
    found: list[type[PlatformUser]] = []
    reasons: dict[str, list[str]] = {}
    try:
        for user in environment.user_classes:
            if why := user.missing(http):
                reasons.setdefault(why, []).append(user.__name__)
            else:
                found.append(user)
    except Problem as problem:
        sys.exit(str(problem))
    for why, names in reasons.items():
        say(f"No {', '.join(names)}: {why}.")
    if not found:
        sys.exit(
            f"Nobody has anything to ask at {http.url}: is the port right (IML4E_URL, --host)? "
            "`make demo` deploys a model; IML4E_MODEL_NAMESPACE names the namespace of the models."
        )
    return found
