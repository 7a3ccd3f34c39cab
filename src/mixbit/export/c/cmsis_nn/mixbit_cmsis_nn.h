/* Layers of 8 bits that call CMSIS-NN, which is not part of this folder. */
#ifndef MIXBIT_CMSIS_NN_H
#define MIXBIT_CMSIS_NN_H

#include <stdint.h>

/* A convolution, a depthwise one (weights in the order (row, column, channel)), or a linear layer, whose features are
 * channels. Zero points are added as offsets by CMSIS-NN: the biases are without them. */
typedef struct {
    const uint8_t *weights;
    const int32_t *bias, *multiplier, *shift; /* by output channel */
    uint32_t scratch_bytes;
    uint16_t batches;
    uint16_t x_height, x_width, x_channels;
    uint16_t y_height, y_width, y_channels;
    uint16_t kernel_height, kernel_width;
    uint16_t stride_height, stride_width;
    uint16_t dilation_height, dilation_width;
    uint16_t pad_top, pad_left;
    int16_t x_offset, y_offset;
    int8_t low, high;
} mixbit_cmsis_layer;

void mixbit_cmsis_conv(const mixbit_cmsis_layer *layer, const int8_t *x, int8_t *y, void *scratch);
void mixbit_cmsis_depthwise(const mixbit_cmsis_layer *layer, const int8_t *x, int8_t *y, void *scratch);
void mixbit_cmsis_linear(const mixbit_cmsis_layer *layer, const int8_t *x, int8_t *y, void *scratch);

#endif
