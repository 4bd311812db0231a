// Attention over few keys (s + t ≤ 64, t ≤ 32) in bf16: one warp per head of a sequence, one pass
// over the data.
//
// A warp copies its queries, keys and values to shared memory, rotating them on the way, multiplies
// on tensor cores with all scores in registers, and writes whole rows. Nothing is kept for the
// backward pass, which recomputes the weights. Tiles are padded to 16 rows by reading a row of
// zeros for each missing row. KEYS is s + t rounded up to the number that the registers hold.
//
// If all sequences share a past, a warp adds up its gradients over the sequences that it takes in
// turn and writes them to `partial` (parts, s, 2·h·d_h); a second kernel sums the parts.

#pragma once

#include "mma.cuh"
#include "rows.cuh"

// R(x) for the eight pairs (a_i, b_i), whose cosines and sines start at `cos` and `sin`.
__device__ __forceinline__ void turn_eight(uint4& a, uint4& b, const float (&cos)[8], const float (&sin)[8]) {
    uint32_t* first = reinterpret_cast<uint32_t*>(&a);
    uint32_t* second = reinterpret_cast<uint32_t*>(&b);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 x = unpack(first[i]), y = unpack(second[i]);
        first[i] = pack(x.x * cos[2 * i] - y.x * sin[2 * i], x.y * cos[2 * i + 1] - y.y * sin[2 * i + 1]);
        second[i] = pack(y.x * cos[2 * i] + x.x * sin[2 * i], y.y * cos[2 * i + 1] + x.y * sin[2 * i + 1]);
    }
}

// A warp's tiles in shared memory, rows of LD elements. Offset 0 is the row of zeros at the start.
template <int DH>
struct ShortTiles {
    static constexpr int LD = DH + 8, CHUNKS = DH / 8, HALF = DH / 16;
    bf16 *zeros, *q, *k, *v;
    int t, s;

    __device__ __forceinline__ uint32_t row_or_zeros(const bf16* tile, int row, int rows) const {
        return shared_address(row < rows ? tile + row * LD : zeros);
    }

    // Loads q, k, v and, if given, the gradient of the output, `d_out` (to `d`), of one sequence;
    // writes the present rows to `present`, if given.
    __device__ __forceinline__ void load(int lane, const bf16* q_in, long long q_row, const bf16* kv_in, long long kv_row,
                                         const bf16* past, long long past_row, const bf16* d_out, long long d_row, bf16* d,
                                         const float* angles, bf16* present, int width) const {
        for (int i = lane; i < t * HALF; i += 32) {
            const int row = i / HALF, c = i % HALF * 8;
            const uint4* from = reinterpret_cast<const uint4*>(q_in + row * q_row + c);
            uint4 q1 = from[0], q2 = from[HALF];
            from = reinterpret_cast<const uint4*>(kv_in + row * kv_row + c);
            uint4 k1 = from[0], k2 = from[HALF];
            from = reinterpret_cast<const uint4*>(kv_in + row * kv_row + width + c);
            const uint4 v1 = from[0], v2 = from[HALF];
            uint4 d1, d2;
            if (d_out) {
                from = reinterpret_cast<const uint4*>(d_out + row * d_row + c);
                d1 = from[0];
                d2 = from[HALF];
            }
            if (angles) {
                float cos[8], sin[8];
                load_v<8>(angles + row * DH + c, cos);
                load_v<8>(angles + row * DH + DH / 2 + c, sin);
                turn_eight(q1, q2, cos, sin);
                turn_eight(k1, k2, cos, sin);
            }
            uint4* to = reinterpret_cast<uint4*>(q + row * LD + c);
            to[0] = q1;
            to[HALF] = q2;
            to = reinterpret_cast<uint4*>(k + (s + row) * LD + c);
            to[0] = k1;
            to[HALF] = k2;
            to = reinterpret_cast<uint4*>(v + (s + row) * LD + c);
            to[0] = v1;
            to[HALF] = v2;
            if (d_out) {
                to = reinterpret_cast<uint4*>(d + row * LD + c);
                to[0] = d1;
                to[HALF] = d2;
            }
            if (present) {
                to = reinterpret_cast<uint4*>(present + (long long)row * 2 * width + c);
                to[0] = k1;
                to[HALF] = k2;
                to = reinterpret_cast<uint4*>(present + (long long)row * 2 * width + width + c);
                to[0] = v1;
                to[HALF] = v2;
            }
        }
        for (int i = lane; i < s * CHUNKS; i += 32) {
            const int row = i / CHUNKS, c = i % CHUNKS * 8;
            const bf16* from = past + row * past_row + c;
            *reinterpret_cast<uint4*>(k + row * LD + c) = *reinterpret_cast<const uint4*>(from);
            *reinterpret_cast<uint4*>(v + row * LD + c) = *reinterpret_cast<const uint4*>(from + width);
        }
    }

    // c += rows of `a` from `first` times the rows of `b`, (16, KEYS): c_ij = Σ_channel a_i b_j.
    template <int TILES>
    __device__ __forceinline__ void scores(int lane, float (&c)[2 * TILES][4], const bf16* a, int first, const bf16* b) const {
        const uint32_t from = row_or_zeros(a, first + row_of_a(lane), t) + 2 * column_of_a(lane);
        uint32_t tiles[TILES];
#pragma unroll
        for (int j = 0; j < TILES; ++j) tiles[j] = row_or_zeros(b, 16 * j + row_of_b(lane), s + t) + 2 * column_of_b(lane);
#pragma unroll
        for (int k = 0; k < DH / 16; ++k) {
            uint32_t x[4];
            load_tiles(x, from + 32 * k);
#pragma unroll
            for (int j = 0; j < TILES; ++j) {
                uint32_t y[4];
                load_tiles(y, tiles[j] + 32 * k);
                multiply(c[2 * j], x, y[0], y[1]);
                multiply(c[2 * j + 1], x, y[2], y[3]);
            }
        }
    }

    // c (16, DH) += a (16, 16) times 16 of the `rows` rows of `b`, from row `first` on.
    __device__ __forceinline__ void mix(int lane, float (&c)[DH / 8][4], const uint32_t (&a)[4], const bf16* b, int first,
                                        int rows) const {
        const uint32_t from = row_or_zeros(b, first + row_of_a(lane), rows) + 2 * column_of_a(lane);
#pragma unroll
        for (int j = 0; j < DH / 16; ++j) {
            uint32_t y[4];
            load_tiles_transposed(y, from + 32 * j);
            multiply(c[2 * j], a, y[0], y[1]);
            multiply(c[2 * j + 1], a, y[2], y[3]);
        }
    }

    // Turns scores into e^(scale · (score - greatest)), 0 for keys that the query does not see;
    // `total` gets the sums of the two rows.
    template <int TILES>
    __device__ __forceinline__ void powers(int lane, float (&c)[2 * TILES][4], int first, int causal, float scale,
                                           float (&total)[2]) const {
        const int column = lane % 4 * 2;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int query = first + lane / 4 + 8 * half;
            const int limit = causal ? min(s + query + 1, s + t) : s + t;
            float greatest = -INFINITY;
#pragma unroll
            for (int j = 0; j < 2 * TILES; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e)
                    if (8 * j + column + e < limit) greatest = fmaxf(greatest, c[j][2 * half + e]);
            greatest = row_max(greatest) * scale;
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < 2 * TILES; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& x = c[j][2 * half + e];
                    x = 8 * j + column + e < limit ? power_of_two(x * scale - greatest) : 0.0f;
                    sum += x;
                }
            total[half] = row_sum(sum);
        }
    }
};

// Shared memory: the row of zeros, then each warp's q (t), k and v (s + t rows). `scale` is
// log2(e)/√d_h.
template <int DH, int KEYS>
__device__ __forceinline__ void short_forward(Rows q, Rows kv, Rows past, const float* __restrict__ angles,
                                              bf16* __restrict__ out, bf16* __restrict__ present, int n, int t, int s, int heads,
                                              int causal, float scale) {
    typedef ShortTiles<DH> Tiles;
    constexpr int LD = Tiles::LD, TILES = KEYS / 16;
    extern __shared__ __align__(16) bf16 memory[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = heads * DH;
    for (int i = threadIdx.x; i < LD / 2; i += blockDim.x) reinterpret_cast<uint32_t*>(memory)[i] = 0;
    __syncthreads();
    const long long item = (long long)blockIdx.x * (blockDim.x / 32) + warp;
    if (item >= (long long)n * heads) return;
    const int sequence = item / heads, channel = item % heads * DH;
    bf16* mine = memory + LD + warp * (3 * t + 2 * s) * LD;
    const Tiles tiles = {memory, mine, mine + t * LD, mine + (2 * t + s) * LD, t, s};
    tiles.load(lane, q.at(sequence, channel), q.row, kv.at(sequence, channel), kv.row, past.at(sequence, channel), past.row,
               nullptr, 0, nullptr, angles, present + (long long)sequence * t * 2 * width + channel, width);
    __syncwarp();
#pragma unroll
    for (int first = 0; first < (KEYS < 32 ? 16 : 32); first += 16) {
        if (first >= t) break;
        float c[2 * TILES][4] = {};
        tiles.template scores<TILES>(lane, c, tiles.q, first, tiles.k);
        float total[2];
        tiles.template powers<TILES>(lane, c, first, causal, scale, total);
        float o[DH / 8][4] = {};
#pragma unroll
        for (int j = 0; j < TILES; ++j) {
            const uint32_t a[4] = {pack(c[2 * j][0], c[2 * j][1]), pack(c[2 * j][2], c[2 * j][3]),
                                   pack(c[2 * j + 1][0], c[2 * j + 1][1]), pack(c[2 * j + 1][2], c[2 * j + 1][3])};
            tiles.mix(lane, o, a, tiles.v, 16 * j, s + t);
        }
        __syncwarp();
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first + lane / 4 + 8 * half;
            const float factor = 1.0f / total[half];
            if (row < t)
#pragma unroll
                for (int j = 0; j < DH / 8; ++j)
                    *reinterpret_cast<uint32_t*>(tiles.q + row * LD + 8 * j + lane % 4 * 2) =
                        pack(o[j][2 * half] * factor, o[j][2 * half + 1] * factor);
        }
    }
    __syncwarp();
    out += (long long)sequence * t * width + channel;
    for (int i = lane; i < t * Tiles::CHUNKS; i += 32) {
        const int row = i / Tiles::CHUNKS, c = i % Tiles::CHUNKS * 8;
        *reinterpret_cast<uint4*>(out + (long long)row * width + c) = *reinterpret_cast<const uint4*>(tiles.q + row * LD + c);
    }
}

// Shared memory: the row of zeros, then each warp's q (t), k and v (s + t), gradient of the output
// (t rows) and, with `partial`, sums (s, 2, DH) in float. A warp takes one head of `each`
// sequences. Without `partial`, the gradient of the past goes to `d_past` (n, s, 2·h·d_h).
template <int DH, int KEYS>
__device__ __forceinline__ void short_backward(Rows q, Rows kv, Rows past, Rows d_out,
                                               Rows d_present, const float* __restrict__ angles, bf16* __restrict__ d_q,
                                               bf16* __restrict__ d_kv, bf16* __restrict__ d_past, float* __restrict__ partial,
                                               int n, int t, int s, int heads, int causal, int each, float scale,
                                               float root) {
    typedef ShortTiles<DH> Tiles;
    constexpr int LD = Tiles::LD, CHUNKS = Tiles::CHUNKS, TILES = KEYS / 16, QUERIES = KEYS < 32 ? 1 : 2;
    extern __shared__ __align__(16) bf16 memory[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = heads * DH, keys = s + t;
    const int g = lane / 4, column = lane % 4 * 2;
    for (int i = threadIdx.x; i < LD / 2; i += blockDim.x) reinterpret_cast<uint32_t*>(memory)[i] = 0;
    __syncthreads();
    const int parts = (n + each - 1) / each;
    const long long item = (long long)blockIdx.x * (blockDim.x / 32) + warp;
    if (item >= (long long)parts * heads) return;
    const int part = item / heads, channel = item % heads * DH;
    bf16* mine = memory + LD + warp * ((4 * t + 2 * s) * LD + (partial ? 4 * s * DH : 0));
    const Tiles tiles = {memory, mine, mine + t * LD, mine + (2 * t + s) * LD, t, s};
    bf16* d_tile = mine + (3 * t + 2 * s) * LD;
    float* sums = reinterpret_cast<float*>(mine + (4 * t + 2 * s) * LD);
    if (partial)
        for (int i = lane; i < 2 * s * DH; i += 32) sums[i] = 0.0f;
    const int last = min(n, (part + 1) * each);
    for (int sequence = part * each; sequence < last; ++sequence) {
        tiles.load(lane, q.at(sequence, channel), q.row, kv.at(sequence, channel), kv.row, past.at(sequence, channel), past.row,
                   d_out.at(sequence, channel), d_out.row, d_tile, angles, nullptr, width);
        __syncwarp();
        // weights and the gradients of scores, rounded: [queries][keys in eights][half of the
        // queries]
        uint32_t weights[QUERIES][2 * TILES][2], slopes[QUERIES][2 * TILES][2];
#pragma unroll
        for (int i = 0; i < QUERIES; ++i) {
            if (16 * i >= t) break;
            float c[2 * TILES][4] = {}, d[2 * TILES][4] = {};
            tiles.template scores<TILES>(lane, c, tiles.q, 16 * i, tiles.k);
            tiles.template scores<TILES>(lane, d, d_tile, 16 * i, tiles.v);
            float total[2];
            tiles.template powers<TILES>(lane, c, 16 * i, causal, scale, total);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float factor = 1.0f / total[half];
                float mean = 0.0f;
#pragma unroll
                for (int j = 0; j < 2 * TILES; ++j)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        c[j][2 * half + e] *= factor;
                        mean += c[j][2 * half + e] * d[j][2 * half + e];
                    }
                mean = row_sum(mean);
#pragma unroll
                for (int j = 0; j < 2 * TILES; ++j) {
                    const float x = c[j][2 * half], y = c[j][2 * half + 1];
                    weights[i][j][half] = pack(x, y);
                    slopes[i][j][half] = pack(x * (d[j][2 * half] - mean) * root, y * (d[j][2 * half + 1] - mean) * root);
                }
            }
        }
        __syncwarp();
        // gradients of the queries, through the rows of v
#pragma unroll
        for (int i = 0; i < QUERIES; ++i) {
            if (16 * i >= t) break;
            float c[DH / 8][4] = {};
#pragma unroll
            for (int j = 0; j < TILES; ++j) {
                const uint32_t a[4] = {slopes[i][2 * j][0], slopes[i][2 * j][1], slopes[i][2 * j + 1][0], slopes[i][2 * j + 1][1]};
                tiles.mix(lane, c, a, tiles.k, 16 * j, keys);
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = 16 * i + g + 8 * half;
                if (row >= t) continue;
#pragma unroll
                for (int j = 0; j < DH / 16; ++j) {
                    float *x = &c[j][2 * half], *y = &c[j + DH / 16][2 * half];
                    if (angles) {
                        const float* at = angles + row * DH + 8 * j + column;
                        const float2 cos = *reinterpret_cast<const float2*>(at);
                        const float2 sin = *reinterpret_cast<const float2*>(at + DH / 2);
                        turn_back(x[0], y[0], cos.x, sin.x);
                        turn_back(x[1], y[1], cos.y, sin.y);
                    }
                    uint32_t* to = reinterpret_cast<uint32_t*>(tiles.v + row * LD + 8 * j + column);
                    to[0] = pack(x[0], x[1]);
                    to[DH / 4] = pack(y[0], y[1]);
                }
            }
        }
        __syncwarp();
        bf16* rows = d_q + (long long)sequence * t * width + channel;
        for (int i = lane; i < t * CHUNKS; i += 32) {
            const int row = i / CHUNKS, c = i % CHUNKS * 8;
            *reinterpret_cast<uint4*>(rows + (long long)row * width + c) = *reinterpret_cast<const uint4*>(tiles.v + row * LD + c);
        }
        __syncwarp();
        // gradients of the values through the rows of k, of the keys through the rows of v
#pragma unroll
        for (int j = 0; j < TILES; ++j) {
            if (16 * j >= keys) break;
#pragma unroll
            for (int which = 0; which < 2; ++which) {
                float c[DH / 8][4] = {};
#pragma unroll
                for (int i = 0; i < QUERIES; ++i) {
                    if (16 * i >= t) break;
                    const uint32_t(&w)[2 * TILES][2] = which ? weights[i] : slopes[i];
                    const uint32_t a[4] = {transposed(w[2 * j][0]), transposed(w[2 * j + 1][0]), transposed(w[2 * j][1]),
                                           transposed(w[2 * j + 1][1])};
                    tiles.mix(lane, c, a, which ? d_tile : tiles.q, 16 * i, t);
                }
                bf16* stage = which ? tiles.k : tiles.v;
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int key = 16 * j + g + 8 * half, row = key - s;
                    if (key >= keys) continue;
                    if (row < 0 && partial) {
                        float* sum = sums + (2 * key + which) * DH + column;
#pragma unroll
                        for (int m = 0; m < DH / 8; ++m) {
                            sum[8 * m] += c[m][2 * half];
                            sum[8 * m + 1] += c[m][2 * half + 1];
                        }
                        continue;
                    }
                    if (row >= 0 && d_present.data) {
                        const bf16* more = d_present.at(sequence, channel + which * width) + row * d_present.row + column;
#pragma unroll
                        for (int m = 0; m < DH / 8; ++m) {
                            const float2 pair = unpack(*reinterpret_cast<const uint32_t*>(more + 8 * m));
                            c[m][2 * half] += pair.x;
                            c[m][2 * half + 1] += pair.y;
                        }
                    }
#pragma unroll
                    for (int m = 0; m < DH / 16; ++m) {
                        float *x = &c[m][2 * half], *y = &c[m + DH / 16][2 * half];
                        if (angles && which == 0 && row >= 0) {
                            const float* at = angles + row * DH + 8 * m + column;
                            const float2 cos = *reinterpret_cast<const float2*>(at);
                            const float2 sin = *reinterpret_cast<const float2*>(at + DH / 2);
                            turn_back(x[0], y[0], cos.x, sin.x);
                            turn_back(x[1], y[1], cos.y, sin.y);
                        }
                        uint32_t* to = reinterpret_cast<uint32_t*>(stage + key * LD + 8 * m + column);
                        to[0] = pack(x[0], x[1]);
                        to[DH / 4] = pack(y[0], y[1]);
                    }
                }
            }
        }
        __syncwarp();
        for (int i = lane; i < keys * CHUNKS; i += 32) {
            const int key = i / CHUNKS, c = i % CHUNKS * 8, row = key - s;
            if (row < 0 && partial) continue;
            bf16* to = (row >= 0 ? d_kv + ((long long)sequence * t + row) * 2 * width
                                 : d_past + ((long long)sequence * s + key) * 2 * width) + channel + c;
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(tiles.v + key * LD + c);
            *reinterpret_cast<uint4*>(to + width) = *reinterpret_cast<const uint4*>(tiles.k + key * LD + c);
        }
        __syncwarp();
    }
    if (partial)
        for (int i = lane; i < 2 * s * DH; i += 32) {
            const int key = i / (2 * DH), c = i % (2 * DH);
            partial[((long long)part * s + key) * 2 * width + c / DH * width + channel + c % DH] = sums[i];
        }
}
