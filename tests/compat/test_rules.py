"""Every rule of the check has a page, every page is of a rule, and its example produces the rule."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from ringfence.discovery.catalog import judge, source_of

from .series import CLIP, RUNNING, found, index_of, install

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path.read_text() for path in (ROOT / "docs" / "rules").glob("*.md")}
INDEX = PAGES.pop("index")
FOUR = ("0.9", "1.4", "1.5", "1.6")
#: What is found only where something is installed or run; tests of the command produce these.
BEYOND_TEXT = {
    "E-LOAD",
    "E-LOADED",
    "E-PLACE",
    "E-REPLAY",
    "E-STARTUP",
    "E-TAKEN",
    "I-NOT-LOADED",
    "I-REPLAYED",
    "U-REPLAY",
}
#: What the example's page says of the core, where its example is no plugin.
CORES = {
    "I-BOOTSTRAP": {"running": "1.5.0", "index": index_of("1.4", "1.5")},
    "I-IN-STEP": {"name": "ringfence"},
    "I-PROVISIONAL": {"running": "1.6.1rc1"},
    "U-SERIES": {"index": index_of(*FOUR, lost=("1.5",))},
    "W-YANKED-CORE": {"index": index_of(*FOUR, yanked=("1.6.0",))},
}


def rules_in_the_code():
    """Return every rule that the core can name: each is written out where it is found."""
    return {
        node.value
        for path in (ROOT / "core").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"[EUWI](-[A-Z]+)+", node.value)
    }


def test_each_rule_has_a_page_and_each_page_a_rule():
    assert rules_in_the_code() == set(PAGES)


def test_no_rule_is_put_together_from_parts():
    """Otherwise the test above would not see it."""
    first = [
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "core").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "Finding"
        and isinstance(node.args[0] if node.args else None, ast.JoinedStr)
    ]

    assert first == []


@pytest.mark.parametrize("rule", PAGES)
def test_a_page_says_what_it_means_shows_an_example_and_what_to_do(rule):
    lines = PAGES[rule].splitlines()
    sections = [line for line in lines if line.startswith("#")]

    assert lines[0].startswith(f"# {rule}: ")
    assert sections[-2:] == ["## Example", "## What to do"]
    assert all(part.strip() for part in re.split(r"^#.*$", PAGES[rule], flags=re.MULTILINE)[1:])


def test_the_table_names_each_page_with_its_title():
    rows = dict(re.findall(r"^\| \[([EUWI]-[A-Z-]+)\]\(\1\.md\) \| (.+) \|$", INDEX, re.MULTILINE))
    titles = {rule: page.partition("\n")[0].partition(": ")[2] for rule, page in PAGES.items()}

    assert rows.keys() == PAGES.keys()
    assert {rule: text[0].lower() + text[1:] for rule, text in rows.items()} == titles


@pytest.mark.parametrize("rule", sorted(PAGES.keys() - BEYOND_TEXT))
def test_the_example_produces_the_rule(rule, tmp_path):
    """As shown, in the world of the pages: a core 1.6.0 with the series 1.4, 1.5 and 1.6."""
    example = PAGES[rule].partition("## Example")[2].partition("## What to do")[0]
    code = re.findall(r"```python\n(.*?)```", example, re.DOTALL)
    declared = re.findall(r"```toml\n(.*?)```", example, re.DOTALL)
    core = {"running": RUNNING, "index": index_of(*FOUR), "name": "acme-clip", **CORES.get(rule, {})}
    requires = tomllib.loads(declared[0])["dependencies"] if declared else ("ringfence>=1.4",)
    install(tmp_path, name=core["name"], requires=requires, text=code[0] if code else CLIP)
    plugin = found(tmp_path).find("clip")

    verdict = judge(plugin, source_of(plugin), core["index"], core["running"])

    assert code or declared or rule in CORES, "the page shows nothing that could be tried"
    findings = {finding.rule: finding for finding in verdict.findings}
    assert rule in findings, verdict.message()
    assert rule[0] not in "WI" or verdict.decision == "accepted" or rule == "I-IN-STEP", verdict.message()


def test_a_verdict_says_where_its_rules_are_explained(tmp_path):
    install(tmp_path, requires=("ringfence>=1.5",))
    plugin = found(tmp_path).find("clip")

    told = judge(plugin, source_of(plugin), index_of(*FOUR), RUNNING).message()

    assert told.splitlines()[-1] == "  rules:           ringfence plugins explain E-SPAN"
