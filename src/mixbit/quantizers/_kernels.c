/* The fake-quantize operator for CPU, one pass over memory forward and one backward.
 *
 * Forward:   q = clamp(rint(x / s) + z, qmin, qmax),  y = s * (q - z)
 * Backward:  dy/dx = 1 strictly inside the range, else 0
 *            dy/ds = rint(v) - v inside (v = x / s),  q - z at the bounds
 *            dy/dz = 0 inside,  -s at the bounds
 *
 * The sums over dy/ds and dy/dz are multiplied by 1 / sqrt(count * qmax), LSQ's gradient scale; count 0 means 1.
 *
 * A tensor is `channels` runs of `inner` contiguous elements, each run with a step and a zero point of its own (one run for a
 * per-tensor quantizer), and with a range of its own where `ranges` is 1 (samples of a batch at several bit-widths), else
 * (0) all with the first. Division, not multiplication by 1 / s: rounding ties fall where they fall in PyTorch. Partial sums
 * belong to fixed blocks and are added in order, so results do not depend on the number of threads. `gx` may be `g` itself.
 *
 * Built without linking an OpenMP runtime on purpose: the symbols come from the one that PyTorch has loaded, so that both share
 * one thread pool.
 */
#include <stdint.h>
#include <string.h>

#define BLOCK 8192 /* elements of one partial sum: 32 KiB of floats, which stays in the first-level cache */

#ifndef MULTIVERSION /* given empty, the file is compiled for one instruction set alone, as tests of each of them need */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MULTIVERSION
#endif
#endif

typedef uint16_t bf16;

static inline float load_f32(float v) { return v; }
static inline float store_f32(float v) { return v; }

static inline float load_bf16(bf16 v) {
    union { uint32_t u; float f; } w;
    w.u = (uint32_t)v << 16;
    return w.f;
}

static inline bf16 store_bf16(float v) { /* to nearest, ties to even; a NaN stays a NaN */
    union { float f; uint32_t u; } w;
    w.f = v;
    uint32_t rounded = (w.u + 0x7fffu + ((w.u >> 16) & 1u)) >> 16;
    return v != v ? (bf16)0x7fc0 : (bf16)rounded;
}

#define DEFINE(T, NAME)                                                                                                        \
    MULTIVERSION static void forward_block_##NAME(const T *restrict x, T *restrict y, int64_t n, float s, float z, float lo,   \
                                                  float hi) {                                                                  \
        _Pragma("omp simd") for (int64_t i = 0; i < n; i++) {                                                                  \
            float q = __builtin_rintf(load_##NAME(x[i]) / s) + z;                                                              \
            q = q < lo ? lo : q;                                                                                               \
            q = q > hi ? hi : q;                                                                                               \
            y[i] = store_##NAME(s * (q - z));                                                                                  \
        }                                                                                                                      \
    }                                                                                                                          \
    void mixbit_forward_##NAME(const T *x, T *y, const float *step, const float *zero, const float *qmin,                      \
                               const float *qmax, int64_t channels, int64_t inner, int64_t ranges) {                           \
        int64_t per = (inner + BLOCK - 1) / BLOCK, blocks = channels * per;                                                    \
        _Pragma("omp parallel for schedule(static) if (channels * inner > 32768)") for (int64_t b = 0; b < blocks; b++) {      \
            int64_t c = b / per, from = (b % per) * BLOCK, n = inner - from < BLOCK ? inner - from : BLOCK;                    \
            float lo = qmin[c * ranges], hi = qmax[c * ranges];                                                                \
            forward_block_##NAME(x + c * inner + from, y + c * inner + from, n, step[c], zero[c], lo, hi);                     \
        }                                                                                                                      \
    }                                                                                                                          \
    MULTIVERSION static void backward_block_##NAME(const T *g, const T *restrict x, T *gx, int64_t n,                          \
                                                   float s, float z, float lo, float hi, float *gs, float *gz) {               \
        float sum_s = 0.0f, sum_z = 0.0f;                                                                                      \
        _Pragma("omp simd reduction(+ : sum_s, sum_z)") for (int64_t i = 0; i < n; i++) {                                      \
            float up = load_##NAME(g[i]), v = load_##NAME(x[i]) / s, p = v + z;                                                \
            int below = p <= lo, above = p >= hi, out = below | above;                                                         \
            float edge = below ? lo - z : hi - z;                                                                              \
            sum_s += up * (out ? edge : __builtin_rintf(v) - v);                                                               \
            sum_z += out ? up : 0.0f;                                                                                          \
            gx[i] = store_##NAME(out ? 0.0f : up);                                                                             \
        }                                                                                                                      \
        *gs = sum_s;                                                                                                           \
        *gz = -s * sum_z;                                                                                                      \
    }                                                                                                                          \
    void mixbit_backward_##NAME(const T *g, const T *x, T *gx, const float *step, const float *zero, const float *qmin,        \
                                const float *qmax, int64_t channels, int64_t inner, int64_t ranges, int64_t count,             \
                                float *partial, float *gs, float *gz) {                                                        \
        int64_t per = (inner + BLOCK - 1) / BLOCK, blocks = channels * per;                                                    \
        _Pragma("omp parallel for schedule(static) if (channels * inner > 32768)") for (int64_t b = 0; b < blocks; b++) {      \
            int64_t c = b / per, from = (b % per) * BLOCK, at = c * inner + from;                                              \
            int64_t n = inner - from < BLOCK ? inner - from : BLOCK;                                                           \
            float lo = qmin[c * ranges], hi = qmax[c * ranges];                                                                \
            backward_block_##NAME(g + at, x + at, gx + at, n, step[c], zero[c], lo, hi, partial + 2 * b, partial + 2 * b + 1); \
        }                                                                                                                      \
        for (int64_t c = 0; c < channels; c++) {                                                                               \
            double scale = count > 0 ? 1.0 / __builtin_sqrt((double)count * qmax[c * ranges]) : 1.0;                           \
            double sum_s = 0.0, sum_z = 0.0;                                                                                   \
            for (int64_t b = c * per; b < (c + 1) * per; b++) sum_s += partial[2 * b], sum_z += partial[2 * b + 1];            \
            gs[c] = (float)(sum_s * scale);                                                                                    \
            gz[c] = (float)(sum_z * scale);                                                                                    \
        }                                                                                                                      \
    }

/* What `_native.py` expects of the functions above; another number is a library of another version of mixbit. */
int64_t mixbit_kernels(void) { return 2; }

/* The backward pass needs room for two partial sums a block, and no block spans two channels. */
int64_t mixbit_block(void) { return BLOCK; }

DEFINE(float, f32)
DEFINE(bf16, bf16)
