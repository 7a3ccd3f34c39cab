/* Kernels of exported networks: integers only, no heap, no library.
 *
 * Activations lie in memory with the channels last, (H, W, C). In 8 bits an element is an int8_t, in 16 two bytes, the
 * low one first; in 4 or 2 bits, the elements of a whole tensor are one stream of fields, two's complement, the first in
 * the lowest bits of the first byte.
 *
 * A tensor's stored integer is that of its quantizer minus a constant offset, so that it fits the signed container. All
 * zero points, bounds and pad values in the structures below are stored integers.
 *
 * Weights are fields of 1 to 8 bits in two's complement, the first in the lowest bits of the first byte. A field of 1
 * bit, which would be 0 or -1, stands for 1 or -1.
 */
#ifndef MIXBIT_KERNELS_H
#define MIXBIT_KERNELS_H

#include <stdint.h>

#include "mixbit_config.h"

/* A stored integer: of 16 bits in a network that has tensors of more than 8. */
#if MIXBIT_WIDE_ACTIVATIONS
typedef int16_t mixbit_level;
#else
typedef int8_t mixbit_level;
#endif

/* How a change of scale rounds. */
enum {
    MIXBIT_SINGLE = 1, /* floor(a m / 2^n + 1/2): one rounding, ties up */
    MIXBIT_DOUBLE = 2, /* rounded high half of 2 a m, then a rounded shift: as LiteRT's reference kernels */
    MIXBIT_AWAY = 3,   /* one rounding, ties away from zero: as LiteRT's linear layers */
    MIXBIT_DIVIDE = 4  /* average pools between equal grids: a / n, ties away from the int8 that is 0, as LiteRT's */
};

/* A layer's weights, and what becomes of its accumulators:
 * acc = (sum of weight * x << shift) + bias,  y = clamp(acc * multiplier * 2^(exponent - 31) + zero, low, high). */
typedef struct {
    const uint8_t *weights;
    const int32_t *bias;       /* by output channel; the zero point of x is folded in */
    const int32_t *multiplier; /* by output channel; null: y is int32_t and holds the accumulators */
    const int8_t *exponent;    /* by output channel, -31 to 30 */
    uint32_t row_bytes;        /* from one output channel's weights to the next; 0: one stream without gaps */
    uint8_t bits;
    uint8_t shift;
    uint8_t rounding;
    mixbit_level low;
    mixbit_level high;
    int16_t zero;
} mixbit_rows;

/* Convolution, grouped or not. Weights of an output channel are in the order (row, column, channel of the group). */
typedef struct {
    mixbit_rows rows;
    const int8_t *table; /* null, or what each x is replaced by when it is read: table[x - x_low] */
    uint16_t x_height, x_width, x_channels;
    uint16_t y_height, y_width, y_channels;
    uint16_t kernel_height, kernel_width;
    uint16_t stride_height, stride_width;
    uint16_t dilation_height, dilation_width;
    uint16_t pad_top, pad_left;
    uint16_t groups;
    int8_t pad;   /* what a tap outside of x reads (after the table) */
    int8_t x_low;
    uint8_t x_bits, y_bits; /* of the storage: 8, 4 or 2 */
} mixbit_conv_layer;

/* Linear layer along the middle dimension of (outer, features, inner), which has `outputs` afterwards. */
typedef struct {
    mixbit_rows rows;
    const int8_t *table;
    uint32_t outer, features, outputs, inner;
    int8_t x_low;
    uint8_t x_bits, y_bits;
} mixbit_linear_layer;

/* y = clamp(a / scale + b / scale + zero). Single, away: one fixed point with `shift` digits, multipliers of a and b.
 * Double: a and b << 20, each by its multiplier and exponent, then the sum by the third. */
typedef struct {
    uint32_t count;
    int32_t multiplier[3];
    int8_t exponent[3];
    uint8_t shift;
    uint8_t rounding;
    mixbit_level low, high;
    int16_t a_zero, b_zero, y_zero;
    uint8_t a_bits, b_bits, y_bits;
} mixbit_add_layer;

/* y = clamp((x - x_zero) * multiplier * 2^(exponent - 31) + y_zero) */
typedef struct {
    uint32_t count;
    int32_t multiplier;
    int8_t exponent;
    uint8_t rounding;
    mixbit_level low, high;
    int16_t x_zero, y_zero;
    uint8_t x_bits, y_bits;
} mixbit_requantize_layer;

/* Pools; the fields of the change of scale are those of average pools. To divide, `multiplier` is the zero point of x
 * as an int8 (where x is packed, x_zero is another). */
typedef struct {
    uint16_t x_height, x_width, channels;
    uint16_t y_height, y_width;
    uint16_t kernel_height, kernel_width;
    uint16_t stride_height, stride_width;
    uint16_t pad_top, pad_left;
    int32_t multiplier;
    int8_t exponent;
    uint8_t rounding;
    mixbit_level low, high;
    int16_t x_zero, y_zero;
    uint8_t x_bits, y_bits;
} mixbit_pool_layer;

/* A convolution of any kind that reads 16 bits; taps outside of x count as zeros. Its zero point is not folded in. */
typedef struct {
    mixbit_rows rows;
    uint16_t x_height, x_width, x_channels;
    uint16_t y_height, y_width, y_channels;
    uint16_t kernel_height, kernel_width;
    uint16_t stride_height, stride_width;
    uint16_t dilation_height, dilation_width;
    uint16_t pad_top, pad_left;
    uint16_t groups;
    int16_t x_zero;
    uint8_t x_bits, y_bits;
} mixbit_conv_wide_layer;

/* A linear layer that reads 16 bits. */
typedef struct {
    mixbit_rows rows;
    uint32_t outer, features, outputs, inner;
    int16_t x_zero;
    uint8_t x_bits, y_bits;
} mixbit_linear_wide_layer;

/* As mixbit_lookup_layer, where x or y has 16 bits. */
typedef struct {
    const int16_t *table;
    uint32_t count;
    int16_t x_low;
    uint8_t x_bits, y_bits;
} mixbit_lookup_wide_layer;

/* y = table[x - x_low] */
typedef struct {
    const int8_t *table;
    uint32_t count;
    int8_t x_low;
    uint8_t x_bits, y_bits;
} mixbit_lookup_layer;

/* Elements of a box of four dimensions, from one tensor into another: slices, pads, concatenations, transposes. */
typedef struct {
    uint32_t size[4];
    uint32_t x_start, y_start;
    uint32_t x_stride[4], y_stride[4]; /* in elements */
    uint8_t x_bits, y_bits;
} mixbit_move_layer;

/* Another shape for elements in the order (channels, places), where both lie in memory as (places, channels). */
typedef struct {
    uint32_t count;
    uint32_t x_channels, y_channels;
    uint8_t x_bits, y_bits;
} mixbit_reshape_layer;

/* `scratch` is 4-byte aligned; its size is known before compiling (mixbit.export.c.scratch_bytes). */
void mixbit_conv(const mixbit_conv_layer *layer, const int8_t *x, void *y, void *scratch);
void mixbit_depthwise(const mixbit_conv_layer *layer, const int8_t *x, void *y, void *scratch);
void mixbit_linear(const mixbit_linear_layer *layer, const int8_t *x, void *y, void *scratch);
void mixbit_add(const mixbit_add_layer *layer, const int8_t *a, const int8_t *b, int8_t *y);
void mixbit_requantize(const mixbit_requantize_layer *layer, const int8_t *x, int8_t *y);
void mixbit_max_pool(const mixbit_pool_layer *layer, const int8_t *x, int8_t *y);
void mixbit_average_pool(const mixbit_pool_layer *layer, const int8_t *x, int8_t *y);
void mixbit_lookup(const mixbit_lookup_layer *layer, const int8_t *x, int8_t *y);
void mixbit_fill(int8_t *y, uint32_t count, mixbit_level value, uint8_t bits);
void mixbit_trim(int8_t *y, uint32_t count, uint8_t bits); /* clears the bits behind the last of `count` fields */
void mixbit_move(const mixbit_move_layer *layer, const int8_t *x, int8_t *y);
void mixbit_reshape(const mixbit_reshape_layer *layer, const int8_t *x, int8_t *y);
#if MIXBIT_WIDE_ACTIVATIONS
void mixbit_conv_wide(const mixbit_conv_wide_layer *layer, const int8_t *x, void *y);
void mixbit_linear_wide(const mixbit_linear_wide_layer *layer, const int8_t *x, void *y);
void mixbit_lookup_wide(const mixbit_lookup_wide_layer *layer, const int8_t *x, int8_t *y);
#endif

#endif
