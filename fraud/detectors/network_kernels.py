"""The compiled loops of the autoencoder: forward pass and score.

A row's score does not depend on other rows or its position, to the last bit. Every sum has a fixed order: the bias,
then the inputs. So the loops may run along the outputs (one row) or along the rows (a block), with vectors of any
width: without `fastmath` the compiler neither reorders sums nor fuses multiply and add. BLAS does not guarantee this:
OpenBLAS rounds differently by processor and number of rows.

Processors may still differ in the C library's log and exp, by the last bit of a float64 (2e-16).

numba checks only a function's own file for changes to its cached code: after an edit here, also touch
fraud/detectors/kernels.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

# Activations, as stored in Autoencoder.activation_code.
RELU, LEAKY_RELU, TANH, ELU = 0, 1, 2, 3
# Smaller reconstruction errors count as this.
SMALLEST_ERROR = 1e-12
# Rows per block: they and a layer's outputs fit the L2 cache.
BLOCK = 256

# exp(x) - 1 = 2^k (e^r - 1) + (2^k - 1) with x = k ln 2 + r. Adding 1.5 * 2^52 rounds to an integer and leaves it in
# the lowest bits.
_LOG2_E, _LN2, _ROUNDER = 1.0 / math.log(2.0), math.log(2.0), 1.5 * 2.0**52
_MANTISSA_BITS, _ONE_BITS = np.int64(52), np.int64(1023 << 52)
# e^x - 1 is -1 in float32 long before this, and 2^k is still a normal number.
_LOWEST_EXPONENT = -100.0


class AutoencoderArguments(NamedTuple):
    """The arrays of an Autoencoder."""

    weights: np.ndarray
    biases: np.ndarray
    sizes: np.ndarray
    latent: int
    activation_code: int
    with_latent: bool
    center: np.ndarray
    factors: np.ndarray
    shifts: np.ndarray
    log_weights: np.ndarray
    is_density: bool


@njit(cache=True)
def exp_minus_one(x):  # pragma: no cover - compiled
    """e^x - 1 of a float64 of 0 or less, relative error 1e-10: a Taylor polynomial, which vectorises."""
    x = _LOWEST_EXPONENT if x < _LOWEST_EXPONENT else x
    shifted = np.float64(x * _LOG2_E + _ROUNDER)
    r = x - (shifted - _ROUNDER) * _LN2
    bits = np.int64((shifted.view(np.int64) << _MANTISSA_BITS) + _ONE_BITS)
    scale = bits.view(np.float64)
    p = 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    return scale * (p * r) + (scale - 1.0)


@njit(cache=True, error_model="numpy")
def activate(x, code):  # pragma: no cover - compiled
    """Apply one activation in place to a float32 vector."""
    if code == RELU:
        for i in range(len(x)):
            x[i] = np.float32(0.0) if x[i] < np.float32(0.0) else x[i]
    elif code == LEAKY_RELU:
        for i in range(len(x)):
            x[i] = np.float32(0.01) * x[i] if x[i] < np.float32(0.0) else x[i]
    elif code == TANH:
        for i in range(len(x)):
            v = np.float64(x[i])
            m = exp_minus_one(-2.0 * abs(v))
            below = m / (m + 2.0)  # tanh(-|v|)
            x[i] = np.float32(below if v < 0.0 else -below)
    else:
        for i in range(len(x)):
            v = np.float64(x[i])
            below = exp_minus_one(0.0 if v > 0.0 else v)
            x[i] = np.float32(v if v > 0.0 else below)


@njit(cache=True)
def add_products(source, weights, target):  # pragma: no cover - compiled
    """target += weights.T @ source; inputs are added in order.

    source: float32 (fan_in or more, n_rows); weights: float32 (fan_in, fan_out); target: float32 (fan_out or more,
    n_rows). Four inputs at a time, and for blocks four outputs, save most loads and stores: as fast as OpenBLAS on
    layers this narrow.
    """
    fan_in, fan_out = weights.shape
    n = source.shape[1]
    if n == 1 and target.shape[1] == 1:
        i = 0
        while i + 4 <= fan_in:
            x0, x1, x2, x3 = source[i, 0], source[i + 1, 0], source[i + 2, 0], source[i + 3, 0]
            for o in range(fan_out):
                target[o, 0] = (
                    ((target[o, 0] + x0 * weights[i, o]) + x1 * weights[i + 1, o]) + x2 * weights[i + 2, o]
                ) + x3 * weights[i + 3, o]
            i += 4
        while i < fan_in:
            x0 = source[i, 0]
            for o in range(fan_out):
                target[o, 0] += x0 * weights[i, o]
            i += 1
        return
    o = 0
    while o + 4 <= fan_out:
        y0, y1, y2, y3 = target[o], target[o + 1], target[o + 2], target[o + 3]
        i = 0
        while i + 4 <= fan_in:
            h0, h1, h2, h3 = source[i], source[i + 1], source[i + 2], source[i + 3]
            a0, a1, a2, a3 = weights[i, o], weights[i, o + 1], weights[i, o + 2], weights[i, o + 3]
            b0, b1, b2, b3 = weights[i + 1, o], weights[i + 1, o + 1], weights[i + 1, o + 2], weights[i + 1, o + 3]
            c0, c1, c2, c3 = weights[i + 2, o], weights[i + 2, o + 1], weights[i + 2, o + 2], weights[i + 2, o + 3]
            d0, d1, d2, d3 = weights[i + 3, o], weights[i + 3, o + 1], weights[i + 3, o + 2], weights[i + 3, o + 3]
            for t in range(n):
                x0, x1, x2, x3 = h0[t], h1[t], h2[t], h3[t]
                y0[t] = (((y0[t] + x0 * a0) + x1 * b0) + x2 * c0) + x3 * d0
                y1[t] = (((y1[t] + x0 * a1) + x1 * b1) + x2 * c1) + x3 * d1
                y2[t] = (((y2[t] + x0 * a2) + x1 * b2) + x2 * c2) + x3 * d2
                y3[t] = (((y3[t] + x0 * a3) + x1 * b3) + x2 * c3) + x3 * d3
            i += 4
        while i < fan_in:
            h0 = source[i]
            a0, a1, a2, a3 = weights[i, o], weights[i, o + 1], weights[i, o + 2], weights[i, o + 3]
            for t in range(n):
                x0 = h0[t]
                y0[t] += x0 * a0
                y1[t] += x0 * a1
                y2[t] += x0 * a2
                y3[t] += x0 * a3
            i += 1
        o += 4
    while o < fan_out:
        y0 = target[o]
        for i in range(fan_in):
            h0, a0 = source[i], weights[i, o]
            for t in range(n):
                y0[t] += h0[t] * a0
        o += 1


@njit(cache=True)
def scratch(sizes, n, n_rows):  # pragma: no cover - compiled
    """Buffers of a block, float32 (5, widest, n_rows): two layers, inputs, deviations (n), and their spread."""
    widest = n
    for i in range(len(sizes)):
        widest = max(widest, sizes[i])
    return np.empty((5, widest, n_rows), dtype=np.float32)


@njit(cache=True)
def deviation_block(X, network, buffers):  # pragma: no cover - compiled
    """Residual (reconstruction - x) and, if used, the latent code, into buffers[3], float32 (widest, n_rows).

    X: float32 (n_rows, n_features), at most BLOCK rows; network: AutoencoderArguments; buffers: from `scratch`.
    """
    weights, biases, sizes = network.weights, network.biases, network.sizes
    n_rows, n_features = X.shape
    columns, deviation = buffers[2], buffers[3]
    for t in range(n_rows):
        for i in range(n_features):
            columns[i, t] = X[t, i]
    hidden = columns
    w = b = 0
    for layer in range(len(sizes) - 1):
        fan_in, fan_out = sizes[layer], sizes[layer + 1]
        output = buffers[layer % 2]
        for o in range(fan_out):
            for t in range(n_rows):
                output[o, t] = biases[b + o]
        add_products(hidden, weights[w : w + fan_in * fan_out].reshape(fan_in, fan_out), output)
        w, b = w + fan_in * fan_out, b + fan_out
        if layer == network.latent and network.with_latent:
            for o in range(fan_out):
                for t in range(n_rows):
                    deviation[n_features + o, t] = output[o, t]
        if layer < len(sizes) - 2:
            activate(output[:fan_out].ravel(), network.activation_code)
        hidden = output
    for i in range(n_features):
        for t in range(n_rows):
            deviation[i, t] = hidden[i, t] - columns[i, t]


@njit(cache=True)
def deviation_rows(X, network, out):  # pragma: no cover - compiled
    """`deviation_block` for any number of rows, into out, float32 (n, n_rows)."""
    n = len(out)
    for start in range(0, len(X), BLOCK):
        block = X[start : start + BLOCK]
        buffers = scratch(network.sizes, n, len(block))
        deviation_block(block, network, buffers)
        out[:, start : start + len(block)] = buffers[3, :n]


@njit(cache=True)
def autoencoder_rows(X, network, out):  # pragma: no cover - compiled
    """Log anomaly score into out, float64 (n_rows,); see fraud.detectors.autoencoder_score.Autoencoder.

    X: float32 (n_rows, n_features); network: AutoencoderArguments.
    """
    center, factors, shifts, log_weights = network.center, network.factors, network.shifts, network.log_weights
    n = len(center)
    for start in range(0, len(X), BLOCK):
        block = X[start : start + BLOCK]
        n_rows = len(block)
        buffers = scratch(network.sizes, n, n_rows)
        deviation_block(block, network, buffers)
        deviation, spread = buffers[3], buffers[4]
        for i in range(n):
            for t in range(n_rows):
                deviation[i, t] -= center[i]
        squares = np.zeros((len(factors), n_rows))
        for k in range(len(factors)):
            for o in range(n):
                for t in range(n_rows):
                    spread[o, t] = -shifts[k, o]
            add_products(deviation, factors[k], spread)
            square = squares[k]
            for o in range(n):
                for t in range(n_rows):
                    square[t] += np.float64(spread[o, t]) * np.float64(spread[o, t])
        for t in range(n_rows):
            if network.is_density:
                out[start + t] = -log_likelihood(log_weights, squares, t) / n
            else:
                error = squares[0, t] / n
                out[start + t] = math.log(SMALLEST_ERROR if error < SMALLEST_ERROR else error)  # NaN stays NaN


@njit(cache=True)
def log_likelihood(log_weights, squares, t):  # pragma: no cover - compiled
    """log(sum(exp(log_weights - squares[:, t] / 2))) over the components, in order; float64 (k,), (k, n)."""
    largest, total = -np.inf, 0.0
    for k in range(len(log_weights)):
        exponent = log_weights[k] - 0.5 * squares[k, t]
        if exponent > largest:
            total = total * math.exp(largest - exponent) + 1.0
            largest = exponent
        else:
            total += math.exp(exponent - largest)
    return largest + math.log(total)
