/* Runs the network on recorded inputs, file to file: host_main INPUTS OUTPUTS [LAYERS].
 *
 * INPUTS holds samples of MODEL_INPUT_BYTES. OUTPUTS gets MODEL_OUTPUT_SIZE int32_t a sample, in the machine's byte order.
 * LAYERS gets what every layer wrote, one after the other, sample by sample.
 */
#include <stdio.h>

#include "model.h"

static FILE *layers;
static int failed;

void model_hook(int layer, const void *output, uint32_t size_bytes)
{
    if (layers != NULL && layer >= 0 && fwrite(output, 1, size_bytes, layers) != size_bytes) {
        failed = 1;
    }
}

int main(int argc, char **argv)
{
    static int8_t input[MODEL_INPUT_BYTES];
    static int32_t output[MODEL_OUTPUT_SIZE];
    FILE *inputs, *outputs;
    if (argc < 3) {
        fprintf(stderr, "usage: %s INPUTS OUTPUTS [LAYERS]\n", argc > 0 ? argv[0] : "host_main");
        return 2;
    }
    inputs = fopen(argv[1], "rb");
    outputs = fopen(argv[2], "wb");
    layers = argc > 3 ? fopen(argv[3], "wb") : NULL;
    if (inputs == NULL || outputs == NULL || (argc > 3 && layers == NULL)) {
        fprintf(stderr, "cannot open the files\n");
        return 2;
    }
    while (fread(input, 1, sizeof input, inputs) == sizeof input) {
        if (model_invoke(input, output) != 0 || fwrite(output, sizeof output, 1, outputs) != 1) {
            failed = 1;
        }
    }
    if (fclose(outputs) != 0 || (layers != NULL && fclose(layers) != 0)) {
        failed = 1;
    }
    fclose(inputs);
    return failed;
}
