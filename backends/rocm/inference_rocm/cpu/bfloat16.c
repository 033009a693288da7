// A layer whose weights are bf16. Activations are rounded to it too, and multiplied two inputs at a time.
//
// Weights lie in tiles of 32 outputs, which fill the lanes of two vectors: in a tile, pair of inputs after pair.

#include <stdlib.h>

#include "pool.h"
#include "vectors.h"

#define PAIR 2       // vectors of a tile
#define TILE (PAIR * LANES)
#define MOST_ROWS 8  // that go through a tile at once: their sums fill half of the registers
#define CACHED 262144 // bytes of activations that stay in a core's cache while tiles go by
#define PARTS 6      // for each thread, so that none waits long for another
#define AHEAD 4096   // bytes of weights that are asked of memory before they are wanted
#define ALONE 65536  // multiplications that are faster on one thread

typedef struct {
    const uint32_t *weights; // [tiles][inputs / 2][32]
    const float *bias;       // [outputs], or null
    const float *rows;       // [count][inputs]
    float *out;              // [count][outputs]
    uint32_t *pairs;         // the rows in bf16
    int64_t outputs, inputs, count;
    bool add;
    int64_t rows_at_once, tiles_at_once;
} Job;

static int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

static void narrow_row(const void *argument, int64_t row) {
    const Job *job = argument;
    const float *from = job->rows + row * job->inputs;
    uint16_t *to = (uint16_t *)(job->pairs + row * job->inputs / 2);
    for (int64_t i = 0; i < job->inputs; i += LANES) {
        u16x16 halves = narrowed(load_some(from + i, job->inputs - i));
        memcpy(to + i, &halves, (job->inputs - i < LANES ? job->inputs - i : LANES) * 2);
    }
}

// Some rows through a tile.
INLINE void multiply(const Job *job, int64_t tile, int64_t first, const int rows) {
    int64_t pairs = job->inputs / 2;
    const uint32_t *weights = job->weights + tile * pairs * TILE, *by = job->pairs + first * pairs;
    f32x16 sums[MOST_ROWS][PAIR] = {0};
    for (int64_t pair = 0; pair < pairs; pair++) {
        u32x16 lanes[PAIR];
        memcpy(lanes, weights + pair * TILE, sizeof lanes);
        UNROLL for (int i = 0; i < PAIR; i++) __builtin_prefetch((const char *)(weights + pair * TILE) + AHEAD + 64 * i);
        UNROLL for (int row = 0; row < rows; row++) {
            u32x16 both = by[row * pairs + pair] - (u32x16){0};
            UNROLL for (int i = 0; i < PAIR; i++) sums[row][i] = dot2(sums[row][i], lanes[i], both);
        }
    }
    UNROLL for (int row = 0; row < rows; row++) {
        UNROLL for (int i = 0; i < PAIR; i++) {
            int64_t output = tile * TILE + i * LANES, left = job->outputs - output;
            if (left <= 0) break;
            float *to = job->out + (first + row) * job->outputs + output;
            f32x16 value = sums[row][i];
            if (job->bias) value += load_some(job->bias + output, left);
            store_some(to, job->add ? value + load_some(to, left) : value, left);
        }
    }
}

static void multiply_rows(const Job *job, int64_t tile, int64_t first, int64_t rows) {
    switch (rows) {
    case 1: return multiply(job, tile, first, 1);
    case 2: return multiply(job, tile, first, 2);
    case 3: return multiply(job, tile, first, 3);
    case 4: return multiply(job, tile, first, 4);
    case 5: return multiply(job, tile, first, 5);
    case 6: return multiply(job, tile, first, 6);
    case 7: return multiply(job, tile, first, 7);
    case 8: return multiply(job, tile, first, 8);
    }
}

static void multiply_tiles(const void *argument, int64_t index) {
    const Job *job = argument;
    int64_t tiles = divided_up(job->outputs, TILE), parts = divided_up(tiles, job->tiles_at_once);
    int64_t first_row = index / parts * job->rows_at_once, first = index % parts * job->tiles_at_once;
    int64_t after = first_row + job->rows_at_once < job->count ? first_row + job->rows_at_once : job->count;
    for (int64_t tile = first; tile < tiles && tile < first + job->tiles_at_once; tile++)
        for (int64_t row = first_row; row < after; row += MOST_ROWS)
            multiply_rows(job, tile, row, after - row < MOST_ROWS ? after - row : MOST_ROWS);
}

// out [count][outputs] = rows [count][inputs] by the weights; with `add`, it is added to what is there. `inputs` is even.
// Gives 0 if there is no memory for the rounded activations.
int bfloat16_linear(const uint32_t *weights, const float *bias, const float *rows, float *out, int64_t outputs,
                    int64_t inputs, int64_t count, int64_t add, int64_t threads) {
    uint32_t *pairs = malloc(count * inputs * 2);
    if (!pairs) return 0;
    int64_t fitting = CACHED / (inputs * 2) / MOST_ROWS * MOST_ROWS, tiles = divided_up(outputs, TILE);
    int64_t rows_at_once = fitting < MOST_ROWS ? MOST_ROWS : fitting, stretches = divided_up(count, rows_at_once);
    if (count * inputs * outputs < ALONE) threads = 1;
    int64_t tiles_at_once = tiles * stretches / (threads * PARTS) + 1;
    Job job = {weights, bias, rows, out, pairs, outputs, inputs, count, add, rows_at_once, tiles_at_once};
    in_parallel(narrow_row, &job, count, count * inputs < ALONE ? 1 : threads);
    in_parallel(multiply_tiles, &job, stretches * divided_up(tiles, tiles_at_once), threads);
    free(pairs);
    return 1;
}
