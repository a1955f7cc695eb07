"""Next-item prediction: a sequential model whose item table is compressed in several ways.

The item table is both the input and the output of the model. It is compressed after training by
axes, or replaced by the two compressions of on-device recommenders, with and without distillation
from the uncompressed model.
"""
