/* Linear layer by CMSIS-NN, with a factor for every output. */
#include "mixbit_cmsis_inline.h"

void mixbit_cmsis_linear(const mixbit_cmsis_layer *layer, const int8_t *x, int8_t *y, void *scratch)
{
    const cmsis_nn_context context = mixbit_cmsis_context(layer, scratch);
    const cmsis_nn_per_channel_quant_params factors = mixbit_cmsis_factors(layer);
    const cmsis_nn_dims input = mixbit_cmsis_input(layer), output = mixbit_cmsis_output(layer);
    const cmsis_nn_dims filter = {layer->x_channels, 1, 1, layer->y_channels};
    const cmsis_nn_dims bias = {1, 1, 1, layer->y_channels};
    cmsis_nn_fc_params settings;
    settings.input_offset = layer->x_offset;
    settings.filter_offset = 0;
    settings.output_offset = layer->y_offset;
    settings.activation = mixbit_cmsis_bounds(layer);
    (void)arm_fully_connected_per_channel_s8(&context, &settings, &factors, &input, x, &filter,
                                             (const int8_t *)layer->weights, &bias, layer->bias, &output, y);
}
