/* Rows of packed weights times one or two columns, with two products an instruction. */
#include "mixbit_dsp.h"

#if MIXBIT_DSP

/* ------------------------------------------------------------------------------------------------ columns */

static inline int32_t sum_of(uint32_t pair, int32_t sum)
{
    return mixbit_smlad(pair, 0x00010001u, sum);
}

/* Four pairs of a column; the other column's lie between them. */
static inline int32_t put_pairs(uint32_t *pairs, uint32_t stride, uint32_t a, uint32_t b, int32_t sum)
{
    const uint32_t a_even = mixbit_even_bytes(a), b_even = mixbit_even_bytes(b);
    const uint32_t a_odd = mixbit_odd_bytes(a), b_odd = mixbit_odd_bytes(b);
    pairs[0] = mixbit_lower_halves(a_even, b_even);
    pairs[stride] = mixbit_lower_halves(a_odd, b_odd);
    pairs[2u * stride] = mixbit_upper_halves(a_even, b_even);
    pairs[3u * stride] = mixbit_upper_halves(a_odd, b_odd);
    return sum_of(b_odd, sum_of(b_even, sum_of(a_odd, sum_of(a_even, sum))));
}

/* Of the four words of a group, word 0 makes pairs with word SECOND, and word THIRD with word 3. */
#define EXPAND_FAR(NAME, STRIDE, SECOND, THIRD)                                                                        \
    static int32_t NAME(uint32_t *pairs, const int8_t *inputs, uint32_t groups)                                        \
    {                                                                                                                  \
        int32_t sum = 0;                                                                                               \
        for (; groups > 0u; groups--) {                                                                                \
            sum = put_pairs(pairs, STRIDE, mixbit_word(inputs), mixbit_word(inputs + 4 * (SECOND)), sum);              \
            pairs += 4 * (STRIDE);                                                                                     \
            sum = put_pairs(pairs, STRIDE, mixbit_word(inputs + 4 * (THIRD)), mixbit_word(inputs + 12), sum);          \
            pairs += 4 * (STRIDE);                                                                                     \
            inputs += MIXBIT_GROUP;                                                                                    \
        }                                                                                                              \
        return sum;                                                                                                    \
    }

#define EXPAND_NEAR(NAME, STRIDE)                                                                                      \
    static int32_t NAME(uint32_t *pairs, const int8_t *inputs, uint32_t groups)                                        \
    {                                                                                                                  \
        uint32_t words;                                                                                                \
        for (words = 4u * groups; words > 0u; words -= 2u) {                                                           \
            const uint32_t a = mixbit_word(inputs), b = mixbit_word(inputs + 4);                                       \
            pairs[0] = mixbit_even_bytes(a);                                                                           \
            pairs[STRIDE] = mixbit_odd_bytes(a);                                                                       \
            pairs[2 * (STRIDE)] = mixbit_even_bytes(b);                                                                \
            pairs[3 * (STRIDE)] = mixbit_odd_bytes(b);                                                                 \
            inputs += 8;                                                                                               \
            pairs += 4 * (STRIDE);                                                                                     \
        }                                                                                                              \
        return 0;                                                                                                      \
    }

EXPAND_NEAR(expand_near_1, 1)
EXPAND_NEAR(expand_near_2, 2)
#if MIXBIT_WEIGHTS_4
EXPAND_FAR(expand_4_1, 1, 1, 2)
EXPAND_FAR(expand_4_2, 2, 1, 2)
#endif
#if MIXBIT_WEIGHTS_1 || MIXBIT_WEIGHTS_2
EXPAND_FAR(expand_2_1, 1, 2, 1)
EXPAND_FAR(expand_2_2, 2, 2, 1)
#endif

typedef int32_t (*expander)(uint32_t *pairs, const int8_t *inputs, uint32_t groups);

static expander expander_of(uint32_t bits, uint32_t count)
{
#if MIXBIT_WEIGHTS_4
    if (bits == 4u) {
        return count == 1u ? expand_4_1 : expand_4_2;
    }
#endif
#if MIXBIT_WEIGHTS_1 || MIXBIT_WEIGHTS_2
    if (bits <= 2u) {
        return count == 1u ? expand_2_1 : expand_2_2;
    }
#endif
    (void)bits;
    return count == 1u ? expand_near_1 : expand_near_2;
}

void mixbit_expand(mixbit_columns *columns, const int8_t *inputs, uint32_t count, uint32_t bits)
{
    const expander expand = expander_of(bits, count);
    uint32_t column;
    for (column = 0; column < count; column++) {
        const int32_t sum = expand(columns->pairs + column, inputs, columns->groups);
        columns->start[column] = -(int32_t)((uint32_t)sum << (bits - 1u));
        inputs += columns->groups * MIXBIT_GROUP;
    }
}

/* ------------------------------------------------------------------------- 16 weights of two rows times columns */

/* A pair of weights of each row, out of the words v and w, times the next pair of each column. TAKE is the text of the
 * instructions that take a pair out of a word into t. Assembly, because the order of the instructions is what makes it
 * fast: four sums, three pointers, two words, a mask, three temporaries and the end fill all 14 registers, and a compiler
 * that loads ahead must spill. */
#define TIMES_2(TAKE, LOW, HIGH, BITS)                                                                                 \
    {                                                                                                                  \
        uint32_t l, r, t;                                                                                              \
        __asm__ volatile(TAKE("%[v]") "ldrd %[l], %[r], [%[x]], #8\n\t"                                                \
                                      "smlad %[sum_0], %[t], %[l], %[sum_0]\n\t"                                       \
                                      "smlad %[sum_1], %[t], %[r], %[sum_1]\n\t" TAKE("%[w]")                          \
                                      "smlad %[sum_2], %[t], %[l], %[sum_2]\n\t"                                       \
                                      "smlad %[sum_3], %[t], %[r], %[sum_3]"                                           \
                         : [sum_0] "+r"(sum_0), [sum_1] "+r"(sum_1), [sum_2] "+r"(sum_2), [sum_3] "+r"(sum_3),         \
                           [x] "+r"(x), [m] "+r"(m), [l] "=&r"(l), [r] "=&r"(r), [t] "=&r"(t)                          \
                         : [v] "r"(v), [w] "r"(w), [low] "i"(LOW), [high] "i"(HIGH), [bits] "i"(BITS)                  \
                         : "memory");                                                                                  \
    }

/* The same with one column. */
#define TIMES_1(TAKE, LOW, HIGH, BITS)                                                                                 \
    {                                                                                                                  \
        uint32_t l, t;                                                                                                 \
        __asm__ volatile(TAKE("%[v]") "ldr %[l], [%[x]], #4\n\t"                                                       \
                                      "smlad %[sum_0], %[t], %[l], %[sum_0]\n\t" TAKE("%[w]")                          \
                                      "smlad %[sum_2], %[t], %[l], %[sum_2]"                                           \
                         : [sum_0] "+r"(sum_0), [sum_2] "+r"(sum_2), [x] "+r"(x), [m] "+r"(m), [l] "=&r"(l),           \
                           [t] "=&r"(t)                                                                                \
                         : [v] "r"(v), [w] "r"(w), [low] "i"(LOW), [high] "i"(HIGH), [bits] "i"(BITS)                  \
                         : "memory");                                                                                  \
    }

#define WORDS(OFFSET, SIGNS)                                                                                           \
    v = mixbit_word(first + (OFFSET)) ^ (SIGNS);                                                                       \
    w = mixbit_word(second + (OFFSET)) ^ (SIGNS);

/* 8 bits: the even or the odd bytes of a word. */
#define EVEN_BYTES(WORD) "sxtb16 %[t], " WORD "\n\t"
#define ODD_BYTES(WORD) "sxtb16 %[t], " WORD ", ror #8\n\t"
#define WORD_8(TIMES, OFFSET) WORDS(OFFSET, 0u) TIMES(EVEN_BYTES, 0, 0, 8) TIMES(ODD_BYTES, 0, 0, 8)
#define GROUP_8(TIMES) WORD_8(TIMES, 0) WORD_8(TIMES, 4) WORD_8(TIMES, 8) WORD_8(TIMES, 12)
#define MASK_8 0u

/* 4 and 2 bits: the mask leaves the lowest field of each half. */
#define MASKED(WORD) "and %[t], %[m], " WORD ", lsr %[low]\n\t"
#define PAIR_4(TIMES, LOW) TIMES(MASKED, LOW, 0, 4)
#define WORD_4(TIMES, OFFSET)                                                                                          \
    WORDS(OFFSET, 0x88888888u) PAIR_4(TIMES, 0) PAIR_4(TIMES, 4) PAIR_4(TIMES, 8) PAIR_4(TIMES, 12)
#define GROUP_4(TIMES) WORD_4(TIMES, 0) WORD_4(TIMES, 4)
#define MASK_4 0x000F000Fu

#define PAIR_2(TIMES, LOW) TIMES(MASKED, LOW, 0, 2)
#define GROUP_2(TIMES)                                                                                                 \
    WORDS(0, 0xAAAAAAAAu)                                                                                              \
    PAIR_2(TIMES, 0) PAIR_2(TIMES, 2) PAIR_2(TIMES, 4) PAIR_2(TIMES, 6)                                                \
    PAIR_2(TIMES, 8) PAIR_2(TIMES, 10) PAIR_2(TIMES, 12) PAIR_2(TIMES, 14)
#define MASK_2 0x00030003u

/* 1 bit: 16 fields, the lower eight spread to the bits from 1 on and the upper eight to those from 17 on, turned over. A
 * field of 0, which is the weight 1, so becomes 2 under the mask, and one of 1, which is -1, becomes 0: w + 1. */
#define SPREAD(BYTES) (((uint32_t)(BYTES)[0] << 1 | (uint32_t)(BYTES)[1] << 17) ^ 0x01FE01FEu)
#define GROUP_1(TIMES)                                                                                                 \
    v = SPREAD(first);                                                                                                 \
    w = SPREAD(second);                                                                                                \
    PAIR_2(TIMES, 0) PAIR_2(TIMES, 1) PAIR_2(TIMES, 2) PAIR_2(TIMES, 3)                                                \
    PAIR_2(TIMES, 4) PAIR_2(TIMES, 5) PAIR_2(TIMES, 6) PAIR_2(TIMES, 7)
#define MASK_1 0x00020002u

/* Other widths: two fields, each sign-extended; m is free. Four fields from bit BIT of a group on lie in one word, since
 * they are at most 4 + 28 bits, and no word reaches beyond its group. */
#define SIGNED(WORD)                                                                                                   \
    "sbfx %[t], " WORD ", %[low], %[bits]\n\t"                                                                         \
    "sbfx %[m], " WORD ", %[high], %[bits]\n\t"                                                                        \
    "pkhbt %[t], %[t], %[m], lsl #16\n\t"
#define PLACE(BITS, BIT) ((BIT) / 8 < 2 * (BITS) - 4 ? (BIT) / 8 : 2 * (BITS) - 4)
#define PAIR_N(TIMES, BITS, LOW) TIMES(SIGNED, LOW, (LOW) + 2 * (BITS), BITS)
#define FOUR_N(TIMES, BITS, BIT)                                                                                       \
    WORDS(PLACE(BITS, BIT), 0u)                                                                                        \
    PAIR_N(TIMES, BITS, (BIT) - 8 * PLACE(BITS, BIT))                                                                  \
    PAIR_N(TIMES, BITS, (BIT) - 8 * PLACE(BITS, BIT) + (BITS))
#define GROUP_N(TIMES, BITS)                                                                                           \
    FOUR_N(TIMES, BITS, 0) FOUR_N(TIMES, BITS, 4 * BITS) FOUR_N(TIMES, BITS, 8 * BITS) FOUR_N(TIMES, BITS, 12 * BITS)
#define GROUP_3(TIMES) GROUP_N(TIMES, 3)
#define GROUP_5(TIMES) GROUP_N(TIMES, 5)
#define GROUP_6(TIMES) GROUP_N(TIMES, 6)
#define GROUP_7(TIMES) GROUP_N(TIMES, 7)
#define MASK_3 0u
#define MASK_5 0u
#define MASK_6 0u
#define MASK_7 0u

/* The last weights of a row that are no whole group, so that a whole group can be read. */
static inline void copy_rest(const uint8_t *row, uint32_t length, uint32_t bits, uint32_t *rest)
{
    memset(rest, 0, 4u * sizeof *rest);
    memcpy(rest, row, (length * bits + 7u) / 8u);
}

#define BLOCK(NAME, BITS, TIMES)                                                                                       \
    static void NAME(const uint8_t *first, const uint8_t *second, uint32_t length, const mixbit_columns *columns,      \
                     int32_t sum[2][2])                                                                                \
    {                                                                                                                  \
        int32_t sum_0 = columns->start[0], sum_1 = columns->start[1], sum_2 = sum_0, sum_3 = sum_1;                    \
        const uint32_t *x = columns->pairs;                                                                            \
        const uint32_t rest = length % MIXBIT_GROUP;                                                                   \
        uint32_t v, w, m = MASK_##BITS;                                                                                \
        const uint8_t *const end = first + length / MIXBIT_GROUP * (2u * (BITS));                                      \
        while (first != end) {                                                                                         \
            GROUP_##BITS(TIMES)                                                                                        \
            first += 2 * (BITS);                                                                                       \
            second += 2 * (BITS);                                                                                      \
        }                                                                                                              \
        if (rest != 0u) {                                                                                              \
            uint32_t last[2][4];                                                                                       \
            copy_rest(first, rest, BITS, last[0]);                                                                     \
            copy_rest(second, rest, BITS, last[1]);                                                                    \
            first = (const uint8_t *)last[0];                                                                          \
            second = (const uint8_t *)last[1];                                                                         \
            GROUP_##BITS(TIMES)                                                                                        \
        }                                                                                                              \
        sum[0][0] = sum_0;                                                                                             \
        sum[0][1] = sum_1;                                                                                             \
        sum[1][0] = sum_2;                                                                                             \
        sum[1][1] = sum_3;                                                                                             \
    }

#define BLOCKS(BITS) BLOCK(block_##BITS##_1, BITS, TIMES_1) BLOCK(block_##BITS##_2, BITS, TIMES_2)

#if MIXBIT_WEIGHTS_1
BLOCKS(1)
#endif
#if MIXBIT_WEIGHTS_2
BLOCKS(2)
#endif
#if MIXBIT_WEIGHTS_3
BLOCKS(3)
#endif
#if MIXBIT_WEIGHTS_4
BLOCKS(4)
#endif
#if MIXBIT_WEIGHTS_5
BLOCKS(5)
#endif
#if MIXBIT_WEIGHTS_6
BLOCKS(6)
#endif
#if MIXBIT_WEIGHTS_7
BLOCKS(7)
#endif
#if MIXBIT_WEIGHTS_8
BLOCKS(8)
#endif

mixbit_block mixbit_block_of(uint32_t bits, uint32_t count)
{
    (void)count;
    switch (bits) {
#if MIXBIT_WEIGHTS_1
    case 1: return count == 1u ? block_1_1 : block_1_2;
#endif
#if MIXBIT_WEIGHTS_2
    case 2: return count == 1u ? block_2_1 : block_2_2;
#endif
#if MIXBIT_WEIGHTS_3
    case 3: return count == 1u ? block_3_1 : block_3_2;
#endif
#if MIXBIT_WEIGHTS_4
    case 4: return count == 1u ? block_4_1 : block_4_2;
#endif
#if MIXBIT_WEIGHTS_5
    case 5: return count == 1u ? block_5_1 : block_5_2;
#endif
#if MIXBIT_WEIGHTS_6
    case 6: return count == 1u ? block_6_1 : block_6_2;
#endif
#if MIXBIT_WEIGHTS_7
    case 7: return count == 1u ? block_7_1 : block_7_2;
#endif
#if MIXBIT_WEIGHTS_8
    case 8: return count == 1u ? block_8_1 : block_8_2;
#endif
    default: return 0;
    }
}

/* ------------------------------------------------------------------------------------------------- all rows */

void mixbit_store_any(const mixbit_rows *rows, uint32_t channel, int32_t sum, void *y, uint32_t at, uint32_t y_bits)
{
    mixbit_store(rows, channel, sum, y, at, y_bits);
}

void mixbit_rows_times_columns(const mixbit_rows *rows, uint32_t first, uint32_t count, uint32_t length,
                               const mixbit_columns *columns, uint32_t column_count, void *y, const uint32_t at[2],
                               uint32_t y_stride, uint32_t y_bits)
{
    const mixbit_block block = mixbit_block_of(rows->bits, column_count);
    const uint32_t end = first + count;
    uint32_t channel, place = 0;
    for (channel = first; channel < end; channel += 2u, place += 2u * y_stride) {
        const uint8_t *const weights = rows->weights + channel * rows->row_bytes;
        const uint32_t pair = channel + 1u < end ? 2u : 1u; /* an odd last row goes with itself */
        uint32_t row;
        int32_t sum[2][2];
        block(weights, weights + (pair - 1u) * rows->row_bytes, length, columns, sum);
        for (row = 0; row < pair; row++) {
            mixbit_store_row(rows, channel + row, sum[row], column_count, y, at, place + row * y_stride, y_bits);
        }
    }
}

#endif
