"""The arithmetic between positions: each engine has a naive form (the oracle), a fast form in plain
PyTorch, CUDA kernels where there are any (`select`), and its FLOPs, side by side.

FLOPs are those of the definition, whatever form runs: a multiply-add is two, exponentials and other
pointwise functions are not counted.
"""
