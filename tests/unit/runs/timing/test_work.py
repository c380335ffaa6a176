"""Upper bounds of a run's work, beside a run that is counted one by one."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from greater_fast.config import Config
from greater_fast.runs.timing.work import Work
from tests.cases import table_layouts


def counted(sizes: dict[str, int], config: Config, measures: bool = False) -> Work:
    """The longest run there is, done on paper, one row after another.

    One that measures answers writes an answer of 1 + 8 tokens wherever it reasons, and knows those
    of the training rows.
    """
    searched = gradients = evaluated = tokens = 0
    kind = config.gradient if config.shortlist == "gradient" else None
    prompts = ["initial"]
    for _ in range(sizes["train"]):
        searched, tokens = searched + 1, tokens + config.max_new_tokens
    for step in range(config.steps):
        for _ in range(sizes["train"]):
            gradients += kind in ("answer", "both")
            for _reasoning in range(config.num_reasonings * (kind in ("reasoning", "both"))):
                gradients += 1
                if config.reasonings == "sampled":
                    searched, tokens = searched + 1, tokens + config.max_new_tokens
        for place in range(config.shortlist_size):
            prompts.append(f"{step}.{place}")
            for _ in range(sizes["train"]):
                searched, tokens = searched + 1, tokens + config.max_new_tokens
    best = prompts[1:][: config.num_finalists]
    finalists = {*(best if len(best) == config.num_finalists else prompts), "initial"}
    tests = {"initial", prompts[-1]}
    tokens += searched * (1 + 8) * measures
    initial = set() if measures else {"initial"}
    for split, compared in (("dev", finalists), ("train", initial), ("test", tests)):
        for _ in range(len(compared) * sizes[split]):
            evaluated, tokens = evaluated + 1, tokens + config.max_new_tokens + 1 + 8
    return Work(config.steps, searched, gradients, evaluated, tokens)


@given(
    sizes=st.fixed_dictionaries(
        {"train": st.integers(2, 5), "dev": st.integers(1, 5), "test": st.integers(0, 5)}
    ),
    settings=st.fixed_dictionaries(
        {
            "steps": st.integers(0, 4),
            "shortlist_size": st.integers(1, 3),
            "num_finalists": st.integers(1, 5),
            "max_new_tokens": st.integers(1, 40),
            "gradient": st.sampled_from(["answer", "reasoning", "both"]),
            "reasonings": st.sampled_from(["stored", "sampled"]),
            "num_reasonings": st.integers(2, 4),
            "shortlist": st.sampled_from(["gradient", "random"]),
            "objective": st.sampled_from(["error", "loss"]),
        }
    ),
    metric=st.sampled_from([None, lambda predicted, row: 0.5]),
)
def test_work_is_that_of_the_longest_run(
    sizes: dict[str, int], settings: dict[str, Any], metric: Any
) -> None:
    config = Config.from_mapping(settings)
    layouts = {
        name: replace(table_layouts(number), metric=metric)
        for name, number in sizes.items()
        if number
    }
    measures = metric is not None and config.objective == "error"
    assert Work.of(layouts, config) == counted(sizes, config, measures)


def test_each_of_several_models_does_all_of_it() -> None:
    work = Work(3, 20, 6, 11, 400)
    assert work.of_models(1) == work
    assert work.of_models(2) == Work(3, 40, 12, 22, 800)


def test_the_line() -> None:
    assert Work(105, 15_800, 5_250, 1_350, 8_800_000).describe() == (
        "work at most: 105 steps with 15,800 rollouts and the gradients of 5,250 rows, 1,350 rows "
        "evaluated, 8,800,000 tokens written"
    )
