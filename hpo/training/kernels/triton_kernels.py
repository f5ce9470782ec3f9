"""Kernels for GPUs, in Triton's language: convolution with pooling and SELU, dropout's masks, Adam.

Nothing but what a pooled position lets through is written: products of all places stay in registers, then their
maximum, the index of its place (a byte), bias and SELU, one store. `hpo.training.stacked` has the same in plain torch.
`input_precision` of the products is "tf32" (tensor cores, 10 bits of mantissa) or "tf32x3" (three such products,
close to float32).

Shapes: P lanes, B images of the batch, C channels in, O (OC) channels out, Q pooled positions, W pixels of a window;
R = B * Q rows. A program's last grid axis is the lane.
"""

import triton
import triton.language as tl

ALPHA = tl.constexpr(1.6732632423543772)  # SELU (Klambauer et al., NeurIPS 2017)
SCALE = tl.constexpr(1.0507009873554805)


@triton.jit
def _selu(x):
    return SCALE * tl.where(x > 0, x, ALPHA * (tl.exp(x) - 1))


@triton.jit
def _before_selu(grad, out):
    """The gradient by x of out = SELU(x)."""
    return grad * tl.where(out > 0, SCALE, out + SCALE * ALPHA)


@triton.jit
def _windows(rows, corners, positions, lane, r, k, R, Q: tl.constexpr, C: tl.constexpr, W: tl.constexpr):
    """Rows r of all windows, pixels k of their C * W: 0 beyond them."""
    image, here = lane * (R // Q) + r // Q, r < R
    first = tl.load(corners + image * C, here, 0)[:, None]
    for c in tl.static_range(1, C):
        first = tl.where((k // W == c)[None, :], tl.load(corners + image * C + c, here, 0)[:, None], first)
    row = first + tl.load(positions + r % Q, here, 0)[:, None]
    return tl.load(rows + row * W + (k % W)[None, :], here[:, None] & (k < C * W)[None, :], 0.0)


@triton.jit
def dropout_masks(keys, thresholds, scales, out, words, BLOCK: tl.constexpr):
    """`streams.keep_masks`: (P, 4 * words) from keys (P,), thresholds (P,) int16 and scales (P,)."""
    lane = tl.program_id(1).to(tl.int64)
    word = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    z = tl.load(keys + lane) + (word.to(tl.int64) + 1) * -7046029254386353131
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * -4658895280553007687
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * -7723592293110705685
    z = z ^ ((z >> 31) & ((1 << 33) - 1))
    threshold, scale = tl.load(thresholds + lane), tl.load(scales + lane)
    to = out + (lane * words + word) * 4
    for quarter in tl.static_range(4):
        keep = (z >> (16 * quarter)).to(tl.int16) >= threshold
        tl.store(to + quarter, tl.where(keep, scale, 0.0), word < words)


@triton.jit
def adam(parameters, gradient, first, second, rates, epsilons, decays, n, BLOCK: tl.constexpr):
    """One step of Adam with coupled weight decay on (P, n); rates, epsilons with the bias corrections taken in (P,)."""
    lane = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = at < n
    at = lane * n + at
    p = tl.load(parameters + at, here)
    g = tl.load(gradient + at, here) + p * tl.load(decays + lane)
    m = tl.load(first + at, here)
    m += (g - m) * 0.1
    v = tl.load(second + at, here) * 0.999 + g * g * 0.001
    tl.store(first + at, m, here)
    tl.store(second + at, v, here)
    step = tl.load(rates + lane) * m / (tl.sqrt(v) + tl.load(epsilons + lane))
    tl.store(parameters + at, p - step, here)


@triton.jit
def window_forward(
    rows, corners, positions, weight, bias, out, route, R, lane_stride,
    Q: tl.constexpr, C: tl.constexpr, K: tl.constexpr, S: tl.constexpr, OC: tl.constexpr, INNER: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """SELU(max over S * S places of window @ kernel + bias): out (P, R, O), route (P, R, O) int8 the place.

    Windows lie in the table `rows` (N, W) from `corners` (P, B, C) and `positions` (Q,) on; weight (P, O, C, K, K) and
    bias (P, O) are `lane_stride` apart. INNER is C * W or the next power of two.
    """
    SIZE: tl.constexpr = K + S - 1
    lane = tl.program_id(1).to(tl.int64)
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k, o = tl.arange(0, INNER), tl.arange(0, OC)
    c, pixel = k // (SIZE * SIZE), k % (SIZE * SIZE)
    here, inside = r < R, k < C * SIZE * SIZE
    x = _windows(rows, corners, positions, lane, r, k, R, Q, C, SIZE * SIZE)
    best = tl.full((BLOCK, OC), float("-inf"), tl.float32)
    place_of = tl.zeros((BLOCK, OC), tl.int8)
    for place in tl.static_range(S * S):
        i, j = pixel // SIZE - place // S, pixel % SIZE - place % S
        tap = inside & (i >= 0) & (i < K) & (j >= 0) & (j < K)
        at = (o[None, :] * C + c[:, None]) * K * K + (i * K + j)[:, None]
        w = tl.load(weight + lane * lane_stride + at, tap[:, None], 0.0)
        y = tl.dot(x, w, input_precision=PRECISION)
        more = y > best
        best = tl.where(more, y, best)
        place_of = tl.where(more, place, place_of).to(tl.int8)
    y = _selu(best + tl.load(bias + lane * lane_stride + o)[None, :])
    to = (lane * R + r)[:, None] * OC + o[None, :]
    tl.store(out + to, y, here[:, None])
    tl.store(route + to, place_of, here[:, None])


@triton.jit
def window_backward(
    rows, corners, positions, grad, out, route, part, bias_part, R,
    Q: tl.constexpr, C: tl.constexpr, K: tl.constexpr, S: tl.constexpr, OC: tl.constexpr, INNER: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of each place's kernel, part (P, chunks, S * S, INNER, O), and of the bias, bias_part (P, chunks, O).

    Each sums over BLOCKS * BLOCK rows. S is 2: its four places are summed at once. The grid is (chunks, P).
    """
    tl.static_assert(S == 2)
    chunk, lane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    k, o = tl.arange(0, INNER), tl.arange(0, OC)
    first = tl.zeros((INNER, OC), tl.float32)
    second, third, fourth = first, first, first
    bias = tl.zeros((OC,), tl.float32)
    for step in range(BLOCKS):
        r = (chunk * BLOCKS + step) * BLOCK + tl.arange(0, BLOCK)
        here = (r < R)[:, None]
        x = tl.trans(_windows(rows, corners, positions, lane, r, k, R, Q, C, (K + S - 1) * (K + S - 1)))
        at = (lane * R + r)[:, None] * OC + o[None, :]
        g = _before_selu(tl.load(grad + at, here, 0.0), tl.load(out + at, here, 0.0))
        routed = tl.load(route + at, here, 0)
        first = tl.dot(x, tl.where(routed == 0, g, 0.0), first, input_precision=PRECISION)
        second = tl.dot(x, tl.where(routed == 1, g, 0.0), second, input_precision=PRECISION)
        third = tl.dot(x, tl.where(routed == 2, g, 0.0), third, input_precision=PRECISION)
        fourth = tl.dot(x, tl.where(routed == 3, g, 0.0), fourth, input_precision=PRECISION)
        bias += tl.sum(g, 0)
    chunk += lane * tl.num_programs(0)
    to = part + (chunk * 4 * INNER + k[:, None]) * OC + o[None, :]
    tl.store(to, first)
    tl.store(to + INNER * OC, second)
    tl.store(to + 2 * INNER * OC, third)
    tl.store(to + 3 * INNER * OC, fourth)
    tl.store(bias_part + chunk * OC + o, bias)


@triton.jit
def window_fold(
    part, bias_part, weight, bias,
    C: tl.constexpr, K: tl.constexpr, S: tl.constexpr, OC: tl.constexpr, INNER: tl.constexpr, CHUNKS: tl.constexpr,
    TAPS: tl.constexpr,
):  # fmt: skip
    """Gradients of weight (P, O, C, K, K) and bias (P, O) from the parts; TAPS is K * K or the next power of two.

    The grid is (C, P).
    """
    SIZE: tl.constexpr = K + S - 1
    c, lane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    tap, o = tl.arange(0, TAPS), tl.arange(0, OC)
    here = tap < K * K
    total = tl.zeros((TAPS, OC), tl.float32)
    summed = tl.zeros((OC,), tl.float32)
    for chunk in range(CHUNKS):
        for place in tl.static_range(S * S):
            pixel = c * SIZE * SIZE + (tap // K + place // S) * SIZE + tap % K + place % S
            at = ((lane * CHUNKS + chunk) * S * S + place) * INNER + pixel[:, None]
            total += tl.load(part + at * OC + o[None, :], here[:, None], 0.0)
        summed += tl.load(bias_part + (lane * CHUNKS + chunk) * OC + o)
    to = ((lane * OC + o[None, :]) * C + c) * K * K + tap[:, None]
    tl.store(weight + to, total, here[:, None])
    if c == 0:
        tl.store(bias + lane * OC + o, summed)


@triton.jit
def convolution_forward(
    x, kernel, bias, out, route, B, bias_stride,
    SIDE: tl.constexpr, K: tl.constexpr, S: tl.constexpr, C: tl.constexpr, OC: tl.constexpr, PLACES: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """SELU(max over S * S places of a K * K convolution + bias) where that is one position: out, route (P, B, O).

    x (P, B, SIDE * SIDE, C), kernel (P, K * K, C, O), bias (P, O) `bias_stride` apart. PLACES is S * S or the next
    power of two; a program has BLOCK images.
    """
    lane = tl.program_id(1).to(tl.int64)
    row = tl.arange(0, BLOCK * PLACES)
    image, place = tl.program_id(0) * BLOCK + row // PLACES, row % PLACES
    here = (image < B) & (place < S * S)
    corner = ((lane * B + image) * SIDE + place // S) * SIDE + place % S
    c, o = tl.arange(0, C), tl.arange(0, OC)
    y = tl.zeros((BLOCK * PLACES, OC), tl.float32)
    for tap in range(K * K):
        pixel = corner + (tap // K) * SIDE + tap % K
        a = tl.load(x + pixel[:, None] * C + c[None, :], here[:, None], 0.0)
        w = tl.load(kernel + ((lane * K * K + tap) * C + c[:, None]) * OC + o[None, :])
        y = tl.dot(a, w, y, input_precision=PRECISION)
    y = tl.where((place < S * S)[:, None], y, float("-inf"))
    best, place_of = tl.max(tl.reshape(y, (BLOCK, PLACES, OC)), 1, return_indices=True)
    y = _selu(best + tl.load(bias + lane * bias_stride + o)[None, :])
    image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    to = (lane * B + image)[:, None] * OC + o[None, :]
    tl.store(out + to, y, (image < B)[:, None])
    tl.store(route + to, place_of.to(tl.int8), (image < B)[:, None])


@triton.jit
def convolution_input_gradient(
    grad, out, route, kernel, dx, B,
    SIDE: tl.constexpr, K: tl.constexpr, S: tl.constexpr, C: tl.constexpr, OC: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dx (P, B, SIDE * SIDE, C) from grad, out, route (P, B, O).

    A row of pixels of BLOCK images a program: the grid is (blocks, SIDE, P).
    """
    i, lane = tl.program_id(1), tl.program_id(2).to(tl.int64)
    image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = image < B
    c, o = tl.arange(0, C), tl.arange(0, OC)
    at = (lane * B + image)[:, None] * OC + o[None, :]
    g = _before_selu(tl.load(grad + at, here[:, None], 0.0), tl.load(out + at, here[:, None], 0.0))
    routed = tl.load(route + at, here[:, None], 0)
    for j in tl.static_range(SIDE):
        total = tl.zeros((BLOCK, C), tl.float32)
        for row in range(S):
            ki = i - row
            if (ki >= 0) & (ki < K):
                for column in tl.static_range(S):
                    if j - column >= 0 and j - column < K:
                        w = tl.load(
                            kernel + ((lane * K * K + ki * K + (j - column)) * C + c[None, :]) * OC + o[:, None]
                        )
                        part = tl.where(routed == row * S + column, g, 0.0)
                        total = tl.dot(part, w, total, input_precision=PRECISION)
        to = ((lane * B + image) * SIDE * SIDE + i * SIDE + j)[:, None] * C + c[None, :]
        tl.store(dx + to, total, here[:, None])


@triton.jit
def convolution_weight_gradient(
    grad, out, route, x, dw, db, B,
    SIDE: tl.constexpr, K: tl.constexpr, S: tl.constexpr, C: tl.constexpr, OC: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the kernel, dw (P, K * K, C, O), a tap of it a program, and of the bias, db (P, O).

    BLOCKS times BLOCK images are all of the batch.
    """
    tap, lane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    c, o = tl.arange(0, C), tl.arange(0, OC)
    total = tl.zeros((C, OC), tl.float32)
    bias = tl.zeros((OC,), tl.float32)
    for block in range(BLOCKS):
        image = block * BLOCK + tl.arange(0, BLOCK)
        here = image < B
        at = (lane * B + image)[:, None] * OC + o[None, :]
        g = _before_selu(tl.load(grad + at, here[:, None], 0.0), tl.load(out + at, here[:, None], 0.0))
        routed = tl.load(route + at, here[:, None], 0)
        bias += tl.sum(g, 0)
        for place in range(S * S):
            pixel = (place // S + tap // K) * SIDE + place % S + tap % K
            a = tl.load(x + ((lane * B + image) * SIDE * SIDE + pixel)[None, :] * C + c[:, None], here[None, :], 0.0)
            total = tl.dot(a, tl.where(routed == place, g, 0.0), total, input_precision=PRECISION)
    tl.store(dw + ((lane * K * K + tap) * C + c[:, None]) * OC + o[None, :], total)
    if tap == 0:
        tl.store(db + lane * OC + o, bias)
