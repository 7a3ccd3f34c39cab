/* Startup code of the emulated boards: vector table, memory, floating point, SysTick, semihosting.
 *
 * One file for all cores: Armv7-M and Armv8-M start alike. What differs, the memory map, is in the linker script. */
#include "board.h"

extern uint32_t __data_source[], __data_start[], __data_end[], __bss_start[], __bss_end[];
extern uint32_t __stack_limit[], __stack_top[];

extern int main(void);
/* Of newlib, and absent from programs that use no C library. */
extern void initialise_monitor_handles(void) __attribute__((weak));
extern int fflush(void *file) __attribute__((weak));

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define CPACR REGISTER(0xE000ED88)
#define SYSTICK_CONTROL REGISTER(0xE000E010)
#define SYSTICK_RELOAD REGISTER(0xE000E014)
#define SYSTICK_VALUE REGISTER(0xE000E018)
#ifndef SYSTICK_PERIOD
#define SYSTICK_PERIOD 0x1000000u
#endif

enum { SYS_OPEN = 0x01, SYS_CLOSE = 0x02, SYS_WRITE0 = 0x04, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
enum { EXIT_FAULT = 250 };

#define STACK_PATTERN 0xC5C5C5C5u

/* ------------------------------------------------------------------------------------------------- semihosting */

static int semihosting(int call, const void *arguments) {
  register int r0 __asm__("r0") = call;
  register const void *r1 __asm__("r1") = arguments;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

static size_t length(const char *text) {
  size_t count = 0;
  while (text[count]) count++;
  return count;
}

int board_open(const char *path, const char *mode) {
  uint32_t number = mode[0] == 'w' ? 5 : mode[0] == 'a' ? 9 : 1; /* wb, ab, rb */
  uint32_t arguments[3] = {(uint32_t)path, number, length(path)};
  return semihosting(SYS_OPEN, arguments);
}

int board_close(int file) { return semihosting(SYS_CLOSE, (uint32_t[]){(uint32_t)file}); }

/* Both calls return the bytes that are left. */
size_t board_read(int file, void *bytes, size_t count) {
  uint32_t arguments[3] = {(uint32_t)file, (uint32_t)bytes, count};
  return count - (size_t)semihosting(SYS_READ, arguments);
}

size_t board_write(int file, const void *bytes, size_t count) {
  uint32_t arguments[3] = {(uint32_t)file, (uint32_t)bytes, count};
  return count - (size_t)semihosting(SYS_WRITE, arguments);
}

void board_log(const char *text) { semihosting(SYS_WRITE0, text); }

_Noreturn void board_exit(int code) {
  uint32_t arguments[2] = {0x20026, (uint32_t)code}; /* ADP_Stopped_ApplicationExit */
  for (;;) semihosting(SYS_EXIT_EXTENDED, arguments);
}

/* ---------------------------------------------------------------------------------------------------- counting */

static volatile uint32_t overflows;

void SysTick_Handler(void) { overflows++; }

void board_start_ticks(void) {
  SYSTICK_CONTROL = 0;
  SYSTICK_RELOAD = SYSTICK_PERIOD - 1;
  SYSTICK_VALUE = 0; /* any write clears */
  overflows = 0;
  SYSTICK_CONTROL = 7; /* processor clock, interrupt, on */
}

uint64_t board_ticks(void) {
  uint32_t before, value;
  do { /* the counter may overflow between the two */
    before = overflows;
    value = SYSTICK_VALUE;
  } while (before != overflows);
  /* It counts down and overflows when it reaches zero, one tick before it is loaded anew. */
  return (uint64_t)before * SYSTICK_PERIOD + (value ? SYSTICK_PERIOD - value : 0);
}

size_t board_stack_used(void) {
  const uint32_t *lowest = __stack_limit;
  while (lowest < __stack_top && *lowest == STACK_PATTERN) lowest++;
  return (size_t)(__stack_top - lowest) * sizeof *lowest;
}

/* ------------------------------------------------------------------------------------------------------- start */

static void fill(uint32_t *from, const uint32_t *to, uint32_t value) {
  while (from < to) *from++ = value;
}

__attribute__((used, noinline)) static void start(void) {
  const uint32_t *source = __data_source;
  for (uint32_t *word = __data_start; word < __data_end;) *word++ = *source++;
  fill(__bss_start, __bss_end, 0);
  uint32_t here;
  fill(__stack_limit, &here - 16, STACK_PATTERN); /* what lies below this frame is unused yet */
  if (initialise_monitor_handles) initialise_monitor_handles();
  int code = main();
  if (fflush) fflush(0); /* all files of a program with a C library */
  board_exit(code);
}

__attribute__((naked)) void Reset_Handler(void) {
#ifdef __ARM_FP
  /* Floating point and vectors on, before the compiler may use either. */
  __asm__ volatile("ldr r0, =0xE000ED88\n ldr r1, [r0]\n orr r1, r1, #(0xF << 20)\n str r1, [r0]\n dsb\n isb\n" ::: "r0", "r1");
#endif
  __asm__ volatile("b start");
}

void Fault_Handler(void) {
  board_log("fault: the program left its memory, or the core lacks an instruction\n");
  board_exit(EXIT_FAULT);
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    __stack_top,   Reset_Handler, Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler,
    Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler, SysTick_Handler,
};
