/* Recorded inputs through the network: every layer's checksum and all outputs must be those of the reference.
 *
 * model_selftest() needs no library; call it on the board. -DMODEL_SELFTEST_NO_MAIN leaves main() and stdio out.
 * Compile the whole network with -DMODEL_HOOK.
 */
#include "selftest.h"

#include "selftest_vectors.h"

static int vector;
static int first_wrong;

/* FNV-1a, 32 bits. */
static uint32_t checksum(const uint8_t *bytes, uint32_t count)
{
    uint32_t hash = UINT32_C(2166136261), i;
    for (i = 0; i < count; i++) {
        hash = (hash ^ bytes[i]) * UINT32_C(16777619);
    }
    return hash;
}

void model_hook(int layer, const void *output, uint32_t size_bytes)
{
    if (layer < 0 || first_wrong != 0) {
        return;
    }
    if (checksum((const uint8_t *)output, size_bytes) != selftest_checksums[vector][layer]) {
        first_wrong = layer + 1;
    }
}

int model_selftest(void)
{
    static int32_t output[MODEL_OUTPUT_SIZE];
    uint32_t i;
    for (vector = 0; vector < SELFTEST_VECTORS; vector++) {
        first_wrong = 0;
        if (model_invoke(selftest_inputs[vector], output) != 0) {
            return MODEL_LAYERS + 1;
        }
        if (first_wrong != 0) {
            return first_wrong;
        }
        for (i = 0; i < MODEL_OUTPUT_SIZE; i++) {
            if (output[i] != selftest_outputs[vector][i]) {
                return MODEL_LAYERS + 1;
            }
        }
    }
    return 0;
}

#ifndef MODEL_SELFTEST_NO_MAIN
#include <stdio.h>

int main(void)
{
    const int wrong = model_selftest();
    if (wrong == 0) {
        printf("self-test: %d inputs, all %d layers as recorded\n", SELFTEST_VECTORS, MODEL_LAYERS);
    } else if (wrong <= MODEL_LAYERS) {
        printf("self-test: layer %d (%s) is the first that differs\n", wrong - 1, selftest_layers[wrong - 1]);
    } else {
        printf("self-test: the outputs differ\n");
    }
    return wrong != 0;
}
#endif
