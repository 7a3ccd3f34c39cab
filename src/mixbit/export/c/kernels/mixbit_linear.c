/* Linear layer. A vector is used where it lies; features that lie apart are gathered first. */
#include "mixbit_inline.h"

#if !MIXBIT_DSP

static void gather(const mixbit_linear_layer *layer, const int8_t *x, uint32_t from, int8_t *column)
{
    uint32_t i;
    for (i = 0; i < layer->features; i++) {
        const int32_t value = mixbit_get(x, from + i * layer->inner, layer->x_bits);
        column[i] = (int8_t)(layer->table == 0 ? value : layer->table[value - layer->x_low]);
    }
}

void mixbit_linear(const mixbit_linear_layer *layer, const int8_t *x, void *y, void *scratch)
{
    const int direct = layer->inner == 1u && layer->x_bits == 8u && layer->table == 0;
    uint32_t i, j;
    for (i = 0; i < layer->outer; i++) {
        for (j = 0; j < layer->inner; j++) {
            const uint32_t from = i * layer->features * layer->inner + j;
            const int8_t *column = (const int8_t *)scratch;
            if (direct) {
                column = x + from;
            } else {
                gather(layer, x, from, (int8_t *)scratch);
            }
            mixbit_rows_times(&layer->rows, 0u, layer->outputs, column, layer->features, y,
                              i * layer->outputs * layer->inner + j, layer->inner, layer->y_bits);
        }
    }
}

#endif
