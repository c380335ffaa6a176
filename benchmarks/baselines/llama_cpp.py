"""llama.cpp's batched decode, greedy, by the low-level calls of llama-cpp-python.

The demonstration model's GGUF file is converted to float32, so that both sides have the same
weights; keys and values are float32 too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CONTEXT_TOKENS = 128  # of each sequence
BATCH_TOKENS = 512


def float32_gguf(source: Path, folder: Path) -> Path:
    """The model of a GGUF file with all weights in float32, as a file in a folder."""
    import llama_cpp

    target = folder / f"{source.stem}-f32.gguf"
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
    settings.allow_requantize = True
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(settings)
    )
    assert status == 0, f"llama.cpp cannot convert {source}: {status}"
    return target


class LlamaBatch:
    """A model, and a context for some sequences side by side."""

    def __init__(self, model: Path, num_sequences: int, num_threads: int) -> None:
        import llama_cpp

        self._library: Any = llama_cpp
        self._model = llama_cpp.llama_model_load_from_file(
            str(model).encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = CONTEXT_TOKENS * num_sequences
        settings.n_seq_max = num_sequences
        settings.n_batch = settings.n_ubatch = BATCH_TOKENS
        settings.n_threads = settings.n_threads_batch = num_threads
        settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
        settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        assert self._context, "llama.cpp makes no context"
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._num_ids = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)

    def generate(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[tuple[int, ...]]:
        """Greedy continuations of `num_new` tokens, of prompts that are equally long."""
        library = self._library
        library.llama_memory_clear(library.llama_get_memory(self._context), True)
        length = len(prompts[0])
        tokens = [
            (token, place, row, place == length - 1)
            for row, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
        ]
        texts: list[list[int]] = [[] for _ in prompts]
        for start in range(0, len(tokens), BATCH_TOKENS):
            self._decode(tokens[start : start + BATCH_TOKENS], texts)
        for place in range(length, length + num_new - 1):
            self._decode([(text[-1], place, row, True) for row, text in enumerate(texts)], texts)
        return [tuple(text) for text in texts]

    def _decode(self, tokens: Sequence[tuple[int, int, int, bool]], texts: list[list[int]]) -> None:
        """Run (id, place, sequence, whether its logits are wanted), and append what follows."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (token, place, row, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, place, wanted
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = row
        status = self._library.llama_decode(self._context, batch)
        assert status == 0, f"llama_decode: {status}"
        rows = [row for _, _, row, wanted in tokens if wanted]
        if rows:
            pointer = self._library.llama_get_logits(self._context)
            logits = np.ctypeslib.as_array(pointer, (len(rows), self._num_ids))
            for row, token in zip(rows, logits.argmax(-1).tolist(), strict=True):
                texts[row].append(token)
