"""The pages of the evidence show what is stored, as their commands print it, and claim no more."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.evidence import effect, racing, reproduce_paper, signals
from benchmarks.evidence.chains import load_chains
from benchmarks.evidence.paper.cells import Log, Settings
from benchmarks.evidence.policies import report
from benchmarks.evidence.policies.model import fit
from benchmarks.evidence.policies.named import DEFAULT, POLICIES, RANDOM
from benchmarks.evidence.policies.replay import replay
from benchmarks.evidence.policies.simulation import simulate

ROOT = Path(__file__).parents[3]
DOCS, RESULTS = ROOT / "docs/evidence", ROOT / "benchmarks/results"
INTERVAL = re.compile(r"\[([+−-]?[\d.]+), ([+−-]?[\d.]+)\]")
NUMBER = re.compile(r"(?<![\w.])[+−-]?\d[\d,]*(?:\.\d+)?")


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the commands print of the stored results, by the page that shows it."""
    found = [  # that of a GPU first, as the README has it
        table
        for device in sorted(effect.kinds_of_device(RESULTS / "effect"))
        for table in effect.tables(
            effect.Log(RESULTS / "effect", effect.Settings(device=device)), list(effect.TASKS)
        )
    ]
    trial = Settings(model="smollm2-135m", steps=3, max_new_tokens=96, max_rows=20)
    chains = load_chains(RESULTS / "signals")
    models = signals.of_models(chains, is_confirming=False)
    policies = json.loads((RESULTS / "policies.json").read_text())
    assert sorted(models) == sorted(policies)
    assert len(models) == 2
    for model, own in policies.items():  # replayed on these chains
        assert own["num_places"] == sum(len(chain.places) for chain in models[model])
    return {
        "effect": "\n\n".join(found),
        "signals": signals.report(models),
        "policies": "\n\n".join(report.tables(own) for own in policies.values()),
        "racing": racing.tables(json.loads((RESULTS / "racing.json").read_text())),
        "paper": reproduce_paper.table(Log(RESULTS / "paper/smollm2-135m.cpu.jsonl", trial)),
    }


@pytest.mark.parametrize("page", ["effect", "signals", "policies", "racing", "paper"])
def test_a_page_has_the_tables(page, printed):
    """Lines of a table without any value may be left out."""
    shown = (DOCS / f"{page}.md").read_text(encoding="utf-8").splitlines()
    lines = [line for line in printed[page].splitlines() if line and not line.startswith("## ")]
    missing = [line for line in lines if line not in shown and "| – | – | – |" not in line]
    assert missing == []
    heads = {lines[n - 1] for n, line in enumerate(lines) if line.startswith("|--")}
    heads |= {lines[n - 1] for n, line in enumerate(lines) if line.startswith("| --")}
    assert heads
    of_a_table = False
    for number, line in enumerate(shown):  # nor has a table what is printed no more
        of_a_table = line.startswith("|") and (of_a_table or line in heads)
        assert not of_a_table or line in lines, f"{page}.md, line {number + 1}"


def test_policies_are_what_the_code_makes_of_the_chains():
    """Two rules replayed anew, and a few simulated searches, which the others are made like."""
    stored = json.loads((RESULTS / "policies.json").read_text())
    models = signals.of_models(load_chains(RESULTS / "signals"), is_confirming=False)
    chains, own = models["smollm2-135m"], stored["smollm2-135m"]
    effort = report.Effort()
    for name in (DEFAULT, RANDOM):
        gain = -fmean(e.change for e in replay(chains, POLICIES[name], effort.num_splits))
        assert gain == pytest.approx(own["replayed"][name]["gain"][0], abs=1e-9)
    model = fit(chains)
    (budget, *_), seeds = effort.budgets, range(effort.num_searches)
    errors = [simulate(POLICIES["fresh rows, 24"], model, [budget], seed)[0] for seed in seeds]
    gain = model.initial_error - fmean(errors)
    assert gain == pytest.approx(own["simulated"]["fresh rows, 24"][str(budget)][0], abs=1e-9)


def test_races_are_what_the_code_simulates():
    stored = json.loads((RESULTS / "racing.json").read_text())
    made = [
        asdict(cell)
        for gap, best_of in ((0.0, 16), (0.2, 1))
        for cell in racing.simulated(50, gap, best_of, stored["num_runs"], stored["alpha"])
    ]
    assert len(made) == 2 * len(racing.RULES)
    assert [cell for cell in made if cell not in stored["cells"]] == []


def test_the_readme_has_the_lines_of_the_effect(printed):
    lines = [[c.strip() for c in line.split("|")[1:6]] for line in printed["effect"].splitlines()]
    names = {"initial prompt": "initial prompt", "random shortlist": "random shortlist"}
    names |= {"ours": "GReaTer", "ours − initial prompt": "GReaTer − initial, points"}
    names |= {"ours − random shortlist": "GReaTer − random, points"}
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, in_readme in names.items():
        values = next(own[1:] for own in lines if own[:1] == [name])
        cells = [re.sub(r" \(\d+\)$", "", value).replace("-", "−") for value in values]
        assert f"| {' | '.join([in_readme, *cells])} |" in shown


def value(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def estimates(text: str) -> set[tuple[float, float, float]]:
    """Intervals with the number before each; prose may say "err 0.5 less" for a difference."""
    found = set()
    for match in INTERVAL.finditer(text):
        mean = NUMBER.findall(INTERVAL.sub("", text[: match.start()]))[-1:] or ["0"]
        found.add((abs(value(mean[0])), value(match[1]), value(match[2])))
    return found


def simulated_means(text: str) -> set[tuple[float, float]]:
    """Means with their errors, "22.9 ± 1.3"."""
    return {
        (abs(value(a)), value(b)) for a, b in re.findall(r"([+−-]?[\d.]+\d) ± ([\d.]+\d)", text)
    }


def p_values(text: str) -> set[str]:
    return set(re.findall(r"\bp (?:=|is) ([\d.]+\d)", text.replace("\n", " ")))


def peers_table() -> str:
    """The table of the page, which tests/front_ends/test_peers.py holds to what is stored."""
    lines = (DOCS / "peers.md").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith("|"))


def claims(path: Path) -> str:
    """The prose of a page, and of the overview what stands in its table."""
    text = path.read_text(encoding="utf-8")
    if path.name == "README.md":
        return text[text.index("## Does it work?") : text.index("## Licence")]
    if path.name in ("evidence.md", "choosing.md"):
        return text
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


@pytest.mark.parametrize(
    "page",
    [
        "README",
        "docs/evidence",
        "docs/choosing",
        *(f"docs/evidence/{p}" for p in ("effect", "signals", "policies", "peers")),
    ],
)
def test_a_figure_of_the_prose_stands_in_a_table(page, printed):
    every = "\n".join([*printed.values(), peers_table()])
    said = claims(ROOT / f"{page}.md")
    assert estimates(said)
    assert estimates(said) - estimates(every) == set()
    cells = {cell.strip() for line in every.splitlines() for cell in line.split("|")}
    assert p_values(said) - cells == set()
    assert simulated_means(said) - simulated_means(every) == set()


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("docs/evidence.md", "Does a race spare"),
        ("docs/choosing.md", "evidence/racing.md"),
        ("docs/evidence/racing.md", "of the rows at 30 points"),
    ],
)
def test_what_a_race_spares_is_said_as_simulated(page, words, printed):
    ratios = printed["racing"].split("of those by the bound alone")[1]
    text = (ROOT / page).read_text(encoding="utf-8")
    (own,) = [part for part in re.split(r"\n\n|\n(?=\|)", text) if words in part]
    found = set(re.findall(r"\b\d\.\d\d\b", own)) - {"0.05"}  # a level
    assert found
    assert found <= set(re.findall(r"\b\d\.\d\d\b", ratios))


def test_figures_are_there():
    for page in DOCS.glob("*.md"):
        for part in page.read_text(encoding="utf-8").split("](../figures/")[1:]:
            assert (ROOT / "docs/figures" / part.split(")")[0]).is_file(), page
