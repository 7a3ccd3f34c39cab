/* Rows of packed weights times a column of inputs. */
#include "mixbit_inline.h"

#if MIXBIT_WEIGHTS_8
static int32_t dot_8(const uint8_t *weights, const int8_t *x, uint32_t count)
{
    int32_t sum = 0;
    uint32_t i;
    for (i = 0; i < count; i++) {
        sum += (int32_t)(int8_t)weights[i] * x[i];
    }
    return sum;
}
#endif

#if MIXBIT_WEIGHTS_4
static int32_t dot_4(const uint8_t *weights, const int8_t *x, uint32_t count)
{
    int32_t sum = 0;
    uint32_t i;
    for (i = 0; i + 2u <= count; i += 2u) {
        const uint32_t byte = *weights++;
        sum += mixbit_field(byte, 0u, 4u) * x[i] + mixbit_field(byte, 4u, 4u) * x[i + 1u];
    }
    return i < count ? sum + mixbit_field(*weights, 0u, 4u) * x[i] : sum;
}
#endif

#if MIXBIT_WEIGHTS_2
static int32_t dot_2(const uint8_t *weights, const int8_t *x, uint32_t count)
{
    int32_t sum = 0;
    uint32_t i, low;
    for (i = 0; i + 4u <= count; i += 4u) {
        const uint32_t byte = *weights++;
        sum += mixbit_field(byte, 0u, 2u) * x[i] + mixbit_field(byte, 2u, 2u) * x[i + 1u] +
               mixbit_field(byte, 4u, 2u) * x[i + 2u] + mixbit_field(byte, 6u, 2u) * x[i + 3u];
    }
    for (low = 0; i < count; i++, low += 2u) {
        sum += mixbit_field(*weights, low, 2u) * x[i];
    }
    return sum;
}
#endif

#if MIXBIT_WEIGHTS_1
/* A bit of 0 adds an input, one of 1 takes it away. */
static int32_t dot_1(const uint8_t *weights, const int8_t *x, uint32_t count)
{
    int32_t sum = 0;
    uint32_t i;
    for (i = 0; i < count; i++) {
        const int32_t sign = -(int32_t)((uint32_t)weights[i >> 3] >> (i & 7u) & 1u);
        sum += (x[i] ^ sign) - sign;
    }
    return sum;
}
#endif

#if MIXBIT_WEIGHTS_3 || MIXBIT_WEIGHTS_5 || MIXBIT_WEIGHTS_6 || MIXBIT_WEIGHTS_7
/* Widths that do not divide a byte: a window of bits, filled byte by byte. */
static inline int32_t dot_stream(const uint8_t *weights, const int8_t *x, uint32_t count, uint32_t bits)
{
    uint32_t window = 0, held = 0, i;
    int32_t sum = 0;
    for (i = 0; i < count; i++) {
        if (held < bits) {
            window |= (uint32_t)*weights++ << held;
            held += 8u;
        }
        sum += mixbit_field(window, 0u, bits) * x[i];
        window >>= bits;
        held -= bits;
    }
    return sum;
}
#endif

#define MIXBIT_STREAM(BITS)                                                                                            \
    static int32_t dot_##BITS(const uint8_t *weights, const int8_t *x, uint32_t count)                                 \
    {                                                                                                                  \
        return dot_stream(weights, x, count, BITS##u);                                                                 \
    }

#if MIXBIT_WEIGHTS_3
MIXBIT_STREAM(3)
#endif
#if MIXBIT_WEIGHTS_5
MIXBIT_STREAM(5)
#endif
#if MIXBIT_WEIGHTS_6
MIXBIT_STREAM(6)
#endif
#if MIXBIT_WEIGHTS_7
MIXBIT_STREAM(7)
#endif

mixbit_dot mixbit_dot_of(uint32_t bits)
{
    switch (bits) {
#if MIXBIT_WEIGHTS_1
    case 1: return dot_1;
#endif
#if MIXBIT_WEIGHTS_2
    case 2: return dot_2;
#endif
#if MIXBIT_WEIGHTS_3
    case 3: return dot_3;
#endif
#if MIXBIT_WEIGHTS_4
    case 4: return dot_4;
#endif
#if MIXBIT_WEIGHTS_5
    case 5: return dot_5;
#endif
#if MIXBIT_WEIGHTS_6
    case 6: return dot_6;
#endif
#if MIXBIT_WEIGHTS_7
    case 7: return dot_7;
#endif
#if MIXBIT_WEIGHTS_8
    case 8: return dot_8;
#endif
    default: return 0;
    }
}

void mixbit_rows_times(const mixbit_rows *rows, uint32_t first, uint32_t count, const int8_t *column, uint32_t length,
                       void *y, uint32_t at, uint32_t y_stride, uint32_t y_bits)
{
    const mixbit_dot dot = mixbit_dot_of(rows->bits);
    const uint8_t *weights = rows->weights + first * rows->row_bytes;
    uint32_t channel;
    for (channel = first; channel < first + count; channel++) {
        mixbit_store(rows, channel, dot(weights, column, length), y, at, y_bits);
        weights += rows->row_bytes;
        at += y_stride;
    }
}

void mixbit_unpack(const uint8_t *packed, uint32_t first, uint32_t count, uint32_t bits, int8_t *y)
{
    uint32_t bit = first * bits, i;
#if MIXBIT_UNPACK_1
    if (bits == 1u) {
        for (i = first; i < first + count; i++) {
            *y++ = (int8_t)(1 - 2 * (int32_t)((uint32_t)packed[i >> 3] >> (i & 7u) & 1u));
        }
        return;
    }
#endif
    for (i = 0; i < count; i++, bit += bits) {
        const uint32_t low = bit & 7u;
        uint32_t window = packed[bit >> 3];
        if (low + bits > 8u) {
            window |= (uint32_t)packed[(bit >> 3) + 1u] << 8;
        }
        y[i] = (int8_t)mixbit_field(window, low, bits);
    }
}

void mixbit_trim(int8_t *y, uint32_t count, uint8_t bits)
{
    const uint32_t bit = count * bits;
    if ((bit & 7u) != 0u) {
        y[bit >> 3] = (int8_t)(uint8_t)((uint8_t)y[bit >> 3] & ((1u << (bit & 7u)) - 1u));
    }
}
