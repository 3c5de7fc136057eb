"""Layers, losses and initialisation, with PyTorch's names, defaults and `state_dict` keys.

>>> net = mg.nn.Sequential(mg.nn.Linear(64, 32), mg.nn.BatchNorm1d(32), mg.nn.ReLU())
>>> net(mg.randn(8, 64)).shape
(8, 32)
"""

import typing

from ..namespace import public_names as _public_names
from . import functional as functional, init as init, utils as utils
from .accumulation import accumulate as accumulate
from .activation import (
    CELU as CELU,
    ELU as ELU,
    GELU as GELU,
    GLU as GLU,
    SELU as SELU,
    Hardshrink as Hardshrink,
    Hardsigmoid as Hardsigmoid,
    Hardswish as Hardswish,
    Hardtanh as Hardtanh,
    LeakyReLU as LeakyReLU,
    LogSigmoid as LogSigmoid,
    LogSoftmax as LogSoftmax,
    Mish as Mish,
    PReLU as PReLU,
    ReLU as ReLU,
    ReLU6 as ReLU6,
    Sigmoid as Sigmoid,
    SiLU as SiLU,
    Softmax as Softmax,
    Softmin as Softmin,
    Softplus as Softplus,
    Softshrink as Softshrink,
    Softsign as Softsign,
    Tanh as Tanh,
    Tanhshrink as Tanhshrink,
    Threshold as Threshold,
)
from .attention import (
    MultiheadAttention as MultiheadAttention,
    TransformerEncoder as TransformerEncoder,
    TransformerEncoderLayer as TransformerEncoderLayer,
)
from .conv import (
    Conv1d as Conv1d,
    Conv2d as Conv2d,
    ConvTranspose1d as ConvTranspose1d,
    ConvTranspose2d as ConvTranspose2d,
)
from .dropout import Dropout as Dropout, Dropout2d as Dropout2d
from .embedding import Embedding as Embedding
from .layer_norm import (
    GroupNorm as GroupNorm,
    InstanceNorm1d as InstanceNorm1d,
    InstanceNorm2d as InstanceNorm2d,
    LayerNorm as LayerNorm,
    RMSNorm as RMSNorm,
)
from .linear import Flatten as Flatten, Identity as Identity, Linear as Linear
from .loss import (
    BCELoss as BCELoss,
    BCEWithLogitsLoss as BCEWithLogitsLoss,
    CosineEmbeddingLoss as CosineEmbeddingLoss,
    CrossEntropyLoss as CrossEntropyLoss,
    HuberLoss as HuberLoss,
    KLDivLoss as KLDivLoss,
    L1Loss as L1Loss,
    MSELoss as MSELoss,
    NLLLoss as NLLLoss,
    SmoothL1Loss as SmoothL1Loss,
    TripletMarginLoss as TripletMarginLoss,
)
from .module import (
    Module as Module,
    ModuleList as ModuleList,
    Parameter as Parameter,
    Sequential as Sequential,
)
from .norm import BatchNorm1d as BatchNorm1d, BatchNorm2d as BatchNorm2d, recalibrate as recalibrate
from .pooling import (
    AdaptiveAvgPool1d as AdaptiveAvgPool1d,
    AdaptiveAvgPool2d as AdaptiveAvgPool2d,
    AdaptiveMaxPool2d as AdaptiveMaxPool2d,
    AvgPool1d as AvgPool1d,
    AvgPool2d as AvgPool2d,
    MaxPool1d as MaxPool1d,
    MaxPool2d as MaxPool2d,
    Upsample as Upsample,
)
from .recurrent import (
    GRU as GRU,
    LSTM as LSTM,
    RNN as RNN,
    BatchNormLSTM as BatchNormLSTM,
    BatchNormLSTMCell as BatchNormLSTMCell,
    GRUCell as GRUCell,
    LSTMCell as LSTMCell,
    RNNCell as RNNCell,
)

if not typing.TYPE_CHECKING:  # mypy reads only literal lists; without one, it goes by the imports
    __all__ = _public_names(vars(), functional, init, utils)
    __dir__ = __all__.copy
