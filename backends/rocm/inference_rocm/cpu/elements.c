// What lies between the linear layers: norms, rotary positions, activation functions. All float; keys and values are
// stored as bf16.

#include "pool.h"
#include "vectors.h"

#define LONGEST_HEAD 512
#define ALONE 16384 // elements that are faster on one thread
#define ROWS 16     // that a thread takes at once

static void norm_row(const float *from, const float *weight, float *out, int64_t length, float epsilon) {
    f32x16 squares = all(0);
    for (int64_t i = 0; i < length; i += LANES) {
        f32x16 values = load_some(from + i, length - i);
        squares += values * values;
    }
    float factor = 1 / sqrtf(sum_of(squares) / length + epsilon);
    for (int64_t i = 0; i < length; i += LANES) {
        int64_t left = length - i;
        store_some(out + i, load_some(from + i, left) * factor * load_some(weight + i, left), left);
    }
}

typedef struct {
    const float *in, *by;
    float *out;
    int64_t rows, length;
    float epsilon;
    int64_t kind;
} Rows;

static void norm_rows(const void *argument, int64_t index) {
    const Rows *job = argument;
    for (int64_t row = index * ROWS; row < job->rows && row < (index + 1) * ROWS; row++)
        norm_row(job->in + row * job->length, job->by, job->out + row * job->length, job->length, job->epsilon);
}

static void by_rows(part *work, const Rows *job, int64_t threads) {
    in_parallel(work, job, (job->rows + ROWS - 1) / ROWS, job->rows * job->length < ALONE ? 1 : threads);
}

// RMS norm of rows [rows][length].
void rms_norm(const float *in, const float *weight, float *out, int64_t rows, int64_t length, float epsilon,
              int64_t threads) {
    Rows job = {in, weight, out, rows, length, epsilon, 0};
    by_rows(norm_rows, &job, threads);
}

INLINE f32x16 activated(f32x16 gate, f32x16 up, int64_t kind) {
    if (kind == 0) return gate / (1 + exponential(-gate)) * up; // silu
    if (kind == 1) { // gelu, by tanh
        f32x16 inner = 0.7978845608f * (gate + 0.044715f * gate * gate * gate);
        return 0.5f * gate * (1 + tanh_of(inner)) * up;
    }
    // gpt-oss: clipped, steeper, and the up side is shifted
    f32x16 most = all(7), least = all(-7);
    gate = choose(gate > most, most, gate);
    up = choose(up > most, most, choose(up < least, least, up));
    return gate / (1 + exponential(-1.702f * gate)) * (up + 1);
}

static void gate_rows(const void *argument, int64_t index) {
    const Rows *job = argument;
    int64_t length = job->length;
    for (int64_t row = index * ROWS; row < job->rows && row < (index + 1) * ROWS; row++) {
        const float *gate = job->in + row * 2 * length, *up = gate + length;
        float *out = job->out + row * length;
        for (int64_t i = 0; i < length; i += LANES) {
            int64_t left = length - i;
            store_some(out + i, activated(load_some(gate + i, left), load_some(up + i, left), job->kind), left);
        }
    }
}

// activation(gate) * up of rows [gates, ups]. kind: 0 silu, 1 gelu, 2 that of gpt-oss.
void gate(const float *in, float *out, int64_t rows, int64_t length, int64_t kind, int64_t threads) {
    Rows job = {in, 0, out, rows, length, 0, kind};
    by_rows(gate_rows, &job, threads);
}

typedef struct {
    const float *together;
    float *query;
    uint16_t *keys, *values;
    const int64_t *slots, *positions;
    const float *cos, *sin, *query_norm, *key_norm;
    float epsilon;
    int64_t tokens, heads, kv_heads, capacity, length, turning;
} Heads;

// Perhaps normalised, the first `turning` elements turned in halves.
static void turn_head(const float *in, float *head, const float *norm, const float *cos, const float *sin, const Heads *job) {
    int64_t length = job->length, half = job->turning / 2;
    if (norm) norm_row(in, norm, head, length, job->epsilon);
    else memcpy(head, in, length * sizeof(float));
    for (int64_t i = 0; i < half; i += LANES) {
        int64_t left = half - i;
        f32x16 one = load_some(head + i, left), other = load_some(head + half + i, left);
        f32x16 by_cos = load_some(cos + i, left), by_sin = load_some(sin + i, left);
        store_some(head + i, one * by_cos - other * by_sin, left);
        store_some(head + half + i, other * by_cos + one * by_sin, left);
    }
}

static void store_head(const float *head, uint16_t *to, int64_t length) {
    for (int64_t i = 0; i < length; i += LANES) {
        u16x16 halves = narrowed(load_some(head + i, length - i));
        if (length - i >= LANES) memcpy(to + i, &halves, sizeof halves);
        else memcpy(to + i, &halves, (length - i) * 2);
    }
}

static void place_token(const Heads *job, int64_t token) {
    int64_t length = job->length, heads = job->heads, kv_heads = job->kv_heads, position = job->positions[token];
    const float *from = job->together + token * (heads + 2 * kv_heads) * length;
    const float *cos = job->cos + position * (job->turning / 2), *sin = job->sin + position * (job->turning / 2);
    for (int64_t head = 0; head < heads; head++)
        turn_head(from + head * length, job->query + (token * heads + head) * length, job->query_norm, cos, sin, job);
    for (int64_t head = 0; head < kv_heads; head++) {
        int64_t place = ((job->slots[token] * kv_heads + head) * job->capacity + position) * length;
        float turned[LONGEST_HEAD];
        turn_head(from + (heads + head) * length, turned, job->key_norm, cos, sin, job);
        store_head(turned, job->keys + place, length);
        store_head(from + (heads + kv_heads + head) * length, job->values + place, length);
    }
}

static void place_tokens(const void *argument, int64_t index) {
    const Heads *job = argument;
    for (int64_t token = index * ROWS; token < job->tokens && token < (index + 1) * ROWS; token++) place_token(job, token);
}

// Queries, keys and values of some tokens, [tokens][(heads + 2 kv_heads) * length]: queries go to query [tokens][heads]
// [length], keys and values to their slots' places, [slots][kv_heads][capacity][length]. cos, sin: [positions][turning /
// 2]; the norms may be null, and turning may be 0.
void place_heads(const float *together, float *query, uint16_t *keys, uint16_t *values, const int64_t *slots,
                 const int64_t *positions, const float *cos, const float *sin, const float *query_norm,
                 const float *key_norm, float epsilon, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t capacity,
                 int64_t length, int64_t turning, int64_t threads) {
    Heads job = {together, query,    keys,    values, slots, positions, cos,      sin,    query_norm,
                 key_norm, epsilon, tokens,  heads,  kv_heads, capacity, length, turning};
    int64_t elements = tokens * (heads + 2 * kv_heads) * length;
    in_parallel(place_tokens, &job, (tokens + ROWS - 1) / ROWS, elements < ALONE ? 1 : threads);
}

typedef struct {
    const float *rows;
    int64_t *out;
    int64_t length;
} Search;

static void search_row(const void *argument, int64_t row) {
    const Search *job = argument;
    const float *from = job->rows + row * job->length;
    f32x16 best = load_some(from, job->length);
    const i32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    i32x16 places = lanes;
    for (int64_t i = LANES; i + LANES <= job->length; i += LANES) {
        f32x16 values = load(from + i);
        i32x16 better = (values > best) | (values != values); // nothing is greater than NaN, once it is there
        best = choose(better, values, best);
        places = (better & (lanes + (int32_t)i)) | (~better & places);
    }
    int64_t place = 0;
    float value = best[0];
    for (int lane = 0; lane < LANES && lane < job->length; lane++) {
        bool equal = best[lane] == value && places[lane] < place;
        if (lane == 0 || best[lane] > value || best[lane] != best[lane] || equal) value = best[lane], place = places[lane];
    }
    for (int64_t i = job->length / LANES * LANES; i < job->length; i++)
        if (from[i] > value || from[i] != from[i]) value = from[i], place = i;
    job->out[row] = place;
}

// The place of each row's greatest value: the first of several, and that of a NaN if there is one.
void argmax(const float *rows, int64_t *out, int64_t count, int64_t length, int64_t threads) {
    Search job = {rows, out, length};
    in_parallel(search_row, &job, count, threads);
}
