/* Mean of a window; taps outside of x count as zeros. */
#include "mixbit_inline.h"

static int32_t sum_of(const mixbit_pool_layer *layer, const int8_t *x, int32_t top, int32_t left, uint32_t channel)
{
    int32_t sum = 0;
    uint32_t i, j;
    for (i = 0; i < layer->kernel_height; i++) {
        for (j = 0; j < layer->kernel_width; j++) {
            const int32_t row = top + (int32_t)i, at = left + (int32_t)j;
            if (row >= 0 && row < layer->x_height && at >= 0 && at < layer->x_width) {
                const uint32_t place = (uint32_t)row * layer->x_width + (uint32_t)at;
                sum += mixbit_get(x, place * layer->channels + channel, layer->x_bits) - layer->x_zero;
            }
        }
    }
    return sum;
}

static int32_t mean(const mixbit_pool_layer *layer, int32_t sum)
{
#if MIXBIT_ROUNDING_DOUBLE
    if (layer->rounding == MIXBIT_DIVIDE) {
        const int32_t taps = (int32_t)layer->kernel_height * layer->kernel_width, zero = layer->multiplier;
        const int32_t total = sum + taps * zero;
        return (total >= 0 ? (total + taps / 2) / taps : -((taps / 2 - total) / taps)) - zero;
    }
#endif
    return mixbit_scale(sum, layer->multiplier, layer->exponent, layer->rounding);
}

void mixbit_average_pool(const mixbit_pool_layer *layer, const int8_t *x, int8_t *y)
{
    uint32_t row, at, channel, out = 0;
    for (row = 0; row < layer->y_height; row++) {
        const int32_t top = (int32_t)(row * layer->stride_height) - layer->pad_top;
        for (at = 0; at < layer->y_width; at++) {
            const int32_t left = (int32_t)(at * layer->stride_width) - layer->pad_left;
            for (channel = 0; channel < layer->channels; channel++, out++) {
                const int32_t value = mean(layer, sum_of(layer, x, top, left, channel)) + layer->y_zero;
                mixbit_put(y, out, layer->y_bits, mixbit_clamp(value, layer->low, layer->high));
            }
        }
    }
}
