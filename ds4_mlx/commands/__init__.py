"""What each `ds4-mlx` command does, apart from its flags (those are in `ds4_mlx.cli`)."""
