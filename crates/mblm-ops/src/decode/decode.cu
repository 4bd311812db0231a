// One position through a stack of Transformer layers, by one block on every multiprocessor that stays there for the whole stack.
//
// Each layer is four products of a vector and a matrix, whose rows are divided among the blocks. What a block computes every other
// block needs: it is published in `words` of two bf16 each, stored inverted, so that the zero of fresh memory means "not yet".
// A reader waits for the very words that it wants; there is no other barrier. All that is cheap (norms, rotation, attention over
// a short past) every block computes for itself.
//
// The weights do not depend on anything: each warp asks for its pieces of them SLOTS pieces ahead, across products and layers,
// so that memory stays busy while blocks wait for each other. A thread reads only what it has asked for itself.

#include "common.cuh"

constexpr int THREADS = 512, WARPS = THREADS / 32;
// Columns of a piece of a row of a matrix, two reads of 16 bytes a thread of a warp.
constexpr int PIECE = 512;
// Pieces that a warp has in work at once, and keys of the past that a thread has.
constexpr int AT_ONCE = 4;
constexpr int PRODUCTS = 4;
constexpr int MOST_LAYERS = 32;

// As in `cuda.rs`.
struct Layer {
    const bf16 *q, *kv, *out, *inner, *outer;
    const float *attention_gain, *feed_forward_gain, *inner_bias, *outer_bias;
    const bf16 *attention_shift, *feed_forward_shift;  // null for zeros
    const bf16* past;
    bf16* room;     // rows of 2·h·d_h: the past, if it moves here, then the present
    int past_row;   // elements from one row of the past to the next
    int past_moves;
};

struct Call {
    const bf16* x;
    const float* gain;  // of the last norm; null: `out` gets the residual stream
    bf16 *out, *shifts;
    uint32_t* words;  // zeros
    long long position;
    int layers, d, heads, dh, inner, past, rotary;
    float scale;  // log2(e) / √d_h
    Layer layer[MOST_LAYERS];
};

// A block's part of a product: rows in pairs, each row in pieces.
struct Part {
    int first, pairs, segments, pieces, columns;
};

__device__ __forceinline__ uint4 inverted(uint4 v) { return make_uint4(~v.x, ~v.y, ~v.z, ~v.w); }

// Eight numbers that other blocks publish.
__device__ __forceinline__ uint4 await(const uint32_t* words) {
    uint4 v;
    do {
        asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                     : "l"(words)
                     : "memory");
    } while (v.x == 0 || v.y == 0 || v.z == 0 || v.w == 0);
    return inverted(v);
}

__device__ __forceinline__ uint32_t pair_of(float a, float b) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

// No pair that comes of rounding is all ones: NaN becomes 0x7fff.
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

// 16 bytes to shared memory, or as many zeros.
__device__ __forceinline__ void copy_later(bf16* to, const bf16* from, bool some) {
    const uint32_t place = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(some ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// The pieces of weights of one warp, in the order in which it needs them.
template <int SLOTS>
struct Stream {
    bf16* ring;  // SLOTS pieces, from this thread's first column on
    int layer, product, index, asked, used;

    __device__ __forceinline__ Stream(bf16* ring) : ring(ring), layer(0), product(0), index(threadIdx.x / 32), asked(0), used(0) {}

    // Asks for the next piece, if there is one.
    __device__ __forceinline__ void ask(const Call& call, const Part* parts) {
        while (layer < call.layers && index >= parts[product].pieces) {
            index = threadIdx.x / 32;
            if (++product == PRODUCTS) product = 0, ++layer;
        }
        if (layer < call.layers) {
            const Part part = parts[product];
            const Layer& weights = call.layer[layer];
            const int width = call.heads * call.dh, segment = index % part.segments;
            int row = 2 * part.first + index / part.segments;
            const bf16* from;
            if (product == 0) {
                from = row < width ? weights.q : weights.kv;
                if (row >= width) row -= width;
            } else {
                from = product == 1 ? weights.out : product == 2 ? weights.inner : weights.outer;
            }
            const int column = segment * PIECE + threadIdx.x % 32 * 8;
            from += (long long)row * part.columns;
#pragma unroll
            for (int half = 0; half < PIECE; half += PIECE / 2) {
                const bool some = column + half < part.columns;
                copy_later(ring + asked * PIECE + half, some ? from + column + half : from, some);
            }
            index += WARPS;
        }
        copies_end();
        if (++asked == SLOTS) asked = 0;
    }

    // This thread's share of one row's product with `input`, from the piece that was asked for `SLOTS - AHEAD` before the last.
    template <int AHEAD>
    __device__ __forceinline__ float take(const bf16* input, int segment, int columns) {
        copies_wait<SLOTS - 1 - AHEAD>();
        const int column = segment * PIECE + threadIdx.x % 32 * 8;
        float sum = 0.0f;
#pragma unroll
        for (int half = 0; half < PIECE; half += PIECE / 2)
            if (column + half < columns) sum = dot(wide(ring + used * PIECE + half), wide(input + column + half), sum);
        if (++used == SLOTS) used = 0;
        return sum;
    }
};

// What a block keeps in its shared memory.
struct Memory {
    bf16 *input, *projected, *residual;
    float *sums, *angles, *scratch;
    const Part* parts;
};

// The product of this block's rows of a matrix with `memory.input`; `finish(row, a, b)` gets those of each pair of rows.
// All threads have written the input, none reads it afterwards.
template <int SLOTS, typename Finish>
__device__ __forceinline__ void multiply(Stream<SLOTS>& stream, const Call& call, const Memory& memory, int product, Finish finish) {
    const Part part = memory.parts[product];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int taken = 0;
    for (int base = warp; base < part.pieces; base += AT_ONCE * WARPS) {
        for (; taken > 0; --taken) stream.ask(call, memory.parts);
        float sums[AT_ONCE] = {};
#define TAKE(U)                                                                                              \
    if (base + U * WARPS < part.pieces) {                                                                    \
        sums[U] = stream.template take<U>(memory.input, (base + U * WARPS) % part.segments, part.columns);   \
        ++taken;                                                                                             \
    }
        TAKE(0) TAKE(1) TAKE(2) TAKE(3)
#undef TAKE
        for (int offset = 16; offset > 0; offset >>= 1)
#pragma unroll
            for (int u = 0; u < AT_ONCE; ++u) sums[u] += __shfl_xor_sync(0xffffffffu, sums[u], offset);
#pragma unroll
        for (int u = 0; u < AT_ONCE; ++u)
            if (lane == u && base + u * WARPS < part.pieces) memory.sums[base + u * WARPS] = sums[u];
    }
    __syncthreads();
    for (int pair = threadIdx.x; pair < part.pairs; pair += THREADS) {
        const float* from = memory.sums + 2 * pair * part.segments;
        float a = 0.0f, b = 0.0f;
        for (int i = 0; i < part.segments; ++i) {
            a += from[i];
            b += from[part.segments + i];
        }
        finish(2 * (part.first + pair), a, b);
    }
    for (; taken > 0; --taken) stream.ask(call, memory.parts);
}

// The factor of the norm of a row, from each thread's sum of squares.
__device__ __forceinline__ float norm_factor(float squares, float* scratch, int d) {
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = squares;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < WARPS; ++i) sum += scratch[i];
    const float mean = sum / d;
    // NaN stays NaN
    return 1.0f / sqrtf(mean < 1e-16f ? 1e-16f : mean);
}

// Eight channels of a row normed, from those that `words` will hold, or `given`; a thread that has none passes c ≥ d. Channels from
// `keep` on are those of `before`. The row itself goes to `residual` and, by one block, to `kept`.
__device__ __forceinline__ void norm_row(const Call& call, const uint32_t* words, const bf16* given, const float* gain,
                                         const bf16* before, int keep, bf16* kept, bool keeps, const Memory& memory, bf16* to) {
    const int c = 8 * threadIdx.x;
    const bool mine = c < call.d;
    float g[8] = {}, s[8] = {};
    uint4 shifted = make_uint4(0, 0, 0, 0);
    if (mine) {
        load_v<8>(gain + c, g);
        if (c >= keep && before) shifted = wide(before + c);
    }
    float squares = 0.0f;
    if (mine) {
        const uint4 own = given ? wide(given + c) : await(words + c / 2);
        wide(memory.residual + c) = own;
        if (keeps) wide(kept + c) = own;
        unpack(c >= keep ? shifted : own, s);
#pragma unroll
        for (int i = 0; i < 8; ++i) squares += s[i] * s[i];
    }
    const float factor = norm_factor(squares, memory.scratch, call.d);
    if (mine) {
#pragma unroll
        for (int i = 0; i < 8; ++i) s[i] *= factor * g[i];
        wide(to + c) = pack(s);
    }
    __syncthreads();
}

// Cosine and sine of position · 10000^(-2 pair / d_h), in double: positions may be large.
__device__ __forceinline__ void angle(long long position, int pair, int dh, float* cosines, float* sines) {
    double sine, cosine;
    sincos((double)position * pow(10000.0, -2.0 * pair / dh), &sine, &cosine);
    cosines[pair] = (float)cosine;
    sines[pair] = (float)sine;
}

// Attention of one query, a head a warp: the keys of a head are divided among groups of threads, a thread has eight channels.
struct Heads {
    int group, c;  // of this thread; c ≥ d_h: none
    int across;    // threads of a group
    int at_once;   // groups, hence keys
    uint4 k[AT_ONCE], v[AT_ONCE];

    __device__ __forceinline__ explicit Heads(int dh) : across(1) {
        while (8 * across < dh) across *= 2;
        at_once = 32 / across;
        group = threadIdx.x % 32 / across;
        c = threadIdx.x % across * 8;
    }

    // Reads AT_ONCE keys and values of the past for this thread, from key `first` on.
    __device__ __forceinline__ void read(const Call& call, const Layer& layer, int head, int first) {
        const int width = call.heads * call.dh;
#pragma unroll
        for (int u = 0; u < AT_ONCE; ++u) {
            const int key = first + u * at_once + group;
            k[u] = v[u] = make_uint4(0, 0, 0, 0);
            if (c < call.dh && key < call.past) {
                const bf16* row = layer.past + (long long)key * layer.past_row + head * call.dh + c;
                k[u] = wide(row);
                v[u] = wide(row + width);
            }
        }
    }

    // Eight channels of a head's part of a row, rotated and rounded.
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

    // The output of a head, to `to`; the first keys have been read where `ready`. Its row, and a past that moves, are written
    // where `keeps`.
    __device__ __forceinline__ void attend(const Call& call, const Layer& layer, int head, bool ready, bool keeps,
                                           const Memory& memory, bf16* to) {
        const int width = call.heads * call.dh, at = head * call.dh + c;
        const bool active = c < call.dh;
        const bf16* row = memory.projected + head * call.dh;
        const uint4 query = rotated(call, row, memory.angles), key_now = rotated(call, row + width, memory.angles);
        const uint4 value_now = active ? wide(row + 2 * width + c) : make_uint4(0, 0, 0, 0);
        if (keeps && active && group == 0) {
            bf16* place = layer.room + (long long)call.past * 2 * width + at;
            wide(place) = key_now;
            wide(place + width) = value_now;
        }
        float sums[8] = {}, greatest = -INFINITY, total = 0.0f;
        for (int first = 0; first <= call.past; first += AT_ONCE * at_once) {
            if (!ready || first > 0) read(call, layer, head, first);
            float score[AT_ONCE], top = greatest;
#pragma unroll
            for (int u = 0; u < AT_ONCE; ++u) {
                const int key = first + u * at_once + group;
                if (keeps && layer.past_moves && active && key < call.past) {
                    bf16* place = layer.room + (long long)key * 2 * width + at;
                    wide(place) = k[u];
                    wide(place + width) = v[u];
                }
                if (key == call.past) k[u] = key_now, v[u] = value_now;
                score[u] = dot(query, k[u], 0.0f);
            }
            for (int offset = across / 2; offset > 0; offset >>= 1)
#pragma unroll
                for (int u = 0; u < AT_ONCE; ++u) score[u] += __shfl_xor_sync(0xffffffffu, score[u], offset);
#pragma unroll
            for (int u = 0; u < AT_ONCE; ++u) {
                score[u] = first + u * at_once + group <= call.past ? score[u] * call.scale : -INFINITY;
                top = fmaxf(top, score[u]);
            }
            // a group may not have met a key yet
            const float from = top == -INFINITY ? 0.0f : top, shrink = exp2f(greatest - from);
            greatest = top;
            total *= shrink;
#pragma unroll
            for (int i = 0; i < 8; ++i) sums[i] *= shrink;
#pragma unroll
            for (int u = 0; u < AT_ONCE; ++u) {
                const float w = exp2f(score[u] - from);
                float value[8];
                unpack(v[u], value);
                total += w;
#pragma unroll
                for (int i = 0; i < 8; ++i) sums[i] += w * value[i];
            }
        }
        float top = greatest;
        for (int offset = across; offset < 32; offset <<= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
        const float factor = exp2f(greatest - (top == -INFINITY ? 0.0f : top));
        total *= factor;
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] *= factor;
        for (int offset = across; offset < 32; offset <<= 1) {
            total += __shfl_xor_sync(0xffffffffu, total, offset);
#pragma unroll
            for (int i = 0; i < 8; ++i) sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], offset);
        }
        if (active && group == 0) {
#pragma unroll
            for (int i = 0; i < 8; ++i) sums[i] /= total;
            wide(to + at) = pack(sums);
        }
    }
};

__device__ __forceinline__ float gelu(float v) { return v * (0.5f * (1.0f + erff(v * 0.70710678118654752f))); }

template <int SLOTS>
__device__ __forceinline__ void decode(const Call& call) {
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ Part parts[PRODUCTS];
    __shared__ float scratch[WARPS];
    const int d = call.d, width = call.heads * call.dh, inner = call.inner, warp = threadIdx.x / 32;
    const int rows[PRODUCTS] = {3 * width, d, inner, d}, columns[PRODUCTS] = {d, width, d, inner};
    if (threadIdx.x < PRODUCTS) {
        Part part = {};
#pragma unroll
        for (int i = 0; i < PRODUCTS; ++i)
            if (i == threadIdx.x) {
                const long long pairs = rows[i] / 2;
                part.first = (int)(pairs * blockIdx.x / gridDim.x);
                part.pairs = (int)(pairs * (blockIdx.x + 1) / gridDim.x) - part.first;
                part.columns = columns[i];
                part.segments = (columns[i] + PIECE - 1) / PIECE;
                part.pieces = 2 * part.pairs * part.segments;
            }
        parts[threadIdx.x] = part;
    }
    bf16* next = reinterpret_cast<bf16*>(shared);
    Stream<SLOTS> stream(next + warp * SLOTS * PIECE + threadIdx.x % 32 * 8);
    next += WARPS * SLOTS * PIECE;
    Memory memory;
    memory.parts = parts;
    memory.scratch = scratch;
    memory.input = next;
    next += max(max(d, width), inner);
    memory.projected = next;
    next += 3 * width;
    memory.residual = next;
    next += d;
    memory.angles = reinterpret_cast<float*>(next);
    memory.sums = memory.angles + call.dh;
    __syncthreads();
    for (int i = 0; i < SLOTS; ++i) stream.ask(call, parts);
    if (call.rotary && threadIdx.x < call.dh / 2)
        angle(call.position, threadIdx.x, call.dh, memory.angles, memory.angles + call.dh / 2);

    const int keep = (d + 1) / 2;
    Heads heads(call.dh);
    const uint32_t* before = nullptr;
    uint32_t* words = call.words;
    for (int index = 0; index < call.layers; ++index) {
        const Layer& layer = call.layer[index];
        uint32_t *projected = words, *attended = projected + 3 * width / 2, *activated = attended + d / 2;
        words = activated + inner / 2;
        uint32_t* last = words;
        words += d / 2;
        const bool keeps = blockIdx.x == index % gridDim.x;
        bf16* shifts = call.shifts + (long long)index * 2 * d;

        norm_row(call, before, index == 0 ? call.x : nullptr, layer.attention_gain, layer.attention_shift, keep, shifts, keeps,
                 memory, memory.input);
        multiply(stream, call, memory, 0, [&](int row, float a, float b) { publish(projected + row / 2, a, b); });

        if (warp < call.heads) heads.read(call, layer, warp, 0);
        for (int i = threadIdx.x; i < 3 * width / 8; i += THREADS) wide(memory.projected + 8 * i) = await(projected + 4 * i);
        __syncthreads();
        for (int head = warp; head < call.heads; head += WARPS)
            heads.attend(call, layer, head, head == warp, blockIdx.x == head % gridDim.x, memory, memory.input);
        __syncthreads();
        const auto add = [&](uint32_t* to, int row, float a, float b) {
            const bf16* residual = memory.residual + row;
            publish(to + row / 2, load(residual) + rounded(a), load(residual + 1) + rounded(b));
        };
        multiply(stream, call, memory, 1, [&](int row, float a, float b) { add(attended, row, a, b); });

        norm_row(call, attended, nullptr, layer.feed_forward_gain, layer.feed_forward_shift, keep, shifts + d, keeps, memory,
                 memory.input);
        multiply(stream, call, memory, 2, [&](int row, float a, float b) {
            const float *bias = layer.inner_bias + row;
            publish(activated + row / 2, gelu(rounded(a) + bias[0]), gelu(rounded(b) + bias[1]));
        });

        for (int i = threadIdx.x; i < inner / 8; i += THREADS) wide(memory.input + 8 * i) = await(activated + 4 * i);
        __syncthreads();
        multiply(stream, call, memory, 3, [&](int row, float a, float b) {
            const float *bias = layer.outer_bias + row;
            add(last, row, rounded(a) + bias[0], rounded(b) + bias[1]);
        });
        before = last;
    }
    if (blockIdx.x != 0) return;
    if (call.gain) {
        norm_row(call, before, nullptr, call.gain, nullptr, d, nullptr, false, memory, call.out);
    } else if (8 * threadIdx.x < d) {
        wide(call.out + 8 * threadIdx.x) = await(before + 4 * threadIdx.x);
    }
}

#define DECODE(SLOTS)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_##SLOTS(const __grid_constant__ Call call) { \
        decode<SLOTS>(call);                                                                              \
    }

DECODE(12)
DECODE(8)
DECODE(4)
