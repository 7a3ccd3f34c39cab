/* Convolution for cores with the DSP extension: two places at a time become two columns, which all rows are multiplied
 * with. Scratch: 16-bit pairs of two columns, then the bytes of two columns (6 bytes an input, see _scratch.py). */
#include "mixbit_dsp.h"

#if MIXBIT_DSP

/* `count` elements of x from element `at` on, as bytes. */
static void read_run(const mixbit_conv_layer *layer, const int8_t *x, uint32_t at, uint32_t count, int8_t *column)
{
    uint32_t i;
#if MIXBIT_PACKED_ACTIVATIONS
    if (layer->x_bits != 8u) {
        mixbit_unpack((const uint8_t *)x, at, count, layer->x_bits, column);
    } else
#endif
    {
        memcpy(column, x + at, count);
    }
    if (layer->table != 0) {
        for (i = 0; i < count; i++) {
            column[i] = layer->table[column[i] - layer->x_low];
        }
    }
}

/* One row of the kernel, in runs of taps whose inputs lie one after the other in x. */
static int8_t *read_row(const mixbit_conv_layer *layer, const int8_t *x, int32_t row, int32_t left, uint32_t first,
                        uint32_t channels, int8_t *column)
{
    const int32_t width = layer->x_width;
    const uint32_t whole = layer->dilation_width == 1u && layer->groups == 1u;
    int32_t tap = 0, at = left;
    while (tap < layer->kernel_width) {
        int32_t taps = 1;
        if (row < 0 || row >= layer->x_height || at < 0 || at >= width) {
            memset(column, layer->pad, channels);
        } else {
            if (whole) {
                taps = layer->kernel_width - tap < width - at ? layer->kernel_width - tap : width - at;
            }
            read_run(layer, x, ((uint32_t)row * layer->x_width + (uint32_t)at) * layer->x_channels + first,
                     (uint32_t)taps * channels, column);
        }
        column += (uint32_t)taps * channels;
        tap += taps;
        at += taps * layer->dilation_width;
    }
    return column;
}

/* All taps of one place, padded to whole groups. */
static void gather(const mixbit_conv_layer *layer, const int8_t *x, uint32_t place, uint32_t group, uint32_t channels,
                   int8_t *column, const int8_t *end)
{
    const int32_t top = (int32_t)(place / layer->y_width * layer->stride_height) - layer->pad_top;
    const int32_t left = (int32_t)(place % layer->y_width * layer->stride_width) - layer->pad_left;
    uint32_t i;
    for (i = 0; i < layer->kernel_height; i++) {
        const int32_t row = top + (int32_t)(i * layer->dilation_height);
        column = read_row(layer, x, row, left, group * channels, channels, column);
    }
    memset(column, 0, (uint32_t)(end - column));
}

void mixbit_conv(const mixbit_conv_layer *layer, const int8_t *x, void *y, void *scratch)
{
    const uint32_t channels = (uint32_t)layer->x_channels / layer->groups;
    const uint32_t outputs = (uint32_t)layer->y_channels / layer->groups;
    const uint32_t length = (uint32_t)layer->kernel_height * layer->kernel_width * channels;
    const uint32_t places = (uint32_t)layer->y_height * layer->y_width;
    const uint32_t groups = mixbit_groups(length), padded = groups * MIXBIT_GROUP;
    mixbit_columns columns = {(uint32_t *)scratch, groups, {0, 0}};
    int8_t *const bytes = (int8_t *)scratch + 4u * padded;
    uint32_t place, group;
    for (place = 0; place < places; place += 2u) {
        const uint32_t count = place + 1u < places ? 2u : 1u;
        for (group = 0; group < layer->groups; group++) {
            const uint32_t from = place * layer->y_channels + group * outputs;
            const uint32_t at[2] = {from, from + layer->y_channels};
            uint32_t column;
            for (column = 0; column < count; column++) {
                int8_t *const start = bytes + column * padded;
                gather(layer, x, place + column, group, channels, start, start + padded);
            }
            mixbit_expand(&columns, bytes, count, layer->rows.bits);
            mixbit_rows_times_columns(&layer->rows, group * outputs, outputs, length, &columns, count, y, at, 1u,
                                      layer->y_bits);
        }
    }
}

#endif
