"""How many operations a GPU is given for one decoded token: counted in the graph of a call, not estimated.

    python tests/kernels/count_dispatches.py [--tokens 1] [--sessions 1] [--by-kernel] [--host]

Builds a call on a model with the released structure (43 layers, their ratios and hash layers) and tiny widths, as MLX
would on a GPU, but evaluates nothing: a kernel is a node that depends on its inputs. Once with kernels for the routed
experts only, once with all kernels. What MLX only views differently is no dispatch; a concatenation is one per piece.

--host measures instead how long Python takes for a call, all kernels built, without what MLX does for each of them.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from ds4_mlx.cache import PagePool, SequenceState  # noqa: E402
from ds4_mlx.config import ModelConfig  # noqa: E402
from ds4_mlx.kernels.kernel import Kernel  # noqa: E402
from ds4_mlx.model import Batch  # noqa: E402
from ds4_mlx.model.linear import Numerics  # noqa: E402
from ds4_mlx.model.transformer import Transformer  # noqa: E402

from released_shapes import released  # noqa: E402

_VIEWS = {
    *("Reshape", "Slice", "Transpose", "Broadcast", "BroadcastAxes", "ExpandDims", "Squeeze", "Flatten", "Unflatten"),
    *("Split", "View", "AsStrided", "StopGradient"),
}
_KERNEL = "Depends"
# Tokens before the call: it completes no entry, entries of ratio 4, entries of both ratios. And how often that is so.
CONTEXTS = {300: 1 - 1 / 4, 303: 1 / 4 - 1 / 128, 383: 1 / 128}


def config() -> ModelConfig:
    """The released structure; the indexer must choose from 36 tokens on."""
    return replace(released(), head_dim=128, num_hash_layers=3, num_nextn_predict_layers=0, index_topk=8)


@contextmanager
def like_a_gpu(*, only_experts: bool, launched: Counter[str]) -> Iterator[None]:
    """Calls build the graph that they would on a GPU."""

    def launch(kernel: Kernel, *inputs: mx.array) -> list[mx.array]:
        launched[kernel.text.name] += 1
        shape = kernel.launch(*inputs)
        outputs = [mx.zeros(s, d) for s, d in zip(shape.output_shapes, shape.output_dtypes, strict=True)]
        mx.eval(outputs)
        return list(mx.depends(outputs, list(inputs)))

    def yes() -> bool:
        return True

    def no() -> bool:
        return False

    targets: list[tuple[str, Any]] = [("experts.runs_kernels", yes), ("experts.matmul_dtype", lambda x: x.dtype)]
    targets += [("linear.on_cpu", no)]
    targets += [] if only_experts else [("step.runs_kernels", yes), ("linear.runs_kernels", yes)]
    patches = [patch(f"ds4_mlx.model.{name}", value) for name, value in targets]
    patches.append(patch.object(Kernel, "__call__", launch))
    for p in patches:
        p.start()
    try:
        yield
    finally:
        for p in patches:
            p.stop()


def dispatches(outputs: list[mx.array]) -> Counter[str]:
    """The operations of the graph that makes `outputs`, by name; kernels as `kernel`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.dot"
        mx.export_to_dot(str(path), *outputs)
        text = path.read_text()
    names = dict(re.findall(r'{ (\d+) \[label ="(\w+)', text))
    pieces = Counter(re.findall(r'"\w+" -> (\d+)', text))
    found: Counter[str] = Counter()
    for node, name in names.items():
        if name not in _VIEWS:
            found["kernel" if name == _KERNEL else name] += pieces[node] if name == "Concatenate" else 1
    return found


def count(
    network: Transformer, pool: PagePool, sessions: int, tokens: int, context: int, *, only_experts: bool
) -> tuple[Counter[str], Counter[str]]:
    """Operations of a call with as many `tokens` of each of so many sessions, which have `context` ones; kernels.

    The sessions' pages are in `pool`.
    """
    states = [SequenceState(pool) for _ in range(sessions)]

    def forward(n: int) -> list[mx.array]:
        batch = Batch.of([(state, np.zeros(n, dtype=np.int32)) for state in states])
        logits = network.logits(network(batch)[mx.array([span.stop - 1 for span in batch.spans])])
        held = [array for state in states for array in state.arrays()]
        return [mx.argmax(logits, axis=-1), *pool.arrays(), *held]

    mx.eval(forward(context - 1))
    launched: Counter[str] = Counter()
    with like_a_gpu(only_experts=only_experts, launched=Counter()):
        # What the call before left is what the one that counts finds; shapes and owners, for numbers do not matter.
        mx.eval(forward(1))
    with like_a_gpu(only_experts=only_experts, launched=launched):
        outputs = forward(tokens)
    return dispatches(outputs), launched


def host_ms(network: Transformer) -> float:
    """Milliseconds of the processor that Python takes to build one decoded token's graph, at best."""
    state = SequenceState(PagePool.for_model(config()))
    ready: dict[Any, list[mx.array]] = {}

    def build(**_: Any) -> Any:
        def launch(output_shapes: Any, output_dtypes: Any, **_: Any) -> list[mx.array]:
            key = tuple(output_shapes), tuple(output_dtypes)
            if key not in ready:
                ready[key] = [mx.zeros(s, d) for s, d in zip(output_shapes, output_dtypes, strict=True)]
                mx.eval(ready[key])
            return ready[key]

        return launch

    def forward(tokens: int) -> float:
        start = time.process_time()
        h = network(Batch.of([(state, np.zeros(tokens, dtype=np.int32))]))
        logits = network.logits(h[-1:])
        took = time.process_time() - start
        mx.eval(logits, state.arrays())
        return took

    forward(300)
    with tempfile.TemporaryDirectory() as folder:
        patches = [
            patch("mlx.core.fast.cuda_kernel", build),
            patch("platformdirs.user_cache_dir", lambda *_, **__: folder),
        ]
        for module in ("kernels.kernel", "model.step", "model.linear", "model.experts"):
            patches.append(patch(f"ds4_mlx.{module}.runs_kernels", lambda: True))
        with ExitStack() as stack:
            for p in patches:
                stack.enter_context(p)
            return 1000 * min(forward(1) for _ in range(24))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Count what a GPU is given for one decoded token.")
    parser.add_argument("--tokens", type=int, default=1, help="of each session (default %(default)s)")
    parser.add_argument("--sessions", type=int, default=1, help="in one call (default %(default)s)")
    parser.add_argument("--by-kernel", action="store_true", help="name the kernels")
    parser.add_argument("--host", action="store_true", help="measure Python's part")
    options = parser.parse_args()
    network = Transformer(config(), Numerics())
    mx.eval(network.parameters())
    if options.host:
        print(f"{host_ms(network):.1f} ms of Python a token")
        return
    for only_experts in (True, False):
        total = 0.0
        print("experts' kernels only" if only_experts else "all kernels")
        for context, share in CONTEXTS.items():
            found, launched = count(
                network,
                PagePool.for_model(config()),
                options.sessions,
                options.tokens,
                context,
                only_experts=only_experts,
            )
            number = found.total()
            total += share * number
            rest = ", ".join(f"{name} {n}" for name, n in found.most_common() if name != "kernel")
            print(f"  after {context} tokens: {number}, of them kernels {found['kernel']}; {rest}")
            if options.by_kernel:
                print("    " + ", ".join(f"{name} {n}" for name, n in launched.most_common()))
        print(f"  on average {total:.0f} a call, {total / len(network.layers):.1f} a layer")


if __name__ == "__main__":
    main()
