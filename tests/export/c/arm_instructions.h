/* What the instructions of the DSP kernels do, in plain C (Arm v7-M Architecture Reference Manual, A7.7). */
#ifndef ARM_INSTRUCTIONS_H
#define ARM_INSTRUCTIONS_H

#include <stdint.h>

static inline int32_t arm_low(uint32_t word) { return (int16_t)(word & 0xFFFFu); }
static inline int32_t arm_high(uint32_t word) { return (int16_t)(word >> 16); }
static inline uint32_t arm_halves(int32_t low, int32_t high)
{
    return ((uint32_t)low & 0xFFFFu) | ((uint32_t)high << 16);
}

/* Shifts of a second operand. */
static inline uint32_t arm_lsl(uint32_t word, uint32_t by) { return word << by; }
static inline uint32_t arm_lsr(uint32_t word, uint32_t by) { return word >> by; }
static inline uint32_t arm_asr(uint32_t word, uint32_t by) { return (uint32_t)((int32_t)word >> by); }
static inline uint32_t arm_ror(uint32_t word, uint32_t by) { return by == 0u ? word : (word >> by) | (word << (32u - by)); }

static inline uint32_t arm_and(uint32_t a, uint32_t b) { return a & b; }
static inline uint32_t arm_pkhbt(uint32_t a, uint32_t b) { return (a & 0xFFFFu) | (b & 0xFFFF0000u); }
static inline uint32_t arm_pkhtb(uint32_t a, uint32_t b) { return (a & 0xFFFF0000u) | (b & 0xFFFFu); }
static inline uint32_t arm_sxtb16(uint32_t word)
{
    return arm_halves((int8_t)(word & 0xFFu), (int8_t)((word >> 16) & 0xFFu));
}
static inline uint32_t arm_sbfx(uint32_t word, uint32_t low, uint32_t width)
{
    return (uint32_t)((int32_t)(word << (32u - low - width)) >> (32u - width));
}

/* Sums wrap around. */
static inline uint32_t arm_smlabb(uint32_t a, uint32_t b, uint32_t sum)
{
    return sum + (uint32_t)(arm_low(a) * arm_low(b));
}
static inline uint32_t arm_smlatt(uint32_t a, uint32_t b, uint32_t sum)
{
    return sum + (uint32_t)(arm_high(a) * arm_high(b));
}
static inline uint32_t arm_smlad(uint32_t a, uint32_t b, uint32_t sum)
{
    return arm_smlatt(a, b, arm_smlabb(a, b, sum));
}

#endif
