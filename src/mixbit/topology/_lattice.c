/* Birth times of the first one-dimensional hole of maps read as pixel lattices, for a batch of maps of one size.
 *
 * Pixels are vertices; pixels that share a side are joined by an edge, and four that share a corner span a square. Pixels enter
 * from the brightest to the darkest, equal ones together; an edge or a square is there as soon as all its pixels are. The birth time
 * is the number of the step (1 = the brightest value) after which the first Betti number is not zero; 0 where there is none.
 * A pixel of -inf never enters.
 *
 * The complex lies in the plane, so pixels - edges + squares = components - holes after every pixel. A pixel that brings e edges
 * and s squares and joins j components that were apart therefore adds e - s - j to the holes. That is exact for each pixel, also
 * among equal ones, and needs a union-find structure and nothing else.
 *
 * The darkest value is left out. Either it is -inf, or with it the whole rectangle is there and has no hole.
 *
 * Built without linking an OpenMP runtime on purpose: the symbols come from the one that PyTorch has loaded. Maps are
 * independent of each other, so results do not depend on the number of threads.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NO_BIRTH 0
#define NOT_A_NUMBER -1
#define NO_MEMORY -2
#define DIGITS 4 /* bytes of a key */
#define SIDES 4
#define AROUND 8

typedef struct { /* what all maps of one call share: a frame one pixel wide stands around the map and never enters */
    int64_t height, width, framed;
    int32_t step[AROUND]; /* to the neighbours, clockwise; those that share a side have even numbers */
} Lattice;

typedef struct { /* what one thread needs for one map */
    uint64_t *pixel, *spare; /* key in the upper half, place in the frame in the lower one */
    uint8_t *present;
    int32_t *parent;
} Work;

/* ------------------------------------------------------------------------------------------------ order of the pixels */

static inline uint32_t descending_key(float v) { /* a brighter pixel has a smaller key; signs are too random for a branch */
    union { float f; uint32_t u; } bits;
    bits.f = v;
    return bits.u ^ (((bits.u >> 31) - 1) & 0x7fffffffu);
}

/* By radix, a byte at a time; a byte that is the same in all keys costs nothing. The result lies in `pixel`. */
static void sort(Work *w, int64_t n) {
    int32_t start[DIGITS][256] = {{0}};
    for (int64_t i = 0; i < n; i++)
        for (int d = 0; d < DIGITS; d++) start[d][w->pixel[i] >> (32 + 8 * d) & 255]++;
    for (int d = 0; d < DIGITS; d++) {
        int shift = 32 + 8 * d;
        if (start[d][w->pixel[0] >> shift & 255] == n) continue;
        for (int32_t b = 0, total = 0; b < 256; b++) {
            int32_t count = start[d][b];
            start[d][b] = total;
            total += count;
        }
        for (int64_t i = 0; i < n; i++) w->spare[start[d][w->pixel[i] >> shift & 255]++] = w->pixel[i];
        uint64_t *other = w->pixel;
        w->pixel = w->spare;
        w->spare = other;
    }
}

/* Pixels above the darkest value into `pixel`; returns how many, or NOT_A_NUMBER. */
static int64_t gather(const float *map, const Lattice *g, Work *w) {
    int64_t pixels = g->height * g->width, n = 0, at = 0;
    float darkest = INFINITY;
    int bad = 0;
    _Pragma("omp simd reduction(min : darkest) reduction(| : bad)") for (int64_t i = 0; i < pixels; i++) {
        float v = map[i];
        bad |= v != v;
        darkest = v < darkest ? v : darkest;
    }
    if (bad) return NOT_A_NUMBER;
    for (int64_t y = 0; y < g->height; y++)
        for (int64_t x = 0; x < g->width; x++, at++) {
            float v = map[at] + 0.0f; /* makes -0.0 and 0.0 one value */
            uint64_t place = (uint64_t)((y + 1) * (g->width + 2) + x + 1);
            w->pixel[n] = (uint64_t)descending_key(v) << 32 | place;
            n += v > darkest;
        }
    return n;
}

/* --------------------------------------------------------------------------------------------------------- the lattice */

static inline int32_t find(int32_t *parent, int32_t v) {
    while (parent[v] != v) v = parent[v] = parent[parent[v]];
    return v;
}

/* Let a pixel in. Returns by how much that changes the number of holes. */
static inline int64_t enter(const Lattice *g, Work *w, int32_t at) {
    int64_t edges = 0, squares = 0, joined = 0;
    uint8_t there[AROUND + 1];
    for (int k = 0; k < AROUND; k++) there[k] = w->present[at + g->step[k]];
    there[AROUND] = there[0];
    w->present[at] = 1;
    w->parent[at] = at;
    int32_t own = at;
    for (int k = 0; k < AROUND; k += AROUND / SIDES) {
        if (!there[k]) continue;
        edges++;
        squares += there[k + 1] & there[k + 2];
        int32_t root = find(w->parent, at + g->step[k]);
        joined += root != own;
        w->parent[own] = root;
        own = root;
    }
    return edges - squares - joined;
}

/* --------------------------------------------------------------------------------------------------------------- a map */

static int32_t birth_of(const float *map, const Lattice *g, Work *w, int64_t v_max) {
    int64_t n = gather(map, g, w), holes = 0;
    if (n < 1) return n ? NOT_A_NUMBER : NO_BIRTH;
    sort(w, n);
    memset(w->present, 0, (size_t)g->framed);
    int32_t step = 0;
    for (int64_t i = 0; i < n;) {
        uint64_t value = w->pixel[i] >> 32;
        if (++step > v_max) return NO_BIRTH;
        while (i < n && w->pixel[i] >> 32 == value) holes += enter(g, w, (int32_t)w->pixel[i++]);
        if (holes) return step;
    }
    return NO_BIRTH;
}

static Lattice make_lattice(int64_t height, int64_t width) {
    int32_t down = (int32_t)width + 2;
    return (Lattice){
        .height = height,
        .width = width,
        .framed = (height + 2) * (width + 2),
        .step = {1, down + 1, down, down - 1, -1, -down - 1, -down, -down + 1},
    };
}

static int make_work(Work *w, const Lattice *g) {
    size_t room = (size_t)g->framed;
    *w = (Work){.pixel = malloc(room * 8), .spare = malloc(room * 8), .present = malloc(room), .parent = malloc(room * 4)};
    return w->pixel && w->spare && w->present && w->parent;
}

static void free_work(Work *w) { free(w->pixel), free(w->spare), free(w->present), free(w->parent); }

/* Births of `count` maps (height, width), one after the other in memory. Returns 0 without memory, else 1; a map with a NaN
 * gets -1. */
int64_t mixbit_lattice_births(const float *maps, int32_t *births, int64_t count, int64_t height, int64_t width, int64_t v_max) {
    Lattice g = make_lattice(height, width);
    int failed = 0;
    _Pragma("omp parallel if (count * height * width > 16384)") {
        Work w;
        int ready = make_work(&w, &g);
        _Pragma("omp for schedule(static, 64)") for (int64_t i = 0; i < count; i++)
            births[i] = ready ? birth_of(maps + i * height * width, &g, &w, v_max) : NO_MEMORY;
        if (!ready) {
            _Pragma("omp atomic write") failed = 1;
        }
        free_work(&w);
    }
    return !failed;
}
