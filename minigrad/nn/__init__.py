"""Layers, losses and initialisation, with PyTorch's names, defaults and `state_dict` keys.

>>> net = mg.nn.Sequential(mg.nn.Linear(64, 32), mg.nn.BatchNorm1d(32), mg.nn.ReLU())
>>> net(mg.randn(8, 64)).shape
(8, 32)
"""

from . import functional, init, utils
from .activation import (
    GELU,
    LogSigmoid,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from .attention import MultiheadAttention, TransformerEncoder, TransformerEncoderLayer
from .dropout import Dropout
from .embedding import Embedding
from .layer_norm import LayerNorm
from .linear import Flatten, Identity, Linear
from .loss import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from .module import Module, ModuleList, Parameter, Sequential
from .norm import BatchNorm1d, BatchNorm2d, recalibrate
from .recurrent import (
    GRU,
    LSTM,
    RNN,
    BatchNormLSTM,
    BatchNormLSTMCell,
    GRUCell,
    LSTMCell,
    RNNCell,
)

__all__ = [
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNormLSTM",
    "BatchNormLSTMCell",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "GELU",
    "GRU",
    "GRUCell",
    "Identity",
    "L1Loss",
    "LSTM",
    "LSTMCell",
    "LayerNorm",
    "Linear",
    "LogSigmoid",
    "LogSoftmax",
    "MSELoss",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "NLLLoss",
    "Parameter",
    "RNN",
    "RNNCell",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "functional",
    "init",
    "recalibrate",
    "utils",
]
