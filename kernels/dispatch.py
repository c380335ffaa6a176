"""The ops as the package calls them: arguments are checked, then Triton or the reference runs.

`backend` is "triton", "reference", or "auto": Triton on a GPU of compute capability 8.0 or more, or
one of AMD's with waves of 64, for types and layouts that the kernels take; else the reference. What
is wrong with an argument, or keeps "triton" from running, is a ValueError before anything is
launched.
"""

from __future__ import annotations

import importlib.util
import math

import torch

from greater_fast.kernels import reference
from greater_fast.kernels.attention import packed_reference
from greater_fast.kernels.attention.packed_reference import Pool, Segments, States, check_packed
from greater_fast.kernels.checks import max_packed_head
from greater_fast.kernels.reference import Head
from greater_fast.kernels.vocabulary.noise import Noise

BACKENDS = ("auto", "triton", "reference")
MAX_K = 64
MAX_IDS = 65_535 * 32  # most blocks along a grid's second axis, ids of a block
_CAPABILITY = (8, 0)
_HIP_WARP_SIZE = 64  # of the AMD GPUs that kernels are compiled for in the tests
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def candidate_scores(
    embeddings: torch.Tensor,
    gradients: torch.Tensor,
    ids: torch.Tensor,
    scale: float = 1.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Scores [G, K] of the tokens `ids` [K] for each gradient; see `reference.candidate_scores`.

    The kernel takes up to 2,097,120 ids.
    """
    _check_matrices(embeddings=embeddings, gradients=gradients)
    _check_vector("ids", ids, None, torch.int64, embeddings.device)
    low, high = (int(i) for i in ids.aminmax()) if len(ids) else (0, -1)
    if low < 0 or high >= len(embeddings):
        raise ValueError(f"ids: got {low} to {high}, expected 0 to {len(embeddings) - 1}")
    too_many = f"got {len(ids)} ids, expected at most {MAX_IDS}" if len(ids) > MAX_IDS else None
    if not uses_triton(backend, embeddings, gradients, obstacle=too_many):
        return reference.candidate_scores(embeddings, gradients, ids, scale)
    from greater_fast.kernels.vocabulary import candidate_scores as triton_ops

    return triton_ops.candidate_scores(embeddings, gradients, ids.contiguous(), float(scale))


def vocabulary_top_k(
    embeddings: torch.Tensor,
    gradients: torch.Tensor,
    allowed: torch.Tensor,
    k: int,
    scale: float = 1.0,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and scores [G, k] of the allowed tokens with the lowest scores, lowest first.

    See `reference.vocabulary_top_k`. The kernels take k up to 64.
    """
    _check_matrices(embeddings=embeddings, gradients=gradients)
    _check_vector("allowed", allowed, len(embeddings), torch.bool, embeddings.device)
    if k < 1:
        raise ValueError(f"k: got {k}, expected at least 1")
    too_many = f"got k = {k}, expected at most {MAX_K}" if k > MAX_K else None
    if not uses_triton(backend, embeddings, gradients, obstacle=too_many):
        return reference.vocabulary_top_k(embeddings, gradients, allowed, k, scale)
    from greater_fast.kernels.vocabulary import candidate_scores as triton_ops

    scale = float(scale)
    return triton_ops.vocabulary_top_k(embeddings, gradients, allowed.contiguous(), k, scale)


def target_logprob(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    head: Head,
    temperature: float | torch.Tensor = 1.0,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of `targets` [R] and the likeliest tokens [R], from hidden states [R, D].

    `temperature` is one for all rows, or [R]. See `reference.target_logprob`; differentiable in
    `hidden` alone.
    """
    temperatures = _row_temperatures(hidden, targets, head, temperature)
    if not uses_triton(backend, head.weight, hidden, obstacle=_mixed_types(hidden, head)):
        return reference.target_logprob(hidden, targets, head, temperatures)
    from greater_fast.kernels.vocabulary import target_logprob as triton_ops

    head = Head(head.weight, float(head.scale), float(head.soft_cap))
    temperatures = temperatures.float().contiguous()
    return triton_ops.target_logprob(hidden, targets.contiguous(), head, temperatures)


def target_logprob_and_sample(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    head: Head,
    temperature: float | torch.Tensor = 1.0,
    noise: Noise | None = None,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What `target_logprob` gives, and sampled tokens [R], if there is noise; without gradients.

    See `reference.target_logprob_and_sample`. Neither waits for a GPU with one temperature a row.
    """
    temperatures = _row_temperatures(hidden, targets, head, temperature)
    if noise:
        _check_vector("examples", noise.examples, len(hidden), torch.int64, hidden.device)
        _check_vector("places", noise.places, len(hidden), torch.int64, hidden.device)
    if not uses_triton(backend, head.weight, hidden, obstacle=_mixed_types(hidden, head)):
        return reference.target_logprob_and_sample(hidden, targets, head, temperatures, noise)
    from greater_fast.kernels.vocabulary import target_logprob as triton_ops

    head = Head(head.weight, float(head.scale), float(head.soft_cap))
    temperatures = temperatures.float().contiguous()
    targets = targets.contiguous()
    return triton_ops.target_logprob_and_sample(hidden, targets, head, temperatures, noise)


def packed_attention(
    states: States,
    pool: Pool,
    segments: Segments,
    options: tuple[float, float, int],
    backend: str = "auto",
) -> torch.Tensor:
    """Attention [M, H, D] of a packed row, one call a layer for all of its segments.

    `options` are scale, soft cap and window. See `packed_reference.packed_attention`;
    differentiable in the states alone. The kernels take heads of up to 512 numbers
    in 16 bits, and of 256 in float32.
    """
    check_packed(states, pool, segments)
    obstacle = None
    if (size := pool[0].shape[3]) > (most := max_packed_head(states[0].dtype)):
        obstacle = f"got heads of {size} numbers, expected at most {most}"
    elif not (pool[0].is_contiguous() and pool[1].is_contiguous()):
        obstacle = "got a pool with gaps, expected a contiguous one"
    if not uses_triton(backend, pool[0], states[0], obstacle):
        return packed_reference.packed_attention(states, pool, segments, *options)
    from greater_fast.kernels.attention import packed as triton_ops

    return triton_ops.packed_attention(states, pool, segments, *options)


def uses_triton(
    backend: str, matrix: torch.Tensor, other: torch.Tensor, obstacle: str | None = None
) -> bool:
    """Whether Triton runs an op on these: the one place that decides.

    `matrix` is the one that is read in place; `obstacle` is what speaks against it beyond that.

    Raises:
        ValueError: no such backend, or "triton" and it cannot run; says why.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(BACKENDS)}")
    if backend == "reference":
        return False
    obstacle = obstacle or _obstacle(matrix, other, forced=backend == "triton")
    if backend == "triton" and obstacle:
        raise ValueError(f"kernels='triton' cannot be used here: {obstacle}; use kernels='auto'")
    return obstacle is None


def _row_temperatures(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head, temperature: float | torch.Tensor
) -> torch.Tensor:
    """Each row's temperature, after all arguments of a log-probability were checked."""
    _check_matrices(weight=head.weight, hidden=hidden)
    _check_vector("targets", targets, len(hidden), torch.int64, hidden.device)
    if head.weight.requires_grad and torch.is_grad_enabled():
        raise ValueError("head: its weight asks for a gradient, expected a frozen one")
    if head.soft_cap < 0:
        raise ValueError(f"head: got a soft_cap of {head.soft_cap}, expected 0 or more")
    if not isinstance(temperature, torch.Tensor):
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature: got {temperature}, expected a number over 0")
        temperature = torch.full(
            (len(hidden),), temperature, dtype=torch.float64, device=hidden.device
        )
    _check_vector("temperature", temperature, len(hidden), temperature.dtype, hidden.device)
    return temperature


def _mixed_types(hidden: torch.Tensor, head: Head) -> str | None:
    """What speaks against Triton where states and weights have two types."""
    if hidden.dtype == head.weight.dtype:
        return None
    return f"got {hidden.dtype} and {head.weight.dtype}, expected one type"


def _obstacle(matrix: torch.Tensor, other: torch.Tensor, forced: bool) -> str | None:
    """What keeps Triton from these tensors."""
    for tensor in (matrix, other):
        if tensor.dtype not in _DTYPES:
            return f"got {tensor.dtype}, expected bfloat16, float16 or float32"
    if matrix.stride(-1) != 1:
        return f"got a matrix with strides {matrix.stride()}, expected rows without gaps"
    return device_obstacle(matrix.device, forced)


def device_obstacle(device: torch.device, forced: bool) -> str | None:
    """What keeps Triton from a device. The interpreter, for tests, takes the CPU if forced."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if torch.version.hip is None and capability < _CAPABILITY:
            return f"got a GPU of compute capability {capability}, expected {_CAPABILITY} or more"
        if torch.version.hip is not None and not forced:
            warp_size = torch.cuda.get_device_properties(device).warp_size
            if warp_size != _HIP_WARP_SIZE:
                return (
                    f"got an AMD GPU with waves of {warp_size}, where the kernels were not tried "
                    "(kernels='triton' tries them)"
                )
        try:
            from greater_fast.kernels.trial import build_obstacle
        except Exception as error:  # a package that is not whole, or of another Python
            return f"triton cannot be imported ({type(error).__name__}: {error})"
        return build_obstacle(device)
    if forced and device.type == "cpu":
        from triton import knobs

        if knobs.runtime.interpret:
            return None
    return f"got tensors on {device.type}, expected a GPU"


def _check_matrices(**matrices: torch.Tensor) -> None:
    """Two matrices of floats, of one width, on one device."""
    for name, matrix in matrices.items():
        if matrix.ndim != 2 or not matrix.is_floating_point():
            found = f"{list(matrix.shape)} {matrix.dtype}"
            raise ValueError(f"{name}: got {found}, expected a matrix of floating-point numbers")
    (one_name, one), (name, other) = matrices.items()
    if other.shape[1] != one.shape[1]:
        widths = f"width {other.shape[1]}, expected that of {one_name}, {one.shape[1]}"
        raise ValueError(f"{name}: got {widths}")
    if other.device != one.device:
        raise ValueError(f"{name}: got {other.device}, expected that of {one_name}, {one.device}")


def _check_vector(
    name: str, vector: torch.Tensor, length: int | None, dtype: torch.dtype, device: torch.device
) -> None:
    fits = vector.ndim == 1 and length in (None, len(vector))
    if not fits or vector.dtype != dtype or vector.device != device:
        found = f"{list(vector.shape)} {vector.dtype} on {vector.device}"
        expected = f"[{'any' if length is None else length}] {dtype} on {device}"
        raise ValueError(f"{name}: got {found}, expected {expected}")
