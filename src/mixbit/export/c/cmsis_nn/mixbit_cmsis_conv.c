/* Convolution by CMSIS-NN, which takes the kernel that fits the shape. */
#include "mixbit_cmsis_inline.h"

void mixbit_cmsis_conv(const mixbit_cmsis_layer *layer, const int8_t *x, int8_t *y, void *scratch)
{
    const cmsis_nn_context context = mixbit_cmsis_context(layer, scratch);
    const cmsis_nn_per_channel_quant_params factors = mixbit_cmsis_factors(layer);
    const cmsis_nn_dims input = mixbit_cmsis_input(layer), output = mixbit_cmsis_output(layer);
    const cmsis_nn_dims filter = {layer->y_channels, layer->kernel_height, layer->kernel_width, layer->x_channels};
    const cmsis_nn_dims bias = {1, 1, 1, layer->y_channels};
    cmsis_nn_conv_params settings;
    settings.input_offset = layer->x_offset;
    settings.output_offset = layer->y_offset;
    settings.stride = mixbit_cmsis_tile(layer->stride_height, layer->stride_width);
    settings.padding = mixbit_cmsis_tile(layer->pad_top, layer->pad_left);
    settings.dilation = mixbit_cmsis_tile(layer->dilation_height, layer->dilation_width);
    settings.activation = mixbit_cmsis_bounds(layer);
    /* Another version may need more than was planned: then the layer writes nothing, and the self-test names it. */
    if (arm_convolve_wrapper_s8_get_buffer_size(&settings, &input, &filter, &output) <= context.size) {
        (void)arm_convolve_wrapper_s8(&context, &settings, &factors, &input, x, &filter, (const int8_t *)layer->weights,
                                      &bias, layer->bias, &output, y);
    }
}
