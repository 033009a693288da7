// The inner loops of the CPU decoder that PyTorch has no fast form of. Plain C: the compiler vectorises it for the
// machine it runs on. bf16 is the upper half of a float; sums are float.

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LONGEST_HEAD 512
#define PARALLEL_FROM 32768 // multiplications, below which waking other threads takes longer

static inline float widened(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// To the nearest, ties to even; NaN stays NaN.
static inline uint16_t narrowed(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value != value) return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Decode tiles of 64 outputs: packed [tiles][inputs][32], scales_and_zeros [groups][row_outputs][2] from the first
// output of these tiles on, to out [inputs][tiles * 64]. value = (code - 8) * scale + zero.
void int4_decode(const uint8_t *packed, const uint16_t *scales_and_zeros, uint16_t *out, int64_t tiles, int64_t inputs,
                 int64_t group, int64_t row_outputs) {
#pragma omp parallel for collapse(2)
    for (int64_t tile = 0; tile < tiles; tile++) {
        for (int64_t first = 0; first < inputs; first += group) {
            float scale[64], zero[64];
            const uint16_t *pair = scales_and_zeros + (first / group * row_outputs + tile * 64) * 2;
            for (int i = 0; i < 64; i++) {
                scale[i] = widened(pair[2 * i]);
                zero[i] = widened(pair[2 * i + 1]) - 8 * scale[i];
            }
            for (int64_t input = first; input < first + group; input++) {
                const uint8_t *bytes = packed + (tile * inputs + input) * 32;
                uint16_t *row = out + (input * tiles + tile) * 64;
                for (int i = 0; i < 32; i++) row[i] = narrowed((float)(bytes[i] & 15) * scale[i] + zero[i]);
                for (int i = 0; i < 32; i++) row[i + 32] = narrowed((float)(bytes[i] >> 4) * scale[i + 32] + zero[i + 32]);
            }
        }
    }
}

// RMS norm of float rows to bf16.
void rms_norm(const float *in, const float *weight, uint16_t *out, int64_t rows, int64_t length, float epsilon) {
    for (int64_t row = 0; row < rows; row++) {
        const float *from = in + row * length;
        float squares = 0;
        for (int64_t i = 0; i < length; i++) squares += from[i] * from[i];
        float factor = 1 / sqrtf(squares / length + epsilon);
        for (int64_t i = 0; i < length; i++) out[row * length + i] = narrowed(from[i] * factor * weight[i]);
    }
}

// One query head over the keys [first, end) of one slot.
static void attend_head(const uint16_t *query, const uint16_t *keys, const uint16_t *values, float *scores, uint16_t *out,
                        int64_t first, int64_t end, int64_t length, float scale, float softcap, const float *sink) {
    float q[LONGEST_HEAD], mixed[LONGEST_HEAD];
    for (int64_t i = 0; i < length; i++) {
        q[i] = widened(query[i]) * scale;
        mixed[i] = 0;
    }
    float highest = sink ? *sink : -INFINITY;
    for (int64_t key = first; key < end; key++) {
        const uint16_t *k = keys + key * length;
        float sum = 0;
        for (int64_t i = 0; i < length; i++) sum += q[i] * widened(k[i]);
        if (softcap > 0) sum = softcap * tanhf(sum / softcap);
        scores[key - first] = sum;
        highest = sum > highest ? sum : highest;
    }
    float total = sink ? expf(*sink - highest) : 0;
    for (int64_t key = first; key < end; key++) {
        float share = expf(scores[key - first] - highest);
        total += share;
        const uint16_t *v = values + key * length;
        for (int64_t i = 0; i < length; i++) mixed[i] += share * widened(v[i]);
    }
    for (int64_t i = 0; i < length; i++) out[i] = narrowed(mixed[i] / total);
}

// Attention of one token of each of `rows` slots. query, out: [rows][heads][length]; keys, values:
// [slots][kv_heads][capacity][length]; scores: [rows][heads][longest]; sinks may be null.
void attend(const uint16_t *query, const uint16_t *keys, const uint16_t *values, float *scores, uint16_t *out,
            const int64_t *slots, const int64_t *positions, int64_t rows, int64_t heads, int64_t kv_heads, int64_t capacity,
            int64_t longest, int64_t length, int64_t window, float scale, float softcap, const float *sinks) {
    int64_t work = 0;
    for (int64_t row = 0; row < rows; row++) work += positions[row] * heads * length;
#pragma omp parallel for collapse(2) schedule(dynamic) if (work > PARALLEL_FROM)
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t head = 0; head < heads; head++) {
            int64_t end = positions[row] + 1, first = window && end > window ? end - window : 0;
            int64_t place = (slots[row] * kv_heads + head * kv_heads / heads) * capacity * length, one = row * heads + head;
            attend_head(query + one * length, keys + place, values + place, scores + one * longest, out + one * length,
                        first, end, length, scale, softcap, sinks ? sinks + head : 0);
        }
    }
}

// One head: widened, perhaps normalised, its first `turning` elements turned in halves, narrowed.
static void turn_head(const uint16_t *in, uint16_t *out, const float *norm, float epsilon, const float *cos,
                      const float *sin, int64_t length, int64_t turning) {
    float head[LONGEST_HEAD];
    for (int64_t i = 0; i < length; i++) head[i] = widened(in[i]);
    if (norm) {
        float squares = 0;
        for (int64_t i = 0; i < length; i++) squares += head[i] * head[i];
        float factor = 1 / sqrtf(squares / length + epsilon);
        for (int64_t i = 0; i < length; i++) head[i] *= factor * norm[i];
    }
    int64_t half = turning / 2;
    for (int64_t i = 0; i < half; i++) {
        out[i] = narrowed(head[i] * cos[i] - head[i + half] * sin[i]);
        out[i + half] = narrowed(head[i + half] * cos[i] + head[i] * sin[i]);
    }
    for (int64_t i = turning; i < length; i++) out[i] = narrowed(head[i]);
}

// Queries, keys and values of some tokens, [tokens][(heads + 2 kv_heads) * length]: queries go to query [tokens][heads]
// [length], keys and values to their slots' places, [slots][kv_heads][capacity][length]. cos, sin: [positions][turning /
// 2]; the norms may be null, and turning may be 0.
void place_heads(const uint16_t *together, uint16_t *query, uint16_t *keys, uint16_t *values, const int64_t *slots,
                 const int64_t *positions, const float *cos, const float *sin, const float *query_norm,
                 const float *key_norm, float epsilon, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t capacity,
                 int64_t length, int64_t turning) {
    int64_t all = heads + 2 * kv_heads;
#pragma omp parallel for if (tokens * all * length > PARALLEL_FROM)
    for (int64_t token = 0; token < tokens; token++) {
        const uint16_t *from = together + token * all * length;
        const float *c = cos + positions[token] * (turning / 2), *s = sin + positions[token] * (turning / 2);
        for (int64_t head = 0; head < heads; head++)
            turn_head(from + head * length, query + (token * heads + head) * length, query_norm, epsilon, c, s, length,
                      turning);
        for (int64_t head = 0; head < kv_heads; head++) {
            int64_t place = ((slots[token] * kv_heads + head) * capacity + positions[token]) * length;
            turn_head(from + (heads + head) * length, keys + place, key_norm, epsilon, c, s, length, turning);
            memcpy(values + place, from + (heads + kv_heads + head) * length, length * sizeof(uint16_t));
        }
    }
}

// silu(gate) * up of rows [gates, ups].
void silu_and_multiply(const uint16_t *in, uint16_t *out, int64_t rows, int64_t length) {
#pragma omp parallel for if (rows * length > PARALLEL_FROM)
    for (int64_t row = 0; row < rows; row++) {
        const uint16_t *gate = in + row * 2 * length, *up = gate + length;
        for (int64_t i = 0; i < length; i++) {
            float value = widened(gate[i]);
            out[row * length + i] = narrowed(value / (1 + expf(-value)) * widened(up[i]));
        }
    }
}
