"""The documentation as a site, built by Zensical from the pages as they are in the repository.

scripts/docs           build/docs/site; fails on a link or an anchor that leads nowhere, and on anything that a page would load from elsewhere
scripts/docs --media   ask each address of docs/training/media.yaml whether it still answers (needs the internet)
scripts/docs --draw    draw the mermaid diagrams of the pages into docs/site/diagrams (needs npm and Chromium)

The generator is in an environment of its own, from docs/site/requirements.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from scripts.common import console
from scripts.common.paths import CACHE, REPO
from scripts.harness import setup

BUILD = REPO / "build" / "docs"
SITE = BUILD / "site"
DIAGRAMS = REPO / "docs" / "site" / "diagrams"
MERMAID = "mermaid@11.17.2"
MEDIA = REPO / "docs" / "training" / "media.yaml"
FENCE = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
#: Writes a diagram into the page, as the text of an SVG file that stands alone.
DRAW = """
mermaid.initialize({startOnLoad: false, theme: "neutral", flowchart: {htmlLabels: false}});
mermaid.render("diagram", SOURCE).then(({svg}) => {
  const drawn = new DOMParser().parseFromString(svg, "text/html").querySelector("svg");
  const shown = document.createElement("pre");
  shown.textContent = new XMLSerializer().serializeToString(drawn);
  document.body.append(shown);
});
"""
#: What a browser would fetch from another host.
LOADS = re.compile(
    r"""<(?:script|img|iframe|source)[^>]+src=["']?(?:https?:)?//|<link[^>]+rel=["']?(?:stylesheet|preconnect)["']?[^>]+href=["']?(?:https?:)?//"""
)


def generator() -> Path:
    """The program zensical, in an environment that is kept in the cache by content."""
    key = hashlib.sha256(setup.SITE_LOCK.read_bytes()).hexdigest()[:16]
    folder = CACHE / "venv" / f"docs-{key}"
    if not (folder / "complete").exists():
        with console.step("install the site's generator"):
            tool = setup.uv()
            env = {"UV_CACHE_DIR": str(CACHE / "uv" / "cache"), "VIRTUAL_ENV": str(folder)}
            console.run([*tool, "venv", "--clear", folder])
            console.run([*tool, "pip", "sync", setup.SITE_LOCK], env=env)
            (folder / "complete").touch()
    return folder / "bin" / "zensical"


def sources() -> list[Path]:
    """Pages, and what pages show: paths below the repository."""
    listed = console.run(["git", "ls-files", "-co", "--exclude-standard", "*.md", "docs"], cwd=REPO).splitlines()
    # the chart's own README is for `helm show readme`; tests hold pages that are data
    kept = [name for name in listed if not name.startswith(("charts/", "tests/")) and (REPO / name).is_file()]
    return sorted({Path(name) for name in kept})


def diagram(fence: str) -> Path:
    """The picture of a mermaid fence: its name has the digest of the diagram, so that a changed diagram has no picture."""
    return DIAGRAMS / f"{hashlib.sha256(fence.encode()).hexdigest()[:12]}.svg"


def draw() -> None:
    """Draw what has no picture, and remove pictures of diagrams that are gone."""
    fences = {
        diagram(fence[0]): fence[0]
        for path in sources()
        if path.suffix == ".md"
        for fence in FENCE.finditer((REPO / path).read_text())
        if fence[0].startswith("```mermaid")
    }
    for old in set(DIAGRAMS.glob("*.svg")) - fences.keys():
        old.unlink()
    DIAGRAMS.mkdir(exist_ok=True)
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not (browser and shutil.which("npm")):
        raise console.Failure("npm and Chromium draw the diagrams.", "Install both, or leave the diagrams as text.")
    with tempfile.TemporaryDirectory() as folder, console.step("draw the diagrams"):
        archive = console.run(["npm", "pack", "--silent", MERMAID], cwd=Path(folder)).split()[-1]
        console.run(["tar", "xzf", archive, "package/dist/mermaid.min.js"], cwd=Path(folder))
        for picture, fence in fences.items():
            source = "\n".join(fence.splitlines()[1:-1])
            script = DRAW.replace("SOURCE", json.dumps(source))
            Path(folder, "draw.html").write_text(
                f"<!doctype html><meta charset=utf-8><body><script src=package/dist/mermaid.min.js></script><script>{script}</script>"
            )
            command = [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--virtual-time-budget=20000",
                "--dump-dom",
            ]
            shown = console.run([*command, f"file://{folder}/draw.html"])
            found = re.search("<pre>(.*?)</pre>", shown, re.DOTALL)
            if not found:
                raise console.Failure("A diagram cannot be drawn.", "Correct its mermaid source.", source)
            picture.write_text(html.unescape(found[1]) + "\n")


def page(text: str, place: Path, pages: set[Path]) -> str:
    """A page as the site can show it: links to what the site does not have become plain text, diagrams stay readable as their source."""

    def shown(fence: str) -> str:
        if not fence.startswith("```mermaid"):
            return fence
        picture = diagram(fence).relative_to(REPO)
        up = "../" * len(place.parent.parts)
        return f"![Diagram]({up}{picture})" if (REPO / picture).exists() else fence.replace("```mermaid", "```text")

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        found = Path(*_normal((place.parent / target).parts))
        if found / "README.md" in pages:  # a folder that has a page
            return f"[{match[1]}]({target.rstrip('/')}/README.md{'#' * bool(anchor)}{anchor})"
        return (
            match[1] if found not in pages and (REPO / found).exists() else match[0]
        )  # broken ones are the generator's to tell

    parts, last = [], 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(link, text[last : fence.start()]), shown(fence[0])]
        last = fence.end()
    return "".join([*parts, LINK.sub(link, text[last:])])


def _normal(parts: tuple[str, ...]) -> list[str]:
    """A path without `..`."""
    out: list[str] = []
    for part in parts:
        if part == "..":
            out = out[:-1]
        elif part != ".":
            out.append(part)
    return out


def title(text: str) -> str:
    """The first heading of a page."""
    return next(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))


def stage() -> None:
    """Copy pages and what they show into build/docs/pages, at the same paths."""
    shutil.rmtree(BUILD, ignore_errors=True)
    found = sources()
    decisions = [path for path in found if path.parent == Path("docs/decisions") and path.name != "README.md"]
    index = "\n".join(f"- [{title((REPO / path).read_text())}]({path.name})" for path in decisions)
    made = {Path("docs/decisions/README.md"): f"# Decisions\n\n{index}\n"}
    pages = {*found, *made}
    for path in pages:
        to = BUILD / "pages" / path
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            to.write_text(page(made.get(path) or (REPO / path).read_text(), path, pages))
        else:
            shutil.copy(REPO / path, to)
    shutil.copy(REPO / "docs" / "site" / "zensical.toml", BUILD)


def generate() -> Path:
    """Build the site from build/docs/pages, and return its folder.

    Raises:
        Failure: a link or anchor leads nowhere, or a page would load something from another host.
    """
    zensical = generator()
    with console.step("build the site"):
        command = [zensical, "build", "--clean", "--strict", "--config-file", BUILD / "zensical.toml"]
        done = subprocess.run(
            command,
            cwd=BUILD,
            env=os.environ | {"NO_COLOR": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    # strict mode counts its own findings only: not those of extensions
    if done.returncode or re.search(r"\b(WARNING|ERROR)\b", done.stdout) or not (SITE / "index.html").exists():
        raise console.Failure("The site cannot be built.", "Correct the pages that are named above.", done.stdout)
    if foreign := [str(file.relative_to(SITE)) for file in SITE.rglob("*.html") if LOADS.search(file.read_text())]:
        raise console.Failure(
            f"Pages load something from another host: {', '.join(foreign)}.", "Copy it into docs/site."
        )
    return SITE


def media(text: str) -> list[dict[str, str]]:
    """The entries of media.yaml, whose form is a list of flat mappings."""
    entries: list[dict[str, str]] = []
    for line in text.splitlines():
        if found := re.match(r"(- |  )(\w+): *(.*)$", line):
            if found[1] == "- ":
                entries.append({})
            entries[-1][found[2]] = found[3].strip().strip("\"'")
    return entries


def answers(url: str) -> str:
    """Why an address does not answer; empty if it does."""
    request = urllib.request.Request(url, headers={"User-Agent": "iml4e"}, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return "" if answer.status < 400 else str(answer.status)
    except (OSError, urllib.error.HTTPError) as error:
        return str(error)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/docs", description="Build the documentation as a site.")
    parser.add_argument("--media", action="store_true", help="ask the addresses of videos and large files instead")
    parser.add_argument("--draw", action="store_true", help="draw the mermaid diagrams instead")
    options = parser.parse_args()
    if options.draw:
        draw()
        return
    if options.media:
        dead = [
            f"{each['title']} ({each['url']}): {why}"
            for each in media(MEDIA.read_text())
            if (why := answers(each["url"]))
        ]
        if dead:
            raise console.Failure(
                f"{len(dead)} addresses do not answer.", "Replace them in docs/training/media.yaml.", "\n".join(dead)
            )
        console.say("every address answers")
        return
    stage()
    site = generate()
    count = sum(1 for _ in site.rglob("*.html"))
    console.say(
        f"{count} pages: {site.relative_to(REPO)}/index.html; search needs a server: python3 -m http.server -d {site.relative_to(REPO)}"
    )


if __name__ == "__main__":
    console.main(main)
