"""From DeepSeek's released checkpoint or a ds4 GGUF file to a folder of ours, back to GGUF, and looking after folders.

`convert` writes a folder, `ds4_convert.gguf.export` a GGUF file, `ds4_convert.inspect` tells what a folder holds,
`ds4_convert.verify` re-reads it against its checksums. A recipe (recipe.py; made in released.py or gguf/source.py) says
what a source becomes, step by step; everything else here moves bytes safely: plan first, stream, write aside, record,
rename. What a folder holds: docs/folder.md.

Imports ds4_mlx.config, ds4_mlx.checkpoint, ds4_mlx.quant and ds4_mlx.errors; knows nothing of the model or the engine.
"""

from ds4_convert.conversion import Outcome, convert

__all__ = ["Outcome", "convert"]
