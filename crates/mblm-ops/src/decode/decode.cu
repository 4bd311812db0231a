// One position through a stack of Transformer layers, by one block per multiprocessor that runs for
// the whole stack.
//
// Each layer is four products of a few vectors, one per sequence, and a matrix whose rows are
// divided among the blocks. Every block needs the results of all other blocks: a block publishes
// its results in `words` of two bf16 each, stored inverted, so that the zero of fresh memory means
// "not yet". A reader waits for exactly the words that it needs; there is no other barrier. Cheap
// steps (norms, rotation, attention over a short past) are repeated by every block.
//
// The weights depend on nothing, so each warp prefetches its pieces of them SLOTS pieces ahead,
// across products and layers: memory stays busy while blocks wait for each other. A thread reads
// only data that it has prefetched itself.
//
// N is the number of sequences of a kernel, 1 or up to 8: the rows of the tensor cores' left
// operand. The right operand is the weights.
//
// Longer than 450 lines: it is one kernel, whose steps share registers, shared memory and the words
// that blocks publish.

#include "common.cuh"

constexpr int THREADS = 512, WARPS = THREADS / 32;
// A piece of a matrix: 8 rows of a tile, 64 columns of a chunk. A thread of a warp reads two times
// 8 columns of a row.
constexpr int TILE = 8, CHUNK = 64, PIECE = TILE * CHUNK;
// Pieces that a warp multiplies at once, and past keys that a thread processes at once.
constexpr int AT_ONCE = 4;
constexpr int PRODUCTS = 4;
constexpr int MAX_LAYERS = 30;

// The same as in `cuda.rs`.
struct Layer {
    const bf16* weights[5];  // W_q, W_kv, W_o, W_1, W_2
    const float *attention_gain, *feed_forward_gain, *inner_bias, *outer_bias;
    const bf16* shifts[2];  // attention, feed-forward; null for zeros
    const bf16* past;
    bf16* room;  // rows of 2·h·d_h: the past, if it moves here, then the present
    // Strides in elements: from one sequence to the next, and from one row of the past to the next.
    int past_sequence, room_sequence, shift_sequence[2], past_row;
    int past_moves;
};

struct Call {
    const bf16* x;
    const float* gain;  // gain of the last norm; if null, `out` gets the residual stream
    bf16 *out, *shifts;
    uint32_t* words;  // zeros
    long long position;
    int n, layers, d, heads, dh, inner, past, rotary;
    float scale;  // log2(e) / √d_h
    Layer layer[MAX_LAYERS];

    __device__ __forceinline__ int width() const { return heads * dh; }
};

// A block's part of a product: `tiles` tiles from `first` on, each in `chunks` chunks of its
// columns.
struct __align__(16) Part {
    int first, tiles, chunks, columns;
};

__device__ __forceinline__ uint4 inverted(uint4 v) { return make_uint4(~v.x, ~v.y, ~v.z, ~v.w); }

// The current content of eight numbers that other blocks publish.
__device__ __forceinline__ uint4 peek(const uint32_t* words) {
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(words)
                 : "memory");
    return v;
}

__device__ __forceinline__ bool published(uint4 v) { return v.x != 0 && v.y != 0 && v.z != 0 && v.w != 0; }

// Waits until COUNT groups of eight numbers are published; `words(u)` is the address of group u,
// null for none.
template <int COUNT, typename Words>
__device__ __forceinline__ void await(Words words, uint4 (&v)[COUNT]) {
    bool ready;
    do {
        ready = true;
#pragma unroll
        for (int u = 0; u < COUNT; ++u)
            if (const uint32_t* from = words(u)) v[u] = peek(from);
#pragma unroll
        for (int u = 0; u < COUNT; ++u)
            if (words(u)) ready = ready && published(v[u]);
    } while (!ready);
#pragma unroll
    for (int u = 0; u < COUNT; ++u) v[u] = inverted(v[u]);
}

__device__ __forceinline__ uint32_t pair_of(float a, float b) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

// Rounding never gives a pair of all ones: NaN becomes 0x7fff.
__device__ __forceinline__ void publish(uint32_t* word, float a, float b) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(word), "r"(~pair_of(a, b)) : "memory");
}

__device__ __forceinline__ void unpack(uint4 raw, float (&v)[8]) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        v[2 * i] = __uint_as_float(words[i] << 16);
        v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}

__device__ __forceinline__ uint4 pack(const float (&v)[8]) {
    return make_uint4(pair_of(v[0], v[1]), pair_of(v[2], v[3]), pair_of(v[4], v[5]), pair_of(v[6], v[7]));
}

__device__ __forceinline__ float rounded(float v) { return __bfloat162float(__float2bfloat16_rn(v)); }

__device__ __forceinline__ float dot(uint4 a, uint4 b, float sum) {
    float x[8], y[8];
    unpack(a, x);
    unpack(b, y);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += x[i] * y[i];
    return sum;
}

__device__ __forceinline__ uint4& wide(bf16* p) { return *reinterpret_cast<uint4*>(p); }
__device__ __forceinline__ uint4 wide(const bf16* p) { return *reinterpret_cast<const uint4*>(p); }

// Copies 16 bytes to shared memory asynchronously, or writes 16 zero bytes.
__device__ __forceinline__ void copy_later(bf16* to, const bf16* from, bool some) {
    const uint32_t place = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(some ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int ALLOWED>
__device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(ALLOWED) : "memory");
}

// sums (8 sequences, 8 rows) += the products of 32 columns; a thread has 8 columns of one row of
// each operand. The order of the columns within a product does not matter if both operands use the
// same order.
__device__ __forceinline__ void multiply_add(float (&sums)[4], uint4 inputs, uint4 weights) {
    const auto once = [&](uint32_t a0, uint32_t a2, uint32_t b0, uint32_t b1) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%0, %1, %2, %3};"
                     : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                     : "r"(a0), "r"(0), "r"(a2), "r"(b0), "r"(b1));
    };
    once(inputs.x, inputs.y, weights.x, weights.y);
    once(inputs.z, inputs.w, weights.z, weights.w);
}

// The position of a warp in its pieces: every WARPS-th piece of a product.
struct Place {
    int tile, chunk;

    __device__ __forceinline__ explicit Place(int chunks) : tile(0), chunk(threadIdx.x / 32) { settle(chunks); }

    __device__ __forceinline__ void next(int chunks) {
        chunk += WARPS;
        settle(chunks);
    }

    __device__ __forceinline__ void settle(int chunks) {
#pragma unroll 1
        for (; chunk >= chunks; ++tile) chunk -= chunks;
    }
};

// The weight pieces of one warp, in the order in which it needs them.
template <int SLOTS>
struct Stream {
    bf16* ring;  // SLOTS pieces, from this thread's first column on
    Place place;
    int layer, product, asked, used;

    __device__ __forceinline__ Stream(bf16* ring, const Part* parts)
        : ring(ring), place(parts[0].chunks), layer(0), product(0), asked(0), used(0) {}

    // Prefetches the next piece, if any.
    __device__ __forceinline__ void ask(const Call& call, const Part* parts) {
        Part part = parts[product];
#pragma unroll 1
        while (place.tile >= part.tiles && layer < call.layers) {
            if (++product == PRODUCTS) product = 0, ++layer;
            part = parts[product];
            place = Place(part.chunks);
        }
        if (layer < call.layers) {
            int row = TILE * (part.first + place.tile), which = product + 1;
            if (product == 0) {
                which = row >= call.width();
                if (which) row -= call.width();
            }
            const int lane = threadIdx.x % 32, column = place.chunk * CHUNK + lane % 4 * 8;
            const bf16* from = call.layer[layer].weights[which] + (long long)(row + lane / 4) * part.columns;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int at = column + half * CHUNK / 2;
                const bool some = at < part.columns;
                copy_later(ring + asked * PIECE + half * PIECE / 2, some ? from + at : from, some);
            }
            place.next(part.chunks);
        }
        copies_end();
        if (++asked == SLOTS) asked = 0;
    }
};

// A block's shared memory; each row belongs to one sequence.
struct Memory {
    bf16 *input, *projected, *residual;
    int input_row;  // elements from one row of the input to the next
    float *sums, *angles, *scratch;
    const Part* parts;
};

// The matrix row that thread `threadIdx.x` sums first in a tile.
__device__ __forceinline__ int row_of(const Part& part, int tile) {
    return TILE * (part.first + tile) + threadIdx.x % 32 / 4;
}

// The bias of that row in the first tile of this warp.
__device__ __forceinline__ float bias_of(const Part& part, const float* bias) {
    return bias && threadIdx.x / 32 < part.tiles ? bias[row_of(part, threadIdx.x / 32)] : 0.0f;
}

// Multiplies up to AT_ONCE of this warp's pieces, from `place` on, by `memory.input`; returns their
// number.
template <int SLOTS, int N>
__device__ __forceinline__ int multiply(Stream<SLOTS>& stream, const Call& call, const Memory& memory, const Part& part, Place& place) {
    const int lane = threadIdx.x % 32, sequence = lane / 4;
    const bf16* input = memory.input + sequence * memory.input_row;
    int taken = 0;
    copies_wait<SLOTS - AT_ONCE>();
#pragma unroll
    for (int u = 0; u < AT_ONCE; ++u) {
        if (place.tile >= part.tiles) break;
        const int column = place.chunk * CHUNK + lane % 4 * 8;
        float sums[2][4] = {};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int at = column + half * CHUNK / 2;
            uint4 row = make_uint4(0, 0, 0, 0);
            if (sequence < (N == 1 ? 1 : call.n) && at < part.columns) row = wide(input + at);
            multiply_add(sums[half], row, wide(stream.ring + stream.used * PIECE + half * PIECE / 2));
        }
        if (sequence < N) {
            float* to = memory.sums + ((place.tile * TILE + lane % 4 * 2) * N + sequence) * part.chunks + place.chunk;
            to[0] = sums[0][0] + sums[1][0];
            to[N * part.chunks] = sums[0][1] + sums[1][1];
        }
        if (++stream.used == SLOTS) stream.used = 0;
        place.next(part.chunks);
        ++taken;
    }
    return taken;
}

// Publishes `value(sequence, row, sum, bias)` for this block's rows of a matrix of `rows` rows,
// after all warps have multiplied. `first_bias` is the result of `bias_of`.
template <int N, typename Value>
__device__ __forceinline__ void finish(const Call& call, const Memory& memory, const Part& part, int rows, const float* bias,
                                       float first_bias, uint32_t* words, Value value) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // one warp per tile of a sequence, four threads per row
#pragma unroll 1
    for (int item = warp; item < part.tiles * (N == 1 ? 1 : call.n); item += WARPS) {
        const int which = N == 1 ? 0 : item / part.tiles, tile = item - which * part.tiles, row = row_of(part, tile);
        const float* from = memory.sums + ((tile * TILE + lane / 4) * N + which) * part.chunks + lane % 4;
        float sum = 0.0f;
#pragma unroll 1
        for (int i = 0; i < part.chunks; i += 16) {
            float four[4];
#pragma unroll
            for (int u = 0; u < 4; ++u) four[u] = i + 4 * u + lane % 4 < part.chunks ? from[i + 4 * u] : 0.0f;
            sum += four[0] + four[1] + (four[2] + four[3]);
        }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const float added = !bias || item == warp && item < part.tiles ? first_bias : bias[row];
        const float result = value(which, row, sum, added);
        const float second = __shfl_xor_sync(0xffffffffu, result, 4);
        if (lane % 8 == 0) publish(words + (which * rows + row) / 2, result, second);
    }
}

// Copies `count` groups of eight published numbers, COUNT per thread at once; group i goes to
// `to(i)`.
template <int COUNT, typename To>
__device__ __forceinline__ void gather(const uint32_t* words, int count, To to) {
#pragma unroll 1
    for (int base = threadIdx.x; base < count; base += COUNT * THREADS) {
        uint4 v[COUNT];
        await([&](int u) { return base + u * THREADS < count ? words + 4 * (base + u * THREADS) : nullptr; }, v);
#pragma unroll
        for (int u = 0; u < COUNT; ++u)
            if (base + u * THREADS < count) wide(to(base + u * THREADS)) = v[u];
    }
    __syncthreads();
}

// Norms the rows that `words` will hold, or `given`. Channels from `keep` on come from the row
// before, `before`. The rows themselves go to `memory.residual` and, by one block, to `kept`.
template <int N>
__device__ __forceinline__ void norm_rows(const Call& call, const uint32_t* words, const bf16* given, const float* gain,
                                          const bf16* before, int before_sequence, int keep, bf16* kept, const Memory& memory,
                                          bf16* to, int to_row) {
    constexpr int EACH = THREADS / N, STEPS = N == 1 ? 1 : 4;  // threads of a row, groups of a thread
    const int d = call.d, sequence = threadIdx.x / EACH, first = threadIdx.x % EACH * 8;
    const auto channel = [&](int u) { return first + u * EACH * 8; };
    const auto mine = [&](int u) { return (N == 1 || sequence < call.n) && channel(u) < d; };
    float g[8];
    uint4 own[STEPS], shifted[STEPS];
#pragma unroll
    for (int u = 0; u < STEPS; ++u) {
        const int c = channel(u);
        shifted[u] = make_uint4(0, 0, 0, 0);
        if (!mine(u)) continue;
        if (N == 1) load_v<8>(gain + c, g);
        if (c >= keep && before) shifted[u] = wide(before + (long long)sequence * before_sequence + c);
    }
    if (given) {
#pragma unroll
        for (int u = 0; u < STEPS; ++u)
            if (mine(u)) own[u] = wide(given + sequence * d + channel(u));
    } else {
        await([&](int u) { return mine(u) ? words + (sequence * d + channel(u)) / 2 : nullptr; }, own);
    }
    float squares = 0.0f;
#pragma unroll
    for (int u = 0; u < STEPS; ++u) {
        if (!mine(u)) continue;
        const int c = channel(u);
        wide(memory.residual + sequence * d + c) = own[u];
        if (kept) wide(kept + sequence * d + c) = own[u];
        if (c < keep) shifted[u] = own[u];
        squares = dot(shifted[u], shifted[u], squares);
    }
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) memory.scratch[threadIdx.x / 32] = squares;
    __syncthreads();
    const int warps = min(EACH, (d / 8 + 31) / 32 * 32) / 32;  // the other warps have no channels
    float sum = 0.0f;
#pragma unroll 4
    for (int i = 0; i < warps; ++i) sum += memory.scratch[sequence * (EACH / 32) + i];
    const float mean = __fdividef(sum, (float)d);
    // NaN stays NaN
    const float factor = rsqrtf(mean < 1e-16f ? 1e-16f : mean);
#pragma unroll
    for (int u = 0; u < STEPS; ++u) {
        if (!mine(u)) continue;
        float s[8];
        if (N > 1) load_v<8>(gain + channel(u), g);
        unpack(shifted[u], s);
#pragma unroll
        for (int i = 0; i < 8; ++i) s[i] *= factor * g[i];
        wide(to + sequence * to_row + channel(u)) = pack(s);
    }
    __syncthreads();
}

// Cosine and sine of position · 10000^(-2 pair / d_h), in double precision because positions may be
// large.
__device__ __forceinline__ void angle(long long position, int pair, int dh, float* cosines, float* sines) {
    double sine, cosine;
    sincos((double)position * pow(10000.0, -2.0 * pair / dh), &sine, &cosine);
    cosines[pair] = (float)cosine;
    sines[pair] = (float)sine;
}

// 2^v, to the precision of a weight.
__device__ __forceinline__ float power(float v) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(v));
    return v;
}

// Attention of one query, one head per warp. Groups of threads divide the keys of a head; a thread
// has eight channels.
struct Heads {
    int group, c;  // of this thread; c ≥ d_h: no channels
    int across;    // threads of a group
    int at_once;   // number of groups, hence keys at once
    uint4 k[AT_ONCE], v[AT_ONCE];

    __device__ __forceinline__ explicit Heads(int dh) : across(1) {
        while (8 * across < dh) across *= 2;
        at_once = 32 / across;
        group = threadIdx.x % 32 / across;
        c = threadIdx.x % across * 8;
    }

    // Reads AT_ONCE keys and values of the past for this thread, from key `first` on.
    __device__ __forceinline__ void read(const Call& call, const Layer& layer, int sequence, int head, int first) {
        const bf16* past = layer.past + (long long)sequence * layer.past_sequence + head * call.dh + c;
#pragma unroll
        for (int u = 0; u < AT_ONCE; ++u) {
            const int key = first + u * at_once + group;
            k[u] = v[u] = make_uint4(0, 0, 0, 0);
            if (c < call.dh && key < call.past) {
                const bf16* row = past + (long long)key * layer.past_row;
                k[u] = wide(row);
                v[u] = wide(row + call.width());
            }
        }
    }

    // Eight channels of a head in a row, rotated and rounded.
    __device__ __forceinline__ uint4 rotated(const Call& call, const bf16* row, const float* angles) const {
        const int half = call.dh / 2;
        if (c >= call.dh) return make_uint4(0, 0, 0, 0);
        if (!call.rotary) return wide(row + c);
        const bool low = c < half;
        float own[8], other[8], cos[8], sin[8];
        unpack(wide(row + c), own);
        unpack(wide(row + (low ? c + half : c - half)), other);
        const float* at = angles + (low ? c : c - half);
        load_v<8>(at, cos);
        load_v<8>(at + half, sin);
#pragma unroll
        for (int i = 0; i < 8; ++i) own[i] = low ? own[i] * cos[i] - other[i] * sin[i] : own[i] * cos[i] + other[i] * sin[i];
        return pack(own);
    }

    // Writes the output of a head of a sequence to the input of the next product. If `ready`, the
    // first keys have already been read. If `keeps`, also writes the new row and a past that moves.
    __device__ __forceinline__ void attend(const Call& call, const Layer& layer, int sequence, int head, bool ready, bool keeps,
                                           const Memory& memory) {
        const int width = call.width(), at = head * call.dh + c;
        const bool active = c < call.dh;
        const bf16* row = memory.projected + 3 * width * sequence + head * call.dh;
        bf16* room = layer.room + (long long)sequence * layer.room_sequence + at;
        const uint4 query = rotated(call, row, memory.angles), key_now = rotated(call, row + width, memory.angles);
        const uint4 value_now = active ? wide(row + 2 * width + c) : make_uint4(0, 0, 0, 0);
        if (keeps && active && group == 0) {
            bf16* place = room + (long long)call.past * 2 * width;
            wide(place) = key_now;
            wide(place + width) = value_now;
        }
        float sums[8] = {}, greatest = -INFINITY, total = 0.0f;
#pragma unroll 1
        for (int first = 0; first <= call.past; first += AT_ONCE * at_once) {
            if (!ready || first > 0) read(call, layer, sequence, head, first);
            float score[AT_ONCE], top = greatest;
#pragma unroll
            for (int u = 0; u < AT_ONCE; ++u) {
                const int key = first + u * at_once + group;
                if (keeps && layer.past_moves && active && key < call.past) {
                    bf16* place = room + (long long)key * 2 * width;
                    wide(place) = k[u];
                    wide(place + width) = v[u];
                }
                if (key == call.past) k[u] = key_now, v[u] = value_now;
                score[u] = dot(query, k[u], 0.0f);
            }
#pragma unroll 1
            for (int offset = across / 2; offset > 0; offset >>= 1)
#pragma unroll
                for (int u = 0; u < AT_ONCE; ++u) score[u] += __shfl_xor_sync(0xffffffffu, score[u], offset);
#pragma unroll
            for (int u = 0; u < AT_ONCE; ++u) {
                score[u] = first + u * at_once + group <= call.past ? score[u] * call.scale : -INFINITY;
                top = fmaxf(top, score[u]);
            }
            // a group may have seen no key yet
            const float from = top == -INFINITY ? 0.0f : top, shrink = power(greatest - from);
            greatest = top;
            total *= shrink;
#pragma unroll
            for (int i = 0; i < 8; ++i) sums[i] *= shrink;
#pragma unroll
            for (int u = 0; u < AT_ONCE; ++u) {
                const float w = power(score[u] - from);
                float value[8];
                unpack(v[u], value);
                total += w;
#pragma unroll
                for (int i = 0; i < 8; ++i) sums[i] += w * value[i];
            }
        }
        float top = greatest;
#pragma unroll 1
        for (int offset = across; offset < 32; offset <<= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
        const float factor = power(greatest - (top == -INFINITY ? 0.0f : top));
        total *= factor;
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] *= factor;
#pragma unroll 1
        for (int offset = across; offset < 32; offset <<= 1) {
            total += __shfl_xor_sync(0xffffffffu, total, offset);
#pragma unroll
            for (int i = 0; i < 8; ++i) sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], offset);
        }
        const float inverse = __fdividef(1.0f, total);
        if (active && group == 0) {
#pragma unroll
            for (int i = 0; i < 8; ++i) sums[i] *= inverse;
            wide(memory.input + sequence * memory.input_row + at) = pack(sums);
        }
    }
};

__device__ __forceinline__ float gelu(float v) { return v * (0.5f * (1.0f + erff(v * 0.70710678118654752f))); }

template <int SLOTS, int N>
__device__ __forceinline__ void decode(const Call& call) {
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ Part parts[PRODUCTS];
    __shared__ float scratch[WARPS];
    const int n = N == 1 ? 1 : call.n, d = call.d, width = call.width(), inner = call.inner, warp = threadIdx.x / 32;
    if (threadIdx.x < PRODUCTS) {
        const int product = threadIdx.x;
        const long long tiles = (product == 0 ? 3 * width : product == 2 ? inner : d) / TILE;
        Part part;
        part.first = (int)(tiles * blockIdx.x / gridDim.x);
        part.tiles = (int)(tiles * (blockIdx.x + 1) / gridDim.x) - part.first;
        part.columns = product == 1 ? width : product == 3 ? inner : d;
        part.chunks = (part.columns + CHUNK - 1) / CHUNK;
        parts[product] = part;
    }
    Memory memory;
    memory.parts = parts;
    memory.scratch = scratch;
    bf16* next = reinterpret_cast<bf16*>(shared);
    bf16* ring = next + warp * SLOTS * PIECE + threadIdx.x % 32 * 8;
    next += WARPS * SLOTS * PIECE;
    memory.input = next;
    memory.input_row = max(max(d, width), inner) + CHUNK / 2;  // consecutive rows are in different banks
    next += n * memory.input_row;
    memory.projected = next;
    next += n * 3 * width;
    memory.residual = next;
    next += n * d;
    memory.angles = reinterpret_cast<float*>(next);
    memory.sums = memory.angles + call.dh;
    __syncthreads();
    Stream<SLOTS> stream(ring, parts);

    const int keep = (d + 1) / 2, items = n * call.heads;
    Heads heads(call.dh);
    // where the input of a product is published, and where its result is
    uint32_t *from = nullptr, *words = call.words;
    float first_bias = 0.0f;
    Part part;
    Place place(1);
    // one loop for all products, so that the code stays in the instruction cache
    int step = 0, taken = SLOTS;
    bool begins = true;
    while (true) {
#pragma unroll 1
        for (; taken > 0; --taken) stream.ask(call, parts);
        const int index = step / PRODUCTS, product = step % PRODUCTS;
        const Layer& layer = call.layer[min(index, MAX_LAYERS - 1)];
        const bool ends = index == call.layers;
        const float* bias = product == 2 ? layer.inner_bias : product == 3 ? layer.outer_bias : nullptr;
        if (begins) {
            if (ends && blockIdx.x != 0) return;
            part = parts[product];
            place = Place(part.chunks);
            first_bias = ends ? 0.0f : bias_of(part, bias);
            if (step == 0 && call.rotary && threadIdx.x < call.dh / 2)
                angle(call.position, threadIdx.x, call.dh, memory.angles, memory.angles + call.dh / 2);
            if (product % 2 == 0 && !(ends && !call.gain)) {
                const int which = product / 2;
                bf16* kept = call.shifts + (long long)(2 * index + which) * n * d;
                if (ends || blockIdx.x != index % gridDim.x) kept = nullptr;
                const float* gain = ends ? call.gain : which ? layer.feed_forward_gain : layer.attention_gain;
                norm_rows<N>(call, from, step == 0 ? call.x : nullptr, gain, ends ? nullptr : layer.shifts[which],
                             layer.shift_sequence[which], ends ? d : keep, kept, memory, ends ? call.out : memory.input,
                             ends ? d : memory.input_row);
            } else {
                if (product == 1 && warp < items) {
                    const int sequence = N == 1 ? 0 : warp / call.heads;
                    heads.read(call, layer, sequence, warp - sequence * call.heads, 0);
                }
                const int columns = product == 1 ? 3 * width : product == 3 ? inner : d, groups = columns / 8;
                bf16* to = product == 1 ? memory.projected : product == 3 ? memory.input : call.out;
                const int to_row = product == 3 ? memory.input_row : columns;
                gather<N == 1 ? 1 : 2>(from, n * groups, [&](int i) {
                    const int sequence = N == 1 ? 0 : i / groups;
                    return to + sequence * to_row + 8 * (i - sequence * groups);
                });
            }
            if (ends) return;
            if (product == 1) {
#pragma unroll 1
                for (int item = warp; item < items; item += WARPS) {
                    const int sequence = N == 1 ? 0 : item / call.heads, head = item - sequence * call.heads;
                    heads.attend(call, layer, sequence, head, item == warp, blockIdx.x == item % gridDim.x, memory);
                }
                __syncthreads();
            }
        }
        taken = multiply<SLOTS, N>(stream, call, memory, part, place);
        // a warp may finish before others, which have as many pieces or one more
        begins = __syncthreads_and(place.tile >= part.tiles);
        if (!begins) continue;
        const int rows = product == 0 ? 3 * width : product == 2 ? inner : d;
        finish<N>(call, memory, part, rows, bias, first_bias, words, [&](int sequence, int row, float sum, float added) {
            if (product == 0) return sum;
            sum = rounded(sum);
            if (product == 2) return gelu(sum + added);
            if (product == 3) sum = rounded(sum + added);
            return load(memory.residual + sequence * d + row) + sum;
        });
        from = words;
        words += n * rows / 2;
        ++step;
    }
}

#define DECODE(SLOTS, N)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_##SLOTS##x##N(const __grid_constant__ Call call) {     \
        decode<SLOTS, N>(call);                                                                                             \
    }

DECODE(12, 1)
DECODE(8, 1)
DECODE(4, 1)
DECODE(12, 8)
DECODE(8, 8)
DECODE(4, 8)
