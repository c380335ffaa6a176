"""The formats: a text to read, a conversation as JSON, a script for vLLM.

Texts stand in them as Python or JSON write them: nothing in a prompt can end a string.
"""

from __future__ import annotations

import json
from pathlib import Path

from greater_fast.examples.cutting import closed_answer, closing_mark, opening_of
from greater_fast.export.rendering import Rendering
from greater_fast.version import __version__

_LINE = "-" * 72
# A server takes what a request leaves out from the model's own generation settings.
_NO_SETTINGS_OF_THE_MODEL = {"top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0}


def as_text(rendering: Rendering) -> str:
    """The message and the extractor to read, then the same in Python, by transformers."""
    notes = "".join(f"note: {note}\n" for note in _notes(rendering))
    return (
        f"The message as {rendering.files.name!r} reads it; {{question}} is a row's question.\n"
        f"{notes}{_LINE}\n{rendering.before}{{question}}{rendering.after}\n{_LINE}\n"
        f"Behind the reasoning stands, and asks for the answer:\n"
        f"{_LINE}\n{rendering.extractor_text}\n{_LINE}\n"
        f"In Python, exactly:\n{_LINE}\n"
        f"{_constants(rendering)}{_TRANSFORMERS}"
    )


def as_vllm(rendering: Rendering) -> str:
    """A script that asks questions by vLLM: all reasonings in one batch, then all answers.

    Raises:
        ValueError: the run was in float64, which vLLM does not have.
    """
    if rendering.dtype == "float64":
        raise ValueError("the run was in float64, and vLLM has no such weights: export --to text")
    notes = "".join(f"# note: {' '.join(note.split())}\n" for note in _notes(rendering))
    files = rendering.files
    weights = Path(files.path, files.options["gguf_file"]) if files.options else files.path
    asked = 2 * _longest(rendering)
    context = (
        "# Tokens of a message, a reasoning and an answer: twice those of the run's longest row.\n"
        "# Raise it for longer questions: so many keys and values have room, at least.\n"
        f"MAX_TOKENS = {min(asked, rendering.lm.max_context or asked)}\n"
    )
    return f"{notes}{_constants(rendering)}WEIGHTS = {str(weights)!r}\n{context}\n{_VLLM}"


def _longest(rendering: Rendering) -> int:
    """Tokens of the run's longest row: message, reasoning, extractor and answer."""
    around = rendering.max_message_tokens + len(rendering.extractor_ids)
    return around + rendering.config.max_new_tokens + rendering.max_answer_tokens


def as_chat_json(rendering: Rendering) -> str:
    """The conversation for a server with the model's own chat template, and what stands behind.

    Raises:
        ValueError: the model has no chat template.
    """
    config = rendering.config
    if rendering.messages is None:
        raise ValueError(
            f"{rendering.files.name} has no chat template, so there are no messages: export --to "
            "text or vllm"
        )
    values = {
        "made_by": f"greater_fast {__version__}",
        "model": rendering.files.name,
        "messages": list(rendering.messages),
        "chat_template_kwargs": dict(config.chat_template_kwargs),
        "template_date": config.template_date,
        "temperature": config.sampling_temperature,
        **_NO_SETTINGS_OF_THE_MODEL,
        "max_tokens": config.max_new_tokens,
        "stop_token_ids": list(rendering.end_ids),
        "rendered": {"before": rendering.before, "after": rendering.after},
        "extractor": {
            "text": rendering.extractor_text,
            "ids": list(rendering.extractor_ids),
            "closing": closing_mark(rendering.extractor.closing),
            "max_tokens": rendering.max_answer_tokens,
        },
        "use": [
            "1. Put a question in the place of {question}, its outer white space aside, and send "
            "messages with chat_template_kwargs, temperature, top_p, top_k, repetition_penalty, "
            "max_tokens and stop_token_ids.",
            "2. Put the reply and extractor.text behind the messages as one assistant message, and "
            "send them with continue_final_message true, add_generation_prompt false and "
            "extractor.max_tokens in the place of max_tokens.",
            "3. The answer is what comes, up to extractor.closing (brackets that open in the "
            "answer close there), or to the end of its line.",
        ],
        "notes": _notes(rendering),
    }
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def _notes(rendering: Rendering) -> list[str]:
    """What is to be known, with what a question is: who asks puts it together."""
    return [*rendering.notes, *rendering.question_notes]


def _constants(rendering: Rendering) -> str:
    """What both scripts begin with."""
    files, closing = rendering.files, rendering.extractor.closing.strip()
    values = {
        "MODEL": files.path,
        "DTYPE": rendering.dtype,
        "FILES": files.options,
        "BEFORE": rendering.before,
        "AFTER": rendering.after,
        "EXTRACTOR": list(rendering.extractor_ids),
        "ENDS": list(rendering.end_ids),
        "ANSWER_OPENS": opening_of(closing),
        "ANSWER": closed_answer(closing),
        "TEMPERATURE": rendering.config.sampling_temperature,
        "REASONING_TOKENS": rendering.config.max_new_tokens,
        "ANSWER_TOKENS": rendering.max_answer_tokens,
    }
    lines = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    ids = f"tokenizer(text, add_special_tokens={rendering.special_tokens})['input_ids']"
    cut = f"[:-{rendering.num_behind}]" if rendering.num_behind else ""
    return (
        f"# A prompt found by greater_fast {__version__}; EXTRACTOR is the ids of\n"
        f"# {rendering.extractor_text!r}\n"
        f"import re\n\nfrom transformers import AutoTokenizer\n\n{lines}"
        "tokenizer = AutoTokenizer.from_pretrained(MODEL, **FILES)\n\n\n"
        "def message(question):\n"
        "    text = BEFORE + question.strip() + AFTER\n"
        f"    return {ids}{cut}\n\n\n"
        "def without_end(ids):\n"
        "    return next((ids[:n] for n, i in enumerate(ids) if i in ENDS), ids)\n\n\n"
        "def answer_in(ids):\n"
        "    text = tokenizer.decode(without_end(ids)).strip().removeprefix(ANSWER_OPENS).strip()\n"
        "    closed = re.match(ANSWER, text)\n"
        "    return (closed[1] if closed else text.split('\\n')[0]).strip()\n\n\n"
    )


_TRANSFORMERS = """\
import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

device = "cuda" if torch.cuda.is_available() else "cpu"
unpacked = {}
if FILES and hasattr(transformers, "GgufConfig"):
    unpacked["quantization_config"] = transformers.GgufConfig(dequantize=True)
model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=DTYPE, **FILES, **unpacked).to(device)
model.generation_config = GenerationConfig()  # as in the run: no penalties of the model's own


def go_on(ids, max_new_tokens):
    settings = {"max_new_tokens": max_new_tokens, "eos_token_id": ENDS, "pad_token_id": ENDS[0]}
    if TEMPERATURE:  # over all tokens: generate's own top_k is 50
        settings |= {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0}
    given = torch.tensor([ids], device=device)
    written = model.generate(given, attention_mask=torch.ones_like(given), **settings)
    return written[0, len(ids) :].tolist()


def ask(question):
    ids = message(question)
    ids = ids + without_end(go_on(ids, REASONING_TOKENS)) + EXTRACTOR
    return answer_in(go_on(ids, ANSWER_TOKENS))
"""

_VLLM = """\
from vllm import LLM, SamplingParams

llm = LLM(model=WEIGHTS, tokenizer=WEIGHTS, dtype=DTYPE, max_model_len=MAX_TOKENS)


def go_on(prompts, max_tokens):
    sampling = SamplingParams(
        temperature=TEMPERATURE, max_tokens=max_tokens, stop_token_ids=ENDS
    )
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling)
    return [list(output.outputs[0].token_ids) for output in outputs]


def ask(questions):
    prompts = [message(question) for question in questions]
    reasonings = go_on(prompts, REASONING_TOKENS)
    asked = [p + without_end(r) + EXTRACTOR for p, r in zip(prompts, reasonings)]
    return [answer_in(ids) for ids in go_on(asked, ANSWER_TOKENS)]
"""
