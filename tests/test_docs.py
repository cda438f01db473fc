"""What the README and the pages under docs/ name is there: links, files, names in the code, flags, settings."""

import re
from functools import cache

from conftest import ROOT, run_script

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = [script.name for script in ROOT.glob("*.py")]
SCRIPTS += ["benchmarks/accuracy.py", "benchmarks/predict_speed.py", "benchmarks/training_speed.py"]
FLAGS_OF_OTHERS = {"--version", "--logdir", "--nproc_per_node", "--nnodes", "--rdzv_backend", "--rdzv_endpoint"}


def find_all(pattern: str) -> list[tuple]:
    """Return (page, what was found) for all matches of a pattern in the pages."""
    return [(page, found) for page in PAGES for found in re.findall(pattern, page.read_text("utf-8"))]


def anchors(page) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def flags_of(script: str) -> set[str]:
    result = run_script(script, "--help", cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return set(re.findall(r"--[a-z][\w-]*", result.stdout))


def test_relative_links_lead_somewhere():
    links = find_all(r"\]\(([^)]+)\)") + find_all(r'src="([^"]+)"')
    assert len(links) > 10
    for page, link in links:
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.is_file(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_files_and_modules_that_are_named_exist():
    for page, name in find_all(r"[\w./-]+\.(?:py|md|txt)\b"):
        assert (ROOT / name).is_file() or (page.parent / name).is_file(), f"{page.name}: {name}"
    for page, module in find_all(r"-m (benchmarks\.\w+)"):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{page.name}: {module}"


def test_the_map_of_the_code_is_whole_and_its_names_exist():
    code_page = (ROOT / "docs" / "code.md").read_text("utf-8")
    for module in (ROOT / "coinkit").glob("[a-z]*.py"):
        assert f"`coinkit/{module.name}`" in code_page
    for files, names in re.findall(r"^\| (`[\w/.]+\.py`.*?) \|.*\|(.*)\|$", code_page, re.MULTILINE):
        code = "".join((ROOT / file).read_text("utf-8") for file in re.findall(r"`([\w/.]+)`", files))
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b{name}\b", code), f"{name} is not in {files}"


def test_flags_are_known_to_a_command():
    flag = r"(?<![\w-])--[a-z][\w-]*"
    known = FLAGS_OF_OTHERS.union(*map(flags_of, SCRIPTS))
    for page, name in find_all(flag):
        assert name in known, f"{page.name}: {name}"
    commands = find_all(r"python (\w+\.py)([^\n`]*)")
    assert len(commands) > 20
    for page, (script, arguments) in commands:
        for name in re.findall(flag, arguments):
            assert name in flags_of(script), f"{page.name}: {script} {name}"


def test_settings_at_the_top_of_the_training_are_flags():
    first, last = re.search(r"from `(\w+)` to\s+`(\w+)`,\s+are flags", PAGES[0].read_text("utf-8")).groups()
    names = re.findall(r"^([A-Z_]+) = ", (ROOT / "coin_classifier_custom.py").read_text("utf-8"), re.MULTILINE)
    settings = names[names.index(first) : names.index(last) + 1]
    assert len(settings) > 10
    assert {f"--{name.lower().replace('_', '-')}" for name in settings} <= flags_of("coin_classifier_custom.py")
