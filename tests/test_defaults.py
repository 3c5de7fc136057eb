"""The defaults of layers, functions, optimisers and schedulers: those of PyTorch 2.13, if it has
them. A changed default changes everyone's results without an error."""

from __future__ import annotations

import importlib
import inspect
import math
import re

import pytest

# PyTorch's dim=None, which guesses an axis and is deprecated, is -1 here.
DEFAULTS = """
nn.AdaptiveMaxPool2d(return_indices=False)
nn.AvgPool1d(stride=None, padding=0, ceil_mode=False, count_include_pad=True)
nn.AvgPool2d(stride=None, padding=0, ceil_mode=False, count_include_pad=True,
    divisor_override=None)
nn.BCELoss(weight=None, reduction='mean')
nn.BCEWithLogitsLoss(weight=None, reduction='mean', pos_weight=None)
nn.BatchNorm1d(eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, bias=True)
nn.BatchNorm2d(eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, bias=True)
nn.BatchNormLSTM(num_layers=1, batch_first=False, eps=1e-05, momentum=0.1)
nn.BatchNormLSTMCell(eps=1e-05, momentum=0.1)
nn.BatchRenorm1d(eps=1e-05, momentum=0.1, affine=True, rmax=3.0, dmax=5.0, bias=True)
nn.BatchRenorm2d(eps=1e-05, momentum=0.1, affine=True, rmax=3.0, dmax=5.0, bias=True)
nn.CELU(alpha=1.0, inplace=False)
nn.Conv1d(stride=1, padding=0, dilation=1, groups=1, bias=True, padding_mode='zeros')
nn.Conv2d(stride=1, padding=0, dilation=1, groups=1, bias=True, padding_mode='zeros')
nn.ConvTranspose1d(stride=1, padding=0, output_padding=0, groups=1, bias=True, dilation=1,
    padding_mode='zeros')
nn.ConvTranspose2d(stride=1, padding=0, output_padding=0, groups=1, bias=True, dilation=1,
    padding_mode='zeros')
nn.CosineEmbeddingLoss(margin=0.0, reduction='mean')
nn.CrossEntropyLoss(weight=None, ignore_index=-100, reduction='mean', label_smoothing=0.0)
nn.Dropout(p=0.5, inplace=False)
nn.Dropout2d(p=0.5, inplace=False)
nn.DynamicTanh(alpha_init_value=0.5, elementwise_affine=True, bias=True)
nn.ELU(alpha=1.0, inplace=False)
nn.Embedding(padding_idx=None, max_norm=None, norm_type=2.0)
nn.Flatten(start_dim=1, end_dim=-1)
nn.GELU(approximate='none')
nn.GLU(dim=-1)
nn.GRU(num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False, proj_size=0)
nn.GRUCell(bias=True)
nn.GaussianNLLLoss(full=False, eps=1e-06, reduction='mean')
nn.GhostBatchNorm(eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, bias=True)
nn.GroupNorm(eps=1e-05, affine=True, bias=True)
nn.Hardshrink(lambd=0.5)
nn.Hardsigmoid(inplace=False)
nn.Hardswish(inplace=False)
nn.Hardtanh(min_val=-1.0, max_val=1.0, inplace=False)
nn.HuberLoss(reduction='mean', delta=1.0)
nn.InstanceNorm1d(eps=1e-05, momentum=0.1, affine=False, track_running_stats=False, bias=True)
nn.InstanceNorm2d(eps=1e-05, momentum=0.1, affine=False, track_running_stats=False, bias=True)
nn.KLDivLoss(reduction='mean', log_target=False)
nn.L1Loss(reduction='mean')
nn.LSTM(num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False, proj_size=0)
nn.LSTMCell(bias=True)
nn.LayerNorm(eps=1e-05, elementwise_affine=True, bias=True)
nn.LeakyReLU(negative_slope=0.01, inplace=False)
nn.Linear(bias=True)
nn.LogSoftmax(dim=-1)
nn.MSELoss(reduction='mean')
nn.MarginRankingLoss(margin=0.0, reduction='mean')
nn.MaxPool1d(stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False)
nn.MaxPool2d(stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False)
nn.Mish(inplace=False)
nn.ModuleDict(modules=())
nn.ModuleList(modules=())
nn.MultiheadAttention(dropout=0.0, bias=True, add_bias_kv=False, add_zero_attn=False, kdim=None,
    vdim=None, batch_first=False)
nn.NLLLoss(weight=None, ignore_index=-100, reduction='mean')
nn.PReLU(num_parameters=1, init=0.25)
nn.Parameter(requires_grad=True)
nn.ParameterDict(parameters=())
nn.ParameterList(values=())
nn.PoissonNLLLoss(log_input=True, full=False, eps=1e-08, reduction='mean')
nn.QuantileLoss(q=0.5, reduction='mean')
nn.RMSNorm(eps=None, elementwise_affine=True)
nn.RNN(num_layers=1, nonlinearity='tanh', bias=True, batch_first=False, dropout=0.0,
    bidirectional=False)
nn.RNNCell(bias=True, nonlinearity='tanh')
nn.ReLU(inplace=False)
nn.ReLU6(inplace=False)
nn.SELU(inplace=False)
nn.SiLU(inplace=False)
nn.SmoothL1Loss(reduction='mean', beta=1.0)
nn.Softmax(dim=-1)
nn.Softmin(dim=-1)
nn.Softplus(beta=1.0, threshold=20.0)
nn.Softshrink(lambd=0.5)
nn.Threshold(inplace=False)
nn.TransformerDecoder(norm=None)
nn.TransformerDecoderLayer(dim_feedforward=2048, dropout=0.1, activation='relu',
    layer_norm_eps=1e-05, batch_first=False, norm_first=False, bias=True)
nn.TransformerEncoder(norm=None)
nn.TransformerEncoderLayer(dim_feedforward=2048, dropout=0.1, activation='relu',
    layer_norm_eps=1e-05, batch_first=False, norm_first=False, bias=True)
nn.TripletMarginLoss(margin=1.0, p=2.0, eps=1e-06, swap=False, reduction='mean')
nn.Upsample(size=None, scale_factor=None, mode='nearest', align_corners=None)
nn.functional.adaptive_max_pool2d(return_indices=False)
nn.functional.avg_pool1d(stride=None, padding=0, ceil_mode=False, count_include_pad=True)
nn.functional.avg_pool2d(stride=None, padding=0, ceil_mode=False, count_include_pad=True,
    divisor_override=None)
nn.functional.batch_norm(weight=None, bias=None, training=False, momentum=0.1, eps=1e-05,
    renorm=None)
nn.functional.binary_cross_entropy(weight=None, reduction='mean')
nn.functional.binary_cross_entropy_with_logits(weight=None, reduction='mean', pos_weight=None)
nn.functional.celu(alpha=1.0, inplace=False)
nn.functional.conv1d(bias=None, stride=1, padding=0, dilation=1, groups=1)
nn.functional.conv2d(bias=None, stride=1, padding=0, dilation=1, groups=1)
nn.functional.conv_transpose1d(bias=None, stride=1, padding=0, output_padding=0, groups=1,
    dilation=1)
nn.functional.conv_transpose2d(bias=None, stride=1, padding=0, output_padding=0, groups=1,
    dilation=1)
nn.functional.cosine_embedding_loss(margin=0.0, reduction='mean')
nn.functional.cosine_similarity(dim=1, eps=1e-08)
nn.functional.cross_entropy(weight=None, ignore_index=-100, reduction='mean', label_smoothing=0.0)
nn.functional.dropout(p=0.5, training=True)
nn.functional.dropout2d(p=0.5, training=True)
nn.functional.elu(alpha=1.0, inplace=False)
nn.functional.embedding(padding_idx=None, max_norm=None, norm_type=2.0)
nn.functional.gaussian_nll_loss(full=False, eps=1e-06, reduction='mean')
nn.functional.gelu(approximate='none')
nn.functional.glu(dim=-1)
nn.functional.group_norm(weight=None, bias=None, eps=1e-05)
nn.functional.hardshrink(lambd=0.5)
nn.functional.hardsigmoid(inplace=False)
nn.functional.hardswish(inplace=False)
nn.functional.hardtanh(min_val=-1.0, max_val=1.0, inplace=False)
nn.functional.huber_loss(reduction='mean', delta=1.0)
nn.functional.instance_norm(running_mean=None, running_var=None, weight=None, bias=None,
    use_input_stats=True, momentum=0.1, eps=1e-05)
nn.functional.interpolate(size=None, scale_factor=None, mode='nearest', align_corners=None)
nn.functional.kl_div(reduction='mean', log_target=False)
nn.functional.l1_loss(reduction='mean')
nn.functional.layer_norm(weight=None, bias=None, eps=1e-05)
nn.functional.leaky_relu(negative_slope=0.01, inplace=False)
nn.functional.log_softmax(dim=-1)
nn.functional.margin_ranking_loss(margin=0.0, reduction='mean')
nn.functional.max_pool1d(stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False)
nn.functional.max_pool2d(stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False)
nn.functional.mish(inplace=False)
nn.functional.mse_loss(reduction='mean')
nn.functional.nll_loss(weight=None, ignore_index=-100, reduction='mean')
nn.functional.normalize(p=2.0, dim=1, eps=1e-12)
nn.functional.one_hot(num_classes=-1)
nn.functional.pad(mode='constant', value=0)
nn.functional.pairwise_distance(p=2.0, eps=1e-06, keepdim=False)
nn.functional.poisson_nll_loss(log_input=True, full=False, eps=1e-08, reduction='mean')
nn.functional.quantile_loss(q=0.5, reduction='mean')
nn.functional.relu(inplace=False)
nn.functional.relu6(inplace=False)
nn.functional.rms_norm(weight=None, eps=None)
nn.functional.scaled_dot_product_attention(attn_mask=None, dropout_p=0.0, is_causal=False,
    scale=None)
nn.functional.selu(inplace=False)
nn.functional.silu(inplace=False)
nn.functional.smooth_l1_loss(reduction='mean', beta=1.0)
nn.functional.softmax(dim=-1)
nn.functional.softmin(dim=-1)
nn.functional.softplus(beta=1.0, threshold=20.0)
nn.functional.softshrink(lambd=0.5)
nn.functional.threshold(inplace=False)
nn.functional.triplet_margin_loss(margin=1.0, p=2.0, eps=1e-06, swap=False, reduction='mean')
nn.init.calculate_gain(param=None)
nn.init.kaiming_normal_(a=0.0, mode='fan_in', nonlinearity='leaky_relu')
nn.init.kaiming_uniform_(a=0.0, mode='fan_in', nonlinearity='leaky_relu')
nn.init.normal_(mean=0.0, std=1.0)
nn.init.orthogonal_(gain=1.0)
nn.init.trunc_normal_(mean=0.0, std=1.0, a=-2.0, b=2.0)
nn.init.uniform_(a=0.0, b=1.0)
nn.init.xavier_normal_(gain=1.0)
nn.init.xavier_uniform_(gain=1.0)
nn.utils.clip_grad_norm_(norm_type=2.0, error_if_nonfinite=False)
nn.utils.fuse_batchnorm(norm=None)
nn.utils.remove_weight_norm(name='weight')
nn.utils.weight_norm(name='weight', dim=0)
optim.Adagrad(lr=0.01, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10,
    maximize=False)
optim.Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0, amsgrad=False, maximize=False,
    decoupled_weight_decay=False)
optim.AdamW(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, amsgrad=False,
    maximize=False)
optim.LBFGS(lr=1, max_iter=20, max_eval=None, tolerance_grad=1e-07, tolerance_change=1e-09,
    history_size=100, line_search_fn=None, maximize=False)
optim.Lion(lr=0.0001, betas=(0.9, 0.99), weight_decay=0, maximize=False)
optim.AveragedModel(decay=None, use_buffers=False)
optim.Muon(lr=0.001, weight_decay=0.1, momentum=0.95, nesterov=True,
    ns_coefficients=(3.4445, -4.775, 2.0315), eps=1e-07, ns_steps=5, adjust_lr_fn=None,
    maximize=False)
optim.NAdam(lr=0.002, betas=(0.9, 0.999), eps=1e-08, weight_decay=0, momentum_decay=0.004,
    decoupled_weight_decay=False, maximize=False)
optim.RAdam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0, decoupled_weight_decay=False,
    maximize=False)
optim.RMSprop(lr=0.01, alpha=0.99, eps=1e-08, weight_decay=0, momentum=0, centered=False,
    maximize=False)
optim.SGD(lr=0.001, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False)
optim.ScheduleFreeAdamW(lr=0.0025, betas=(0.9, 0.999), eps=1e-08, weight_decay=0, warmup_steps=0,
    r=0.0, weight_lr_power=2.0, maximize=False)
optim.ScheduleFreeSGD(lr=1.0, momentum=0.9, weight_decay=0, warmup_steps=0, r=0.0,
    weight_lr_power=2.0, maximize=False)
optim.lr_scheduler.ConstantLR(factor=0.3333333333333333, total_iters=5, last_epoch=-1)
optim.lr_scheduler.CosineAnnealingLR(eta_min=0.0, last_epoch=-1)
optim.lr_scheduler.CosineAnnealingWarmRestarts(T_mult=1, eta_min=0.0, last_epoch=-1)
optim.lr_scheduler.ExponentialLR(last_epoch=-1)
optim.lr_scheduler.LRScheduler(last_epoch=-1)
optim.lr_scheduler.LambdaLR(last_epoch=-1)
optim.lr_scheduler.LinearLR(start_factor=0.3333333333333333, end_factor=1.0, total_iters=5,
    last_epoch=-1)
optim.lr_scheduler.MultiStepLR(gamma=0.1, last_epoch=-1)
optim.lr_scheduler.OneCycleLR(total_steps=None, epochs=None, steps_per_epoch=None, pct_start=0.3,
    anneal_strategy='cos', cycle_momentum=True, base_momentum=0.85, max_momentum=0.95,
    div_factor=25.0, final_div_factor=10000.0, three_phase=False, last_epoch=-1)
optim.lr_scheduler.Optimizer(unknown=())
optim.lr_scheduler.PolynomialLR(total_iters=5, power=1.0, last_epoch=-1)
optim.lr_scheduler.ReduceLROnPlateau(mode='min', factor=0.1, patience=10, threshold=0.0001,
    threshold_mode='rel', cooldown=0, min_lr=0, eps=1e-08)
optim.lr_scheduler.SWALR(anneal_epochs=10, anneal_strategy='cos', last_epoch=-1)
optim.lr_scheduler.SequentialLR(last_epoch=-1)
optim.lr_scheduler.StepLR(gamma=0.1, last_epoch=-1)
"""


def resolved(name):
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(f"minigrad.{module}"), last)


@pytest.mark.parametrize(
    "row", re.split(r"\n(?=\S)", DEFAULTS.strip()), ids=lambda row: row.partition("(")[0]
)
def test_default(row):
    name, _, arguments = row.partition("(")
    expected = eval(f"dict({arguments}", {"inf": math.inf, "dict": dict})
    parameters = inspect.signature(resolved(name)).parameters
    found = {key: parameters[key].default for key in expected}
    assert found == expected
    assert {key: type(value) for key, value in found.items()} == {
        key: type(value) for key, value in expected.items()
    }
