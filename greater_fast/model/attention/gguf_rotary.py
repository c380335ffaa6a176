"""What a GGUF file says of attention, and transformers does not read of all architectures.

That is the base, the scale and the share of rotary embeddings, and a window. Without it a model
would run with frequencies that are not its own, or see more than it was trained to, in silence.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_FACTORS = "rope_freqs.weight"  # what each frequency is divided by
_LONG = "rope_factors_long.weight"
# Llama 3.1's and 3.2's: all files of these have them, and say so by their factors alone.
_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192
_SHARE = "partial_rotary_factor"
_OWN_SHARES = ("qk_rope_head_dim", "rotary_dim")  # configurations that say it another way
# Kinds of values: numbers by how they are packed, texts, arrays; and of tensors.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}
_NUMBERS |= {10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY, _FLOAT32 = 8, 9, 0
_VERSIONS = (2, 3)
_LAYERS_OF_27B = {"gemma2": 46, "gemma3_text": 62}


def complete_attention(config: Any, file: Path) -> None:
    """Put into a configuration what the file says of attention beyond what it has been read to.

    Raises:
        ValueError: it scales rotary embeddings in a way that is not known here, or rotates another
            share of each head than the configuration has.
    """
    _set_scale_of_27b(config)
    said = _Header(file)
    _set_window(config, said.value("attention.sliding_window"))
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or _is_scaled(rope):
        return  # it has none, or has been read
    # Where kinds of layers differ (Gemma 3), those that see all of the context are scaled.
    scaled = rope.get("full_attention", rope)
    _check_share(config, scaled, said, file)
    if base := said.value("rope.freq_base"):
        scaled["rope_theta"] = base
    scaled |= _scaling(said, scaled, file)
    config.rope_parameters = rope


def _scaling(said: _Header, rope: dict[str, Any], file: Path) -> dict[str, Any]:
    """How rotary embeddings are scaled, as `rope_parameters` say it."""
    kind, factors = said.value("rope.scaling.type") or "none", said.tensor(_FACTORS)
    if said.tensor(_LONG) is not None:
        kind = "longrope"
    if factors is not None and any(factor != 1 for factor in factors):
        return _of_llama3(factors, rope, file)
    if kind == "linear":
        return {"rope_type": "linear", "factor": said.value("rope.scaling.factor") or 1.0}
    if kind != "none":
        raise ValueError(
            f"{file.name} scales its rotary embeddings ({kind}), which is not read of GGUF files: "
            "take the model's own files (safetensors)"
        )
    return {}


class _Header:
    """The fields of a GGUF file that hold one value, and its tensors of float32.

    The library for these files takes seconds for a vocabulary, which is passed over here.
    https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """

    def __init__(self, file: Path) -> None:
        self._file, self._tensors = file, dict[str, tuple[int, int]]()
        self._fields: dict[str, Any] = {}
        with file.open("rb") as self._read:
            _, version, num_tensors, num_fields = self._numbers("4sIQQ")
            if version not in _VERSIONS:
                raise ValueError(f"{file.name} is a GGUF file of another version or byte order")
            for _ in range(num_fields):
                name, (kind,) = self._text(), self._numbers("I")
                self._fields[name] = self._value(kind)
            for _ in range(num_tensors):
                name, (num_sizes,) = self._text(), self._numbers("I")
                sizes = self._numbers(f"{num_sizes}Q")
                kind, offset = self._numbers("IQ")
                if kind == _FLOAT32:
                    self._tensors[name] = offset, math.prod(sizes)
            alignment = self._fields.get("general.alignment", 32)
            self._data = -(-self._read.tell() // alignment) * alignment

    def value(self, name: str) -> Any:
        """A field of the architecture; None where there is none."""
        return self._fields.get(f"{self._fields['general.architecture']}.{name}")

    def tensor(self, name: str) -> list[float] | None:
        """A tensor's numbers; None where there is none."""
        if name not in self._tensors:
            return None
        offset, count = self._tensors[name]
        with self._file.open("rb") as self._read:
            self._read.seek(self._data + offset)
            return list(self._numbers(f"{count}f"))

    def _value(self, kind: int) -> Any:
        """The value that comes next; None for an array, which is passed over."""
        if kind == _TEXT:
            return self._text()
        if kind != _ARRAY:
            return self._numbers(_NUMBERS[kind])[0]
        kind, count = self._numbers("IQ")
        for _ in range(0 if kind in _NUMBERS else count):
            self._value(kind)
        if kind in _NUMBERS:
            self._read.seek(count * struct.calcsize(_NUMBERS[kind]), 1)
        return None

    def _text(self) -> str:
        (length,) = self._numbers("Q")
        return self._read.read(length).decode("utf-8", "replace")

    def _numbers(self, form: str) -> tuple[Any, ...]:
        form = f"<{form}"
        return struct.unpack(form, self._read.read(struct.calcsize(form)))


def _set_window(config: Any, window: int | None) -> None:
    """The window of the layers; where they cannot have one, texts are no longer than that."""
    if not window or getattr(config, "sliding_window", None) == window:
        return
    if hasattr(config, "sliding_window") and not getattr(config, "layer_types", None):
        config.sliding_window = window
    else:
        longest = getattr(config, "max_position_embeddings", window)
        config.max_position_embeddings = min(window, longest)


def _check_share(config: Any, rope: dict[str, Any], said: _Header, file: Path) -> None:
    rotated, size = said.value("rope.dimension_count"), said.value("attention.key_length")
    width, num_heads = said.value("embedding_length"), said.value("attention.head_count")
    if size is None and width and num_heads:
        size = width / num_heads
    if not rotated or not size or any(hasattr(config, name) for name in _OWN_SHARES):
        return
    names = (rope.get(_SHARE), getattr(config, _SHARE, None), 1.0)
    share = next(value for value in names if value is not None)
    if abs(share * size - rotated) >= 1:
        raise ValueError(
            f"{file.name} rotates {rotated} of the {size:.0f} numbers of a head, and is read as "
            f"if it were {share * size:.0f}: take the model's own files (safetensors)"
        )


def _set_scale_of_27b(config: Any) -> None:
    """Gemma's of 27B divide scores by what a file does not say, and others do not."""
    if _LAYERS_OF_27B.get(config.model_type) == config.num_hidden_layers:
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads


def _is_scaled(rope: dict[str, Any]) -> bool:
    parts = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    return any(part.get("rope_type", "default") != "default" for part in parts)


def _of_llama3(factors: Sequence[float], rope: dict[str, Any], file: Path) -> dict[str, Any]:
    """Llama 3's scaling, if that is what makes these factors; as transformers defines it.

    A frequency is divided by the whole factor where its wave is longer than the original context,
    by nothing where it is shorter than a quarter of it, and by something between them elsewhere.
    """
    factor, size = max(factors), 2 * len(factors)
    for number, found in enumerate(factors):
        wave = 2 * math.pi * rope["rope_theta"] ** (2 * number / size)
        share = min(1.0, max(0.0, (_ORIGINAL / wave - _LOW) / (_HIGH - _LOW)))
        if not math.isclose(1 / ((1 - share) / factor + share), found, rel_tol=1e-3):
            raise ValueError(
                f"{file.name} scales its rotary embeddings by {_FACTORS}, and not as Llama 3.1 "
                "does, which is not read of GGUF files: take the model's own files (safetensors)"
            )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _ORIGINAL,
    }
