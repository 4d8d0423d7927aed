"""The template of a partner's project, and `iml4e new`, which renders it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_diabetes

from iml4e import Error, cli, contract, project, reading, scaffold

REPO = Path(__file__).resolve().parents[2]
QUIET = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "a"), ("EMAIL", "a@example.org"))
}


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Git as on a machine that nobody has configured, with an identity."""
    for name, value in (QUIET | IDENTITY).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("IML4E_TEMPLATE", raising=False)


def git(folder: Path, *words: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A repository of the template alone, as it is here, with a release."""
    place = tmp_path / "platform"
    shutil.copytree(REPO / "template", place / "template")
    shutil.copy(REPO / "copier.yml", place)
    git(place.parent, "init", "-q", "-b", "main", str(place))
    release(place, "1.0.0")
    return place


def release(place: Path, tag: str) -> None:
    """Commit what is there, and tag it."""
    git(place, "add", "-A")
    git(place, "commit", "-qm", tag)
    git(place, "tag", tag)


def tool(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment in a project, with the package of this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(REPO / "src"), "IML4E_IN_IMAGE": "", "RUFF_NO_CACHE": "true"}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


CASES = {
    "tabular": {},
    "regression": {"task": "regression"},
    "image": {"variant": "image"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_new_project_passes_its_own_lint_and_tests(template: Path, tmp_path: Path, case: str) -> None:
    made = scaffold.new("fraud-1", folder=str(tmp_path / "made"), template=str(template), **CASES[case])
    for words in (["ruff", "check", "."], ["ruff", "format", "--check", "."]):
        done = tool(made, *words)
        assert done.returncode == 0, done.stdout + done.stderr
    done = tool(made, "pytest", "-q", "-p", "no:cacheprovider", "tests/test_features.py", "tests/test_data.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
    assert git(made, "status", "--porcelain") == ""
    texts = [made / name for name in git(made, "ls-files").splitlines() if not name.endswith(".png")]
    assert texts
    assert [path for path in texts if "{%" in path.read_text()] == []


def test_the_pipeline_of_a_new_project_runs_without_a_platform(template: Path, tmp_path: Path) -> None:
    """Of images; tests/e2e runs that of a table."""
    made = scaffold.new("fraud", folder=str(tmp_path / "made"), template=str(template), **CASES["image"])
    done = tool(made, "pytest", "-q", "-p", "no:cacheprovider", "tests/test_pipeline.py")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert not (made / "mlruns").exists()
    assert git(made, "status", "--porcelain") == ""


def test_tools_of_a_project_are_those_of_this_repository() -> None:
    wanted = re.search(r"^ruff~=(\S+)$", (REPO / "template" / "requirements-dev.txt").read_text(), re.MULTILINE)
    locked = re.search(r"^ruff==(\S+) ", (REPO / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert wanted
    assert locked
    assert wanted[1] == locked[1]


@pytest.mark.parametrize(("load", "task"), [(load_breast_cancer, "classification"), (load_diabetes, "regression")])
def test_a_project_of_ones_own_csv(template: Path, tmp_path: Path, load: Any, task: str) -> None:
    data = tmp_path / "Kündigung: #1 'x'.csv"
    load(as_frame=True).frame.to_csv(data, index=False)
    made = scaffold.new("mine", data=str(data), target="target", folder=str(tmp_path / "made"), template=str(template))
    found = project.load(made)
    assert found.data == f"data/{data.name}"
    assert found.contract.task == task
    assert found.gate.metric == {"classification": "accuracy", "regression": "r2"}[task]
    assert reading.read(found.contract, made / found.data)[1] == []
    assert tool(made, "ruff", "check", ".").returncode == 0
    done = tool(made, "pytest", "-q", "-p", "no:cacheprovider", "tests/test_features.py", "tests/test_data.py")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["json", "email", "test", "import", "project", "iml4e", "x"])
def test_names_of_modules_are_no_trap(template: Path, tmp_path: Path, name: str) -> None:
    """kedro-org/kedro#5607: a project named like a module of Python was broken from the start."""
    made = scaffold.new(name, folder=str(tmp_path / "made"), template=str(template))
    assert project.load(made).function("build")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["Fraud"], "'Fraud' cannot name a project: use 1 to 40 of a-z, 0-9 and '-'"),
        (["a_b"], "cannot name a project"),
        (["-a"], ""),
        (["9a"], "cannot name a project"),
        (["a" * 41], "cannot name a project"),
        (["a", "--data", "none.csv"], "there is no file none.csv"),
        (["a", "--target", "y"], "--target names a column of --data, which is missing"),
        (["a", "--encoding", "cp1251"], "--encoding is that of a CSV file, --data, which is missing"),
        (["a", "--variant", "image", "--target", "y"], "images have classes, which their folders name"),
        (["a", "--variant", "image", "--data", "none"], "there is no folder none"),
        (["a", "--template", "no/such/place"], "the template no/such/place cannot be used"),
    ],
)
def test_what_cannot_be_made_is_one_sentence_and_leaves_nothing(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], told: str,
) -> None:  # fmt: skip
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    where = [] if "--template" in words else ["--template", str(template)]
    if told:
        assert cli.main(["new", *words, *where]) == 1
        said = capsys.readouterr().err
        assert told in said
        assert said.count("\n") == 1
    else:
        with pytest.raises(SystemExit):
            cli.main(["new", *words, *where])
    assert list((tmp_path / "here").iterdir()) == []


def test_what_people_must_check_is_printed(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "цена,size,late\n" + "".join(f"{i or 'нет'},{i % 9},{'ab'[i % 2]}\n" for i in range(90))
    Path("data.csv").write_bytes(text.encode("cp1251"))
    words = ["new", "mine", "--data", "data.csv", "--template", str(template)]
    assert cli.main([*words, "--encoding", "cp1251"]) == 0
    assert (
        "Look at these:\n  - 'цена' is not used: 89 of 90 cells are numbers, and 'нет' in line 2"
        in capsys.readouterr().out
    )
    assert project.load("mine").contract.csv.encoding == "cp1251"
    Path("data.csv").write_text(
        "".join(f"c{i}," for i in range(30)) + "x,y\n" + ("z," * 30 + "1,2\n" + "z," * 30 + "2,3\n") * 40
    )
    assert cli.main(["new", "more", *words[2:]]) == 0
    assert "  - 'c19' is not used: it is always 'z'\n  - 10 more, in more/schema.yaml\n" in capsys.readouterr().out


def test_a_folder_that_is_there_is_left_alone(template: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(Error, match="is there already: choose another name"):
        scaffold.new("mine", folder=str(tmp_path), template=str(template))
    assert (tmp_path / "mine" / "file").read_text() == "mine"


def test_without_copier_a_sentence_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "copier", None)
    assert cli.main(["new", "fraud"]) == 1
    assert (
        capsys.readouterr().err
        == "iml4e: `iml4e new` needs copier: `pip install 'iml4e[new]'`, or `pip install copier`\n"
    )


def test_within_another_repository_no_repository_is_made(template: Path, tmp_path: Path) -> None:
    mono = tmp_path / "mono"
    git(tmp_path, "init", "-q", str(mono))
    made = scaffold.new("fraud", folder=str(mono), template=str(template))
    assert not (made / ".git").exists()


def test_within_another_repository_what_is_said_is_so(
    template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mono = tmp_path / "mono"
    git(tmp_path, "init", "-q", str(mono))
    data = csv_file(tmp_path)
    assert cli.main(["new", "fraud", "--data", str(data), "--folder", str(mono), "--template", str(template)]) == 0
    said = capsys.readouterr().out
    assert f"lies in the repository {mono}, and nothing is committed: commit it there" in said
    assert f"is a copy of {data}: commit it with the project, unless it is data that others must not see" in said
    assert "of its own. Next" not in said
    assert "a part of the repository" not in said


def test_a_fresh_clone_becomes_the_project_and_keeps_its_history(template: Path, tmp_path: Path) -> None:
    """drivendataorg/cookiecutter-data-science#283, cookiecutter/cookiecutter#80."""
    place = tmp_path / "fraud"
    git(tmp_path, "init", "-q", "-b", "trunk", str(place))
    git(place, "commit", "-q", "--allow-empty", "-m", "first")
    with pytest.raises(Error, match="cannot be used"):
        scaffold.new("fraud", folder=str(tmp_path), template="no/such/place")
    assert [each.name for each in place.iterdir()] == [".git"]
    made = scaffold.new("fraud", folder=str(tmp_path), template=str(template))
    assert git(made, "log", "--format=%s").splitlines() == ["Project made by `iml4e new`", "first"]
    assert git(made, "branch", "--show-current") == "trunk"
    assert git(made, "status", "--porcelain") == ""


def test_a_clone_without_its_files_is_left_alone(template: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--no-checkout", str(template), "fraud")
    git(tmp_path / "fraud", "reset", "-q")
    with pytest.raises(Error, match="is there already"):
        scaffold.new("fraud", folder=str(tmp_path), template=str(template))


# --- the data in the repository


def csv_file(tmp_path: Path) -> Path:
    """Rows of two columns."""
    data = tmp_path / "rows.csv"
    data.write_text("a,b\n" + "".join(f"{i},{'xy'[i % 2]}\n" for i in range(90)))
    return data


def images(folder: Path, *classes: str) -> Path:
    """A folder with images of each class."""
    for label in classes:
        (folder / label).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (16, 16), (i, i, i)).save(folder / label / f"{i}.png")
    return folder


def test_data_is_in_the_repository_whatever_is_ignored(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """drivendataorg/cookiecutter-data-science#32: data was missing from the repository, and nothing said so."""
    (tmp_path / "ignore").write_text("*.csv\n")
    (tmp_path / "config").write_text(f"[core]\nexcludesFile = {tmp_path / 'ignore'}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    data = csv_file(tmp_path)
    made = scaffold.new("fraud", data=str(data), folder=str(tmp_path / "made"), template=str(template))
    assert git(made, "ls-files", "data") == "data/rows.csv"
    assert "and a part of the repository" in capsys.readouterr().out


def test_images_are_in_the_repository_of_any_class_and_of_a_clone(
    template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """vercel-labs/skills#129: a repository within the repository is committed as a link, without its files."""
    data = images(tmp_path / "terrain", "build", "field")
    (data / ".gitignore").write_text("*.png\n")
    git(data, "init", "-q")
    words = {"variant": "image", "data": str(data), "template": str(template)}
    made = scaffold.new("fraud", folder=str(tmp_path / "made"), **words)
    assert len([name for name in git(made, "ls-files", "data").splitlines() if name.endswith(".png")]) == 40
    assert not (made / "data" / "terrain" / ".git").exists()
    assert "and a part of the repository" in capsys.readouterr().out
    assert git(made, "check-ignore", "build/run.json") == "build/run.json"


def test_files_that_are_not_in_the_repository_are_told(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaffold, "_absent", lambda *_: ["data/rows.csv"])
    data = csv_file(tmp_path)
    scaffold.new("fraud", data=str(data), folder=str(tmp_path / "made"), template=str(template))
    said = capsys.readouterr().out
    assert "1 of its files are not in the repository, such as data/rows.csv: `git add --force data`" in said


def test_a_project_within_its_own_data_is_refused(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """python/cpython#17098: a folder copied into itself never ends."""
    data = images(tmp_path / "photos", "a", "b")
    monkeypatch.chdir(data)
    with pytest.raises(Error, match=r"would lie in the folder of its own data, .*: name another place with --folder"):
        scaffold.new("rec", variant="image", data=".", template=str(template))
    assert sorted(each.name for each in data.iterdir()) == ["a", "b"]


def test_large_data_stays_out_of_the_repository(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaffold, "LARGEST", 100)
    data = tmp_path / "big.csv"
    data.write_text("a,b\n" + "".join(f"{i},{i % 2}\n" for i in range(90)))
    made = scaffold.new("fraud", data=str(data), folder=str(tmp_path / "made"), template=str(template))
    assert project.load(made).data == "s3:fraud/big.csv"
    assert not (made / "data").exists()
    assert f"iml4e data put {data} fraud/big.csv" in capsys.readouterr().out


# --- where the template comes from


def test_the_clone_that_the_package_is_in_has_the_template(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place, commit, _ = scaffold._template("")
    assert place == str(REPO)
    assert commit == git(REPO, "rev-parse", "HEAD") or not (REPO / ".git").exists()
    monkeypatch.setattr(scaffold, "_clones", lambda: [tmp_path])
    with pytest.raises(Error, match="this installation of iml4e has no template: name the platform's repository"):
        scaffold._template("")


@pytest.mark.parametrize(
    ("remote", "kept"),
    [
        ("https://git.example.org/a/iml4e.git", True),
        ("git@git.example.org:a/iml4e.git", True),
        ("https://oauth2:secret@git.example.org/a/iml4e.git", False),
        ("/srv/git/iml4e.git", False),
    ],
)
def test_colleagues_find_the_template_where_this_clone_comes_from(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: str, kept: bool
) -> None:
    monkeypatch.setattr(scaffold, "_clones", lambda: [template])
    git(template, "remote", "add", "origin", remote)
    made = scaffold.new("unpublished", folder=str(tmp_path / "made"))
    assert yaml.safe_load((made / scaffold.ANSWERS).read_text())["_src_path"] == str(template)
    git(template, "update-ref", "refs/remotes/origin/main", "HEAD")  # as after a push
    made = scaffold.new("published", folder=str(tmp_path / "made"))
    assert yaml.safe_load((made / scaffold.ANSWERS).read_text())["_src_path"] == (remote if kept else str(template))


def test_what_is_not_committed_in_the_clone_is_not_rendered(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """copier-org/copier#1943: an update cannot find the commit that copier makes of a dirty template."""
    monkeypatch.setattr(scaffold, "_clones", lambda: [template])
    (template / "template" / "new-file.txt").write_text("half done")
    made = scaffold.new("fraud", folder=str(tmp_path / "made"))
    assert not (made / "new-file.txt").exists()
    assert yaml.safe_load((made / scaffold.ANSWERS).read_text())["_commit"] == "1.0.0"


def test_the_last_commit_is_rendered_although_the_newest_release_has_no_template(
    template: Path, tmp_path: Path
) -> None:
    git(
        template,
        "tag",
        "2.0.0",
        git(
            template,
            "commit-tree",
            git(template, "hash-object", "-w", "-t", "tree", "/dev/null"),
            "-m",
            "no template yet",
        ),
    )
    made = scaffold.new("fraud", folder=str(tmp_path / "made"), template=f"git+{template.as_uri()}")
    assert (made / "iml4e.yaml").exists()


def test_a_repository_without_a_template_leaves_nothing(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("something else")
    git(other, "init", "--quiet")
    git(other, "add", "--all")
    git(other, "commit", "--quiet", "--message", "something else")
    for address, sentence in ((f"git+{other.as_uri()}", "has no template of projects"), (str(other), "no copier.yml")):
        with pytest.raises(Error, match=sentence):
            scaffold.new("fraud", folder=str(tmp_path / "made"), template=address)
        assert not (tmp_path / "made" / "fraud").exists()


# --- updates


def edit(path: Path, before: str, after: str) -> None:
    """Change a file; what is changed must be there."""
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_an_update_keeps_what_a_partner_has_changed(template: Path, tmp_path: Path) -> None:
    """Both change the same files, in other lines; the partner's own files are left alone; a file that the partner removed stays away."""
    data = tmp_path / "my.csv"
    data.write_text("a,b\n" + "".join(f"{i},{i % 2}\n" for i in range(90)))
    made = scaffold.new("fraud", data=str(data), folder=str(tmp_path / "made"), template=str(template))
    edit(made / "iml4e.yaml", "strength: 1.0", "strength: 0.25\n  depth: 7")
    edit(made / "project" / "train.py", "max_iter=1000", "max_iter=50")
    edit(made / "README.md", "# Fraud\n", "# Who cheats\n")
    (made / "project" / "own.py").write_text("MINE = 1\n")
    (made / "MODEL_CARD.md").write_text("# All about it\n")
    (made / "tests" / "test_data.py").unlink()
    schema = (made / "schema.yaml").read_text()
    git(made, "add", "-A")
    git(made, "commit", "-qm", "mine")

    edit(template / "template" / "iml4e.yaml.jinja", "sample: 500", "sample: 900")
    edit(template / "template" / "project" / "train.py.jinja", '"""The model of the project."""', '"""The model."""')
    edit(template / "template" / "README.md.jinja", "## Follow the template", "## Following the template")
    edit(template / "template" / "schema.yaml.jinja", "rows: 50", "rows: 77")
    edit(template / "template" / "MODEL_CARD.md.jinja", "## Data", "## The data")
    edit(template / "template" / "tests" / "test_data.py", "Tests of the data", "Some tests of the data")
    (template / "template" / "CONTRIBUTING.md").write_text("# New\n")
    release(template, "1.1.0")

    copier.run_update(made, defaults=True, overwrite=True, quiet=True)
    assert yaml.safe_load((made / scaffold.ANSWERS).read_text())["_commit"] == "1.1.0"
    settings = yaml.safe_load((made / "iml4e.yaml").read_text())
    assert (settings["sample"], settings["parameters"]) == (900, {"strength": 0.25, "depth": 7})
    train = (made / "project" / "train.py").read_text()
    assert '"""The model."""' in train
    assert "max_iter=50" in train
    readme = (made / "README.md").read_text()
    assert "# Who cheats" in readme
    assert "## Following the template" in readme
    assert (made / "CONTRIBUTING.md").exists()
    assert (made / "project" / "own.py").read_text() == "MINE = 1\n"
    assert (made / "schema.yaml").read_text() == schema
    assert (made / "MODEL_CARD.md").read_text() == "# All about it\n"
    assert not (made / "tests" / "test_data.py").exists()
    assert (made / "data" / "my.csv").read_bytes() == data.read_bytes()
    assert list(made.rglob("*.rej")) == []
    assert "<<<<<<<" not in "".join(
        path.read_text() for path in made.rglob("*") if path.is_file() and ".git/" not in str(path)
    )
    assert project.load(made).contract.target == "b"
    assert contract.load(made / "schema.yaml")


def test_lines_that_both_changed_are_marked_as_a_conflict(template: Path, tmp_path: Path) -> None:
    made = scaffold.new("fraud", folder=str(tmp_path / "made"), template=str(template))
    edit(made / "iml4e.yaml", "sample: 500", "sample: 20")
    git(made, "commit", "-qam", "mine")
    edit(template / "template" / "iml4e.yaml.jinja", "sample: 500", "sample: 900")
    release(template, "1.1.0")
    copier.run_update(made, defaults=True, overwrite=True, quiet=True)
    text = (made / "iml4e.yaml").read_text()
    assert "<<<<<<< before updating" in text
    assert "sample: 20" in text
    assert "sample: 900" in text


def test_a_project_made_between_two_releases_follows_the_next(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """copier-org/copier#1305, #603: `iml4e new` renders the clone's commit, which mostly is no release."""
    (template / "template" / "first.txt").write_text("1\n")
    git(template, "add", "-A")
    git(template, "commit", "-qm", "after the release")
    monkeypatch.setattr(scaffold, "_clones", lambda: [template])
    made = scaffold.new("fraud", folder=str(tmp_path / "made"))
    assert yaml.safe_load((made / scaffold.ANSWERS).read_text())["_commit"].startswith("1.0.0-1-g")
    edit(made / "iml4e.yaml", "strength: 1.0", "strength: 0.25")
    git(made, "commit", "-qam", "mine")
    (template / "template" / "first.txt").write_text("2\n")
    release(template, "1.1.0")
    copier.run_update(made, defaults=True, overwrite=True, quiet=True)
    assert (made / "first.txt").read_text() == "2\n"
    assert "strength: 0.25" in (made / "iml4e.yaml").read_text()
