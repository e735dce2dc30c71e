"""Our model against transformers' DeepseekV4ForCausalLM: float32 on both sides, no quantisation simulation.

    python tests/oracles/transformers_fp32.py [--model FOLDER] [--tokens N]

A script and no pytest module, because it needs torch: pip install torch==2.13.0 && pip install -e '.[oracle,cpu]'

The two sides share the checkpoint on disk and the token ids, nothing else: dequantisation is written here once more,
with torch's own FP8 types, and the names are mapped by transformers. Ends with status 1 when the two differ, 2 when
the comparison could not be made.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

try:
    import mlx.core as mx
    import torch
    import transformers
    from safetensors import safe_open
    from transformers import DeepseekV4Config, DeepseekV4ForCausalLM, DynamicCache
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4IndexerScorer

    import ds4_mlx
except ImportError as error:
    print(
        f"{error}\nThis comparison needs torch, transformers 5.17 or later, and ds4-mlx. Install them into an "
        "environment of their own:\n  pip install torch==2.13.0 && pip install -e '.[oracle,cpu]'",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

BOUND = 1e-3  # largest difference of a logit that passes; measured: README.md beside this file
TESTS = Path(__file__).resolve().parent.parent
GOLDEN_CHECKPOINT = TESTS / "golden" / "checkpoint"

# Folder -> where the reference's float32 logits of it are: file, key of the token ids, key of the logits.
GOLDEN = {
    GOLDEN_CHECKPOINT: (TESTS / "golden" / "logits.npz", "tokens", "prefill_fp32_plain"),
    TESTS / "golden_dspark" / "ckpt": (TESTS / "golden_dspark" / "drafter.npz", "tokens", "main_logits_fp32_plain"),
}

# E2M1, the sixteen FP4 codes: one sign bit, two of exponent, one of mantissa.
FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
FP4_BLOCK = 32

# Token ids [n] and how many of them to feed at a time -> logits [n, vocab].
Run = Callable[[np.ndarray, Sequence[int]], np.ndarray]


class Difference(NamedTuple):
    """How far two sets of logits are apart."""

    max_abs: float
    same_argmax: int
    rows: int
    worst_row: int

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray) -> Difference:
        """a and b are logits [n, vocab]."""
        by_row = np.abs(a.astype(np.float64) - b.astype(np.float64)).max(-1)
        same = int((a.argmax(-1) == b.argmax(-1)).sum())
        return cls(float(by_row.max()), same, len(a), int(by_row.argmax()))

    def __str__(self) -> str:
        return f"{self.max_abs:.1e} {self.same_argmax}/{self.rows}"


def dequantised(folder: Path, block: Sequence[int]) -> Iterator[tuple[str, torch.Tensor]]:
    """The main model's tensors under DeepSeek's names, every floating-point one exactly in float32.

    The draft tensors (`mtp.*`: the MTP block or DSpark's stages) are not read: transformers has no module for them.
    """
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    files = {name: safe_open(str(folder / name), "pt") for name in set(index.values())}
    for name, file in index.items():
        if name.startswith("mtp.") or name.endswith(".scale"):
            continue
        tensor = files[file].get_tensor(name)
        scale_name = name.removesuffix(".weight") + ".scale"
        if scale_name in index:
            scale = files[index[scale_name]].get_tensor(scale_name).float()
            tensor = fp4(tensor, scale) if tensor.dtype == torch.int8 else fp8(tensor, scale, block)
        yield name, tensor.float() if tensor.is_floating_point() else tensor


def fp8(codes: torch.Tensor, scale: torch.Tensor, block: Sequence[int]) -> torch.Tensor:
    """E4M3 codes [out, in], one scale per block -> float32 [out, in]."""
    out, width = codes.shape
    spread = scale.repeat_interleave(block[0], 0)[:out].repeat_interleave(block[1], 1)[:, :width]
    return codes.float() * spread


def fp4(packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Bytes [out, in / 2], the even element in the low half; scale [out, in / 32] -> float32 [out, in]."""
    byte = packed.view(torch.uint8)
    codes = torch.stack([byte & 15, byte >> 4], dim=-1).flatten(1)
    return FP4[codes.long()] * scale.repeat_interleave(FP4_BLOCK, 1)


def load_transformers(folder: Path) -> DeepseekV4ForCausalLM:
    """transformers' model with the dequantised weights. A missing or left-over tensor is an error."""
    config_json = json.loads((folder / "config.json").read_text())
    block = config_json.pop("quantization_config")["weight_block_size"]
    model, info = DeepseekV4ForCausalLM.from_pretrained(
        None,
        config=DeepseekV4Config(**config_json),
        state_dict=dict(dequantised(folder, block)),
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    wrong = {what: sorted(map(str, names)) for what, names in info.items() if names}
    if wrong:
        print(f"transformers did not take the weights as they are: {json.dumps(wrong, indent=1)}", file=sys.stderr)
        raise SystemExit(2)
    wide = {t.dtype for t in itertools.chain(model.parameters(), model.buffers()) if t.is_floating_point()}
    assert wide == {torch.float32}, wide
    for module in model.modules():
        if isinstance(module, DeepseekV4IndexerScorer):
            module.register_forward_hook(earlier_entry_first)
    return model.eval()


def earlier_entry_first(_module: torch.nn.Module, _inputs: object, scores: torch.Tensor) -> torch.Tensor:
    """Orders equal index scores as our model does; torch.topk leaves their order open, and it varies with the length.

    A score is exactly 0 where the ReLU closes every head: common with 4 heads, not to be expected with 64. The step is
    far below the float32 ulp of ordinary scores, so it decides between zeros only.
    """
    return scores - 1e-30 * torch.arange(scores.shape[-1])


def run_transformers(model: DeepseekV4ForCausalLM) -> Run:
    @torch.no_grad()
    def run(ids: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        cache = DynamicCache(config=model.config)
        rows = []
        for part in split(ids, lengths):
            result = model(torch.from_numpy(part)[None], past_key_values=cache, use_cache=True)
            rows.append(result.logits[0].numpy())
        return np.concatenate(rows)

    return run


def run_ours(model: ds4_mlx.LanguageModel) -> Run:
    def run(ids: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        session = model.session()
        return np.concatenate([np.array(session.feed(part, chunk=len(part))) for part in split(ids, lengths)])

    return run


def split(ids: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    assert sum(lengths) == len(ids)
    return np.split(ids, np.cumsum(lengths)[:-1])


def ways_to_feed(n: int) -> dict[str, list[int]]:
    """What to call it -> how many of n tokens to feed at a time."""
    prompt, cut = min(37, n // 2), min(120, n // 2)
    return {
        f"prefill {n}": [n],
        f"prefill {prompt}, then decode": [prompt] + [1] * (n - prompt),
        f"prefill {cut} + {n - cut}": [cut, n - cut],
        "decode from the first token": [1] * n,
    }


def choose_tokens(folder: Path, count: int | None, vocab: int) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Token ids int64 [n], the reference's logits [n, vocab] if there are any, and where the ids come from."""
    if folder in GOLDEN:
        path, ids_key, logits_key = GOLDEN[folder]
        with np.load(path) as file:
            ids, logits = file[ids_key].astype(np.int64), file[logits_key]
        if count is None or count <= len(ids):
            return ids[:count], logits[:count], "golden"
    ids = np.random.default_rng(0).integers(vocab, size=count or 272)
    return ids, None, "random, seed 0"


def compare(ours: Run, theirs: Run, ids: np.ndarray, golden: np.ndarray | None, bound: float) -> bool:
    """Runs both sides every way, prints the table, and tells whether everything agrees that should."""
    headings = ["ours/transformers", "ours/own prefill", "transf./own prefill"]
    headings += ["ours/golden", "transf./golden"] if golden is not None else []
    print(f"{'max abs, equal argmax':28}" + "".join(f"{h:>21}" for h in headings))
    agrees, first = True, None
    for way, lengths in ways_to_feed(len(ids)).items():
        a, b = ours(ids, lengths), theirs(ids, lengths)
        first = first or (a, b)
        cells = [Difference.of(a, b), Difference.of(a, first[0]), Difference.of(b, first[1])]
        cells += [Difference.of(a, golden), Difference.of(b, golden)] if golden is not None else []
        print(f"{way:28}" + "".join(f"{cell!s:>21}" for cell in cells), flush=True)
        beyond = [h for h, cell in zip(headings, cells, strict=True) if not cell.max_abs <= bound]  # NaN is beyond
        if headings[2] in beyond:
            # Its cache, not our model: what compares with transformers proves nothing for this way of feeding.
            print(f"  transformers differs from its own prefill, most at position {cells[2].worst_row}; not counted")
            beyond = [h for h in beyond if "transf" not in h]
        for heading in beyond:
            agrees = False
            print(f"  FAILED: {heading} beyond {bound:g}, most at position {cells[headings.index(heading)].worst_row}")
    return agrees


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=GOLDEN_CHECKPOINT, help="folder in DeepSeek's on-disk format")
    parser.add_argument("--tokens", type=int, help="how many (default: the golden sequence, else 272)")
    parser.add_argument(
        "--bound", type=float, default=BOUND, help="largest difference that passes (default: %(default)g)"
    )
    args = parser.parse_args()
    folder = args.model.expanduser().resolve()
    if args.tokens is not None and args.tokens < 2:
        parser.error("--tokens must be at least 2.")
    try:
        our_model = ds4_mlx.load(folder, dtype=mx.float32, simulate_quantization=False)
    except ds4_mlx.UserError as error:
        parser.error(str(error))
    if our_model.checkpoint.kind != "official":
        parser.error(f"{folder} is a converted model; transformers reads DeepSeek's on-disk format only.")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    ids, golden, source = choose_tokens(folder, args.tokens, our_model.config.vocab_size)

    print(f"{folder}: {len(ids)} tokens ({source}), float32, simulation off")
    print(
        f"transformers {transformers.__version__} on torch {torch.__version__}, "
        f"mlx {mx.__version__} on {mx.default_device()}, {platform.system()} {platform.machine()}"
    )
    agrees = compare(run_ours(our_model), run_transformers(load_transformers(folder)), ids, golden, args.bound)
    print(f"{'Everything counted agrees' if agrees else 'NOT everything agrees'} within {args.bound:g}.")
    return 0 if agrees else 1


if __name__ == "__main__":
    raise SystemExit(main())
