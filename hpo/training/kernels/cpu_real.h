/* The kernels for one type of number: `cpu.c` includes this with REAL, WHOLE (the integer of its size) and NAME.

   Shapes: P lanes, B images, C channels in; 32 and 64 channels out; images are channels last. The first convolution is
   5x5 on padded images of 16x16, pooled by 2 to 5x5; the second is 3x3 on those, pooled by 3 to one position. The
   place of a maximum is a byte: 0 to 3, 0 to 8. */

typedef REAL NAME(vector) __attribute__((vector_size(BYTES), aligned(sizeof(REAL))));
typedef WHOLE NAME(whole) __attribute__((vector_size(BYTES), aligned(sizeof(REAL))));
typedef uint8_t NAME(bytes) __attribute__((vector_size(BYTES / sizeof(REAL)), aligned(1)));
#define V NAME(vector)
#define I NAME(whole)
#define N ((int)(BYTES / sizeof(REAL))) /* numbers of a vector */
#define LOAD(p) (*(const V *)(p))
#define STORE(p, x) (*(V *)(p) = (x))
#define ALL(x) ((REAL)(x) - (V){})
#define SELU_ALPHA 1.6732632423543772 /* Klambauer et al., NeurIPS 2017 */
#define SELU_SCALE 1.0507009873554805

static inline V NAME(chosen)(I where, V a, V b) { return (V)(((I)a & where) | ((I)b & ~where)); }

/* exp(x) - 1 for x <= 0 */
static inline V NAME(expm1)(V x) {
#ifdef IS_DOUBLE
  for (int i = 0; i < N; i++) x[i] = expm1(x[i]);
  return x;
#else
  /* exp(x) = 2^n exp(r), |r| <= ln 2 / 2; minimax polynomial and split of ln 2 of Cephes (expf). 2^n (exp(r) - 1) + (2^n - 1)
     keeps the digits of a small x. */
  x = NAME(chosen)(x < ALL(-87), ALL(-87), x);
  I n = __builtin_convertvector(x * ALL(1.44269504088896341) - ALL(0.5), I);
  V f = __builtin_convertvector(n, V);
  V r = x - f * ALL(0.693359375) - f * ALL(-2.12194440e-4);
  V p = ALL(1.9875691500e-4);
  p = p * r + ALL(1.3981999507e-3);
  p = p * r + ALL(8.3334519073e-3);
  p = p * r + ALL(4.1665795894e-2);
  p = p * r + ALL(1.6666665459e-1);
  p = p * r + ALL(5.0000001201e-1);
  V power = (V)((n + 127) << 23);
  return power * (p * r * r + r) + (power - ALL(1));
#endif
}

static inline V NAME(selu)(V x) {
  V zero = {};
  V below = NAME(expm1)(NAME(chosen)(x < zero, x, zero)) * ALL(SELU_ALPHA * SELU_SCALE);
  I number = x == x; /* a NaN stays one */
  return NAME(chosen)(~number, x, NAME(chosen)(x > zero, x * ALL(SELU_SCALE), below));
}

/* the gradient by x of out = SELU(x) */
static inline V NAME(before_selu)(V grad, V out) {
  V zero = {};
  return NAME(chosen)(out > zero, grad * ALL(SELU_SCALE), grad * (out + ALL(SELU_ALPHA * SELU_SCALE)));
}

/* The larger one of best and x, and its place; NaN wins, so that a training that diverges is seen to. */
#define LARGER(best, place, x, number)                                   \
  {                                                                      \
    I more_ = ((x) > best) | ((x) != (x));                               \
    best = NAME(chosen)(more_, (x), best);                               \
    place = (place & ~more_) | (more_ & (number));                       \
  }

/* Two vectors of places as bytes, one behind the other. */
static inline void NAME(store_places)(uint8_t *to, I first, I second) {
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(IS_DOUBLE)
  /* GCC takes such vectors apart, number by number. */
  __m256i words = _mm256_packs_epi32((__m256i)first, (__m256i)second); /* four of each, and four of each */
  __m256i bytes = _mm256_packus_epi16(words, words);
  bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
  _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(bytes));
#else
  *(NAME(bytes) *)to = __builtin_convertvector(first, NAME(bytes));
  *(NAME(bytes) *)(to + N) = __builtin_convertvector(second, NAME(bytes));
#endif
}

/* Where the image at a corner (hpo/training/windows.py: 11 x 11 of each image) begins among the padded ones. */
static inline const REAL *NAME(at_corner)(const REAL *padded, int64_t corner) {
  return padded + corner / 121 * 256 + corner % 121 / 11 * 16 + corner % 11;
}

/* out (P, B, 25, 32), route the same; weight (P, 32, C, 5, 5) and bias (P, 32), a lane's are so far apart; corners
   (P, B, C), below `limit` and with the whole image behind them: 1 where one is not, and nothing is done. */
int NAME(window_forward)(const REAL *padded, const int64_t *corners, int64_t limit, const REAL *weight,
                         int64_t weight_stride, const REAL *bias, int64_t bias_stride, REAL *out, uint8_t *route,
                         int64_t lanes, int64_t images, int64_t channels) {
  for (int64_t i = 0; i < lanes * images * channels; i++)
    if (corners[i] < 0 || corners[i] >= limit || corners[i] % 121 / 11 > 2 || corners[i] % 11 > 2) return 1;
  for (int64_t lane = 0; lane < lanes; lane++, weight += weight_stride, bias += bias_stride) {
    REAL packed[2 * 25 * 32]; /* (C, 5, 5, 32) */
    for (int o = 0; o < 32; o++)
      for (int t = 0; t < channels * 25; t++) packed[t * 32 + o] = weight[o * channels * 25 + t];
    for (int h = 0; h < 32; h += 2 * N) {
      V b0 = LOAD(bias + h), b1 = LOAD(bias + h + N);
      for (int64_t i = lane * images; i < (lane + 1) * images; i++)
        for (int q = 0; q < 25; q++) {
          V s00 = {}, s01 = {}, s10 = {}, s11 = {}, s20 = {}, s21 = {}, s30 = {}, s31 = {};
          for (int c = 0; c < channels; c++) {
            const REAL *p = NAME(at_corner)(padded, corners[i * channels + c]) + q / 5 * 32 + q % 5 * 2;
            const REAL *w = packed + c * 25 * 32 + h;
            for (int ky = 0; ky < 5; ky++, p += 16)
#pragma GCC unroll 5
              for (int kx = 0; kx < 5; kx++, w += 32) {
                V w0 = LOAD(w), w1 = LOAD(w + N);
                V x0 = ALL(p[kx]), x1 = ALL(p[kx + 1]), x2 = ALL(p[16 + kx]), x3 = ALL(p[17 + kx]);
                s00 += x0 * w0, s01 += x0 * w1, s10 += x1 * w0, s11 += x1 * w1;
                s20 += x2 * w0, s21 += x2 * w1, s30 += x3 * w0, s31 += x3 * w1;
              }
          }
          I k0 = {}, k1 = {};
          LARGER(s00, k0, s10, 1) LARGER(s00, k0, s20, 2) LARGER(s00, k0, s30, 3)
          LARGER(s01, k1, s11, 1) LARGER(s01, k1, s21, 2) LARGER(s01, k1, s31, 3)
          int64_t to = (i * 25 + q) * 32 + h;
          STORE(out + to, NAME(selu)(s00 + b0));
          STORE(out + to + N, NAME(selu)(s01 + b1));
          NAME(store_places)(route + to, k0, k1);
        }
    }
  }
  return 0;
}

/* Gradients weight (P, 32, C, 5, 5) and bias (P, 32), set, from grad (P, B, 25, 32); the corners are those of the forward.

   A channel's gradient goes to one place of four: so for each channel and position the row of five pixels that lies
   there is loaded (with three more, which are not used), five times for the kernel's rows. It goes by BLOCK images, so
   that what is read for each channel anew stays in the first cache. */
#define BLOCK 4
typedef REAL NAME(eight) __attribute__((vector_size(8 * sizeof(REAL)), aligned(sizeof(REAL))));
void NAME(window_backward)(const REAL *padded, const int64_t *corners, const REAL *grad, const REAL *out,
                           const uint8_t *route, REAL *weight, REAL *bias, int64_t lanes, int64_t images,
                           int64_t channels) {
  static const int beside[4] = {0, 1, 16, 17};
  for (int64_t lane = 0; lane < lanes; lane++, weight += 32 * channels * 25, bias += 32) {
    NAME(eight) sums[2][32][5];
    memset(sums, 0, sizeof sums);
    V totals[32 / N];
    memset(totals, 0, sizeof totals);
    for (int64_t from = lane * images; from < (lane + 1) * images; from += BLOCK) {
      int count = (int)((lane + 1) * images - from < BLOCK ? (lane + 1) * images - from : BLOCK) * 25;
      REAL before[BLOCK * 25][32]; /* the gradient before SELU */
      const REAL *at[2][BLOCK * 25];
      const uint8_t *places = route + from * 25 * 32;
      for (int k = 0; k < count; k++) {
        int64_t row = (from * 25 + k) * 32;
        for (int h = 0; h < 32; h += N) {
          V g = NAME(before_selu)(LOAD(grad + row + h), LOAD(out + row + h));
          totals[h / N] += g;
          STORE(before[k] + h, g);
        }
        for (int c = 0; c < channels; c++)
          at[c][k] = NAME(at_corner)(padded, corners[(from + k / 25) * channels + c]) + k % 25 / 5 * 32 + k % 5 * 2;
      }
      for (int c = 0; c < channels; c++)
        for (int o = 0; o < 32; o++) {
          NAME(eight) s0 = sums[c][o][0], s1 = sums[c][o][1], s2 = sums[c][o][2], s3 = sums[c][o][3], s4 = sums[c][o][4];
          for (int k = 0; k < count; k++) {
            const REAL *p = at[c][k] + beside[places[k * 32 + o]];
            NAME(eight) g = before[k][o] - (NAME(eight)){};
            s0 += g * *(const NAME(eight) *)p;
            s1 += g * *(const NAME(eight) *)(p + 16);
            s2 += g * *(const NAME(eight) *)(p + 32);
            s3 += g * *(const NAME(eight) *)(p + 48);
            s4 += g * *(const NAME(eight) *)(p + 64);
          }
          sums[c][o][0] = s0, sums[c][o][1] = s1, sums[c][o][2] = s2, sums[c][o][3] = s3, sums[c][o][4] = s4;
        }
    }
    for (int h = 0; h < 32; h += N) STORE(bias + h, totals[h / N]);
    for (int o = 0; o < 32; o++)
      for (int c = 0; c < channels; c++)
        for (int t = 0; t < 25; t++) weight[(o * channels + c) * 25 + t] = sums[c][o][t / 5][t % 5];
  }
}
#undef BLOCK

/* out, route (P, B, 64) of x (P, B, 25, 32); weight (P, 64, 32, 3, 3) and bias (P, 64), a lane's are so far apart; packed
   (P, 64, 9, 32) is set to the weights with the input's channels last, for the backward. */
void NAME(convolution_forward)(const REAL *x, const REAL *weight, int64_t weight_stride, const REAL *bias,
                               int64_t bias_stride, REAL *packed, REAL *out, uint8_t *route, int64_t lanes,
                               int64_t images) {
  for (int64_t lane = 0; lane < lanes; lane++, weight += weight_stride, bias += bias_stride, packed += 64 * 288) {
    REAL columns[288 * COLUMNS * N];
    for (int o = 0; o < 64; o++)
      for (int c = 0; c < 32; c++)
        for (int t = 0; t < 9; t++) packed[o * 288 + t * 32 + c] = weight[(o * 32 + c) * 9 + t];
    for (int h = 0; h < 64; h += COLUMNS * N) {
      for (int o = 0; o < COLUMNS * N; o++)
        for (int t = 0; t < 288; t++) columns[t * COLUMNS * N + o] = packed[(h + o) * 288 + t];
      for (int64_t i = lane * images; i < (lane + 1) * images; i++) {
        V best[COLUMNS];
        I place[COLUMNS];
        for (int u = 0; u < COLUMNS; u++) best[u] = ALL(-INFINITY), place[u] = (I){};
        for (int top = 0; top < 3; top += TALL) {
          V sums[TALL * 3][COLUMNS];
#pragma GCC unroll 9
          for (int s = 0; s < TALL * 3; s++)
#pragma GCC unroll 4
            for (int u = 0; u < COLUMNS; u++) sums[s][u] = (V){};
          const REAL *w = columns;
          for (int ky = 0; ky < 3; ky++) {
            const REAL *p = x + i * 800 + (top + ky) * 160;
            for (int j = 0; j < 96; j++, w += COLUMNS * N) {
              V values[TALL * 3];
#pragma GCC unroll 9
              for (int s = 0; s < TALL * 3; s++) values[s] = ALL(p[s / 3 * 160 + s % 3 * 32 + j]);
#pragma GCC unroll 4
              for (int u = 0; u < COLUMNS; u++) {
                V of = LOAD(w + u * N);
#pragma GCC unroll 9
                for (int s = 0; s < TALL * 3; s++) sums[s][u] += values[s] * of;
              }
            }
          }
#pragma GCC unroll 4
          for (int u = 0; u < COLUMNS; u++)
#pragma GCC unroll 9
            for (int s = 0; s < TALL * 3; s++) LARGER(best[u], place[u], sums[s][u], top * 3 + s)
        }
        for (int u = 0; u < COLUMNS; u++) {
          int64_t to = i * 64 + h + u * N;
          STORE(out + to, NAME(selu)(best[u] + LOAD(bias + h + u * N)));
          if (u % 2) NAME(store_places)(route + to - N, place[u - 1], place[u]);
        }
      }
    }
  }
}

/* dx (P, B, 25, 32), weight (P, 64, 32, 3, 3), bias (P, 64), set, from grad (P, B, 64); before is set to that before SELU.

   It goes by SOME images, which with their gradients stay in the first cache, and for each channel adds to its sums and
   to their gradients: the weights and the sums come from the second cache once for all of them. */
#define SOME 4
void NAME(convolution_backward)(const REAL *x, const REAL *packed, const REAL *grad, const REAL *out,
                                const uint8_t *route, REAL *before, REAL *dx, REAL *weight, REAL *bias, int64_t lanes,
                                int64_t images) {
  for (int64_t lane = 0; lane < lanes; lane++, packed += 64 * 288, weight += 64 * 288, bias += 64) {
    int64_t from = lane * images, to = from + images;
    REAL totals[64 * 288]; /* (64, 3, 3, 32) */
    memset(totals, 0, sizeof totals);
    for (int h = 0; h < 64; h += N) {
      V total = {};
      for (int64_t i = from; i < to; i++) {
        V g = NAME(before_selu)(LOAD(grad + i * 64 + h), LOAD(out + i * 64 + h));
        STORE(before + i * 64 + h, g);
        total += g;
      }
      STORE(bias + h, total);
    }
    for (int64_t next = from; next < to; next += SOME) {
      int64_t end = next + SOME < to ? next + SOME : to;
      memset(dx + next * 800, 0, (size_t)(end - next) * 800 * sizeof(REAL));
      for (int o = 0; o < 64; o++)
        for (int ky = 0; ky < 3; ky += ROWS) {
          V sums[ROWS * 96 / N];
          REAL *total = totals + o * 288 + ky * 96;
          const REAL *w = packed + o * 288 + ky * 96;
#pragma GCC unroll 24
          for (int t = 0; t < ROWS * 96 / N; t++) sums[t] = LOAD(total + t * N);
          for (int64_t i = next; i < end; i++) {
            int s = route[i * 64 + o];
            int64_t at = i * 800 + (s / 3 + ky) * 160 + s % 3 * 32;
            const REAL *p = x + at;
            REAL *d = dx + at;
            V g = ALL(before[i * 64 + o]);
#pragma GCC unroll 24
            for (int t = 0; t < ROWS * 96 / N; t++) {
              int place = t / (96 / N) * 160 + t % (96 / N) * N;
              sums[t] += g * LOAD(p + place);
              STORE(d + place, LOAD(d + place) + g * LOAD(w + t * N));
            }
          }
#pragma GCC unroll 24
          for (int t = 0; t < ROWS * 96 / N; t++) STORE(total + t * N, sums[t]);
        }
    }
    for (int o = 0; o < 64; o++)
      for (int c = 0; c < 32; c++)
        for (int t = 0; t < 9; t++) weight[(o * 32 + c) * 9 + t] = totals[o * 288 + t * 32 + c];
  }
}
#undef SOME

/* y (P, rows, features) becomes SELU(y), and out is that times mask, whose lanes are so far apart; without a mask (NULL)
   there is no out. */
void NAME(activate)(REAL *y, const REAL *mask, int64_t mask_stride, REAL *out, int64_t lanes, int64_t count) {
  for (int64_t lane = 0; lane < lanes; lane++, y += count, out += mask ? count : 0, mask += mask ? mask_stride : 0)
    for (int64_t i = 0; i < count; i += N) {
      if (i + N <= count) {
        V value = NAME(selu)(LOAD(y + i));
        STORE(y + i, value);
        if (mask) STORE(out + i, value * LOAD(mask + i));
        continue;
      }
      V value = {};
      for (int k = 0; i + k < count; k++) value[k] = y[i + k];
      value = NAME(selu)(value);
      for (int k = 0; i + k < count; k++) {
        y[i + k] = value[k];
        if (mask) out[i + k] = value[k] * mask[i + k];
      }
    }
}

/* The gradient before (P, rows, features) what `activate` has done, of grad (the same), and its sum over rows, bias
   (P, features). */
void NAME(before_activation)(const REAL *grad, const REAL *y, const REAL *mask, int64_t mask_stride, REAL *before,
                             REAL *bias, int64_t lanes, int64_t rows, int64_t features) {
  for (int64_t lane = 0; lane < lanes; lane++, bias += features, mask += mask ? mask_stride : 0) {
    memset(bias, 0, (size_t)features * sizeof(REAL));
    for (int64_t row = 0; row < rows; row++, grad += features, y += features, before += features) {
      const REAL *kept = mask ? mask + row * features : 0;
      int64_t i = 0;
      for (; i + N <= features; i += N) {
        V g = LOAD(grad + i);
        if (kept) g *= LOAD(kept + i);
        g = NAME(before_selu)(g, LOAD(y + i));
        STORE(before + i, g);
        STORE(bias + i, LOAD(bias + i) + g);
      }
      for (; i < features; i++) {
        REAL g = kept ? grad[i] * kept[i] : grad[i];
        g *= y[i] > 0 ? (REAL)SELU_SCALE : y[i] + (REAL)(SELU_ALPHA * SELU_SCALE);
        before[i] = g;
        bias[i] += g;
      }
    }
  }
}

/* Masks (P, 4 * words) from keys (P,), the least 16 bits that are kept (P,) and the scale of what is (P,). */
void NAME(keep_masks)(const int64_t *keys, const int16_t *least, const float *scale, REAL *masks, int64_t lanes,
                      int64_t words) {
  for (int64_t lane = 0; lane < lanes; lane++) {
    uint64_t key = (uint64_t)keys[lane];
    int16_t from = least[lane];
    REAL kept = scale[lane];
    for (int64_t i = 0; i < words; i++, masks += 4) {
      uint64_t z = mixed(key + (uint64_t)(i + 1) * 0x9E3779B97F4A7C15u);
      for (int quarter = 0; quarter < 4; quarter++) masks[quarter] = (int16_t)(z >> 16 * quarter) >= from ? kept : 0;
    }
  }
}

/* A step of Adam with coupled weight decay on (P, n), rates and epsilons with the bias corrections taken in (P,). */
void NAME(adam)(REAL *parameters, const REAL *gradient, REAL *first, REAL *second, const REAL *rate, const REAL *eps,
                const REAL *decay, int64_t lanes, int64_t n) {
  for (int64_t lane = 0; lane < lanes; lane++, parameters += n, gradient += n, first += n, second += n) {
    REAL r = rate[lane], e = eps[lane], d = decay[lane];
    for (int64_t i = 0; i < n; i++) {
      REAL g = gradient[i] + d * parameters[i];
      REAL m = first[i] + (REAL)(1 - 0.9) * (g - first[i]);
      REAL v = (REAL)0.999 * second[i] + (REAL)(1 - 0.999) * g * g;
      first[i] = m;
      second[i] = v;
#ifdef IS_DOUBLE
      parameters[i] -= r * m / (sqrt(v) + e);
#else
      parameters[i] -= r * m / (sqrtf(v) + e);
#endif
    }
  }
}

#undef V
#undef I
#undef N
#undef LOAD
#undef STORE
#undef ALL
#undef LARGER
#undef SELU_ALPHA
#undef SELU_SCALE
