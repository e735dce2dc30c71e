"""Two optimisers: Muon for matrices, AdamW for everything else, as DeepSeek trains V4."""

from __future__ import annotations

import torch
from torch import Tensor


def orthogonalised(update: Tensor) -> Tensor:
    """Newton-Schulz: update [m, r, c] -> about the nearest matrices with equal singular values (Jordan, 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Momentum, orthogonalised. Matrices of one shape are updated together; [E, r, c] stacks count as E matrices."""

    def __init__(self, matrices: dict[str, Tensor], *, momentum: float = 0.95, decay: float = 0.1) -> None:
        self._momentum, self._decay = momentum, decay
        self._groups: dict[tuple[int, ...], list[str]] = {}
        for name, w in matrices.items():
            self._groups.setdefault(tuple(w.shape), []).append(name)
        self._matrices = matrices
        self.state = {name: torch.zeros_like(w) for name, w in matrices.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update at learning rate `rate`."""
        for shape, names in self._groups.items():
            weights = [self._matrices[name] for name in names]
            grads = [w.grad for w in weights]
            states = [self.state[name] for name in names]
            torch._foreach_lerp_(states, grads, 1 - self._momentum)
            ahead = torch._foreach_lerp(grads, states, self._momentum)  # Nesterov
            stacked = torch.stack(ahead).view(-1, *shape[-2:])
            update = orthogonalised(stacked).view(len(names), *shape).float()
            scale = max(1.0, shape[-2] / shape[-1]) ** 0.5
            torch._foreach_mul_(weights, 1 - rate * self._decay)
            torch._foreach_add_(weights, list(update.unbind()), alpha=-rate * scale)


# Learning rates of AdamW relative to Muon's, by how a parameter's name ends. An Adam step moves every weight by about
# the rate, so what is multiplied with wide inputs and then squashed (the hyper-connections' fn, the router) must move
# slowly, or it saturates within a few steps and never comes back.
_RELATIVE = {"embed.weight": 0.5, "head.weight": 0.1, "_fn": 0.005, "gate.weight": 0.02, "weights_proj.weight": 0.05}
_REST = 0.05


def adam_groups(weights: dict[str, Tensor]) -> list[dict]:
    """Parameter groups, each with its `relative` rate."""
    groups: dict[float, list[Tensor]] = {}
    for name, w in weights.items():
        relative = next((rate for end, rate in _RELATIVE.items() if name.endswith(end)), _REST)
        groups.setdefault(relative, []).append(w)
    return [{"params": params, "relative": relative} for relative, params in groups.items()]


def is_matrix(name: str, w: Tensor) -> bool:
    """What Muon updates: hidden matrices. Embedding, head, router, hyper-connections and head weights are not."""
    if w.ndim < 2 or name in ("embed.weight", "head.weight"):
        return False
    return not any(part in name for part in ("hc_", ".ape", ".gate.", "weights_proj"))
