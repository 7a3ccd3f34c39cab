/* Layers that read tensors of more than 8 bits: plain loops with sums in 64 bits. */
#include "mixbit_inline.h"

#if MIXBIT_WIDE_ACTIVATIONS

/* As mixbit_scale. Beyond 32 bits the low half-word is multiplied apart, so that no product leaves 64 bits. */
static int32_t scale_wide(int64_t a, int32_t multiplier, int32_t exponent, uint32_t rounding)
{
    const int32_t shift = 31 - exponent;
    int64_t half;
    if (a >= INT32_MIN && a <= INT32_MAX) {
        return mixbit_scale((int32_t)a, multiplier, exponent, rounding);
    }
    half = (int64_t)1 << (shift - 1);
#if MIXBIT_ROUNDING_AWAY
    if (rounding == MIXBIT_AWAY && (a < 0) != (multiplier < 0)) {
        half--;
    }
#endif
    return (int32_t)(((a >> 16) * multiplier + (((a & 0xFFFF) * multiplier + half) >> 16)) >> (shift - 16));
}

static void store_wide(const mixbit_rows *rows, uint32_t channel, int64_t sum, void *y, uint32_t at, uint32_t y_bits)
{
    const int64_t acc = (int64_t)((uint64_t)sum << rows->shift) + rows->bias[channel];
    int32_t value;
    if (rows->multiplier == 0) {
        ((int32_t *)y)[at] = (int32_t)acc;
        return;
    }
    value = scale_wide(acc, rows->multiplier[channel], rows->exponent[channel], rows->rounding);
    mixbit_put((int8_t *)y, at, y_bits, mixbit_clamp(value + rows->zero, rows->low, rows->high));
}

/* Weight number `at` of an output channel that has `length` of them. */
static int32_t weight_of(const mixbit_rows *rows, uint32_t channel, uint32_t length, uint32_t at)
{
    int8_t found;
    if (rows->row_bytes == 0u) {
        mixbit_unpack(rows->weights, channel * length + at, 1u, rows->bits, &found);
    } else {
        mixbit_unpack(rows->weights + channel * rows->row_bytes, at, 1u, rows->bits, &found);
    }
    return found;
}

static int64_t sum_of_window(const mixbit_conv_wide_layer *layer, const int8_t *x, uint32_t channel, int32_t top,
                             int32_t left)
{
    const uint32_t channels = (uint32_t)layer->x_channels / layer->groups;
    const uint32_t first = channel / ((uint32_t)layer->y_channels / layer->groups) * channels;
    const uint32_t length = (uint32_t)layer->kernel_height * layer->kernel_width * channels;
    int64_t sum = 0;
    uint32_t i, j, k, tap = 0;
    for (i = 0; i < layer->kernel_height; i++) {
        const int32_t row = top + (int32_t)(i * layer->dilation_height);
        for (j = 0; j < layer->kernel_width; j++, tap += channels) {
            const int32_t at = left + (int32_t)(j * layer->dilation_width);
            if (row >= 0 && row < layer->x_height && at >= 0 && at < layer->x_width) {
                const uint32_t place = ((uint32_t)row * layer->x_width + (uint32_t)at) * layer->x_channels + first;
                for (k = 0; k < channels; k++) {
                    const int32_t value = mixbit_get(x, place + k, layer->x_bits) - layer->x_zero;
                    sum += (int64_t)value * weight_of(&layer->rows, channel, length, tap + k);
                }
            }
        }
    }
    return sum;
}

void mixbit_conv_wide(const mixbit_conv_wide_layer *layer, const int8_t *x, void *y)
{
    uint32_t row, at, channel, out = 0;
    for (row = 0; row < layer->y_height; row++) {
        const int32_t top = (int32_t)(row * layer->stride_height) - layer->pad_top;
        for (at = 0; at < layer->y_width; at++) {
            const int32_t left = (int32_t)(at * layer->stride_width) - layer->pad_left;
            for (channel = 0; channel < layer->y_channels; channel++, out++) {
                store_wide(&layer->rows, channel, sum_of_window(layer, x, channel, top, left), y, out, layer->y_bits);
            }
        }
    }
}

void mixbit_linear_wide(const mixbit_linear_wide_layer *layer, const int8_t *x, void *y)
{
    uint32_t i, j, k, channel;
    for (i = 0; i < layer->outer; i++) {
        for (channel = 0; channel < layer->outputs; channel++) {
            for (j = 0; j < layer->inner; j++) {
                const uint32_t from = i * layer->features * layer->inner + j;
                int64_t sum = 0;
                for (k = 0; k < layer->features; k++) {
                    const int32_t value = mixbit_get(x, from + k * layer->inner, layer->x_bits) - layer->x_zero;
                    sum += (int64_t)value * weight_of(&layer->rows, channel, layer->features, k);
                }
                store_wide(&layer->rows, channel, sum, y, (i * layer->outputs + channel) * layer->inner + j,
                           layer->y_bits);
            }
        }
    }
}

void mixbit_lookup_wide(const mixbit_lookup_wide_layer *layer, const int8_t *x, int8_t *y)
{
    uint32_t i;
    for (i = 0; i < layer->count; i++) {
        mixbit_put(y, i, layer->y_bits, layer->table[mixbit_get(x, i, layer->x_bits) - layer->x_low]);
    }
}

#endif
