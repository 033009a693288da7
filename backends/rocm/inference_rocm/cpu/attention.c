// Grouped-query attention over keys and values in bf16. Scores and sums are float.

#include <stdlib.h>

#include "pool.h"
#include "vectors.h"

#define LONGEST_HEAD 512
#define ALONE 65536      // multiplications that are faster on one thread
#define QUERIES 16       // of a head, that go over the keys together
#define KEYS 128         // that they see at a time
#define PACKED 67108864  // bytes of keys and values that are packed at a time, but at least a head's
#define LOWEST -1e30f    // below every score, and finite: a row that has seen no key yet divides nothing by it

typedef struct {
    const float *query;    // [tokens][heads][length]
    const uint16_t *keys;  // [slots][kv_heads][capacity][length]
    const uint16_t *values;
    float *out;            // [tokens][heads][length]
    const int64_t *slots;  // of each token
    const int64_t *positions;
    const float *sinks;    // [heads]: a logit beside each head's scores, or null
    int64_t tokens, heads, kv_heads, capacity, length;
    int64_t window;        // positions that a token sees, itself included; 0 for all
    float scale, softcap;  // 0 for none
} Attention;

INLINE f32x16 capped(f32x16 scores, float softcap) {
    return softcap > 0 ? tanh_of(scores / softcap) * softcap : scores;
}

// ---- One token of a slot

// Products of four keys and a query, which has zeros up to a whole vector.
INLINE void score_four(const uint16_t *keys, const float *query, int64_t length, float *scores) {
    f32x16 sums[4] = {0};
    for (int64_t i = 0; i < length; i += LANES) {
        f32x16 by = load(query + i);
        UNROLL for (int key = 0; key < 4; key++) {
            u16x16 halves = {0};
            if (length - i >= LANES) memcpy(&halves, keys + key * length + i, sizeof halves);
            else memcpy(&halves, keys + key * length + i, (length - i) * 2);
            sums[key] += widened(halves) * by;
        }
    }
    f32x16 two[2];
    UNROLL for (int i = 0; i < 2; i++)
        two[i] = LANES_OF(sums[2 * i], sums[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                 LANES_OF(sums[2 * i], sums[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    f32x16 four = LANES_OF(two[0], two[1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                  LANES_OF(two[0], two[1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    four += LANES_OF(four, four, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    four += LANES_OF(four, four, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    four = LANES_OF(four, four, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    memcpy(scores, &four, 16);
}

// The values by their shares, of some vectors of the head.
INLINE void mix(const uint16_t *values, const float *shares, int64_t count, int64_t length, f32x16 *sums, const int vectors) {
    UNROLL for (int i = 0; i < vectors; i++) sums[i] = all(0);
    for (int64_t key = 0; key < count; key++)
        UNROLL for (int i = 0; i < vectors; i++) sums[i] += load_bf16(values + key * length + i * LANES) * shares[key];
}

// bf16 values, and zeros up to a whole vector.
static void narrow(const float *from, uint16_t *to, int64_t length, float scale) {
    for (int64_t i = 0; i < length; i += LANES) {
        u16x16 halves = narrowed(load_some(from + i, length - i) * scale);
        memcpy(to + i, &halves, sizeof halves);
    }
}

// e^(score - highest) in the place of each score; gives their sum. `highest` takes part.
static float raise_all(float *scores, int64_t count, float highest) {
    f32x16 total = all(0);
    for (int64_t i = 0; i < count; i += LANES) {
        f32x16 raised = exponential(load(scores + i) - highest);
        store(scores + i, raised);
        total += raised;
    }
    return sum_of(total);
}

static void attend_head(const Attention *job, int64_t token, int64_t head, float *scores) {
    int64_t end = job->positions[token] + 1, first = job->window && end > job->window ? end - job->window : 0;
    int64_t length = job->length, count = end - first, padded = (count + LANES - 1) / LANES * LANES;
    int64_t place = ((job->slots[token] * job->kv_heads + head * job->kv_heads / job->heads) * job->capacity + first) * length;
    const uint16_t *keys = job->keys + place, *values = job->values + place;
    const float *from = job->query + (token * job->heads + head) * length;
    float query[LONGEST_HEAD];
    for (int64_t i = 0; i < length; i += LANES) store(query + i, load_some(from + i, length - i) * job->scale);
    for (int64_t key = 0; key + 4 <= count; key += 4) score_four(keys + key * length, query, length, scores + key);
    if (count % 4) {
        uint16_t last[4 * LONGEST_HEAD] = {0};
        int64_t key = count / 4 * 4;
        memcpy(last, keys + key * length, (count - key) * length * 2);
        score_four(last, query, length, scores + key);
    }
    f32x16 highest = all(job->sinks ? job->sinks[head] : LOWEST);
    for (int64_t key = 0; key < padded; key += LANES) {
        f32x16 score = capped(load(scores + key), job->softcap);
        if (key + LANES > count)
            for (int64_t lane = count - key; lane < LANES; lane++) score[lane] = -INFINITY;
        store(scores + key, score);
        highest = greater(score, highest);
    }
    float top = greatest_of(highest), total = job->sinks ? expf(job->sinks[head] - top) : 0;
    total += raise_all(scores, padded, top);
    float *out = job->out + (token * job->heads + head) * length;
    int64_t i = 0;
    for (; i + 4 * LANES <= length; i += 4 * LANES) {
        f32x16 sums[4];
        mix(values + i, scores, count, length, sums, 4);
        UNROLL for (int vector = 0; vector < 4; vector++) store(out + i + vector * LANES, sums[vector] / total);
    }
    for (; i + LANES <= length; i += LANES) {
        f32x16 sum;
        mix(values + i, scores, count, length, &sum, 1);
        store(out + i, sum / total);
    }
    for (; i < length; i++) {
        float sum = 0;
        for (int64_t key = 0; key < count; key++) sum += scores[key] * load_bf16_one(values[key * length + i]);
        out[i] = sum / total;
    }
}

typedef struct {
    const Attention *attention;
    float *scores; // [parts][longest]
    int64_t longest;
    int64_t heads_at_once;
} Singles;

static void attend_heads(const void *argument, int64_t index) {
    const Singles *job = argument;
    int64_t heads = job->attention->heads, first = index * job->heads_at_once;
    for (int64_t i = first; i < first + job->heads_at_once; i++)
        attend_head(job->attention, i / heads, i % heads, job->scores + index * job->longest);
}

// Tokens of different slots. Gives 0 if there is no memory.
int attend_singles(const Attention *attention, int64_t longest, int64_t threads) {
    longest = (longest + LANES - 1) / LANES * LANES;
    int64_t heads = attention->tokens * attention->heads, at_once = attention->tokens < 2 * threads ? 1 : attention->heads;
    float *scores = malloc(heads / at_once * longest * sizeof(float));
    if (!scores) return 0;
    Singles job = {attention, scores, longest, at_once};
    in_parallel(attend_heads, &job, heads / at_once, heads * longest * attention->length < ALONE ? 1 : threads);
    free(scores);
    return 1;
}

// ---- Tokens that lie side by side in one slot

typedef struct {
    const Attention *attention;
    uint32_t *keys;   // pairs of a head's elements: [heads_at_once][keys / 16][padded / 2][16]
    uint32_t *values; // pairs of keys: [heads_at_once][padded / 16][keys / 2][16]
    int64_t first_head, heads_at_once; // of kv_heads
    int64_t seen;     // the first position that any of them sees
    int64_t first;    // the same, rounded down to a multiple of 16
    int64_t count;    // positions from there on, a multiple of 16
    int64_t padded;   // head length, a multiple of 16
} Span;

static void pack_keys(const void *argument, int64_t index) {
    const Span *span = argument;
    const Attention *attention = span->attention;
    int64_t blocks = span->count / LANES, head = index / blocks, block = index % blocks, length = attention->length;
    int64_t start = span->first + block * LANES, last = attention->positions[attention->tokens - 1];
    int64_t place = (attention->slots[0] * attention->kv_heads + span->first_head + head) * attention->capacity * length;
    uint32_t *keys = span->keys + index * span->padded / 2 * LANES;
    for (int64_t lane = 0; lane < LANES; lane++) {
        // Where there is no key that is seen, zeros: its score is never taken, but NaN would not go away.
        bool there = start + lane >= span->seen && start + lane <= last;
        uint16_t row[LONGEST_HEAD + LANES] = {0};
        if (there) memcpy(row, attention->keys + place + (start + lane) * length, length * 2);
        for (int64_t pair = 0; pair < span->padded / 2; pair++) memcpy(keys + pair * LANES + lane, row + 2 * pair, 4);
    }
    for (int64_t pair = 0; pair < LANES / 2; pair++) {
        uint16_t rows[2][LONGEST_HEAD + LANES] = {0};
        for (int64_t i = 0; i < 2; i++) {
            int64_t key = start + 2 * pair + i;
            if (key >= span->seen && key <= last) memcpy(rows[i], attention->values + place + key * length, length * 2);
        }
        for (int64_t i = 0; i < span->padded; i++) {
            uint32_t both = rows[0][i] | (uint32_t)rows[1][i] << 16;
            span->values[((head * (span->padded / LANES) + i / LANES) * (span->count / 2) + start / 2 - span->first / 2 + pair) *
                             LANES + i % LANES] = both;
        }
    }
}

// sums [QUERIES] += rows [QUERIES][stride] of pairs by [pairs][16].
INLINE void multiply(f32x16 *sums, const uint32_t *rows, int64_t stride, const uint32_t *by, int64_t pairs) {
    f32x16 kept[QUERIES];
    UNROLL for (int i = 0; i < QUERIES; i++) kept[i] = sums[i];
    for (int64_t pair = 0; pair < pairs; pair++) {
        u32x16 lanes;
        memcpy(&lanes, by + pair * LANES, sizeof lanes);
        UNROLL for (int i = 0; i < QUERIES; i++) kept[i] = dot2(kept[i], lanes, rows[i * stride + pair] - (u32x16){0});
    }
    UNROLL for (int i = 0; i < QUERIES; i++) sums[i] = kept[i];
}

// The sequence's softmax is computed as the keys go by: what was summed is scaled down when a higher score comes.
static void attend_block(const void *argument, int64_t index) {
    const Span *span = argument;
    const Attention *attention = span->attention;
    int64_t shared = attention->heads / attention->kv_heads, heads = shared * span->heads_at_once;
    int64_t kv_head = index % heads / shared, head = span->first_head * shared + index % heads;
    int64_t begin = index / heads * QUERIES, left = attention->tokens - begin;
    int64_t queries = left < QUERIES ? left : QUERIES, padded = span->padded, length = attention->length;
    uint32_t query[QUERIES * LONGEST_HEAD / 2] = {0}, shares[QUERIES * KEYS / 2];
    float total[QUERIES], highest[QUERIES], scores[QUERIES * KEYS];
    f32x16 sums[LONGEST_HEAD / LANES][QUERIES] = {0};
    for (int64_t i = 0; i < QUERIES; i++) {
        highest[i] = attention->sinks ? attention->sinks[head] : LOWEST, total[i] = attention->sinks != 0;
        if (i >= queries) continue;
        const float *from = attention->query + ((begin + i) * attention->heads + head) * length;
        narrow(from, (uint16_t *)(query + i * padded / 2), length, attention->scale);
    }
    int64_t start = attention->positions[begin], end = start + queries - span->first; // keys count from span->first on
    int64_t from = attention->window && start >= attention->window ? start + 1 - attention->window - span->first : 0;
    const i32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int64_t key = from / LANES * LANES; key < end; key += KEYS) {
        int64_t count = (end - key + LANES - 1) / LANES * LANES;
        count = count < KEYS ? count : KEYS;
        for (int64_t tile = 0; tile < count; tile += LANES) {
            f32x16 products[QUERIES] = {0};
            const uint32_t *by = span->keys + (kv_head * span->count + key + tile) * padded / 2;
            multiply(products, query, padded / 2, by, padded / 2);
            for (int64_t i = 0; i < QUERIES; i++) {
                // What a query sees, in positions counted from the first lane on.
                int32_t last = start + i - span->first - key - tile;
                i32x16 seen = lanes <= last;
                if (attention->window) seen &= lanes > (int32_t)(last - attention->window);
                store(scores + i * KEYS + tile, choose(seen, capped(products[i], attention->softcap), all(-INFINITY)));
            }
        }
        for (int64_t i = 0; i < queries; i++) {
            f32x16 top = all(highest[i]);
            for (int64_t k = 0; k < count; k += LANES) top = greater(load(scores + i * KEYS + k), top);
            float now = greatest_of(top);
            f32x16 factor = exponential(all(highest[i] - now));
            total[i] = total[i] * factor[0] + raise_all(scores + i * KEYS, count, now);
            highest[i] = now;
            if (factor[0] != 1)
                for (int64_t part = 0; part < padded / LANES; part++) sums[part][i] *= factor;
        }
        for (int64_t i = 0; i < QUERIES; i++)
            for (int64_t k = 0; k < count; k += LANES) {
                u16x16 halves = narrowed(i < queries ? load(scores + i * KEYS + k) : all(0));
                memcpy((uint16_t *)(shares + i * KEYS / 2) + k, &halves, sizeof halves);
            }
        for (int64_t part = 0; part < padded / LANES; part++) {
            const uint32_t *by = span->values + ((kv_head * (padded / LANES) + part) * span->count + key) / 2 * LANES;
            multiply(sums[part], shares, KEYS / 2, by, count / 2);
        }
    }
    for (int64_t i = 0; i < queries; i++) {
        float *out = attention->out + ((begin + i) * attention->heads + head) * length;
        for (int64_t part = 0; part < padded / LANES; part++)
            store_some(out + part * LANES, sums[part][i] / total[i], length - part * LANES);
    }
}

// All tokens follow one another in the first one's slot. Gives 0 if there is no memory.
int attend_span(const Attention *attention, int64_t threads) {
    int64_t start = attention->positions[0], end = attention->positions[attention->tokens - 1] + 1;
    int64_t seen = attention->window && start >= attention->window ? start + 1 - attention->window : 0;
    int64_t first = seen / LANES * LANES;
    int64_t count = (end - first + LANES - 1) / LANES * LANES, padded = (attention->length + LANES - 1) / LANES * LANES;
    int64_t size = count * padded, kv_heads = attention->kv_heads; // of a head's keys and values, in pairs
    int64_t fitting = PACKED / (size * sizeof(uint32_t)), at_once = fitting < 1 ? 1 : fitting < kv_heads ? fitting : kv_heads;
    uint32_t *memory = malloc(at_once * size * sizeof(uint32_t));
    if (!memory) return 0;
    if (attention->tokens * attention->heads * size < ALONE) threads = 1;
    for (int64_t head = 0; head < kv_heads; head += at_once) {
        int64_t heads = kv_heads - head < at_once ? kv_heads - head : at_once;
        Span span = {attention, memory, memory + heads * size / 2, head, heads, seen, first, count, padded};
        int64_t blocks = (attention->tokens + QUERIES - 1) / QUERIES, shared = attention->heads / kv_heads;
        in_parallel(pack_keys, &span, heads * count / LANES, threads);
        in_parallel(attend_block, &span, blocks * heads * shared, threads);
    }
    free(memory);
    return 1;
}
