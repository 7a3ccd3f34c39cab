/* Elements from one tensor to another, without arithmetic. */
#include "mixbit_inline.h"

void mixbit_fill(int8_t *y, uint32_t count, mixbit_level value, uint8_t bits)
{
    uint32_t i;
    for (i = 0; i < count; i++) {
        mixbit_put(y, i, bits, value);
    }
}

void mixbit_move(const mixbit_move_layer *layer, const int8_t *x, int8_t *y)
{
    uint32_t a, b, c, d;
    for (a = 0; a < layer->size[0]; a++) {
        for (b = 0; b < layer->size[1]; b++) {
            for (c = 0; c < layer->size[2]; c++) {
                uint32_t from = layer->x_start + a * layer->x_stride[0] + b * layer->x_stride[1] + c * layer->x_stride[2];
                uint32_t to = layer->y_start + a * layer->y_stride[0] + b * layer->y_stride[1] + c * layer->y_stride[2];
                for (d = 0; d < layer->size[3]; d++) {
                    mixbit_put(y, to, layer->y_bits, mixbit_get(x, from, layer->x_bits));
                    from += layer->x_stride[3];
                    to += layer->y_stride[3];
                }
            }
        }
    }
}

void mixbit_reshape(const mixbit_reshape_layer *layer, const int8_t *x, int8_t *y)
{
    const uint32_t x_places = layer->count / layer->x_channels, y_places = layer->count / layer->y_channels;
    uint32_t i;
    for (i = 0; i < layer->count; i++) {
        const uint32_t from = i % x_places * layer->x_channels + i / x_places;
        const uint32_t to = i % y_places * layer->y_channels + i / y_places;
        mixbit_put(y, to, layer->y_bits, mixbit_get(x, from, layer->x_bits));
    }
}
