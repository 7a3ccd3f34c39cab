/* What all kernels share. */
#ifndef MIXBIT_INLINE_H
#define MIXBIT_INLINE_H

#include <stdint.h>

#include "mixbit_config.h"
#include "mixbit_kernels.h"

/* Both are left to the compiler by the C standard; every compiler for every core that we know of does this. */
typedef char mixbit_right_shifts_are_arithmetic[((-3) >> 1) == -2 ? 1 : -1];
typedef char mixbit_conversions_wrap[(int32_t)UINT32_C(0xFFFFFFFF) == -1 ? 1 : -1];

/* The field of `bits` bits above the lowest `low` ones of a byte, as a signed number. */
static inline int32_t mixbit_field(uint32_t byte, uint32_t low, uint32_t bits)
{
    return (int32_t)(byte << (32u - low - bits)) >> (32u - bits);
}

/* Element of a tensor that is stored in 16, 8, 4 or 2 bits. */
static inline int32_t mixbit_get(const int8_t *x, uint32_t at, uint32_t bits)
{
#if MIXBIT_WIDE_ACTIVATIONS
    if (bits == 16u) {
        const uint8_t *bytes = (const uint8_t *)x + 2u * at;
        return (int16_t)(uint16_t)(bytes[0] | (uint32_t)bytes[1] << 8);
    }
#endif
#if MIXBIT_PACKED_ACTIVATIONS
    if (bits != 8u) {
        const uint32_t bit = at * bits;
        return mixbit_field((uint8_t)x[bit >> 3], bit & 7u, bits);
    }
#else
    (void)bits;
#endif
    return x[at];
}

static inline void mixbit_put(int8_t *y, uint32_t at, uint32_t bits, int32_t value)
{
#if MIXBIT_WIDE_ACTIVATIONS
    if (bits == 16u) {
        uint8_t *bytes = (uint8_t *)y + 2u * at;
        bytes[0] = (uint8_t)((uint32_t)value & 255u);
        bytes[1] = (uint8_t)((uint32_t)value >> 8 & 255u);
        return;
    }
#endif
#if MIXBIT_PACKED_ACTIVATIONS
    if (bits != 8u) {
        const uint32_t bit = at * bits, mask = ((1u << bits) - 1u) << (bit & 7u);
        const uint32_t old = (uint8_t)y[bit >> 3], new_field = ((uint32_t)value << (bit & 7u)) & mask;
        y[bit >> 3] = (int8_t)(uint8_t)((old & ~mask) | new_field);
        return;
    }
#else
    (void)bits;
#endif
    y[at] = (int8_t)value;
}

static inline int32_t mixbit_clamp(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* floor(a m / 2^(31 - e) + 1/2) */
static inline int32_t mixbit_scale_single(int32_t a, int32_t multiplier, int32_t exponent)
{
    const int32_t shift = 31 - exponent;
    return (int32_t)(((int64_t)a * multiplier + ((int64_t)1 << (shift - 1))) >> shift);
}

/* The high half of 2 (a << left) m with a nudge and a division towards zero, then a shift with ties away from zero. */
static inline int32_t mixbit_scale_double(int32_t a, int32_t multiplier, int32_t exponent)
{
    const int32_t left = exponent > 0 ? exponent : 0, right = exponent > 0 ? 0 : -exponent;
    const int64_t product = (int64_t)(int32_t)((uint32_t)a << left) * multiplier;
    const int64_t nudge = product >= 0 ? (int64_t)1 << 30 : 1 - ((int64_t)1 << 30);
    const int32_t high = (int32_t)((product + nudge) / ((int64_t)1 << 31));
    const int32_t mask = (int32_t)(((uint32_t)1 << right) - 1u);
    const int32_t rest = high & mask, threshold = (mask >> 1) + (high < 0 ? 1 : 0);
    return (high >> right) + (rest > threshold ? 1 : 0);
}

/* a m / 2^(31 - e) to the nearest, ties away from zero */
static inline int32_t mixbit_scale_away(int32_t a, int32_t multiplier, int32_t exponent)
{
    const int32_t shift = 31 - exponent;
    const int64_t product = (int64_t)a * multiplier;
    return (int32_t)((product + ((int64_t)1 << (shift - 1)) - (product < 0 ? 1 : 0)) >> shift);
}

static inline int32_t mixbit_scale(int32_t a, int32_t multiplier, int32_t exponent, uint32_t rounding)
{
#if MIXBIT_ROUNDING_DOUBLE
    if (rounding == MIXBIT_DOUBLE) {
        return mixbit_scale_double(a, multiplier, exponent);
    }
#endif
#if MIXBIT_ROUNDING_AWAY
    if (rounding == MIXBIT_AWAY) {
        return mixbit_scale_away(a, multiplier, exponent);
    }
#endif
    (void)rounding;
    return mixbit_scale_single(a, multiplier, exponent);
}

/* What becomes of the sum of products of one output channel; `at` is its place in y. */
static inline void mixbit_store(const mixbit_rows *rows, uint32_t channel, int32_t sum, void *y, uint32_t at,
                                uint32_t y_bits)
{
    const int32_t acc = (int32_t)((uint32_t)sum << rows->shift) + rows->bias[channel];
    int32_t value;
    if (rows->multiplier == 0) {
        ((int32_t *)y)[at] = acc;
        return;
    }
    value = mixbit_scale(acc, rows->multiplier[channel], rows->exponent[channel], rows->rounding);
    mixbit_put((int8_t *)y, at, y_bits, mixbit_clamp(value + rows->zero, rows->low, rows->high));
}

/* Sum of products of `count` packed weights, from a byte's first bit on, with a column of inputs. */
typedef int32_t (*mixbit_dot)(const uint8_t *weights, const int8_t *x, uint32_t count);

mixbit_dot mixbit_dot_of(uint32_t bits);

/* `count` packed fields from field number `first` on, each to a byte. */
void mixbit_unpack(const uint8_t *packed, uint32_t first, uint32_t count, uint32_t bits, int8_t *y);

/* All outputs of one place: rows `first` to before `first + count` with one column, into y from `at` on. */
void mixbit_rows_times(const mixbit_rows *rows, uint32_t first, uint32_t count, const int8_t *column, uint32_t length,
                       void *y, uint32_t at, uint32_t y_stride, uint32_t y_bits);

#endif
