/* The same real numbers on another grid; y may be x. */
#include "mixbit_inline.h"

void mixbit_requantize(const mixbit_requantize_layer *layer, const int8_t *x, int8_t *y)
{
    uint32_t i;
    for (i = 0; i < layer->count; i++) {
        const int32_t value = mixbit_get(x, i, layer->x_bits) - layer->x_zero;
        const int32_t scaled = mixbit_scale(value, layer->multiplier, layer->exponent, layer->rounding);
        mixbit_put(y, i, layer->y_bits, mixbit_clamp(scaled + layer->y_zero, layer->low, layer->high));
    }
}
