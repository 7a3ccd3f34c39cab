#ifndef MODEL_SELFTEST_H
#define MODEL_SELFTEST_H

#include "model.h"

/* 0: all is as recorded; n: layer n - 1 is the first that differs; MODEL_LAYERS + 1: only the outputs differ. */
int model_selftest(void);

#endif
