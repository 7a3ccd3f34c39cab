/* Convolution: the taps of one place become a column, and every output channel is a row times that column. */
#include <string.h>

#include "mixbit_inline.h"

#if !MIXBIT_DSP

/* `count` channels of one place of x, from element `at` on. */
static void read_place(const mixbit_conv_layer *layer, const int8_t *x, uint32_t at, uint32_t count, int8_t *column)
{
#if MIXBIT_PACKED_ACTIVATIONS
    if (layer->x_bits != 8u) {
        mixbit_unpack((const uint8_t *)x, at, count, layer->x_bits, column);
    } else
#endif
    {
        memcpy(column, x + at, count);
    }
    if (layer->table != 0) {
        uint32_t i;
        for (i = 0; i < count; i++) {
            column[i] = layer->table[column[i] - layer->x_low];
        }
    }
}

static void fill_column(const mixbit_conv_layer *layer, const int8_t *x, uint32_t place_row, uint32_t place_column,
                        uint32_t first_channel, uint32_t channels, int8_t *column)
{
    uint32_t i, j;
    for (i = 0; i < layer->kernel_height; i++) {
        const int32_t row = (int32_t)(place_row * layer->stride_height + i * layer->dilation_height) - layer->pad_top;
        for (j = 0; j < layer->kernel_width; j++) {
            const int32_t at = (int32_t)(place_column * layer->stride_width + j * layer->dilation_width) - layer->pad_left;
            if (row < 0 || row >= layer->x_height || at < 0 || at >= layer->x_width) {
                memset(column, layer->pad, channels);
            } else {
                const uint32_t place = (uint32_t)row * layer->x_width + (uint32_t)at;
                read_place(layer, x, place * layer->x_channels + first_channel, channels, column);
            }
            column += channels;
        }
    }
}

/* A column of one place that lies in x as it is. */
static int is_direct(const mixbit_conv_layer *layer)
{
    return layer->kernel_height == 1u && layer->kernel_width == 1u && layer->pad_top == 0u && layer->pad_left == 0u &&
           layer->x_bits == 8u && layer->table == 0;
}

void mixbit_conv(const mixbit_conv_layer *layer, const int8_t *x, void *y, void *scratch)
{
    const uint32_t channels = (uint32_t)layer->x_channels / layer->groups;
    const uint32_t outputs = (uint32_t)layer->y_channels / layer->groups;
    const uint32_t length = (uint32_t)layer->kernel_height * layer->kernel_width * channels;
    const int direct = is_direct(layer) && (layer->y_height - 1) * layer->stride_height < layer->x_height &&
                       (layer->y_width - 1) * layer->stride_width < layer->x_width;
    uint32_t row, at, group;
    for (row = 0; row < layer->y_height; row++) {
        for (at = 0; at < layer->y_width; at++) {
            const uint32_t place = row * layer->y_width + at;
            for (group = 0; group < layer->groups; group++) {
                const int8_t *column = (const int8_t *)scratch;
                if (direct) {
                    const uint32_t from = row * layer->stride_height * layer->x_width + at * layer->stride_width;
                    column = x + from * layer->x_channels + group * channels;
                } else {
                    fill_column(layer, x, row, at, group * channels, channels, (int8_t *)scratch);
                }
                mixbit_rows_times(&layer->rows, group * outputs, outputs, column, length, y,
                                  place * layer->y_channels + group * outputs, 1u, layer->y_bits);
            }
        }
    }
}

#endif
