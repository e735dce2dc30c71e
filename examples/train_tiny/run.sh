#!/usr/bin/env bash
# From nothing to a measured ds4-tiny in build/ds4-tiny. Needs an NVIDIA GPU for training, Debian or Ubuntu for the corpus.
# Every step keeps what is there already: run it again after an interruption.
set -euo pipefail
cd "$(dirname "$0")"
export PYTHONPATH="../.." PYTHONUNBUFFERED=1

python -c 'import torch, tokenizers, safetensors, matplotlib, mlx' ||
    { echo 'Missing packages: pip install -e "../..[cpu]" torch tokenizers safetensors matplotlib' >&2; exit 1; }
[[ -e build/corpus/train.jsonl ]] || python corpus.py
[[ -e build/chats_sample.txt ]] || python -m chats --sample build/chats_sample.txt --characters 6000000
[[ -e build/tokenizer/tokenizer.json ]] || python tokenizer.py
python train.py "$@"
python export.py
python plot.py build/run/log.jsonl build/ds4-tiny/loss.png
python evaluate.py --model build/ds4-tiny --json build/evaluation.json
python evaluate.py --model build/ds4-tiny --recent --only recall_1000 recall_2000 recall_4000
