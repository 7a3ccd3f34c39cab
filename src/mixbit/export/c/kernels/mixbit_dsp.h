/* Two 16-bit products at once: what the kernels for Cortex-M4, M7 and M33 share (the DSP extension of Armv7E-M).
 *
 * A column of inputs is expanded once, from int8_t to pairs of int16_t, and then multiplied with every row of weights.
 * Weights of 4, 2 and 1 bits are not sign-extended one by one. A word with its sign bits turned over holds
 * w + 2^(bits - 1), and one AND with a shifted operand takes two of them out, 16 bits apart. What was added to the
 * weights costs 2^(bits - 1) times the sum of the column, which the accumulators start from. So the pairs of a column are
 * in the order in which its width of weights comes out of a word:
 *   8 bits: (0, 2) (1, 3)              as SXTB16 takes a word apart
 *   4 bits: (0, 4) (1, 5) (2, 6) (3, 7)
 *   2 bits: (0, 8) (1, 9) ... (7, 15)  and 1 bit, whose two bytes go to the halves of a word
 *   other:  (0, 2) (1, 3)              weights are taken out by SBFX and put together by PKHBT
 */
#ifndef MIXBIT_DSP_H
#define MIXBIT_DSP_H

#include <string.h>

#include "mixbit_inline.h"

#if MIXBIT_DSP

/* Columns are padded with zeros to whole groups, so that no loop needs a tail. */
#define MIXBIT_GROUP 16u

static inline uint32_t mixbit_groups(uint32_t length)
{
    return (length + MIXBIT_GROUP - 1u) / MIXBIT_GROUP;
}

static inline uint32_t mixbit_word(const void *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word); /* one LDR, aligned or not */
    return word;
}

static inline int32_t mixbit_smlad(uint32_t a, uint32_t b, int32_t sum)
{
    int32_t result;
    __asm__("smlad %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
    return result;
}

/* Bytes 0 and 2 of a word, as two signed halfwords. */
static inline uint32_t mixbit_even_bytes(uint32_t word)
{
    uint32_t result;
    __asm__("sxtb16 %0, %1" : "=r"(result) : "r"(word));
    return result;
}

/* Bytes 1 and 3. */
static inline uint32_t mixbit_odd_bytes(uint32_t word)
{
    uint32_t result;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(result) : "r"(word));
    return result;
}

/* The lower halves of two words, and the upper halves; the second word's on top. */
static inline uint32_t mixbit_lower_halves(uint32_t a, uint32_t b)
{
    uint32_t result;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(result) : "r"(a), "r"(b));
    return result;
}

static inline uint32_t mixbit_upper_halves(uint32_t a, uint32_t b)
{
    uint32_t result;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(result) : "r"(b), "r"(a));
    return result;
}

/* floor(a m / 2^shift + 1/2) for shifts from 33 on: the lower half of the product cannot reach the result. */
static inline int32_t mixbit_scale_high(int32_t a, int32_t multiplier, uint32_t shift)
{
    const int32_t high = (int32_t)(((int64_t)a * multiplier) >> 32);
    return (high + (int32_t)(1u << (shift - 33u))) >> (shift - 32u);
}

/* As mixbit_store, in a function of its own: it would take the registers of the loops around it. */
void mixbit_store_any(const mixbit_rows *rows, uint32_t channel, int32_t sum, void *y, uint32_t at, uint32_t y_bits);

/* Whether mixbit_finish may be used for a channel: results of 8 bits, and a factor below 1/4. */
static inline int mixbit_is_fast(const mixbit_rows *rows, uint32_t channel, uint32_t y_bits)
{
    return y_bits == 8u && rows->multiplier != 0 && rows->rounding == MIXBIT_SINGLE && rows->exponent[channel] < -1;
}

static inline int8_t mixbit_finish(const mixbit_rows *rows, int32_t sum, int32_t bias, int32_t multiplier, uint32_t right)
{
    const int32_t acc = (int32_t)((uint32_t)sum << rows->shift) + bias;
    return (int8_t)mixbit_clamp(mixbit_scale_high(acc, multiplier, right) + rows->zero, rows->low, rows->high);
}

/* The results of one output channel in one place or two. */
static inline void mixbit_store_row(const mixbit_rows *rows, uint32_t channel, const int32_t *sums, uint32_t count,
                                    void *y, const uint32_t *at, uint32_t place, uint32_t y_bits)
{
    if (mixbit_is_fast(rows, channel, y_bits)) {
        const uint32_t right = (uint32_t)(31 - rows->exponent[channel]);
        const int32_t bias = rows->bias[channel], multiplier = rows->multiplier[channel];
        int8_t *const to = (int8_t *)y + place;
        to[at[0]] = mixbit_finish(rows, sums[0], bias, multiplier, right);
        if (count == 2u) {
            to[at[1]] = mixbit_finish(rows, sums[1], bias, multiplier, right);
        }
    } else {
        mixbit_store_any(rows, channel, sums[0], y, at[0] + place, y_bits);
        if (count == 2u) {
            mixbit_store_any(rows, channel, sums[1], y, at[1] + place, y_bits);
        }
    }
}

/* One column or two, expanded. */
typedef struct {
    uint32_t *pairs; /* pair 0 of the first column, of the second, pair 1 of the first, ... */
    uint32_t groups; /* of 16 inputs */
    int32_t start[2]; /* of the accumulators of each column */
} mixbit_columns;

/* `inputs` holds the columns one after the other, each padded to whole groups. */
void mixbit_expand(mixbit_columns *columns, const int8_t *inputs, uint32_t count, uint32_t bits);

/* Sums of products of two rows with the columns: sum[row][column]. */
typedef void (*mixbit_block)(const uint8_t *first, const uint8_t *second, uint32_t length, const mixbit_columns *columns,
                             int32_t sum[2][2]);

mixbit_block mixbit_block_of(uint32_t bits, uint32_t count);

/* Rows `first` to before `first + count` with the columns; y[at[column] + channel * y_stride] holds the results. */
void mixbit_rows_times_columns(const mixbit_rows *rows, uint32_t first, uint32_t count, uint32_t length,
                               const mixbit_columns *columns, uint32_t column_count, void *y, const uint32_t at[2],
                               uint32_t y_stride, uint32_t y_bits);

#endif
#endif
