#include <string.h>

/* The barrier keeps the compiler from making a call of memcpy or memset out of the loop, which would call itself. */
static inline void copy(unsigned char *to, const unsigned char *from, size_t count)
{
    while (count--) {
        *to++ = *from++;
        __asm__ volatile("");
    }
}

static inline void fill(unsigned char *to, int byte, size_t count)
{
    while (count--) {
        *to++ = (unsigned char)byte;
        __asm__ volatile("");
    }
}

void *memcpy(void *to, const void *from, size_t count)
{
    copy(to, from, count);
    return to;
}

void *memset(void *to, int byte, size_t count)
{
    fill(to, byte, count);
    return to;
}

/* What compilers for this core call instead, by its binary interface. */
void __aeabi_memcpy(void *to, const void *from, size_t count) { copy(to, from, count); }
void __aeabi_memcpy4(void *to, const void *from, size_t count) { copy(to, from, count); }
void __aeabi_memset(void *to, size_t count, int byte) { fill(to, byte, count); }
void __aeabi_memset4(void *to, size_t count, int byte) { fill(to, byte, count); }
void __aeabi_memclr(void *to, size_t count) { fill(to, 0, count); }
void __aeabi_memclr4(void *to, size_t count) { fill(to, 0, count); }
