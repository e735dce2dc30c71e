"""From DeepSeek's released checkpoint to a folder of ours, and looking after such folders.

`convert` writes a folder, `ds4_convert.inspect` tells what one holds, `ds4_convert.verify` re-reads it against its
checksums. A profile (profiles.py) decides how weights are stored; everything else here moves bytes safely: plan first,
stream, write aside, record, rename.

Imports ds4_mlx.config, ds4_mlx.checkpoint, ds4_mlx.quant and ds4_mlx.errors; knows nothing of the model or the engine.
"""

from ds4_convert.conversion import Outcome, convert

__all__ = ["Outcome", "convert"]
