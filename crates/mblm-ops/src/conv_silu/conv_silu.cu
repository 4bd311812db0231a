// Causal depthwise convolution with SiLU over (n, t, c), forward and backward. The kernel has W
// taps, of which the first W - k are absent. Positions before the first are the rows of `tail`
// (its last row at position -1), then zeros.
//
// A thread takes V neighboring channels and a run of positions, and keeps the rows under its taps
// in registers. The backward pass recomputes the convolution; the gradients that positions after a
// run give to the run's rows are computed twice, by this run and by the next.

#include "common.cuh"

constexpr int W = 4;

// Rows that a thread reads ahead: in the forward pass, and of both x and dy in the backward pass.
constexpr int AHEAD = 4, AHEAD_OF_BOTH = 2;

// The rows of one sequence, from some channel on.
template <typename T>
struct Rows {
    const T* x;
    long long stride;
    const T* tail;
    int c, k;

    // The row at `position`, which must be before the end.
    template <int V>
    __device__ __forceinline__ void get(int position, float (&v)[V]) const {
        if (position >= 0) return load_v<V>(x + position * stride, v);
        if (tail && position >= 1 - k) return load_v<V>(tail + (long long)(position + k - 1) * c, v);
#pragma unroll
        for (int i = 0; i < V; ++i) v[i] = 0.0f;
    }
};

// Loads the taps of V channels from `column` on as W rows, from (c, k); k is W if V > 1.
template <int V>
__device__ __forceinline__ void load_taps(const float* weight, int column, int k, float (&taps)[W][V]) {
    if constexpr (V > 1) {
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float4 four = load4(weight + (size_t)(column + i) * W);
            taps[0][i] = four.x;
            taps[1][i] = four.y;
            taps[2][i] = four.z;
            taps[3][i] = four.w;
        }
    } else {
#pragma unroll
        for (int j = 0; j < W; ++j) taps[j][0] = j >= W - k ? weight[(size_t)column * k + j - (W - k)] : 0.0f;
    }
}

// bias + Σ taps · rows for the W rows up to a position.
template <int V>
__device__ __forceinline__ void convolve(const float (&taps)[W][V], const float (&bias)[V], const float (&rows)[W][V], int k,
                                         float (&p)[V]) {
#pragma unroll
    for (int i = 0; i < V; ++i) p[i] = bias[i];
#pragma unroll
    for (int j = 0; j < W; ++j) {
        if (j < W - k) continue;
#pragma unroll
        for (int i = 0; i < V; ++i) p[i] = fmaf(taps[j][i], rows[j][i], p[i]);
    }
}

template <int V>
__device__ __forceinline__ void shift(float (&rows)[W][V]) {
#pragma unroll
    for (int j = 0; j + 1 < W; ++j)
#pragma unroll
        for (int i = 0; i < V; ++i) rows[j][i] = rows[j + 1][i];
}

// blockIdx.x = sequence · runs + run; the first run also copies the new tail.
template <typename T, int V>
__device__ __forceinline__ void conv_silu_forward(const T* x, long long sequence_stride, long long row_stride,
                                                  const float* weight, const float* bias, const T* tail, long long tail_stride,
                                                  T* y, T* new_tail, int t, int c, int k, int run, int runs) {
    const int column = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (column >= c) return;
    const int sequence = blockIdx.x / runs, first = blockIdx.x % runs * run, last = min(first + run, t);
    const Rows<T> e = {x + sequence * sequence_stride + column, row_stride,
                       tail ? tail + sequence * tail_stride + column : nullptr, c, k};
    float taps[W][V], b[V], rows[W][V];
    load_taps<V>(weight, column, k, taps);
    load_v<V>(bias + column, b);
#pragma unroll
    for (int j = 1; j < W; ++j) e.get(first - W + j, rows[j]);
    T* out = y + ((size_t)sequence * t + first) * c + column;
    for (int batch = first; batch < last; batch += AHEAD) {
        float ahead[AHEAD][V];
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) load_v<V>(e.x + min(batch + a, t - 1) * row_stride, ahead[a]);
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            if (batch + a >= last) break;
            shift<V>(rows);
#pragma unroll
            for (int i = 0; i < V; ++i) rows[W - 1][i] = ahead[a][i];
            float p[V];
            convolve<V>(taps, b, rows, k, p);
#pragma unroll
            for (int i = 0; i < V; ++i) p[i] *= sigmoid<T>(p[i]);
            store_v<V>(out, p);
            out += c;
        }
    }
    if (first > 0) return;
    for (int row = 0; row < k - 1; ++row) {
        float v[V];
        e.get(t - k + 1 + row, v);
        store_v<V>(new_tail + ((size_t)sequence * (k - 1) + row) * c + column, v);
    }
}

constexpr int LANES = 32, RUNS = 8;

// A block of (LANES, RUNS) threads takes RUNS of the `all` runs of all sequences at a time. It
// writes the sums of its runs, the gradients of the W taps and of the bias, to `partial`
// (blocks, W + 1, c), and the gradients of the tails to d_tail (n, k - 1, c).
template <typename T, int V>
__device__ __forceinline__ void conv_silu_backward(const T* x, long long sequence_stride, long long row_stride,
                                                   const float* weight, const float* bias, const T* tail, long long tail_stride,
                                                   const T* dy, long long dy_sequence, long long dy_row, const T* d_new_tail,
                                                   T* dx, float* d_tail, float* partial, int t, int c, int k, int run, int runs,
                                                   int all) {
    __shared__ float scratch[RUNS][LANES * V];
    const int column = (blockIdx.y * LANES + threadIdx.x) * V;
    float sums[W + 1][V] = {};
    if (column < c) {
        float taps[W][V], b[V];
        load_taps<V>(weight, column, k, taps);
        load_v<V>(bias + column, b);
        for (int index = blockIdx.x * RUNS + threadIdx.y; index < all; index += gridDim.x * RUNS) {
            const int sequence = index / runs, first = index % runs * run, last = min(first + run, t);
            const Rows<T> e = {x + sequence * sequence_stride + column, row_stride,
                               tail ? tail + sequence * tail_stride + column : nullptr, c, k};
            const T* g = dy + sequence * dy_sequence + column;
            float rows[W][V], dp[W][V] = {}; // for the W positions up to this one
#pragma unroll
            for (int j = 1; j < W; ++j) e.get(first - W + j, rows[j]);
            for (int batch = first; batch < last + W - 1; batch += AHEAD_OF_BOTH) {
                float x_ahead[AHEAD_OF_BOTH][V], dy_ahead[AHEAD_OF_BOTH][V];
                if (t > 0) {
#pragma unroll
                    for (int a = 0; a < AHEAD_OF_BOTH; ++a) {
                        load_v<V>(e.x + min(batch + a, t - 1) * row_stride, x_ahead[a]);
                        load_v<V>(g + min(batch + a, t - 1) * dy_row, dy_ahead[a]);
                    }
                }
#pragma unroll
                for (int a = 0; a < AHEAD_OF_BOTH; ++a) {
                    const int position = batch + a;
                    if (position >= last + W - 1) break;
                    shift<V>(rows);
                    shift<V>(dp);
                    if (position < t) {
                        float p[V];
#pragma unroll
                        for (int i = 0; i < V; ++i) rows[W - 1][i] = x_ahead[a][i];
                        convolve<V>(taps, b, rows, k, p);
#pragma unroll
                        for (int i = 0; i < V; ++i) {
                            const float s = sigmoid<T>(p[i]);
                            dp[W - 1][i] = dy_ahead[a][i] * s * (1.0f + p[i] * (1.0f - s));
                        }
                    } else {
#pragma unroll
                        for (int i = 0; i < V; ++i) rows[W - 1][i] = dp[W - 1][i] = 0.0f;
                    }
                    if (position < last) {
#pragma unroll
                        for (int j = 0; j < W; ++j)
#pragma unroll
                            for (int i = 0; i < V; ++i) sums[j][i] = fmaf(dp[W - 1][i], rows[j][i], sums[j][i]);
#pragma unroll
                        for (int i = 0; i < V; ++i) sums[W][i] += dp[W - 1][i];
                    }
                    // the row that no later position reads
                    const int done = position - W + 1;
                    if (done < first && (first > 0 || done < 1 - k)) continue;
                    float d[V] = {};
                    if (d_new_tail && done >= t - k + 1)
                        load_v<V>(d_new_tail + ((size_t)sequence * (k - 1) + done - t + k - 1) * c + column, d);
#pragma unroll
                    for (int j = 0; j < W; ++j) {
                        if (j < W - k) continue;
#pragma unroll
                        for (int i = 0; i < V; ++i) d[i] = fmaf(taps[j][i], dp[W - 1 - j][i], d[i]);
                    }
                    if (done >= 0)
                        store_v<V>(dx + ((size_t)sequence * t + done) * c + column, d);
                    else if (d_tail)
                        store_v<V>(d_tail + ((size_t)sequence * (k - 1) + done + k - 1) * c + column, d);
                }
            }
        }
    }
    for (int j = 0; j <= W; ++j) {
        float v[V];
#pragma unroll
        for (int l = 0; l <= W; ++l)
            if (l == j)
#pragma unroll
                for (int i = 0; i < V; ++i) v[i] = sums[l][i];
        store_v<V>(&scratch[threadIdx.y][threadIdx.x * V], v);
        __syncthreads();
        for (int i = threadIdx.y * LANES + threadIdx.x; i < LANES * V; i += LANES * RUNS) {
            float total = 0.0f;
#pragma unroll
            for (int r = 0; r < RUNS; ++r) total += scratch[r][i];
            const int channel = blockIdx.y * LANES * V + i;
            if (channel < c) partial[((size_t)blockIdx.x * (W + 1) + j) * c + channel] = total;
        }
        __syncthreads();
    }
}

// Adds the sums over the blocks of `partial` (blocks, W + 1, c) to the gradients of the taps (c, k)
// and of the bias (c). A block takes 32 channels of tap blockIdx.y; its threads along y take the
// rows in turns.
extern "C" __global__ void conv_silu_parameters(const float* partial, float* d_weight, float* d_bias, int blocks, int c,
                                                int k) {
    __shared__ float parts[RUNS][LANES];
    const int channel = blockIdx.x * LANES + threadIdx.x, j = blockIdx.y;
    float v = 0.0f;
    if (channel < c)
        for (int row = threadIdx.y; row < blocks; row += RUNS) v += partial[((size_t)row * (W + 1) + j) * c + channel];
    parts[threadIdx.y][threadIdx.x] = v;
    __syncthreads();
    if (threadIdx.y > 0 || channel >= c) return;
    float total = 0.0f;
#pragma unroll
    for (int r = 0; r < RUNS; ++r) total += parts[r][threadIdx.x];
    if (j == W)
        d_bias[channel] += total;
    else if (j >= W - k)
        d_weight[(size_t)channel * k + j - (W - k)] += total;
}

// out[i] = Σ x[s][i] over `sequences`, for `count` elements of each.
template <typename T>
__device__ __forceinline__ void fold_sequences(const float* x, T* out, int sequences, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float total = 0.0f;
    for (int s = 0; s < sequences; ++s) total += x[(size_t)s * count + i];
    store(out + i, total);
}

extern "C" __global__ void fold_sequences_f32(const float* x, float* out, int sequences, int count) {
    fold_sequences(x, out, sequences, count);
}
extern "C" __global__ void fold_sequences_bf16(const float* x, bf16* out, int sequences, int count) {
    fold_sequences(x, out, sequences, count);
}

constexpr int FORWARD_THREADS = 128;

#define FORWARD(T, V, NAME) \
    extern "C" __global__ void __launch_bounds__(FORWARD_THREADS, sizeof(T) == 2 ? 8 : 6) \
        NAME(const T* x, long long sequence_stride, long long row_stride, const float* weight, const float* bias, \
             const T* tail, long long tail_stride, T* y, T* new_tail, int t, int c, int k, int run, int runs) { \
        conv_silu_forward<T, V>(x, sequence_stride, row_stride, weight, bias, tail, tail_stride, y, new_tail, t, c, \
                                V == 1 ? k : W, run, runs); \
    }
FORWARD(float, 1, conv_silu_forward1_f32)
FORWARD(float, 4, conv_silu_forward4_f32)
FORWARD(bf16, 1, conv_silu_forward1_bf16)
FORWARD(bf16, 4, conv_silu_forward4_bf16)

#define BACKWARD(T, V, NAME) \
    extern "C" __global__ void __launch_bounds__(LANES* RUNS, 2) \
        NAME(const T* x, long long sequence_stride, long long row_stride, const float* weight, const float* bias, \
             const T* tail, long long tail_stride, const T* dy, long long dy_sequence, long long dy_row, const T* d_new_tail, \
             T* dx, float* d_tail, float* partial, int t, int c, int k, int run, int runs, int all) { \
        conv_silu_backward<T, V>(x, sequence_stride, row_stride, weight, bias, tail, tail_stride, dy, dy_sequence, dy_row, \
                                 d_new_tail, dx, d_tail, partial, t, c, V == 1 ? k : W, run, runs, all); \
    }
BACKWARD(float, 1, conv_silu_backward1_f32)
BACKWARD(float, 4, conv_silu_backward4_f32)
BACKWARD(bf16, 1, conv_silu_backward1_bf16)
BACKWARD(bf16, 4, conv_silu_backward4_bf16)
