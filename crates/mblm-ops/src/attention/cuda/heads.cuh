// The tensor-core kernels for heads of HEAD channels; the including file defines HEAD.

#include "long.cuh"
#include "short.cuh"

constexpr bool NARROW = HEAD <= 64;

// For KEYS keys. With narrow heads, registers suffice for BLOCKS backward blocks on a
// multiprocessor at once.
#define SHORT(KEYS, BLOCKS)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(128) short_forward##KEYS(                                                       \
        ROWS(bf16, q), ROWS(bf16, kv), ROWS(bf16, past), const float* angles, bf16* out, bf16* present, int n, int t, int s,     \
        int heads, int causal, float scale) {                                                                                    \
        short_forward<HEAD, KEYS>(ROWS_OF(bf16, q), ROWS_OF(bf16, kv), ROWS_OF(bf16, past), angles, out, present, n, t, s,       \
                                  heads, causal, scale);                                                                         \
    }                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(128, NARROW ? BLOCKS : 1) short_backward##KEYS(                                 \
        ROWS(bf16, q), ROWS(bf16, kv), ROWS(bf16, past), ROWS(bf16, d_out), ROWS(bf16, d_present), const float* angles,          \
        bf16* d_q, bf16* d_kv, bf16* d_past, float* partial, int n, int t, int s, int heads, int causal, int each, float scale,  \
        float root) {                                                                                                            \
        short_backward<HEAD, KEYS>(ROWS_OF(bf16, q), ROWS_OF(bf16, kv), ROWS_OF(bf16, past), ROWS_OF(bf16, d_out),               \
                                   ROWS_OF(bf16, d_present), angles, d_q, d_kv, d_past, partial, n, t, s, heads, causal, each,   \
                                   scale, root);                                                                                 \
    }

SHORT(16, 5)
SHORT(32, 4)
SHORT(64, 1)

// The template arguments set the rows of a block in units of 64, and the tile rows of the other
// kind; `blocked.rs` repeats them. Two blocks per multiprocessor use all of its registers.

extern "C" __global__ void __launch_bounds__(LONG_THREADS, 2) long_forward(
    ROWS(bf16, q), ROWS(bf16, kv), ROWS(bf16, past), bf16* out, float* logs, int t, int s, int heads, int blocks, int causal,
    float scale) {
    long_forward<HEAD, 2, NARROW ? 64 : 32>(ROWS_OF(bf16, q), ROWS_OF(bf16, kv), ROWS_OF(bf16, past), out, logs, t, s, heads,
                                            blocks, causal, scale);
}

extern "C" __global__ void __launch_bounds__(LONG_THREADS, 2) long_backward_queries(
    ROWS(bf16, q), ROWS(bf16, kv), ROWS(bf16, past), ROWS(bf16, d_out), const float* logs, const float* dots, const float* angles,
    bf16* d_q, int t, int s, int heads, int blocks, int causal, float scale, float root) {
    long_backward_queries<HEAD, NARROW ? 2 : 1, NARROW ? 32 : 64>(
        ROWS_OF(bf16, q), ROWS_OF(bf16, kv), ROWS_OF(bf16, past), ROWS_OF(bf16, d_out), logs, dots, angles, d_q, t, s, heads, blocks,
        causal, scale, root);
}

extern "C" __global__ void __launch_bounds__(LONG_THREADS, 2) long_backward_keys(
    ROWS(bf16, q), ROWS(bf16, kv), ROWS(bf16, past), ROWS(bf16, d_out), ROWS(bf16, d_present), const float* logs,
    const float* dots, const float* angles, bf16* d_kv, bf16* d_past, float* partial, int t, int s, int heads, int blocks,
    int causal, float scale, float root) {
    long_backward_keys<HEAD, NARROW ? 2 : 1, 64>(
        ROWS_OF(bf16, q), ROWS_OF(bf16, kv), ROWS_OF(bf16, past), ROWS_OF(bf16, d_out), ROWS_OF(bf16, d_present), logs, dots, angles,
        d_kv, d_past, partial, t, s, heads, blocks, causal, scale, root);
}
