"""Read what a model is to predict: photos, arrays, tables or values of Python, as batches, in bounded memory.

Any file may come from anybody: nothing is unpickled, and what a header claims is checked before it is
believed.
"""
