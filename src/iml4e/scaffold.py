"""Makes a project of the template: `iml4e new`."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from iml4e import Error, contract, draft, example, project

#: Larger data, in bytes, does not go into the project's repository.
LARGEST = 20 * 1024**2
ANSWERS = ".copier-answers.yml"


def new(
    name: str,
    *,
    variant: str = "tabular",
    data: str = "",
    target: str = "",
    task: str = "",
    encoding: str = "",
    folder: str = "",
    template: str = "",
    say: Callable[[str], None] = print,
) -> Path:
    """Make a project: render the template, draft the contract of the data, and commit all to a git repository of its own.

    The project's folder may be there with nothing but `.git`, such as the fresh clone of an empty repository: its history stays.

    Args:
        name: of project, model and endpoint.
        variant: tabular or image.
        data: CSV file, or folder of images; empty: an example.
        target: column to predict; empty: the last.
        task: classification or regression; empty: what the target looks like.
        encoding: of the CSV file; empty: what it looks like.
        folder: where the project's folder is made; empty: here.
        template: repository of the template; empty: IML4E_TEMPLATE, or the clone that the package was installed from.
        say: prints a line.

    Returns:
        The project's folder.

    Raises:
        Error: copier is missing, the name or the data cannot be used, or the folder is there already or would lie in the data's.
    """
    copier = _copier()
    made = Path(folder) / project.check_name(name)
    if made.exists() and not _empty(made):
        raise Error(f"{made} is there already: choose another name, or `copier update` in it follows the template")
    if variant == "image" and (target or task == "regression"):
        raise Error("images have classes, which their folders name: leave out --target and --task regression")
    given = Path(data).resolve() if data else None
    if given and given.is_dir() and made.resolve().is_relative_to(given):
        raise Error(f"{made} would lie in the folder of its own data, {given}: name another place with --folder")
    drafted = None
    if given and variant == "image":
        drafted = draft.images(Path(data))
    elif given:
        drafted = draft.table(Path(data), target, task, encoding)
    elif target:
        raise Error("--target names a column of --data, which is missing")
    place = f"data/{given.name}" if given else "data/example" + ("" if variant == "image" else ".csv")
    size = _size(given) if given else 0
    answers: dict[str, Any] = {"name": name, "variant": variant, "data": place}
    answers["task"] = drafted.task if drafted else task or "classification"
    if drafted:
        answers |= {"floor": drafted.floor}
    if size > LARGEST:
        answers["data"] = f"s3:{name}/{given.name if given else ''}" + ("/manifest.csv" if variant == "image" else "")
    _render(copier, template, made, answers)
    if drafted:
        (made / contract.FILE).write_text(drafted.text, encoding="utf-8")
        say(f"{made / contract.FILE} describes {data}: read it, you know the data")
    if given and size > LARGEST:
        say(
            f"{data} has {size / 1e6:.0f} MB, too much for a repository: put it into the platform's bucket with "
            f"`iml4e data put {data} {name}/{given.name}`"
        )
    elif given:
        target_path = made / place
        target_path.parent.mkdir(exist_ok=True)
        if given.is_dir():
            # a repository within the repository would be committed as a link, without its files
            shutil.copytree(given, target_path, ignore=shutil.ignore_patterns(".git"))
        else:
            shutil.copy(given, target_path)
    else:
        example.write(contract.load(made / contract.FILE), made / place, 240, seed=1)
        say(f"{made / place} is an example: nobody has measured it")
    committed = _commit(made, say)
    if given and size <= LARGEST:
        is_copy, secret = f"{made / place} is a copy of {data}", "data that others must not see (README.md)"
        absent = _absent(made, made / place) if committed else []
        if absent:
            say(
                f"{is_copy}, and {len(absent)} of its files are not in the repository, such as {absent[0]}: "
                f"`git add --force data` and commit them, unless it is {secret}"
            )
        elif committed:
            say(f"{is_copy}, and a part of the repository: not for {secret}")
        else:
            say(f"{is_copy}: commit it with the project, unless it is {secret}")
    return made


def _empty(made: Path) -> bool:
    """Whether a folder has nothing, or only the `.git` of a repository that has no files yet, such as a fresh clone."""
    if not made.is_dir():
        return False
    return {each.name for each in made.iterdir()} <= {".git"} and not _git(made, "ls-files", "--full-name", ".")


def _copier() -> Any:
    try:
        import copier
    except ImportError:
        raise Error("`iml4e new` needs copier: `pip install 'iml4e[new]'`, or `pip install copier`") from None
    return copier


def _render(copier: Any, template: str, made: Path, answers: dict[str, Any]) -> None:
    """Render the template.

    Raises:
        Error: there is no template, or git or copier fails.
    """
    import warnings

    place, commit, published = _template(template or os.environ.get("IML4E_TEMPLATE", ""))
    before = set(made.iterdir()) if made.exists() else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copier.run_copy(place, made, data=answers, defaults=True, quiet=True, vcs_ref=commit or None)
        path = made / ANSWERS
        if not path.exists():  # copier copies all of a repository that is no template
            raise Error("its last commit has no template of projects")
    except Exception as error:  # copier's, git's and YAML's errors, each in words of its own
        if before is None:
            shutil.rmtree(made, ignore_errors=True)
        for each in set(made.iterdir()) - before if before is not None else ():
            shutil.rmtree(each, ignore_errors=True) if each.is_dir() else each.unlink()
        reason = " ".join(str(getattr(error, "stderr", "") or error).split())[-300:]
        raise Error(f"the template {place} cannot be used: {reason}") from None
    if published:  # colleagues and CI reach that address, and not this machine's clone
        text = path.read_text()
        path.write_text(re.sub(r"^_src_path: .*$", lambda _: f"_src_path: {published}", text, flags=re.MULTILINE))


def _template(given: str) -> tuple[str, str, str]:
    """Place of the template, commit to take (empty: the files as they are), and the address of the repository where others find that commit."""
    if given and not Path(given).is_dir():
        return given, "HEAD", ""
    clone = next((each for each in ([Path(given)] if given else _clones()) if (each / "copier.yml").is_file()), None)
    if clone is None and given:
        raise Error(f"the folder {given} has no template of projects: no copier.yml")
    if clone is None:
        raise Error(
            "this installation of iml4e has no template: name the platform's repository, --template ADDRESS or IML4E_TEMPLATE"
        )
    commit = _git(clone, "rev-parse", "HEAD") if (clone / ".git").exists() else ""
    remote = _git(clone, "remote", "get-url", "origin") if commit else ""
    known = bool(remote) and bool(_git(clone, "branch", "--remotes", "--contains", "HEAD"))
    reachable = (
        known
        and (bool(urlsplit(remote).scheme) or re.match(r"[\w.-]+@[\w.-]+:", remote))
        and not urlsplit(remote).password
    )
    return str(clone), commit, remote if reachable and not remote.startswith("file:") else ""


def _clones() -> list[Path]:
    """Folders that the package may have been installed from."""
    found = [Path(__file__).resolve().parents[2]]  # editable, or run from a clone
    try:
        told = json.loads(importlib.metadata.distribution("iml4e").read_text("direct_url.json") or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        told = {}
    url = urlsplit(told.get("url", ""))
    return [*found, Path(unquote(url.path))] if url.scheme == "file" else found


def _commit(made: Path, say: Callable[[str], None]) -> bool:
    """Commit the project to a git repository of its own, which `copier update` needs; not within another repository.

    Returns:
        Whether it is committed.
    """
    if shutil.which("git") is None:
        say(f"git is not installed: commit {made} yourself, `copier update` in it needs a repository")
        return False
    around = _git(made, "rev-parse", "--show-toplevel")
    own = bool(around) and Path(around).resolve() == made.resolve()
    if around and not own:
        say(
            f"{made} lies in the repository {around}, and nothing is committed: commit it there; "
            "`copier update` needs a repository of the project's own"
        )
        return False
    steps = (
        *([] if own else [["init", "--quiet", "--initial-branch", "main"]]),
        ["add", "--all"],
        # whatever the ignore files of the project, the data or the user say
        *([["add", "--force", "data"]] if (made / "data").exists() else []),
        ["commit", "--quiet", "-m", "Project made by `iml4e new`"],
    )
    for words in steps:
        done = subprocess.run(["git", *words], cwd=made, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = " ".join(done.stderr.split())[:160]
            say(f"git {words[0]} failed ({reason}): commit the project yourself")
            return False
    return True


def _absent(made: Path, place: Path) -> list[str]:
    """Files below a place, or the place itself, that the project's repository does not have."""
    there = {made / name for name in _git(made, "ls-files", "-z", "--", "data").split("\0") if name}
    files = place.rglob("*") if place.is_dir() else [place]
    return sorted(each.relative_to(made).as_posix() for each in files if not each.is_dir() and each not in there)


def _git(folder: Path, *words: str) -> str:
    """What git prints; empty if it fails, or is not there."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(each.stat().st_size for each in files if each.is_file() and ".git" not in each.relative_to(path).parts)
