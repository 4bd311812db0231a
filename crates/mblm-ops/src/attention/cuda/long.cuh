// Attention over many keys in bf16, block by block on tensor cores: FlashAttention-2.
//
// Four warps of 16·M rows each take one block of a head: of queries for the output and for the gradient of the queries, of keys
// for the gradients of keys and values. They go through blocks of the other kind, which come into shared memory one step ahead.
// Queries and new keys are already rotated; key j is row j of the past, or row j - s of `kv`. Of the scores each query keeps
// log2 Σ_j 2^(scale · score_j), `logs` (n, h, t), with scale = log2(e)/√d_h. The backward pass reads the products of each query's
// output and its gradient from `dots` (n, h, t).
//
// Weights of the backward pass are computed twice, once for each kind of block, so that every sum has one owner and one order.
//
// Source: arXiv 2307.08691, algorithms 1 and 2.

#pragma once

#include "mma.cuh"
#include "rows.cuh"

constexpr int LONG_WARPS = 4, LONG_THREADS = 32 * LONG_WARPS;

// Keys and values of one head.
struct LongKeys {
    const bf16 *past, *kv;
    long long past_row, kv_row;
    int width, s, count;
};

// What a block of a grid of (heads · blocks) takes; later blocks first if `backwards`.
struct LongBlock {
    int sequence, head, channel, first;
    __device__ __forceinline__ LongBlock(int blocks, int size, int heads, int head_dim, bool backwards) {
        const int item = blockIdx.x / blocks, block = blockIdx.x % blocks;
        sequence = item / heads;
        head = item % heads;
        channel = head * head_dim;
        first = (backwards ? blocks - 1 - block : block) * size;
    }
};

// Brings keys from `first` to `to` and their values to `to` + `apart` bytes, zeros beyond the last.
template <int DH, int COUNT>
__device__ __forceinline__ void load_keys(uint32_t to, uint32_t apart, const LongKeys& keys, int first) {
    constexpr int LD = DH + 8, CHUNKS = DH / 8;
#pragma unroll
    for (int i = threadIdx.x; i < COUNT * CHUNKS; i += LONG_THREADS) {
        const int row = i / CHUNKS, c = i % CHUNKS * 8, key = first + row;
        const bool valid = key < keys.count;
        const bf16* from = key < keys.s ? keys.past + key * keys.past_row : keys.kv + (valid ? key - keys.s : 0) * keys.kv_row;
        const uint32_t at = to + 2 * (row * LD + c);
        copy_later(at, from + c, valid);
        copy_later(at + apart, from + keys.width + c, valid);
    }
}

// Brings rows from `first` of `from`, zeros from row `end` on.
template <int DH, int COUNT>
__device__ __forceinline__ void load_rows(uint32_t to, const bf16* from, long long stride, int first, int end) {
    constexpr int LD = DH + 8, CHUNKS = DH / 8;
#pragma unroll
    for (int i = threadIdx.x; i < COUNT * CHUNKS; i += LONG_THREADS) {
        const int row = i / CHUNKS, c = i % CHUNKS * 8;
        const bool valid = first + row < end;
        copy_later(to + 2 * (row * LD + c), from + (valid ? first + row : 0) * stride + c, valid);
    }
}

// c[m] (16, N) += rows of `a` (16·M) times rows of `b` (N): c_ij = Σ_channel a_i b_j. `a` and `b` are the addresses of this lane.
template <int DH, int M, int N>
__device__ __forceinline__ void long_scores(float (&c)[M][N / 8][4], uint32_t a, uint32_t b) {
    constexpr int LD = DH + 8;
#pragma unroll
    for (int k = 0; k < DH / 16; ++k) {
        uint32_t x[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) load_tiles(x[m], a + 32 * k + 32 * m * LD);
#pragma unroll
        for (int j = 0; j < N / 16; ++j) {
            uint32_t y[4];
            load_tiles(y, b + 32 * k + 32 * j * LD);
#pragma unroll
            for (int m = 0; m < M; ++m) {
                multiply(c[m][2 * j], x[m], y[0], y[1]);
                multiply(c[m][2 * j + 1], x[m], y[2], y[3]);
            }
        }
    }
}

// c[m] (16, DH) += w[m] (16, N) times the N rows of `b`.
template <int DH, int M, int N>
__device__ __forceinline__ void long_mix(float (&c)[M][DH / 8][4], const uint32_t (&w)[M][N / 8][2], uint32_t b) {
    constexpr int LD = DH + 8;
#pragma unroll
    for (int k = 0; k < N / 16; ++k)
#pragma unroll
        for (int j = 0; j < DH / 16; ++j) {
            uint32_t y[4];
            load_tiles_transposed(y, b + 32 * k * LD + 32 * j);
#pragma unroll
            for (int m = 0; m < M; ++m) {
                const uint32_t x[4] = {w[m][2 * k][0], w[m][2 * k][1], w[m][2 * k + 1][0], w[m][2 * k + 1][1]};
                multiply(c[m][2 * j], x, y[0], y[1]);
                multiply(c[m][2 * j + 1], x, y[2], y[3]);
            }
        }
}

// Shared memory: queries (64·M rows), then two pairs of N keys and N values.
template <int DH, int M, int N>
__device__ __forceinline__ void long_forward(Rows q, Rows kv, Rows past, bf16* __restrict__ out, float* __restrict__ logs, int t,
                                             int s, int heads, int blocks, int causal, float scale) {
    constexpr int LD = DH + 8, ROWS = 16 * M * LONG_WARPS, CHUNKS = DH / 8;
    constexpr uint32_t APART = 2 * N * LD;
    extern __shared__ __align__(16) bf16 memory[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = heads * DH, column = lane % 4 * 2;
    const LongBlock block(blocks, ROWS, heads, DH, true);
    const LongKeys keys = {past.at(block.sequence, block.channel), kv.at(block.sequence, block.channel), past.row, kv.row, width, s,
                           s + t};
    const int end = causal ? min(s + t, s + block.first + ROWS) : s + t;
    const uint32_t base = shared_address(memory), stages = base + 2 * ROWS * LD;
    load_rows<DH, ROWS>(base, q.at(block.sequence, block.channel), q.row, block.first, t);
    load_keys<DH, N>(stages, APART, keys, 0);
    copies_end();
    const int mine = 16 * M * warp, query = block.first + mine + lane / 4;
    const uint32_t a = base + 2 * ((mine + row_of_a(lane)) * LD + column_of_a(lane));
    const uint32_t as_columns = stages + 2 * (row_of_b(lane) * LD + column_of_b(lane));
    const uint32_t as_rows = stages + 2 * (row_of_a(lane) * LD + column_of_a(lane)) + APART;
    float o[M][DH / 8][4] = {}, greatest[M][2], total[M][2] = {};
#pragma unroll
    for (int m = 0; m < M; ++m) greatest[m][0] = greatest[m][1] = -INFINITY;
    uint32_t stage = 0;
    for (int first = 0; first < end; first += N) {
        wait_for_copies();
        __syncthreads();
        if (first + N < end) load_keys<DH, N>(stages + (2 * APART - stage), APART, keys, first + N);
        copies_end();
        float c[M][N / 8][4] = {};
        long_scores<DH, M, N>(c, a, as_columns + stage);
        if (first + N > s + t || (causal && first + N > s + block.first + mine + 1)) {
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int j = 0; j < N / 8; ++j)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const int key = first + 8 * j + column + e % 2, row = query + 16 * m + e / 2 * 8;
                        if (key >= s + t || (causal && key > s + row)) c[m][j][e] = -INFINITY;
                    }
        }
        uint32_t w[M][N / 8][2];
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                // the first key is visible to every query: the maximum is finite from the first block on
                float top = greatest[m][half];
#pragma unroll
                for (int j = 0; j < N / 8; ++j) top = fmaxf(top, fmaxf(c[m][j][2 * half], c[m][j][2 * half + 1]));
                top = row_max(top);
                const float shrink = power_of_two((greatest[m][half] - top) * scale), base = top * scale;
                greatest[m][half] = top;
                float sum = total[m][half] * shrink;
#pragma unroll
                for (int j = 0; j < N / 8; ++j) {
                    const float x = power_of_two(c[m][j][2 * half] * scale - base);
                    const float y = power_of_two(c[m][j][2 * half + 1] * scale - base);
                    sum += x + y;
                    w[m][j][half] = pack(x, y);
                }
                total[m][half] = sum;
#pragma unroll
                for (int j = 0; j < DH / 8; ++j) {
                    o[m][j][2 * half] *= shrink;
                    o[m][j][2 * half + 1] *= shrink;
                }
            }
        long_mix<DH, M, N>(o, w, as_rows + stage);
        stage = 2 * APART - stage;
    }
    // each warp writes over its own queries
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float sum = row_sum(total[m][half]), factor = 1.0f / sum;
            const int row = query + 16 * m + 8 * half;
            if (lane % 4 == 0 && row < t)
                logs[((long long)block.sequence * heads + block.head) * t + row] = greatest[m][half] * scale + log2f(sum);
#pragma unroll
            for (int j = 0; j < DH / 8; ++j)
                *reinterpret_cast<uint32_t*>(memory + (row - block.first) * LD + 8 * j + column) =
                    pack(o[m][j][2 * half] * factor, o[m][j][2 * half + 1] * factor);
        }
    __syncwarp();
    out += (long long)block.sequence * t * width + block.channel;
    for (int i = lane; i < 16 * M * CHUNKS; i += 32) {
        const int row = mine + i / CHUNKS, c = i % CHUNKS * 8;
        if (block.first + row < t)
            *reinterpret_cast<uint4*>(out + (long long)(block.first + row) * width + c) =
                *reinterpret_cast<const uint4*>(memory + row * LD + c);
    }
}

// Writes two halves of a row of a gradient, turned back by `angles` (cosines, then sines, of its position) unless null.
template <int DH>
__device__ __forceinline__ void write_turned(bf16* to, float (&c)[DH / 8][4], int half, int column, const float* angles) {
#pragma unroll
    for (int j = 0; j < DH / 16; ++j) {
        float *x = &c[j][2 * half], *y = &c[j + DH / 16][2 * half];
        if (angles) {
            const float2 cos = *reinterpret_cast<const float2*>(angles + 8 * j + column);
            const float2 sin = *reinterpret_cast<const float2*>(angles + DH / 2 + 8 * j + column);
            turn_back(x[0], y[0], cos.x, sin.x);
            turn_back(x[1], y[1], cos.y, sin.y);
        }
        uint32_t* at = reinterpret_cast<uint32_t*>(to + 8 * j + column);
        at[0] = pack(x[0], x[1]);
        at[DH / 4] = pack(y[0], y[1]);
    }
}

// Gradients of the queries. Shared memory: queries and the gradients of their outputs (64·M rows each), then two pairs of N keys
// and N values. `root` is 1/√d_h.
template <int DH, int M, int N>
__device__ __forceinline__ void long_backward_queries(Rows q, Rows kv, Rows past, Rows d_out, const float* __restrict__ logs,
                                                      const float* __restrict__ dots, const float* __restrict__ angles,
                                                      bf16* __restrict__ d_q, int t, int s, int heads, int blocks, int causal,
                                                      float scale, float root) {
    constexpr int LD = DH + 8, ROWS = 16 * M * LONG_WARPS;
    constexpr uint32_t APART = 2 * N * LD;
    extern __shared__ __align__(16) bf16 memory[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = heads * DH, column = lane % 4 * 2;
    const LongBlock block(blocks, ROWS, heads, DH, true);
    const LongKeys keys = {past.at(block.sequence, block.channel), kv.at(block.sequence, block.channel), past.row, kv.row, width, s,
                           s + t};
    const int end = causal ? min(s + t, s + block.first + ROWS) : s + t;
    const uint32_t base = shared_address(memory), stages = base + 4 * ROWS * LD;
    load_rows<DH, ROWS>(base, q.at(block.sequence, block.channel), q.row, block.first, t);
    load_rows<DH, ROWS>(base + 2 * ROWS * LD, d_out.at(block.sequence, block.channel), d_out.row, block.first, t);
    load_keys<DH, N>(stages, APART, keys, 0);
    copies_end();
    const int mine = 16 * M * warp, query = block.first + mine + lane / 4;
    const uint32_t a = base + 2 * ((mine + row_of_a(lane)) * LD + column_of_a(lane));
    const uint32_t as_columns = stages + 2 * (row_of_b(lane) * LD + column_of_b(lane));
    const uint32_t as_rows = stages + 2 * (row_of_a(lane) * LD + column_of_a(lane));
    const long long lines = ((long long)block.sequence * heads + block.head) * t;
    float log[M][2], dot[M][2];
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = query + 16 * m + 8 * half;
            log[m][half] = row < t ? logs[lines + row] : 0.0f;
            dot[m][half] = row < t ? dots[lines + row] : 0.0f;
        }
    float sums[M][DH / 8][4] = {};
    uint32_t stage = 0;
    for (int first = 0; first < end; first += N) {
        wait_for_copies();
        __syncthreads();
        if (first + N < end) load_keys<DH, N>(stages + (2 * APART - stage), APART, keys, first + N);
        copies_end();
        float c[M][N / 8][4] = {}, d[M][N / 8][4] = {};
        long_scores<DH, M, N>(c, a, as_columns + stage);
        long_scores<DH, M, N>(d, a + 2 * ROWS * LD, as_columns + stage + APART);
        const bool edge = first + N > s + t || (causal && first + N > s + block.first + mine + 1);
        uint32_t w[M][N / 8][2];
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int j = 0; j < N / 8; ++j)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float slope[2];
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        const int key = first + 8 * j + column + e, row = query + 16 * m + 8 * half;
                        const float weight = power_of_two(c[m][j][2 * half + e] * scale - log[m][half]);
                        slope[e] = weight * (d[m][j][2 * half + e] - dot[m][half]) * root;
                        if (edge && (key >= s + t || (causal && key > s + row))) slope[e] = 0.0f;
                    }
                    w[m][j][half] = pack(slope[0], slope[1]);
                }
        long_mix<DH, M, N>(sums, w, as_rows + stage);
        stage = 2 * APART - stage;
    }
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = query + 16 * m + 8 * half;
            if (row < t)
                write_turned<DH>(d_q + ((long long)block.sequence * t + row) * width + block.channel, sums[m], half, column,
                                 angles ? angles + (long long)row * DH : nullptr);
        }
}

// Gradients of keys and values: of the new ones in `d_kv`, to which those of later calls, `d_present`, are added first; of the past
// in `d_past` (n, s, 2·h·d_h), or in float in `partial` of the same shape. Shared memory: keys and values (64·M rows each), two
// pairs of N queries and N gradients of their outputs, two pairs of N logs and N dots.
template <int DH, int M, int N>
__device__ __forceinline__ void long_backward_keys(Rows q, Rows kv, Rows past, Rows d_out, Rows d_present,
                                                   const float* __restrict__ logs, const float* __restrict__ dots,
                                                   const float* __restrict__ angles, bf16* __restrict__ d_kv,
                                                   bf16* __restrict__ d_past, float* __restrict__ partial, int t, int s, int heads,
                                                   int blocks, int causal, float scale, float root) {
    constexpr int LD = DH + 8, ROWS = 16 * M * LONG_WARPS;
    constexpr uint32_t APART = 2 * N * LD;
    extern __shared__ __align__(16) bf16 memory[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = heads * DH, column = lane % 4 * 2;
    const LongBlock block(blocks, ROWS, heads, DH, false);
    const LongKeys keys = {past.at(block.sequence, block.channel), kv.at(block.sequence, block.channel), past.row, kv.row, width, s,
                           s + t};
    const bf16 *queries = q.at(block.sequence, block.channel), *slopes = d_out.at(block.sequence, block.channel);
    const long long lines = ((long long)block.sequence * heads + block.head) * t;
    const uint32_t base = shared_address(memory), stages = base + 4 * ROWS * LD;
    float* numbers = reinterpret_cast<float*>(memory + 2 * ROWS * LD + 4 * N * LD);
    // two numbers a query, of which the first N threads bring one each
    auto load_queries = [&](int first, uint32_t stage) {
        load_rows<DH, N>(stages + stage, queries, q.row, first, t);
        load_rows<DH, N>(stages + stage + APART, slopes, d_out.row, first, t);
        if (threadIdx.x < 2 * N) {
            const int i = threadIdx.x % N;
            const float* from = threadIdx.x < N ? logs : dots;
            numbers[(stage ? 2 * N : 0) + threadIdx.x] = first + i < t ? from[lines + first + i] : 0.0f;
        }
    };
    // queries before the first key of the block see none of its keys
    const int begin = causal ? max(0, block.first - s) / N * N : 0;
    load_keys<DH, ROWS>(base, 2 * ROWS * LD, keys, block.first);
    load_queries(begin, 0);
    copies_end();
    const int mine = 16 * M * warp, key = block.first + mine + lane / 4;
    const uint32_t a = base + 2 * ((mine + row_of_a(lane)) * LD + column_of_a(lane));
    const uint32_t as_columns = stages + 2 * (row_of_b(lane) * LD + column_of_b(lane));
    const uint32_t as_rows = stages + 2 * (row_of_a(lane) * LD + column_of_a(lane));
    float d_keys[M][DH / 8][4] = {}, d_values[M][DH / 8][4] = {};
    uint32_t stage = 0;
    for (int first = begin; first < t; first += N) {
        wait_for_copies();
        __syncthreads();
        if (first + N < t) load_queries(first + N, 2 * APART - stage);
        copies_end();
        float c[M][N / 8][4] = {};
        long_scores<DH, M, N>(c, a, as_columns + stage);
        const bool edge = causal && block.first + mine + 16 * M > s + first + 1;
        const float* line = numbers + (stage ? 2 * N : 0) + column;
        uint32_t w[M][N / 8][2];
#pragma unroll
        for (int j = 0; j < N / 8; ++j) {
            const float2 log = *reinterpret_cast<const float2*>(line + 8 * j);
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float& x = c[m][j][2 * half];
                    float& y = c[m][j][2 * half + 1];
                    x = power_of_two(x * scale - log.x);
                    y = power_of_two(y * scale - log.y);
                    if (edge) {
                        const int ahead = key + 16 * m + 8 * half - s - first - 8 * j - column;
                        if (ahead > 0) x = 0.0f;
                        if (ahead > 1) y = 0.0f;
                    }
                    w[m][j][half] = pack(x, y);
                }
        }
        long_mix<DH, M, N>(d_values, w, as_rows + stage + APART);
        float d[M][N / 8][4] = {};
        long_scores<DH, M, N>(d, a + 2 * ROWS * LD, as_columns + stage + APART);
#pragma unroll
        for (int j = 0; j < N / 8; ++j) {
            const float2 dot = *reinterpret_cast<const float2*>(line + N + 8 * j);
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    w[m][j][half] = pack(c[m][j][2 * half] * (d[m][j][2 * half] - dot.x) * root,
                                         c[m][j][2 * half + 1] * (d[m][j][2 * half + 1] - dot.y) * root);
        }
        long_mix<DH, M, N>(d_keys, w, as_rows + stage);
        stage = 2 * APART - stage;
    }
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int at = key + 16 * m + 8 * half, row = at - s;
            if (at >= s + t) continue;
            const long long place = (row >= 0 ? (long long)block.sequence * t + row : (long long)block.sequence * s + at) * 2 * width
                                    + block.channel;
            if (row < 0 && partial) {
#pragma unroll
                for (int j = 0; j < DH / 8; ++j) {
                    float* to = partial + place + 8 * j + column;
                    to[0] = d_keys[m][j][2 * half];
                    to[1] = d_keys[m][j][2 * half + 1];
                    to[width] = d_values[m][j][2 * half];
                    to[width + 1] = d_values[m][j][2 * half + 1];
                }
                continue;
            }
            if (row >= 0 && d_present.data) {
                const bf16* more = d_present.at(block.sequence, block.channel) + row * d_present.row + column;
#pragma unroll
                for (int j = 0; j < DH / 8; ++j) {
                    const float2 k = unpack(*reinterpret_cast<const uint32_t*>(more + 8 * j));
                    const float2 v = unpack(*reinterpret_cast<const uint32_t*>(more + width + 8 * j));
                    d_keys[m][j][2 * half] += k.x;
                    d_keys[m][j][2 * half + 1] += k.y;
                    d_values[m][j][2 * half] += v.x;
                    d_values[m][j][2 * half + 1] += v.y;
                }
            }
            bf16* to = (row >= 0 ? d_kv : d_past) + place;
            write_turned<DH>(to, d_keys[m], half, column, angles && row >= 0 ? angles + (long long)row * DH : nullptr);
            write_turned<DH>(to + width, d_values[m], half, column, nullptr);
        }
}
