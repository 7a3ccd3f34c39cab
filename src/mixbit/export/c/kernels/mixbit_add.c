/* Sum of two tensors; y may be a or b. */
#include "mixbit_inline.h"

static int32_t add_single(const mixbit_add_layer *layer, int32_t a, int32_t b)
{
    int64_t sum = (int64_t)a * layer->multiplier[0] + (int64_t)b * layer->multiplier[1];
#if MIXBIT_ROUNDING_AWAY
    if (layer->rounding == MIXBIT_AWAY && sum < 0) {
        sum--;
    }
#endif
    return (int32_t)((sum + ((int64_t)1 << (layer->shift - 1))) >> layer->shift);
}

#if MIXBIT_ROUNDING_DOUBLE
static int32_t add_double(const mixbit_add_layer *layer, int32_t a, int32_t b)
{
    const int32_t first = mixbit_scale_double(a * (1 << 20), layer->multiplier[0], layer->exponent[0]);
    const int32_t second = mixbit_scale_double(b * (1 << 20), layer->multiplier[1], layer->exponent[1]);
    return mixbit_scale_double(first + second, layer->multiplier[2], layer->exponent[2]);
}
#endif

static int32_t add(const mixbit_add_layer *layer, int32_t a, int32_t b)
{
#if MIXBIT_ROUNDING_DOUBLE
    if (layer->rounding == MIXBIT_DOUBLE) {
        return add_double(layer, a, b);
    }
#endif
    return add_single(layer, a, b);
}

void mixbit_add(const mixbit_add_layer *layer, const int8_t *a, const int8_t *b, int8_t *y)
{
    uint32_t i;
    for (i = 0; i < layer->count; i++) {
        const int32_t first = mixbit_get(a, i, layer->a_bits) - layer->a_zero;
        const int32_t second = mixbit_get(b, i, layer->b_bits) - layer->b_zero;
        const int32_t sum = add(layer, first, second) + layer->y_zero;
        mixbit_put(y, i, layer->y_bits, mixbit_clamp(sum, layer->low, layer->high));
    }
}
