/* Birth times of the first one-dimensional hole, for a batch of square maps.
 *
 * A map (m, m) is a weighted graph on m vertices: edge {i, j} weighs max(map[i][j], map[j][i]), the diagonal is ignored.
 * Edges enter from the heaviest to the lightest, equal ones together, and every clique is filled. The birth time is the
 * number of the step (1 = the heaviest value) after which the first Betti number over GF(2) is not zero; 0 where there is none.
 * An edge of weight -inf never enters.
 *
 * An edge {a, b} that enters alone makes a hole exactly when a and b are connected already and have no common neighbour: it
 * attaches the cone over the suspension of the clique complex of their common neighbours, which is connected unless that
 * complex is empty. For edges that enter together each gets an annotation, the class of its cocycle values: an edge that
 * makes a hole gets a unit vector of its own, one with a common neighbour the sum over the other two edges of the triangle, and
 * every further triangle whose sum is not zero kills one class. The classes alive after the group are the Betti number.
 *
 * The lightest value is left out. Either it is -inf, or with it the graph is complete and has no hole. A vertex that is joined
 * to all others makes the complex a cone, now and later: no hole any more.
 *
 * Only the heaviest edges matter for nearly all maps, so they are picked by thresholds from a sample and sorted first; the rest is
 * sorted only where the scan runs out.
 *
 * Built without linking an OpenMP runtime on purpose: the symbols come from the one that PyTorch has loaded. Maps are
 * independent of each other, so results do not depend on the number of threads.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MULTIVERSION
#endif
#define INLINE static inline __attribute__((always_inline))

#define LANES 16
#define COUNTED 256 /* up to so many edges are sorted by counting the heavier ones, more by radix */
#define SAMPLE 64
#define NO_BIRTH 0
#define NOT_A_NUMBER -1
#define NO_MEMORY -2

typedef struct { /* what all maps of one call share */
    int64_t m, words, edges;
    int32_t *first, *second; /* ends of an edge, first < second */
    int32_t *base;           /* number of edge (i, j) is base[i] + j */
} Graph;

typedef struct { /* what one thread needs for one map */
    float *weight;     /* of all edges */
    float *picked;     /* weights of the edges of one stage, padded to whole lanes */
    int32_t *edge;     /* their numbers */
    int32_t *order;    /* their places in `picked`, from the heaviest to the lightest */
    int32_t *spare;    /* for sorting */
    uint32_t *key;     /* for sorting */
    uint64_t *row;     /* adjacency: `words` words a vertex */
    int32_t *parent, *degree;
    int32_t *touched;  /* edges that entered since a class is alive */
    int64_t touches, live, width; /* width: words of an annotation */
    uint64_t *class, *used, *sum; /* annotations of all edges, slots in use, one annotation */
} Work;

/* ------------------------------------------------------------------------------------------------- order of the edges */

INLINE int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

/* By counting: few edges, one pass of vector comparisons for each. */
INLINE void order_by_counting(const float *restrict v, int64_t n, int32_t *restrict order, int32_t *restrict taken) {
    int64_t n_padded = padded(n);
    memset(taken, 0, (size_t)n * sizeof(int32_t));
    for (int64_t i = 0; i < n; i++) {
        float own = v[i];
        int32_t heavier[LANES] = {0}, place = 0;
        for (int64_t k = 0; k < n_padded; k += LANES)
            for (int64_t l = 0; l < LANES; l++) heavier[l] += v[k + l] > own;
        for (int64_t l = 0; l < LANES; l++) place += heavier[l];
        order[place + taken[place]++] = (int32_t)i;
    }
}

INLINE uint32_t descending_key(float v) { /* a heavier edge has a smaller key */
    union { float f; uint32_t u; } bits;
    bits.f = v;
    return bits.u & 0x80000000u ? bits.u : ~(bits.u | 0x80000000u);
}

static void order_by_radix(const float *v, int64_t n, int32_t *order, int32_t *spare, uint32_t *key) {
    enum { BITS = 11, SIZE = 1 << BITS };
    int32_t start[SIZE];
    int32_t *from = spare, *to = order;
    for (int64_t i = 0; i < n; i++) key[i] = descending_key(v[i]), from[i] = (int32_t)i;
    for (int shift = 0; shift < 33; shift += BITS) {
        memset(start, 0, sizeof start);
        for (int64_t i = 0; i < n; i++) start[(key[i] >> shift) & (SIZE - 1)]++;
        for (int32_t b = 0, total = 0; b < SIZE; b++) {
            int32_t count = start[b];
            start[b] = total;
            total += count;
        }
        for (int64_t i = 0; i < n; i++) to[start[(key[from[i]] >> shift) & (SIZE - 1)]++] = from[i];
        int32_t *other = from;
        from = to;
        to = other;
    }
    /* After three passes the result lies in `order`. */
}

/* The weights that about `few` and about `many` edges reach, from a sample. */
INLINE void thresholds(const Work *w, int64_t edges, int64_t few, int64_t many, float *first, float *second) {
    float sample[SAMPLE];
    int32_t order[SAMPLE], taken[SAMPLE];
    for (int64_t k = 0; k < SAMPLE; k++) sample[k] = w->weight[k * edges / SAMPLE];
    order_by_counting(sample, SAMPLE, order, taken);
    int64_t a = few * SAMPLE / edges, b = many * SAMPLE / edges;
    *first = sample[order[a < SAMPLE ? a : SAMPLE - 1]];
    *second = sample[order[b < SAMPLE ? b : SAMPLE - 1]];
}

/* Edges with low < weight, from <= weight < to, into `picked` and `edge`; returns how many, sorted by `order`. */
INLINE int64_t pick(Work *w, int64_t edges, float low, float from, float to) {
    int64_t n = 0;
    for (int64_t e = 0; e < edges; e++) {
        float v = w->weight[e];
        w->edge[n] = (int32_t)e;
        w->picked[n] = v;
        n += (v > low) & (v >= from) & !(v >= to); /* a NaN as `to` is no bound */
    }
    if (n > COUNTED) {
        order_by_radix(w->picked, n, w->order, w->spare, w->key);
    } else {
        for (int64_t i = n; i < padded(n); i++) w->picked[i] = -INFINITY;
        order_by_counting(w->picked, n, w->order, w->spare);
    }
    return n;
}

/* ------------------------------------------------------------------------------------------------------------ the graph */

INLINE int32_t find(int32_t *parent, int32_t v) {
    while (parent[v] != v) v = parent[v] = parent[parent[v]];
    return v;
}

INLINE int have_common_neighbour(const Work *w, int32_t a, int32_t b, int64_t words) {
    uint64_t common = 0;
    for (int64_t k = 0; k < words; k++) common |= w->row[a * words + k] & w->row[b * words + k];
    return common != 0;
}

/* Whether the vertices were apart; they are not afterwards. */
INLINE int join(int32_t *parent, int32_t a, int32_t b) {
    int32_t root = find(parent, a), other = find(parent, b);
    if (root == other) return 0;
    parent[root] = other;
    return 1;
}

/* Whether one of the ends is now joined to all vertices. */
INLINE int connect(Work *w, int32_t a, int32_t b, int64_t m, int64_t words) {
    w->row[a * words + (b >> 6)] |= (uint64_t)1 << (b & 63);
    w->row[b * words + (a >> 6)] |= (uint64_t)1 << (a & 63);
    w->degree[a]++;
    w->degree[b]++;
    return (w->degree[a] == m - 1) | (w->degree[b] == m - 1);
}

/* --------------------------------------------------------------------------------------- edges that enter together */

static void forget_classes(Work *w) {
    for (int64_t i = 0; i < w->touches; i++) memset(w->class + w->touched[i] * w->width, 0, (size_t)w->width * 8);
    memset(w->used, 0, (size_t)w->width * 8);
    w->touches = w->live = 0;
}

/* Twice the room for classes; the annotations move. */
static int widen(const Graph *g, Work *w) {
    int64_t width = w->width ? 2 * w->width : 1;
    uint64_t *class = calloc((size_t)(g->edges * width), 8), *used = calloc((size_t)width, 8), *sum = malloc((size_t)width * 8);
    if (!class || !used || !sum) {
        free(class), free(used), free(sum);
        return 0;
    }
    for (int64_t i = 0; i < w->touches; i++)
        memcpy(class + w->touched[i] * width, w->class + w->touched[i] * w->width, (size_t)w->width * 8);
    if (w->width) memcpy(used, w->used, (size_t)w->width * 8);
    free(w->class), free(w->used), free(w->sum);
    w->class = class, w->used = used, w->sum = sum, w->width = width;
    return 1;
}

/* A new class with `edge` as its only member; 0 without memory. */
static int new_class(const Graph *g, Work *w, int64_t edge) {
    int64_t k = 0;
    while (k < w->width && w->used[k] == ~(uint64_t)0) k++;
    if (k == w->width && !widen(g, w)) return 0;
    uint64_t slot = ~w->used[k] & (w->used[k] + 1); /* the lowest bit that is free */
    w->used[k] |= slot;
    w->class[edge * w->width + k] = slot;
    w->touched[w->touches++] = (int32_t)edge;
    w->live++;
    return 1;
}

/* `sum` becomes zero in homology: one of its classes is expressed by the others. */
static void kill_class(Work *w) {
    int64_t k = 0;
    while (!w->sum[k]) k++;
    uint64_t slot = w->sum[k] & (~w->sum[k] + 1);
    for (int64_t i = 0; i < w->touches; i++) {
        uint64_t *own = w->class + w->touched[i] * w->width;
        if (own[k] & slot)
            for (int64_t j = 0; j < w->width; j++) own[j] ^= w->sum[j];
    }
    w->used[k] &= ~slot;
    if (--w->live == 0) w->touches = 0;
}

/* Annotate an edge with common neighbours while classes are alive, one triangle after the other. */
static void annotate(const Graph *g, Work *w, int64_t edge, int32_t a, int32_t b) {
    uint64_t *own = w->class + edge * w->width;
    int fresh = 1;
    for (int64_t k = 0; k < g->words && w->live; k++)
        for (uint64_t left = w->row[a * g->words + k] & w->row[b * g->words + k]; left && w->live; left &= left - 1) {
            int32_t c = (int32_t)(64 * k + __builtin_ctzll(left));
            const uint64_t *ac = w->class + (a < c ? g->base[a] + c : g->base[c] + a) * w->width;
            const uint64_t *bc = w->class + (b < c ? g->base[b] + c : g->base[c] + b) * w->width;
            uint64_t any = 0;
            for (int64_t j = 0; j < w->width; j++) any |= w->sum[j] = own[j] ^ ac[j] ^ bc[j];
            if (fresh) {
                memcpy(own, w->sum, (size_t)w->width * 8);
                w->touched[w->touches++] = (int32_t)edge;
                fresh = 0;
            } else if (any) {
                kill_class(w);
            }
        }
}

/* Insert the edges of a group. Returns 1 if a hole is there afterwards, 2 if there can never be one, else 0. */
static int insert_together(const Graph *g, Work *w, int64_t from, int64_t to) {
    int cone = 0;
    for (int64_t i = from; i < to && !cone; i++) {
        int64_t edge = w->edge[w->order[i]];
        int32_t a = g->first[edge], b = g->second[edge];
        if (have_common_neighbour(w, a, b, g->words)) {
            if (w->live) annotate(g, w, edge, a, b);
        } else if (!join(w->parent, a, b) && !new_class(g, w, edge)) {
            return NO_MEMORY;
        }
        cone = connect(w, a, b, g->m, g->words);
    }
    int hole = w->live != 0;
    if (hole) forget_classes(w);
    return cone ? 2 : hole;
}

/* --------------------------------------------------------------------------------------------------------------- a map */

/* Go through the edges of one stage. Returns 1 when the answer is in *birth. */
INLINE int scan(const Graph *g, Work *w, int64_t n, int64_t v_max, int32_t *step, int32_t *birth, int64_t words) {
    for (int64_t from = 0, to; from < n; from = to) {
        float value = w->picked[w->order[from]];
        for (to = from + 1; to < n && w->picked[w->order[to]] == value;) to++;
        *birth = NO_BIRTH;
        if (++*step > v_max) return 1;
        if (to > from + 1) {
            int found = insert_together(g, w, from, to);
            if (found) {
                *birth = found == 1 ? *step : found == 2 ? NO_BIRTH : NO_MEMORY;
                return 1;
            }
            continue;
        }
        int64_t edge = w->edge[w->order[from]];
        int32_t a = g->first[edge], b = g->second[edge];
        if (!have_common_neighbour(w, a, b, words) && !join(w->parent, a, b)) {
            *birth = *step;
            return 1;
        }
        if (connect(w, a, b, g->m, words)) return 1;
    }
    return 0;
}

/* Weights of all edges and the lightest of them; returns whether one is not a number. */
INLINE int weigh(const float *restrict map, const Graph *g, float *restrict weight, float *lightest) {
    int64_t m = g->m;
    float *to = weight;
    for (int64_t i = 0; i < m; i++) {
        const float *row = map + i * m, *column = map + i;
        for (int64_t j = i + 1; j < m; j++) {
            float a = row[j], b = column[j * m];
            *to++ = a > b || a != a ? a : b; /* a NaN on either side stays */
        }
    }
    float low = INFINITY;
    int bad = 0;
    _Pragma("omp simd reduction(min : low) reduction(| : bad)") for (int64_t e = 0; e < g->edges; e++) {
        float v = weight[e] + 0.0f; /* makes -0.0 and 0.0 one value */
        weight[e] = v;
        bad |= v != v;
        low = v < low ? v : low;
    }
    *lightest = low;
    return bad;
}

INLINE int32_t birth_of(const float *restrict map, const Graph *g, Work *w, int64_t v_max, int64_t words) {
    float low = INFINITY;
    int bad = weigh(map, g, w->weight, &low);
    if (bad) return NOT_A_NUMBER;
    memset(w->row, 0, (size_t)(g->m * words) * 8);
    memset(w->degree, 0, (size_t)g->m * sizeof(int32_t));
    for (int32_t v = 0; v < g->m; v++) w->parent[v] = v;
    int32_t step = 0, birth = NO_BIRTH;
    float bounds[4] = {INFINITY, low, low, low};
    int stages = 1;
    if (g->edges > SAMPLE) {
        thresholds(w, g->edges, g->m + 16, 6 * g->m, &bounds[1], &bounds[2]);
        stages = 3;
    }
    for (int s = 0; s < stages; s++) {
        if (s && bounds[s + 1] == bounds[s]) continue;
        /* The first stage has no upper bound: +inf is a weight like others. */
        int64_t n = pick(w, g->edges, low, bounds[s + 1], s ? bounds[s] : NAN);
        if (scan(g, w, n, v_max, &step, &birth, words)) return birth;
    }
    return NO_BIRTH;
}

MULTIVERSION static int32_t birth_one_word(const float *map, const Graph *g, Work *w, int64_t v_max) {
    return birth_of(map, g, w, v_max, 1);
}

MULTIVERSION static int32_t birth_many_words(const float *map, const Graph *g, Work *w, int64_t v_max) {
    return birth_of(map, g, w, v_max, g->words);
}

/* ------------------------------------------------------------------------------------------------------------ memory */

static void free_graph(Graph *g) { free(g->first), free(g->second), free(g->base); }

static int make_graph(Graph *g, int64_t m) {
    size_t edges = (size_t)(m * (m - 1) / 2 + 1) * sizeof(int32_t);
    *g = (Graph){.m = m, .words = (m + 63) / 64, .edges = m * (m - 1) / 2};
    g->first = malloc(edges), g->second = malloc(edges);
    g->base = malloc((size_t)m * sizeof(int32_t));
    if (!g->first || !g->second || !g->base) return 0;
    int64_t e = 0;
    for (int64_t i = 0; i < m; i++) {
        g->base[i] = (int32_t)(e - i - 1);
        for (int64_t j = i + 1; j < m; j++, e++) {
            g->first[e] = (int32_t)i, g->second[e] = (int32_t)j;
        }
    }
    return 1;
}

static void free_work(Work *w) {
    free(w->weight), free(w->picked), free(w->edge), free(w->order), free(w->spare), free(w->key), free(w->row);
    free(w->parent), free(w->degree), free(w->touched), free(w->class), free(w->used), free(w->sum);
}

static int make_work(Work *w, const Graph *g) {
    size_t room = (size_t)(padded(g->edges) + LANES) * 4, vertices = (size_t)g->m * 4;
    *w = (Work){0};
    w->weight = malloc(room), w->picked = malloc(room), w->edge = malloc(room), w->order = malloc(room);
    w->spare = malloc(room), w->key = malloc(room), w->touched = malloc(room);
    w->row = malloc((size_t)(g->m * g->words) * 8), w->parent = malloc(vertices), w->degree = malloc(vertices);
    return w->weight && w->picked && w->edge && w->order && w->spare && w->key && w->touched && w->row && w->parent && w->degree;
}

/* Births of `count` maps (m, m), m > 1, one after the other in memory. Returns 0 without memory, else 1; a map with a NaN off its
 * diagonal gets -1. */
int64_t mixbit_births(const float *maps, int32_t *births, int64_t count, int64_t m, int64_t v_max) {
    Graph g;
    int failed = !make_graph(&g, m);
    if (!failed) {
        _Pragma("omp parallel if (count * m > 4096)") {
            Work w;
            int ready = make_work(&w, &g);
            _Pragma("omp for schedule(static, 64)") for (int64_t i = 0; i < count; i++) {
                const float *map = maps + i * m * m;
                births[i] = !ready ? NO_MEMORY : g.words == 1 ? birth_one_word(map, &g, &w, v_max)
                                                              : birth_many_words(map, &g, &w, v_max);
                if (births[i] == NO_MEMORY) {
                    _Pragma("omp atomic write") failed = 1;
                }
            }
            free_work(&w);
        }
    }
    free_graph(&g);
    return !failed;
}
