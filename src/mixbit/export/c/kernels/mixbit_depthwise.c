/* Convolution with one input channel a group: the taps of a channel are unpacked once and used at every place. */
#include "mixbit_inline.h"

#if !MIXBIT_DSP

static int32_t sum_of_taps(const mixbit_conv_layer *layer, const int8_t *x, const int8_t *taps, uint32_t channel,
                           int32_t top, int32_t left)
{
    int32_t sum = 0;
    uint32_t i, j;
    for (i = 0; i < layer->kernel_height; i++) {
        const int32_t row = top + (int32_t)(i * layer->dilation_height);
        for (j = 0; j < layer->kernel_width; j++) {
            const int32_t at = left + (int32_t)(j * layer->dilation_width);
            int32_t value = layer->pad;
            if (row >= 0 && row < layer->x_height && at >= 0 && at < layer->x_width) {
                const uint32_t place = (uint32_t)row * layer->x_width + (uint32_t)at;
                value = mixbit_get(x, place * layer->x_channels + channel, layer->x_bits);
            }
            sum += value * *taps++;
        }
    }
    return sum;
}

void mixbit_depthwise(const mixbit_conv_layer *layer, const int8_t *x, void *y, void *scratch)
{
    const uint32_t outputs = (uint32_t)layer->y_channels / layer->groups;
    const uint32_t length = (uint32_t)layer->kernel_height * layer->kernel_width;
    int8_t *taps = (int8_t *)scratch;
    uint32_t channel, row, at;
    for (channel = 0; channel < layer->y_channels; channel++) {
        mixbit_unpack(layer->rows.weights, channel * length, length, layer->rows.bits, taps);
        for (row = 0; row < layer->y_height; row++) {
            const int32_t top = (int32_t)(row * layer->stride_height) - layer->pad_top;
            for (at = 0; at < layer->y_width; at++) {
                const int32_t left = (int32_t)(at * layer->stride_width) - layer->pad_left;
                const int32_t sum = sum_of_taps(layer, x, taps, channel / outputs, top, left);
                mixbit_store(&layer->rows, channel, sum, y, (row * layer->y_width + at) * layer->y_channels + channel,
                             layer->y_bits);
            }
        }
    }
}

#endif
