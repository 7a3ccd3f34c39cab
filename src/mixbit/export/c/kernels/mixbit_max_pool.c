/* Largest element of a window; taps outside of x never win. */
#include "mixbit_inline.h"

static int32_t largest(const mixbit_pool_layer *layer, const int8_t *x, int32_t top, int32_t left, uint32_t channel)
{
    int32_t found = layer->low;
    uint32_t i, j;
    for (i = 0; i < layer->kernel_height; i++) {
        for (j = 0; j < layer->kernel_width; j++) {
            const int32_t row = top + (int32_t)i, at = left + (int32_t)j;
            if (row >= 0 && row < layer->x_height && at >= 0 && at < layer->x_width) {
                const uint32_t place = (uint32_t)row * layer->x_width + (uint32_t)at;
                const int32_t value = mixbit_get(x, place * layer->channels + channel, layer->x_bits);
                found = value > found ? value : found;
            }
        }
    }
    return found;
}

void mixbit_max_pool(const mixbit_pool_layer *layer, const int8_t *x, int8_t *y)
{
    uint32_t row, at, channel, out = 0;
    for (row = 0; row < layer->y_height; row++) {
        const int32_t top = (int32_t)(row * layer->stride_height) - layer->pad_top;
        for (at = 0; at < layer->y_width; at++) {
            const int32_t left = (int32_t)(at * layer->stride_width) - layer->pad_left;
            for (channel = 0; channel < layer->channels; channel++, out++) {
                mixbit_put(y, out, layer->y_bits, largest(layer, x, top, left, channel));
            }
        }
    }
}
