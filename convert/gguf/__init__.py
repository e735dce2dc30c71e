"""ds4's GGUF files: reading one as a source, and writing one.

header.py reads the beginning of a file, names.py and types.py say what is called how and stored as what, keys.py and
vocabulary.py turn keys into config.json and tokenizer.json and back, source.py makes the recipe of a conversion,
export.py and writing.py make a file. Facts about ds4's files: github.com/antirez/ds4, ds4.c and gguf-tools.
"""
