/* What a program can ask of an emulated board: files on the host, an exit code, and how many instructions it has run.
 *
 * Needs no C library. Semihosting: the program stops at a breakpoint with a call number in r0 and its arguments in r1,
 * and the emulator does what the call asks for on the host. */
#ifndef MIXBIT_BOARD_H
#define MIXBIT_BOARD_H

#include <stddef.h>
#include <stdint.h>

/* As fopen: "rb", "wb", "ab". Negative where there is no such file. */
int board_open(const char *path, const char *mode);
int board_close(int file);

/* Bytes that were read or written. */
size_t board_read(int file, void *bytes, size_t count);
size_t board_write(int file, const void *bytes, size_t count);

/* Text on the emulator's standard error. */
void board_log(const char *text);

/* End the program; the emulator ends with this exit code. */
_Noreturn void board_exit(int code);

/* SysTick ticks since board_start_ticks, across overflows of the 24-bit counter. Under `-icount shift=0` an instruction
 * takes one nanosecond, so a tick of a 25 MHz board is 40 instructions. */
void board_start_ticks(void);
uint64_t board_ticks(void);

/* Most bytes of stack that were in use so far. */
size_t board_stack_used(void);

#endif
