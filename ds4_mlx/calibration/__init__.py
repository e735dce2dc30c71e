"""What a text shows of the routed experts' inputs: collected layer by layer, kept in a folder, used by the encoders.

`collect` runs a text through a model whose layers are in memory one at a time; `store` is the folder it writes and what
`ds4_convert` reads of it; `encoding` is how a stack of experts is encoded with that; `texts` reads texts. May import
the model, checkpoints, text and quant; knows nothing of sessions or servers.
"""
