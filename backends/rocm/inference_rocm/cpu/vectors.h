// Vectors of 64 bytes, in the compiler's own types: it splits them where registers are narrower. What it would not find
// an instruction for by itself has one here by name, and a form in plain vectors for all other CPUs.

#pragma once

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#if defined(__AVX2__)
#define UNROLL _Pragma("GCC unroll 16")
#else // registers would not hold what is unrolled: it is slower, and takes longer to compile
#define UNROLL _Pragma("GCC unroll 1")
#endif
#define LANES 16

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint8_t u8x64 __attribute__((vector_size(64)));
typedef int8_t i8x16 __attribute__((vector_size(16)));

INLINE f32x16 load(const float *from) {
    f32x16 values;
    memcpy(&values, from, sizeof values);
    return values;
}

INLINE u8x64 load_bytes(const void *from) {
    u8x64 values;
    memcpy(&values, from, sizeof values);
    return values;
}

INLINE void store(float *to, f32x16 values) { memcpy(to, &values, sizeof values); }

// The first `count` lanes; the others are 0.
INLINE f32x16 load_some(const float *from, int64_t count) {
    f32x16 values = {0};
    if (count >= LANES) return load(from);
    memcpy(&values, from, count * sizeof(float));
    return values;
}

INLINE void store_some(float *to, f32x16 values, int64_t count) {
    if (count >= LANES) store(to, values);
    else memcpy(to, &values, count * sizeof(float));
}

INLINE f32x16 all(float value) { return value - (f32x16){0}; }

INLINE i32x16 all_integer(int32_t value) { return value - (i32x16){0}; }

INLINE f32x16 choose(i32x16 mask, f32x16 yes, f32x16 no) {
    return (f32x16)((mask & (i32x16)yes) | (~mask & (i32x16)no));
}

INLINE f32x16 greater(f32x16 one, f32x16 other) { return choose(one > other, one, other); }

// Lanes of two vectors, those of the second counted from 16 on.
#if defined(__clang__)
#define LANES_OF(one, other, ...) __builtin_shufflevector(one, other, __VA_ARGS__)
#else
#define LANES_OF(one, other, ...) __builtin_shuffle(one, other, (i32x16){__VA_ARGS__})
#endif

#define FOLDED(values, operation)                                                                                      \
    do {                                                                                                               \
        values = operation(values, LANES_OF(values, values, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));    \
        values = operation(values, LANES_OF(values, values, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));    \
        values = operation(values, LANES_OF(values, values, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));    \
        values = operation(values, LANES_OF(values, values, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));    \
    } while (0)
#define PLUS(one, other) ((one) + (other))

INLINE float sum_of(f32x16 values) {
    FOLDED(values, PLUS);
    return values[0];
}

INLINE int32_t sum_of_integers(i32x16 values) {
    FOLDED(values, PLUS);
    return values[0];
}

INLINE float greatest_of(f32x16 values) {
    FOLDED(values, greater);
    return values[0];
}

INLINE i32x16 greater_integer(i32x16 one, i32x16 other) {
    i32x16 mask = one > other;
    return (mask & one) | (~mask & other);
}

// The greatest magnitude; NaN if one is NaN, for as integers NaN's bits are the greatest.
INLINE float greatest_magnitude_of(f32x16 one, f32x16 other) {
    i32x16 bits = greater_integer((i32x16)one & 0x7fffffff, (i32x16)other & 0x7fffffff);
    FOLDED(bits, greater_integer);
    return ((f32x16)bits)[0];
}

INLINE f32x16 widened(u16x16 halves) { return (f32x16)(__builtin_convertvector(halves, u32x16) << 16); }

INLINE f32x16 load_bf16(const uint16_t *from) {
    u16x16 halves;
    memcpy(&halves, from, sizeof halves);
    return widened(halves);
}

INLINE float load_bf16_one(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// To the nearest bf16, ties to even. NaN stays NaN.
INLINE u16x16 narrowed(f32x16 values) {
#if defined(__AVX512BF16__)
    return (u16x16)_mm512_cvtneps_pbh((__m512)values);
#else
    u32x16 bits = (u32x16)values, rounded = bits + 0x7fff + ((bits >> 16) & 1), not_a_number = (u32x16)(values != values);
    return __builtin_convertvector(((rounded & ~not_a_number) | ((bits | 0x400000) & not_a_number)) >> 16, u16x16);
#endif
}

// 16 values of half precision.
INLINE f32x16 load_f16(const uint16_t *from) {
    u16x16 halves;
    memcpy(&halves, from, sizeof halves);
#if defined(__AVX512F__)
    return (f32x16)_mm512_cvtph_ps((__m256i)halves);
#elif defined(__F16C__)
    __m128i parts[2];
    memcpy(parts, &halves, 32);
    __m256 wide[2] = {_mm256_cvtph_ps(parts[0]), _mm256_cvtph_ps(parts[1])};
    f32x16 values;
    memcpy(&values, wide, 64);
    return values;
#else
    u32x16 bits = __builtin_convertvector(halves, u32x16), special = (u32x16)((bits & 0x7c00) == 0x7c00) & 0x7f800000;
    f32x16 magnitude = (f32x16)((bits & 0x7fff) << 13) * 0x1p112f;
    return (f32x16)((u32x16)magnitude | special | (bits & 0x8000) << 16);
#endif
}

// sum + the products of each lane's four bytes: weights unsigned, activations signed.
INLINE i32x16 dot4(i32x16 sum, u8x64 weights, i32x16 activations) {
#if defined(__AVX512VNNI__)
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, (__m512i)activations);
#elif defined(__AVX512BW__)
    __m512i by = (__m512i)weights, activation = (__m512i)activations;
    __m512i even = _mm512_and_si512(by, _mm512_set1_epi16(255)), odd = _mm512_srli_epi16(by, 8);
    __m512i even_by = _mm512_srai_epi16(_mm512_slli_epi16(activation, 8), 8), odd_by = _mm512_srai_epi16(activation, 8);
    return sum + (i32x16)_mm512_madd_epi16(even, even_by) + (i32x16)_mm512_madd_epi16(odd, odd_by);
#elif defined(__AVX2__)
    __m256i by[2], activation[2], total[2];
    memcpy(by, &weights, 64), memcpy(activation, &activations, 64), memcpy(total, &sum, 64);
    for (int i = 0; i < 2; i++) {
        __m256i even = _mm256_and_si256(by[i], _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(by[i], 8);
        __m256i even_by = _mm256_srai_epi16(_mm256_slli_epi16(activation[i], 8), 8), odd_by = _mm256_srai_epi16(activation[i], 8);
        total[i] = _mm256_add_epi32(total[i], _mm256_madd_epi16(even, even_by));
        total[i] = _mm256_add_epi32(total[i], _mm256_madd_epi16(odd, odd_by));
    }
    memcpy(&sum, total, 64);
    return sum;
#else
    for (int place = 0; place < 32; place += 8)
        sum += (i32x16)(((u32x16)weights >> place) & 0xff) * ((i32x16)((u32x16)activations << (24 - place)) >> 24);
    return sum;
#endif
}

// sum + the products of each lane's two bf16 values.
INLINE f32x16 dot2(f32x16 sum, u32x16 one, u32x16 other) {
#if defined(__AVX512BF16__)
    return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)one, (__m512bh)other);
#else
    sum += (f32x16)(one & 0xffff0000) * (f32x16)(other & 0xffff0000);
    return sum + (f32x16)(one << 16) * (f32x16)(other << 16);
#endif
}

// Each byte of `places`, below 16, by the byte at that place of `table`, which is repeated four times.
INLINE u8x64 looked_up(u8x64 table, u8x64 places) {
#if defined(__AVX512BW__)
    return (u8x64)_mm512_shuffle_epi8((__m512i)table, (__m512i)places);
#elif defined(__AVX2__)
    __m256i entries, parts[2];
    memcpy(&entries, &table, 32), memcpy(parts, &places, 64);
    parts[0] = _mm256_shuffle_epi8(entries, parts[0]), parts[1] = _mm256_shuffle_epi8(entries, parts[1]);
    memcpy(&places, parts, 64);
    return places;
#else
    u8x64 found;
    for (int i = 0; i < 64; i++) found[i] = table[places[i]];
    return found;
#endif
}

// e^x to 2 units in the last place, 0 below -87. Source: Cephes, expf.
INLINE f32x16 exponential(f32x16 x) {
    f32x16 low = all(-87.3f), high = all(88.0f);
    f32x16 within = choose(x < low, low, choose(x > high, high, x));
    f32x16 rounded = within * 1.44269504f;
    i32x16 power = __builtin_convertvector(rounded + choose(rounded < 0, all(-0.5f), all(0.5f)), i32x16);
    f32x16 whole = __builtin_convertvector(power, f32x16);
    f32x16 rest = within - whole * 0.693359375f + whole * 2.12194440e-4f;
    f32x16 value = all(1.9875691500e-4f);
    value = value * rest + 1.3981999507e-3f;
    value = value * rest + 8.3334519073e-3f;
    value = value * rest + 4.1665795894e-2f;
    value = value * rest + 1.6666665459e-1f;
    value = value * rest + 5.0000001201e-1f;
    value = value * rest * rest + rest + 1;
    value *= (f32x16)((power + 127) << 23);
    return choose(x < low, all(0), value);
}

INLINE f32x16 tanh_of(f32x16 x) {
    f32x16 raised = exponential(2 * choose(x > 10, all(10), choose(x < -10, all(-10), x)));
    return (raised - 1) / (raised + 1);
}
