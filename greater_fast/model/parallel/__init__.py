"""One model shared by several processes, each with its part of every layer (tensor parallelism).

transformers lays the parts out by the plan in a model's configuration: a rank has some of the
heads, some of the MLP's inner width and some of the vocabulary, and its modules exchange what is
missing. States between layers, and logits, are whole on every rank: the rest runs as in one
process, and so it must decide the same on every rank.
"""
