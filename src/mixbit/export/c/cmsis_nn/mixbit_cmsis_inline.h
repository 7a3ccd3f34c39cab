/* From a layer's settings to those of CMSIS-NN. */
#ifndef MIXBIT_CMSIS_INLINE_H
#define MIXBIT_CMSIS_INLINE_H

#include "arm_nnfunctions.h"
#include "mixbit_cmsis_nn.h"

#ifdef __ARM_FEATURE_MVE
#error "With MVE, CMSIS-NN needs more scratch memory than was planned. Export for this core without --cmsis-nn."
#endif

static inline cmsis_nn_dims mixbit_cmsis_input(const mixbit_cmsis_layer *layer)
{
    const cmsis_nn_dims dims = {layer->batches, layer->x_height, layer->x_width, layer->x_channels};
    return dims;
}

static inline cmsis_nn_dims mixbit_cmsis_output(const mixbit_cmsis_layer *layer)
{
    const cmsis_nn_dims dims = {layer->batches, layer->y_height, layer->y_width, layer->y_channels};
    return dims;
}

static inline cmsis_nn_tile mixbit_cmsis_tile(uint16_t height, uint16_t width)
{
    const cmsis_nn_tile tile = {width, height};
    return tile;
}

static inline cmsis_nn_activation mixbit_cmsis_bounds(const mixbit_cmsis_layer *layer)
{
    const cmsis_nn_activation bounds = {layer->low, layer->high};
    return bounds;
}

/* CMSIS-NN reads them only, though its structure has no const. */
static inline cmsis_nn_per_channel_quant_params mixbit_cmsis_factors(const mixbit_cmsis_layer *layer)
{
    const cmsis_nn_per_channel_quant_params factors = {(int32_t *)layer->multiplier, (int32_t *)layer->shift};
    return factors;
}

static inline cmsis_nn_context mixbit_cmsis_context(const mixbit_cmsis_layer *layer, void *scratch)
{
    const cmsis_nn_context context = {scratch, (int32_t)layer->scratch_bytes};
    return context;
}

#endif
