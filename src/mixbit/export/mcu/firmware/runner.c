/* Runs an exported network on an emulated board, file to file.
 *
 * "inputs" holds samples of MODEL_INPUT_BYTES. Written are "outputs", the accumulators of the last layer; "ticks", for
 * every sample the SysTick ticks of each layer and of the whole inference; "stack", the most bytes of stack in use; and
 * with -DRUNNER_LAYERS "layers", what every layer wrote. */
#include "board.h"
#include "model.h"

enum { NO_FILE = 2, NO_INFERENCE = 3, NO_SPACE = 4 };

static int8_t input[MODEL_INPUT_BYTES];
static int32_t output[MODEL_OUTPUT_SIZE];
static uint32_t ticks[MODEL_LAYERS + 1];

#ifdef MODEL_HOOK
static uint64_t before;
static uint32_t hook_ticks;
#ifdef RUNNER_LAYERS
static int layers;
#endif

static uint32_t less(uint64_t found, uint32_t own) { return found > own ? (uint32_t)found - own : 0; }

void model_hook(int layer, const void *result, uint32_t size_bytes) {
  const uint64_t now = board_ticks();
  if (layer >= 0) {
    ticks[layer] = less(now - before, hook_ticks);
#ifdef RUNNER_LAYERS
    if (board_write(layers, result, size_bytes) != size_bytes) board_exit(NO_SPACE);
#endif
  }
  (void)result;
  (void)size_bytes;
  before = board_ticks();
}

/* What an empty layer would count. */
static void calibrate(void) {
  model_hook(-1, 0, 0);
  hook_ticks = (uint32_t)(board_ticks() - before);
}
#else
static void calibrate(void) {}
#endif

static int open_or_exit(const char *path, const char *mode) {
  const int file = board_open(path, mode);
  if (file < 0) board_exit(NO_FILE);
  return file;
}

int main(void) {
  const int inputs = open_or_exit("inputs", "rb"), outputs = open_or_exit("outputs", "wb");
  const int counts = open_or_exit("ticks", "wb");
#ifdef RUNNER_LAYERS
  layers = open_or_exit("layers", "wb");
#endif
  board_start_ticks();
  calibrate();
  while (board_read(inputs, input, sizeof input) == sizeof input) {
    const uint64_t begin = board_ticks();
    if (model_invoke(input, output) != 0) board_exit(NO_INFERENCE);
    ticks[MODEL_LAYERS] = (uint32_t)(board_ticks() - begin);
    board_write(outputs, output, sizeof output);
    board_write(counts, ticks, sizeof ticks);
  }
  board_close(outputs);
  board_close(counts);
#ifdef RUNNER_LAYERS
  board_close(layers);
#endif
  const uint32_t stack = (uint32_t)board_stack_used();
  const int file = open_or_exit("stack", "wb");
  board_write(file, &stack, sizeof stack);
  board_close(file);
  return 0;
}
