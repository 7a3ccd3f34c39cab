/* Depthwise convolution for cores with the DSP extension: four channels at a time, tap by tap.
 * All weights are unpacked once, four channels of a tap to a word; a place then has a pointer for each of its taps.
 * Scratch, see _scratch.py: the pointers, the weights, a place of padding, and the gathered taps of a place where they
 * cannot be read from x (packed, through a table, or several outputs a channel). */
#include "mixbit_dsp.h"

#if MIXBIT_DSP

typedef struct {
    const mixbit_conv_layer *layer;
    uint32_t taps;
    uint32_t padded;        /* output channels, rounded up to a multiple of four */
    uint32_t *weights;      /* [channels / 4][tap], four channels a word */
    int8_t *padding;        /* what a tap outside of x reads */
    const int8_t **inputs;  /* [tap], of the place that is computed */
    int8_t *gathered;       /* [tap][channel], or null */
} depthwise;

/* A channel's taps lie one after the other in the stream, and four channels of a tap in a word. */
static void unpack_weights(const depthwise *job)
{
    const mixbit_rows *rows = &job->layer->rows;
    int8_t *const weights = (int8_t *)job->weights;
    uint32_t channel, tap, at = 0;
    memset(weights, 0, job->padded * job->taps);
    for (channel = 0; channel < job->layer->y_channels; channel++) {
        int8_t *to = weights + (channel / 4u * job->taps) * 4u + channel % 4u;
        for (tap = 0; tap < job->taps; tap++, at++, to += 4) {
            mixbit_unpack(rows->weights, at, 1u, rows->bits, to);
        }
    }
}

/* The inputs of one tap, one for each output channel. */
static const int8_t *read_tap(const depthwise *job, const int8_t *x, uint32_t place, int8_t *to)
{
    const mixbit_conv_layer *layer = job->layer;
    const uint32_t outputs = (uint32_t)layer->y_channels / layer->groups, from = place * layer->x_channels;
    uint32_t channel;
    if (job->gathered == 0) {
        return x + from;
    }
    for (channel = 0; channel < layer->y_channels; channel++) {
        const int32_t value = mixbit_get(x, from + channel / outputs, layer->x_bits);
        to[channel] = (int8_t)(layer->table == 0 ? value : layer->table[value - layer->x_low]);
    }
    return to;
}

static void find_inputs(const depthwise *job, const int8_t *x, uint32_t place)
{
    const mixbit_conv_layer *layer = job->layer;
    const int32_t top = (int32_t)(place / layer->y_width * layer->stride_height) - layer->pad_top;
    const int32_t left = (int32_t)(place % layer->y_width * layer->stride_width) - layer->pad_left;
    uint32_t i, j, tap = 0;
    for (i = 0; i < layer->kernel_height; i++) {
        const int32_t row = top + (int32_t)(i * layer->dilation_height);
        for (j = 0; j < layer->kernel_width; j++, tap++) {
            const int32_t at = left + (int32_t)(j * layer->dilation_width);
            const int inside = row >= 0 && row < layer->x_height && at >= 0 && at < layer->x_width;
            job->inputs[tap] = !inside ? job->padding
                                       : read_tap(job, x, (uint32_t)row * layer->x_width + (uint32_t)at,
                                                  job->gathered + tap * job->padded);
        }
    }
}

/* Products of the bytes of two words, each added to its sum. */
#define FOUR_PRODUCTS(A, B)                                                                                            \
    {                                                                                                                  \
        const uint32_t a_even = mixbit_even_bytes(A), b_even = mixbit_even_bytes(B);                                   \
        const uint32_t a_odd = mixbit_odd_bytes(A), b_odd = mixbit_odd_bytes(B);                                       \
        __asm__("smlabb %0, %1, %2, %0" : "+r"(sum_0) : "r"(a_even), "r"(b_even));                                     \
        __asm__("smlabb %0, %1, %2, %0" : "+r"(sum_1) : "r"(a_odd), "r"(b_odd));                                       \
        __asm__("smlatt %0, %1, %2, %0" : "+r"(sum_2) : "r"(a_even), "r"(b_even));                                     \
        __asm__("smlatt %0, %1, %2, %0" : "+r"(sum_3) : "r"(a_odd), "r"(b_odd));                                       \
    }

static inline void four_sums(const depthwise *job, uint32_t channel, int32_t sum[4])
{
    const uint32_t *weights = job->weights + channel / 4u * job->taps;
    const uint32_t *const end = weights + job->taps;
    const int8_t **input = job->inputs;
    int32_t sum_0 = 0, sum_1 = 0, sum_2 = 0, sum_3 = 0;
    do {
        FOUR_PRODUCTS(mixbit_word(*input + channel), *weights)
        input++;
        weights++;
    } while (weights != end);
    sum[0] = sum_0;
    sum[1] = sum_1;
    sum[2] = sum_2;
    sum[3] = sum_3;
}

/* The last channels, fewer than four: nothing beyond x may be read. */
static void last_sums(const depthwise *job, uint32_t channel, uint32_t count, int32_t sum[4])
{
    const int8_t *weights = (const int8_t *)(job->weights + channel / 4u * job->taps);
    uint32_t tap, i;
    memset(sum, 0, 4u * sizeof *sum);
    for (tap = 0; tap < job->taps; tap++, weights += 4) {
        for (i = 0; i < count; i++) {
            sum[i] += weights[i] * job->inputs[tap][channel + i];
        }
    }
}

static void all_channels(const depthwise *job, void *y, uint32_t at)
{
    const mixbit_conv_layer *layer = job->layer;
    uint32_t channel, i;
    for (channel = 0; channel < layer->y_channels; channel += 4u) {
        const uint32_t left = layer->y_channels - channel, count = left < 4u ? left : 4u;
        int32_t sum[4];
        if (count == 4u) {
            four_sums(job, channel, sum);
        } else {
            last_sums(job, channel, count, sum);
        }
        for (i = 0; i < count; i++, at++) {
            const mixbit_rows *const rows = &layer->rows;
            const uint32_t of = channel + i;
            if (mixbit_is_fast(rows, of, layer->y_bits)) {
                const uint32_t right = (uint32_t)(31 - rows->exponent[of]);
                ((int8_t *)y)[at] = mixbit_finish(rows, sum[i], rows->bias[of], rows->multiplier[of], right);
            } else {
                mixbit_store_any(rows, of, sum[i], y, at, layer->y_bits);
            }
        }
    }
}

void mixbit_depthwise(const mixbit_conv_layer *layer, const int8_t *x, void *y, void *scratch)
{
    const uint32_t taps = (uint32_t)layer->kernel_height * layer->kernel_width;
    const uint32_t padded = ((uint32_t)layer->y_channels + 3u) / 4u * 4u;
    const uint32_t places = (uint32_t)layer->y_height * layer->y_width;
    const int direct = layer->table == 0 && layer->x_bits == 8u && layer->groups == layer->y_channels;
    const int8_t **const inputs = (const int8_t **)scratch;
    uint32_t *const weights = (uint32_t *)(inputs + taps);
    int8_t *const padding = (int8_t *)(weights + padded / 4u * taps);
    const depthwise job = {layer, taps, padded, weights, padding, inputs, direct ? 0 : padding + padded};
    uint32_t place;
    unpack_weights(&job);
    memset(padding, layer->pad, padded);
    for (place = 0; place < places; place++) {
        find_inputs(&job, x, place);
        all_channels(&job, y, place * layer->y_channels);
    }
}

#endif
