"""The documents: every link leads somewhere, and what the commands in them write is not taken for the project's."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from data.paths import REPOSITORY
from data.strict_json import loads
from distill.recipe.reading import read_recipe

CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def git(*words: str) -> list[str]:
    return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True).stdout.splitlines()


def links(page: Path) -> list[str]:
    """Targets of a page's links within the repository."""
    found = LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [name for name in git("ls-files", "*.md") if (REPOSITORY / name).is_file()])
def test_links_lead_somewhere(page):
    broken = []
    for link in links(REPOSITORY / page):
        path, _, anchor = link.partition("#")
        target = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize(
    "path",
    [
        *("results/report.md", "results/kd_mini/report.json", "results/kd_mini/student/metrics.json"),
        *("results/scan.md", "results/ablation/grid.json", "results/ablation/ce_0/steps.jsonl"),
        *("runs/kd_mini/steps.jsonl", "lists/train.arrow", "look/index.html"),
        *("results/published/kd_mini/report.html", "results/published/kd_mini/student_int4/hypotheses.jsonl"),
        "results/published/ablation/teacher/metrics.json",
    ],
)
def test_what_runs_write_leaves_the_clone_clean(path):
    assert git("check-ignore", path) == [path]


@pytest.mark.parametrize(
    "path",
    ["results/README.md", "results/published/another/report.md", "results/published/teacher_another/steps.jsonl"],
)
def test_what_is_published_is_kept(path):
    assert git("check-ignore", path) == []


def test_the_recipe_of_the_training_page_is_one(tmp_path):
    page = (REPOSITORY / "distill/README.md").read_text(encoding="utf-8")
    sections = loads(page.split("## A recipe from features to a finish")[1].split("```json")[1].split("```")[0])
    mini = loads((REPOSITORY / "configs/kd_mini.json").read_text(encoding="utf-8"))
    (tmp_path / "untexted.json").write_text(json.dumps(mini | sections | {"name": "untexted"}))
    recipe = read_recipe(tmp_path / "untexted.json")
    features, cold_start, on_policy, finish = recipe.train.stages
    assert recipe.asks_hypotheses == "untexted" and features.matched == {"encoder", "audio_tokens"}
    assert recipe.trained_on(cold_start) == {"reference", "hypothesis"} and recipe.trained_on(finish) == {"reference"}
    assert on_policy.on_policy and recipe.in_memory(on_policy) == "whole" and not recipe.in_memory(cold_start)
