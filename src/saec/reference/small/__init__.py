"""Methods that train small tables from the start: each is one file, and one line in a dictionary.

All are written from their papers and take the place of the tables of the click models. Numbers are
stored with 16 bits where a method does not say otherwise: that loses nothing measurable, and papers
that count 32 bits would only be at a disadvantage here.
"""

from __future__ import annotations

from saec.reference.small.alpt import Alpt
from saec.reference.small.cce import Cce
from saec.reference.small.deep_hash import DeepHash
from saec.reference.small.dqrm import Dqrm
from saec.reference.small.hash_trick import HashTrick
from saec.reference.small.mixed_dimension import MixedDimension
from saec.reference.small.mpe import Mpe
from saec.reference.small.quotient_remainder import QuotientRemainder
from saec.reference.small.robe import Robe
from saec.reference.small.tables import SmallMethod, SmallTables
from saec.reference.small.tensor_train import SemiTensorTrain, TensorTrain

__all__ = ["SMALL", "SmallMethod", "SmallTables"]

SMALL: dict[str, type[SmallMethod]] = {
    "hash": HashTrick,
    "qr": QuotientRemainder,
    "mixed-dim": MixedDimension,
    "dqrm": Dqrm,
    "alpt": Alpt,
    "robe": Robe,
    "tt": TensorTrain,
    "semi-tt": SemiTensorTrain,
    "mpe": Mpe,
    "dhe": DeepHash,
    "cce": Cce,
}
