// A layer whose weights stay as the file has them: codes of a few bits, in groups of 16 or 32 inputs that share a scale.
// Activations are rounded to eight bits, 32 at a time, so that codes are multiplied as integers.
//
// Weights lie in tiles of 32 outputs, which fill the lanes of two vectors: what is loaded of the activations serves both.
// In a tile, group after group: first for one vector, then for the other, the codes of four inputs at a time for every
// output, called a quad. Where codes have fewer bits than eight, a byte holds those of several quads.

#include <stdlib.h>

#include "pool.h"
#include "vectors.h"

#define SPAN 32          // activations that share a scale
#define MOST_ROWS 16     // that go through a tile at once
#define PAIR 2           // vectors of a tile
#define TILE (PAIR * LANES)
#define CACHED 393216    // bytes of activations that stay in a core's cache while tiles go by
#define PARTS 6          // for each thread, so that none waits long for another
#define AHEAD 2048       // bytes of codes that are asked of memory before they are wanted
#define ALONE 65536      // multiplications that are faster on one thread

typedef struct {
    const uint8_t *codes;    // [tiles][groups][2][bits * group * 2]
    const uint16_t *scales;  // half precision [tiles][groups][32]
    const uint16_t *offsets; // the same, or null
    const float *bias;       // [outputs], or null
    uint8_t table[16];       // what the numbers that are stored stand for, where they do not stand for themselves
    int64_t outputs, inputs, bits, group, has_table;
    int64_t zero;             // the code that stands for 0 is stored as this
    float scale_unit, offset_unit;
} Linear;

// Activations, block after block of at most MOST_ROWS rows; a block has group after group, a group row after row.
typedef struct {
    int8_t *codes;  // [groups][rows][SPAN]
    float *scales;  // [groups][rows], times the weights' unit
    int32_t *zeros; // [groups][parts][rows]: what to begin a sum of products with; a part is a group of the weights
    float *sums;    // the same shape: the activations' sum, times the offsets' unit
} Activations;

typedef struct {
    const Linear *linear;
    const float *rows;
    float *out;
    Activations activations;
    int64_t count, threads;
    bool add;
    int64_t rows_at_once, tiles_at_once;
} Job;

typedef struct {
    int64_t first, rows;
} Block;

static Block block_at(int64_t count, int64_t index) {
    int64_t first = index * MOST_ROWS, left = count - first;
    return (Block){first, left < MOST_ROWS ? left : MOST_ROWS};
}

static int64_t rounded_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

static int64_t blocks_of(int64_t count) { return rounded_up(count, MOST_ROWS) / MOST_ROWS; }

static int64_t tiles_of(const Linear *linear) { return rounded_up(linear->outputs, TILE) / TILE; }

static int64_t parts_of(const Job *job) {
    return rounded_up(tiles_of(job->linear), job->tiles_at_once) / job->tiles_at_once;
}

static Activations activations_of(const Job *job, int64_t first) {
    int64_t groups = job->linear->inputs / SPAN, parts = SPAN / job->linear->group;
    Activations all = job->activations;
    return (Activations){all.codes + first * groups * SPAN, all.scales + first * groups,
                         all.zeros + first * groups * parts, all.sums + first * groups * parts};
}

// ---- Activations to eight bits

static void quantize_block(const void *argument, int64_t index) {
    const Job *job = argument;
    const Linear *linear = job->linear;
    Block block = block_at(job->count, index);
    Activations to = activations_of(job, block.first);
    int64_t groups = linear->inputs / SPAN;
    bool halves = linear->group != SPAN;
    for (int64_t row = 0; row < block.rows; row++) {
        const float *from = job->rows + (block.first + row) * linear->inputs;
        for (int64_t group = 0; group < groups; group++, from += SPAN) {
            f32x16 one = load(from), other = load(from + LANES);
            float scale = greatest_magnitude_of(one, other) / 127, inverse = scale > 0 ? 1 / scale : 0;
            // Adding 1.5 * 2^23 rounds to the nearest integer, and leaves it in the lowest bits.
            i32x16 first = (i32x16)(one * inverse + 12582912.0f) - 0x4b400000;
            i32x16 second = (i32x16)(other * inverse + 12582912.0f) - 0x4b400000;
            int64_t place = group * block.rows + row;
            i8x16 bytes = __builtin_convertvector(first, i8x16);
            memcpy(to.codes + place * SPAN, &bytes, 16);
            bytes = __builtin_convertvector(second, i8x16);
            memcpy(to.codes + place * SPAN + 16, &bytes, 16);
            to.scales[place] = scale * linear->scale_unit;
            int32_t sums[2] = {sum_of_integers(halves ? first : first + second), halves ? sum_of_integers(second) : 0};
            for (int64_t part = 0; part <= halves; part++) {
                int64_t at = (group * (1 + halves) + part) * block.rows + row;
                to.zeros[at] = -sums[part] * (int32_t)linear->zero;
                to.sums[at] = sums[part] * scale * linear->offset_unit;
            }
        }
    }
}

// ---- Tiles

// The codes of a group as bytes, quad after quad.
INLINE void unpack(const uint8_t *from, u8x64 *quads, const u8x64 *table, const int bits, const int count) {
    if (bits == 8) {
        UNROLL for (int i = 0; i < count; i++) quads[i] = load_bytes(from + 64 * i);
        return;
    }
    if (bits == 2) {
        u16x32 together = (u16x32)load_bytes(from);
        UNROLL for (int i = 0; i < count; i++) quads[i] = (u8x64)(together >> 2 * i) & 3;
        return;
    }
    UNROLL for (int i = 0; i < count / 2; i++) {
        u16x32 together = (u16x32)load_bytes(from + 64 * i);
        quads[i] = (u8x64)together & 15;
        quads[i + count / 2] = (u8x64)(together >> 4) & 15;
    }
    if (bits == 4) {
        if (table) UNROLL for (int i = 0; i < count; i++) quads[i] = looked_up(*table, quads[i]);
        return;
    }
    // The bits above the fourth: in each byte first the first quad's.
    const int above = bits - 4, held = 8 / above;
    UNROLL for (int i = 0; i < count; i++) {
        u16x32 together = (u16x32)load_bytes(from + 64 * (count / 2 + i / held));
        const int place = i % held * above;
        quads[i] |= (u8x64)(place < 4 ? together << (4 - place) : together >> (place - 4)) & (uint8_t)(((1 << above) - 1) << 4);
    }
}

// A block of rows through a tile.
INLINE void multiply(const Linear *linear, int64_t tile, Activations by, int64_t rows, f32x16 sums[PAIR][MOST_ROWS],
                     const int bits, const int group, const bool has_offsets, const bool by_table) {
    const int quads = group / 4, parts = SPAN / group, bytes = bits * group * 2;
    int64_t groups = linear->inputs / group;
    const uint8_t *codes = linear->codes + tile * groups * PAIR * bytes;
    const uint16_t *scales = linear->scales + tile * groups * TILE, *offsets = linear->offsets + tile * groups * TILE;
    u8x64 table;
    for (int i = 0; i < 4; i++) memcpy((uint8_t *)&table + 16 * i, linear->table, 16);
    for (int64_t row = 0; row < rows; row++) sums[0][row] = sums[1][row] = all(0);
    for (int64_t index = 0; index < groups; index++) {
        u8x64 weights[PAIR][8];
        f32x16 scale[PAIR], offset[PAIR];
        UNROLL for (int i = 0; i < PAIR; i++) {
            UNROLL for (int ahead = 0; ahead < bytes; ahead += 64) __builtin_prefetch(codes + AHEAD + ahead);
            unpack(codes, weights[i], by_table ? &table : 0, bits, quads);
            scale[i] = load_f16(scales);
            if (has_offsets) offset[i] = load_f16(offsets);
            codes += bytes, scales += LANES, offsets += LANES;
        }
        const int8_t *values = by.codes + index / parts * SPAN * rows + index % parts * group;
        for (int64_t row = 0; row < rows; row++) {
            i32x16 products[PAIR];
            products[0] = products[1] = all_integer(by.zeros[index * rows + row]);
            UNROLL for (int quad = 0; quad < quads; quad++) {
                int32_t four;
                memcpy(&four, values + row * SPAN + 4 * quad, 4);
                i32x16 activations = all_integer(four);
                UNROLL for (int i = 0; i < PAIR; i++) products[i] = dot4(products[i], weights[i][quad], activations);
            }
            f32x16 unit = all(by.scales[index / parts * rows + row]), sum = all(by.sums[index * rows + row]);
            UNROLL for (int i = 0; i < PAIR; i++) {
                sums[i][row] += __builtin_convertvector(products[i], f32x16) * (scale[i] * unit);
                if (has_offsets) sums[i][row] += offset[i] * sum;
            }
        }
    }
}

static void finish(const Job *job, int64_t first, Block block, const f32x16 *sums) {
    const Linear *linear = job->linear;
    int64_t outputs = linear->outputs, left = outputs - first;
    f32x16 bias = linear->bias ? load_some(linear->bias + first, left) : all(0);
    for (int64_t row = 0; row < block.rows; row++) {
        float *to = job->out + (block.first + row) * outputs + first;
        f32x16 value = sums[row] + bias;
        store_some(to, job->add ? value + load_some(to, left) : value, left);
    }
}

// One function for each form: the compiler unrolls what hangs on it.
typedef void by_form(const Linear *, int64_t, Activations, int64_t, f32x16[PAIR][MOST_ROWS]);
#define BY_FORM(name, bits, group, offsets, by_table)                                                                  \
    static void name(const Linear *linear, int64_t tile, Activations by, int64_t rows,                                 \
                     f32x16 sums[PAIR][MOST_ROWS]) {                                                                   \
        multiply(linear, tile, by, rows, sums, bits, group, offsets, by_table);                                       \
    }

BY_FORM(two_bits_and_offsets, 2, 16, true, false)   // Q2_K
BY_FORM(four_bits_by_sixteen, 4, 16, false, false)  // Q3_K
BY_FORM(four_bits, 4, 32, false, false)             // Q4_0
BY_FORM(four_bits_by_table, 4, 32, false, true)     // IQ4_NL, IQ4_XS, MXFP4
BY_FORM(four_bits_and_offsets, 4, 32, true, false)  // Q4_1, Q4_K
BY_FORM(five_bits, 5, 32, false, false)             // Q5_0
BY_FORM(five_bits_and_offsets, 5, 32, true, false)  // Q5_1, Q5_K
BY_FORM(six_bits_by_sixteen, 6, 16, false, false)   // Q6_K
BY_FORM(eight_bits, 8, 32, false, false)            // Q8_0

// The function for a layer's form; null if there is none.
static by_form *function_of(const Linear *linear) {
    switch (linear->bits * 1000 + linear->group * 10 + (linear->offsets != 0)) {
    case 2161: return two_bits_and_offsets;
    case 4160: return four_bits_by_sixteen;
    case 4320: return linear->has_table ? four_bits_by_table : four_bits;
    case 4321: return four_bits_and_offsets;
    case 5320: return five_bits;
    case 5321: return five_bits_and_offsets;
    case 6160: return six_bits_by_sixteen;
    case 8320: return eight_bits;
    }
    return 0;
}

static void multiply_tiles(const void *argument, int64_t index) {
    const Job *job = argument;
    const Linear *linear = job->linear;
    by_form *function = function_of(linear);
    int64_t parts = parts_of(job), first_row = index / parts * job->rows_at_once;
    int64_t first = index % parts * job->tiles_at_once, end = first + job->tiles_at_once, tiles = tiles_of(linear);
    for (int64_t tile = first; tile < tiles && tile < end; tile++) {
        for (int64_t row = first_row; row < job->count && row < first_row + job->rows_at_once; row += MOST_ROWS) {
            Block block = block_at(job->count, row / MOST_ROWS);
            f32x16 sums[PAIR][MOST_ROWS];
            function(linear, tile, activations_of(job, row), block.rows, sums);
            for (int64_t i = 0; i < PAIR && tile * TILE + i * LANES < linear->outputs; i++)
                finish(job, tile * TILE + i * LANES, block, sums[i]);
        }
    }
}

// out [count][outputs] = rows [count][inputs] by the layer; with `add`, it is added to what is there. Gives 0 if there is
// no memory for the rounded activations, or no function for the form.
int linear(const Linear *linear, const float *rows, float *out, int64_t count, int64_t add, int64_t threads) {
    int64_t inputs = linear->inputs;
    int64_t values = count * inputs, groups = values / SPAN, parts = values / linear->group;
    int8_t *memory = malloc(values + (groups + 2 * parts) * 4);
    if (!memory || !function_of(linear)) return free(memory), 0;
    Activations to = {memory, (float *)(memory + values), (int32_t *)(memory + values) + groups,
                      (float *)(memory + values) + groups + parts};
    Job job = {linear, rows, out, to, count, threads, add, 0, 0};
    if (values * linear->outputs < ALONE) threads = 1;
    in_parallel(quantize_block, &job, blocks_of(count), values < ALONE ? 1 : threads);
    int64_t fitting = CACHED / inputs / MOST_ROWS * MOST_ROWS;
    job.rows_at_once = fitting < MOST_ROWS ? MOST_ROWS : fitting;
    int64_t stretches = rounded_up(count, job.rows_at_once) / job.rows_at_once;
    job.tiles_at_once = tiles_of(linear) * stretches / (threads * PARTS) + 1;
    in_parallel(multiply_tiles, &job, stretches * parts_of(&job), threads);
    free(memory);
    return 1;
}

// ---- Packing

typedef struct {
    const int8_t *codes;
    const uint8_t *stored;
    uint8_t *out;
    int64_t rows, inputs, bits, group;
} Packing;

// A group of 16 outputs.
static void pack_group(const Packing *packing, int64_t output, int64_t group, uint8_t *to) {
    int64_t quads = packing->group / 4, bits = packing->bits, left = packing->rows - output;
    uint8_t bytes[8][64] = {0};
    for (int64_t lane = 0; lane < LANES && lane < left; lane++) {
        const int8_t *from = packing->codes + (output + lane) * packing->inputs + group * packing->group;
        for (int64_t i = 0; i < packing->group; i++) bytes[i / 4][lane * 4 + i % 4] = packing->stored[(uint8_t)from[i]];
    }
    memset(to, 0, bits * packing->group * 2);
    int64_t low = bits >= 4 && bits < 8 ? 4 : bits, held = 8 / low, vectors = quads / held;
    for (int64_t quad = 0; quad < quads; quad++) {
        // Of four bits, a byte holds a quad of the first half and one of the second; of two, four that follow.
        int64_t vector = quad % vectors, place = quad / vectors * low;
        for (int i = 0; i < 64; i++) to[vector * 64 + i] |= (bytes[quad][i] & ((1 << low) - 1)) << place;
    }
    int64_t above = bits - low;
    if (above == 0) return;
    for (int64_t quad = 0; quad < quads; quad++) {
        uint8_t *vector = to + 64 * (vectors + quad / (8 / above));
        for (int i = 0; i < 64; i++) vector[i] |= bytes[quad][i] >> 4 << quad % (8 / above) * above;
    }
}

static void pack_tile(const void *argument, int64_t tile) {
    const Packing *packing = argument;
    int64_t bytes = packing->bits * packing->group * 2, groups = packing->inputs / packing->group;
    uint8_t *to = packing->out + tile * groups * PAIR * bytes;
    for (int64_t group = 0; group < groups; group++)
        for (int64_t i = 0; i < PAIR; i++, to += bytes) pack_group(packing, tile * TILE + i * LANES, group, to);
}

// Codes [rows][inputs] to tiles. `stored` has, for each code as a byte, what is stored for it.
void pack(const int8_t *codes, const uint8_t *stored, uint8_t *out, int64_t rows, int64_t inputs, int64_t bits,
          int64_t group, int64_t threads) {
    Packing packing = {codes, stored, out, rows, inputs, bits, group};
    in_parallel(pack_tile, &packing, rounded_up(rows, TILE) / TILE, threads);
}
