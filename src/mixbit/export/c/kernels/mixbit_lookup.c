/* Any function of one element, by table; y may be x. */
#include "mixbit_inline.h"

void mixbit_lookup(const mixbit_lookup_layer *layer, const int8_t *x, int8_t *y)
{
    uint32_t i;
    for (i = 0; i < layer->count; i++) {
        mixbit_put(y, i, layer->y_bits, layer->table[mixbit_get(x, i, layer->x_bits) - layer->x_low]);
    }
}
