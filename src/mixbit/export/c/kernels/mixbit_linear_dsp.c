/* Linear layer for cores with the DSP extension. Scratch: 16-bit pairs of one column, then its bytes (3 bytes a feature,
 * whole groups of 16, see _scratch.py). */
#include "mixbit_dsp.h"

#if MIXBIT_DSP

static void gather(const mixbit_linear_layer *layer, const int8_t *x, uint32_t from, uint32_t padded, int8_t *column)
{
    uint32_t i;
    if (layer->inner == 1u && layer->x_bits == 8u && layer->table == 0) {
        memcpy(column, x + from, layer->features);
    } else {
        for (i = 0; i < layer->features; i++) {
            const int32_t value = mixbit_get(x, from + i * layer->inner, layer->x_bits);
            column[i] = (int8_t)(layer->table == 0 ? value : layer->table[value - layer->x_low]);
        }
    }
    memset(column + layer->features, 0, padded - layer->features);
}

void mixbit_linear(const mixbit_linear_layer *layer, const int8_t *x, void *y, void *scratch)
{
    const uint32_t groups = mixbit_groups(layer->features), padded = groups * MIXBIT_GROUP;
    mixbit_columns columns = {(uint32_t *)scratch, groups, {0, 0}};
    int8_t *const bytes = (int8_t *)scratch + 2u * padded;
    uint32_t i, j;
    for (i = 0; i < layer->outer; i++) {
        for (j = 0; j < layer->inner; j++) {
            const uint32_t from = i * layer->outputs * layer->inner + j;
            const uint32_t at[2] = {from, from};
            gather(layer, x, i * layer->features * layer->inner + j, padded, bytes);
            mixbit_expand(&columns, bytes, 1u, layer->rows.bits);
            mixbit_rows_times_columns(&layer->rows, 0u, layer->outputs, layer->features, &columns, 1u, y, at, layer->inner,
                                      layer->y_bits);
        }
    }
}

#endif
